# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm when=debug timeout=240 -- every allocation of a load fails once
. /tests/tap.inc

check "rmmod" rmmod rkvm
rkvm-selftest --fail-load /rkvm.ko >/tmp/selftest.log 2>&1
status=$?
sed 's/^/# /' /tmp/selftest.log
check "each load succeeds, or is refused and leaves nothing behind" test $status = 0
check "rkvm loads again" insmod /rkvm.ko
finish
