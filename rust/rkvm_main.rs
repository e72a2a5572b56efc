// SPDX-License-Identifier: GPL-2.0

//! rkvm: the core of KVM as a Rust module. Entry and wiring only.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod sys;

use kernel::prelude::*;

module! {
    type: RkvmModule,
    name: "rkvm",
    authors: ["The rkvm authors"],
    description: "KVM for Intel VMX, written in Rust",
    license: "GPL v2",
}

struct RkvmModule;

impl kernel::Module for RkvmModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("hello\n");
        Ok(RkvmModule)
    }
}
