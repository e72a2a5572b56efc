# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=400 mem=2048 files=guest,firecracker when=named -- Firecracker: a guest of two vCPUs, and on from a snapshot
. /tests/tap.inc
. /tests/guest.inc

# It knows no other device.
[ -e /dev/kvm ] || ln -s "$RKVM_DEV" /dev/kvm
dir=/tmp/firecracker
mkdir $dir && mount -t tmpfs firecracker $dir && cd $dir || exit 1
cat >config.json <<EOF
{ "boot-source": { "kernel_image_path": "/guest/vmlinux", "initrd_path": "/guest/initrd",
    "boot_args": "$guest_cmdline pci=off reboot=k" },
  "drives": [], "machine-config": { "vcpu_count": 2, "mem_size_mib": 256 } }
EOF

# ask NAME METHOD PATH BODY: a request to the Firecracker of that name; it has to say that it did it.
ask() {
	code=$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$1.socket" -X "$2" "http://localhost$3" \
		-H 'Content-Type: application/json' -d "$4")
	[ "$code" = 204 ]
}

# launch NAME ARGUMENT...: a Firecracker with its log in NAME.log; $pid is its process.
launch() {
	name=$1
	shift
	firecracker --api-sock "$name.socket" --level Warn "$@" </dev/null >"$name.log" 2>&1 &
	pid=$!
}

# until_said NAME PATTERN: waits until the guest says so, or its Firecracker has ended. The test's own limit ends the rest.
until_said() {
	until grep -q "$2" "$1.log"; do
		kill -0 $pid 2>/dev/null || return
		sleep 0.1
	done
}

launch first --config-file config.json
until_said first '^GUEST-UP'
check "a guest that works is paused" ask first PATCH /vm '{"state": "Paused"}'
check "its snapshot is taken" ask first PUT /snapshot/create \
	'{"snapshot_type": "Full", "snapshot_path": "state", "mem_file_path": "memory"}'
kill $pid
wait $pid
refused "it had not come to its end" grep -q '^GUEST-DONE' first.log

launch second
until [ -S second.socket ]; do sleep 0.1; done
check "another Firecracker goes on with it" ask second PUT /snapshot/load \
	'{"snapshot_path": "state", "mem_backend": {"backend_type": "File", "backend_path": "memory"}, "resume_vm": true}'
wait $pid
check "Firecracker ends well when its guest resets itself" test $? = 0
cat first.log second.log
cat first.log second.log | tr -d '\r' >/tmp/guest.log
guest_good 2 "Firecracker"
cd / && umount $dir
finish
