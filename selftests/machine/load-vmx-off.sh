# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=any firmware=vmx-off -- VMX that the firmware has switched off is refused in words
. /tests/tap.inc
. /tests/module.inc

refused "the kernel does not offer VMX" grep -qw vmx /proc/cpuinfo
not_loaded "it says why" 'rkvm:.*firmware.*IA32_FEAT_CTL' 'Operation not supported'
finish
