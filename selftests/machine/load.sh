# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm -- loading and unloading the module, alone and beside C KVM
. /tests/tap.inc

check "the module is loaded" grep -q '^rkvm ' /proc/modules
check "/dev/rkvm is there" test -c /dev/rkvm
check "it has KVM's minor" test "$(stat -c '%t:%T' /dev/rkvm)" = a:e8

# Somebody who has the device open.
exec 3</dev/rkvm
refused "rmmod is refused while the device is open" rmmod rkvm
check "the module is still there" grep -q '^rkvm ' /proc/modules
exec 3<&-
check "rmmod after the last close" rmmod rkvm
refused "the device is gone" test -e /dev/rkvm

for round in 1 2 3 4 5; do
	insmod /rkvm.ko && rmmod rkvm || break
done
check "loaded and unloaded five times" test $round = 5
refused "no trace is left in /proc/modules" grep -q '^rkvm ' /proc/modules

mark
modprobe kvm_intel enable_apicv=0
check "C KVM loads after rkvm" test -c /dev/kvm
refused "rkvm does not load beside C KVM" insmod /rkvm.ko
check "and says why" said 'rkvm:.*kvm_intel'
check "and where" said 'rkvm: load failed: the device node: '
check "C KVM unloads" sh -c 'rmmod kvm_intel && rmmod kvm'
check "rkvm loads again" insmod /rkvm.ko

mark
refused "C KVM does not load beside rkvm" modprobe kvm_intel enable_apicv=0
# What it needs has stayed.
rmmod kvm
check "rkvm is unhurt" test -c /dev/rkvm
finish
