// SPDX-License-Identifier: GPL-2.0

//! Runs one instruction on this machine's processor.
//!
//! Code, data and context lie at fixed addresses below 2 GiB, so that 64-bit and 32-bit code (by a far jump to the
//! kernel's 32-bit code segment) reach them alike. The code page is full of INT3: every instruction ends in a signal,
//! its own fault or the breakpoint after it, and the handler takes all registers from the signal frame.
//!
//! This is the only module with `unsafe`. JUSTIFICATION: executing bytes and catching the faults cannot be had safely.

use rkvm_core::emulate::Regs;
use std::sync::atomic::{AtomicBool, Ordering};

/// The context page: registers to load.
const CONTEXT: usize = 0x1000_0000;
/// The reserved range around code and data; what is not mapped in it faults.
pub const RESERVED: u64 = 0x4000_0000;
/// Bytes of it.
pub const RESERVED_BYTES: u64 = 0x80_0000;
/// The code page.
pub const CODE: u64 = 0x4020_0000;
/// Two writable pages and one that is not.
pub const DATA: u64 = 0x4040_0000;
/// Bytes of data in all.
pub const DATA_BYTES: usize = 0x3000;
/// Where the read-only page begins.
pub const READ_ONLY: u64 = DATA + 0x2000;

/// Registers of the processor that tests set and compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// In ModRM order.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ZMM0 to ZMM31; on a processor without AVX-512, YMM0 to YMM15 and zeros.
    pub vectors: [[u8; 64]; 32],
    /// The opmask registers, or zeros.
    pub opmasks: [u64; 8],
}

impl Registers {
    /// Those that the emulator keeps itself.
    pub fn general(&self) -> Regs {
        Regs {
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags,
        }
    }
}

/// How the instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Exception vector; 3 at an address after the instruction means that it completed.
    pub vector: u64,
    /// Error code.
    pub code: u64,
    /// CR2.
    pub cr2: u64,
}

#[repr(C)]
struct Context {
    gpr: [u64; 16],
    rflags: u64,
    target: u64,
    far_offset: u32,
    far_selector: u16,
    pad: u16,
    pad2: u64,
    host_rsp: u64,
    stack_top: [u64; 11],
    vectors: [[u8; 64]; 32],
    opmasks: [u64; 8],
    /// Whether there is AVX-512 state to load.
    avx512: u64,
}

static mut RESULT: Option<(Registers, Trap)> = None;
static ARMED: AtomicBool = AtomicBool::new(false);

std::arch::global_asm!(
    r#"
    .text
    .globl difftest_enter
difftest_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov qword ptr [0x100000a0], rsp
    mov ecx, 0x2b
    mov ds, ecx
    mov es, ecx
    cmp qword ptr [0x10000940], 0
    jne 1f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu ymm\n, ymmword ptr [0x10000100 + 64 * \n]
    .endr
    jmp 2f
1:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu64 zmm\n, zmmword ptr [0x10000100 + 64 * \n]
    .endr
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqu64 zmm\n, zmmword ptr [0x10000100 + 64 * \n]
    .endr
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq k\n, qword ptr [0x10000900 + 8 * \n]
    .endr
2:
    mov esp, 0x100000f8
    push qword ptr [0x10000080]
    popfq
    mov rax, qword ptr [0x10000000]
    mov rcx, qword ptr [0x10000008]
    mov rdx, qword ptr [0x10000010]
    mov rbx, qword ptr [0x10000018]
    mov rsp, qword ptr [0x10000020]
    mov rbp, qword ptr [0x10000028]
    mov rsi, qword ptr [0x10000030]
    mov rdi, qword ptr [0x10000038]
    mov r8, qword ptr [0x10000040]
    mov r9, qword ptr [0x10000048]
    mov r10, qword ptr [0x10000050]
    mov r11, qword ptr [0x10000058]
    mov r12, qword ptr [0x10000060]
    mov r13, qword ptr [0x10000068]
    mov r14, qword ptr [0x10000070]
    mov r15, qword ptr [0x10000078]
    jmp qword ptr [0x10000088]
    .globl difftest_far
difftest_far:
    jmp fword ptr [0x10000090]
    .globl difftest_exit
difftest_exit:
    mov rsp, qword ptr [0x100000a0]
    vzeroupper
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .globl difftest_handler
difftest_handler:
    pushfq
    and qword ptr [rsp], ~0x40000
    popfq
    jmp {handler}
    "#,
    handler = sym handler,
);

extern "C" {
    fn difftest_enter();
    fn difftest_far();
    fn difftest_exit();
    fn difftest_handler();
}

/// Offsets in the XSAVE area of a signal frame: the upper halves of YMM, opmasks, the upper halves of ZMM0 to ZMM15, and
/// ZMM16 to ZMM31. CPUID leaf 0DH has the last three.
static OFFSETS: std::sync::OnceLock<[usize; 4]> = std::sync::OnceLock::new();

fn offsets() -> [usize; 4] {
    // SAFETY: every processor with AVX has this leaf. (Newer compilers know that.)
    #[allow(unused_unsafe)]
    let offset = |n| unsafe { std::arch::x86_64::__cpuid_count(0xd, n).ebx as usize };
    [576, offset(5), offset(6), offset(7)]
}

/// The vector and opmask registers in the XSAVE area `area`.
///
/// # Safety
///
/// `area` is that of a signal frame.
unsafe fn vectors(area: *const u8) -> ([[u8; 64]; 32], [u64; 8]) {
    let mut all = [[0u8; 64]; 32];
    let mut opmasks = [0; 8];
    let Some([ymm, masks, high, upper]) = OFFSETS.get() else {
        return (all, opmasks);
    };
    // SAFETY: the frame has the components that XSTATE_BV names, where CPUID says. One in its initial state is not
    // written.
    unsafe {
        let present = std::ptr::read_unaligned(area.add(512) as *const u64);
        let has = |n: u64| present >> n & 1 != 0;
        let copy = |to: &mut [u8], from: usize| {
            std::ptr::copy_nonoverlapping(area.add(from), to.as_mut_ptr(), to.len());
        };
        for (n, v) in all.iter_mut().enumerate() {
            if n >= 16 {
                if has(7) {
                    copy(v, upper + 64 * (n - 16));
                }
                continue;
            }
            if has(1) {
                copy(&mut v[..16], 160 + 16 * n);
            }
            if has(2) {
                copy(&mut v[16..32], ymm + 16 * n);
            }
            if has(6) {
                copy(&mut v[32..], high + 32 * n);
            }
        }
        if has(5) {
            for (n, k) in opmasks.iter_mut().enumerate() {
                *k = std::ptr::read_unaligned(area.add(masks + 8 * n) as *const u64);
            }
        }
    }
    (all, opmasks)
}

unsafe extern "C" fn handler(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    let _ = info;
    if !ARMED.swap(false, Ordering::Relaxed) {
        // Not ours: die of it.
        for s in SIGNALS {
            // SAFETY: resetting a signal to its default has no precondition.
            unsafe { libc::signal(s, libc::SIG_DFL) };
        }
        return;
    }
    // SAFETY: the kernel passes a valid context; the process has one thread.
    unsafe {
        let uc = &mut *context;
        let g = &mut uc.uc_mcontext.gregs;
        let r = |n: libc::c_int| g[n as usize] as u64;
        let gpr = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ]
        .map(r);
        let fp = uc.uc_mcontext.fpregs as *const u8;
        let (vectors, opmasks) = vectors(fp);
        let registers = Registers {
            gpr,
            rip: r(libc::REG_RIP),
            rflags: r(libc::REG_EFL),
            vectors,
            opmasks,
        };
        let trap = Trap {
            vector: r(libc::REG_TRAPNO),
            code: r(libc::REG_ERR),
            cr2: r(libc::REG_CR2),
        };
        RESULT = Some((registers, trap));
        let g = &mut uc.uc_mcontext.gregs;
        g[libc::REG_RIP as usize] = difftest_exit as *const () as i64;
        g[libc::REG_EFL as usize] = 0x202;
        // CS back to 64-bit code; GS, FS and SS stay.
        let selectors = g[libc::REG_CSGSFS as usize] & !0xffff;
        g[libc::REG_CSGSFS as usize] = selectors | 0x33;
    }
}

const SIGNALS: [libc::c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGBUS,
];

/// Whether the processor has AVX-512 with opmasks of 64 bits.
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// CPUID leaf 7, EBX, ECX and EDX; asked for once, since it may be slow in a virtual machine.
pub fn leaf7() -> [u32; 3] {
    static LEAF: std::sync::OnceLock<[u32; 3]> = std::sync::OnceLock::new();
    *LEAF.get_or_init(|| {
        // SAFETY: every 64-bit processor has CPUID. (Newer compilers know that.)
        #[allow(unused_unsafe)]
        let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
        [leaf.ebx, leaf.ecx, leaf.edx]
    })
}

/// Who made the processor, as CPUID leaf 0 tells: EBX, EDX, ECX.
pub fn vendor() -> [u8; 12] {
    // SAFETY: every 64-bit processor has CPUID. (Newer compilers know that.)
    #[allow(unused_unsafe)]
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    let mut id = [0; 12];
    for (to, from) in id.chunks_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    id
}

/// The prepared processor.
pub struct Native {
    _one: (),
}

impl Native {
    /// Maps code and data and takes the signals. There can be one in a process, which must have one thread.
    pub fn new() -> std::io::Result<Self> {
        OFFSETS.get_or_init(offsets);
        // SAFETY: fixed mappings that must not replace anything, checked; handlers and stack stay for good.
        unsafe {
            let none = libc::PROT_NONE;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            map(CONTEXT, 4096, rw)?;
            map(RESERVED as usize, RESERVED_BYTES as usize, none)?;
            protect(CODE, 4096, rw | libc::PROT_EXEC)?;
            protect(DATA, DATA_BYTES, rw)?;
            protect(READ_ONLY, 4096, libc::PROT_READ)?;
            std::ptr::write_bytes(CODE as *mut u8, 0xcc, 4096);
            // Present from the start: error codes tell.
            for page in (0..DATA_BYTES).step_by(4096) {
                std::ptr::read_volatile((DATA as *const u8).add(page));
            }
            let stack = libc::mmap(
                std::ptr::null_mut(),
                0x2_0000,
                rw,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            let alternative = libc::stack_t {
                ss_sp: stack,
                ss_flags: 0,
                ss_size: 0x2_0000,
            };
            check(libc::sigaltstack(&alternative, std::ptr::null_mut()))?;
            for s in SIGNALS {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = difftest_handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                check(libc::sigaction(s, &action, std::ptr::null_mut()))?;
            }
            // GS has a base in 64-bit code.
            const ARCH_SET_GS: libc::c_long = 0x1001;
            if libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, DATA) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(Self { _one: () })
    }

    /// Replaces the code by `bytes` and breakpoints.
    pub fn set_code(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= 16);
        // SAFETY: the code page is ours and writable.
        unsafe {
            let at = CODE as *mut u8;
            std::ptr::write_bytes(at.add(0x800), 0xcc, 16);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.add(0x800), bytes.len());
        }
    }

    /// Replaces bytes of the writable data.
    pub fn set_data(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= (READ_ONLY - DATA) as usize);
        // SAFETY: inside the writable data pages, checked above.
        unsafe {
            let at = DATA as *mut u8;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.add(offset), bytes.len());
        }
    }

    /// Whether the data are equal to `other`.
    pub fn data_equals(&self, other: &[u8; DATA_BYTES]) -> bool {
        // SAFETY: the data pages are readable, and nobody writes them now.
        let ours = unsafe { &*(DATA as *const [u8; DATA_BYTES]) };
        ours == other
    }

    /// The data.
    pub fn data(&self) -> [u8; DATA_BYTES] {
        // SAFETY: as above.
        unsafe { *(DATA as *const [u8; DATA_BYTES]) }
    }

    /// Runs the code with these registers, as 64-bit or 32-bit code.
    pub fn run(&mut self, registers: &Registers, long: bool) -> (Registers, Trap) {
        // SAFETY: the context page is ours; every way out of the code leads through the handler.
        unsafe {
            let c = &mut *(CONTEXT as *mut Context);
            c.gpr = registers.gpr;
            c.rflags = registers.rflags;
            c.vectors = registers.vectors;
            c.opmasks = registers.opmasks;
            c.avx512 = has_avx512().into();
            c.far_offset = registers.rip as u32;
            c.far_selector = 0x23;
            c.target = if long {
                registers.rip
            } else {
                difftest_far as *const () as u64
            };
            ARMED.store(true, Ordering::Relaxed);
            difftest_enter();
            (&raw mut RESULT).replace(None).expect("the handler ran")
        }
    }
}

unsafe fn map(at: usize, bytes: usize, protection: libc::c_int) -> std::io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: the flag forbids to replace a mapping.
    let got = unsafe { libc::mmap(at as *mut _, bytes, protection, flags, -1, 0) };
    if got as usize != at {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

unsafe fn protect(at: u64, bytes: usize, protection: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the range was mapped by `map()`.
    check(unsafe { libc::mprotect(at as *mut _, bytes, protection) })
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
