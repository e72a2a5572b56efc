// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: the loop between user space, the host kernel and the guest (api.rst, "KVM_RUN").
//!
//! Three nested circles. `run` is one ioctl. `run_guest` goes round once for each exit that needs interrupts, sleep or
//! user memory. The innermost, in `enter_guest`, goes round with interrupts off, once for each exit that needs none of
//! that (`exits::fast`): there the host spends the fewest instructions.

use kernel::prelude::*;
use rkvm_core::{
    addr::Gva,
    vmx::{
        exit::{
            instruction_error,
            ExitReason, //
        },
        fields::*,
        Vmcs, //
    },
};

use super::{
    exits::{
        self,
        fast::Fast, //
    },
    requests::Request,
    run_page::{
        Status,
        UserExit, //
    },
    Running, //
};
use crate::{
    host::host,
    sys::{
        cpu, trace,
        vmx::{
            invept,
            invvpid,
            EntryGuard,
            EntryResult, //
        },
    },
};

/// Where to go after an exit was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Back into the guest.
    Resume,
    /// Out to user space; `kvm_run` tells why.
    ToUser,
}

/// What has to be finished when user space comes back with an answer. No borrow lives across a user exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// Nothing.
    None,
    /// IN to AL, AX or EAX of this many bytes.
    PortIn {
        /// Where from.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// Where the instruction is: if user space has set RIP, there is nothing to finish.
        at: Gva,
    },
    /// OUT is done; RIP moves now, so that user space sees the instruction that did it.
    PortOut {
        /// As for [`Completion::PortIn`].
        at: Gva,
    },
    /// A read of a device by one MOV.
    MmioLoad(exits::mmio::PendingLoad),
    /// The emulator goes on with its instruction.
    Emulator,
    /// KVM_EXIT_X86_RDMSR.
    ReadMsr,
    /// KVM_EXIT_X86_WRMSR.
    WriteMsr,
}

impl Running<'_> {
    /// One KVM_RUN.
    ///
    /// EINTR for a signal or `immediate_exit`; EIO after a bug of rkvm's own; EAGAIN if the vCPU waits for INIT and SIPI
    /// and was woken up.
    #[inline]
    pub(crate) fn run(&mut self) -> Result {
        // Looked at once: what another thread writes from now on comes with a signal.
        let wants_to_run = !self.vcpu.run.immediate_exit();
        let result = self.run_inner(wants_to_run);
        self.give_sync_regs();
        self.publish_status();
        match result {
            // A call that only completes an exit leaves its reason to be read.
            Err(e) if e == EINTR && wants_to_run => {
                self.vcpu.run.set_reason(UserExit::Intr);
                self.vcpu.stats.signal_exits.inc();
                Err(EINTR)
            }
            other => other,
        }
    }

    fn run_inner(&mut self, wants_to_run: bool) -> Result {
        if self.waits_for_sipi() {
            if !wants_to_run {
                return Err(EINTR);
            }
            if self.vcpu.requests.test(Request::VmDead) {
                return Err(EIO);
            }
            return Err(self.wait_for_sipi());
        }
        self.take_sync_regs()?;
        if !self.has_kernel_apic() {
            self.set_cr8(self.vcpu.run.cr8()).map_err(|_| EINVAL)?;
        }
        if self.arch.completion == Completion::Emulator {
            // Its instruction may be one of the vector registers'.
            return self.with_guest_fpu(|r| match r.complete()? {
                Flow::ToUser => Ok(()),
                Flow::Resume if !wants_to_run => Err(EINTR),
                Flow::Resume => r.run_guest(),
            });
        }
        if self.complete()? == Flow::ToUser {
            return Ok(());
        }
        if !wants_to_run {
            return Err(EINTR);
        }
        self.with_guest_fpu(Self::run_guest)
    }

    /// Runs `f` with the guest's FPU state in the registers.
    #[inline]
    fn with_guest_fpu<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.fpu.load();
        let result = f(self);
        self.fpu.unload();
        self.vcpu.stats.fpu_reload.inc();
        result
    }

    /// Finishes what the last exit to user space left open.
    #[inline]
    fn complete(&mut self) -> Result<Flow> {
        let completion = self.arch.completion;
        if completion == Completion::None {
            return Ok(Flow::Resume);
        }
        self.arch.completion = Completion::None;
        match completion {
            Completion::None => Ok(Flow::Resume),
            Completion::PortIn { port, size, at } => {
                if self.linear_rip() == at {
                    exits::io::finish_in(self, port, size);
                }
                Ok(Flow::Resume)
            }
            Completion::PortOut { at } => {
                if self.linear_rip() == at {
                    self.skip_instruction();
                }
                Ok(Flow::Resume)
            }
            Completion::MmioLoad(pending) => {
                exits::mmio::finish_load(self, pending);
                Ok(Flow::Resume)
            }
            Completion::Emulator => self.resume_emulation(),
            Completion::ReadMsr => exits::msr::finish_read(self),
            Completion::WriteMsr => exits::msr::finish_write(self),
        }
    }

    /// Runs the guest until something needs user space.
    fn run_guest(&mut self) -> Result {
        // An error leaves it so: what user space reads is not the exit before.
        self.vcpu.run.set_reason(UserExit::Unknown);
        self.thread_has_waited();
        loop {
            let flow = if self.is_runnable() {
                self.enter_guest()?
            } else {
                self.block()?
            };
            if flow == Flow::ToUser {
                return Ok(());
            }
            if self.user_wants_window() && self.ready_for_user_interrupt() {
                self.vcpu.run.set_reason(UserExit::IrqWindowOpen);
                self.vcpu.stats.request_irq_exits.inc();
                return Ok(());
            }
            if cpu::guest_entry_work_pending() {
                cpu::handle_guest_entry_work()?;
                self.thread_has_waited();
            }
        }
    }

    /// What has to be done before the guest can be entered. How to go on, if it can't be entered now.
    #[inline(always)]
    fn before_entry(&mut self) -> Result<Option<Flow>> {
        if self.user_wants_window() {
            // The window has to be asked for before each entry: user space changes its mind without telling.
            self.vcpu.requests.set_own(Request::Event);
        }
        if self.arch.clock_page.is_outdated() {
            self.vcpu.requests.set_own(Request::ClockUpdate);
        }
        if self.vcpu.requests.any() {
            let flow = self.handle_requests()?;
            // It may not run if an INIT was among them.
            if flow == Flow::ToUser || !self.is_runnable() {
                return Ok(Some(flow));
            }
        }
        if self.must_emulate() {
            self.arch.has_run = true;
            let flow = self.emulate_invalid_state();
            self.read_vapic();
            return flow.map(Some);
        }
        Ok(None)
    }

    /// Enters the guest, stays in the innermost loop as long as its exits are simple, and handles the one that is not.
    fn enter_guest(&mut self) -> Result<Flow> {
        if let Some(flow) = self.before_entry()? {
            return Ok(flow);
        }
        self.prepare_step();
        let result = {
            let mut guard = self.hw.begin_entry(self.arch.xstate.as_ref());
            if guard.displaced_host() {
                self.vcpu.stats.host_state_reload.inc();
            }
            self.vcpu.requests.enter_guest_mode(guard.cpu());
            if self.vcpu.requests.any() || guard.work_was_pending() {
                self.vcpu.requests.leave_guest_mode();
                self.take_event_back();
                return Ok(Flow::Resume);
            }
            if guard.take_migrated() {
                // This CPU may have run the guest before, with translations that were dropped since elsewhere.
                self.flush_tlb();
                if self.has_clock_of_one_cpu() {
                    self.vcpu.requests.leave_guest_mode();
                    self.vcpu.requests.set_own(Request::ClockUpdate);
                    self.take_event_back();
                    return Ok(Flow::Resume);
                }
            }
            self.arch.last_cpu = guard.cpu();
            let global_ctrl = guard.global_ctrl();
            if global_ctrl != self.arch.global_ctrl {
                self.switch_global_ctrl(global_ctrl);
            }
            self.arch.has_run = true;
            guard.commit(self.enabled_breakpoints());
            if self.has_vapic() {
                return self.enter_with_vapic(guard);
            }
            let result = loop {
                let result = self.enter_once(&mut guard);
                let EntryResult::Exit(reason) = result else {
                    break result;
                };
                match self.handle_fast(&mut guard, ExitReason(reason)) {
                    Fast::Handled => {}
                    Fast::ToUser => {
                        self.leave_guest_mode();
                        return Ok(Flow::ToUser);
                    }
                    Fast::Leave => break result,
                }
                if self.vcpu.requests.any() || guard.work_pending() {
                    self.leave_guest_mode();
                    return Ok(Flow::Resume);
                }
            };
            self.leave_guest_mode();
            result
        };
        self.handle_entry_result(result)
    }

    /// One VM entry, and the exit that follows.
    #[inline(always)]
    fn enter_once(&mut self, guard: &mut EntryGuard<'_>) -> EntryResult {
        self.trace_entry();
        self.load_preemption_timer();
        let result = guard.enter();
        self.vcpu.stats.exits.inc();
        if let EntryResult::Exit(reason) = result {
            self.trace_exit(reason);
        }
        result
    }

    /// Enters a guest whose task priority is in its memory: no exit of it is simple, because one has to look there first,
    /// which may sleep.
    fn enter_with_vapic(&mut self, mut guard: EntryGuard<'_>) -> Result<Flow> {
        let result = self.enter_once(&mut guard);
        if let EntryResult::Exit(reason) = result {
            self.hand_to_host(&mut guard, ExitReason(reason));
        }
        self.leave_guest_mode();
        drop(guard);
        self.read_vapic();
        self.handle_entry_result(result)
    }

    #[inline(always)]
    fn handle_entry_result(&mut self, result: EntryResult) -> Result<Flow> {
        match result {
            EntryResult::Exit(reason) => self.handle_exit(ExitReason(reason)),
            EntryResult::Failed(error) => {
                pr_err_ratelimited_vmfail(error);
                self.take_event_back();
                self.vcpu.run.set_fail_entry(error, self.arch.last_cpu);
                Ok(Flow::ToUser)
            }
        }
    }

    /// The guest has run, and others need not interrupt it any more. Whoever sees that finds all of its writes in the dirty
    /// log.
    #[inline]
    fn leave_guest_mode(&mut self) {
        self.flush_pml();
        self.vcpu.requests.leave_guest_mode();
    }

    #[inline(always)]
    fn trace_entry(&self) {
        trace::entry(|| trace::Entry {
            vcpu: self.vcpu.id,
            rip: Gva(self.hw.read(GUEST_RIP)),
            intr_info: self.hw.read(VM_ENTRY_INTR_INFO_FIELD),
            error_code: self.hw.read(VM_ENTRY_EXCEPTION_ERROR_CODE),
        });
    }

    #[inline(always)]
    fn trace_exit(&self, reason: u32) {
        trace::exit(|| trace::Exit {
            vcpu: self.vcpu.id,
            reason,
            rip: Gva(self.hw.read(GUEST_RIP)),
            qualification: self.hw.read(EXIT_QUALIFICATION),
            idt_vectoring: self.hw.read(IDT_VECTORING_INFO_FIELD).into(),
            intr_info: self.hw.read(VM_EXIT_INTR_INFO),
            error_code: self.hw.read(VM_EXIT_INTR_ERROR_CODE),
        });
    }

    /// What other threads asked for, in an order that lets later ones see what earlier ones did.
    fn handle_requests(&mut self) -> Result<Flow> {
        let requests = &self.vcpu.requests;
        if requests.test(Request::VmDead) {
            return Err(EIO);
        }
        if requests.take(Request::TprAccess) {
            return Ok(self.report_tpr_access());
        }
        if requests.take(Request::TripleFault) {
            self.vcpu.run.set_reason(UserExit::Shutdown);
            return Ok(Flow::ToUser);
        }
        if requests.take(Request::DebugStep) {
            return Ok(self.report_step());
        }
        if requests.take(Request::RecalcIntercepts) {
            self.recalculate_intercepts();
        }
        if self.vcpu.requests.take(Request::DirtyLogging) {
            self.update_pml();
        }
        if self.vcpu.requests.take(Request::DeviceMapped) && self.vm.memory.maps_devices() {
            self.hw.clear_buffers_at_entry();
        }
        if self.vcpu.requests.take(Request::TlbFlush) {
            self.vcpu.stats.tlb_flush.inc();
            self.flush_tlb();
        }
        if self.handle_platform_requests()? == Flow::ToUser {
            return Ok(Flow::ToUser);
        }
        if self.vcpu.requests.take(Request::Event) {
            if !self.is_runnable() {
                return Ok(Flow::Resume);
            }
            self.vcpu.stats.req_event.inc();
            self.inject_events();
        }
        Ok(Flow::Resume)
    }

    /// Drops what this CPU caches of the guest's translations.
    fn flush_tlb(&self) {
        let features = &host().vmcs.features;
        if let Some(vpid) = &self.arch.vpid {
            invvpid(features.invvpid, vpid.number());
        }
        invept(features.invept, self.vm.memory.ept_pointer());
    }

    /// What `kvm_run` tells at every return.
    fn publish_status(&mut self) {
        let status = Status {
            ready_for_injection: self.ready_for_user_interrupt(),
            if_flag: self.hw.read(GUEST_RFLAGS) & rkvm_core::regs::rflags::IF != 0,
            flags: 0,
            cr8: self.cr8(),
            apic_base: self.apic_base(),
        };
        self.vcpu.run.set_status(status);
    }

    /// The `request_interrupt_window` of user space, where it counts.
    #[inline]
    pub(crate) fn user_wants_window(&self) -> bool {
        !self.has_kernel_pic()
            && self.vcpu.run.wants_interrupt_window()
            && self.accepts_user_interrupt()
    }

    /// Whether KVM_INTERRUPT would reach the guest at once.
    pub(crate) fn ready_for_user_interrupt(&self) -> bool {
        if self.has_kernel_pic() {
            return true;
        }
        self.accepts_user_interrupt()
            && !self.exception_waits()
            && self.arch.events.user_interrupt.is_none()
            && self.interrupt_allowed()
    }
}

#[cold]
fn pr_err_ratelimited_vmfail(error: u32) {
    kernel::pr_err_once!("VM entry failed: {}\n", instruction_error(error));
}
