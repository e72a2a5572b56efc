# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=600 mem=1536 files=guest,qemu -- Debian's QEMU, machine pc through SeaBIOS with two vCPUs
. /tests/tap.inc
. /tests/qemu.inc

guest_qemu 2 "pc, in-kernel irqchip" -machine pc,kernel-irqchip=on
finish
