/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the VM-entry stub, its noinstr caller and Rust share. The offsets are for assembly; enter.c asserts them.
 */
#ifndef RKVM_ENTRY_H
#define RKVM_ENTRY_H

#define RKVM_ENTRY_REGS		0
#define RKVM_ENTRY_SPEC_CTRL	128
#define RKVM_ENTRY_HOST_RSP	136
#define RKVM_ENTRY_FLAGS	144

/* The VMCS has been launched on this CPU: enter by VMRESUME. */
#define RKVM_ENTER_RESUME		1
/* The guest writes IA32_SPEC_CTRL without an exit: read it back. */
#define RKVM_ENTER_SAVE_SPEC_CTRL	2
/* Flush the L1 data cache before entry (L1TF). */
#define RKVM_ENTER_FLUSH_L1D		4
/* Clear the CPU's buffers before entry: the guest has a device of the host (MMIO stale data). */
#define RKVM_ENTER_CLEAR_BUFFERS	8

#ifndef __ASSEMBLER__
#include <linux/types.h>

struct rkvm_entry {
	/* RAX, RCX, RDX, RBX, (RSP: in the VMCS), RBP, RSI, RDI, R8 to R15. */
	u64 regs[16];
	/* The guest's IA32_SPEC_CTRL. */
	u64 spec_ctrl;
	/* What HOST_RSP in the current VMCS holds. */
	u64 host_rsp;
	u32 flags;
	/* VM-exit reason, or the VM-instruction error if the entry failed before it reached the guest. */
	u32 exit_reason;
	u64 cr2;
	/* VM-exit interruption information; valid for exception, NMI and external-interrupt exits. */
	u32 intr_info;
	u32 pad;
};

typedef void (rkvm_entry_fn)(unsigned int type, unsigned int vector);

void rkvm_set_entry_from_kvm(rkvm_entry_fn *fn);
bool rkvm_vmenter(struct rkvm_entry *entry);
bool rkvm_enter_guest(struct rkvm_entry *entry);
void rkvm_forward_irq(u32 vector);
void rkvm_forward_machine_check(void);
unsigned long rkvm_vmexit_address(void);
#endif

#endif
