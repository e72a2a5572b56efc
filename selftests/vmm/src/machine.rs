// SPDX-License-Identifier: GPL-2.0

//! The machine: memory, in-kernel interrupt controllers, a serial port, and ACPI tables that tell
//! of the vCPUs and of a way to power off.

use crate::devices::{Devices, Power};
use crate::{acpi, boot, console, cpu, layout, Outcome};
use kvm_bindings::{kvm_pit_config, kvm_userspace_memory_region, KVM_PIT_SPEAKER_DUMMY};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// The GSI of COM1.
const SERIAL_GSI: u32 = 4;

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// The 64-bit Linux boot protocol.
    Linux,
    /// PVH, in 32-bit protected mode; the image needs the entry note.
    Pvh,
}

/// What to boot, on what.
#[derive(Debug)]
pub struct Config {
    /// A bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
    /// Mebibytes of memory.
    pub mem: u64,
    /// vCPUs.
    pub cpus: u32,
    /// How the kernel is entered.
    pub protocol: Protocol,
}

/// How a machine ended.
#[derive(Debug)]
pub enum End {
    /// The guest powered off or asked for a reset.
    Power(Power),
    /// A triple fault.
    Shutdown,
    /// The VMM or the device under it failed.
    Failed(String),
}

/// Boots the machine and waits for its end.
pub fn run(kvm: &Kvm, config: &Config) -> Outcome<End> {
    let vm = kvm.create_vm().map_err(|e| format!("KVM_CREATE_VM: {e}"))?;
    // Never unmapped: the vCPU threads run until the process ends.
    let memory = ManuallyDrop::new(memory(&vm, config.mem)?);
    create_chips(&vm)?;
    let serial_irq = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.register_irqfd(&serial_irq, SERIAL_GSI)
        .map_err(|e| format!("KVM_IRQFD: {e}"))?;
    acpi::write(&memory, config.cpus)?;
    let entry = boot::load(&memory, config)?;

    let (tell, ends) = mpsc::channel();
    let devices = Arc::new(Devices::new(serial_irq, tell.clone())?);
    let terminal = console::start(devices.clone());
    let vcpus = (0..config.cpus)
        .map(|id| cpu::create(kvm, &vm, id, config.cpus, &memory, &entry))
        .collect::<Outcome<Vec<_>>>()?;
    for (id, vcpu) in vcpus.into_iter().enumerate() {
        let (devices, tell) = (devices.clone(), tell.clone());
        std::thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || vcpu_loop(id, vcpu, &devices, &tell))?;
    }
    let end = ends.recv()?;
    devices.flush();
    drop(terminal);
    Ok(end)
}

/// Guest memory: below the hole under 4 GiB, the rest above it, each a slot.
fn memory(vm: &VmFd, mebibytes: u64) -> Outcome<GuestMemoryMmap<()>> {
    let ranges: Vec<(GuestAddress, usize)> = layout::ram(mebibytes << 20)
        .into_iter()
        .map(|(start, len)| (GuestAddress(start), len as usize))
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges)
        .map_err(|e| format!("{mebibytes} MiB of memory: {e}"))?;
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: memory.get_host_address(region.start_addr())? as u64,
        };
        // SAFETY: the region is a mapping of `memory`, which lives until the process ends, as
        // the vCPU threads do.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|e| format!("KVM_SET_USER_MEMORY_REGION: {e}"))?;
    }
    Ok(memory)
}

fn create_chips(vm: &VmFd) -> Outcome {
    vm.set_tss_address(layout::TSS as usize)
        .map_err(|e| format!("KVM_SET_TSS_ADDR: {e}"))?;
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(|e| format!("KVM_SET_IDENTITY_MAP_ADDR: {e}"))?;
    vm.create_irq_chip()
        .map_err(|e| format!("KVM_CREATE_IRQCHIP: {e}"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit)
        .map_err(|e| format!("KVM_CREATE_PIT2: {e}"))?;
    Ok(())
}

/// Runs one vCPU until the machine ends.
fn vcpu_loop(id: usize, mut vcpu: VcpuFd, devices: &Devices, tell: &Sender<End>) {
    let end = loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => devices.port_write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => devices.port_read(port, data),
            // No device is on the memory bus: as on an empty bus, all ones.
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::Shutdown) => break End::Shutdown,
            Ok(VcpuExit::SystemEvent(..)) => break End::Power(Power::Off),
            Ok(VcpuExit::Hlt) => {
                break End::Failed("HLT came to user space in spite of the irqchip".into())
            }
            Ok(other) => break End::Failed(format!("exit not handled: {other:?}")),
            // A vCPU that waits for SIPI answers EAGAIN whenever it was woken.
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => break End::Failed(format!("KVM_RUN: {e}")),
        }
    };
    let end = match end {
        End::Failed(text) => {
            let at = vcpu
                .get_regs()
                .map_or_else(|e| e.to_string(), |r| format!("RIP {:#x}", r.rip));
            End::Failed(format!("vCPU {id}: {text} ({at})"))
        }
        other => other,
    };
    // The receiver is gone when another vCPU ended the machine first.
    let _ = tell.send(end);
}
