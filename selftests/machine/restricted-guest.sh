# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=900 mem=1536 files=guest,qemu -- unrestricted_guest=0: selftests, a Linux guest, QEMU's pc through SeaBIOS
. /tests/tap.inc
. /tests/vmm.inc
. /tests/qemu.inc
. /tests/module.inc

reloaded unrestricted_guest=0
check "it is off" parameter unrestricted_guest N

# All that need no machine of their own, and the one in which real mode is seen best.
selftests "unrestricted_guest=0" $(rkvm-selftest --list | sed 's/ -- .*//' | grep -v '[a-z]=' | cut -d' ' -f1) \
	forced_emulation

guest_linux 1 linux
guest_qemu 1 "pc through SeaBIOS" -machine pc,kernel-irqchip=on
reloaded
finish
