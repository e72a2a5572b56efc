/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints, under /sys/kernel/tracing/events/rkvm. The fields are those of C KVM's events of the same purpose. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rkvm

#if !defined(RKVM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define RKVM_TRACE_H

#include <linux/tracepoint.h>
#include <asm/vmx.h>

TRACE_EVENT(rkvm_entry,
	TP_PROTO(u32 vcpu_id, u64 rip, u32 intr_info, u32 error_code),
	TP_ARGS(vcpu_id, rip, intr_info, error_code),
	TP_STRUCT__entry(
		__field(u32, vcpu_id)
		__field(u64, rip)
		__field(u32, intr_info)
		__field(u32, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->intr_info = intr_info;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u rip 0x%llx intr_info 0x%08x error_code 0x%08x",
		  __entry->vcpu_id, __entry->rip, __entry->intr_info, __entry->error_code)
);

TRACE_EVENT(rkvm_exit,
	TP_PROTO(u32 vcpu_id, u32 exit_reason, u64 guest_rip, u64 info1, u64 info2, u32 intr_info, u32 error_code),
	TP_ARGS(vcpu_id, exit_reason, guest_rip, info1, info2, intr_info, error_code),
	TP_STRUCT__entry(
		__field(u32, vcpu_id)
		__field(u32, exit_reason)
		__field(u64, guest_rip)
		__field(u64, info1)
		__field(u64, info2)
		__field(u32, intr_info)
		__field(u32, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->exit_reason = exit_reason;
		__entry->guest_rip = guest_rip;
		__entry->info1 = info1;
		__entry->info2 = info2;
		__entry->intr_info = intr_info;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u reason %s%s rip 0x%llx info1 0x%016llx info2 0x%016llx intr_info 0x%08x error_code 0x%08x",
		  __entry->vcpu_id,
		  __print_symbolic(__entry->exit_reason & 0xffff, VMX_EXIT_REASONS),
		  __entry->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY ? " FAILED_VMENTRY" : "",
		  __entry->guest_rip, __entry->info1, __entry->info2, __entry->intr_info, __entry->error_code)
);

TRACE_EVENT(rkvm_page_fault,
	TP_PROTO(u32 vcpu_id, u64 guest_rip, u64 fault_address, u64 error_code),
	TP_ARGS(vcpu_id, guest_rip, fault_address, error_code),
	TP_STRUCT__entry(
		__field(u32, vcpu_id)
		__field(u64, guest_rip)
		__field(u64, fault_address)
		__field(u64, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->guest_rip = guest_rip;
		__entry->fault_address = fault_address;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u rip 0x%llx address 0x%016llx error_code 0x%llx",
		  __entry->vcpu_id, __entry->guest_rip, __entry->fault_address, __entry->error_code)
);

#define RKVM_TRACE_MMIO_READ_UNSATISFIED	0
#define RKVM_TRACE_MMIO_READ			1
#define RKVM_TRACE_MMIO_WRITE			2

TRACE_EVENT(rkvm_mmio,
	TP_PROTO(u32 type, u32 len, u64 gpa, u64 val),
	TP_ARGS(type, len, gpa, val),
	TP_STRUCT__entry(
		__field(u32, type)
		__field(u32, len)
		__field(u64, gpa)
		__field(u64, val)
	),
	TP_fast_assign(
		__entry->type = type;
		__entry->len = len;
		__entry->gpa = gpa;
		__entry->val = val;
	),
	TP_printk("mmio %s len %u gpa 0x%llx val 0x%llx",
		  __print_symbolic(__entry->type,
				   { RKVM_TRACE_MMIO_READ_UNSATISFIED, "unsatisfied-read" },
				   { RKVM_TRACE_MMIO_READ, "read" },
				   { RKVM_TRACE_MMIO_WRITE, "write" }),
		  __entry->len, __entry->gpa, __entry->val)
);

TRACE_EVENT(rkvm_pio,
	TP_PROTO(bool write, u16 port, u32 size, u32 count, u32 val),
	TP_ARGS(write, port, size, count, val),
	TP_STRUCT__entry(
		__field(u32, rw)
		__field(u32, port)
		__field(u32, size)
		__field(u32, count)
		__field(u32, val)
	),
	TP_fast_assign(
		__entry->rw = write;
		__entry->port = port;
		__entry->size = size;
		__entry->count = count;
		__entry->val = val;
	),
	TP_printk("pio_%s at 0x%x size %u count %u val 0x%x %s",
		  __entry->rw ? "write" : "read", __entry->port, __entry->size, __entry->count, __entry->val,
		  __entry->count > 1 ? "(...)" : "")
);

TRACE_EVENT(rkvm_inj_virq,
	TP_PROTO(u32 vector, bool soft, bool reinjected),
	TP_ARGS(vector, soft, reinjected),
	TP_STRUCT__entry(
		__field(u32, vector)
		__field(bool, soft)
		__field(bool, reinjected)
	),
	TP_fast_assign(
		__entry->vector = vector;
		__entry->soft = soft;
		__entry->reinjected = reinjected;
	),
	TP_printk("%s 0x%x%s", __entry->soft ? "Soft/INTn" : "IRQ", __entry->vector,
		  __entry->reinjected ? " [reinjected]" : "")
);

#endif /* RKVM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rkvm_trace

/* This part must be outside protection. */
#include <trace/define_trace.h>
