// SPDX-License-Identifier: GPL-2.0
/* Kernel macros and inline functions as functions: see rkvm_helpers_mm.h. Memory and locks. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>
#include <asm/cpufeature.h>
#include <asm/memtype.h>
#include <rkvm_helpers_mm.h>

unsigned long rkvm_alloc_zeroed_pages(u32 order)
{
	return __get_free_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, order);
}

void rkvm_count_secondary_page_tables(struct page *page, int pages)
{
	mod_lruvec_page_state(page, NR_SECONDARY_PAGETABLE, pages);
}

bool rkvm_page_is_compound(struct page *page)
{
	return PageCompound(page);
}

void rkvm_get_page(struct page *page)
{
	get_page(page);
}

void rkvm_put_page(struct page *page)
{
	put_page(page);
}

void rkvm_release_user_page(struct page *page, bool accessed, bool dirty)
{
	/* Reserved pages, the zero page among them, have no dirty or accessed state to keep. */
	if (!PageReserved(page)) {
		if (dirty)
			SetPageDirty(page);
		if (accessed)
			mark_page_accessed(page);
	}
	put_page(page);
}

unsigned long rkvm_user_end(void)
{
	return TASK_SIZE_MAX;
}

unsigned long rkvm_map_anonymous(unsigned long bytes)
{
	return vm_mmap(NULL, 0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
}

void rkvm_unmap(unsigned long address, unsigned long bytes)
{
	vm_munmap(address, bytes);
}

void rkvm_report_poison(unsigned long address)
{
	send_sig_mceerr(BUS_MCEERR_AR, (void __user *)address, PAGE_SHIFT, current);
}

struct mm_struct *rkvm_current_mm(void)
{
	return current->mm;
}

void rkvm_mmgrab(struct mm_struct *mm)
{
	mmgrab(mm);
}

void rkvm_mmdrop(struct mm_struct *mm)
{
	mmdrop(mm);
}

void rkvm_mmap_read_lock(struct mm_struct *mm)
{
	mmap_read_lock(mm);
}

void rkvm_mmap_read_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
}

struct vm_area_struct *rkvm_vma_lookup(struct mm_struct *mm, unsigned long address)
{
	return vma_lookup(mm, address);
}

bool rkvm_vma_is_pfnmap(struct vm_area_struct *vma)
{
	return vma->vm_flags & (VM_IO | VM_PFNMAP);
}

u32 rkvm_frame_kind(u64 pfn)
{
	if (!pfn_valid(pfn))
		return RKVM_FRAME_WITHOUT_PAGE;
	return is_zero_pfn(pfn) || !PageReserved(pfn_to_page(pfn)) ? RKVM_FRAME_MEMORY : RKVM_FRAME_RESERVED;
}

#define RKVM_GET_USER(type)								\
struct rkvm_user_value rkvm_get_user_##type(u64 address)				\
{											\
	type value;									\
	int error = get_user(value, (type __user *)address);				\
											\
	return (struct rkvm_user_value){ .value = value, .error = error };		\
}

RKVM_GET_USER(u8)
RKVM_GET_USER(u16)
RKVM_GET_USER(u32)
RKVM_GET_USER(u64)

int rkvm_get_user_16(u64 address, u64 to[2])
{
	const u64 __user *from = (const u64 __user *)address;

	if (!user_read_access_begin(from, 2 * sizeof(u64)))
		return -EFAULT;
	unsafe_get_user(to[0], from, fault);
	unsafe_get_user(to[1], from + 1, fault);
	user_read_access_end();
	return 0;
fault:
	user_read_access_end();
	return -EFAULT;
}

#define RKVM_PUT_USER(type)								\
int rkvm_put_user_##type(u64 address, type value)					\
{											\
	return put_user(value, (type __user *)address);					\
}

RKVM_PUT_USER(u8)
RKVM_PUT_USER(u16)
RKVM_PUT_USER(u32)
RKVM_PUT_USER(u64)

void rkvm_pagefault_disable(void)
{
	pagefault_disable();
}

void rkvm_pagefault_enable(void)
{
	pagefault_enable();
}

unsigned long rkvm_copy_from_user(void *to, u64 from, unsigned long bytes)
{
	return copy_from_user(to, (void __user *)from, bytes);
}

unsigned long rkvm_copy_to_user(u64 to, const void *from, unsigned long bytes)
{
	return copy_to_user((void __user *)to, from, bytes);
}

#define RKVM_CMPXCHG_USER(type)								\
int rkvm_cmpxchg_user_##type(u64 address, type *old, type new)				\
{											\
	type __user *pointer = (type __user *)address;					\
											\
	if (!access_ok(pointer, sizeof(type)))						\
		return -EFAULT;								\
	return __try_cmpxchg_user(pointer, old, new, fault);				\
}

RKVM_CMPXCHG_USER(u8)
RKVM_CMPXCHG_USER(u16)
RKVM_CMPXCHG_USER(u32)
RKVM_CMPXCHG_USER(u64)

int rkvm_cmpxchg_user_u128(u64 address, u64 old[2], u64 new_low, u64 new_high)
{
	struct { u64 half[2]; } __user *pointer = (void __user *)address;
	u64 low = old[0], high = old[1];
	bool exchanged = false;
	int error = 0;

	if (!boot_cpu_has(X86_FEATURE_CX16))
		return -EOPNOTSUPP;
	if (!access_ok(pointer, sizeof(*pointer)))
		return -EFAULT;
	__uaccess_begin_nospec();
	asm volatile("1: " LOCK_PREFIX "cmpxchg16b %[pointer]\n"
		     "   setz %b[exchanged]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_EFAULT_REG, %k[error])
		     : [error] "+r" (error), [exchanged] "+q" (exchanged), [pointer] "+m" (*pointer),
		       "+a" (low), "+d" (high)
		     : "b" (new_low), "c" (new_high)
		     : "memory", "cc");
	__uaccess_end();
	if (error)
		return error;
	if (exchanged)
		return 0;
	old[0] = low;
	old[1] = high;
	return 1;
}

void rkvm_rwlock_init(rwlock_t *lock, const char *name, struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__rwlock_init(lock, name, key);
#else
	rwlock_init(lock);
#endif
}

void rkvm_read_lock(rwlock_t *lock)
{
	read_lock(lock);
}

void rkvm_read_unlock(rwlock_t *lock)
{
	read_unlock(lock);
}

void rkvm_write_lock(rwlock_t *lock)
{
	write_lock(lock);
}

void rkvm_write_unlock(rwlock_t *lock)
{
	write_unlock(lock);
}

bool rkvm_read_needbreak(rwlock_t *lock)
{
	return need_resched() || rwlock_needbreak(lock);
}

int rkvm_cond_resched_write(rwlock_t *lock)
{
	return cond_resched_rwlock_write(lock);
}

void rkvm_raw_spin_lock_init(raw_spinlock_t *lock, const char *name, struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(lock, name, key, LD_WAIT_SPIN);
#else
	raw_spin_lock_init(lock);
#endif
}

unsigned long rkvm_raw_spin_lock_irqsave(raw_spinlock_t *lock)
{
	unsigned long flags;

	raw_spin_lock_irqsave(lock, flags);
	return flags;
}

bool rkvm_raw_spin_trylock_irqsave(raw_spinlock_t *lock, unsigned long *flags)
{
	return raw_spin_trylock_irqsave(lock, *flags);
}

void rkvm_raw_spin_assert_held(raw_spinlock_t *lock)
{
	lockdep_assert_held(lock);
}

void rkvm_raw_spin_unlock_irqrestore(raw_spinlock_t *lock, unsigned long flags)
{
	raw_spin_unlock_irqrestore(lock, flags);
}

int rkvm_srcu_init(struct srcu_struct *srcu, const char *name, struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	return __init_srcu_struct(srcu, name, key);
#else
	return init_srcu_struct(srcu);
#endif
}

int rkvm_srcu_read_lock(struct srcu_struct *srcu)
{
	return srcu_read_lock(srcu);
}

void rkvm_srcu_read_unlock(struct srcu_struct *srcu, int index)
{
	srcu_read_unlock(srcu, index);
}
