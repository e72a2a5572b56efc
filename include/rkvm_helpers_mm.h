/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernel macros and inline functions around memory, locks and events, as functions that Rust can call. What is more than
 * one of them says so.
 */
#ifndef RKVM_HELPERS_MM_H
#define RKVM_HELPERS_MM_H

#include <linux/mm_types.h>
#include <linux/spinlock_types.h>
#include <linux/types.h>

struct file;
struct hrtimer;
struct lock_class_key;
struct poll_table_struct;
struct rcuwait;
struct srcu_struct;
struct wait_queue_entry;

/* Where Rust finds the fields of struct page that the owner of a page may use. */
enum {
	RKVM_STRUCT_PAGE_SIZE = sizeof(struct page),
	RKVM_STRUCT_PAGE_PRIVATE = offsetof(struct page, private),
	RKVM_STRUCT_PAGE_RCU = offsetof(struct page, rcu_head),
};

/* Pages. The address is in the direct map; 0 means that there is no memory. */
unsigned long rkvm_alloc_zeroed_pages(u32 order);
/* That many page tables of guests more, or less, as the host and the page's cgroup count them. */
void rkvm_count_secondary_page_tables(struct page *page, int pages);
bool rkvm_page_is_compound(struct page *page);
void rkvm_get_page(struct page *page);
void rkvm_put_page(struct page *page);
/* The end of KVM's use of a page of user memory: note what was done to it, give the reference back. */
void rkvm_release_user_page(struct page *page, bool accessed, bool dirty);

/* Memory maps. */
struct mm_struct *rkvm_current_mm(void);
void rkvm_mmgrab(struct mm_struct *mm);
void rkvm_mmdrop(struct mm_struct *mm);
void rkvm_mmap_read_lock(struct mm_struct *mm);
void rkvm_mmap_read_unlock(struct mm_struct *mm);
struct vm_area_struct *rkvm_vma_lookup(struct mm_struct *mm, unsigned long address);
bool rkvm_vma_is_pfnmap(struct vm_area_struct *vma);
/* What struct page tells of a frame: it is memory, or the tables of memory types know, or those of the firmware. */
enum {
	RKVM_FRAME_MEMORY,
	RKVM_FRAME_RESERVED,
	RKVM_FRAME_WITHOUT_PAGE,
};
u32 rkvm_frame_kind(u64 pfn);
/* The end of user space. */
unsigned long rkvm_user_end(void);
/* Shared anonymous memory in the current address space: its address, or -errno. */
unsigned long rkvm_map_anonymous(unsigned long bytes);
void rkvm_unmap(unsigned long address, unsigned long bytes);
/* SIGBUS to the current thread: it used the page at the address, whose memory is broken. */
void rkvm_report_poison(unsigned long address);

/*
 * Host pages, as the current thread's page tables have them: helpers_gup.c. A page is described by its address, how large
 * the mapping is, and whether it may be written.
 */
enum {
	RKVM_HOST_4K = 1,
	RKVM_HOST_2M = 2,
	RKVM_HOST_1G = 3,
	RKVM_HOST_LEVEL = 3,
	RKVM_HOST_WRITABLE = 4,
};
/*
 * The pages from an address on, `count` at most: how many are ordinary memory, up to the first that is not. No reference
 * is taken: they are the thread's as long as the caller holds up mmu_notifier callbacks. Never more than one table; a
 * large page is one.
 */
u32 rkvm_host_pages(unsigned long address, u64 *pages, u32 count);
/* RKVM_HOST_4K, ...: what the map has at the address; 4 KiB if nothing. */
u32 rkvm_host_mapping_level(unsigned long address);
/* The guest uses the page, and may write it from now on. Before the caller lets mmu_notifier callbacks go on. */
void rkvm_note_use(u64 pfn, bool accessed, bool dirty);
/*
 * Brings the page of ordinary memory in as a write by the current thread would. False: it may be there or not. Up to
 * `pages` in all come along if they are new, anonymous and in the same table.
 */
bool rkvm_fault_in_for_write(unsigned long address, u32 pages);

/* User memory. Results in two registers: the value, and 0 or -EFAULT. */
struct rkvm_user_value {
	u64 value;
	s64 error;
};
/* Between the two, accesses to user memory that is not there fail instead of waiting for it. */
void rkvm_pagefault_disable(void);
void rkvm_pagefault_enable(void);
struct rkvm_user_value rkvm_get_user_u8(u64 address);
struct rkvm_user_value rkvm_get_user_u16(u64 address);
struct rkvm_user_value rkvm_get_user_u32(u64 address);
struct rkvm_user_value rkvm_get_user_u64(u64 address);
/* 16 bytes, little end first. 0 or -EFAULT. */
int rkvm_get_user_16(u64 address, u64 to[2]);
int rkvm_put_user_u8(u64 address, u8 value);
int rkvm_put_user_u16(u64 address, u16 value);
int rkvm_put_user_u32(u64 address, u32 value);
int rkvm_put_user_u64(u64 address, u64 value);
/* The number of bytes that were not copied. */
unsigned long rkvm_copy_from_user(void *to, u64 from, unsigned long bytes);
unsigned long rkvm_copy_to_user(u64 to, const void *from, unsigned long bytes);
/* 0: exchanged; 1: the memory held something else, now in *old; -EFAULT. Not in two cache lines. */
int rkvm_cmpxchg_user_u8(u64 address, u8 *old, u8 new);
int rkvm_cmpxchg_user_u16(u64 address, u16 *old, u16 new);
int rkvm_cmpxchg_user_u32(u64 address, u32 *old, u32 new);
int rkvm_cmpxchg_user_u64(u64 address, u64 *old, u64 new);
/* Little end first. -EOPNOTSUPP without CMPXCHG16B. */
int rkvm_cmpxchg_user_u128(u64 address, u64 old[2], u64 new_low, u64 new_high);

/* Locks. */
void rkvm_rwlock_init(rwlock_t *lock, const char *name, struct lock_class_key *key);
void rkvm_read_lock(rwlock_t *lock);
void rkvm_read_unlock(rwlock_t *lock);
void rkvm_write_lock(rwlock_t *lock);
void rkvm_write_unlock(rwlock_t *lock);
bool rkvm_read_needbreak(rwlock_t *lock);
int rkvm_cond_resched_write(rwlock_t *lock);
void rkvm_raw_spin_lock_init(raw_spinlock_t *lock, const char *name, struct lock_class_key *key);
unsigned long rkvm_raw_spin_lock_irqsave(raw_spinlock_t *lock);
bool rkvm_raw_spin_trylock_irqsave(raw_spinlock_t *lock, unsigned long *flags);
void rkvm_raw_spin_assert_held(raw_spinlock_t *lock);
void rkvm_raw_spin_unlock_irqrestore(raw_spinlock_t *lock, unsigned long flags);
int rkvm_srcu_init(struct srcu_struct *srcu, const char *name, struct lock_class_key *key);
int rkvm_srcu_read_lock(struct srcu_struct *srcu);
void rkvm_srcu_read_unlock(struct srcu_struct *srcu, int index);

/* Events: helpers_event.c. */
#define RKVM_EPOLLHUP 0x10
u32 rkvm_eventfd_poll(struct file *file, struct poll_table_struct *table);
void rkvm_waitqueue_entry_init(struct wait_queue_entry *entry,
			       int (*func)(struct wait_queue_entry *, unsigned int, int, void *));
u32 rkvm_key_to_poll(void *key);
void rkvm_poll_init(struct poll_table_struct *table,
		    void (*func)(struct file *, struct wait_queue_head *, struct poll_table_struct *));
struct workqueue_struct *rkvm_alloc_workqueue(const char *name);
void rkvm_flush_workqueue(struct workqueue_struct *queue);
u64 rkvm_ktime_get_boottime_ns(void);
u64 rkvm_ktime_get_real_ns(void);
void rkvm_rcuwait_prepare(struct rcuwait *wait);
void rkvm_set_current_interruptible(void);
bool rkvm_may_poll(void);

#endif
