# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=400 mem=1536 files=guest,qemu -- Debian's QEMU, machine microvm with two vCPUs
. /tests/tap.inc
. /tests/qemu.inc

# Firmware and kernel leave the PIC of this machine as it comes out of reset. The interval timer's first tick, after 55 ms, is
# vector 0 then: nothing to the firmware, but a divide error to a kernel that has begun by then, under every KVM.
guest_qemu 2 "microvm" -machine microvm,rtc=on,acpi=on,pit=off
finish
