# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=900 mem=1536 files=guest,qemu -- Debian's QEMU, machine pc, irqchip in user space
. /tests/tap.inc
. /tests/qemu.inc

cpu=$no_apic
guest_qemu 1 "pc, irqchip in user space" -machine pc,kernel-irqchip=off
finish
