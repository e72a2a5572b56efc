// SPDX-License-Identifier: GPL-2.0

//! Files: the device node, and the anonymous files behind VM, vCPU and statistics fds.
//!
//! Every table of file operations names its owner, so the module stays loaded as long as anything is open. C KVM's
//! counterparts are the `file_operations` in `virt/kvm/kvm_main.c`.

use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
};

use kernel::{
    bindings,
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    prelude::*,
    str::{
        CStr,
        CString, //
    },
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

use super::{
    page::SharedPage,
    uabi::UserArg, //
};
use crate::THIS_MODULE;

/// What a kind of file does. The file holds one reference to the object.
pub(crate) trait FileOps: Sized + Send + Sync + 'static {
    /// What `/proc/PID/fd` shows, before the number if there is one.
    const NAME: &'static CStr;
    /// Whether it is a file to read from, with `pread` as well, and to do nothing else with.
    const READ_ONLY: bool = false;
    /// Whether it can be mapped into user space.
    const HAS_PAGES: bool = false;

    /// Which one of its kind it is.
    fn number(&self) -> Option<u32> {
        None
    }

    /// Handles one ioctl. The value is returned to user space as it is. ENOTTY for an unknown number.
    fn ioctl(this: ArcBorrow<'_, Self>, file: &File, cmd: u32, arg: UserArg) -> Result<usize>;

    /// An ioctl of a 32-bit program. Only a structure that holds an address differs: it is a word there.
    fn compat_ioctl(
        this: ArcBorrow<'_, Self>,
        file: &File,
        cmd: u32,
        arg: UserArg,
    ) -> Result<usize> {
        Self::ioctl(this, file, cmd, arg)
    }

    /// The page at `index` of a mapping of the file. Where there is none, an access is SIGBUS.
    fn page(&self, _index: usize) -> Option<&SharedPage> {
        None
    }

    /// Reads at `offset` into user memory; returns the number of bytes.
    fn read(
        _this: ArcBorrow<'_, Self>,
        _offset: usize,
        _to: UserArg,
        _len: usize,
    ) -> Result<usize> {
        Err(EINVAL)
    }

    /// The last descriptor is being closed.
    fn release(_this: ArcBorrow<'_, Self>) {}
}

/// The C table for one `FileOps`.
struct Table<T>(PhantomData<T>);

impl<T: FileOps> Table<T> {
    /// # Safety
    ///
    /// Only for files whose private data is an `Arc<T>` turned foreign.
    unsafe fn object<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
        // SAFETY: By the caller's promise; the file's reference lives until `release`.
        unsafe { Arc::<T>::borrow((*file).private_data.cast()) }
    }

    /// `unlocked_ioctl` of the file.
    ///
    /// # Safety
    ///
    /// Called by the kernel for a file that `anon_fd` made.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: u32, arg: usize) -> isize {
        // SAFETY: This table is only installed on files made by `anon_fd`.
        let this = unsafe { Self::object(file) };
        // SAFETY: The file is valid during the call, and ioctl holds no fdget_pos.
        let file = unsafe { File::from_raw_file(file) };
        result(T::ioctl(this, file, cmd, UserArg::new(arg)))
    }

    /// `compat_ioctl` of the file.
    ///
    /// # Safety
    ///
    /// As for `ioctl`.
    unsafe extern "C" fn compat_ioctl(file: *mut bindings::file, cmd: u32, arg: usize) -> isize {
        // SAFETY: As for `ioctl`.
        let this = unsafe { Self::object(file) };
        // SAFETY: As for `ioctl`.
        let file = unsafe { File::from_raw_file(file) };
        let arg = UserArg::new(arg as u32 as usize);
        result(T::compat_ioctl(this, file, cmd, arg))
    }

    /// `read` of the file.
    ///
    /// # Safety
    ///
    /// As for `ioctl`; `buf` and `offset` are those of the system call.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        to: *mut u8,
        len: usize,
        offset: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: As for `ioctl`.
        let this = unsafe { Self::object(file) };
        // SAFETY: The VFS passes a valid position.
        let at = unsafe { *offset };
        let Ok(start) = usize::try_from(at) else {
            return EINVAL.to_errno() as isize;
        };
        let done = T::read(this, start, UserArg::new(to as usize), len);
        if let Ok(n) = done {
            // SAFETY: As above.
            unsafe { *offset = at.wrapping_add(n as i64) };
        }
        result(done)
    }

    /// `mmap` of the file. Whatever part of the file is asked for: its pages come when they are accessed.
    ///
    /// # Safety
    ///
    /// As for `ioctl`; `vma` is the mapping that is being made.
    unsafe extern "C" fn mmap(
        _file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> i32 {
        // SAFETY: The VMA is being set up by this call. The table lives as long as the module, which the file holds.
        unsafe { (*vma).vm_ops = &Self::VM_OPS };
        0
    }

    /// An access to a page that is not mapped yet.
    ///
    /// # Safety
    ///
    /// Called by the kernel for a mapping that `mmap` has made.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The kernel passes a valid structure, which is ours during the call.
        let fault = unsafe { &mut *fault };
        let place = &fault.__bindgen_anon_1;
        // SAFETY: The mapping exists as long as the fault, and its file as long as the mapping.
        let this = unsafe { Self::object((*place.vma).vm_file) };
        let Some(page) = this.page(place.pgoff) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        fault.page = page.reference();
        0
    }

    const VM_OPS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };

    /// The last use of the file.
    ///
    /// # Safety
    ///
    /// As for `ioctl`, once for each file.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> i32 {
        // SAFETY: The last use of the file: its reference comes back to us.
        let this = unsafe { Arc::<T>::from_foreign((*file).private_data.cast()) };
        T::release(this.as_arc_borrow());
        0
    }

    const OPS: bindings::file_operations = bindings::file_operations {
        owner: THIS_MODULE.as_ptr(),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: Some(Self::compat_ioctl),
        read: Some(Self::read),
        mmap: if T::HAS_PAGES { Some(Self::mmap) } else { None },
        release: Some(Self::release),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };
}

fn result(r: Result<usize>) -> isize {
    match r {
        Ok(v) => v as isize,
        Err(e) => e.to_errno() as isize,
    }
}

/// An anonymous file and a reserved descriptor, not yet visible to user space. Dropped, both go away again.
pub(crate) struct NewFd {
    file: ARef<File>,
    fd: FileDescriptorReservation,
}

impl NewFd {
    /// Makes the descriptor visible and returns its number. From here on user space can use and close it, so this is
    /// the last thing that creation does.
    pub(crate) fn publish(self) -> usize {
        let number = self.fd.reserved_fd() as usize;
        self.fd.fd_install(self.file);
        number
    }
}

/// `FMODE_PREAD` of `linux/fs.h`, a cast that bindgen does not follow.
const FMODE_PREAD: u32 = 1 << 3;

/// Makes an anonymous file for `object`. EMFILE or ENOMEM when there is no room.
pub(crate) fn anon_fd<T: FileOps>(object: Arc<T>) -> Result<NewFd> {
    use kernel::bindings as kb;
    let fd = FileDescriptorReservation::get_unused_fd_flags(kb::O_CLOEXEC)?;
    let access = if T::READ_ONLY {
        kb::O_RDONLY
    } else {
        kb::O_RDWR
    };
    let name = match object.number() {
        Some(number) => {
            let kind = T::NAME.to_str().unwrap_or("");
            Some(CString::try_from_fmt(fmt!("{}:{}", kind, number))?)
        }
        None => None,
    };
    let name: &CStr = name.as_deref().unwrap_or(T::NAME);
    let private = object.into_foreign();
    // SAFETY: The name is copied; the table is static and fits the private data.
    let file = kernel::error::from_err_ptr(unsafe {
        super::bindings::anon_inode_getfile(
            name.as_char_ptr(),
            &Table::<T>::OPS,
            private.cast(),
            (access | kb::O_CLOEXEC) as i32,
        )
    });
    match file {
        Ok(file) => {
            if T::READ_ONLY {
                // SAFETY: The file is new and nobody else has it.
                unsafe { (*file).f_mode |= FMODE_PREAD };
            }
            let file = NonNull::new(file.cast::<File>()).ok_or(ENOMEM)?;
            // SAFETY: The file is new, and its one reference is ours.
            let file = unsafe { ARef::from_raw(file) };
            Ok(NewFd { file, fd })
        }
        Err(e) => {
            // SAFETY: No file took the reference.
            drop(unsafe { Arc::<T>::from_foreign(private) });
            Err(e)
        }
    }
}

/// What `/dev/rkvm` itself answers.
pub(crate) trait DeviceOps: 'static {
    /// Handles one ioctl on the device.
    fn ioctl(cmd: u32, arg: UserArg) -> Result<usize>;
}

/// `unlocked_ioctl` of the device.
///
/// # Safety
///
/// None: only numbers are used.
unsafe extern "C" fn device_ioctl<D: DeviceOps>(
    _file: *mut bindings::file,
    cmd: u32,
    arg: usize,
) -> isize {
    result(D::ioctl(cmd, UserArg::new(arg)))
}

/// Whether load is done, so that the device may be opened.
static SERVING: AtomicBool = AtomicBool::new(false);

/// `open` of the device: not before load is done.
///
/// # Safety
///
/// None: the arguments are not used.
unsafe extern "C" fn device_open(_inode: *mut bindings::inode, _file: *mut bindings::file) -> i32 {
    if SERVING.load(Ordering::Acquire) {
        0
    } else {
        ENODEV.to_errno()
    }
}

struct DeviceTable<D>(PhantomData<D>);

impl<D: DeviceOps> DeviceTable<D> {
    const OPS: bindings::file_operations = bindings::file_operations {
        owner: THIS_MODULE.as_ptr(),
        open: Some(device_open),
        unlocked_ioctl: Some(device_ioctl::<D>),
        compat_ioctl: bindings::compat_ptr_ioctl,
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };
}

/// KVM's fixed misc minor: whoever registers it second gets EBUSY, so C KVM and rkvm exclude each other.
const KVM_MINOR: i32 = 232;

/// The registered device node, taken away on drop.
pub(crate) struct Device(Pin<KBox<kernel::types::Opaque<bindings::miscdevice>>>);

// SAFETY: The registration is only touched by `register` and `drop`.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Registers `/dev/<name>`, which can't be opened before [`Device::serve`]. EBUSY if the minor is taken.
    pub(crate) fn register<D: DeviceOps>(name: &'static CStr) -> Result<Self> {
        let misc = bindings::miscdevice {
            minor: KVM_MINOR,
            name: name.as_char_ptr(),
            fops: &DeviceTable::<D>::OPS,
            ..pin_init::zeroed()
        };
        let misc = KBox::pin(kernel::types::Opaque::new(misc), GFP_KERNEL)?;
        // SAFETY: The structure is pinned and lives until `drop` deregisters it.
        kernel::error::to_result(unsafe { bindings::misc_register(misc.get()) })?;
        Ok(Self(misc))
    }

    /// Lets the device be opened: everything that its ioctls use is there.
    pub(crate) fn serve(&self) {
        SERVING.store(true, Ordering::Release);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: `register` succeeded, and this happens once.
        unsafe { bindings::misc_deregister(self.0.get()) };
    }
}
