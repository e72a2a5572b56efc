// SPDX-License-Identifier: GPL-2.0

//! The port devices of the VMM: COM1, a real-time clock, the keyboard controller's reset line,
//! the ACPI registers, and a port by which a guest ends the machine with a status of its own.

use crate::acpi;
use crate::console::Lines;
use crate::machine::End;
use crate::Outcome;
use std::sync::mpsc::Sender;
use std::sync::Mutex;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

const COM1: u16 = 0x3f8;
const COM1_LAST: u16 = 0x3ff;
const I8042_DATA: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
/// A byte written here ends the machine and is the VMM's exit status.
pub const EXIT_PORT: u16 = 0xf4;

/// What a guest asks of its power supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Power off.
    Off,
    /// Reset.
    Reset,
    /// End with this status ([`EXIT_PORT`]).
    Exit(u8),
}

/// The interrupt line of COM1: an irqfd.
struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

#[derive(Default)]
struct Registers {
    cmos_index: u8,
    pm1_enable: u16,
}

/// All devices, shared by the vCPU threads.
pub struct Devices {
    serial: Mutex<Serial<Line, NoEvents, Lines>>,
    registers: Mutex<Registers>,
    tell: Mutex<Sender<End>>,
}

impl Devices {
    /// COM1 signals `irq`; the end of the machine is told on `tell`.
    pub fn new(irq: EventFd, tell: Sender<End>) -> Outcome<Self> {
        Ok(Devices {
            serial: Mutex::new(Serial::new(Line(irq), Lines::stdout()?)),
            registers: Mutex::default(),
            tell: Mutex::new(tell),
        })
    }

    /// Hands typed bytes to COM1.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut serial = lock(&self.serial);
        for chunk in bytes.chunks(16) {
            // A full FIFO drops input, as hardware does.
            let _ = serial.enqueue_raw_bytes(chunk);
        }
    }

    /// Writes out what COM1 still holds back.
    pub fn flush(&self) {
        lock(&self.serial).writer_mut().push_out();
    }

    /// An OUT of the guest.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match port {
            COM1..=COM1_LAST => {
                // The only error is that of the interrupt line or of stdout: the guest can't help it.
                let _ = lock(&self.serial).write((port - COM1) as u8, value);
            }
            CMOS_INDEX => lock(&self.registers).cmos_index = value & 0x7f,
            I8042_COMMAND if value == I8042_RESET => self.end(Power::Reset),
            acpi::RESET if value & 4 != 0 => self.end(Power::Reset),
            EXIT_PORT => self.end(Power::Exit(value)),
            acpi::PM1_CONTROL => self.pm1_control(data),
            p if p == acpi::PM1_EVENT + 2 => {
                lock(&self.registers).pm1_enable =
                    u16::from(value) | (u16::from(*data.get(1).unwrap_or(&0)) << 8);
            }
            _ => {}
        }
    }

    /// An IN of the guest: all ones where nothing is.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let value: u16 = match port {
            COM1..=COM1_LAST => lock(&self.serial).read((port - COM1) as u8).into(),
            CMOS_DATA => cmos(lock(&self.registers).cmos_index).into(),
            // No byte waits, and none is being taken.
            I8042_COMMAND | I8042_DATA => 0,
            acpi::PM1_EVENT => 0,
            p if p == acpi::PM1_EVENT + 2 => lock(&self.registers).pm1_enable,
            // SCI_EN: the machine is always in ACPI mode.
            acpi::PM1_CONTROL => 1,
            _ => return,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn pm1_control(&self, data: &[u8]) {
        const SLP_EN: u16 = 1 << 13;
        let value = match data {
            [low, high, ..] => u16::from_le_bytes([*low, *high]),
            _ => return,
        };
        if value & SLP_EN != 0 && ((value >> 10) & 7) as u8 == acpi::SLEEP_TYPE_OFF {
            self.end(Power::Off);
        }
    }

    fn end(&self, power: Power) {
        // The receiver is gone when the machine ended already.
        let _ = lock(&self.tell).send(End::Power(power));
    }
}

/// A lock whose holder panicked still guards plain data.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A register of the real-time clock: the time in UTC, BCD, 24 hours.
fn cmos(index: u8) -> u8 {
    const STATUS_A: u8 = 0x26;
    const STATUS_B: u8 = 0x02;
    const STATUS_D_VALID: u8 = 0x80;
    let mut tm: libc::tm = zero_tm();
    // SAFETY: both pointers are to live values of the right types.
    unsafe {
        let now = libc::time(std::ptr::null_mut());
        libc::gmtime_r(&now, &mut tm);
    }
    let bcd = |v: i32| (((v / 10 % 10) << 4) | (v % 10)) as u8;
    match index {
        0 => bcd(tm.tm_sec),
        2 => bcd(tm.tm_min),
        4 => bcd(tm.tm_hour),
        6 => bcd(tm.tm_wday + 1),
        7 => bcd(tm.tm_mday),
        8 => bcd(tm.tm_mon + 1),
        9 => bcd(tm.tm_year),
        0x32 => bcd(19 + tm.tm_year / 100),
        0x0a => STATUS_A,
        0x0b => STATUS_B,
        0x0d => STATUS_D_VALID,
        _ => 0,
    }
}

fn zero_tm() -> libc::tm {
    // SAFETY: a tm of zeros is valid: numbers and a null pointer.
    unsafe { std::mem::zeroed() }
}
