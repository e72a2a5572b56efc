# SPDX-License-Identifier: GPL-2.0
# rkvm-test: on=rkvm timeout=180 mem=3072 append=hugepagesz=1G,hugepages=1,hugepagesz=2M,hugepages=4 -- large pages that are not executable, and that are
. /tests/tap.inc
. /tests/module.inc

for parameter in nx_huge_pages=force nx_huge_pages=off nx_huge_pages=1; do
	reloaded $parameter
	selftests "$parameter" huge_pages notifier
done
check "1 is yes" parameter nx_huge_pages Y
check "rmmod" rmmod rkvm
refused "nonsense is refused" insmod /rkvm.ko nx_huge_pages=maybe
check "the module loads" insmod /rkvm.ko
check "and decides by the processor" grep -qx '[YN]' /sys/module/rkvm/parameters/nx_huge_pages
finish
