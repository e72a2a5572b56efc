# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=180 -- the dirty log by the processor's log, by write protection, and without dirty flags
. /tests/tap.inc
. /tests/module.inc

check "by default the processor logs" parameter pml Y
for parameters in pml=0 eptad=0 pml=1; do
	reloaded $parameters
	selftests "$parameters" dirty_log dirty_log_busy notifier
done
reloaded
finish
