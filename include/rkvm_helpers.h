/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernel macros and inline functions, as functions that Rust can call, one thing each.
 * Module parameters, which Rust's module! macro can't express with KVM's types and permissions.
 */
#ifndef RKVM_HELPERS_H
#define RKVM_HELPERS_H

#include <linux/entry-virt.h>
#include <linux/thread_info.h>
#include <linux/types.h>
#include <asm/desc_defs.h>

struct file_operations;
struct page;
struct mm_struct;

/* Preemption and interrupts. */
void rkvm_preempt_disable(void);
u32 rkvm_get_cpu(void);
void rkvm_preempt_enable(void);
void rkvm_local_irq_disable(void);
void rkvm_local_irq_enable(void);
bool rkvm_guest_entry_work_pending(void);
u64 rkvm_disable_irqs_for_guest(void);
u64 rkvm_guest_entry_begin(void);
void rkvm_guest_entry_end(bool entered);
bool rkvm_signal_pending(void);
bool rkvm_counts_run_delay(void);
u64 rkvm_run_delay(void);
void rkvm_set_signal_mask(u64 mask);
void rkvm_restore_signal_mask(void);
u32 rkvm_online_cpus(void);
u32 rkvm_smp_processor_id(void);

/* Flags of a task: its FPU registers are not loaded; something else is to be done before it enters a guest. */
static const u64 RKVM_TASK_NEEDS_FPU = _TIF_NEED_FPU_LOAD;
static const u64 RKVM_TASK_HAS_WORK = XFER_TO_GUEST_MODE_WORK;

/* A struct kvm_pmu with nothing on, which perf looks at for a guest. */
void *rkvm_no_pmu(void);

/* Whether the clock of a struct timekeeper, which only its owner may look into, is the TSC. */
bool rkvm_timekeeper_counts_tsc(const void *timekeeper);

/* CONFIG_KVM_MAX_NR_VCPUS, or what it is by default in a kernel without KVM. */
#ifdef CONFIG_KVM_MAX_NR_VCPUS
static const u32 RKVM_MAX_VCPUS = CONFIG_KVM_MAX_NR_VCPUS;
#else
static const u32 RKVM_MAX_VCPUS = 1024;
#endif

/* A mutex whose waiters can be killed. */
struct mutex;
int rkvm_mutex_lock_killable(struct mutex *lock);

/* debugfs. What it does not make is an error pointer, which it takes for nothing wherever it gets it. */
struct dentry;
struct dentry *rkvm_debugfs_folder(const char *name, struct dentry *parent);
struct dentry *rkvm_debugfs_file(const char *name, struct dentry *folder, void *data, const struct file_operations *ops);
void rkvm_debugfs_remove(struct dentry *entry);

/* Facts about the CPU. */
bool rkvm_boot_cpu_has(u32 feature);
bool rkvm_needs_l1d_flush(void);
bool rkvm_needs_ibpb(void);
u64 rkvm_absent_weaknesses(void);
u64 rkvm_xgetbv(void);
void rkvm_xsetbv(u64 value);
u32 rkvm_read_pkru(void);
void rkvm_write_pkru(u32 value);
int rkvm_rdmsr_safe(u32 msr, u64 *value);
int rkvm_wrmsr_safe(u32 msr, u64 value);
void rkvm_cpuid(u32 leaf, u32 subleaf, u32 *regs);
void rkvm_keep_kernel_features(u32 leaf, u32 subleaf, u32 *regs);
u32 rkvm_tsc_khz(void);

/* What an exit loads into the host's registers, of the CPU that it is called on. */
struct rkvm_host_state {
	u64 cr0, cr3, cr4;
	u64 tr_base, idtr_base;
	struct desc_ptr gdt;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 gs_base, efer, pat;
};
void rkvm_read_host_state(struct rkvm_host_state *state);

/* The user-visible segment state of the current task, which a running guest displaces. */
struct rkvm_user_segments {
	u64 fs_base, kernel_gs_base;
	u16 fs, gs, ds, es, ldt;
};
void rkvm_save_user_segments(struct rkvm_user_segments *segments);
void rkvm_restore_user_segments(const struct rkvm_user_segments *segments, const struct desc_ptr *gdt);

/* Debug registers. */
bool rkvm_hw_breakpoint_active(void);
void rkvm_set_debugreg(u64 value, int n);

/* Vector and MMX registers of the guest whose FPU state this task has loaded; false if the host has none such. */
void rkvm_set_switch_fpu_return(void (*fn)(void));
bool rkvm_read_vector(u32 number, u32 size, u8 *data);
bool rkvm_write_vector(u32 number, u32 size, bool clear_rest, const u8 *data);
bool rkvm_read_opmask(u32 number, u64 *value);
bool rkvm_read_mmx(u32 number, u64 *value);
bool rkvm_write_mmx(u32 number, u64 value);
void rkvm_fninit(void);
u16 rkvm_fnstcw(void);
u16 rkvm_fnstsw(void);
void rkvm_fxsave(u8 *image, bool wide);
bool rkvm_fxrstor(const u8 *image, bool wide);

/* Module parameters, by KVM's names. */
extern bool rkvm_param_ept;
extern bool rkvm_param_eptad;
extern bool rkvm_param_unrestricted_guest;
extern bool rkvm_param_preemption_timer;
extern bool rkvm_param_vpid;
extern bool rkvm_param_pml;
extern bool rkvm_param_flexpriority;
extern bool rkvm_param_fasteoi;
extern uint rkvm_param_ple_gap;
extern uint rkvm_param_ple_window;
extern uint rkvm_param_fault_ahead;
extern bool rkvm_param_ignore_msrs;
extern bool rkvm_param_report_ignored_msrs;
extern int rkvm_param_force_emulation_prefix;
extern uint rkvm_param_halt_poll_ns;
bool rkvm_nx_huge_pages(void);

/* CPU hot-plug, suspend, cross calls. */
void rkvm_on_each_cpu(void (*fn)(void *arg), void *arg);
void rkvm_send_reschedule(u32 cpu);
int rkvm_on_cpu(int cpu, void (*fn)(void *arg), void *arg);

#endif
