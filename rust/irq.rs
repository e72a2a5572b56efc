// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers of a VM: PIC, I/O APIC, routing, and the way to the local APICs (api.rst,
//! "KVM_CREATE_IRQCHIP").
//!
//! The chips are state machines of `rkvm_core::irq`; here are their locks and what their answers ask for. Everything
//! that raises an interrupt may be called in any context but NMI, so devices reach the chips from timers and eventfds
//! alike. See Documentation/interrupts.rst and Documentation/locking.rst.

mod access;
pub(crate) mod chips;
pub(crate) mod destinations;
pub(crate) mod notify;
pub(crate) mod pit;
pub(crate) mod routes;

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    AtomicU8,
    Ordering, //
};

use kernel::{
    c_str, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
};
use rkvm_core::irq::{
    lapic::Eoi,
    msi::MsiMessage,
    routing::Target,
    x2apic_api::X2apicApi,
    Delivery,
    Interrupt,
    IrqSource,
    Trigger,
    VcpuIndex,
    VcpuSet, //
};

use crate::{
    sys::srcu::{
        Srcu,
        SrcuPtr, //
    },
    vcpu::Vcpu,
    vm::{
        vcpus::Vcpus,
        Vm, //
    },
};
use chips::Chips;
use destinations::Destinations;
use notify::Notifiers;
use pit::PitChip;
use routes::Routes;

/// Where the interrupt controllers of a VM are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Irqchip {
    /// All in user space.
    None = 0,
    /// All in the kernel (KVM_CREATE_IRQCHIP).
    Full = 1,
    /// The local APICs in the kernel, the rest in user space (KVM_CAP_SPLIT_IRQCHIP).
    Split = 2,
}

/// The interrupt side of a VM.
#[pin_data]
pub(crate) struct Irq {
    /// An [`Irqchip`], which changes once.
    kind: AtomicU8,
    /// Readers of routes, destinations and notifiers. The sections are short and do not sleep.
    srcu: Arc<Srcu>,
    routes: SrcuPtr<KBox<Routes>>,
    destinations: SrcuPtr<KBox<Destinations>>,
    /// Some APIC's identity changed and the destinations could not be built anew.
    stale: AtomicBool,
    notifiers: SrcuPtr<KBox<Notifiers>>,
    /// PIC and I/O APIC.
    chips: SetOnce<Pin<KBox<Chips>>>,
    pit: SetOnce<Arc<PitChip>>,
    /// The VM's vCPUs.
    vcpus: Arc<Vcpus>,
    /// GSIs below this that user space's I/O APIC has (KVM_CAP_SPLIT_IRQCHIP).
    split_pins: AtomicU32,
    /// An [`X2apicApi`]. Written with `update` locked.
    x2apic_api: AtomicU32,
    /// Taken to replace what SRCU readers see. Inside every mutex of the VM and its vCPUs.
    #[pin]
    update: Mutex<()>,
    /// A list with room for what is left after the next removal of a notifier. Outside `update`.
    #[pin]
    spare_notifiers: Mutex<Option<KBox<Notifiers>>>,
}

impl Irq {
    /// No chips, no routes. ENOMEM.
    pub(crate) fn new(vcpus: Arc<Vcpus>) -> Result<Arc<Self>> {
        let srcu = Arc::pin_init(
            Srcu::new(c_str!("irq_srcu"), static_lock_class!()),
            GFP_KERNEL_ACCOUNT,
        )?;
        Arc::pin_init(
            try_pin_init!(Self {
                kind: AtomicU8::new(Irqchip::None as u8),
                routes: SrcuPtr::new(srcu.clone(), Routes::empty()?),
                destinations: SrcuPtr::new(srcu.clone(), Destinations::empty()?),
                stale: AtomicBool::new(false),
                notifiers: SrcuPtr::new(srcu.clone(), KBox::new(Notifiers::new(), GFP_KERNEL_ACCOUNT)?),
                srcu,
                chips: SetOnce::new(),
                pit: SetOnce::new(),
                vcpus,
                split_pins: AtomicU32::new(0),
                x2apic_api: AtomicU32::new(0),
                update <- new_mutex!(()),
                spare_notifiers <- new_mutex!(None),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Which chips are in the kernel.
    #[inline]
    pub(crate) fn irqchip(&self) -> Irqchip {
        match self.kind.load(Ordering::Acquire) {
            1 => Irqchip::Full,
            2 => Irqchip::Split,
            _ => Irqchip::None,
        }
    }

    /// Whether vCPUs have their APIC in the kernel.
    #[inline]
    pub(crate) fn has_lapics(&self) -> bool {
        self.irqchip() != Irqchip::None
    }

    /// KVM_CREATE_IRQCHIP, with the VM's set-up lock: EEXIST if there is one.
    pub(crate) fn create_full(&self) -> Result {
        if self.has_lapics() {
            return Err(EEXIST);
        }
        let chips = KBox::pin_init(Chips::new(), GFP_KERNEL_ACCOUNT)?;
        self.publish_routes(Routes::default_table()?);
        self.chips.populate(chips);
        self.kind.store(Irqchip::Full as u8, Ordering::Release);
        Ok(())
    }

    /// KVM_CAP_SPLIT_IRQCHIP, with the VM's set-up lock: EEXIST if there is a chip.
    pub(crate) fn create_split(&self, pins: u32) -> Result {
        if self.has_lapics() {
            return Err(EEXIST);
        }
        self.publish_routes(Routes::empty()?);
        self.split_pins.store(pins, Ordering::Relaxed);
        self.kind.store(Irqchip::Split as u8, Ordering::Release);
        Ok(())
    }

    /// How many pins user space's I/O APIC has.
    pub(crate) fn split_pins(&self) -> u32 {
        self.split_pins.load(Ordering::Relaxed)
    }

    /// What KVM_CAP_X2APIC_API has switched on.
    #[inline]
    pub(crate) fn x2apic_api(&self) -> X2apicApi {
        X2apicApi::from_bits(self.x2apic_api.load(Ordering::Relaxed))
    }

    /// KVM_CAP_X2APIC_API. EINVAL for flags that this VM does not know.
    pub(crate) fn enable_x2apic_api(&self, flags: u64) -> Result {
        {
            let _update = self.update.lock();
            let split = self.irqchip() == Irqchip::Split;
            let api = self.x2apic_api().enable(flags, split).ok_or(EINVAL)?;
            self.x2apic_api.store(api.bits(), Ordering::Relaxed);
        }
        self.rebuild_destinations()
    }

    /// Whether the guest is told that it can suppress the broadcast of EOIs.
    pub(crate) fn offers_eoi_suppression(&self) -> bool {
        self.x2apic_api()
            .offers_suppression(self.irqchip() == Irqchip::Split)
    }

    /// What is to be heard of the end of an interrupt, the guest having suppressed its broadcast or not.
    #[inline]
    pub(crate) fn heard(&self, eoi: Eoi) -> Eoi {
        let suppressed = !eoi.broadcast
            && self
                .x2apic_api()
                .honours_suppression(self.irqchip() == Irqchip::Split);
        Eoi {
            broadcast: !suppressed,
            ..eoi
        }
    }

    /// PIC and I/O APIC, if they are in the kernel.
    #[inline]
    pub(crate) fn chips(&self) -> Option<&Chips> {
        self.chips.as_ref().map(|c| &**c)
    }

    /// The interval timer, if it is in the kernel.
    #[inline]
    pub(crate) fn pit(&self) -> Option<&Arc<PitChip>> {
        self.pit.as_ref()
    }

    /// Puts the interval timer in, with the VM's set-up lock.
    pub(crate) fn set_pit(&self, pit: Arc<PitChip>) {
        self.pit.populate(pit);
    }

    /// The VM's vCPUs.
    #[inline]
    pub(crate) fn vcpus(&self) -> &Vcpus {
        &self.vcpus
    }

    /// One source sets the level of a GSI. `line_status`: the answer goes to KVM_IRQ_LINE_STATUS.
    pub(crate) fn set_irq(
        &self,
        source: IrqSource,
        gsi: u32,
        high: bool,
        line_status: bool,
    ) -> Delivery {
        let guard = self.srcu.read();
        let mut sum = Delivery::Ignored;
        for route in self.routes.read(&guard).get(gsi) {
            let delivery = match route.target {
                Target::Pic(pin) => self.set_pic_line(pin, source, high),
                Target::Ioapic(pin) => self.set_ioapic_line(pin, source, high, line_status),
                // A message has no level that could fall.
                Target::Msi(_) if !high => Delivery::Ignored,
                Target::Msi(msi) => self.deliver_message(&msi),
            };
            sum = sum.and(delivery);
        }
        sum
    }

    fn deliver_message(&self, msi: &MsiMessage) -> Delivery {
        // Routes were checked when they were set, so it decodes.
        match msi.decode(self.x2apic_api().has_32bit_ids()) {
            Ok(irq) => self.deliver(&irq, None, None),
            Err(_) => Delivery::Ignored,
        }
    }

    /// A message from a device. EINVAL if it can't be one.
    pub(crate) fn deliver_msi(&self, msi: &MsiMessage) -> Result<Delivery> {
        let ids = self.x2apic_api().has_32bit_ids();
        let irq = msi.decode(ids).map_err(|_| EINVAL)?;
        Ok(self.deliver(&irq, None, None))
    }

    /// Hands `irq` to the APICs that it is for. `accepted` gets those that took it.
    pub(crate) fn deliver(
        &self,
        irq: &Interrupt,
        source: Option<VcpuIndex>,
        mut accepted: Option<&mut VcpuSet>,
    ) -> Delivery {
        let guard = self.srcu.read();
        self.destinations
            .read(&guard)
            .deliver(irq, source, |index, irq| {
                let taken = self
                    .vcpus
                    .get(usize::from(index.0))
                    .is_some_and(|v| v.post(irq));
                if let (true, Some(set)) = (taken, &mut accepted) {
                    set.insert(index);
                }
                taken
            })
    }

    /// Whether a pin of user space's I/O APIC has the vector that a vCPU has ended, level triggered. Where the pin goes does
    /// not count: the guest may have sent it elsewhere meanwhile, and an I/O APIC looks at the vector only.
    pub(crate) fn user_hears(&self, eoi: &Eoi) -> bool {
        let guard = self.srcu.read();
        let routes = self.routes.read(&guard);
        eoi.broadcast
            && eoi.trigger == Trigger::Level
            && (0..self.split_pins()).any(|gsi| {
                routes.get(gsi).iter().any(|route| match route.target {
                    Target::Msi(msi) => msi
                        .decode(false)
                        .is_ok_and(|irq| irq.trigger == Trigger::Level && irq.vector == eoi.vector),
                    Target::Pic(_) | Target::Ioapic(_) => false,
                })
            })
    }

    /// Whether a message from a device with this destination is for the vCPU.
    pub(crate) fn matches(
        &self,
        vcpu: VcpuIndex,
        dest: u32,
        mode: rkvm_core::irq::DestMode,
    ) -> bool {
        let guard = self.srcu.read();
        self.destinations.read(&guard).matches(vcpu, dest, mode)
    }

    /// Works out anew where messages go, from what all APICs say of themselves. Sleeps. ENOMEM leaves the old map,
    /// and [`Self::is_stale`] true.
    pub(crate) fn rebuild_destinations(&self) -> Result {
        let retired = {
            let _update = self.update.lock();
            // With the lock: else somebody else's success, with an older snapshot, would hide our failure.
            self.stale.store(true, Ordering::Relaxed);
            // Everything that changed its identity before it called sees this snapshot or a later one.
            let new = Destinations::of(&self.vcpus, None, self.x2apic_api())?;
            self.stale.store(false, Ordering::Relaxed);
            self.destinations.publish(new)
        };
        drop(retired.wait());
        Ok(())
    }

    /// Appends a vCPU, with the VM's set-up lock, and has messages find it. Sleeps. After an error nothing has changed.
    pub(crate) fn add_vcpu(&self, vcpu: Arc<Vcpu>) -> Result {
        let retired = {
            let _update = self.update.lock();
            let new = Destinations::of(&self.vcpus, Some(&vcpu), self.x2apic_api())?;
            self.vcpus.push(vcpu)?;
            self.destinations.publish(new)
        };
        drop(retired.wait());
        Ok(())
    }

    /// Whether the last attempt to rebuild the destinations failed.
    #[inline]
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Replaces the routing table. Sleeps.
    pub(crate) fn publish_routes(&self, routes: KBox<Routes>) {
        let retired = {
            let _update = self.update.lock();
            self.routes.publish(routes)
        };
        drop(retired.wait());
        self.rescan();
    }
}

impl Vm {
    /// Whether the local APICs are in the kernel.
    #[inline]
    pub(crate) fn has_irqchip(&self) -> bool {
        self.irq.has_lapics()
    }

    /// Whether PIC and I/O APIC are in the kernel.
    #[inline]
    pub(crate) fn has_kernel_ioapic(&self) -> bool {
        self.irq.irqchip() == Irqchip::Full
    }

    /// [`Irq::set_irq`] for KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS.
    pub(crate) fn set_irq_status(
        &self,
        source: IrqSource,
        gsi: u32,
        high: bool,
        line_status: bool,
    ) -> Delivery {
        self.irq.set_irq(source, gsi, high, line_status)
    }

    /// A message from a device. EINVAL if it can't be one. Any context but NMI.
    pub(crate) fn deliver_msi(&self, msi: &MsiMessage) -> Result<Delivery> {
        self.irq.deliver_msi(msi)
    }
}
