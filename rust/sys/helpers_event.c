// SPDX-License-Identifier: GPL-2.0
/* Kernel macros and inline functions as functions: see rkvm_helpers_mm.h. Eventfds, timers, waiting. */
#include <linux/eventfd.h>
#include <linux/poll.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>
#include <rkvm_helpers_mm.h>

static_assert((__force u32)EPOLLHUP == RKVM_EPOLLHUP);

u32 rkvm_eventfd_poll(struct file *file, struct poll_table_struct *table)
{
	return (__force u32)vfs_poll(file, table);
}

void rkvm_waitqueue_entry_init(struct wait_queue_entry *entry,
			       int (*func)(struct wait_queue_entry *, unsigned int, int, void *))
{
	init_waitqueue_func_entry(entry, func);
	INIT_LIST_HEAD(&entry->entry);
}

u32 rkvm_key_to_poll(void *key)
{
	return (__force u32)key_to_poll(key);
}

void rkvm_poll_init(struct poll_table_struct *table,
		    void (*func)(struct file *, struct wait_queue_head *, struct poll_table_struct *))
{
	init_poll_funcptr(table, func);
}

struct workqueue_struct *rkvm_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_PERCPU, 0, name);
}

void rkvm_flush_workqueue(struct workqueue_struct *queue)
{
	flush_workqueue(queue);
}

u64 rkvm_ktime_get_boottime_ns(void)
{
	return ktime_get_boottime_ns();
}

u64 rkvm_ktime_get_real_ns(void)
{
	return ktime_get_real_ns();
}

void rkvm_rcuwait_prepare(struct rcuwait *wait)
{
	prepare_to_rcuwait(wait);
}

void rkvm_set_current_interruptible(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
}

/* Spinning for a wake-up is worth it only while nobody else wants this CPU, and no signal wants this thread. */
bool rkvm_may_poll(void)
{
	return single_task_running() && !need_resched() && !signal_pending(current);
}
