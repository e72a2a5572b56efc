// SPDX-License-Identifier: GPL-2.0

//! GSI routing in memory of the kernel (api.rst, "KVM_SET_GSI_ROUTING").

use core::ops::Deref;

use kernel::prelude::*;
use rkvm_core::irq::{
    msi::MsiMessage,
    routing::{
        default_route,
        index_len,
        Chip,
        Options,
        Route,
        RouteError,
        Table,
        Target,
        DEFAULT_ROUTES,
        MAX_ROUTES, //
    },
};

use super::{
    destinations::Words,
    Irq,
    Irqchip, //
};
use crate::sys::uabi::kvm_irq_routing_entry;

/// KVM_IRQ_ROUTING_IRQCHIP.
const TYPE_IRQCHIP: u32 = 1;
/// KVM_IRQ_ROUTING_MSI.
const TYPE_MSI: u32 = 2;
/// KVM_MSI_VALID_DEVID, which x86 takes and does not look at.
pub(crate) const MSI_VALID_DEVID: u32 = 1;

/// A routing table.
pub(crate) struct Routes(Table<Words<Route>, Words<u16>>);

impl Routes {
    /// No GSI leads anywhere.
    pub(crate) fn empty() -> Result<KBox<Self>> {
        Self::build(&[], Options::default())
    }

    /// The table of KVM_CREATE_IRQCHIP.
    pub(crate) fn default_table() -> Result<KBox<Self>> {
        let mut routes = KVVec::with_capacity(DEFAULT_ROUTES, GFP_KERNEL_ACCOUNT)?;
        for n in 0..DEFAULT_ROUTES {
            routes.push(default_route(n).ok_or(EINVAL)?, GFP_KERNEL_ACCOUNT)?;
        }
        Self::build(&routes, Options::default())
    }

    /// The table of KVM_SET_GSI_ROUTING. EINVAL for what the VM does not allow.
    pub(crate) fn from_user(entries: &[kvm_irq_routing_entry], irq: &Irq) -> Result<KBox<Self>> {
        let mut routes = KVVec::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
        for entry in entries {
            routes.push(route(entry)?, GFP_KERNEL_ACCOUNT)?;
        }
        let options = Options {
            split: irq.irqchip() == Irqchip::Split,
            x2apic_format: irq.x2apic_api().has_32bit_ids(),
        };
        Self::build(&routes, options)
    }

    fn build(input: &[Route], options: Options) -> Result<KBox<Self>> {
        // GSIs are bounded before they size anything.
        let highest = input.iter().map(|r| r.gsi).max().unwrap_or(0);
        if highest as usize >= MAX_ROUTES {
            return Err(EINVAL);
        }
        let routes = Words::filled(Route::EMPTY, input.len())?;
        let index = Words::filled(0, index_len(highest))?;
        let table = Table::build(input, routes, index, options).map_err(|e| match e {
            RouteError::Gsi
            | RouteError::Conflict
            | RouteError::Msi
            | RouteError::NoChip
            | RouteError::Space => EINVAL,
        })?;
        Ok(KBox::new(Self(table), GFP_KERNEL_ACCOUNT)?)
    }
}

impl Deref for Routes {
    type Target = Table<Words<Route>, Words<u16>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// One entry as user space writes it. EINVAL for a type, chip, pin or flag that there is not.
fn route(entry: &kvm_irq_routing_entry) -> Result<Route> {
    let [first, second, ..] = entry.u.bindgen_union_field;
    let target = match entry.type_ {
        TYPE_IRQCHIP if entry.flags == 0 => {
            let chip = Chip::from_abi(first as u32).ok_or(EINVAL)?;
            Target::chip_pin(chip, (first >> 32) as u32).ok_or(EINVAL)?
        }
        TYPE_MSI if entry.flags & !MSI_VALID_DEVID == 0 => Target::Msi(MsiMessage {
            address_lo: first as u32,
            address_hi: (first >> 32) as u32,
            data: second as u32,
        }),
        _ => return Err(EINVAL),
    };
    Ok(Route {
        gsi: entry.gsi,
        target,
    })
}
