# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=300 files=guest -- a stock Linux with two vCPUs in the small VMM
. /tests/tap.inc
. /tests/vmm.inc

guest_linux 2 linux
finish
