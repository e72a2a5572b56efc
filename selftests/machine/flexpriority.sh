# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=180 -- the same behaviour without the processor's help for the APIC
. /tests/tap.inc

tests="task_priority apic_places lapic_timer injection msi smp hlt irqfd"

check "by default the processor helps" grep -q Y /sys/module/rkvm/parameters/flexpriority
for parameters in flexpriority=0 fasteoi=0; do
	check "rmmod" rmmod rkvm
	check "$parameters: the module loads" insmod /rkvm.ko $parameters
	check "$parameters: it is off" grep -q N /sys/module/rkvm/parameters/${parameters%=0}
	for test in $tests; do
		rkvm-selftest $test >/tmp/log 2>&1
		check "$parameters: $test" test $? = 0
		grep '^not ok' /tmp/log | sed 's/^/# /'
	done
done
check "rmmod" rmmod rkvm
check "rkvm loads as before" insmod /rkvm.ko
finish
