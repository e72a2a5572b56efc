// SPDX-License-Identifier: GPL-2.0

//! Who may do what to a page (SDM, "Access Rights" and "Protection Keys"), and the error code if not.

use super::paging::GuestPaging;
use crate::exception::pfec;

/// Read, write or fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, or a read that will write (locked and other read-modify-write instructions).
    Write,
    /// Instruction fetch.
    Fetch,
}

/// In whose name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0 to 2, explicitly: EFLAGS.AC overrides SMAP.
    Supervisor,
    /// An implicit access to a system structure (GDT, IDT, LDT, TSS), at whatever CPL: EFLAGS.AC does not.
    ImplicitSupervisor,
}

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestAccess {
    /// What.
    pub kind: AccessKind,
    /// By whom.
    pub privilege: Privilege,
}

impl GuestAccess {
    /// What KVM_TRANSLATE asks: an explicit supervisor read.
    pub const SUPERVISOR_READ: Self = Self {
        kind: AccessKind::Read,
        privilege: Privilege::Supervisor,
    };

    /// Whether it writes.
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(self.kind, AccessKind::Write)
    }

    const fn is_fetch(self) -> bool {
        matches!(self.kind, AccessKind::Fetch)
    }

    const fn is_user(self) -> bool {
        matches!(self.privilege, Privilege::User)
    }
}

/// The registers that rights depend on and that change without a new [`GuestPaging`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtectionState {
    /// EFLAGS.AC.
    pub ac: bool,
    /// PKRU.
    pub pkru: u32,
    /// IA32_PKRS.
    pub pkrs: u32,
}

/// What the tables allow for a page, all levels together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRights {
    bits: u64,
    key: u8,
}

const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

impl PageRights {
    /// All rights: what there is without paging.
    pub(super) const ALL: Self = Self {
        bits: WRITABLE | USER,
        key: 0,
    };

    /// R/W and U/S hold if `all` entries on the way have them, XD if `any` has it; the key is that of the leaf.
    #[inline]
    pub(super) const fn of_path(all: u64, any: u64, leaf: u64) -> Self {
        Self {
            bits: all & (WRITABLE | USER) | any & NO_EXECUTE,
            key: (leaf.wrapping_shr(59) & 0xf) as u8,
        }
    }

    /// R/W of all levels.
    #[inline]
    pub const fn is_writable(&self) -> bool {
        self.bits & WRITABLE != 0
    }

    /// U/S of all levels: a user-mode address.
    #[inline]
    pub const fn is_user(&self) -> bool {
        self.bits & USER != 0
    }

    /// XD of any level. Says nothing unless EFER.NXE is set.
    #[inline]
    pub const fn is_no_execute(&self) -> bool {
        self.bits & NO_EXECUTE != 0
    }

    /// Bits 62:59 of the leaf. Says nothing unless protection keys are on.
    #[inline]
    pub const fn key(&self) -> u8 {
        self.key
    }
}

impl GuestPaging {
    /// Whether a page with these rights (from an earlier walk, too) allows the access.
    ///
    /// # Errors
    ///
    /// The bits of the error code that say why not: P, and PK if a protection key is among the reasons.
    #[inline]
    pub fn check(
        &self,
        rights: &PageRights,
        state: &ProtectionState,
        access: GuestAccess,
    ) -> Result<(), u32> {
        let by_key = self.key_forbids(rights, state, access);
        if self.rights_forbid(rights, state, access) || by_key {
            return Err(pfec::PRESENT | if by_key { pfec::PK } else { 0 });
        }
        Ok(())
    }

    fn rights_forbid(
        &self,
        rights: &PageRights,
        state: &ProtectionState,
        access: GuestAccess,
    ) -> bool {
        let user_page = rights.is_user();
        if access.is_user() && !user_page {
            return true;
        }
        match access.kind {
            AccessKind::Fetch => {
                (self.no_execute && rights.is_no_execute())
                    || (self.smep && user_page && !access.is_user())
            }
            AccessKind::Read => self.smap_forbids(user_page, state, access),
            AccessKind::Write => {
                let checks_write = access.is_user() || self.write_protect;
                (checks_write && !rights.is_writable())
                    || self.smap_forbids(user_page, state, access)
            }
        }
    }

    fn smap_forbids(&self, user_page: bool, state: &ProtectionState, access: GuestAccess) -> bool {
        self.smap
            && user_page
            && match access.privilege {
                Privilege::User => false,
                Privilege::Supervisor => !state.ac,
                Privilege::ImplicitSupervisor => true,
            }
    }

    /// Keys of user pages are ruled by PKRU, those of supervisor pages by IA32_PKRS; fetches by neither.
    fn key_forbids(
        &self,
        rights: &PageRights,
        state: &ProtectionState,
        access: GuestAccess,
    ) -> bool {
        let (on, register) = if rights.is_user() {
            (self.pku, state.pkru)
        } else {
            (self.pks, state.pkrs)
        };
        if !on || access.is_fetch() {
            return false;
        }
        let key = register.wrapping_shr(u32::from(rights.key()).wrapping_mul(2));
        let access_disabled = key & 1 != 0;
        let write_disabled = key & 2 != 0;
        let checks_write = access.is_user() || self.write_protect;
        access_disabled || (write_disabled && access.is_write() && checks_write)
    }

    /// The bits of the error code that describe the access.
    pub(super) const fn access_code(&self, access: GuestAccess) -> u32 {
        let mut code = 0;
        if access.is_write() {
            code |= pfec::WRITE;
        }
        if access.is_user() {
            code |= pfec::USER;
        }
        // The flag exists only with something that distinguishes fetches (SDM, "Page-Fault Exceptions").
        if access.is_fetch() && (self.no_execute || self.smep) {
            code |= pfec::FETCH;
        }
        code
    }
}
