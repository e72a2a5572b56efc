// SPDX-License-Identifier: GPL-2.0
/*
 * Vector and MMX registers by number. The guest's FPU state belongs to the current task while KVM_RUN lasts; it is in
 * the registers unless the kernel used them meanwhile.
 */
#include <linux/kvm_types.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#include <rkvm_helpers.h>

static void (*rkvm_switch_fpu_return)(void);

void rkvm_set_switch_fpu_return(void (*fn)(void))
{
	rkvm_switch_fpu_return = fn;
}

static void guest_fpu_get(void)
{
	fpregs_lock();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		rkvm_switch_fpu_return();
}

static void guest_fpu_put(void)
{
	fpregs_unlock();
}

static bool usable(u32 number, u32 size)
{
	switch (size) {
	case 16:
		return number < 16 && boot_cpu_has(X86_FEATURE_XMM2);
	case 32:
		return number < 16 && boot_cpu_has(X86_FEATURE_AVX);
	case 64:
		return number < 32 && boot_cpu_has(X86_FEATURE_AVX512F);
	default:
		return false;
	}
}

#define RKVM_READ(n, insn, reg) case n: asm volatile(insn " %%" reg #n ", %0" : "=m" (*data)); break;
#define RKVM_WRITE(n, insn, reg) case n: asm volatile(insn " %0, %%" reg #n : : "m" (*data)); break;
#define EACH_8(what, insn, reg) \
	what(0, insn, reg) what(1, insn, reg) what(2, insn, reg) what(3, insn, reg) \
	what(4, insn, reg) what(5, insn, reg) what(6, insn, reg) what(7, insn, reg)
#define EACH_16(what, insn, reg) EACH_8(what, insn, reg) \
	what(8, insn, reg) what(9, insn, reg) what(10, insn, reg) what(11, insn, reg) \
	what(12, insn, reg) what(13, insn, reg) what(14, insn, reg) what(15, insn, reg)
#define EACH_32(what, insn, reg) EACH_16(what, insn, reg) \
	what(16, insn, reg) what(17, insn, reg) what(18, insn, reg) what(19, insn, reg) \
	what(20, insn, reg) what(21, insn, reg) what(22, insn, reg) what(23, insn, reg) \
	what(24, insn, reg) what(25, insn, reg) what(26, insn, reg) what(27, insn, reg) \
	what(28, insn, reg) what(29, insn, reg) what(30, insn, reg) what(31, insn, reg)

struct bytes16 { u8 b[16]; };
struct bytes32 { u8 b[32]; };
struct bytes64 { u8 b[64]; };

static void read16(u32 n, struct bytes16 *data)
{
	switch (n) { EACH_16(RKVM_READ, "movdqu", "xmm") }
}

static void read32(u32 n, struct bytes32 *data)
{
	switch (n) { EACH_16(RKVM_READ, "vmovdqu", "ymm") }
}

static void read64(u32 n, struct bytes64 *data)
{
	switch (n) { EACH_32(RKVM_READ, "vmovdqu64", "zmm") }
}

/* The legacy form keeps the upper part of the register, the VEX form clears it. */
static void write16(u32 n, const struct bytes16 *data, bool clear_rest)
{
	if (clear_rest) {
		switch (n) { EACH_16(RKVM_WRITE, "vmovdqu", "xmm") }
	} else {
		switch (n) { EACH_16(RKVM_WRITE, "movdqu", "xmm") }
	}
}

static void write32(u32 n, const struct bytes32 *data)
{
	switch (n) { EACH_16(RKVM_WRITE, "vmovdqu", "ymm") }
}

static void write64(u32 n, const struct bytes64 *data)
{
	switch (n) { EACH_32(RKVM_WRITE, "vmovdqu64", "zmm") }
}

static void read_opmask16(u32 n, u16 *data)
{
	switch (n) { EACH_8(RKVM_READ, "kmovw", "k") }
}

static void read_opmask64(u32 n, u64 *data)
{
	switch (n) { EACH_8(RKVM_READ, "kmovq", "k") }
}

static void read_mmx(u32 n, u64 *data)
{
	switch (n) { EACH_8(RKVM_READ, "movq", "mm") }
}

static void write_mmx(u32 n, const u64 *data)
{
	switch (n) { EACH_8(RKVM_WRITE, "movq", "mm") }
}

bool rkvm_read_vector(u32 number, u32 size, u8 *data)
{
	if (!usable(number, size))
		return false;
	guest_fpu_get();
	switch (size) {
	case 16:
		read16(number, (struct bytes16 *)data);
		break;
	case 32:
		read32(number, (struct bytes32 *)data);
		break;
	case 64:
		read64(number, (struct bytes64 *)data);
		break;
	}
	guest_fpu_put();
	return true;
}

bool rkvm_write_vector(u32 number, u32 size, bool clear_rest, const u8 *data)
{
	if (!usable(number, size) || (clear_rest && !boot_cpu_has(X86_FEATURE_AVX)))
		return false;
	guest_fpu_get();
	switch (size) {
	case 16:
		write16(number, (const struct bytes16 *)data, clear_rest);
		break;
	case 32:
		write32(number, (const struct bytes32 *)data);
		break;
	case 64:
		write64(number, (const struct bytes64 *)data);
		break;
	}
	guest_fpu_put();
	return true;
}

bool rkvm_read_opmask(u32 number, u64 *value)
{
	u16 low = 0;

	if (number > 7 || !boot_cpu_has(X86_FEATURE_AVX512F))
		return false;
	guest_fpu_get();
	if (boot_cpu_has(X86_FEATURE_AVX512BW)) {
		read_opmask64(number, value);
	} else {
		read_opmask16(number, &low);
		*value = low;
	}
	guest_fpu_put();
	return true;
}

bool rkvm_read_mmx(u32 number, u64 *value)
{
	if (number > 7 || !boot_cpu_has(X86_FEATURE_MMX))
		return false;
	guest_fpu_get();
	read_mmx(number, value);
	guest_fpu_put();
	return true;
}

bool rkvm_write_mmx(u32 number, u64 value)
{
	if (number > 7 || !boot_cpu_has(X86_FEATURE_MMX))
		return false;
	guest_fpu_get();
	write_mmx(number, &value);
	guest_fpu_put();
	return true;
}

void rkvm_fninit(void)
{
	guest_fpu_get();
	asm volatile("fninit");
	guest_fpu_put();
}

u16 rkvm_fnstcw(void)
{
	u16 word;

	guest_fpu_get();
	asm volatile("fnstcw %0" : "=m" (word));
	guest_fpu_put();
	return word;
}

u16 rkvm_fnstsw(void)
{
	u16 word;

	guest_fpu_get();
	asm volatile("fnstsw %0" : "=m" (word));
	guest_fpu_put();
	return word;
}

struct fx_image { u8 b[512]; } __aligned(16);

void rkvm_fxsave(u8 *image, bool wide)
{
	struct fx_image fx = {};

	guest_fpu_get();
	if (wide)
		asm volatile("fxsave64 %0" : "+m" (fx));
	else
		asm volatile("fxsave %0" : "+m" (fx));
	guest_fpu_put();
	memcpy(image, &fx, sizeof(fx));
}

/* False if the processor refuses the image: a reserved bit of MXCSR. */
bool rkvm_fxrstor(const u8 *image, bool wide)
{
	struct fx_image fx;

	memcpy(&fx, image, sizeof(fx));
	guest_fpu_get();
	if (wide)
		asm goto("1: fxrstor64 %0\n" _ASM_EXTABLE(1b, %l[refused]) : : "m" (fx) : : refused);
	else
		asm goto("1: fxrstor %0\n" _ASM_EXTABLE(1b, %l[refused]) : : "m" (fx) : : refused);
	guest_fpu_put();
	return true;
refused:
	guest_fpu_put();
	return false;
}
