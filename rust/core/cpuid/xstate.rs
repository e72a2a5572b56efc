// SPDX-License-Identifier: GPL-2.0

//! Extended states: their bits in XCR0 and the sizes of XSAVE areas.
//!
//! SDM volume 1, "Managing State Using the XSAVE Feature Set".

use super::HostCpuid;

/// x87 state.
pub const FP: u64 = 1 << 0;
/// SSE state.
pub const SSE: u64 = 1 << 1;
/// AVX state, with what it needs.
pub const AVX: u64 = FP | SSE | 1 << 2;
/// The three parts of AVX-512.
pub const AVX512_PARTS: u64 = 7 << 5;
/// AVX-512 state, with what it needs.
pub const AVX512: u64 = AVX | AVX512_PARTS;
/// Protection keys.
pub const PKRU: u64 = 1 << 9;
/// Tile configuration and tile data.
pub const AMX_PARTS: u64 = 3 << 17;
/// AMX state, with what it needs.
pub const AMX: u64 = FP | SSE | AMX_PARTS;
/// All that rkvm gives to guests: states that the kernel switches for them without being asked.
pub const SUPPORTED_XCR0: u64 = AVX512 | PKRU;

/// Bytes of the legacy region and the header.
const HEADER_END: u32 = 512 + 64;
/// Components that can have a size here.
const COMPONENTS: usize = 32;
/// Those beyond x87 and SSE, which have fixed places.
const EXTENDED: core::ops::Range<u32> = 2..COMPONENTS as u32;

/// Where a component lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Component {
    size: u32,
    offset: u32,
    align: bool,
}

/// Sizes and offsets of the host's state components, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XstateSizes([Component; COMPONENTS]);

impl XstateSizes {
    /// Asks the host's leaf 0xD.
    pub fn from_host(host: &dyn HostCpuid) -> Self {
        let mut sizes = [Component::default(); COMPONENTS];
        if host.cpuid(0, 0).eax >= 0xd {
            for i in EXTENDED {
                let regs = host.cpuid(0xd, i);
                if let Some(component) = sizes.get_mut(i as usize) {
                    *component = Component {
                        size: regs.eax,
                        offset: regs.ebx,
                        align: regs.ecx & 2 != 0,
                    };
                }
            }
        }
        Self(sizes)
    }

    /// Bytes that an XSAVE area with the components `mask` takes, in standard or compacted form.
    pub fn required(&self, mask: u64, compacted: bool) -> u32 {
        let mut end = HEADER_END;
        for i in EXTENDED {
            let Some(component) = self.0.get(i as usize) else {
                break;
            };
            if mask & 1u64.wrapping_shl(i) == 0 {
                continue;
            }
            let offset = match (compacted, component.align) {
                (false, _) => component.offset,
                (true, true) => end.wrapping_add(63) & !63,
                (true, false) => end,
            };
            end = end.max(offset.wrapping_add(component.size));
        }
        end
    }
}

/// Whether `xcr0` may be loaded by a guest that is allowed `allowed` (SDM volume 2, "XSETBV").
pub const fn xcr0_valid(xcr0: u64, allowed: u64) -> bool {
    xcr0 & !allowed == 0 && xcr0 & FP != 0 && xcr0_parts(xcr0)
}

const fn xcr0_parts(xcr0: u64) -> bool {
    const YMM: u64 = 1 << 2;
    const BND: u64 = 3 << 3;
    let avx = xcr0 & YMM == 0 || xcr0 & SSE != 0;
    let avx512 = xcr0 & AVX512_PARTS == 0 || xcr0 & AVX512 == AVX512;
    let bound = xcr0 & BND == 0 || xcr0 & BND == BND;
    let amx = xcr0 & AMX_PARTS == 0 || xcr0 & AMX_PARTS == AMX_PARTS;
    avx && avx512 && bound && amx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::Regs;

    struct Host;

    impl HostCpuid for Host {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
            let (eax, ebx, ecx) = match (leaf, subleaf) {
                (0, _) => (0xd, 0, 0),
                (0xd, 2) => (256, 576, 0),
                (0xd, 5) => (64, 1088, 0),
                (0xd, 6) => (512, 1152, 0),
                (0xd, 7) => (1024, 1664, 0),
                (0xd, 9) => (8, 2688, 0),
                (0xd, 17) => (64, 2752, 2),
                (0xd, 18) => (8192, 2816, 2),
                _ => (0, 0, 0),
            };
            Regs {
                eax,
                ebx,
                ecx,
                edx: 0,
            }
        }
    }

    #[test]
    fn sizes_are_those_of_a_processor() {
        let sizes = XstateSizes::from_host(&Host);
        assert_eq!(sizes.required(FP | SSE, false), 576);
        assert_eq!(sizes.required(AVX, false), 832);
        assert_eq!(sizes.required(AVX512 | PKRU, false), 2696);
        assert_eq!(sizes.required(AVX | PKRU, true), 840);
        assert_eq!(
            sizes.required(AVX | PKRU | AMX_PARTS, true),
            896 + 64 + 8192
        );
        assert_eq!(sizes.required(u64::MAX, false), 2816 + 8192);
    }

    #[test]
    fn xcr0_rules() {
        let all = AVX512 | PKRU | AMX_PARTS;
        for (xcr0, valid) in [
            (0, false),
            (FP, true),
            (SSE, false),
            (FP | 1 << 2, false),
            (AVX, true),
            (AVX | 1 << 5, false),
            (AVX512, true),
            (FP | 1 << 17, false),
            (FP | AMX_PARTS, true),
            (FP | 1 << 40, false),
        ] {
            assert_eq!(xcr0_valid(xcr0, all), valid, "{xcr0:x}");
        }
        assert!(!xcr0_valid(AVX512, AVX));
    }
}
