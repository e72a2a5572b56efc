// SPDX-License-Identifier: GPL-2.0

//! Each row changes one thing of a state that is entered, as the SDM's list of checks goes through them.

use super::*;

type State = [Segment; 8];
/// What is changed, whether the result passes, of which register, and how.
type Row = (&'static str, bool, SegReg, fn(&mut Segment));

fn segment(selector: u16, kind: u8) -> Segment {
    Segment {
        limit: 0xffff_ffff,
        selector,
        kind,
        present: true,
        db: true,
        s: true,
        g: true,
        ..Segment::default()
    }
}

fn system(selector: u16, kind: u8) -> Segment {
    Segment {
        limit: 0x67,
        db: false,
        s: false,
        g: false,
        ..segment(selector, kind)
    }
}

const NULL: Segment = Segment {
    base: 0,
    limit: 0,
    selector: 0,
    kind: 0,
    dpl: 0,
    present: false,
    db: false,
    s: false,
    l: false,
    g: false,
    avl: false,
    unusable: true,
};

fn protected() -> State {
    let data = segment(0x10, 3);
    let mut s = [data; 8];
    s[SegReg::Cs as usize] = segment(0x08, 0xb);
    s[SegReg::Tr as usize] = system(0x18, 0xb);
    s[SegReg::Ldtr as usize] = NULL;
    s
}

fn long() -> State {
    let mut s = protected();
    s[SegReg::Cs as usize].l = true;
    s[SegReg::Cs as usize].db = false;
    s
}

fn vm86() -> State {
    let mut s = protected();
    for (n, s) in s.iter_mut().take(6).enumerate() {
        *s = Segment {
            base: 0x1000 * n as u64,
            limit: 0xffff,
            selector: 0x100 * n as u16,
            kind: 3,
            dpl: 3,
            present: true,
            s: true,
            ..Segment::default()
        };
    }
    s
}

fn valid(rules: Rules, s: &State) -> bool {
    segments_valid(rules, |reg| s[reg as usize])
}

/// Applies each change to the state and compares.
fn table(rules: Rules, base: State, rows: &[Row]) {
    assert!(valid(rules, &base), "{rules:?}");
    for (what, good, reg, change) in rows {
        let mut s = base;
        change(&mut s[*reg as usize]);
        assert_eq!(valid(rules, &s), *good, "{rules:?}: {reg:?} {what}");
    }
}

#[test]
fn virtual_8086_mode_takes_one_form_only() {
    for reg in SegReg::CODE_AND_DATA {
        table(
            Rules::Vm86,
            vm86(),
            &[
                ("a base of its own", false, reg, |s| s.base ^= 0x10),
                ("unreal limit", false, reg, |s| s.limit = 0xffff_ffff),
                ("short limit", false, reg, |s| s.limit = 0xfffe),
                ("level 0", false, reg, |s| s.dpl = 0),
                ("code", false, reg, |s| s.kind = 0xb),
                ("big", false, reg, |s| s.db = true),
                ("pages", false, reg, |s| s.g = true),
                ("null", false, reg, |s| s.unusable = true),
            ],
        );
    }
    table(
        Rules::Vm86,
        vm86(),
        &[
            ("not busy", false, SegReg::Tr, |s| s.kind = 9),
            ("LDT", true, SegReg::Ldtr, |s| *s = system(0, 2)),
            ("no LDT", false, SegReg::Ldtr, |s| *s = system(0, 3)),
        ],
    );
}

#[test]
fn code_segments() {
    use SegReg::Cs;
    table(
        Rules::Protected,
        protected(),
        &[
            ("execute only", true, Cs, |s| s.kind = 9),
            ("conforming", true, Cs, |s| s.kind = 0xf),
            ("not accessed", false, Cs, |s| s.kind = 0xa),
            ("data", false, Cs, |s| s.kind = 3),
            ("null", false, Cs, |s| s.unusable = true),
            ("not present", false, Cs, |s| s.present = false),
            ("system", false, Cs, |s| s.s = false),
            ("level above SS", false, Cs, |s| s.dpl = 1),
            ("conforming above SS", false, Cs, |s| {
                s.kind = 0xd;
                s.dpl = 1;
            }),
            ("RPL is not that of SS", false, Cs, |s| s.selector |= 3),
            ("bytes beyond 1 MiB", false, Cs, |s| s.g = false),
            ("pages with odd bytes", false, Cs, |s| s.limit = 0xffff_fffe),
            ("base above 4 GiB", false, Cs, |s| s.base = 1 << 32),
            ("L means nothing here", true, Cs, |s| s.l = true),
        ],
    );
    table(
        Rules::Ia32e,
        long(),
        &[
            ("L and D", false, Cs, |s| s.db = true),
            ("compatibility mode", true, Cs, |s| {
                s.l = false;
                s.db = true;
            }),
        ],
    );
}

#[test]
fn stack_segments() {
    use SegReg::Ss;
    table(
        Rules::Protected,
        protected(),
        &[
            ("expand down", true, Ss, |s| s.kind = 7),
            ("read only", false, Ss, |s| s.kind = 1),
            ("code", false, Ss, |s| s.kind = 0xb),
            ("null", true, Ss, |s| *s = NULL),
            ("null of level 3", false, Ss, |s| {
                *s = NULL;
                s.dpl = 3;
            }),
            ("RPL is not the level", false, Ss, |s| s.dpl = 3),
            ("left over from real mode", false, Ss, |s| {
                s.selector = 0x1003
            }),
            ("not present", false, Ss, |s| s.present = false),
            ("base above 4 GiB", false, Ss, |s| s.base = 1 << 32),
        ],
    );
}

#[test]
fn data_segments() {
    for reg in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        table(
            Rules::Protected,
            protected(),
            &[
                ("read only", true, reg, |s| s.kind = 1),
                ("readable code", true, reg, |s| s.kind = 0xb),
                ("execute only", false, reg, |s| s.kind = 9),
                ("not accessed", false, reg, |s| s.kind = 2),
                ("null", true, reg, |s| *s = NULL),
                ("level 3", true, reg, |s| s.dpl = 3),
                ("level 3 by its selector", false, reg, |s| s.selector |= 3),
                ("conforming, whatever the selector", true, reg, |s| {
                    s.kind = 0xf;
                    s.selector |= 3;
                }),
                ("bytes beyond 1 MiB", false, reg, |s| s.g = false),
                ("system", false, reg, |s| s.s = false),
            ],
        );
    }
    table(
        Rules::Ia32e,
        long(),
        &[
            ("of a kernel", true, SegReg::Gs, |s| s.base = !0xfff),
            ("of nobody", false, SegReg::Gs, |s| s.base = 1 << 63),
            ("of a kernel", false, SegReg::Ds, |s| s.base = !0xfff),
        ],
    );
}

#[test]
fn system_segments() {
    use SegReg::{Ldtr, Tr};
    let rows: &[Row] = &[
        ("available", false, Tr, |s| s.kind = 9),
        ("null", false, Tr, |s| s.unusable = true),
        ("in the LDT", false, Tr, |s| s.selector |= 4),
        ("data", false, Tr, |s| s.s = true),
        ("after reset", true, Tr, |s| {
            *s = Segment::after_reset(SegReg::Tr)
        }),
        ("after reset", true, Ldtr, |s| {
            *s = Segment::after_reset(SegReg::Ldtr)
        }),
        ("of the LDT", false, Ldtr, |s| *s = system(4, 2)),
        ("a TSS", false, Ldtr, |s| *s = system(0, 0xb)),
        ("of nobody", false, Tr, |s| s.base = 1 << 63),
    ];
    table(Rules::Protected, protected(), rows);
    table(Rules::Ia32e, long(), rows);
    let busy16: fn(&mut Segment) = |s| s.kind = 3;
    table(
        Rules::Protected,
        protected(),
        &[("16 bits", true, Tr, busy16)],
    );
    table(Rules::Ia32e, long(), &[("16 bits", false, Tr, busy16)]);
}

#[test]
fn what_real_mode_leaves_for_protected_mode() {
    // SeaBIOS at its switch: CS f000, the others 0.
    let mut s = [SegReg::Es; 8].map(Segment::after_reset);
    s[SegReg::Cs as usize] = Segment {
        base: 0xf_0000,
        ..Segment::after_reset(SegReg::Cs)
    };
    s[SegReg::Ldtr as usize] = Segment::after_reset(SegReg::Ldtr);
    s[SegReg::Tr as usize] = Segment::after_reset(SegReg::Tr);
    assert!(valid(Rules::Protected, &s));
    // A selector that looks like one of level 3.
    s[SegReg::Ds as usize].selector = 0x9fc3;
    assert!(!valid(Rules::Protected, &s));
}
