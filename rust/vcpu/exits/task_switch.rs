// SPDX-License-Identifier: GPL-2.0

//! Task switches, which VMX leaves to the hypervisor whatever started them (SDM, "Task Switch", "Information for VM Exits
//! That Occur During Event Delivery").

use kernel::prelude::*;
use rkvm_core::{
    emulate::TaskSwitch as Cause,
    vmx::{
        event::{
            EventInfo,
            EventType, //
        },
        exit::qualification::{
            TaskSwitch,
            TaskSwitchReason, //
        },
        fields::*,
        Vmcs, //
    },
};

use crate::vcpu::{
    run::Flow,
    Running, //
};

impl Running<'_> {
    pub(super) fn exit_task_switch(&mut self) -> Result<Flow> {
        let exit = TaskSwitch::decode(self.hw.read(EXIT_QUALIFICATION));
        // An event through a task gate is delivered by the switch, so it is not injected again.
        let event = match exit.reason {
            TaskSwitchReason::Gate => self.arch.events.injected.take(),
            _ => None,
        };
        let kind = event.map(|e| e.info.kind());
        if kind == Some(EventType::Nmi) {
            self.set_nmi_blocked(true);
        }
        // Hardware events interrupt between instructions; all else is an instruction that ends with the switch.
        let between = matches!(
            kind,
            Some(EventType::HardwareException | EventType::ExternalInterrupt | EventType::Nmi)
        );
        let length = if between {
            0
        } else {
            self.hw.read(VM_EXIT_INSTRUCTION_LEN) as u8
        };
        let error_code = event
            .filter(|e| EventInfo::has_error_code(e.info))
            .map(|e| e.error_code);
        let cause = match exit.reason {
            TaskSwitchReason::Call => Cause::Call,
            TaskSwitchReason::Iret => Cause::Return,
            TaskSwitchReason::Jmp => Cause::Jump,
            TaskSwitchReason::Gate => Cause::Gate,
        };
        self.switch_task(exit.selector, cause, error_code, length)
    }
}
