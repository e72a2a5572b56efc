// SPDX-License-Identifier: GPL-2.0

//! The same instruction executed by the processor and by the emulator, from the same state: everything that can be seen
//! afterwards has to be equal.
//!
//! The emulator is asked for by a prefix, which lies in front of the place of the instruction, so that all addresses are the
//! same. If the prefix were not taken, the guest would see a #UD five bytes earlier: no case can pass by chance.

mod cases;
mod end;
mod guest;

use crate::device::Device;
use crate::errno::Errno;
use crate::prefix::{Prefix, PREFIX};
use crate::ram::Ram;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use cases::Case;
use end::End;
use guest::{Guest, Image, Mode};
use kvm_bindings::*;
use std::fs;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    match Prefix::on() {
        Ok(prefix) => all(t, dev, prefix.is_of_c_kvm()),
        Err(why) => {
            t.skip("emulated as executed", why);
            Ok(())
        }
    }
}

fn all(t: &mut Tap, dev: &Device, c_kvm: bool) -> Outcome {
    let mut machine = Machine::new(dev)?;
    machine.execute(&cases::FIRST, Mode::Vm86, false)?;
    let filter = std::env::var("RKVM_CASE").unwrap_or_default();
    let virtual_8086 = !c_kvm && real_mode_is_virtual_8086()?;
    let mut known = 0;
    for (subject, cases) in cases::ALL {
        for case in cases {
            let what = format!("{subject}: {}", case.what);
            if !what.contains(&filter) {
                continue;
            }
            let no_real_mode = virtual_8086 && cases::UNLIKE_VIRTUAL_8086.contains(&what.as_str());
            let modes = if no_real_mode {
                case.modes & !(Mode::Real as u16)
            } else {
                case.modes
            };
            let (ends, wrong) = machine.compare(case, modes)?;
            if !filter.is_empty() {
                ends.iter().for_each(|line| t.diag(line));
            }
            if c_kvm && !wrong.is_empty() {
                // C KVM is not under test: its emulator knows less, and some of what it knows differs.
                known += 1;
                t.diag(format!("C KVM differs: {what}"));
            } else {
                t.ok(what, wrong.is_empty());
            }
            wrong.iter().for_each(|line| t.diag(line));
        }
    }
    if c_kvm {
        t.diag(format!("C KVM differs in {known} cases"));
    }
    Ok(())
}

/// Whether the module runs without unrestricted guest.
fn real_mode_is_virtual_8086() -> std::io::Result<bool> {
    let unrestricted = fs::read_to_string("/sys/module/rkvm/parameters/unrestricted_guest")?;
    Ok(unrestricted.trim() == "N")
}

/// One vCPU, which executes all cases, and what they begin with.
struct Machine {
    ram: Ram,
    vcpu: Vcpu,
    fresh: kvm_sregs,
    xsave: kvm_xsave,
    images: Vec<(Mode, Image)>,
}

impl Machine {
    fn new(dev: &Device) -> Result<Self, Errno> {
        let vm = Vm::new(dev)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let vcpu = vm.vcpu(0)?;
        let fresh = vcpu.fd.get_sregs()?;
        let image = |mode| (mode, Guest::new(mode, &ram, &fresh).image());
        Ok(Machine {
            xsave: vectors(&vcpu)?,
            images: Mode::ALL.into_iter().map(image).collect(),
            ram,
            vcpu,
            fresh,
        })
    }

    /// Executes `case` natively and by the emulator in `modes`; how it ended natively, and the differences, in words.
    fn compare(&mut self, case: &Case, modes: u16) -> Result<(Vec<String>, Vec<String>), Errno> {
        let (mut ends, mut wrong) = (Vec::new(), Vec::new());
        let chosen = |mode: &Mode| modes & *mode as u16 != 0;
        for mode in Mode::ALL.into_iter().filter(chosen) {
            let native = self.execute(case, mode, false)?;
            let emulated = self.execute(case, mode, true)?;
            ends.push(format!("{mode:?}: {}", native.end()));
            let differences = emulated.differences(&native);
            if !differences.is_empty() {
                let (e, n) = (emulated.end(), native.end());
                wrong.push(format!("{mode:?}: emulated {e}, natively {n}"));
                wrong.extend(differences);
            }
        }
        Ok((ends, wrong))
    }

    fn execute(&mut self, case: &Case, mode: Mode, forced: bool) -> Result<End, Errno> {
        let image = self.images.iter().find(|(of, _)| *of == mode);
        let (_, image) = image.expect("all modes have an image");
        image.restore(&self.ram);
        self.prepare(case, mode, forced)?;
        End::run(&mut self.vcpu, &self.ram, image)
    }

    /// Loads the state that `case` starts from in `mode`.
    fn prepare(&self, case: &Case, mode: Mode, forced: bool) -> Result<(), Errno> {
        let (vcpu, ram) = (&self.vcpu, &self.ram);
        let mut guest = Guest::new(mode, ram, &self.fresh);
        (case.set)(&mut guest);
        ram.write(guest::CODE + guest::AT, case.bytes);
        // The native run has the prefix in front as well: memory is to be equal.
        ram.write(guest::CODE + guest::AT - PREFIX.len() as u64, &PREFIX);
        if forced {
            guest.regs.rip -= PREFIX.len() as u64;
        }
        for index in end::MSRS {
            vcpu.set_msr(index, first_msr(index))?;
        }
        guest::load(vcpu, &guest, &self.xsave)
    }
}

/// What an MSR starts with.
fn first_msr(index: u32) -> u64 {
    use guest::sel::{CODE64, USER_CODE32};
    match index {
        0x174 => CODE64.into(),
        0x175 => guest::STACK + 0x1400,
        0x176 | 0xc000_0082 => guest::CODE + 0x555,
        0x277 => 0x0007_0406_0007_0406,
        0xc000_0081 => u64::from(CODE64) << 32 | u64::from(USER_CODE32) << 48,
        0xc000_0084 => 0x4_0700,
        0xc000_0102 => guest::DATA,
        _ => 7,
    }
}

/// x87, XMM, YMM and ZMM registers with a byte pattern.
fn vectors(vcpu: &Vcpu) -> Result<kvm_xsave, Errno> {
    let mut xsave = vcpu.fd.get_xsave()?;
    let word = |offset: usize| offset / 4;
    for n in word(160)..word(416) {
        xsave.region[n] = (n as u32).wrapping_mul(0x0b07_0503);
    }
    for n in word(576)..word(832) {
        xsave.region[n] = (n as u32).wrapping_mul(0x0103_0511);
    }
    // MXCSR as after reset, and all of the three parts in use.
    xsave.region[word(24)] = 0x1f80;
    xsave.region[word(512)] |= 7;
    if guest::wide_vectors() {
        for (k, mask) in [0x5a5a, 0x00f0_5a3c_0ff0_5a5a, 0xff, 1 << 12, 0]
            .iter()
            .enumerate()
        {
            let mask: u64 = *mask;
            xsave.region[word(end::OPMASKS + 8 * k)] = mask as u32;
            xsave.region[word(end::OPMASKS + 8 * k) + 1] = (mask >> 32) as u32;
        }
        for n in word(end::OPMASKS + 64)..word(end::WIDE_END) {
            xsave.region[n] = (n as u32).wrapping_mul(0x0513_0917);
        }
        xsave.region[word(512)] |= 0xe0;
    }
    Ok(xsave)
}
