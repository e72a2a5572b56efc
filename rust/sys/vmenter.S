/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The way into the guest and back: the one piece of rkvm that no compiler may touch.
 *
 * Between the restore of the guest's IA32_SPEC_CTRL and VM entry there must be no return and no indirect branch, and
 * after the exit none before the return stack is safe again.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>
#include <rkvm_entry.h>

#define REG(n) RKVM_ENTRY_REGS + (n) * 8
#define VMCS_HOST_RSP 0x6c14

.section .noinstr.text, "ax"

/*
 * bool rkvm_vmenter(struct rkvm_entry *entry)
 *
 * Enter the guest of the current VMCS and come back at its exit. True if the entry instruction itself failed.
 * The frame of this function is what HOST_RSP points to: (%rsp) is @entry again after the exit.
 */
SYM_FUNC_START(rkvm_vmenter)
	push %rbp
	mov %rsp, %rbp
	push %r15
	push %r14
	push %r13
	push %r12
	push %rbx
	push %rdi

	/* The stack is as deep at every entry of one KVM_RUN, so HOST_RSP is seldom written. */
	cmp %rsp, RKVM_ENTRY_HOST_RSP(%rdi)
	je .Lhost_rsp_done
	mov %rsp, RKVM_ENTRY_HOST_RSP(%rdi)
	mov $VMCS_HOST_RSP, %eax
.Lwrite_host_rsp:
	vmwrite %rsp, %rax
.Lhost_rsp_done:

	ALTERNATIVE "jmp .Lguest_spec_ctrl_done", "", X86_FEATURE_MSR_SPEC_CTRL
	mov RKVM_ENTRY_SPEC_CTRL(%rdi), %rdx
	cmp PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	je .Lguest_spec_ctrl_done
	mov $MSR_IA32_SPEC_CTRL, %ecx
	mov %edx, %eax
	shr $32, %rdx
	wrmsr
.Lguest_spec_ctrl_done:

	/* The flags of VMLAUNCH or VMRESUME are decided now and survive the loads below. */
	testl $RKVM_ENTER_RESUME, RKVM_ENTRY_FLAGS(%rdi)

	mov REG(0)(%rdi), %rax
	mov REG(1)(%rdi), %rcx
	mov REG(2)(%rdi), %rdx
	mov REG(3)(%rdi), %rbx
	mov REG(5)(%rdi), %rbp
	mov REG(6)(%rdi), %rsi
	mov REG(8)(%rdi), %r8
	mov REG(9)(%rdi), %r9
	mov REG(10)(%rdi), %r10
	mov REG(11)(%rdi), %r11
	mov REG(12)(%rdi), %r12
	mov REG(13)(%rdi), %r13
	mov REG(14)(%rdi), %r14
	mov REG(15)(%rdi), %r15
	mov REG(7)(%rdi), %rdi

	/* VERW changes ZF: the decision is taken before, the buffers are cleared on each way. */
	jz .Lfirst_entry
	ALTERNATIVE "", "verw rkvm_verw_selector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM
	UNWIND_HINT_SAVE
.Lvmresume:
	vmresume
	jmp .Lvmfail
.Lfirst_entry:
	ALTERNATIVE "", "verw rkvm_verw_selector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM
.Lvmlaunch:
	vmlaunch
	jmp .Lvmfail

	/* A reboot takes the CPU out of VMX operation under a running vCPU: then the entry fails, too. */
	_ASM_EXTABLE(.Lwrite_host_rsp, .Lhost_rsp_done)
	_ASM_EXTABLE(.Lvmresume, .Lvmfail)
	_ASM_EXTABLE(.Lvmlaunch, .Lvmfail)

SYM_INNER_LABEL_ALIGN(rkvm_vmexit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push %rdi
	mov 8(%rsp), %rdi
	mov %rax, REG(0)(%rdi)
	mov %rcx, REG(1)(%rdi)
	mov %rdx, REG(2)(%rdi)
	mov %rbx, REG(3)(%rdi)
	mov %rbp, REG(5)(%rdi)
	mov %rsi, REG(6)(%rdi)
	popq REG(7)(%rdi)
	mov %r8, REG(8)(%rdi)
	mov %r9, REG(9)(%rdi)
	mov %r10, REG(10)(%rdi)
	mov %r11, REG(11)(%rdi)
	mov %r12, REG(12)(%rdi)
	mov %r13, REG(13)(%rdi)
	mov %r14, REG(14)(%rdi)
	mov %r15, REG(15)(%rdi)
	xor %ebx, %ebx

.Lclear_regs:
	/* No guest value may steer the host speculatively. RBX holds the result. */
	xor %eax, %eax
	xor %ecx, %ecx
	xor %edx, %edx
	xor %ebp, %ebp
	xor %esi, %esi
	xor %r8d, %r8d
	xor %r9d, %r9d
	xor %r10d, %r10d
	xor %r11d, %r11d
	xor %r12d, %r12d
	xor %r13d, %r13d
	xor %r14d, %r14d
	xor %r15d, %r15d
	mov (%rsp), %rdi

	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE

	ALTERNATIVE "jmp .Lhost_spec_ctrl_done", "", X86_FEATURE_MSR_SPEC_CTRL
	mov $MSR_IA32_SPEC_CTRL, %ecx
	testl $RKVM_ENTER_SAVE_SPEC_CTRL, RKVM_ENTRY_FLAGS(%rdi)
	jz .Lcompare_spec_ctrl
	rdmsr
	mov %eax, RKVM_ENTRY_SPEC_CTRL(%rdi)
	mov %edx, RKVM_ENTRY_SPEC_CTRL + 4(%rdi)
.Lcompare_spec_ctrl:
	mov PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	cmp RKVM_ENTRY_SPEC_CTRL(%rdi), %rdx
	/* Legacy IBRS has to be written after each less privileged mode, whatever the value. */
	ALTERNATIVE "je .Lhost_spec_ctrl_done", "", X86_FEATURE_KERNEL_IBRS
	mov %edx, %eax
	shr $32, %rdx
	wrmsr
.Lhost_spec_ctrl_done:
	/* Nothing past a skipped WRMSR may run speculatively; IBRS itself orders where it is always written. */
	ALTERNATIVE_2 "", "lfence", X86_FEATURE_MSR_SPEC_CTRL, "", X86_FEATURE_KERNEL_IBRS
	ALTERNATIVE "", "call rkvm_clear_branch_history", X86_FEATURE_CLEAR_BHB_VMEXIT

	mov %ebx, %eax
	pop %rdi
	pop %rbx
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	pop %rbp
	RET

.Lvmfail:
	mov $1, %ebx
	jmp .Lclear_regs
SYM_FUNC_END(rkvm_vmenter)

/*
 * Overwrites the branch history that the guest left ("Branch History Injection" guidance) by more taken branches than
 * those CPUs record that set X86_FEATURE_CLEAR_BHB_VMEXIT: 5 times (5 pairs and one). CPUs with a longer history have a
 * control for it in IA32_SPEC_CTRL and don't set the feature. Clobbers RAX and RCX.
 */
SYM_FUNC_START_LOCAL(rkvm_clear_branch_history)
	ANNOTATE_NOENDBR
	mov $5, %ecx
.Lbhb_outer:
	mov $5, %eax
.Lbhb_inner:
	jmp .Lbhb_taken
	nop
.Lbhb_taken:
	dec %eax
	jnz .Lbhb_inner
	dec %ecx
	jnz .Lbhb_outer
	lfence
	RET
SYM_FUNC_END(rkvm_clear_branch_history)

.section .rodata
.balign 2
SYM_DATA_LOCAL(rkvm_verw_selector, .word __KERNEL_DS)
