// SPDX-License-Identifier: GPL-2.0

//! What has to hold for every instruction in every state.
//!
//! One run by itself: no panic, no endless loop, an instruction of at most 15 bytes; what does not complete leaves the
//! state as it was, and what does says which registers it changed.
//!
//! Two runs from the same state must end alike: whatever the emulator did before; with devices in the kernel or in
//! user space; with a user exit abandoned and the instruction started anew (as after a migration of the guest); with
//! pages missing that appear when they have faulted; a string instruction in steps of one; and by the fast path of MOV
//! or by the general one.

mod run;
mod variants;

use crate::scene::Scene;

/// Checks all of it for the state and instruction that `data` describe.
pub fn check(data: &[u8]) {
    let first = run::once(&mut Scene::new(data));
    variants::used_emulator(data, &first);
    if let Some(whole) = variants::Whole::new(data) {
        whole.devices_in_kernel_or_user_space();
        whole.abandoned_exits();
        whole.pages_that_appear();
        whole.single_steps();
        whole.general_path();
    }
}
