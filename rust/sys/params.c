// SPDX-License-Identifier: GPL-2.0
/* Module parameters, with the names and meanings that users know from kvm and kvm_intel. */
#include <linux/cpu.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <asm/cpufeature.h>
#include <rkvm_helpers.h>

bool rkvm_param_ept = true;
module_param_named(ept, rkvm_param_ept, bool, 0444);
MODULE_PARM_DESC(ept, "Use extended page tables");

bool rkvm_param_eptad = true;
module_param_named(eptad, rkvm_param_eptad, bool, 0444);
MODULE_PARM_DESC(eptad, "Use accessed and dirty bits in extended page tables");

bool rkvm_param_unrestricted_guest = true;
module_param_named(unrestricted_guest, rkvm_param_unrestricted_guest, bool, 0444);
MODULE_PARM_DESC(unrestricted_guest, "Run real mode and unpaged protected mode in VMX non-root operation");

bool rkvm_param_preemption_timer = true;
module_param_named(preemption_timer, rkvm_param_preemption_timer, bool, 0444);
MODULE_PARM_DESC(preemption_timer, "Let the VMX preemption timer count for the local APIC timer");

bool rkvm_param_vpid = true;
module_param_named(vpid, rkvm_param_vpid, bool, 0444);
MODULE_PARM_DESC(vpid, "Tag the TLB by virtual processor");

bool rkvm_param_pml = true;
module_param_named(pml, rkvm_param_pml, bool, 0444);
MODULE_PARM_DESC(pml, "Let the processor log which pages a guest writes");

/* Off, on, or -1: as the processor needs it. */
static int nx_huge_pages = -1;

static int set_nx_huge_pages(const char *value, const struct kernel_param *param)
{
	bool on;
	int error = 0;

	if (sysfs_streq(value, "auto")) {
		nx_huge_pages = -1;
	} else if (sysfs_streq(value, "force")) {
		nx_huge_pages = true;
	} else {
		error = kstrtobool(value, &on);
		if (!error)
			nx_huge_pages = on;
	}
	return error;
}

static int get_nx_huge_pages(char *to, const struct kernel_param *param)
{
	return sysfs_emit(to, "%c\n", nx_huge_pages ? 'Y' : 'N');
}

static const struct kernel_param_ops nx_huge_pages_ops = {
	.set = set_nx_huge_pages,
	.get = get_nx_huge_pages,
};
module_param_cb(nx_huge_pages, &nx_huge_pages_ops, NULL, 0444);
MODULE_PARM_DESC(nx_huge_pages, "Let guests execute small pages only (auto, force, off): iTLB multihit");

/* Decided once, at load. */
bool rkvm_nx_huge_pages(void)
{
	if (nx_huge_pages < 0)
		nx_huge_pages = boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT) && !cpu_mitigations_off();
	return nx_huge_pages;
}

bool rkvm_param_flexpriority = true;
module_param_named(flexpriority, rkvm_param_flexpriority, bool, 0444);
MODULE_PARM_DESC(flexpriority, "Let the processor virtualize the task priority and find accesses to the APIC's page");

bool rkvm_param_fasteoi = true;
module_param_named(fasteoi, rkvm_param_fasteoi, bool, 0444);
MODULE_PARM_DESC(fasteoi, "Take any write to the EOI register for one, without a look at the instruction");

uint rkvm_param_ple_gap = 128;
module_param_named(ple_gap, rkvm_param_ple_gap, uint, 0444);
MODULE_PARM_DESC(ple_gap, "Most TSC ticks between two PAUSEs of one spin loop; 0 turns PAUSE-loop exiting off");

uint rkvm_param_ple_window = 4096;
module_param_named(ple_window, rkvm_param_ple_window, uint, 0444);
MODULE_PARM_DESC(ple_window, "TSC ticks that a guest may spin before it exits");

uint rkvm_param_fault_ahead = 16;
module_param_named(fault_ahead, rkvm_param_fault_ahead, uint, 0644);
MODULE_PARM_DESC(fault_ahead, "Most pages that one fault maps when a guest goes through its memory in order; 1 turns it off");

bool rkvm_param_ignore_msrs;
module_param_named(ignore_msrs, rkvm_param_ignore_msrs, bool, 0644);
MODULE_PARM_DESC(ignore_msrs, "Unknown MSRs read as zero and swallow writes, instead of #GP");

bool rkvm_param_report_ignored_msrs = true;
module_param_named(report_ignored_msrs, rkvm_param_report_ignored_msrs, bool, 0644);
MODULE_PARM_DESC(report_ignored_msrs, "Say in the log which unknown MSRs were ignored");

int rkvm_param_force_emulation_prefix;
module_param_named(force_emulation_prefix, rkvm_param_force_emulation_prefix, int, 0644);
MODULE_PARM_DESC(force_emulation_prefix, "Emulate an instruction that follows ud2; .ascii \"kvm\"");

uint rkvm_param_halt_poll_ns = 200000;
module_param_named(halt_poll_ns, rkvm_param_halt_poll_ns, uint, 0644);
MODULE_PARM_DESC(halt_poll_ns, "Longest time in ns that a halted virtual CPU polls before it sleeps; 0 turns polling off");
