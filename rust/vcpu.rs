// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU (api.rst, "vCPU ioctls").
//!
//! Three types for three amounts of access: [`Vcpu`] is what any thread may touch (requests, the run page, counters);
//! [`State`], behind the vCPU's mutex, is what belongs to the thread that has it; [`Running`] is a `State` whose VMCS is
//! current with this thread, and everything that looks at registers is a method of it.

pub(crate) mod control;
pub(crate) mod cpuid;
pub(crate) mod emulation;
pub(crate) mod events;
pub(crate) mod exits;
mod invalid_state;
pub(crate) mod ioctl;
pub(crate) mod msr;
pub(crate) mod platform;
pub(crate) mod pml;
pub(crate) mod real_mode;
pub(crate) mod requests;
pub(crate) mod run;
pub(crate) mod run_page;
pub(crate) mod setup;
pub(crate) mod sregs;
pub(crate) mod state;
pub(crate) mod tsc;
pub(crate) mod vpid;

use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::Arc, //
};
use rkvm_core::{
    cpuid::guest::GuestCaps,
    emulate::{
        Emulator,
        UserExit as EmulatorExit, //
    },
    irq::lapic::{
        apic_base,
        Config, //
    },
    msr::store::GuestMsrs,
    regs::{
        dr,
        efer, //
    },
    stats::VcpuStats,
    vmx::{
        controls::Controls,
        counters::GlobalCtrl, //
    },
};

use crate::{
    host::host,
    memory::VcpuMmu,
    sys::{
        apic_page::ApicPages,
        cpu::SignalMask,
        fpu::{
            GuestFpu,
            GuestXState, //
        },
        killable_mutex::KillableMutex,
        page::TablePage,
        vmx::{
            Loaded,
            VmcsContext, //
        },
    },
    vm::{
        msr_filter::MsrFilter,
        Vm, //
    },
};
use events::Events;
use platform::{
    apic::Apic,
    clock::ClockPage,
    steal::StealTime,
    vapic::TprAccesses, //
};
use real_mode::RealMode;
use requests::Requests;
use run_page::RunPage;
use state::{
    guest_debug::GuestDebug,
    mp_state::MpState, //
};

/// What the number of the last CPU is before there is one.
const NO_CPU: u32 = u32::MAX;

/// IA32_APIC_BASE after reset.
fn apic_base_at_reset(is_bsp: bool) -> u64 {
    let bsp = if is_bsp { apic_base::BSP } else { 0 };
    apic_base::DEFAULT | apic_base::ENABLED | bsp
}

/// A VPID, if the host has them.
fn vpid() -> Option<vpid::Vpid> {
    if host().vmcs.features.vpid {
        vpid::Vpid::allocate()
    } else {
        None
    }
}

/// A page for the log of writes, if the host has that. ENOMEM.
fn pml_page() -> Result<Option<TablePage>> {
    if host().vmcs.features.pml {
        TablePage::new().map(Some)
    } else {
        Ok(None)
    }
}

/// A virtual CPU.
#[pin_data]
pub(crate) struct Vcpu {
    /// What user space called it; the APIC id at reset.
    pub(crate) id: u32,
    /// Place in the VM's table.
    pub(crate) index: usize,
    /// The pages shared with user space.
    pub(crate) run: RunPage,
    /// What other threads ask for. The timer of the APIC has a reference.
    pub(crate) requests: Arc<Requests>,
    /// The half of the APIC that all may touch, if it is in the kernel.
    pub(crate) apic: Option<ApicPages>,
    /// The TSC, as its siblings see it.
    tsc: tsc::Shown,
    /// Counters for KVM_GET_STATS_FD.
    pub(crate) stats: VcpuStats,
    /// Taken by every ioctl for as long as it lasts. May be held while sleeping; inside the VM's set-up lock.
    #[pin]
    state: KillableMutex<State>,
}

/// What belongs to the thread that has the vCPU's mutex.
pub(crate) struct State {
    vmcs: VmcsContext,
    fpu: GuestFpu,
    arch: Arch,
}

/// Architectural state that the VMCS does not hold, and copies of what it does.
pub(crate) struct Arch {
    /// Events on their way into the guest.
    pub(crate) events: Events,
    /// Spare page tables, and what walks of the guest's tables keep.
    pub(crate) mmu: VcpuMmu,
    /// The controls in the VMCS.
    pub(crate) controls: Controls,
    /// IA32_PERF_GLOBAL_CTRL, as entries and exits load it.
    pub(crate) global_ctrl: Option<GlobalCtrl>,
    /// CR0 as the guest sees it.
    pub(crate) cr0: u64,
    /// CR4 as the guest sees it.
    pub(crate) cr4: u64,
    /// IA32_EFER as the guest sees it.
    pub(crate) efer: u64,
    /// What only a guest that is not unrestricted has.
    pub(crate) real_mode: RealMode,
    /// CR8, for a vCPU without an APIC in the kernel.
    pub(crate) cr8: u64,
    /// DR0 to DR3, DR6, DR7.
    pub(crate) debug: DebugRegs,
    /// What a debugger in user space asked for.
    pub(crate) guest_debug: GuestDebug,
    /// The time-stamp counter.
    pub(crate) tsc: tsc::Tsc,
    /// Whether it runs, halts or waits.
    mp_state: MpState,
    /// KVM_CAP_X86_DISABLE_EXITS, which does not change once there are vCPUs.
    hlt_in_guest: bool,
    pause_in_guest: bool,
    /// KVM_CAP_ENFORCE_PV_FEATURE_CPUID.
    pv_enforced: bool,
    /// The filter of MSR accesses, as of the last request to look.
    pub(crate) msr_filter: Option<Arc<MsrFilter>>,
    /// XCR0, IA32_XSS and PKRU as they are while the guest runs, where they differ from the host's.
    pub(crate) xstate: Option<GuestXState>,
    /// XCR0 as the guest set it.
    pub(crate) xcr0: u64,
    /// IA32_APIC_BASE, for a vCPU without an APIC in the kernel.
    pub(crate) apic_base: u64,
    /// The APIC in the kernel.
    pub(crate) apic: Option<Apic>,
    /// What user space makes of the guest's accesses to its task priority.
    pub(crate) tpr: TprAccesses,
    /// Vector of the last SIPI.
    pub(crate) sipi_vector: u8,
    /// The vector of [`requests::Request::IoapicEoi`].
    pub(crate) ended_vector: u8,
    /// How long the vCPU polls before it sleeps in HLT.
    pub(crate) halt_poll_ns: u32,
    /// kvmclock.
    pub(crate) clock_page: ClockPage,
    pub(crate) steal_time: StealTime,
    /// CPUID as user space set it.
    pub(crate) cpuid: cpuid::Cpuid,
    /// What follows from it.
    pub(crate) caps: GuestCaps,
    /// The guest has run here, for which waiting in HLT is not enough: CPUID and its like are fixed.
    pub(crate) has_run: bool,
    /// MSRs that are storage with rules.
    pub(crate) msrs: GuestMsrs,
    /// Which MSR accesses exit.
    pub(crate) msr_bitmap: TablePage,
    /// The guest has written IA32_SPEC_CTRL.
    pub(crate) spec_ctrl_used: bool,
    /// Where the processor logs writes, if it does that.
    pub(crate) pml: Option<TablePage>,
    /// The TLB tag; none when all are in use.
    pub(crate) vpid: Option<vpid::Vpid>,
    /// The instruction emulator; taken out while it runs.
    pub(crate) emulator: Option<KBox<Emulator>>,
    /// What it waits for from user space.
    pub(crate) emulator_exit: Option<EmulatorExit>,
    /// The signals that KVM_RUN lets through, if user space set them.
    pub(crate) signal_mask: Option<SignalMask>,
    /// The CPU of the last entry; [`NO_CPU`] before the first.
    last_cpu: u32,
    /// What has to be finished when user space comes back.
    pub(crate) completion: run::Completion,
}

/// The debug registers.
#[derive(Clone, Copy)]
pub(crate) struct DebugRegs {
    /// Breakpoint addresses.
    pub(crate) db: [u64; 4],
    /// DR6 in the SDM's polarity: the fixed bits read as one.
    pub(crate) dr6: u64,
    /// DR7.
    pub(crate) dr7: u64,
}

impl DebugRegs {
    const RESET: Self = Self {
        db: [0; 4],
        dr6: dr::DR6_INIT,
        dr7: dr::DR7_INIT,
    };

    /// Records the conditions of a #DB that is delivered, given in the positive logic of pending debug exceptions.
    pub(crate) fn raise(&mut self, conditions: u64) {
        self.dr6 = dr::with_conditions(self.dr6, conditions);
    }
}

impl Vcpu {
    /// A vCPU in the state after reset. ENOMEM.
    pub(crate) fn new(vm: &Vm, id: u32, index: usize) -> Result<Arc<Self>> {
        let caps = cpuid::caps_of(&[]);
        let is_bsp = id == vm.caps.boot_cpu_id();
        let requests = Arc::new(Requests::new(), GFP_KERNEL_ACCOUNT)?;
        let (pages, apic) = if vm.has_irqchip() {
            let pages = ApicPages::new()?;
            let config = Config {
                bus_cycle_ns: vm.caps.apic_bus_cycle_ns(),
                ..Config::new(id, is_bsp)
            };
            let apic = Apic::new(&pages, requests.clone(), config, &caps, &vm.irq)?;
            (Some(pages), Some(apic))
        } else {
            (None, None)
        };
        let state = State {
            vmcs: VmcsContext::new(&host().hw, host().vmcs.revision_id)?,
            fpu: GuestFpu::new()?,
            arch: Arch {
                events: Events::default(),
                mmu: VcpuMmu::new(),
                controls: Controls::default(),
                global_ctrl: None,
                cr0: setup::CR0_RESET,
                cr4: 0,
                efer: 0,
                real_mode: RealMode::default(),
                cr8: 0,
                debug: DebugRegs::RESET,
                guest_debug: GuestDebug::default(),
                tsc: tsc::Tsc::new(vm.caps.tsc_khz()),
                mp_state: if is_bsp || apic.is_none() {
                    MpState::Runnable
                } else {
                    MpState::Uninitialized
                },
                hlt_in_guest: vm.caps.hlt_in_guest(),
                pause_in_guest: vm.caps.pause_in_guest(),
                pv_enforced: false,
                msr_filter: vm.msr_filter(),
                xstate: None,
                xcr0: 1,
                apic_base: apic_base_at_reset(is_bsp),
                apic,
                tpr: TprAccesses::default(),
                sipi_vector: 0,
                ended_vector: 0,
                halt_poll_ns: 0,
                clock_page: ClockPage::default(),
                steal_time: StealTime::default(),
                cpuid: cpuid::Cpuid::new(),
                has_run: false,
                caps,
                msrs: GuestMsrs::new(host().arch_capabilities),
                msr_bitmap: TablePage::new()?,
                spec_ctrl_used: false,
                pml: pml_page()?,
                vpid: vpid(),
                emulator: Some(KBox::new(Emulator::new(), GFP_KERNEL_ACCOUNT)?),
                emulator_exit: None,
                signal_mask: None,
                last_cpu: NO_CPU,
                completion: run::Completion::None,
            },
        };
        let vcpu = Arc::pin_init(
            try_pin_init!(Self {
                id,
                index,
                run: RunPage::new()?,
                requests,
                apic: pages,
                tsc: tsc::Shown::default(),
                stats: VcpuStats::default(),
                state <- KillableMutex::new(state, c_str!("vcpu_mutex"), static_lock_class!()),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        vcpu.with(vm, |mut r| {
            r.set_up();
            r.set_up_virtual_apic()?;
            r.set_up_pml();
            r.set_up_timer();
            Ok(())
        })?;
        Ok(vcpu)
    }

    /// Runs `f` with the vCPU locked and loaded on this thread.
    ///
    /// EINTR if the thread is killed while another one has the vCPU.
    #[inline]
    pub(crate) fn with<R>(&self, vm: &Vm, f: impl FnOnce(Running<'_>) -> Result<R>) -> Result<R> {
        let mut guard = self.state.lock()?;
        let State { vmcs, fpu, arch } = &mut *guard;
        let vmcs = vmcs.load();
        f(Running {
            vm,
            vcpu: self,
            hw: vmcs.loaded(),
            fpu,
            arch,
        })
    }
}

/// A vCPU that is locked by and loaded on this thread.
pub(crate) struct Running<'a> {
    /// The VM that it belongs to.
    pub(crate) vm: &'a Vm,
    /// The part that all threads share.
    pub(crate) vcpu: &'a Vcpu,
    /// The right to VMREAD and VMWRITE.
    pub(crate) hw: Loaded<'a>,
    /// Floating-point state. For the time of KVM_RUN it is in the registers.
    pub(crate) fpu: &'a mut GuestFpu,
    /// Everything else.
    pub(crate) arch: &'a mut Arch,
}

impl Running<'_> {
    /// Whether the guest is in IA-32e mode, whatever its code segment says.
    #[inline]
    pub(crate) fn long_mode(&self) -> bool {
        self.arch.efer & efer::LMA != 0
    }
}
