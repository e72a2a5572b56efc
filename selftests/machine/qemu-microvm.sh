# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=400 mem=1536 files=guest,qemu -- Debian's QEMU, machine microvm
. /tests/tap.inc
. /tests/guest.inc

guest_qemu 1 "microvm" -machine microvm,rtc=on,acpi=on
finish
