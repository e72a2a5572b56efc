// SPDX-License-Identifier: GPL-2.0
/* Kernel macros and inline functions as functions: see rkvm_helpers.h. CPU, interrupts and host state. */
#include <linux/debugfs.h>
#include <linux/entry-virt.h>
#include <linux/hw_breakpoint.h>
#include <linux/kvm_types.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/smp.h>
#include <linux/timekeeper_internal.h>
#include <linux/vtime.h>
#include <trace/events/ipi.h>
#include <asm/cpu_entry_area.h>
#include <asm/cpuid/api.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fpu/xcr.h>
#include <asm/fsgsbase.h>
#include <asm/mmu_context.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/processor.h>
#include <asm/special_insns.h>
#include <asm/tsc.h>
#include <rkvm_helpers.h>

void rkvm_preempt_disable(void)
{
	preempt_disable();
}

/* Preemption off. Gives the CPU. */
u32 rkvm_get_cpu(void)
{
	return get_cpu();
}

void rkvm_preempt_enable(void)
{
	preempt_enable();
}

void rkvm_local_irq_disable(void)
{
	local_irq_disable();
}

void rkvm_local_irq_enable(void)
{
	local_irq_enable();
}

bool rkvm_counts_run_delay(void)
{
	return sched_info_on();
}

/* How long the current task has waited for a CPU since it began, in ns. */
u64 rkvm_run_delay(void)
{
#ifdef CONFIG_SCHED_INFO
	return current->sched_info.run_delay;
#else
	return 0;
#endif
}

bool rkvm_guest_entry_work_pending(void)
{
	return __xfer_to_guest_mode_work_pending();
}

/* Interrupts off. Gives the flags of the task, of which RKVM_TASK_* are bits. */
u64 rkvm_disable_irqs_for_guest(void)
{
	local_irq_disable();
	return read_thread_flags();
}

/*
 * The last steps with interrupts off before the guest, once for each time that they are off. Gives the host's
 * IA32_DEBUGCTL, which each exit clears: who uses it (perf, PTRACE_SINGLEBLOCK, bus-lock detection) may be on this CPU.
 */
u64 rkvm_guest_entry_begin(void)
{
	xfer_to_guest_mode_prepare();
	guest_timing_enter_irqoff();
	return native_rdmsrq(MSR_IA32_DEBUGCTLMSR);
}

/*
 * The way back: interrupts and preemption on. @entered: rkvm_guest_entry_begin() was called. What the guest taught the branch
 * predictors of this CPU must not steer the VMM (VMSCAPE): where that can be, the kernel is asked for a barrier before this CPU
 * goes to user space.
 */
void rkvm_guest_entry_end(bool entered)
{
	if (entered) {
		guest_timing_exit_irqoff();
		if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
			this_cpu_write(x86_ibpb_exit_to_user, true);
	}
	local_irq_enable();
	preempt_enable();
}

bool rkvm_signal_pending(void)
{
	return signal_pending(current);
}

/*
 * Until rkvm_restore_signal_mask(), only the signals of @mask are blocked. Those that the task blocks itself still count as
 * blocked for the kernel when it decides what becomes of a signal: it waits, even if it would be ignored or be fatal.
 */
void rkvm_set_signal_mask(u64 mask)
{
	sigset_t set;

	set.sig[0] = mask;
	sigprocmask(SIG_SETMASK, &set, &current->real_blocked);
}

void rkvm_restore_signal_mask(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

u32 rkvm_online_cpus(void)
{
	return num_online_cpus();
}

u32 rkvm_smp_processor_id(void)
{
	return raw_smp_processor_id();
}

int rkvm_mutex_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

struct dentry *rkvm_debugfs_folder(const char *name, struct dentry *parent)
{
	return debugfs_create_dir(name, parent);
}

struct dentry *rkvm_debugfs_file(const char *name, struct dentry *folder, void *data, const struct file_operations *ops)
{
	return debugfs_create_file(name, 0400, folder, data, ops);
}

void rkvm_debugfs_remove(struct dentry *entry)
{
	debugfs_remove(entry);
}

bool rkvm_boot_cpu_has(u32 feature)
{
	return test_bit(feature, (unsigned long *)boot_cpu_data.x86_capability);
}

/* What a guest leaves in the L1 data cache, or finds there, would leak (L1TF), and the CPU can flush it. */
bool rkvm_needs_l1d_flush(void)
{
	return boot_cpu_has_bug(X86_BUG_L1TF) && boot_cpu_has(X86_FEATURE_FLUSH_L1D);
}

/* Guests could steer each other's indirect branches, unless a barrier separates them. */
bool rkvm_needs_ibpb(void)
{
	return boot_cpu_has(X86_FEATURE_IBPB);
}

/* Bits of IA32_ARCH_CAPABILITIES for the weaknesses that the CPUs do not have, whether or not they say so there. */
u64 rkvm_absent_weaknesses(void)
{
	u64 absent = 0;

	/* A guest that enters guests of its own need not flush: every entry of it does, if need be. */
	if (!boot_cpu_has_bug(X86_BUG_L1TF) || rkvm_needs_l1d_flush())
		absent |= ARCH_CAP_SKIP_VMENTRY_L1DFLUSH;
	if (!boot_cpu_has_bug(X86_BUG_CPU_MELTDOWN))
		absent |= ARCH_CAP_RDCL_NO;
	if (!boot_cpu_has_bug(X86_BUG_SPEC_STORE_BYPASS))
		absent |= ARCH_CAP_SSB_NO;
	if (!boot_cpu_has_bug(X86_BUG_MDS))
		absent |= ARCH_CAP_MDS_NO;
	if (!boot_cpu_has_bug(X86_BUG_GDS))
		absent |= ARCH_CAP_GDS_NO;
	if (!boot_cpu_has_bug(X86_BUG_RFDS))
		absent |= ARCH_CAP_RFDS_NO;
	if (!boot_cpu_has_bug(X86_BUG_ITS))
		absent |= ARCH_CAP_ITS_NO;
	/* Without RTM nobody needs to be told. */
	if (boot_cpu_has(X86_FEATURE_RTM) && !boot_cpu_has_bug(X86_BUG_TAA))
		absent |= ARCH_CAP_TAA_NO;
	return absent;
}

u64 rkvm_xgetbv(void)
{
	return xgetbv(XCR_XFEATURE_ENABLED_MASK);
}

void rkvm_xsetbv(u64 value)
{
	xsetbv(XCR_XFEATURE_ENABLED_MASK, value);
}

u32 rkvm_read_pkru(void)
{
	return rdpkru();
}

void rkvm_write_pkru(u32 value)
{
	wrpkru(value);
}

int rkvm_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

int rkvm_wrmsr_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value);
}

void rkvm_cpuid(u32 leaf, u32 subleaf, u32 *regs)
{
	cpuid_count(leaf, subleaf, &regs[0], &regs[1], &regs[2], &regs[3]);
}

/*
 * Of the feature bits in @regs, which CPUID gave, those stay that the kernel uses: it clears what it was told to, or knows to be
 * broken. It need not use five-level paging for a guest to do so.
 */
void rkvm_keep_kernel_features(u32 leaf, u32 subleaf, u32 *regs)
{
	const u32 *kept = boot_cpu_data.x86_capability;

	switch (leaf) {
	case 1:
		regs[2] &= kept[CPUID_1_ECX];
		regs[3] &= kept[CPUID_1_EDX];
		break;
	case 7:
		if (subleaf == 0) {
			regs[1] &= kept[CPUID_7_0_EBX];
			regs[2] &= kept[CPUID_7_ECX] | BIT(X86_FEATURE_LA57 & 31);
			regs[3] &= kept[CPUID_7_EDX];
		} else if (subleaf == 1) {
			regs[0] &= kept[CPUID_7_1_EAX];
		}
		break;
	case 0xd:
		if (subleaf == 1)
			regs[0] &= kept[CPUID_D_1_EAX];
		break;
	case 0x80000001:
		regs[2] &= kept[CPUID_8000_0001_ECX];
		regs[3] &= kept[CPUID_8000_0001_EDX];
		break;
	case 0x80000008:
		regs[1] &= kept[CPUID_8000_0008_EBX];
		break;
	}
}

u32 rkvm_tsc_khz(void)
{
	return tsc_khz;
}

void rkvm_read_host_state(struct rkvm_host_state *state)
{
	struct desc_ptr idt;
	int cpu = raw_smp_processor_id();

	store_idt(&idt);
	state->cr0 = read_cr0();
	state->cr3 = __read_cr3();
	state->cr4 = __read_cr4();
	state->tr_base = (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss;
	state->gdt.size = GDT_SIZE - 1;
	state->gdt.address = (unsigned long)get_cpu_gdt_ro(cpu);
	state->idtr_base = idt.address;
	rdmsrq(MSR_IA32_SYSENTER_CS, state->sysenter_cs);
	rdmsrq(MSR_IA32_SYSENTER_ESP, state->sysenter_esp);
	rdmsrq(MSR_IA32_SYSENTER_EIP, state->sysenter_eip);
	rdmsrq(MSR_GS_BASE, state->gs_base);
	rdmsrq(MSR_EFER, state->efer);
	rdmsrq(MSR_IA32_CR_PAT, state->pat);
}

void rkvm_save_user_segments(struct rkvm_user_segments *segments)
{
	savesegment(fs, segments->fs);
	savesegment(gs, segments->gs);
	savesegment(ds, segments->ds);
	savesegment(es, segments->es);
	store_ldt(segments->ldt);
	segments->fs_base = x86_fsbase_read_cpu();
	segments->kernel_gs_base = native_rdmsrq(MSR_KERNEL_GS_BASE);
}

/*
 * Preemption is off. An exit loads null or kernel selectors, the bases of FS and GS, and the largest limits for TR and
 * the GDT; what user space and the kernel had before is put back here. @gdt is the GDT of this CPU. The base of
 * FS is back already, by HOST_FS_BASE, unless loading a selector replaces it.
 */
void rkvm_restore_user_segments(const struct rkvm_user_segments *segments, const struct desc_ptr *gdt)
{
	if (segments->ldt)
		asm volatile("lldt %0" : : "m" (segments->ldt));
	if (segments->gs)
		load_gs_index(segments->gs);
	if (segments->fs) {
		loadsegment(fs, segments->fs);
		x86_fsbase_write_cpu(segments->fs_base);
	}
	if (segments->ds | segments->es) {
		loadsegment(ds, segments->ds);
		loadsegment(es, segments->es);
	}
	native_wrmsrq(MSR_KERNEL_GS_BASE, segments->kernel_gs_base);
	/*
	 * TR is loaded again on the way to user space if the task uses I/O ports. Not invalidate_tss_limit(), which does
	 * so at once: what it is made of is exported to C KVM only, unless the kernel can be a guest of Xen.
	 */
	this_cpu_write(__tss_limit_invalid, true);
	native_load_gdt(gdt);
}

bool rkvm_hw_breakpoint_active(void)
{
	return hw_breakpoint_active();
}

void rkvm_set_debugreg(u64 value, int n)
{
	switch (n) {
	case 0:
		set_debugreg(value, 0);
		break;
	case 1:
		set_debugreg(value, 1);
		break;
	case 2:
		set_debugreg(value, 2);
		break;
	case 3:
		set_debugreg(value, 3);
		break;
	case 6:
		set_debugreg(value, 6);
		break;
	case 7:
		set_debugreg(value, 7);
		break;
	}
}

void rkvm_on_each_cpu(void (*fn)(void *arg), void *arg)
{
	on_each_cpu(fn, arg, 1);
}

void rkvm_send_reschedule(u32 cpu)
{
	int me = get_cpu();

	if (cpu != me && cpu < nr_cpu_ids && cpu_online(cpu))
		smp_send_reschedule(cpu);
	put_cpu();
}

int rkvm_on_cpu(int cpu, void (*fn)(void *arg), void *arg)
{
	return smp_call_function_single(cpu, fn, arg, 1);
}

bool rkvm_timekeeper_counts_tsc(const void *timekeeper)
{
	return ((const struct timekeeper *)timekeeper)->tkr_mono.clock->id == CSID_X86_TSC;
}

void *rkvm_no_pmu(void)
{
	static struct kvm_pmu none;

	return &none;
}
