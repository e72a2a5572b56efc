# SPDX-License-Identifier: GPL-2.0
# rkvm-test: timeout=900 mem=1536 files=guest,qemu -- Debian's QEMU, machine pc, irqchip in user space
. /tests/tap.inc
. /tests/guest.inc

# QEMU has no local APIC of its own for KVM: without the kernel's there is none, and the guest uses the PIC.
cpu=host,-apic,-x2apic,-tsc-deadline,-kvm-asyncpf,-kvm-asyncpf-int,-kvm-asyncpf-vmexit,-kvm-pv-eoi
guest_qemu 1 "pc, irqchip in user space" -machine pc,kernel-irqchip=off
finish
