// SPDX-License-Identifier: GPL-2.0

//! Task switches between TSSs of both sizes (SDM volume 3, "Task Switching").
//!
//! Everything that can fault in the old task is done first. After the new task's registers are loaded, a bad segment
//! is a fault *of the new task*: the switch is committed, then the exception is delivered.

use crate::addr::Gva;
use crate::exception::{Exception, Vector};
use crate::regs::{cr0, dr, rflags, Gpr, SegReg};

use super::super::exec::{Exec, Flow};
use super::super::ops::{Access, Reply, Stop};
use super::super::segment::{is_null, selector_fault, Descriptor};
use super::super::state::{ar, Cr, Mode, Segment, Width};
use super::code::Stack;

/// What causes a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitch {
    /// CALL: nested.
    Call,
    /// JMP.
    Jump,
    /// IRET of a nested task.
    Return,
    /// An interrupt or exception through a task gate: nested. RIP is that of the next instruction already.
    Gate,
}

/// The state that a TSS keeps of a task, from the instruction pointer on.
#[derive(Clone, Copy, Default)]
struct TaskState {
    cr3: u64,
    rip: u64,
    rflags: u64,
    gpr: [u64; 8],
    /// ES, CS, SS, DS, FS, GS, LDTR.
    selectors: [u16; 7],
    trap: bool,
}

/// Offsets in a TSS of one size.
struct Layout {
    /// Of the instruction pointer; flags, registers and selectors follow, each in a slot of `width`.
    start: u64,
    width: Width,
    /// Segment selectors without the LDT's.
    segments: usize,
    /// The smallest limit.
    limit: u32,
}

const TSS_16: Layout = Layout {
    start: 14,
    width: Width::B2,
    segments: 4,
    limit: 43,
};
const TSS_32: Layout = Layout {
    start: 32,
    width: Width::B4,
    segments: 6,
    limit: 103,
};

/// The layout of a TSS with these access rights.
fn layout(access: u32) -> &'static Layout {
    if access & 8 != 0 {
        &TSS_32
    } else {
        &TSS_16
    }
}

impl Exec<'_> {
    /// Switches to the task of `selector`. `error_code` is pushed on the new task's stack.
    pub(in super::super) fn switch_task(
        &mut self,
        selector: u16,
        reason: TaskSwitch,
        error_code: Option<u32>,
    ) -> Reply<Flow> {
        self.refuse_if_enforced()?;
        let vector = match reason {
            TaskSwitch::Return => Vector::Ts,
            _ => Vector::Gp,
        };
        let new = self.task_descriptor(selector, reason, vector)?;
        let old_tr = self.ops.segment(SegReg::Tr);
        let new_layout = layout(new.access());
        let state = self.read_task(Gva(new.base()), new_layout)?;
        self.save_task(&old_tr, reason)?;
        let nested = matches!(reason, TaskSwitch::Call | TaskSwitch::Gate);
        if nested {
            let link = u64::from(old_tr.selector).to_le_bytes();
            let link = link.get(..2).unwrap_or_default();
            self.write_bytes(Gva(new.base()), link, Access::SYSTEM_WRITE)?;
        } else {
            self.set_busy(&old_tr, false)?;
        }
        let mut tr = new.segment(selector);
        tr.access |= 2;
        if reason != TaskSwitch::Return {
            let old = (new.raw >> 40) as u8;
            self.change_type_byte(new.at, old, old | 2)?;
        }
        self.load_registers(&state, nested, &tr, new_layout)?;
        match self.load_task_segments(&state, error_code, new_layout) {
            Ok(()) => Ok(Flow::Done),
            Err(Stop::Fault(e)) => Ok(Flow::Faulted(e)),
            Err(stop) => Err(stop),
        }
    }

    /// The descriptor of the new task, checked.
    fn task_descriptor(
        &mut self,
        selector: u16,
        reason: TaskSwitch,
        vector: Vector,
    ) -> Reply<Descriptor> {
        let fault = selector_fault(vector, selector);
        if is_null(selector) || selector & 4 != 0 {
            return Err(fault);
        }
        let d = self.descriptor(selector, vector)?;
        let busy = if reason == TaskSwitch::Return { 2 } else { 0 };
        // Type 1 or 9 with the busy bit as the reason wants it.
        if d.access() & (ar::S | 7) != 1 | busy {
            return Err(fault);
        }
        if !d.has(ar::P) {
            return Err(selector_fault(Vector::Np, selector));
        }
        if d.limit() < layout(d.access()).limit {
            return Err(selector_fault(Vector::Ts, selector));
        }
        Ok(d)
    }

    /// Sets or clears the busy bit of the current task's descriptor.
    fn set_busy(&mut self, tr: &Segment, busy: bool) -> Reply {
        let d = self.descriptor(tr.selector, Vector::Ts)?;
        let old = (d.raw >> 40) as u8;
        let new = if busy { old | 2 } else { old & !2 };
        self.change_type_byte(d.at, old, new)
    }

    /// Stores the old task's state in its TSS.
    fn save_task(&mut self, tr: &Segment, reason: TaskSwitch) -> Reply {
        let layout = layout(tr.access);
        let mut flags = self.rflags;
        if reason == TaskSwitch::Return {
            flags &= !rflags::NT;
        }
        let mut at = Gva(tr.base.wrapping_add(layout.start));
        let size = u64::from(layout.width.bytes());
        let mut slots = [0u64; 16];
        let registers = (0..8u8).map(|r| self.gpr(r));
        let values = [self.next_rip(), flags].into_iter().chain(registers);
        for (slot, value) in slots.iter_mut().zip(values) {
            *slot = value;
        }
        let selectors = SegReg::CODE_AND_DATA.map(|s| u64::from(self.ops.segment(s).selector));
        for (slot, value) in slots.iter_mut().skip(10).zip(selectors) {
            *slot = value;
        }
        let used = layout.segments.wrapping_add(10);
        for slot in slots.iter().take(used) {
            let data = slot.to_le_bytes();
            let data = data.get(..layout.width.size()).unwrap_or_default();
            self.write_bytes(at, data, Access::SYSTEM_WRITE)?;
            at = at.wrapping_add(size);
        }
        Ok(())
    }

    /// Reads a task's state from its TSS.
    fn read_task(&mut self, tss: Gva, layout: &Layout) -> Reply<TaskState> {
        let mut state = TaskState::default();
        let width = layout.width;
        let size = u64::from(width.bytes());
        let mut at = tss.wrapping_add(layout.start);
        let mut slots = [0u64; 17];
        let used = layout.segments.wrapping_add(11);
        for slot in slots.iter_mut().take(used) {
            *slot = self.read_linear(at, width, Access::SYSTEM_READ)?;
            at = at.wrapping_add(size);
        }
        let mut values = slots.into_iter();
        state.rip = values.next().unwrap_or_default();
        state.rflags = values.next().unwrap_or_default();
        for r in &mut state.gpr {
            let high = if width == Width::B2 { 0xffff_0000 } else { 0 };
            *r = values.next().unwrap_or_default() | high;
        }
        for s in state.selectors.iter_mut().take(layout.segments) {
            *s = values.next().unwrap_or_default() as u16;
        }
        if let Some(ldt) = state.selectors.last_mut() {
            *ldt = values.next().unwrap_or_default() as u16;
        }
        if width == Width::B4 {
            let cr3 = tss.wrapping_add(28);
            state.cr3 = self.read_linear(cr3, Width::B4, Access::SYSTEM_READ)?;
            let trap = self.read_linear(tss.wrapping_add(100), Width::B2, Access::SYSTEM_READ)?;
            state.trap = trap & 1 != 0;
        }
        Ok(state)
    }

    /// Loads what needs no descriptor.
    fn load_registers(
        &mut self,
        state: &TaskState,
        nested: bool,
        tr: &Segment,
        layout: &Layout,
    ) -> Reply {
        let c0 = self.cr(Cr::Cr0);
        if layout.width == Width::B4 && c0 & cr0::PG != 0 {
            self.ops.set_cr(Cr::Cr3, state.cr3)?;
        }
        self.ops.set_cr(Cr::Cr0, c0 | cr0::TS)?;
        let dr7 = self.ops.dr(7);
        // The local breakpoints are the old task's.
        if dr7 & 0x155 != 0 {
            self.ops.set_dr(7, dr7 & !0x155)?;
        }
        self.ops.set_segment(SegReg::Tr, tr);
        for (r, value) in (0..8u8).zip(state.gpr) {
            self.set_gpr(r, value);
        }
        self.rip = state.rip;
        self.rflags = (state.rflags & 0x3f_7fd5) | rflags::FIXED;
        if nested {
            self.rflags |= rflags::NT;
        }
        self.trap = if state.trap { dr::DR6_BT } else { 0 };
        self.mode = if self.rflags & rflags::VM != 0 {
            Mode::Vm86
        } else {
            Mode::Prot32
        };
        Ok(())
    }

    /// Loads LDTR and the segments of the new task, at its own level.
    fn load_task_segments(
        &mut self,
        state: &TaskState,
        error_code: Option<u32>,
        layout: &Layout,
    ) -> Reply {
        let [es, cs, ss, ds, fs, gs, ldt] = state.selectors;
        // All selectors are there before the first is checked.
        let all = [es, cs, ss, ds, fs, gs];
        let vm86 = self.mode == Mode::Vm86;
        let cpl = if vm86 { 3 } else { (cs & 3) as u8 };
        for (which, selector) in SegReg::CODE_AND_DATA.into_iter().zip(all) {
            let segment = if vm86 {
                self.real_segment(which, selector)
            } else {
                Segment {
                    access: ar::UNUSABLE | u32::from(cpl) << 5,
                    ..Segment::unusable(selector)
                }
            };
            self.ops.set_segment(which, &segment);
        }
        self.load_task_ldt(ldt)?;
        let mut stack = if vm86 {
            self.real_segment(SegReg::Ss, ss)
        } else {
            let ss = self.load_task_code(state, cpl)?;
            for (which, selector) in [
                (SegReg::Ds, ds),
                (SegReg::Es, es),
                (SegReg::Fs, fs),
                (SegReg::Gs, gs),
            ] {
                let segment = self.data_segment(which, selector, cpl, Vector::Ts)?;
                self.ops.set_segment(which, &segment);
            }
            ss
        };
        if let Some(code) = error_code {
            stack.selector = ss;
            let mut stack = Stack {
                segment: stack,
                pointer: self.gpr(Gpr::Rsp as u8),
                long: false,
            };
            self.push_on(&mut stack, layout.width, u64::from(code))?;
            self.set_gpr(Gpr::Rsp as u8, stack.pointer);
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Reply {
        self.ops
            .set_segment(SegReg::Ldtr, &Segment::unusable(selector));
        if is_null(selector) {
            return Ok(());
        }
        let fault = selector_fault(Vector::Ts, selector);
        if selector & 4 != 0 {
            return Err(fault);
        }
        let d = self.descriptor(selector, Vector::Ts)?;
        if d.access() & (ar::S | ar::TYPE) != 2 || !d.has(ar::P) {
            return Err(fault);
        }
        self.ops.set_segment(SegReg::Ldtr, &d.segment(selector));
        Ok(())
    }

    /// Loads CS and SS of the new task; SS.
    fn load_task_code(&mut self, state: &TaskState, cpl: u8) -> Reply<Segment> {
        let [_, cs, ss, ..] = state.selectors;
        let mut d = self.code_descriptor(cs, Vector::Ts)?;
        let right = if d.has(ar::DC) {
            d.dpl() <= cpl
        } else {
            d.dpl() == cpl
        };
        if !right {
            return Err(selector_fault(Vector::Ts, cs));
        }
        if !d.has(ar::P) {
            return Err(selector_fault(Vector::Np, cs));
        }
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        self.ops.set_segment(SegReg::Cs, &d.segment(cs));
        let stack = self.data_segment(SegReg::Ss, ss, cpl, Vector::Ts)?;
        self.ops.set_segment(SegReg::Ss, &stack);
        if state.rip > u64::from(d.limit()) {
            return Err(Exception::GP0.into());
        }
        Ok(stack)
    }
}
