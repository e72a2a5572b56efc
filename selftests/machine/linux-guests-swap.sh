# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=400 files=guest -- two stock Linux guests at once, whose memory the host swaps out
. /tests/tap.inc
. /tests/guest.inc

modprobe zram
echo 512M >/sys/block/zram0/disksize
check "there is swap" sh -c 'mkswap /dev/zram0 && swapon /dev/zram0'
mkdir -p /tmp/cgroup
mount -t cgroup2 cgroup /tmp/cgroup
echo +memory >/tmp/cgroup/cgroup.subtree_control
mkdir /tmp/cgroup/guests
# Each guest alone touches more than this.
echo 96M >/tmp/cgroup/guests/memory.max

guest() {
	sh -c 'echo $$ >/tmp/cgroup/guests/cgroup.procs && exec "$@"' sh rkvm-vmm --dev "$RKVM_DEV" --kernel /guest/vmlinux \
		--initrd /guest/initrd --mem 256 --cmdline "$guest_cmdline" >/tmp/guest.raw.$1 2>&1
	echo $? >/tmp/guest.status.$1
}

guest 1 &
guest 2 &
wait
for n in 1 2; do
	cat /tmp/guest.raw.$n
	check "guest $n powers off" test "$(cat /tmp/guest.status.$n)" = 0
	tr -d '\r' </tmp/guest.raw.$n >/tmp/guest.log
	guest_good 1 "guest $n"
done
sed 's/^/# /' /tmp/cgroup/guests/memory.events
for counter in pswpin pswpout; do
	check "$counter: pages of the guests were swapped" test "$(sed -n "s/^$counter //p" /proc/vmstat)" -gt 1000
done
rmdir /tmp/cgroup/guests
umount /tmp/cgroup
swapoff /dev/zram0
echo 1 >/sys/block/zram0/reset
finish
