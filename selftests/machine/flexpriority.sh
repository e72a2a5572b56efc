# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=180 -- the same behaviour without the processor's help for the APIC
. /tests/tap.inc
. /tests/module.inc

check "by default the processor helps" parameter flexpriority Y
for off in flexpriority fasteoi; do
	reloaded $off=0
	check "$off is off" parameter $off N
	selftests "$off=0" task_priority tpr_access vapic apic_places lapic_timer injection msi smp hlt irqfd
done
reloaded
finish
