// SPDX-License-Identifier: GPL-2.0
/*
 * The host's page tables of the current thread's memory map: see rkvm_helpers_mm.h, "Host pages". What lies behind an
 * address is read from the tables themselves, because get_user_pages() takes and returns references that a fault of a
 * guest has no use for: the mmu_notifier says when a page goes.
 */
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <rkvm_helpers_mm.h>

/* A present leaf of the host's tables. */
struct host_leaf {
	/* The frame of the address itself, whatever the level. */
	unsigned long pfn;
	unsigned long flags;
	/* RKVM_HOST_4K, ... */
	u32 level;
	/* Of a 4 KiB page: its entry, for a look at those behind it. */
	pte_t *pte;
};

/*
 * Goes down to the leaf at the address. Interrupts are off: tables are freed only after an IPI, or an RCU grace period,
 * that this CPU then holds up. Each entry is read once, because it may turn from a table into a large page at any time.
 */
static bool find_leaf(struct mm_struct *mm, unsigned long address, struct host_leaf *leaf)
{
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;
	pte_t pte;

	pgd = READ_ONCE(*pgd_offset(mm, address));
	if (!pgd_present(pgd))
		return false;
	p4d = READ_ONCE(*p4d_offset(&pgd, address));
	if (!p4d_present(p4d))
		return false;
	pud = READ_ONCE(*pud_offset(&p4d, address));
	if (!pud_present(pud))
		return false;
	if (pud_leaf(pud)) {
		leaf->level = RKVM_HOST_1G;
		leaf->flags = pud_flags(pud);
		leaf->pfn = pud_pfn(pud) + ((address & ~PUD_MASK) >> PAGE_SHIFT);
		return true;
	}
	pmd = READ_ONCE(*pmd_offset(&pud, address));
	if (!pmd_present(pmd))
		return false;
	if (pmd_leaf(pmd)) {
		leaf->level = RKVM_HOST_2M;
		leaf->flags = pmd_flags(pmd);
		leaf->pfn = pmd_pfn(pmd) + ((address & ~PMD_MASK) >> PAGE_SHIFT);
		return true;
	}
	leaf->level = RKVM_HOST_4K;
	leaf->pte = pte_offset_kernel(&pmd, address);
	pte = READ_ONCE(*leaf->pte);
	leaf->flags = pte_flags(pte);
	leaf->pfn = pte_pfn(pte);
	return true;
}

/*
 * Whether a guest may have the page by the entry alone. The rest is for get_user_pages(): memory that the VMM itself may
 * not touch just so (PROT_NONE, NUMA hinting, protection keys), what has no struct page to count, and files whose file
 * system wants to be asked before each write.
 */
static bool is_ordinary(unsigned long pfn, unsigned long flags)
{
	const unsigned long looked_at = _PAGE_PRESENT | _PAGE_USER | _PAGE_SPECIAL | _PAGE_PKEY_MASK;
	struct folio *folio;

	if ((flags & looked_at) != (_PAGE_PRESENT | _PAGE_USER))
		return false;
	folio = page_folio(pfn_to_page(pfn));
	if (folio_is_zone_device(folio))
		return false;
	return folio_test_anon(folio) || folio_test_swapbacked(folio) || folio_test_hugetlb(folio);
}

static u64 host_page(unsigned long pfn, unsigned long flags, u32 level)
{
	return (u64)pfn << PAGE_SHIFT | level | (flags & _PAGE_RW ? RKVM_HOST_WRITABLE : 0);
}

u32 rkvm_host_pages(unsigned long address, u64 *pages, u32 count)
{
	struct mm_struct *mm = current->mm;
	struct host_leaf leaf;
	unsigned long flags;
	u32 found = 0;

	if (!mm || address >= TASK_SIZE_MAX)
		return 0;
	local_irq_save(flags);
	if (!find_leaf(mm, address, &leaf))
		goto out;
	if (leaf.level == RKVM_HOST_4K)
		/* Not beyond the table. */
		count = min_t(u64, count, PTRS_PER_PTE - pte_index(address));
	else
		count = 1;
	while (is_ordinary(leaf.pfn, leaf.flags)) {
		pte_t pte;

		pages[found++] = host_page(leaf.pfn, leaf.flags, leaf.level);
		if (found == count)
			break;
		pte = READ_ONCE(leaf.pte[found]);
		leaf.flags = pte_flags(pte);
		leaf.pfn = pte_pfn(pte);
	}
out:
	local_irq_restore(flags);
	return found;
}

u32 rkvm_host_mapping_level(unsigned long address)
{
	struct mm_struct *mm = current->mm;
	struct host_leaf leaf = { .level = RKVM_HOST_4K };
	unsigned long flags;

	if (!mm || address >= TASK_SIZE_MAX)
		return RKVM_HOST_4K;
	local_irq_save(flags);
	find_leaf(mm, address, &leaf);
	local_irq_restore(flags);
	return leaf.level;
}

void rkvm_note_use(u64 pfn, bool accessed, bool dirty)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	if (dirty && !folio_test_dirty(folio))
		folio_set_dirty(folio);
	if (accessed)
		folio_mark_accessed(folio);
}

/* Whether there is a table for the address, and nothing in it: neither a page nor one that was put away. */
static bool is_new(struct mm_struct *mm, unsigned long address)
{
	struct host_leaf leaf;
	unsigned long flags;
	bool new;

	local_irq_save(flags);
	new = find_leaf(mm, address, &leaf) && leaf.level == RKVM_HOST_4K && pte_none(READ_ONCE(*leaf.pte));
	local_irq_restore(flags);
	return new;
}

/*
 * What do_user_addr_fault() does for a thread's own first write: with the lock of the area alone, so that the vCPUs'
 * faults do not meet at mmap_lock. A lock that was let go is not given back (VM_FAULT_RETRY, VM_FAULT_COMPLETED).
 */
bool rkvm_fault_in_for_write(unsigned long address, u32 pages)
{
	const vm_flags_t looked_at = VM_WRITE | VM_IO | VM_PFNMAP | VM_SHADOW_STACK;
	const vm_fault_t unlocked = VM_FAULT_RETRY | VM_FAULT_COMPLETED;
	const unsigned int flags = FAULT_FLAG_DEFAULT | FAULT_FLAG_WRITE | FAULT_FLAG_VMA_LOCK;
	struct vm_area_struct *vma = lock_vma_under_rcu(current->mm, address);
	unsigned long end;
	vm_fault_t fault;

	if (!vma)
		return false;
	if ((vma->vm_flags & looked_at) != VM_WRITE) {
		vma_end_read(vma);
		return false;
	}
	fault = handle_mm_fault(vma, address, flags, NULL);
	if (fault & unlocked)
		return !(fault & VM_FAULT_RETRY);
	if (fault & VM_FAULT_ERROR) {
		vma_end_read(vma);
		return false;
	}
	/* The next ones only where that means no more than a new page: no file, no swap, nobody who wants to hear of it. */
	end = address + (unsigned long)pages * PAGE_SIZE;
	if (!vma_is_anonymous(vma) || userfaultfd_armed(vma))
		end = address;
	for (address += PAGE_SIZE; address < min(end, vma->vm_end); address += PAGE_SIZE) {
		if (!is_new(vma->vm_mm, address))
			break;
		fault = handle_mm_fault(vma, address, flags, NULL);
		if (fault & unlocked)
			return true;
		if (fault & VM_FAULT_ERROR)
			break;
	}
	vma_end_read(vma);
	return true;
}
