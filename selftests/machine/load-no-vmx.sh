# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any vm=tcg timeout=120 -- a CPU without VMX is refused in words
. /tests/tap.inc

mark
refused "the CPU has no VMX" grep -qw vmx /proc/cpuinfo
refused "the module does not load" insmod /rkvm.ko
check "it says why" said 'rkvm:.*VMX'
refused "nothing stays loaded" grep -q '^rkvm ' /proc/modules
refused "no device is left" test -e /dev/rkvm
finish
