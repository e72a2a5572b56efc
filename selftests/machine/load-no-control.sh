# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any model=core2_penryn_t9600 -- a CPU that lacks a VMX control is refused by the control's name
. /tests/tap.inc
. /tests/module.inc

check "the CPU has VMX" grep -qw vmx /proc/cpuinfo
not_loaded "it names the control and where it is" 'rkvm: the processor lacks LOAD_PAT in the primary VM-exit controls' \
	'Operation not supported'
finish
