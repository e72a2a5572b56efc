# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any firmware=vmx-off -- VMX that the firmware has switched off is refused in words
. /tests/tap.inc

mark
refused "the kernel does not offer VMX" grep -qw vmx /proc/cpuinfo
refused "the module does not load" insmod /rkvm.ko
check "it says why" said 'rkvm:.*firmware.*IA32_FEAT_CTL'
check "the error is EOPNOTSUPP" sh -c 'insmod /rkvm.ko 2>&1 | grep -q "Operation not supported"'
refused "nothing stays loaded" grep -q '^rkvm ' /proc/modules
refused "no device is left" test -e /dev/rkvm
finish
