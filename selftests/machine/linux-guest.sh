# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=300 files=guest -- a stock Linux boots in the small VMM, works and powers off
. /tests/tap.inc
. /tests/vmm.inc

guest_linux 1 linux
guest_linux 1 pvh
finish
