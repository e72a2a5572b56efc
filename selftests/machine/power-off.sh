# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm cpus=2 mem=768 timeout=60 -- a guest that still runs when the machine is switched off
. /tests/tap.inc

# On the CPU that does not switch the power off: the kernel takes it out of VMX operation under the guest. What it says of
# that on the console counts as this test's.
setsid taskset 2 rkvm-selftest --spin >/dev/null 2>&1 &
sleep 1
guest=$(pidof rkvm-selftest)
check "a guest runs" test -n "$guest"
check "on the second CPU" sh -c 'taskset -p $1 | grep -q "mask: 2$"' sh "$guest"
# A host that is no machine stays on.
[ "$(readlink /proc/1/exe)" = /init ] || kill "$guest"
finish
