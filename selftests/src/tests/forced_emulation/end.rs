// SPDX-License-Identifier: GPL-2.0

//! What an instruction has done: everything that can be seen of the vCPU, memory, and the exits on the way.

use super::guest::{Change, Image};
use crate::errno::Errno;
use crate::ram::Ram;
use crate::vcpu::{Exit, Vcpu};
use kvm_bindings::*;

/// Registers that instructions change and KVM_GET_MSRS tells: SYSENTER, PAT, STAR, LSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX.
pub const MSRS: [u32; 9] = [
    0x174,
    0x175,
    0x176,
    0x277,
    0xc000_0081,
    0xc000_0082,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
];

/// Where the AVX-512 parts begin in an XSAVE image: opmasks, upper halves of ZMM0 to 15, ZMM16 to 31.
pub const OPMASKS: usize = 1088;
/// Where they end.
pub const WIDE_END: usize = 2688;

/// Exits are answered up to this number.
const EXITS: usize = 64;

/// The state in which an instruction ended.
pub struct End {
    exits: Vec<Exit>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    debug: kvm_debugregs,
    xcr0: u64,
    vectors: Vec<u8>,
    msrs: Vec<Option<u64>>,
    memory: Vec<Change>,
}

impl End {
    /// Runs until HLT or worse; ports and devices answer with bytes that depend on nothing but their turn.
    pub fn run(vcpu: &mut Vcpu, ram: &Ram, image: &Image) -> Result<Self, Errno> {
        let mut exits = Vec::new();
        loop {
            let exit = vcpu.run()?;
            let len = match exit {
                Exit::In { size, count, .. } => Some(usize::from(size) * count as usize),
                Exit::MmioRead { len, .. } => Some(len as usize),
                _ => None,
            };
            if let Some(len) = len {
                let turn = exits.len() as u8;
                let answer: Vec<u8> = (0..len as u8).map(|i| 0xa5 ^ (turn << 3) ^ i).collect();
                vcpu.reply(&answer);
            }
            let more = len.is_some() || matches!(exit, Exit::Out { .. } | Exit::MmioWrite { .. });
            exits.push(exit);
            if !more || exits.len() == EXITS {
                break;
            }
        }
        let fd = &vcpu.fd;
        let xsave = fd.get_xsave()?;
        let bytes: Vec<u8> = xsave.region.iter().flat_map(|w| w.to_le_bytes()).collect();
        // Control, status and tag word; MXCSR; ST, XMM; the upper halves of YMM; AVX-512.
        let vectors = [
            &bytes[..5],
            &bytes[24..28],
            &bytes[32..416],
            &bytes[576..832],
            &bytes[OPMASKS..WIDE_END],
        ]
        .concat();
        Ok(End {
            exits,
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            debug: fd.get_debug_regs()?,
            xcr0: fd.get_xcrs()?.xcrs[0].value,
            vectors,
            msrs: MSRS
                .iter()
                .map(|&m| vcpu.msr(m))
                .collect::<Result<_, _>>()?,
            memory: image.changes(ram),
        })
    }

    /// The last exit and RIP, in a word.
    pub fn end(&self) -> String {
        format!("{:x?} at {:#x}", self.exits.last(), self.regs.rip)
    }

    /// What is not as in `native`, in words.
    pub fn differences(&self, native: &End) -> Vec<String> {
        let mut all = Vec::new();
        if self.exits != native.exits {
            all.push(format!(
                "exits: {:x?}, natively {:x?}",
                self.exits, native.exits
            ));
        }
        let mut note = |what: &str, emulated: u64, native: u64| {
            if emulated != native {
                all.push(format!("{what}: {emulated:#x}, natively {native:#x}"));
            }
        };
        macro_rules! each {
            ($of:ident: $($field:ident)*) => {
                $(note(stringify!($field), self.$of.$field, native.$of.$field);)*
            };
        }
        each!(regs: rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);
        each!(sregs: cr0 cr2 cr3 cr4 cr8 efer);
        each!(debug: dr6 dr7);
        note("xcr0", self.xcr0, native.xcr0);
        for n in 0..4 {
            note(&format!("dr{n}"), self.debug.db[n], native.debug.db[n]);
        }
        for (n, index) in MSRS.iter().enumerate() {
            let value = |o: &End| o.msrs[n].unwrap_or(0);
            note(&format!("MSR {index:#x}"), value(self), value(native));
        }
        for ours in &self.memory {
            let found = native.memory.iter().find(|c| c.at == ours.at);
            note(
                &format!("[{:#x}]", ours.at),
                ours.new,
                found.map_or(ours.old, |c| c.new),
            );
        }
        for theirs in &native.memory {
            if !self.memory.iter().any(|c| c.at == theirs.at) {
                note(&format!("[{:#x}]", theirs.at), theirs.old, theirs.new);
            }
        }
        let mut segments = Vec::new();
        let (s, v) = (&self.sregs, &native.sregs);
        for (name, e, n) in [("gdt", &s.gdt, &v.gdt), ("idt", &s.idt, &v.idt)] {
            note(&format!("{name}.base"), e.base, n.base);
            note(&format!("{name}.limit"), e.limit.into(), n.limit.into());
        }
        for (name, e, n) in [
            ("cs", &s.cs, &v.cs),
            ("ds", &s.ds, &v.ds),
            ("es", &s.es, &v.es),
            ("fs", &s.fs, &v.fs),
            ("gs", &s.gs, &v.gs),
            ("ss", &s.ss, &v.ss),
            ("tr", &s.tr, &v.tr),
            ("ldt", &s.ldt, &v.ldt),
        ] {
            if (e.unusable, n.unusable) == (1, 1) && e.selector == n.selector {
                // The rest of an unusable segment has no meaning, but for the base of FS and GS.
                if name == "fs" || name == "gs" {
                    note(&format!("{name}.base"), e.base, n.base);
                }
                continue;
            }
            if e != n {
                segments.push(format!("{name}: {e:x?}, natively {n:x?}"));
            }
        }
        all.append(&mut segments);
        for (n, (e, v)) in self.vectors.iter().zip(&native.vectors).enumerate() {
            if e != v {
                all.push(format!(
                    "FPU byte {n} of {}: {e:#x}, natively {v:#x}",
                    native.vectors.len()
                ));
            }
        }
        all.truncate(12);
        all
    }
}
