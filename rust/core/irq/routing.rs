// SPDX-License-Identifier: GPL-2.0

//! The table from GSIs to chip pins and MSIs.
//!
//! A table is built whole, checked, and then only read: the glue publishes a new one in place of the old. The arrays
//! come from the caller. api.rst, KVM_SET_GSI_ROUTING.

#[cfg(test)]
mod tests;

use super::{
    ioapic,
    msi::MsiMessage,
    pic, //
};
use crate::nospec;
use core::ops::DerefMut;

/// GSIs and routes are below this (KVM_MAX_IRQ_ROUTES).
pub const MAX_ROUTES: usize = 4096;
/// Number of routes in [`default_route`].
pub const DEFAULT_ROUTES: usize = pic::PINS + ioapic::PINS;

/// The chips, by the numbers of KVM_GET_IRQCHIP and of struct kvm_irq_routing_irqchip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Chip {
    /// KVM_IRQCHIP_PIC_MASTER.
    PicMaster = 0,
    /// KVM_IRQCHIP_PIC_SLAVE.
    PicSlave = 1,
    /// KVM_IRQCHIP_IOAPIC.
    Ioapic = 2,
}

impl Chip {
    /// From the number in the ABI.
    pub const fn from_abi(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::PicMaster),
            1 => Some(Self::PicSlave),
            2 => Some(Self::Ioapic),
            _ => None,
        }
    }

    const fn pins(self) -> u32 {
        match self {
            Self::PicMaster | Self::PicSlave => 8,
            Self::Ioapic => ioapic::PINS as u32,
        }
    }
}

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A pin of the PIC, 0 to 15 over both chips.
    Pic(u8),
    /// A pin of the IOAPIC.
    Ioapic(u8),
    /// A message.
    Msi(MsiMessage),
}

impl Target {
    /// A pin of a chip as struct kvm_irq_routing_irqchip has it; `None` if the chip has no such pin.
    pub const fn chip_pin(chip: Chip, pin: u32) -> Option<Self> {
        if pin >= chip.pins() {
            return None;
        }
        Some(match chip {
            Chip::PicMaster => Self::Pic(pin as u8),
            Chip::PicSlave => Self::Pic(pin as u8 | 8),
            Chip::Ioapic => Self::Ioapic(pin as u8),
        })
    }

    /// The slot of the chip among those of one GSI; `None` for a message.
    const fn chip(&self) -> Option<Chip> {
        match self {
            Self::Pic(0..=7) => Some(Chip::PicMaster),
            Self::Pic(_) => Some(Chip::PicSlave),
            Self::Ioapic(_) => Some(Chip::Ioapic),
            Self::Msi(_) => None,
        }
    }
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The GSI.
    pub gsi: u32,
    /// Where it leads.
    pub target: Target,
}

impl Route {
    /// A route that leads nowhere useful, to fill an array with before it is built.
    pub const EMPTY: Self = Self {
        gsi: 0,
        target: Target::Pic(0),
    };
}

/// Why a table is refused. EINVAL, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// A GSI of [`MAX_ROUTES`] or more.
    Gsi,
    /// A GSI leads to one chip twice, or to a message and something else.
    Conflict,
    /// A message that 32-bit destination ids do not allow.
    Msi,
    /// A chip that the VM does not have (split irqchip).
    NoChip,
    /// An array of the caller is too short: a bug of the caller.
    Space,
}

/// What the VM allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// No PIC and IOAPIC in the kernel (KVM_CAP_SPLIT_IRQCHIP).
    pub split: bool,
    /// KVM_X2APIC_API_USE_32BIT_IDS.
    pub x2apic_format: bool,
}

const NO_GSI: u16 = u16::MAX;

/// A routing table. `R` holds the routes, `I` where those of each GSI begin.
pub struct Table<R, I> {
    routes: R,
    index: I,
    pic_gsi: [u16; pic::PINS],
    ioapic_gsi: [u16; ioapic::PINS],
}

/// Length of the index for a table whose highest GSI is `highest`.
pub const fn index_len(highest: u32) -> usize {
    (highest as usize).saturating_add(2)
}

impl<R: DerefMut<Target = [Route]>, I: DerefMut<Target = [u16]>> Table<R, I> {
    /// Checks `input` and builds the table of it.
    ///
    /// `routes` has the length of `input`, `index` that of [`index_len`] of its highest GSI; what they hold does not
    /// matter.
    pub fn build(
        input: &[Route],
        routes: R,
        mut index: I,
        options: Options,
    ) -> Result<Self, RouteError> {
        if routes.len() < input.len() || input.len() > MAX_ROUTES {
            return Err(RouteError::Space);
        }
        index.fill(0);
        let mut table = Self {
            routes,
            index,
            pic_gsi: [NO_GSI; pic::PINS],
            ioapic_gsi: [NO_GSI; ioapic::PINS],
        };
        for route in input {
            table.check(route, options)?;
            let count = table.slot(route.gsi)?;
            *count = count.wrapping_add(1);
        }
        // The word after the highest GSI's is where its routes end.
        let highest = input.iter().map(|r| r.gsi).max().unwrap_or(0);
        table.slot(highest.wrapping_add(1))?;
        let mut end = 0u16;
        for slot in table.index.iter_mut() {
            end = end.wrapping_add(*slot);
            *slot = end;
        }
        // From the last to the first: each end moves down to where its GSI begins.
        for route in input.iter().rev() {
            let place = table.slot(route.gsi)?;
            *place = place.wrapping_sub(1);
            let place = usize::from(*place);
            *table.routes.get_mut(place).ok_or(RouteError::Space)? = *route;
        }
        for route in input {
            table.check_group(route)?;
        }
        Ok(table)
    }

    /// The routes of a GSI, at most one for each chip, or one message.
    #[inline]
    pub fn get(&self, gsi: u32) -> &[Route] {
        let begin = nospec::get(&self.index, gsi as usize);
        let end = nospec::get(&self.index, (gsi as usize).saturating_add(1));
        match (begin, end) {
            (Some(&begin), Some(&end)) => self
                .routes
                .get(usize::from(begin)..usize::from(end))
                .unwrap_or(&[]),
            _ => &[],
        }
    }

    /// The GSI that leads to a pin of the PIC (0 to 15).
    #[inline]
    pub fn gsi_of_pic(&self, pin: u8) -> Option<u32> {
        self.pic_gsi
            .get(usize::from(pin))
            .filter(|gsi| **gsi != NO_GSI)
            .map(|gsi| u32::from(*gsi))
    }

    /// The GSI that leads to a pin of the IOAPIC.
    #[inline]
    pub fn gsi_of_ioapic(&self, pin: u8) -> Option<u32> {
        self.ioapic_gsi
            .get(usize::from(pin))
            .filter(|gsi| **gsi != NO_GSI)
            .map(|gsi| u32::from(*gsi))
    }

    fn slot(&mut self, gsi: u32) -> Result<&mut u16, RouteError> {
        nospec::get_mut(&mut self.index, gsi as usize).ok_or(RouteError::Space)
    }

    fn check(&mut self, route: &Route, options: Options) -> Result<(), RouteError> {
        if route.gsi as usize >= MAX_ROUTES {
            return Err(RouteError::Gsi);
        }
        match route.target {
            Target::Msi(msi) => {
                msi.decode(options.x2apic_format)
                    .map_err(|_| RouteError::Msi)?;
            }
            _ if options.split => return Err(RouteError::NoChip),
            Target::Pic(pin) => {
                let slot = self.pic_gsi.get_mut(usize::from(pin));
                *slot.ok_or(RouteError::NoChip)? = route.gsi as u16;
            }
            Target::Ioapic(pin) => {
                let slot = self.ioapic_gsi.get_mut(usize::from(pin));
                *slot.ok_or(RouteError::NoChip)? = route.gsi as u16;
            }
        }
        Ok(())
    }

    /// One GSI may lead to each chip once, or to one message.
    fn check_group(&self, route: &Route) -> Result<(), RouteError> {
        let group = self.get(route.gsi);
        let chip = route.target.chip();
        if group.len() > 3 {
            return Err(RouteError::Conflict);
        }
        let twice = group.iter().filter(|r| r.target.chip() == chip).count() > 1;
        if twice || chip.is_none() && group.len() > 1 {
            return Err(RouteError::Conflict);
        }
        Ok(())
    }
}

/// The `n`th route of the table that KVM_CREATE_IRQCHIP sets: GSIs 0 to 15 lead to both the PIC and the IOAPIC, 16 to
/// 23 to the IOAPIC. `None` from [`DEFAULT_ROUTES`] on.
pub const fn default_route(n: usize) -> Option<Route> {
    if n >= DEFAULT_ROUTES {
        return None;
    }
    let (gsi, target) = if n < pic::PINS {
        (n as u32, Target::Pic(n as u8))
    } else {
        let pin = n.saturating_sub(pic::PINS);
        (pin as u32, Target::Ioapic(pin as u8))
    };
    Some(Route { gsi, target })
}
