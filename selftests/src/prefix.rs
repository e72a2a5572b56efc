// SPDX-License-Identifier: GPL-2.0

//! The forced-emulation prefix: an instruction behind it is emulated, whatever it is.

use std::fs;
use std::path::Path;

/// `ud2; .ascii "kvm"`.
pub const PREFIX: [u8; 5] = [0x0f, 0x0b, b'k', b'v', b'm'];
/// On, and RFLAGS.RF cleared: the processor sets it in the state that it saves at a fault, as the #UD of the prefix is one.
const ON: &str = "3";

/// The module parameter `force_emulation_prefix`, turned on as long as this lives.
pub struct Prefix {
    parameter: String,
    old: String,
    c_kvm: bool,
}

impl Prefix {
    /// Turns it on, or tells why that can't be.
    pub fn on() -> Result<Self, String> {
        let c_kvm = !Path::new("/sys/module/rkvm").exists();
        let module = if c_kvm { "kvm" } else { "rkvm" };
        let parameter = format!("/sys/module/{module}/parameters/force_emulation_prefix");
        fs::read_to_string(&parameter)
            .and_then(|old| fs::write(&parameter, ON).map(|()| old))
            .map_err(|e| format!("{parameter}: {e}"))
            .map(|old| Prefix {
                parameter,
                old,
                c_kvm,
            })
    }

    /// Whether it is C KVM that emulates.
    pub fn is_of_c_kvm(&self) -> bool {
        self.c_kvm
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        // It could be written before.
        let _ = fs::write(&self.parameter, self.old.trim());
    }
}
