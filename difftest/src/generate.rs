// SPDX-License-Identifier: GPL-2.0

//! Random instructions that user mode can run, with registers that make their memory operands hit the data pages.

use crate::native::{has_avx512, Registers, CODE, DATA, DATA_BYTES};
use rkvm_core::emulate::insn::{Base, Rm};
use rkvm_core::emulate::table::{self, Imm, Loc, Op};
use rkvm_core::emulate::*;

/// SplitMix64: small, and good enough to pick cases.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An opmask: all, none, one, or some.
    pub fn mask(&mut self) -> u64 {
        let r = self.next();
        match self.below(6) {
            0 => u64::MAX,
            1 => 0,
            2 => 1 << (r & 15),
            3 => 0xffff << (r & 15),
            _ => r,
        }
    }

    /// A value that likes the edges.
    pub fn value(&mut self) -> u64 {
        let r = self.next();
        match self.below(8) {
            0 => r & 0xff,
            1 => 1 << (r & 63),
            2 => (1u64 << (r & 63)).wrapping_sub(1),
            3 => u64::MAX - (r & 3),
            4 => [0, 1, 0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000][(r & 7) as usize],
            5 => r & 0xffff_ffff,
            _ => r,
        }
    }
}

/// The operations that make sense in user mode, and whose results depend on registers and memory alone.
pub fn allowed(insn: &Insn, long: bool) -> bool {
    let op = insn.entry.op;
    match op {
        Op::Undefined | Op::NotImplemented | Op::Prefix | Op::Group | Op::RmGroup => false,
        Op::Prefixed => false,
        // System state, or not the same from one run to the next.
        Op::Cpuid
        | Op::Rdmsr
        | Op::Wrmsr
        | Op::Rdtsc
        | Op::Rdtscp
        | Op::Rdpmc
        | Op::Rdpid
        | Op::Xgetbv
        | Op::Xsetbv
        | Op::Swapgs
        | Op::Fsgsbase
        | Op::Syscall
        | Op::Sysret
        | Op::Sysenter
        | Op::Sysexit
        | Op::Rsm
        | Op::Vmcall
        | Op::Monitor
        | Op::Mwait
        | Op::Serialize
        | Op::Lgdt
        | Op::Lidt
        | Op::Sgdt
        | Op::Sidt
        | Op::Lldt
        | Op::Sldt
        | Op::Ltr
        | Op::Str
        | Op::Smsw
        | Op::Lar
        | Op::Lsl
        | Op::Verr
        | Op::Verw
        | Op::Invlpg
        | Op::Invpcid
        | Op::Int
        | Op::Int3
        | Op::Int1
        | Op::Into
        | Op::JmpFar
        | Op::CallFar
        | Op::RetFar
        | Op::Iret
        | Op::PopSeg
        | Op::MovToSeg
        | Op::LoadFar
        | Op::MmxMov
        | Op::Fxsave
        | Op::Fxrstor
        | Op::Fninit
        | Op::Fnstcw
        | Op::Fnstsw
        | Op::Fwait
        | Op::In
        | Op::Out
        | Op::Ins
        | Op::Outs
        | Op::Cli
        | Op::Sti => false,
        // FS is the program's own.
        _ if insn.segment == rkvm_core::regs::SegReg::Fs => false,
        Op::Popf => insn.opcode == 0x9d,
        // There are no MMX registers here.
        Op::MaskMov if !insn.opsize_prefix => false,
        Op::Touch | Op::Clac | Op::Stac => long,
        _ if insn.encoding == insn::Encoding::Evex => has_avx512(),
        _ => true,
    }
}

struct Bytes<'a>(&'a [u8]);

impl CodeSource for Bytes<'_> {
    fn more(&mut self, have: u8, buf: &mut [u8]) -> Reply<usize> {
        let left = &self.0[usize::from(have)..];
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        Ok(n)
    }
}

/// One case.
pub struct Case {
    /// 64-bit code, or 32-bit code.
    pub long: bool,
    /// The instruction.
    pub code: Vec<u8>,
    /// Registers to start with.
    pub registers: Registers,
    /// Data to set before, at an offset.
    pub data: Option<(usize, [u8; 64])>,
}

/// The opcode bytes from which cases are made, by what they do.
pub struct Generator {
    /// For each mode: opcode bytes of all allowed operations, grouped by operation.
    templates: [Vec<Vec<Vec<u8>>>; 2],
}

impl Generator {
    /// Enumerates the tables.
    pub fn new() -> Self {
        Self {
            templates: [templates(true), templates(false)],
        }
    }

    /// How many operations are tested in 64-bit and 32-bit code.
    pub fn operations(&self) -> (usize, usize) {
        (self.templates[0].len(), self.templates[1].len())
    }

    /// A random case, or `None` if the dice made nothing of use.
    pub fn case(&self, random: &mut Random) -> Option<Case> {
        let long = !random.one_in(3);
        let groups = &self.templates[usize::from(!long)];
        let group = &groups[random.below(groups.len() as u64) as usize];
        let template = &group[random.below(group.len() as u64) as usize];
        let mut code = prefixes(random, long, template);
        // A mandatory prefix stands before REX already.
        let mandatory = matches!(template[0], 0x66 | 0xf2 | 0xf3);
        code.extend(&template[usize::from(mandatory)..]);
        if template[0] == 0x62 {
            vary_evex(random, long, &mut code);
        }
        let opcode_end = code.len();
        // The last byte of a template is ModRM where the opcode has one; its mod and rm are free.
        for n in 0..12 {
            let b = random.next() as u8;
            code.push(if n > 0 && random.one_in(3) { b & 3 } else { b });
        }
        code.truncate(15);
        let mut insn = Insn::EMPTY;
        let mode = mode(long);
        decode(&mut insn, mode, &mut Bytes(&code)).ok()?;
        if !allowed(&insn, long) {
            return None;
        }
        let mut registers = Registers {
            gpr: [0; 16],
            rip: CODE + 0x800,
            rflags: 0x202 | (random.next() & 0xcd5),
            vectors: [[0; 64]; 32],
            opmasks: [0; 8],
        };
        if random.one_in(16) {
            registers.rflags |= 0x4_0000;
        }
        for r in &mut registers.gpr {
            *r = random.value();
        }
        for (n, v) in registers.vectors.iter_mut().enumerate() {
            // What the processor has.
            let bytes = match has_avx512() {
                true => 64,
                false if n < 16 => 32,
                false => 0,
            };
            for part in v[..bytes].chunks_mut(8) {
                part.copy_from_slice(&random.next().to_le_bytes());
            }
        }
        if has_avx512() {
            registers.opmasks = std::array::from_fn(|_| random.mask());
        }
        registers.gpr[4] = place(random) & !7;
        aim(random, &mut insn, &mut code, opcode_end, &mut registers);
        if !long {
            for r in &mut registers.gpr {
                *r &= 0xffff_ffff;
            }
            registers.gpr[8..].fill(0);
        }
        code.truncate(usize::from(insn.length));
        let data = random.one_in(2).then(|| {
            let mut bytes = [0u8; 64];
            for part in bytes.chunks_mut(8) {
                part.copy_from_slice(&random.value().to_le_bytes());
            }
            (random.below(0x2000 - 64) as usize, bytes)
        });
        Some(Case {
            long,
            code,
            registers,
            data,
        })
    }
}

/// The emulator's mode for 64-bit or 32-bit code.
pub fn mode(long: bool) -> Mode {
    if long {
        Mode::Long64
    } else {
        Mode::Prot32
    }
}

/// An address in or near the data pages.
fn place(random: &mut Random) -> u64 {
    let edges = [0, 0x1000, 0x2000, DATA_BYTES as u64];
    match random.below(4) {
        0 => (DATA + edges[random.below(4) as usize]).wrapping_add(random.below(64)) - 32,
        1 => DATA + random.below(DATA_BYTES as u64),
        2 => DATA + random.below(0x2000),
        _ => DATA + random.below(0x1f0) * 16,
    }
}

fn prefixes(random: &mut Random, long: bool, template: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    if matches!(template[0], 0x62 | 0xc4 | 0xc5) && template.len() > 3 {
        return p;
    }
    let mandatory = matches!(template[0], 0x66 | 0xf2 | 0xf3);
    if random.one_in(4) {
        p.push(0x66);
    }
    if random.one_in(12) {
        p.push(0x67);
    }
    if random.one_in(12) {
        p.push([0x65, 0x2e, 0x36, 0x3e, 0x26][random.below(5) as usize]);
    }
    if !mandatory && random.one_in(8) {
        p.push(0xf0);
    }
    let string = matches!(template[0], 0xa4..=0xa7 | 0xaa..=0xaf);
    if !mandatory && random.one_in(if string { 2 } else { 10 }) {
        p.push(0xf2 | random.below(2) as u8);
    }
    if mandatory {
        p.push(template[0]);
    }
    if long && random.one_in(2) {
        p.push(0x40 | random.below(16) as u8);
    }
    p
}

/// Picks other registers and another opmask for an instruction with EVEX.
fn vary_evex(random: &mut Random, long: bool, code: &mut [u8]) {
    if long {
        code[1] ^= random.next() as u8 & 0xf0;
    }
    code[3] ^= random.next() as u8 & 7;
    if random.one_in(8) {
        // vvvv and V', which most have no use for.
        code[2] ^= random.next() as u8 & 0x78;
        code[3] ^= random.next() as u8 & 8;
    }
}

/// Changes registers or displacement so that the operands of the instruction lie in the data pages.
fn aim(
    random: &mut Random,
    insn: &mut Insn,
    code: &mut [u8],
    modrm_at: usize,
    registers: &mut Registers,
) {
    let op = insn.entry.op;
    let g = &mut registers.gpr;
    let mut to = place(random);
    if insn.lock || matches!(op, Op::Xchg | Op::Cmpxchg8b) {
        to &= !15;
    }
    if matches!(op, Op::VecMovAligned | Op::Movdir64b) && !random.one_in(4) {
        to &= !63;
    }
    match op {
        Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas => {
            g[6] = to;
            g[7] = place(random);
            let most = if random.one_in(4) { 600 } else { 12 };
            g[1] = random.below(most);
            return;
        }
        Op::MaskMov => {
            g[7] = to;
            // Halves of which nothing is chosen.
            let control = &mut registers.vectors[usize::from(code[modrm_at - 1] & 7)];
            for half in control[..16].chunks_mut(8) {
                if random.one_in(4) {
                    half.fill(0);
                }
            }
            return;
        }
        Op::Xlat => {
            g[3] = to.wrapping_sub(g[0] & 0xff);
            return;
        }
        Op::Leave | Op::Enter => g[5] = to,
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => {
            let r = usize::from(insn.reg);
            g[r] = random.below(0x2000).wrapping_sub(0x1000);
        }
        Op::Movdir64b => g[usize::from(insn.reg)] = place(random) & !63,
        Op::Div | Op::Idiv => {
            // High halves that leave a quotient that fits, half of the time.
            if random.one_in(2) {
                let sign = (g[0] as i64 >> 63) as u64;
                g[2] = if op == Op::Div { random.below(4) } else { sign };
                g[0] &= 0x7fff;
            }
        }
        _ => {}
    }
    if insn.entry.imm == Imm::Moffs {
        let bytes = to.to_le_bytes();
        let n = insn.address.size().min(8);
        if modrm_at + n <= code.len() {
            code[modrm_at..modrm_at + n].copy_from_slice(&bytes[..n]);
        }
        return;
    }
    if !insn.entry.any(table::MODRM) || insn.rm != Rm::Mem {
        return;
    }
    let index = insn
        .index
        .map_or(0, |r| g[usize::from(r)].wrapping_shl(u32::from(insn.scale)));
    let mask = insn.address.mask();
    match insn.base {
        Base::Reg(r) if insn.index != Some(r) => {
            g[usize::from(r)] = to.wrapping_sub(index).wrapping_sub(insn.disp) & mask;
        }
        Base::Reg(_) => {}
        Base::Rip | Base::None => {
            let next = CODE + 0x800 + u64::from(insn.length);
            let disp = if insn.base == Base::Rip {
                to.wrapping_sub(next)
            } else {
                to.wrapping_sub(index)
            };
            let at = modrm_at + usize::from(code[modrm_at - 1] & 7 == 4);
            if insn.address != Width::B2 && at + 4 <= code.len() {
                code[at..at + 4].copy_from_slice(&(disp as u32).to_le_bytes());
            }
        }
    }
    // A comparison that succeeds, now and then.
    if op == Op::Cmpxchg && insn.entry.dst == Loc::Rm && random.one_in(2) {
        registers.gpr[0] = 0;
    }
}

/// The opcode bytes of every allowed operation in a mode, with each ModRM.reg and both kinds of ModRM.mod.
fn templates(long: bool) -> Vec<Vec<Vec<u8>>> {
    let mut by_op: std::collections::BTreeMap<u8, Vec<Vec<u8>>> = Default::default();
    let mut heads: Vec<Vec<u8>> = Vec::new();
    for opcode in 0..=255u8 {
        heads.push(vec![opcode]);
        heads.push(vec![0x0f, opcode]);
        heads.push(vec![0x0f, 0x38, opcode]);
        heads.push(vec![0x0f, 0x3a, opcode]);
        for p in [0x66, 0xf2, 0xf3] {
            heads.push(vec![p, 0x0f, opcode]);
            heads.push(vec![p, 0x0f, 0x38, opcode]);
            heads.push(vec![p, 0x0f, 0x3a, opcode]);
        }
        for payload in [
            0x78u8, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e, 0x60, 0x51, 0x33, 0x39, 0x3d,
        ] {
            heads.push(vec![0xc4, 0xe1, payload, opcode]);
            for map in [2u8, 3] {
                for high in [0xe0u8, 0x40] {
                    heads.push(vec![0xc4, high | map, payload, opcode]);
                    heads.push(vec![0xc4, high | map, payload ^ 0x80, opcode]);
                }
            }
        }
        for map in [1u8, 2, 3, 5] {
            for second in [0x7cu8, 0x7d, 0x7e, 0x7f, 0xfc, 0xfd, 0xfe, 0xff] {
                // Vector lengths, without and with a mask, and with zeroing.
                for third in [0x08, 0x28, 0x48, 0x09, 0x29, 0x49, 0x89, 0xa9, 0xc9] {
                    heads.push(vec![0x62, 0xf0 | map, second, third, opcode]);
                }
            }
        }
    }
    for head in heads {
        // Not whole opcodes: prefixes, escapes.
        let partial = match head[..] {
            [0x40..=0x4f] => long,
            [0x0f | 0x62 | 0xc4 | 0xc5] => true,
            [0x0f, 0x38 | 0x3a] | [0x66 | 0xf2 | 0xf3, 0x0f, 0x38 | 0x3a] => true,
            _ => false,
        };
        if partial {
            continue;
        }
        for reg in 0..8u8 {
            for kind in [0x00u8, 0x40, 0x80, 0xc0] {
                for rm in [0u8, 4, 5, 7] {
                    let mut bytes = head.clone();
                    if matches!(
                        head[..],
                        [0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3]
                    ) {
                        continue;
                    }
                    bytes.push(kind | reg << 3 | rm);
                    let template = bytes.clone();
                    bytes.resize(15, 0);
                    let mut insn = Insn::EMPTY;
                    let ok = decode(&mut insn, mode(long), &mut Bytes(&bytes)).is_ok();
                    if !ok || !allowed(&insn, long) {
                        continue;
                    }
                    let template = if insn.entry.any(table::MODRM) {
                        template
                    } else {
                        head.clone()
                    };
                    let list = by_op.entry(insn.entry.op as u8).or_default();
                    if list.last() != Some(&template) {
                        list.push(template);
                    }
                }
            }
        }
    }
    by_op.into_values().collect()
}
