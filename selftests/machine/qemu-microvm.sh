# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=400 mem=1536 files=guest,qemu -- Debian's QEMU, machine microvm with two vCPUs
. /tests/tap.inc
. /tests/qemu.inc

guest_qemu 2 "microvm" -machine microvm,rtc=on,acpi=on
finish
