// SPDX-License-Identifier: GPL-2.0

//! ioctls of the interrupt controllers, the interval timer and the clock (api.rst).

use kernel::prelude::*;
use rkvm_core::irq::{
    ioapic::IoapicState,
    msi::MsiMessage,
    pic::PicState,
    pit::{
        ChannelState,
        Missed,
        PitState, //
    },
    routing::{
        Chip,
        MAX_ROUTES, //
    },
    IrqSource, //
};

use super::Vm;
use crate::{
    irq::{
        pit,
        routes::{
            Routes,
            MSI_VALID_DEVID, //
        },
    },
    nr,
    sys::uabi::{
        kvm_irq_routing_entry,
        kvm_msi,
        kvm_pit_config,
        UserArg, //
    },
};

/// Where the state of the chip is in `struct kvm_irqchip`.
const CHIP_STATE: usize = 8;
/// Where the entries are in `struct kvm_irq_routing`.
const ROUTES: usize = 8;

impl Vm {
    /// The ioctls of this file; ENOTTY for others.
    pub(super) fn irq_ioctl(&self, cmd: u32, arg: UserArg) -> Result<usize> {
        match cmd {
            nr::KVM_CREATE_IRQCHIP => self.create_irqchip()?,
            nr::KVM_GET_IRQCHIP => self.get_irqchip(arg)?,
            nr::KVM_SET_IRQCHIP => self.set_irqchip(arg)?,
            nr::KVM_IRQ_LINE => {
                self.irq_line(arg, false)?;
            }
            nr::KVM_IRQ_LINE_STATUS => {
                let status = self.irq_line(arg, true)?;
                arg.write(&status)?;
            }
            nr::KVM_SET_GSI_ROUTING => self.set_gsi_routing(arg)?,
            nr::KVM_SIGNAL_MSI => return self.signal_msi(&arg.read()?),
            nr::KVM_CREATE_PIT => {
                let _setup = self.setup.lock();
                self.create_pit(pit::SPEAKER_DUMMY)?;
            }
            nr::KVM_CREATE_PIT2 => {
                let config: kvm_pit_config = arg.read()?;
                let _setup = self.setup.lock();
                self.create_pit(config.flags)?;
            }
            nr::KVM_GET_PIT => arg.write(&self.pit_state()?.channels)?,
            nr::KVM_SET_PIT => {
                let channels: [ChannelState; 3] = arg.read()?;
                let flags = self.pit_state()?.flags;
                self.set_pit_state(&PitState {
                    channels,
                    flags,
                    ..PitState::default()
                })?;
            }
            nr::KVM_GET_PIT2 => arg.write(&self.pit_state()?)?,
            nr::KVM_SET_PIT2 => {
                let state = arg.read()?;
                self.set_pit_state(&state)?;
            }
            nr::KVM_REINJECT_CONTROL => self.reinject_control(arg)?,
            nr::KVM_GET_CLOCK => arg.write(&self.clock_data())?,
            nr::KVM_SET_CLOCK => self.set_clock(&arg.read()?)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    /// EEXIST if there is one; EINVAL once there are vCPUs, whose APICs would be missing.
    fn create_irqchip(&self) -> Result {
        let _setup = self.setup.lock();
        if self.has_irqchip() {
            return Err(EEXIST);
        }
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        self.irq.create_full()
    }

    /// Reads `chip_id`. ENXIO if the chips are not in the kernel, EINVAL for one that there is not.
    fn chip(&self, arg: UserArg) -> Result<Chip> {
        let number: u32 = arg.read()?;
        if !self.has_kernel_ioapic() {
            return Err(ENXIO);
        }
        Chip::from_abi(number).ok_or(EINVAL)
    }

    fn get_irqchip(&self, arg: UserArg) -> Result {
        let to = arg.offset(CHIP_STATE);
        match self.chip(arg)? {
            Chip::PicMaster => to.write(&self.irq.pic_state(false).ok_or(ENXIO)?),
            Chip::PicSlave => to.write(&self.irq.pic_state(true).ok_or(ENXIO)?),
            Chip::Ioapic => to.write(&self.irq.ioapic_state().ok_or(ENXIO)?),
        }
    }

    fn set_irqchip(&self, arg: UserArg) -> Result {
        let from = arg.offset(CHIP_STATE);
        match self.chip(arg)? {
            Chip::PicMaster => self.irq.set_pic_state(false, &from.read::<PicState>()?),
            Chip::PicSlave => self.irq.set_pic_state(true, &from.read::<PicState>()?),
            Chip::Ioapic => self.irq.set_ioapic_state(&from.read::<IoapicState>()?),
        }
        Ok(())
    }

    /// The status that KVM_IRQ_LINE_STATUS answers. ENXIO without a chip in the kernel.
    fn irq_line(&self, arg: UserArg, line_status: bool) -> Result<i32> {
        let (gsi, level): (u32, u32) = (arg.read()?, arg.offset(4).read()?);
        if !self.has_irqchip() {
            return Err(ENXIO);
        }
        let delivery = self.set_irq_status(IrqSource::UserSpace, gsi, level != 0, line_status);
        Ok(delivery.status())
    }

    /// EINVAL without a chip in the kernel, for flags, and for too many or impossible routes.
    fn set_gsi_routing(&self, arg: UserArg) -> Result {
        let (nr, flags): (u32, u32) = (arg.read()?, arg.offset(4).read()?);
        if !self.has_irqchip() || nr as usize > MAX_ROUTES || flags != 0 {
            return Err(EINVAL);
        }
        let entries: KVVec<kvm_irq_routing_entry> = arg.offset(ROUTES).read_vec(nr as usize)?;
        self.irq
            .publish_routes(Routes::from_user(&entries, &self.irq)?);
        Ok(())
    }

    /// How many APICs took the message. EINVAL without a chip in the kernel.
    fn signal_msi(&self, msi: &kvm_msi) -> Result<usize> {
        if !self.has_irqchip() || msi.flags & !MSI_VALID_DEVID != 0 {
            return Err(EINVAL);
        }
        let message = MsiMessage {
            address_lo: msi.address_lo,
            address_hi: msi.address_hi,
            data: msi.data,
        };
        match self.deliver_msi(&message)?.status() {
            n if n >= 0 => Ok(n as usize),
            _ => Err(EPERM),
        }
    }

    /// ENXIO without a timer in the kernel.
    fn reinject_control(&self, arg: UserArg) -> Result {
        // struct kvm_reinject_control: pit_reinject, a byte.
        let reinject: u8 = arg.read()?;
        self.set_pit_missed(if reinject != 0 {
            Missed::Reinject
        } else {
            Missed::Discard
        })
    }
}
