# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=90 -- guest memory that the host swaps out and in again
. /tests/tap.inc

modprobe zram
check "there is a block device for swap" test -b /dev/zram0
echo 64M >/sys/block/zram0/disksize
check "it becomes swap" mkswap /dev/zram0
check "which is on" swapon /dev/zram0
rkvm-selftest notifier >/tmp/swap.log
check "host pages come and go under a guest" test $? = 0
sed 's/^/# /' /tmp/swap.log
check "pages were swapped out" grep -q 'pages were swapped out' /tmp/swap.log
refused "nothing was skipped" grep -q '# SKIP' /tmp/swap.log
swapoff /dev/zram0
echo 1 >/sys/block/zram0/reset
finish
