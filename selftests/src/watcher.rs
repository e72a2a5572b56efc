// SPDX-License-Identifier: GPL-2.0

//! A guest in a thread of its own that tells every change of one word, while the test changes what is behind it.

use crate::asm::*;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::Outcome;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// Where the word is.
pub const WINDOW: u64 = 0x100_0000;
/// What the guest reads while there is no slot.
pub const EMPTY: u32 = 0xe0e0_e0e0;
/// The value that ends the thread.
pub const STOP: u32 = 0x5705_7057;

const PORT: u16 = 0x40;

/// The changes of the word, in order.
pub struct Seen(Receiver<u32>);

impl Seen {
    /// Waits for the next change, which has to be to `want`.
    pub fn next(&self, t: &mut Tap, what: &str, want: u32) -> Outcome {
        let got = self.0.recv().map_err(|_| "the vCPU thread ended")?;
        t.eq(what, got, want);
        Ok(())
    }
}

/// Puts the guest, with its code in `ram`, in front of the word.
fn start(vcpu: &Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.sti()?;
        a.xor(ebx, ebx)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(WINDOW))?;
        a.cmp(eax, ebx)?;
        a.je(again)?;
        a.mov(ebx, eax)?;
        a.out(i32::from(PORT), eax)?;
        a.jmp(again)
    });
    Ok(setup::start(vcpu, ram, Mode::Long, &code)?)
}

/// Runs the vCPU and tells each value the guest saw, until it sees [`STOP`].
fn tell_changes(mut vcpu: Vcpu, tell: &Sender<u32>) -> Outcome {
    loop {
        match vcpu.run()? {
            Exit::MmioRead {
                gpa: WINDOW,
                len: 4,
            } => vcpu.reply(&EMPTY.to_le_bytes()),
            Exit::Out {
                port: PORT,
                size: 4,
                data,
            } => {
                let value = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
                tell.send(value)?;
                if value == STOP {
                    return Ok(());
                }
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// Does the `steps` while the guest watches. `stop` then shows it [`STOP`], whatever the steps gave.
pub fn watch(
    vcpu: Vcpu,
    ram: &Ram,
    steps: impl FnOnce(&Seen) -> Outcome,
    stop: impl FnOnce() -> Outcome,
) -> Outcome {
    start(&vcpu, ram)?;
    let (tell, seen) = mpsc::channel();
    // Open until the guest has told the last value.
    let seen = Seen(seen);
    thread::scope(|s| {
        let runner = s.spawn(move || tell_changes(vcpu, &tell));
        let result = steps(&seen);
        stop()?;
        runner.join().map_err(|_| "the vCPU thread panicked")??;
        result
    })
}
