# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm cpus=2 timeout=90 -- CPUs that go and come, and a host that sleeps, under running guests
. /tests/tap.inc

cpu1=/sys/devices/system/cpu/cpu1/online

mark
rkvm-selftest memslot_running >/tmp/guest.log &
guest=$!
for round in 1 2 3; do
	echo 0 >$cpu1 && echo 1 >$cpu1 || break
done
check "CPU 1 went and came three times" test $round = 3
wait $guest
check "the guest on it noticed nothing" test $? = 0

rkvm-selftest memslot_running >/tmp/guest.log &
guest=$!
# Bochs wakes at once; everything else, a real host among it, by the clock.
echo +5 >/sys/class/rtc/rtc0/wakealarm
echo mem >/sys/power/state
check "the host slept and woke up" test $? = 0
wait $guest
check "the guest goes on" test $? = 0
check "a new one starts" sh -c 'rkvm-selftest mode_long >/dev/null'
check "the kernel entered VMX operation again on both CPUs" test "$(cat $cpu1)" = 1
check "rmmod" rmmod rkvm
check "rkvm loads again" insmod /rkvm.ko
finish
