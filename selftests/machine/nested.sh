# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any when=stock timeout=400 mem=1536 files=guest,qemu -- rkvm in a guest of C KVM, in VMX of another make
. /tests/tap.inc

modprobe kvm_intel enable_apicv=0 nested=1
check "C KVM gives its guests VMX" grep -q '[Y1]' /sys/module/kvm_intel/parameters/nested

# A machine like this one, in QEMU: the same kernel, and the same files with a job of their own.
mkdir /tmp/inner
names='mode_real mode_protected mode_pae mode_long mode_switch pio mmio cpuid msr exceptions injection hlt lapic_timer
	memslots dirty_log notifier syscall_msrs state_cpu signals'
for name in $names; do
	echo "task $name rkvm 60 /usr/bin/rkvm-selftest $name"
done >/tmp/inner/job
cd /
find . -xdev \( -path ./guest -o -path './usr/bin/qemu*' -o -path ./usr/share -o -path ./usr/lib/x86_64-linux-gnu \) -prune \
	-o -path ./job -o -print | cpio -o -H newc >/tmp/files 2>/dev/null
(cd /tmp/inner && echo job | cpio -o -H newc) >>/tmp/files 2>/dev/null

# Ended before this script is, so that it can still say how far it came.
timeout -s KILL 360 qemu-system-x86_64 -accel kvm -cpu host -m 512 -nodefaults -display none -no-reboot -kernel /guest/vmlinux \
	-initrd /tmp/files -serial file:/tmp/inner/console -serial file:/tmp/inner/data \
	-append 'console=ttyS0 loglevel=5 panic=-1 nokaslr cryptomgr.notests nowatchdog notsc tsc=unstable lapic=notscdeadline'
status=$?

# What is not good. The lines of its first process begin with this byte, and number the tests.
mark=$(printf '\001')
awk -v mark="$mark" -v names="$(echo $names)" '
	BEGIN { split(names, name, " ") }
	/^ok |^TAP version|^1\.\./ { next }
	substr($0, 1, 1) == mark {
		$1 = substr($1, 2)
		if ($1 == "begin" || $1 == "end" || $1 == "kernel")
			$2 = name[$2 + 1]
	}
	{ print "# " $0 }' /tmp/inner/data
tail -n 5 /tmp/inner/console | sed 's/^/# /'
check "the machine powers off" test $status = 0
check "it was done with all its tests" grep -q "^${mark}done" /tmp/inner/data
check "all of them end well" test "$(grep -c "^${mark}end .* exit 0" /tmp/inner/data)" = "$(grep -c task /tmp/inner/job)"
refused "its kernel complains of nothing" grep -q "^${mark}kernel" /tmp/inner/data
finish
