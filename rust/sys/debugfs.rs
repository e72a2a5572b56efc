// SPDX-License-Identifier: GPL-2.0

//! Folders and text files in debugfs.
//!
//! The kernel crate's files (`rust/kernel/debugfs.rs`) name no owner: the module could be unloaded under an open one. These
//! keep it loaded. Once a file is taken away, reading what is still open of it fails with EIO, and touches no data. C
//! header: `include/linux/debugfs.h`.

use core::{
    ffi::c_void,
    marker::PhantomData, //
};

use kernel::{
    bindings as kb,
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CStr,
    sync::Arc, //
};

use super::bindings;
use crate::THIS_MODULE;

/// What a file shows.
pub(crate) trait Show: Send + Sync + 'static {
    /// Writes all of it.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Something in debugfs, taken away on drop. It may be an error, as without debugfs in the kernel, which debugfs takes for
/// nothing everywhere.
struct Entry(*mut kb::dentry);

// SAFETY: debugfs has locks of its own.
unsafe impl Send for Entry {}
// SAFETY: As above.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: What `Folder` and `File` made, once. Waits for whoever reads.
        unsafe { bindings::rkvm_debugfs_remove(self.0) };
    }
}

/// A folder.
pub(crate) struct Folder {
    entry: Entry,
    /// Goes later: taking away a folder takes what is in it.
    _parent: Option<Arc<Folder>>,
}

impl Folder {
    /// A folder in `parent`, or at the top. ENOMEM; a folder that debugfs does not make is no error.
    pub(crate) fn new(name: &CStr, parent: Option<Arc<Folder>>) -> Result<Arc<Self>> {
        let at = parent.as_ref().map_or(core::ptr::null_mut(), |p| p.entry.0);
        // SAFETY: A C string; the parent is alive.
        let entry = Entry(unsafe { bindings::rkvm_debugfs_folder(name.as_char_ptr(), at) });
        Ok(Arc::new(
            Self {
                entry,
                _parent: parent,
            },
            GFP_KERNEL,
        )?)
    }
}

/// A file that shows a `T`.
pub(crate) struct File<T> {
    _entry: Entry,
    /// Goes after the entry, through which it is read.
    _data: Arc<T>,
    _folder: Arc<Folder>,
}

impl<T: Show> File<T> {
    /// A file in `folder`. As for a folder, it is no error if debugfs makes none.
    pub(crate) fn new(name: &CStr, folder: Arc<Folder>, data: Arc<T>) -> Self {
        // SAFETY: A C string; the folder is alive; the table fits the data, which stay until the file is taken away.
        let entry = unsafe {
            bindings::rkvm_debugfs_file(
                name.as_char_ptr(),
                folder.entry.0,
                core::ptr::from_ref(&*data).cast_mut().cast(),
                &Table::<T>::OPS,
            )
        };
        Self {
            _entry: Entry(entry),
            _data: data,
            _folder: folder,
        }
    }
}

/// The C table for one kind of data.
struct Table<T>(PhantomData<T>);

impl<T: Show> Table<T> {
    /// `open`.
    ///
    /// # Safety
    ///
    /// Called by debugfs for a file that [`File::new`] made and that is not taken away meanwhile.
    unsafe extern "C" fn open(inode: *mut kb::inode, file: *mut kb::file) -> i32 {
        // SAFETY: A file being opened; `show` gets the data of the file's inode.
        unsafe { kb::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// Fills the buffer of an open file.
    ///
    /// # Safety
    ///
    /// Called in a read, of a file that is not taken away meanwhile.
    unsafe extern "C" fn show(seq: *mut kb::seq_file, _: *mut c_void) -> i32 {
        // SAFETY: `open` has put the data there, and they live as long as the file is there.
        let data = unsafe { &*(*seq).private.cast::<T>() };
        // SAFETY: Only this thread has it.
        let seq = unsafe { SeqFile::from_raw(seq) };
        seq_print!(seq, "{}", Shown(data));
        0
    }

    const OPS: kb::file_operations = kb::file_operations {
        owner: THIS_MODULE.as_ptr(),
        open: Some(Self::open),
        read: Some(kb::seq_read),
        llseek: Some(kb::seq_lseek),
        release: Some(kb::single_release),
        ..pin_init::zeroed()
    };
}

struct Shown<'a, T>(&'a T);

impl<T: Show> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}
