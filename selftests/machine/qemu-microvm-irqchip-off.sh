# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=900 mem=1536 files=guest,qemu -- Debian's QEMU, machine microvm, irqchip in user space
. /tests/tap.inc
. /tests/qemu.inc

# This machine's ACPI knows no PIC. Without ACPI there is no power switch, and QEMU's choice of firmware is not SeaBIOS.
cpu=$no_apic
append=reboot=t
guest_qemu 1 "microvm, irqchip in user space" -machine microvm,rtc=on,acpi=off,kernel-irqchip=off -bios bios-microvm.bin
finish
