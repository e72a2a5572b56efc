# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=120 -- programs that are killed at any moment, and what is left of them
. /tests/tap.inc

mark
survived=0
for test in smp memslot_running lapic_timer ioeventfd irqfd notifier two_vms mmio; do
	for delay in 3000 20000 60000; do
		rkvm-selftest $test >/dev/null 2>&1 &
		victim=$!
		usleep $delay
		kill -9 $victim 2>/dev/null
		wait $victim 2>/dev/null
		survived=$((survived + 1))
	done
done
check "24 programs with guests were killed" test $survived = 24
check "none of them is left in debugfs" sh -c 'mkdir -p /dbg; mount -t debugfs none /dbg; ! ls /dbg/rkvm | grep -q .'
check "a guest still runs" sh -c 'rkvm-selftest mode_long >/dev/null'
check "nothing holds the module" rmmod rkvm
check "rkvm loads again" insmod /rkvm.ko
finish
