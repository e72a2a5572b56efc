# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm -- statistics in debugfs, and what keeps one of these files open
. /tests/tap.inc

mkdir -p /dbg
mount -t debugfs none /dbg
check "the module has a folder" test -d /dbg/rkvm

# A guest that runs for a while, and stops where it is as soon as it has files.
rkvm-selftest memslot_running >/dev/null 2>&1 &
guest=$!
vm=
for try in $(seq 500); do
	vm=$(echo /dbg/rkvm/*/vcpu0)
	[ -e "$vm" ] && kill -STOP $guest && break
	usleep 1000
done
vm=${vm%/vcpu0}
check "a VM has one" test -d "$vm"
exec 3<$vm/stats 4<$vm/vcpu0 5<$vm/vcpu0
check "it tells of the VM" grep -q '^pages_4k [0-9]' $vm/stats
check "and of the vCPU" sh -c 'grep -q "^exits [0-9]" <&5'
kill -9 $guest
wait $guest 2>/dev/null
refused "the folder goes with the VM" test -e $vm
refused "what is open of it reads no more: the VM" cat <&3
refused "and the vCPU" cat <&4
refused "but keeps the module: rmmod is refused" rmmod rkvm
exec 3<&- 4<&-
refused "to the last one" rmmod rkvm
exec 5<&-
check "rmmod after the last close" rmmod rkvm
refused "the module's folder is gone" test -e /dbg/rkvm
check "rkvm loads again" insmod /rkvm.ko
check "with a folder" test -d /dbg/rkvm
umount /dbg
finish
