// SPDX-License-Identifier: GPL-2.0

//! Address types: which of the five address spaces a number belongs to.
//!
//! A guest virtual, guest physical, host virtual and host physical address are all 64-bit numbers; mixing them up is
//! an escape. Conversions are explicit, and arithmetic wraps, because the guest chooses the operands.

/// log2 of the size of a 4 KiB page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a 4 KiB page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The bits of an address inside its 4 KiB page.
pub const PAGE_OFFSET_MASK: u64 = PAGE_SIZE - 1;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further on, modulo 2^64.
            #[inline]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The address `bytes` further on, or `None` past the end of the address space.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(a) => Some(Self(a)),
                    None => None,
                }
            }

            /// Byte offset inside the 4 KiB page.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & PAGE_OFFSET_MASK
            }

            /// The address rounded down to a 4 KiB page.
            #[inline]
            pub const fn page_base(self) -> Self {
                Self(self.0 & !PAGE_OFFSET_MASK)
            }

            /// Bytes from here to the end of the 4 KiB page, 1 to 4096.
            #[inline]
            pub const fn bytes_to_page_end(self) -> u64 {
                PAGE_SIZE.wrapping_sub(self.page_offset())
            }
        }
    };
}

macro_rules! frame {
    ($(#[$doc:meta])* $name:ident of $addr:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first address of this 4 KiB frame.
            #[inline]
            pub const fn base(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }

            /// The frame `pages` further on, modulo 2^64.
            #[inline]
            pub const fn wrapping_add(self, pages: u64) -> Self {
                Self(self.0.wrapping_add(pages))
            }

            /// How many pages this frame lies after `earlier`, modulo 2^64.
            #[inline]
            pub const fn wrapping_sub(self, earlier: Self) -> u64 {
                self.0.wrapping_sub(earlier.0)
            }
        }

        impl $addr {
            /// The 4 KiB frame that this address lies in.
            #[inline]
            pub const fn frame(self) -> $name {
                $name(self.0 >> PAGE_SHIFT)
            }
        }
    };
}

address! {
    /// Guest virtual (linear) address, after segmentation.
    Gva
}
address! {
    /// Guest physical address, in bytes.
    Gpa
}
address! {
    /// Host virtual address in the user space that owns the VM, in bytes.
    Hva
}
address! {
    /// Host physical address, in bytes.
    Hpa
}
frame! {
    /// Guest frame number: a guest physical address in 4 KiB pages.
    Gfn of Gpa
}
frame! {
    /// Page frame number of the host: a host physical address in 4 KiB pages.
    Pfn of Hpa
}
