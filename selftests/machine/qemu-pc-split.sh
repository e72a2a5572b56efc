# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=600 mem=1536 files=guest,qemu -- Debian's QEMU, machine pc, only the local APIC in the kernel
. /tests/tap.inc
. /tests/qemu.inc

guest_qemu 1 "pc, split irqchip" -machine pc,kernel-irqchip=split
finish
