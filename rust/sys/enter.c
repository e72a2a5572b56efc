// SPDX-License-Identifier: GPL-2.0
/*
 * The noinstr window around VM entry: RCU does not watch, nothing may trace, and NMIs must be handed on before
 * anything else runs. C, because the Rust side of the kernel has no noinstr.
 */
#include <linux/kvm_types.h>
#include <linux/context_tracking.h>
#include <linux/kvm_host.h>
#include <asm/asm.h>
#include <asm/entry-common.h>
#include <asm/fred.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/special_insns.h>
#include <asm/vmx.h>
#include <rkvm_entry.h>

static_assert(offsetof(struct rkvm_entry, regs) == RKVM_ENTRY_REGS);
static_assert(offsetof(struct rkvm_entry, spec_ctrl) == RKVM_ENTRY_SPEC_CTRL);
static_assert(offsetof(struct rkvm_entry, host_rsp) == RKVM_ENTRY_HOST_RSP);
static_assert(offsetof(struct rkvm_entry, flags) == RKVM_ENTRY_FLAGS);

/* Set once at load by restricted.rs, before the first entry. */
static rkvm_entry_fn *rkvm_x86_entry_from_kvm;

void rkvm_set_entry_from_kvm(rkvm_entry_fn *fn)
{
	rkvm_x86_entry_from_kvm = fn;
}

extern const char rkvm_vmexit[];

unsigned long rkvm_vmexit_address(void)
{
	return (unsigned long)rkvm_vmexit;
}

/* 0 if a reboot has taken the CPU out of VMX operation. */
static __always_inline u64 vmread(unsigned long field)
{
	unsigned long value = 0;

	asm volatile("1: vmread %1, %0\n"
		     "2:\n"
		     _ASM_EXTABLE(1b, 2b)
		     : "+r" (value) : "r" (field) : "cc");
	return value;
}

/* Interrupts are off. True if VM entry failed as an instruction: then exit_reason is the VM-instruction error. */
noinstr bool rkvm_enter_guest(struct rkvm_entry *entry)
{
	bool failed;

	guest_state_enter_irqoff();

	if (entry->flags & RKVM_ENTER_FLUSH_L1D)
		native_wrmsrq(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
	if (entry->cr2 != native_read_cr2())
		native_write_cr2(entry->cr2);

	if (entry->flags & RKVM_ENTER_CLEAR_BUFFERS)
		x86_clear_cpu_buffers();

	failed = rkvm_vmenter(entry);

	entry->cr2 = native_read_cr2();
	if (unlikely(failed)) {
		entry->exit_reason = vmread(VM_INSTRUCTION_ERROR);
	} else {
		entry->exit_reason = vmread(VM_EXIT_REASON);
		/* An entry that failed on the guest's state leaves the VMCS as clear as it was. */
		if (likely(!(entry->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY)))
			entry->flags |= RKVM_ENTER_RESUME;
		if (entry->exit_reason <= EXIT_REASON_EXTERNAL_INTERRUPT) {
			entry->intr_info = vmread(VM_EXIT_INTR_INFO);
			if (entry->exit_reason == EXIT_REASON_EXCEPTION_NMI &&
			    (entry->intr_info & (INTR_INFO_INTR_TYPE_MASK | INTR_INFO_VALID_MASK)) ==
			    (INTR_TYPE_NMI_INTR | INTR_INFO_VALID_MASK))
				rkvm_x86_entry_from_kvm(EVENT_TYPE_NMI, 2);
		}
	}

	guest_state_exit_irqoff();
	return failed;
}

/* Interrupts are off. The exit acknowledged @vector at the interrupt controller: run the host's handler for it. */
void rkvm_forward_irq(u32 vector)
{
	rkvm_x86_entry_from_kvm(EVENT_TYPE_EXTINT, vector);
}

/*
 * Interrupts are off. A machine check ended the guest's run, and the exit took it from the host: report it as one that
 * came in user mode, so that the host recovers by the task at most.
 */
void rkvm_forward_machine_check(void)
{
	struct pt_regs regs = {
		.cs = 3,
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
}
