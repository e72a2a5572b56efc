// SPDX-License-Identifier: GPL-2.0

//! The module parameter halt_poll_ns: a vCPU in HLT polls for a while before it sleeps, but not past a signal, and no longer
//! than the parameter says now.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::tap::Tap;
use crate::tests::{signals, stats};
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use std::fs;
use std::time::Duration;

const VECTOR: u8 = 0x60;
const HANDLER: u64 = CODE + 0x800;
/// The guest asks here how long its timer is to run.
const PORT: i32 = 0x41;
/// The register of the timer's current count.
const CURRENT_COUNT: usize = 0x390;
/// The longest time that the vCPU may poll, and times in which it learns to do so. A vCPU polls twice as long each time that
/// it waited for longer than it polled: 10 us at first, 80 ms in the end.
const MOST: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_millis(50);
const ROUNDS: usize = 15;
/// When the signal comes. The guest's timer comes after twice that, while the vCPU still polls.
const SIGNAL_AFTER: Duration = Duration::from_millis(10);

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let parameter = Parameter::set(dev, MOST)?;
    let (mut guest, _ram) = Guest::start(dev)?;
    for _ in 0..ROUNDS {
        guest.waits(WAIT)?;
    }
    if guest.polls()? == 0 {
        t.skip("halt_poll_ns", "this host does not poll");
        return Ok(());
    }
    signal(t, &mut guest)?;
    lowered(t, &mut guest, &parameter)
}

/// A signal ends KVM_RUN before the event that the vCPU polls for, which ends HLT, does.
fn signal(t: &mut Tap, guest: &mut Guest) -> Outcome {
    signals::catch()?;
    guest.sets_timer(2 * SIGNAL_AFTER);
    let alarm = Alarm::after(SIGNAL_AFTER)?;
    let result = guest.vcpu.run();
    drop(alarm);
    t.errno("a signal ends KVM_RUN", result, libc::EINTR);
    let apic = guest.vcpu.fd.get_lapic()?;
    t.ok(
        "while the timer that the vCPU polled for runs on",
        apic.regs[CURRENT_COUNT..][..4] != [0; 4],
    );
    t.eq("it ends HLT", guest.vcpu.run()?, asks());
    Ok(())
}

/// What was learnt counts no more than the parameter.
fn lowered(t: &mut Tap, guest: &mut Guest, parameter: &Parameter) -> Outcome {
    parameter.write(Duration::ZERO)?;
    let before = guest.polls()?;
    for _ in 0..5 {
        guest.waits(Duration::from_millis(1))?;
    }
    t.eq("with 0 no vCPU polls", guest.polls()?, before);
    Ok(())
}

/// A guest that sets its timer to what it is told, waits in HLT for its interrupt, and asks again.
struct Guest {
    vcpu: Vcpu,
}

/// It asks.
fn asks() -> Exit {
    Exit::In {
        port: PORT as u16,
        size: 4,
        count: 1,
    }
}

impl Guest {
    /// Started, up to its first question.
    fn start(dev: &Device) -> Outcome<(Self, Ram)> {
        let vm = Vm::with_irqchip(dev)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let mut vcpu = vm.vcpu(0)?;
        let code = asm64(|a| {
            a.mov(rbx, 0xfee0_0000u64)?;
            a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
            // The timer divides by 1.
            a.mov(dword_ptr(rbx + 0x3e0), 0xbu32)?;
            a.mov(dword_ptr(rbx + 0x320), u32::from(VECTOR))?;
            forever(a, |a| {
                a.in_(eax, PORT)?;
                a.mov(dword_ptr(rbx + 0x380), eax)?;
                a.sti()?;
                a.hlt()?;
                a.cli()
            })
        });
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        let handler = assemble(64, HANDLER, |a| {
            a.mov(dword_ptr(rbx + 0xb0), 0)?;
            a.iretq()
        });
        ram.write(HANDLER, &handler);
        setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
        match vcpu.run()? {
            exit if exit == asks() => Ok((Guest { vcpu }, ram)),
            other => Err(format!("the guest does not start: {other:?}").into()),
        }
    }

    /// Answers the question: the bus has a cycle of 1 ns. 0 is never.
    fn sets_timer(&mut self, to: Duration) {
        self.vcpu.reply(&(to.as_nanos() as u32).to_le_bytes());
    }

    /// One HLT for so long.
    fn waits(&mut self, time: Duration) -> Outcome {
        self.sets_timer(time);
        match self.vcpu.run()? {
            exit if exit == asks() => Ok(()),
            other => Err(format!("the timer does not end HLT: {other:?}").into()),
        }
    }

    /// How often it has polled.
    fn polls(&self) -> Outcome<u64> {
        let all = stats::of(self.vcpu.raw())?;
        Ok(all.get("halt_attempted_poll").copied().unwrap_or(0))
    }
}

/// The module parameter, which is as before when this is dropped.
struct Parameter {
    path: String,
    old: String,
}

impl Parameter {
    fn set(dev: &Device, value: Duration) -> Outcome<Self> {
        let module = dev.path().trim_start_matches("/dev/");
        let path = format!("/sys/module/{module}/parameters/halt_poll_ns");
        let old = fs::read_to_string(&path)?;
        let parameter = Parameter { path, old };
        parameter.write(value)?;
        Ok(parameter)
    }

    fn write(&self, value: Duration) -> Outcome {
        Ok(fs::write(&self.path, value.as_nanos().to_string())?)
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        // It could be written before.
        let _ = fs::write(&self.path, self.old.trim());
    }
}

/// A timer that sends [`signals::SIGNAL`] to this thread, from an interrupt: no other thread has to run for that.
struct Alarm(libc::timer_t);

impl Alarm {
    fn after(time: Duration) -> Result<Self, Errno> {
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: a zeroed sigevent is valid, and its fields are set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signals::SIGNAL;
        // SAFETY: asks for the thread's id.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        // SAFETY: both are ours and live during the call.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } != 0 {
            return Err(Errno::last());
        }
        let alarm = Alarm(timer);
        // SAFETY: a zeroed itimerspec is valid.
        let mut when: libc::itimerspec = unsafe { std::mem::zeroed() };
        when.it_value.tv_sec = time.as_secs() as libc::time_t;
        when.it_value.tv_nsec = time.subsec_nanos().into();
        // SAFETY: the timer is ours; the old value is not asked for.
        if unsafe { libc::timer_settime(timer, 0, &when, std::ptr::null_mut()) } != 0 {
            return Err(Errno::last());
        }
        Ok(alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_delete(self.0) };
    }
}
