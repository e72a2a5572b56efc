// SPDX-License-Identifier: GPL-2.0

//! EPT violations and misconfigurations.

use kernel::prelude::*;

use crate::vcpu::{
    run::Flow,
    Running, //
};

impl Running<'_> {
    pub(super) fn exit_ept_violation(&mut self) -> Result<Flow> {
        Err(EIO)
    }

    pub(super) fn exit_ept_misconfiguration(&mut self) -> Result<Flow> {
        Err(EIO)
    }
}
