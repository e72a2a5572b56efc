// SPDX-License-Identifier: GPL-2.0

//! x87, MMX, SSE and AVX.

use super::super::guest::*;
use super::*;

cases! {
    ANY, "MOVUPS memory, XMM1", [0x0f 0x11 0x0f];
    ANY, "MOVUPS XMM1, memory", [0x0f 0x10 0x0f];
    ANY, "MOVAPS memory, XMM1", [0x0f 0x29 0x0f];
    ANY, "MOVAPS misaligned", [0x0f 0x29 0x0f], |g| g.advance(4);
    ANY, "MOVDQU XMM1, memory", [0xf3 0x0f 0x6f 0x0f];
    ANY, "MOVNTDQ", [0x66 0x0f 0xe7 0x0f];
    ANY, "MOVQ memory, XMM1", [0x66 0x0f 0xd6 0x0f];
    ANY, "MOVUPS with TS", [0x0f 0x11 0x0f], |g| g.sregs.cr0 |= TS;
    ANY, "MOVUPS with EM", [0x0f 0x11 0x0f], |g| g.sregs.cr0 |= 4;
    ANY, "MOVUPS without OSFXSR", [0x0f 0x11 0x0f], |g| g.sregs.cr4 &= !0x200;
    PROTECTED, "VMOVUPS memory, YMM1", [0xc5 0xfc 0x11 0x0f];
    PROTECTED, "VMOVUPS YMM1, memory", [0xc5 0xfc 0x10 0x0f];
    PROTECTED, "VMOVUPS XMM1, memory", [0xc5 0xf8 0x10 0x0f];
    PROTECTED, "VMOVAPS YMM1, misaligned", [0xc5 0xfc 0x28 0x0f], |g| g.advance(16);
    PROTECTED, "VMOVUPS without OSXSAVE", [0xc5 0xfc 0x11 0x0f], |g| g.sregs.cr4 &= !(1 << 18);
    UNPROTECTED, "VEX in real mode: #UD", [0xc5 0xfc 0x11 0x0f];
    FLAT, "VMOVUPS across into an absent page", [0xc5 0xfc 0x10 0x0f], |g| g.point(ABSENT - 8);
    ANY, "MOVQ memory, MM1", [0x0f 0x7f 0x0f];
    ANY, "MOVQ MM1, memory", [0x0f 0x6f 0x0f];
    ANY, "FNINIT", [0xdb 0xe3];
    ANY, "FNSTCW", [0xd9 0x3f];
    ANY, "FNSTSW AX", [0xdf 0xe0];
    ANY, "FNSTSW memory", [0xdd 0x3f];
    ANY, "FNSTCW with TS", [0xd9 0x3f], |g| g.sregs.cr0 |= TS;
    ANY, "FXSAVE", [0x0f 0xae 0x07];
    LONG, "FXSAVE64", [0x48 0x0f 0xae 0x07];
    ANY, "FXSAVE misaligned", [0x0f 0xae 0x07], |g| g.advance(8);
    ANY, "FXRSTOR", [0x0f 0xae 0x0f], |g| g.operand(&image(0x1f80));
    ANY, "FXRSTOR with a reserved bit of MXCSR", [0x0f 0xae 0x0f], |g| g.operand(&image(0x8000_1f80));
    ANY, "FWAIT with TS and MP", [0x9b], |g| g.sregs.cr0 |= TS | 2;
}

/// An FXSAVE image with XMM0 to XMM7 of its own.
fn image(mxcsr: u32) -> [u8; 512] {
    let mut image = [0u8; 512];
    image[0] = 0x7f;
    image[1] = 2;
    image[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for (i, b) in image[160..288].iter_mut().enumerate() {
        *b = i as u8 ^ 0x5a;
    }
    image
}
