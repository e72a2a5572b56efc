# SPDX-License-Identifier: GPL-2.0
# rkvm-test: cpus=2 timeout=600 files=guest -- a stock Linux with two vCPUs in the small VMM
. /tests/tap.inc
. /tests/guest.inc

guest_linux 2 linux
finish
