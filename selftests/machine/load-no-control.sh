# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any model=core2_penryn_t9600 -- a CPU that lacks a VMX control is refused by the control's name
. /tests/tap.inc

mark
check "the CPU has VMX" grep -qw vmx /proc/cpuinfo
refused "the module does not load" insmod /rkvm.ko
check "it names the control and where it is" said 'rkvm: the processor lacks LOAD_PAT in the primary VM-exit controls'
check "the error is EOPNOTSUPP" sh -c 'insmod /rkvm.ko 2>&1 | grep -q "Operation not supported"'
refused "nothing stays loaded" grep -q '^rkvm ' /proc/modules
refused "no device is left" test -e /dev/rkvm
finish
