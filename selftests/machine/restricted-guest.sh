# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=900 mem=1536 files=guest,qemu -- unrestricted_guest=0: selftests, a Linux guest, QEMU's pc through SeaBIOS
. /tests/tap.inc
. /tests/guest.inc

check "the module is taken out" rmmod rkvm
check "it loads with unrestricted_guest=0" insmod /rkvm.ko unrestricted_guest=0
check "and says so" grep -q N /sys/module/rkvm/parameters/unrestricted_guest

# All that need no machine of their own.
for name in $(rkvm-selftest --list | sed 's/ -- .*//' | grep -v '[a-z]=' | cut -d' ' -f1); do
	if rkvm-selftest "$name" >/tmp/selftest.log 2>&1; then
		check "$name" true
	else
		grep -v '^ok' /tmp/selftest.log
		check "$name" false
	fi
done

guest_linux 1 linux
guest_qemu 1 "pc through SeaBIOS" -machine pc,kernel-irqchip=on
check "the module is taken out again" rmmod rkvm
check "and loads as ever" insmod /rkvm.ko
finish
