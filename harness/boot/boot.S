# SPDX-License-Identifier: GPL-2.0
#
# Boot sector of the test machine. It takes the memory map from the BIOS, enters protected mode, reads the
# extents that the parameter block names from the first ATA disk by PIO and enters the kernel by its PVH
# entry point. There is no boot menu, no decompression and no relocation: this is the shortest way to a
# kernel in a machine that runs a hundred million instructions a second.
#
# The parameter block (sectors 1 to 8, built by src/disk.rs) is loaded to PARAMS:
#   0x00  u32 entry point (physical, 32-bit protected mode without paging)
#   0x40  hvm_start_info, complete but for the number of memory map entries
#   0x100 extents {u32 first sector, u32 sectors, u32 destination}, closed by one of 0 sectors; an extent
#         with first sector 0 is filled with zeros
#
	.set	PARAMS, 0x8000
	.set	START_INFO, PARAMS + 0x40
	.set	MEMMAP_ENTRIES, START_INFO + 0x30
	.set	EXTENTS, PARAMS + 0x100
	.set	MEMMAP, 0x5000
	.set	MEMMAP_ENTRY_SIZE, 24
	.set	PARAM_SECTORS, 8

	.code16
	.globl	_start
_start:
	ljmp	$0, $1f
1:	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp

	# An e820 entry and a PVH memory map entry have the same layout, so the BIOS writes the map in place.
	movw	$MEMMAP, %di
	movw	$(0x1000 / 2), %cx
	rep stosw
	movw	$MEMMAP, %di
	xorl	%ebx, %ebx
	xorl	%ebp, %ebp
2:	movl	$0xe820, %eax
	movl	$0x534d4150, %edx
	movl	$20, %ecx
	int	$0x15
	jc	3f
	incl	%ebp
	addw	$MEMMAP_ENTRY_SIZE, %di
	testl	%ebx, %ebx
	jnz	2b
3:	cli
	inb	$0x92, %al
	orb	$2, %al
	andb	$0xfe, %al
	outb	%al, $0x92
	lgdtl	gdt_ptr
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$0x08, $protected

	.code32
protected:
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x7c00, %esp

	movw	$0x3f6, %dx		# nIEN: the disk raises no interrupt
	movb	$2, %al
	outb	%al, %dx

	movl	$first, %esi
	call	read_extents
	movl	%ebp, MEMMAP_ENTRIES
	movl	$EXTENTS, %esi
	call	read_extents

	movw	$0x3f6, %dx
	xorb	%al, %al
	outb	%al, %dx
	movl	$START_INFO, %ebx
	xorl	%ebp, %ebp
	jmp	*PARAMS

# Reads the extents at %esi until one has no sectors. Keeps %ebp.
read_extents:
	movl	(%esi), %ebx		# first sector
	movl	8(%esi), %edi		# destination
	movl	4(%esi), %eax		# sectors left
	addl	$12, %esi
	testl	%eax, %eax
	jz	9f
	testl	%ebx, %ebx
	jnz	4f
	shll	$7, %eax
	movl	%eax, %ecx
	xorl	%eax, %eax
	rep stosl
	jmp	read_extents
4:	pushl	%eax			# one command: up to 256 sectors
	cmpl	$256, %eax
	jbe	5f
	movl	$256, %eax
5:	pushl	%eax
	movw	$0x1f2, %dx
	outb	%al, %dx		# 256 is written as 0
	movl	%ebx, %eax
	incl	%edx
	outb	%al, %dx
	shrl	$8, %eax
	incl	%edx
	outb	%al, %dx
	shrl	$8, %eax
	incl	%edx
	outb	%al, %dx
	shrl	$8, %eax
	orb	$0xe0, %al		# LBA, drive 0
	incl	%edx
	outb	%al, %dx
	incl	%edx
	movb	$0x20, %al		# READ SECTORS
	outb	%al, %dx
	movl	(%esp), %eax
	addl	%eax, %ebx
6:	pushl	%eax
	movw	$0x1f7, %dx
7:	inb	%dx, %al
	testb	$0x80, %al		# BSY
	jnz	7b
	testb	$0x08, %al		# DRQ
	jz	7b
	movw	$0x1f0, %dx
	movl	$128, %ecx
	rep insl
	popl	%eax
	decl	%eax
	jnz	6b
	popl	%ecx
	popl	%eax
	subl	%ecx, %eax
	jnz	4b
	jmp	read_extents
9:	ret

	.balign	4
first:	.long	1, PARAM_SECTORS, PARAMS, 0, 0, 0
gdt:	.quad	0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_ptr:
	.word	. - gdt - 1
	.long	gdt

	.org	_start + 510
	.word	0xaa55
