# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any -- a kernel that lacks a symbol, or that the module was not built for, is refused in words
. /tests/tap.inc

# altered FROM TO: makes /altered.ko of the module, with another text of the same length in place of its first.
head -c 4000000 /rkvm.ko | strings -t d >/texts
altered() {
	line=$(grep -m 1 -F "$1" /texts)
	set -- "$1" "$2" $line
	before=${line%%"$1"*}
	before=${before#*"$3" }
	cp /rkvm.ko /altered.ko
	printf %s "$2" | dd of=/altered.ko bs=1 seek=$(($3 + ${#before})) conv=notrunc 2>/dev/null
}

altered fpu_swap_kvm_fpstate fpu_swap_kvm_fpstatX
mark
check "a module that wants an unknown symbol does not load: ENOENT" \
	sh -c 'insmod /altered.ko 2>&1 | grep -q "No such file or directory\|unknown symbol in module"'
check "it names the symbol" said 'rkvm: this kernel does not export fpu_swap_kvm_fpstatX'
check "and what it is for" said "rkvm: load failed: the kernel's symbols: "
refused "nothing stays loaded" grep -q '^rkvm ' /proc/modules
refused "no device is left" test -e /dev/rkvm
refused "the symbols that it found are free again" grep -q '^kvm ' /proc/modules

altered vermagic=7. vermagic=6.
mark
check "a module of another kernel does not load: ENOEXEC" \
	sh -c 'insmod /altered.ko 2>&1 | grep -q "Exec format error\|invalid module format"'
check "the kernel says why" said "rkvm: version magic '6\..*should be '7\."
refused "nothing stays loaded" grep -q '^rkvm ' /proc/modules

check "the module itself loads" insmod /rkvm.ko
check "and unloads" rmmod rkvm
finish
