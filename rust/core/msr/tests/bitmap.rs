// SPDX-License-Identifier: GPL-2.0

use super::{poor, rich};
use crate::msr::bitmap::{bit, compute, Bit, Direction, Shape, WORDS};
use crate::msr::number::*;

#[test]
fn bitmap_positions() {
    let at = |msr, direction| bit(msr, direction).map(|Bit { word, mask }| (word, mask));
    assert_eq!(at(0, Direction::Read), Some((0, 1)));
    assert_eq!(at(0x1fff, Direction::Read), Some((127, 1 << 63)));
    assert_eq!(at(0xc000_0080, Direction::Read), Some((128 + 2, 1)));
    assert_eq!(at(0x10, Direction::Write), Some((256, 1 << 16)));
    assert_eq!(at(0xc000_1fff, Direction::Write), Some((511, 1 << 63)));
    assert_eq!(at(0x2000, Direction::Read), None);
    assert_eq!(at(KVM_STEAL_TIME, Direction::Write), None);
}

#[test]
fn the_bitmap_passes_what_it_should_and_nothing_else() {
    let caps = rich();
    let shape = Shape {
        x2apic: true,
        apicv: true,
        spec_ctrl_used: true,
    };
    let mut bitmap = [0; WORDS];
    let intercepts = |bitmap: &[u64; WORDS], msr, direction| {
        let b = bit(msr, direction).expect("inside");
        bitmap[b.word] & b.mask != 0
    };
    compute(&mut bitmap, &caps, &shape, |_, _| true);
    for msr in [FS_BASE, KERNEL_GS_BASE, SYSENTER_EIP, SPEC_CTRL, X2APIC_TPR] {
        assert!(!intercepts(&bitmap, msr, Direction::Read), "{msr:x}");
        assert!(!intercepts(&bitmap, msr, Direction::Write), "{msr:x}");
    }
    assert!(
        !intercepts(&bitmap, TSC, Direction::Read) && intercepts(&bitmap, TSC, Direction::Write)
    );
    assert!(!intercepts(&bitmap, PRED_CMD, Direction::Write));
    assert!(!intercepts(&bitmap, X2APIC_EOI, Direction::Write));
    assert!(
        intercepts(&bitmap, X2APIC_EOI, Direction::Read),
        "write only"
    );
    assert!(
        intercepts(&bitmap, X2APIC_TIMER_CURRENT, Direction::Read),
        "computed"
    );
    assert!(
        !intercepts(&bitmap, 0x827, Direction::Read) && intercepts(&bitmap, 0x829, Direction::Read)
    );
    for msr in [EFER, PAT, APIC_BASE, LSTAR, DEBUGCTL, TSC_DEADLINE, 0x830] {
        assert!(intercepts(&bitmap, msr, Direction::Write), "{msr:x}");
    }
    compute(&mut bitmap, &poor(), &Shape::default(), |_, _| true);
    assert!(intercepts(&bitmap, SPEC_CTRL, Direction::Read));
    assert!(intercepts(&bitmap, PRED_CMD, Direction::Write));
    assert!(intercepts(&bitmap, X2APIC_TPR, Direction::Read));
    compute(&mut bitmap, &caps, &shape, |msr, _| msr != FS_BASE);
    assert!(
        intercepts(&bitmap, FS_BASE, Direction::Read),
        "the filter wins"
    );
    assert!(!intercepts(&bitmap, GS_BASE, Direction::Read));
}
