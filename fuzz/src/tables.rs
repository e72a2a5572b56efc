// SPDX-License-Identifier: GPL-2.0

//! What user space hands over to be kept: CPUID entries, MSRs (which the guest writes, too), routes and memory slots.
//!
//! Nothing panics; what is refused changes nothing; a lookup by index finds what a walk over the table finds; what user
//! space reads of an MSR it may write back; and slots never overlap.

use crate::input::Input;
use rkvm_core::addr::{Gfn, Gpa, Hva};
use rkvm_core::cpuid::features::Implemented;
use rkvm_core::cpuid::guest::{check as check_cpuid, execute, find, update_runtime};
use rkvm_core::cpuid::guest::{CpuidIndex, GuestCaps, Runtime};
use rkvm_core::cpuid::xstate::XstateSizes;
use rkvm_core::cpuid::{CpuidEntry, HostCpuid, Regs};
use rkvm_core::irq::msi::MsiMessage;
use rkvm_core::irq::routing::{index_len, Chip, Options, Route, Table, Target};
use rkvm_core::memslots::*;
use rkvm_core::msr::store::{Context, GuestMsrs};
use rkvm_core::msr::Origin;
use std::sync::OnceLock;

/// The most requests of an input.
const MOST_STEPS: usize = 64;
/// Leaves that mean something, and the ends of their classes.
const LEAVES: [u32; 16] = [
    0,
    1,
    2,
    4,
    7,
    0xb,
    0xd,
    0x1f,
    0x24,
    0x4000_0000,
    0x4000_0001,
    0x8000_0000,
    0x8000_0001,
    0x8000_0007,
    0x8000_0008,
    0xffff_ffff,
];

/// A processor that says yes to everything.
struct Host;

impl HostCpuid for Host {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> Regs {
        let all = u32::MAX;
        match leaf {
            0xd => Regs {
                eax: 64,
                ebx: 576,
                ecx: 0,
                edx: 0,
            },
            _ => Regs {
                eax: all,
                ebx: all,
                ecx: all,
                edx: all,
            },
        }
    }
}

/// Makes the requests that `data` say.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut kept = Kept::new();
    for _ in 0..MOST_STEPS {
        if input.is_over() {
            break;
        }
        let what = input.byte();
        match what & 3 {
            0 => kept.cpuid(what, &mut input),
            1 => kept.msr(what, &mut input),
            2 => kept.slot(what, &mut input),
            _ => routes(what, &mut input),
        }
    }
}

struct Kept {
    entries: Vec<CpuidEntry>,
    caps: GuestCaps,
    msrs: GuestMsrs,
    slots: Vec<Slot<u32>>,
    by_hva: Vec<HvaKey>,
    by_id: Vec<IdKey>,
    used: usize,
}

/// The MSRs of a vCPU that are storage.
fn stored_msrs() -> &'static [u32] {
    static ALL: OnceLock<Vec<u32>> = OnceLock::new();
    ALL.get_or_init(|| {
        let ranges = [
            0..0x2000,
            0x4b56_4d00..0x4b56_4e00,
            0xc000_0000..0xc001_2000,
        ];
        let all = ranges.into_iter().flatten();
        all.filter(|msr| GuestMsrs::holds(*msr)).collect()
    })
}

fn implemented(options: u8) -> Implemented {
    Implemented {
        ept: options & 4 == 0,
        pku: true,
        invpcid: options & 8 == 0,
        rdtscp: true,
        xsaves: options & 16 == 0,
        waitpkg: true,
        umip: true,
        spec_ctrl: options & 32 == 0,
        xcr0: 7 | u64::from(options) << 3,
        xss: 0,
        host_phys_bits: 46,
        kvm_features: u32::MAX,
    }
}

impl Kept {
    fn new() -> Self {
        const SLOTS: usize = MOST_STEPS;
        Self {
            entries: Vec::new(),
            caps: GuestCaps::derive(&[], &Host, &implemented(0)),
            msrs: GuestMsrs::new(0),
            slots: vec![Slot::default(); SLOTS],
            by_hva: vec![HvaKey::default(); SLOTS],
            by_id: vec![IdKey::default(); SLOTS],
            used: 0,
        }
    }

    /// KVM_SET_CPUID2 with one entry more, and the guest's CPUID.
    fn cpuid(&mut self, what: u8, input: &mut Input<'_>) {
        let leaf = |n: u8| LEAVES[usize::from(n) % LEAVES.len()];
        let selector = input.byte();
        let entry = CpuidEntry {
            function: leaf(selector).wrapping_add(u32::from(selector >> 7)),
            index: (selector >> 4 & 7).into(),
            flags: (what >> 2 & 1).into(),
            eax: input.long(),
            ebx: input.long(),
            ecx: input.long(),
            edx: input.long(),
            padding: [0; 3],
        };
        let mut entries = self.entries.clone();
        entries.push(entry);
        if check_cpuid(&entries).is_err() {
            return;
        }
        let have = implemented(what);
        let state = Runtime {
            cr4: input.long().into(),
            apic_enabled: what & 64 != 0,
            mwait: (what & 128 != 0).then_some(selector & 1 != 0),
            xcr0: have.xcr0,
            xss: 0,
        };
        let sizes = XstateSizes::from_host(&Host);
        update_runtime(&mut entries, &sizes, &state);
        let before = entries.clone();
        update_runtime(&mut entries, &sizes, &state);
        assert_eq!(entries, before, "the same state changes CPUID again");
        let index = CpuidIndex::build(&entries);
        for function in LEAVES.iter().flat_map(|l| [*l, l.wrapping_add(1)]) {
            for subleaf in 0..9 {
                let walked = find(&entries, function, subleaf);
                assert_eq!(index.lookup(&entries, function, subleaf), walked);
                let said = execute(&entries, &index, function, subleaf);
                assert!(walked.is_none_or(|e| e.regs() == said));
            }
        }
        self.caps = GuestCaps::derive(&entries, &Host, &have);
        self.entries = entries;
    }

    /// An access to an MSR by the guest or by user space.
    fn msr(&mut self, what: u8, input: &mut Input<'_>) {
        let selector = usize::from(input.word());
        let stored = stored_msrs();
        let msr = match stored.get(selector % (stored.len() + 1)) {
            Some(msr) => *msr,
            None => input.long(),
        };
        let value = input.quad();
        let context = |origin| Context {
            origin,
            caps: &self.caps,
            platform_info_readable: what & 8 != 0,
            misc_enable_no_mwait: what & 16 != 0,
            has_run: what & 32 != 0,
        };
        let origin = if what & 4 != 0 {
            Origin::User
        } else {
            Origin::Guest
        };
        let before = self.msrs;
        if self.msrs.set(msr, value, &context(origin)).is_err() {
            assert_eq!(self.msrs, before, "MSR {msr:#x} was refused and changed");
        }
        let user = context(Origin::User);
        if let Ok(saved) = self.msrs.get(msr, &user) {
            let before = self.msrs;
            let mut restored = before;
            if restored.set(msr, saved, &user).is_ok() {
                assert_eq!(restored, before, "MSR {msr:#x} is not what was read");
            }
        }
    }

    /// KVM_SET_USER_MEMORY_REGION.
    fn slot(&mut self, what: u8, input: &mut Input<'_>) {
        // Small numbers meet each other; the high bits reach the limits.
        let page = |n: u16| u64::from(n & 0xff) << 12 | u64::from(n >> 8) << 56;
        let request = MemoryRegion {
            slot: u32::from(what >> 2 & 7) | u32::from(what >> 7) << 15,
            flags: (what >> 5 & 3).into(),
            guest_phys_addr: Gpa(page(input.word())),
            memory_size: page(input.word()),
            userspace_addr: Hva(page(input.word())),
        };
        let limits = SlotLimits {
            address_spaces: 1,
            valid_flags: SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY),
            user_ptr_max: Hva(0x7fff_ffff_f000),
            untag_mask: !0,
            max_gfn: Gfn((1 << 40) - 1),
        };
        let mut table = SlotTableMut::new(
            &mut self.slots,
            &mut self.by_hva,
            &mut self.by_id,
            self.used,
        );
        if let Ok(change) = plan(table.view(), &request, &limits) {
            assert!(table.apply(&change, 0).is_ok(), "more slots than ids");
        }
        let view = table.view();
        let slots = view.slots();
        for pair in slots.windows(2) {
            assert!(
                pair[0].region.end_gfn() <= pair[1].region.base_gfn,
                "overlap"
            );
        }
        for slot in slots {
            let r = &slot.region;
            let last = Gfn(r.end_gfn().0 - 1);
            for gfn in [r.base_gfn, last] {
                assert_eq!(view.find(gfn).map(|s| s.region), Some(*r));
            }
            assert_eq!(view.find_id(r.id).map(|s| s.region), Some(*r));
            let mut behind = view.in_hva_range(r.userspace_addr, r.end_hva());
            assert!(
                behind.any(|(s, ..)| s.region == *r),
                "not found by its memory"
            );
        }
        self.used = table.len();
    }
}

/// KVM_SET_GSI_ROUTING.
fn routes(what: u8, input: &mut Input<'_>) {
    let mut asked = Vec::new();
    for _ in 0..=what >> 4 {
        let (gsi, kind) = (input.byte(), input.byte());
        let chip =
            |n: u8| Chip::from_abi(n.into()).and_then(|c| Target::chip_pin(c, (kind >> 3).into()));
        let target = chip(kind & 7).unwrap_or(Target::Msi(MsiMessage {
            address_lo: 0xfee0_0000 | u32::from(kind) << 12,
            address_hi: u32::from(kind & 1) << 8,
            data: gsi.into(),
        }));
        // The highest ones are beyond the limit.
        let gsi = u32::from(gsi) * 17;
        asked.push(Route { gsi, target });
    }
    let highest = asked.iter().map(|r| r.gsi).max().unwrap_or(0);
    let options = Options {
        split: what & 4 != 0,
        x2apic_format: what & 8 != 0,
    };
    let routes = vec![Route::EMPTY; asked.len()];
    let index = vec![0; index_len(highest)];
    let Ok(table) = Table::build(&asked, routes, index, options) else {
        return;
    };
    for route in &asked {
        let known = table.get(route.gsi);
        assert!(known.contains(route), "{route:?} is lost");
        let same = asked.iter().filter(|r| r.gsi == route.gsi).count();
        assert_eq!(
            known.len(),
            same,
            "routes of GSI {} came from nowhere",
            route.gsi
        );
    }
}
