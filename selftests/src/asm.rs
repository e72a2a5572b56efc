// SPDX-License-Identifier: GPL-2.0

//! Guest code, assembled by iced-x86 from closures next to the test that runs it.

pub use iced_x86::code_asm::*;
pub use iced_x86::IcedError;

use crate::setup::{CODE, REAL_IP};

/// What an assembling closure answers.
pub type Asm = Result<(), IcedError>;

/// Assembles `f` for `bits` (16, 32, 64) to run at `ip`.
///
/// # Panics
///
/// When the code can't be encoded: a mistake in the test.
pub fn assemble(bits: u32, ip: u64, f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("16, 32 or 64 bits");
    f(&mut a).expect("guest code");
    a.assemble(ip).expect("guest code")
}

/// A loop without an end around what `body` assembles.
pub fn forever(a: &mut CodeAssembler, body: impl FnOnce(&mut CodeAssembler) -> Asm) -> Asm {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    body(a)?;
    a.jmp(again)
}

/// Real-mode code: CS is based at [`CODE`], the first instruction at offset [`REAL_IP`].
pub fn asm16(f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    assemble(16, REAL_IP, f)
}

/// 32-bit code at [`CODE`].
pub fn asm32(f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    assemble(32, CODE, f)
}

/// 64-bit code at [`CODE`].
pub fn asm64(f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    assemble(64, CODE, f)
}
