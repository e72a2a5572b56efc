// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of `include/bindings_helper.h`. Only `sys` may look in here.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    improper_ctypes,
    unused_imports,
    clippy::all,
    clippy::as_ptr_cast_mut,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ptr_cast_constness,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("RKVM_OBJ"), "/rust/sys/bindings_generated.rs"));
