// SPDX-License-Identifier: GPL-2.0

//! Runs random user-mode instructions on this machine's processor and in rkvm's emulator, from the same registers,
//! flags and memory, and compares everything: results, defined flags, faults with error code and address.
//!
//! 64-bit code, and 32-bit code of compatibility mode. The seed is printed; with `--seed` the same cases come again.

mod compare;
#[cfg(test)]
mod exhaustive;
mod generate;
mod mirror;
mod native;
mod vendor;

use clap::Parser;
use compare::{After, Difference, Ending, Verdict};
use generate::{Case, Generator, Random};
use mirror::Mirror;
use native::{Native, Registers, Trap, DATA_BYTES};
use rkvm_core::emulate::*;
use std::collections::BTreeMap;
use vendor::{Question, Vendor};

/// Compares rkvm's instruction emulator with this machine's processor.
#[derive(Parser)]
struct Arguments {
    /// How many instructions to run.
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Where the random numbers start; from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this operation (name as in the opcode table).
    #[arg(long)]
    only: Option<String>,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64)
    });
    println!("emulator_diff: seed {seed}");
    let native = match Native::new() {
        Ok(native) => native,
        Err(e) => {
            eprintln!("emulator_diff: {e}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let mut run = Run {
        native,
        mirror: Mirror::new(),
        emulator: Emulator::new(),
        failures: BTreeMap::new(),
        faults: 0,
        skipped: 0,
        vendor: Vendor::here(),
        not_run: BTreeMap::new(),
        as_vendor: BTreeMap::new(),
    };
    let generator = Generator::new();
    let mut random = Random(seed);
    let mut cases = 0;
    let mut per_op: BTreeMap<String, u64> = BTreeMap::new();
    while cases < arguments.cases {
        let Some(case) = generator.case(&mut random) else {
            continue;
        };
        if let Some(op) = run.one(&case, arguments.only.as_deref()) {
            cases += 1;
            *per_op.entry(op).or_default() += 1;
        }
    }
    let (long, short) = generator.operations();
    println!(
        "emulator_diff: {cases} cases of {} operations ({long} in 64-bit, {short} in 32-bit code), {} ended in a fault, \
         {} left out; {} processor: {} more left out",
        per_op.len(),
        run.faults,
        run.skipped,
        run.vendor,
        run.not_run.values().sum::<u64>()
    );
    for (what, count) in &run.not_run {
        println!("  left out: {what}: {count} times");
    }
    for (what, count) in &run.as_vendor {
        println!("  as {} does: {what}: {count} times", run.vendor);
    }
    for (key, (count, text)) in &run.failures {
        println!("DIFFERENT {key}: {count} times\n{text}");
    }
    if run.failures.is_empty() {
        println!("emulator_diff: no difference");
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

struct Run {
    native: Native,
    mirror: Mirror,
    emulator: Emulator,
    failures: BTreeMap<String, (u64, String)>,
    faults: u64,
    skipped: u64,
    vendor: Vendor,
    /// Cases that the processor's vendor has otherwise, and that were not run, by what they are.
    not_run: BTreeMap<&'static str, u64>,
    /// Cases that ended as they do with this vendor only.
    as_vendor: BTreeMap<&'static str, u64>,
}

impl Run {
    /// Runs a case on both sides; the operation, or `None` if it was left out.
    fn one(&mut self, case: &Case, only: Option<&str>) -> Option<String> {
        if let Some((offset, bytes)) = &case.data {
            self.native.set_data(*offset, bytes);
            self.mirror.data[*offset..*offset + 64].copy_from_slice(bytes);
        }
        let before: Box<[u8; DATA_BYTES]> = self.mirror.data.clone();
        let (regs, ending) = self
            .mirror
            .emulate(&mut self.emulator, case, &case.registers);
        let insn = *self.emulator.insn();
        let name = format!("{:?}", insn.entry.op);
        let wanted = only.is_none_or(|o| o == name);
        if !wanted || !self.is_to_run(case, &insn, &regs, &ending) {
            self.mirror.data.copy_from_slice(&before[..]);
            return None;
        }
        self.native.set_code(&case.code);
        let native = self.native.run(&case.registers, case.long);
        if matches!(ending, Ending::Fault(_)) {
            self.faults += 1;
        }
        let same_data = self.native.data_equals(&self.mirror.data);
        let verdict = compare::compare(
            &insn,
            &case.registers,
            (&regs, &self.mirror.vectors, &ending),
            (&native.0, &native.1),
            same_data,
        );
        if let Verdict::Different(what) = verdict {
            let ours = self.mirror.after(regs, ending);
            match self.vendors_way(case, &insn, before, ours, &native) {
                Some(way) => *self.as_vendor.entry(way).or_default() += 1,
                None => self.failed(case, &insn, &what),
            }
            self.mirror.data.copy_from_slice(&self.native.data());
        } else if !same_data {
            self.mirror.data.copy_from_slice(&self.native.data());
        }
        Some(name)
    }

    /// Whether a case can be run on this machine's processor; else it is counted.
    fn is_to_run(&mut self, case: &Case, insn: &Insn, regs: &Regs, ending: &Ending) -> bool {
        if !compare::safe(ending, regs, insn) {
            self.skipped += 1;
            return false;
        }
        let why = self.vendor.leaves_out(insn, case, &mut self.mirror);
        if let Some(why) = why {
            *self.not_run.entry(why).or_default() += 1;
        }
        why.is_none()
    }

    /// What the processor's vendor does otherwise, if that is what the processor did.
    fn vendors_way(
        &mut self,
        case: &Case,
        insn: &Insn,
        before: Box<[u8; DATA_BYTES]>,
        ours: After,
        (native, trap): &(Registers, Trap),
    ) -> Option<&'static str> {
        let start = After {
            ending: Ending::Unhandled, // not ended yet
            regs: case.registers.general(),
            vectors: case.registers.vectors,
            data: before,
        };
        let mut question = Question {
            case,
            insn,
            start: &start,
            mirror: &mut self.mirror,
            emulator: &mut self.emulator,
        };
        let mut now = ours;
        for deviation in self.vendor.deviations() {
            let Some(next) = (deviation.outcome)(&mut question, &now) else {
                continue;
            };
            let verdict = compare::compare(
                insn,
                &case.registers,
                (&next.regs, &next.vectors, &next.ending),
                (native, trap),
                self.native.data_equals(&next.data),
            );
            if matches!(verdict, Verdict::Same) {
                return Some(deviation.what);
            }
            now = next;
        }
        None
    }

    /// Keeps a difference that has no excuse.
    fn failed(&mut self, case: &Case, insn: &Insn, what: &Difference) {
        let hex: Vec<String> = case.code.iter().map(|b| format!("{b:02x}")).collect();
        let key = format!(
            "{:?} {:?} {:02x} {}",
            insn.encoding, insn.entry.op, insn.opcode, what.kind
        );
        let e = self.failures.entry(key).or_insert_with(|| {
            let mode = if case.long { 64 } else { 32 };
            (0, format!("  {} ({mode}-bit) {}", hex.join(" "), what.text))
        });
        e.0 += 1;
    }
}
