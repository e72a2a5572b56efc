// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID.

use super::features::{self, Implemented, WORDS};
use super::xstate::XstateSizes;
use super::{
    is_indexed,
    CpuidEntry,
    HostCpuid,
    Reg,
    Regs,
    KVM_FEATURES_LEAF,
    KVM_SIGNATURE,
    KVM_SIGNATURE_LEAF,
    SIGNIFICANT_INDEX, //
};

/// The caller's array is too small (E2BIG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

/// The highest basic leaf that a guest is told of.
const MAX_BASIC: u32 = 0x24;
/// The highest extended leaf that a guest is told of.
const MAX_EXTENDED: u32 = 0x8000_0022;

/// Appends entries to the caller's array.
struct Out<'a> {
    entries: &'a mut [CpuidEntry],
    used: usize,
}

impl Out<'_> {
    fn push(&mut self, function: u32, index: u32, regs: Regs) -> Result<(), TooSmall> {
        let slot = self.entries.get_mut(self.used).ok_or(TooSmall)?;
        *slot = CpuidEntry {
            function,
            index,
            flags: if is_indexed(function) {
                SIGNIFICANT_INDEX
            } else {
                0
            },
            eax: regs.eax,
            ebx: regs.ebx,
            ecx: regs.ecx,
            edx: regs.edx,
            padding: [0; 3],
        };
        self.used = self.used.wrapping_add(1);
        Ok(())
    }
}

/// Fills `out` with what a guest can be given on this host, and returns how many entries that took.
///
/// # Errors
///
/// [`TooSmall`] if `out` does not hold them all.
pub fn supported(
    host: &dyn HostCpuid,
    have: &Implemented,
    out: &mut [CpuidEntry],
) -> Result<usize, TooSmall> {
    let mut out = Out {
        entries: out,
        used: 0,
    };
    let offer = Offer {
        host,
        have,
        sizes: XstateSizes::from_host(host),
    };
    let basic = host.cpuid(0, 0).eax.min(MAX_BASIC);
    for function in 0..=basic {
        offer.leaf(function, &mut out)?;
    }
    let extended = host.cpuid(0x8000_0000, 0).eax;
    if extended >= 0x8000_0000 {
        for function in 0x8000_0000..=extended.min(MAX_EXTENDED) {
            offer.leaf(function, &mut out)?;
        }
    }
    let [ebx, ecx, edx] = KVM_SIGNATURE;
    let signature = Regs {
        eax: KVM_FEATURES_LEAF,
        ebx,
        ecx,
        edx,
    };
    out.push(KVM_SIGNATURE_LEAF, 0, signature)?;
    let features = Regs {
        eax: have.kvm_features,
        ..Regs::default()
    };
    out.push(KVM_FEATURES_LEAF, 0, features)?;
    Ok(out.used)
}

/// Fills `out` with features that only the emulator provides.
///
/// # Errors
///
/// [`TooSmall`] if `out` does not hold them all.
pub fn emulated(have: &Implemented, out: &mut [CpuidEntry]) -> Result<usize, TooSmall> {
    let mut out = Out {
        entries: out,
        used: 0,
    };
    out.push(
        0,
        0,
        Regs {
            eax: 7,
            ..Regs::default()
        },
    )?;
    out.push(
        1,
        0,
        Regs {
            ecx: features::MOVBE.mask,
            ..Regs::default()
        },
    )?;
    let rdpid = if have.rdtscp { features::RDPID.mask } else { 0 };
    out.push(
        7,
        0,
        Regs {
            ecx: rdpid,
            ..Regs::default()
        },
    )?;
    Ok(out.used)
}

/// The feature bits of one subleaf, all else zero.
fn feature_regs(function: u32, index: u32, host: &Regs, have: &Implemented) -> Regs {
    let mut regs = Regs::default();
    for word in WORDS {
        if word.function == function && word.index == index {
            let bits = word.offered(host, have);
            match word.reg {
                Reg::Eax => regs.eax = bits,
                Reg::Ebx => regs.ebx = bits,
                Reg::Ecx => regs.ecx = bits,
                Reg::Edx => regs.edx = bits,
            }
        }
    }
    regs
}

struct Offer<'a> {
    host: &'a dyn HostCpuid,
    have: &'a Implemented,
    sizes: XstateSizes,
}

impl Offer<'_> {
    fn leaf(&self, function: u32, out: &mut Out<'_>) -> Result<(), TooSmall> {
        let host = self.host.cpuid(function, 0);
        let bits = feature_regs(function, 0, &host, self.have);
        let nothing = Regs::default();
        let regs = match function {
            0 => Regs {
                eax: host.eax.min(MAX_BASIC),
                ..host
            },
            // Brand, CLFLUSH size and counts as the host's; user space puts the APIC id in.
            1 => Regs {
                ecx: bits.ecx,
                edx: bits.edx,
                ..host
            },
            2 | 0x8000_0002..=0x8000_0005 => host,
            4 => return self.caches(out),
            // Only "ARAT": the guest's APIC timer never stops.
            6 => Regs {
                eax: 1 << 2,
                ..nothing
            },
            7 => return self.leaf_7(host, out),
            0xd => return self.xsave(out),
            0x1d | 0x1e => return self.tiles(function, out),
            0x8000_0000 => Regs {
                eax: host.eax.min(MAX_EXTENDED),
                ..host
            },
            0x8000_0001 => Regs {
                ebx: host.ebx & 0xf000_ffff,
                ..Regs {
                    eax: host.eax,
                    ..bits
                }
            },
            0x8000_0006 => Regs {
                edx: host.edx & !0x3_0000,
                ..host
            },
            0x8000_0007 => bits,
            0x8000_0008 => Regs {
                eax: self.address_sizes(host.eax),
                ebx: bits.ebx,
                ..nothing
            },
            // Monitoring, performance counters, topology, SGX, PT, QoS, frequencies and all that is unknown.
            _ => nothing,
        };
        out.push(function, 0, regs)
    }

    fn caches(&self, out: &mut Out<'_>) -> Result<(), TooSmall> {
        // The list ends with an entry of type 0; the bound only guards against a host that never says so.
        for index in 0..16 {
            let regs = self.host.cpuid(4, index);
            out.push(4, index, regs)?;
            if regs.eax & 0x1f == 0 {
                break;
            }
        }
        Ok(())
    }

    fn leaf_7(&self, host: Regs, out: &mut Out<'_>) -> Result<(), TooSmall> {
        let max = host.eax.min(2);
        for index in 0..=max {
            let raw = self.host.cpuid(7, index);
            let bits = feature_regs(7, index, &raw, self.have);
            let eax = if index == 0 { max } else { bits.eax };
            out.push(7, index, Regs { eax, ..bits })?;
        }
        Ok(())
    }

    fn xsave(&self, out: &mut Out<'_>) -> Result<(), TooSmall> {
        let (xcr0, xss) = (self.have.xcr0, self.have.xss);
        let size = self.sizes.required(xcr0, false);
        out.push(
            0xd,
            0,
            Regs {
                eax: xcr0 as u32,
                ebx: size,
                ecx: size,
                edx: (xcr0 >> 32) as u32,
            },
        )?;
        if xcr0 == 0 {
            return Ok(());
        }
        let bits = feature_regs(0xd, 1, &self.host.cpuid(0xd, 1), self.have);
        let compacts = bits.eax & (features::XSAVES.mask | features::XSAVEC.mask) != 0;
        let ebx = if compacts {
            self.sizes.required(xcr0 | xss, true)
        } else {
            0
        };
        out.push(
            0xd,
            1,
            Regs {
                eax: bits.eax,
                ebx,
                ecx: xss as u32,
                edx: (xss >> 32) as u32,
            },
        )?;
        for index in 2..64 {
            if (xcr0 | xss) & 1u64.wrapping_shl(index) == 0 {
                continue;
            }
            let mut regs = self.host.cpuid(0xd, index);
            if regs.eax == 0 {
                continue;
            }
            if bits.eax & features::XFD.mask == 0 {
                regs.ecx &= !(1 << 2);
            }
            regs.edx = 0;
            out.push(0xd, index, regs)?;
        }
        Ok(())
    }

    fn tiles(&self, function: u32, out: &mut Out<'_>) -> Result<(), TooSmall> {
        if self.have.xcr0 & super::xstate::AMX != super::xstate::AMX {
            return out.push(function, 0, Regs::default());
        }
        let mut first = self.host.cpuid(function, 0);
        let last = if function == 0x1d {
            first.eax.min(8)
        } else {
            0
        };
        first.eax = last;
        out.push(function, 0, first)?;
        for index in 1..=last {
            out.push(function, index, self.host.cpuid(function, index))?;
        }
        Ok(())
    }

    /// EAX of 0x80000008: physical, linear, and guest-physical address bits.
    fn address_sizes(&self, host: u32) -> u32 {
        let linear = ((host >> 8) & 0xff).max(48);
        let (physical, guest_physical) = if self.have.ept {
            let bits = host & 0xff;
            // A walk of four levels reaches 48 bits.
            (bits, bits.min(48))
        } else {
            (self.have.host_phys_bits & 0xff, 0)
        };
        physical | linear << 8 | guest_physical << 16
    }
}
