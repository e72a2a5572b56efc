# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any vm=tcg timeout=120 -- a CPU without VMX is refused in words
. /tests/tap.inc
. /tests/module.inc

refused "the CPU has no VMX" grep -qw vmx /proc/cpuinfo
not_loaded "it says why" 'rkvm:.*VMX' 'No such device'
finish
