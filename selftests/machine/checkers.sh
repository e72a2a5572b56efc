# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm when=last timeout=60 -- what the checkers of a debug kernel say of all that ran before
. /tests/tap.inc

# scan: what kmemleak takes for lost. It trusts neither what is younger than five seconds nor what has changed since the
# scan before.
scan() {
	sleep 6
	echo scan >/sys/kernel/debug/kmemleak
	echo scan >/sys/kernel/debug/kmemleak
	cat /sys/kernel/debug/kmemleak >/tmp/lost
	sed 's/^/# /' /tmp/lost
	# Told by no counter of the file, which has no size.
	[ ! -s /tmp/lost ]
}

check "lockdep still looks" grep -q '^ *debug_locks: *1$' /proc/lockdep_stats
check "no memory was lost while rkvm is there" scan
if grep -q '^rkvm ' /proc/modules; then
	check "rmmod" rmmod rkvm
	check "nor after it has gone" scan
	check "rkvm loads again" insmod /rkvm.ko
fi
finish
