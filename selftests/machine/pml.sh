# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=180 -- the dirty log by the processor's log, by write protection, and without dirty flags
. /tests/tap.inc

check "by default the processor logs" grep -q Y /sys/module/rkvm/parameters/pml
for parameters in pml=0 eptad=0 pml=1; do
	check "rmmod" rmmod rkvm
	check "$parameters: the module loads" insmod /rkvm.ko $parameters
	for test in dirty_log dirty_log_busy notifier; do
		rkvm-selftest $test >/tmp/log 2>&1
		check "$parameters: $test" test $? = 0
		grep '^not ok' /tmp/log | sed 's/^/# /'
	done
done
check "rmmod" rmmod rkvm
check "rkvm loads as before" insmod /rkvm.ko
finish
