// SPDX-License-Identifier: GPL-2.0

//! Coalesced MMIO and PIO: writes gather in the ring and make no exit.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use kvm_ioctls::IoEventAddress;

const DEVICE: u64 = 0xd000_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.mov(dword_ptr(rbx + 0x10), 0x1111_1111u32)?;
        a.mov(byte_ptr(rbx + 0x1ff), 0x22)?;
        // Over the end of the zone.
        a.mov(dword_ptr(rbx + 0x1fe), 0x3333_3333u32)?;
        a.mov(eax, dword_ptr(rbx + 0x10))?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.fd.map_coalesced_mmio_ring()?;
    vm.fd
        .register_coalesced_mmio(IoEventAddress::Mmio(DEVICE), 0x200)?;
    t.eq(
        "the write that leaves the zone is the first exit",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x1fe, &[0x33; 4]),
    );
    let first = vcpu.fd.coalesced_mmio_read()?.unwrap_or_default();
    t.eq(
        "the first entry of the ring",
        (first.phys_addr, first.len),
        (DEVICE + 0x10, 4),
    );
    t.eq("its data", first.data[..4].to_vec(), vec![0x11; 4]);
    let second = vcpu.fd.coalesced_mmio_read()?.unwrap_or_default();
    t.eq(
        "the second",
        (second.phys_addr, second.len, second.data[0]),
        (DEVICE + 0x1ff, 1, 0x22),
    );
    t.eq(
        "the ring is empty then",
        vcpu.fd.coalesced_mmio_read()?.is_none(),
        true,
    );
    t.eq(
        "reads are not coalesced",
        vcpu.run()?,
        Exit::MmioRead {
            gpa: DEVICE + 0x10,
            len: 4,
        },
    );
    vcpu.reply(&[0; 4]);
    t.eq("HLT", vcpu.run()?, Exit::Hlt);

    vm.fd
        .unregister_coalesced_mmio(IoEventAddress::Mmio(DEVICE), 0x200)?;
    setup::enter(&vcpu, Mode::Long, setup::CODE, setup::STACK)?;
    t.eq(
        "without the zone every write is an exit",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x10, &[0x11; 4]),
    );

    full(t, dev)?;
    ports(t, dev)?;
    t.errno(
        "a bad pointer",
        sys::ioctl(vm.raw(), sys::KVM_REGISTER_COALESCED_MMIO, 8),
        libc::EFAULT,
    );
    Ok(())
}

/// When the ring is full the next write is an exit again: none is lost.
fn full(t: &mut Tap, dev: &Device) -> Outcome {
    const WRITES: u64 = 1000;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.xor(ecx, ecx)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx), ecx)?;
        a.inc(ecx)?;
        a.cmp(ecx, WRITES as i32)?;
        a.jb(again)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.fd.map_coalesced_mmio_ring()?;
    vm.fd
        .register_coalesced_mmio(IoEventAddress::Mmio(DEVICE), 4)?;
    let mut got = Vec::new();
    let mut exits = 0;
    loop {
        let exit = vcpu.run()?;
        while let Some(e) = vcpu.fd.coalesced_mmio_read()? {
            got.push(u32::from_le_bytes([
                e.data[0], e.data[1], e.data[2], e.data[3],
            ]));
        }
        match exit {
            Exit::MmioWrite { data, .. } => {
                exits += 1;
                got.push(u32::from_le_bytes([data[0], data[1], data[2], data[3]]));
            }
            other => {
                t.eq("HLT", other, Exit::Hlt);
                break;
            }
        }
    }
    t.eq(
        "every write arrived, in order",
        got,
        (0..WRITES as u32).collect::<Vec<_>>(),
    );
    t.ok("with far fewer exits than writes", exits > 0 && exits < 20);
    Ok(())
}

fn ports(t: &mut Tap, dev: &Device) -> Outcome {
    if dev.cap(KVM_CAP_COALESCED_PIO) <= 0 {
        t.skip("coalesced ports", "no KVM_CAP_COALESCED_PIO");
        return Ok(());
    }
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(al, 0x77)?;
        a.out(0x50, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.fd.map_coalesced_mmio_ring()?;
    vm.fd
        .register_coalesced_mmio(IoEventAddress::Pio(0x50), 1)?;
    t.eq("a coalesced port makes no exit", vcpu.run()?, Exit::Hlt);
    let e = vcpu.fd.coalesced_mmio_read()?.unwrap_or_default();
    t.eq(
        "it is in the ring",
        (e.phys_addr, e.len, e.data[0]),
        (0x50, 1, 0x77),
    );
    // SAFETY: the ring's entry was filled in by the kernel; every value is a number.
    t.eq("marked as a port", unsafe { e.__bindgen_anon_1.pio }, 1);
    Ok(())
}
