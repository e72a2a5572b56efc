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

use clap::Parser;
use compare::{Ending, Verdict};
use generate::{Generator, Random};
use mirror::Mirror;
use native::{Native, CODE, DATA_BYTES};
use rkvm_core::emulate::*;
use std::collections::BTreeMap;

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
         {} left out",
        per_op.len(),
        run.faults,
        run.skipped
    );
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
}

impl Run {
    /// Runs a case on both sides; the operation, or `None` if it was left out.
    fn one(&mut self, case: &generate::Case, only: Option<&str>) -> Option<String> {
        if let Some((offset, bytes)) = &case.data {
            self.native.set_data(*offset, bytes);
            self.mirror.data[*offset..*offset + 64].copy_from_slice(bytes);
        }
        let before: Box<[u8; DATA_BYTES]> = self.mirror.data.clone();
        self.mirror.code = [0xcc; 16];
        self.mirror.code[..case.code.len()].copy_from_slice(&case.code);
        self.mirror.mode = generate::mode(case.long);
        self.mirror.vectors = case.registers.vectors;
        self.mirror.opmasks = case.registers.opmasks;
        let mut regs = Regs {
            gpr: case.registers.gpr,
            rip: case.registers.rip,
            rflags: case.registers.rflags,
        };
        let ending = self.emulate(&mut regs);
        let insn = *self.emulator.insn();
        let name = format!("{:?}", insn.entry.op);
        let wanted = only.is_none_or(|o| o == name);
        if !wanted || !compare::safe(&ending, &regs, &insn) {
            self.mirror.data.copy_from_slice(&before[..]);
            self.skipped += u64::from(wanted);
            return None;
        }
        self.native.set_code(&case.code);
        let (after, trap) = self.native.run(&case.registers, case.long);
        if matches!(ending, Ending::Fault(_)) {
            self.faults += 1;
        }
        let same_data = self.native.data_equals(&self.mirror.data);
        let verdict = compare::compare(
            &insn,
            &case.registers,
            (&regs, &self.mirror.vectors, &ending),
            (&after, &trap),
            same_data,
        );
        if let Verdict::Different(what) = verdict {
            let hex: Vec<String> = case.code.iter().map(|b| format!("{b:02x}")).collect();
            let key = format!(
                "{:?} {name} {:02x} {}",
                insn.encoding, insn.opcode, what.kind
            );
            let e = self.failures.entry(key).or_insert_with(|| {
                let mode = if case.long { 64 } else { 32 };
                (0, format!("  {} ({mode}-bit) {}", hex.join(" "), what.text))
            });
            e.0 += 1;
        }
        if !same_data {
            let data = self.native.data();
            self.mirror.data.copy_from_slice(&data);
        }
        Some(name)
    }

    /// The emulator's side: until the instruction has ended.
    fn emulate(&mut self, regs: &mut Regs) -> Ending {
        loop {
            match self.emulator.start(regs, &mut self.mirror, Cause::Exit) {
                Outcome::Completed(c) if c.more => {}
                Outcome::Completed(_) => return Ending::Completed,
                Outcome::Inject(e, _) => return Ending::Fault(e),
                Outcome::Unhandled(_) => return Ending::Unhandled,
                other => panic!("{other:?} at {:x}", CODE),
            }
        }
    }
}
