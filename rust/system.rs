// SPDX-License-Identifier: GPL-2.0

//! `/dev/rkvm`: the ioctls on the device itself (api.rst, "System ioctls").

use kernel::prelude::*;

use crate::sys::{
    fops::DeviceOps,
    uabi::UserArg, //
};

/// The device.
pub(crate) struct System;

impl DeviceOps for System {
    fn ioctl(_cmd: u32, _arg: UserArg) -> Result<usize> {
        Err(ENOTTY)
    }
}
