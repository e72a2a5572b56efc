# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm when=last timeout=60 -- what the checkers of a debug kernel say of all that ran before
. /tests/tap.inc

# kept: kmemleak, which refuses to scan if it had to give up, finds nothing that was lost. It reports what was lost in two
# scans, the last of them five seconds after it was allocated.
kept() {
	echo scan >/sys/kernel/debug/kmemleak || return
	sleep 5
	echo scan >/sys/kernel/debug/kmemleak || return
	cat /sys/kernel/debug/kmemleak >/tmp/lost
	sed 's/^/# /' /tmp/lost
	# Told by no counter of the file, which has no size.
	[ ! -s /tmp/lost ]
}

check "lockdep still looks" grep -q '^ *debug_locks: *1$' /proc/lockdep_stats
# What is lost stays lost, and what the module's data point to is hidden as long as there are data.
loaded=$(grep '^rkvm ' /proc/modules)
[ -z "$loaded" ] || check "rmmod" rmmod rkvm
check "no memory was lost" kept
[ -z "$loaded" ] || check "rkvm loads again" insmod /rkvm.ko
finish
