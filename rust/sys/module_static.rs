// SPDX-License-Identifier: GPL-2.0

//! Values that live from load to unload.

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ops::Deref, //
};

/// A static that load fills and unload empties.
///
/// Everything that reads it runs between the two: through a file, whose operations keep the module loaded, or
/// through a registration that is undone before the value goes.
pub(crate) struct ModuleStatic<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: Written by `install` and its guard's drop only, before and after all readers.
unsafe impl<T: Send + Sync> Sync for ModuleStatic<T> {}

impl<T> ModuleStatic<T> {
    /// Empty.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::uninit()))
    }

    /// Fills it, until the guard is dropped.
    ///
    /// Load calls this once, before it registers anything through which the value can be read.
    pub(crate) fn install(&'static self, value: T) -> Installed<T> {
        // SAFETY: Nobody reads yet.
        unsafe { (*self.0.get()).write(value) };
        Installed(self)
    }
}

impl<T> Deref for ModuleStatic<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: Between install and drop of the guard.
        unsafe { (*self.0.get()).assume_init_ref() }
    }
}

/// The value is in place.
pub(crate) struct Installed<T: 'static>(&'static ModuleStatic<T>);

impl<T> Drop for Installed<T> {
    fn drop(&mut self) {
        // SAFETY: Nobody reads any more.
        unsafe { (*self.0 .0.get()).assume_init_drop() };
    }
}
