// SPDX-License-Identifier: GPL-2.0

//! Every field of the VMCS, as one zero-sized type each.
//!
//! SDM volume 3, appendix "Field Encoding in VMCS". A field knows its encoding, the type of its value and whether
//! VMWRITE may reach it, so a wrong width, or a write to an exit-information field, does not compile. The names are
//! those of the SDM as KVM spells them.

/// Width classes of VMCS fields (bits 14:13 of the encoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Width {
    /// 16 bits.
    W16 = 0,
    /// 64 bits.
    W64 = 1,
    /// 32 bits.
    W32 = 2,
    /// The natural width, 64 bits on every processor that rkvm runs on.
    Natural = 3,
}

/// What a VMCS field is for (bits 11:10 of the encoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// Controls of execution, entry and exit.
    Control = 0,
    /// Information on the last exit: VMREAD only.
    ReadOnly = 1,
    /// Guest state, loaded by entries and saved by exits.
    Guest = 2,
    /// Host state, loaded by exits.
    Host = 3,
}

/// A value that a VMCS field can hold. VMREAD and VMWRITE always move 64 bits.
pub trait FieldValue: Copy {
    /// Zero-extends for VMWRITE.
    fn to_u64(self) -> u64;
    /// Takes the low bits of what VMREAD gave; the rest is zero by definition.
    fn from_u64(raw: u64) -> Self;
}

macro_rules! field_value {
    ($($t:ty),*) => {$(
        impl FieldValue for $t {
            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn from_u64(raw: u64) -> Self {
                raw as $t
            }
        }
    )*};
}
field_value!(u16, u32, u64);

/// A field of the VMCS.
pub trait Field: Copy {
    /// The operand of VMREAD and VMWRITE that selects this field.
    const ENCODING: u32;
    /// The field's name, for messages.
    const NAME: &'static str;
    /// `u16`, `u32`, or `u64` (64-bit and natural-width fields).
    type Value: FieldValue;
}

/// A field that VMREAD may read: all of them.
pub trait Readable: Field {}

/// A field that VMWRITE may write: all but the exit-information fields.
///
/// Processors exist that allow VMWRITE to those as well (IA32_VMX_MISC bit 29); rkvm has no use for that.
pub trait Writable: Field {}

/// A field as a row of a table, for dumps and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// The SDM's name.
    pub name: &'static str,
    /// The operand of VMREAD.
    pub encoding: u32,
    /// Its width class.
    pub width: Width,
    /// What it is for.
    pub class: Class,
}

macro_rules! fields {
    ($($width:ident $value:ident $class:ident { $($name:ident = $enc:literal,)* })*) => {
        $($(
            #[doc = concat!("VMCS field ", stringify!($enc), ": ", stringify!($name), ".")]
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Field for $name {
                const ENCODING: u32 = {
                    assert!(($enc >> 13) & 3 == Width::$width as u32, "width bits and value type disagree");
                    assert!(($enc >> 10) & 3 == Class::$class as u32, "class bits and access disagree");
                    assert!($enc & !0x6ffe == 0, "not a full-access encoding");
                    $enc
                };
                const NAME: &'static str = stringify!($name);
                type Value = $value;
            }

            impl Readable for $name {}
            fields!(@writable $class $name);
        )*)*

        /// All fields, by width and class.
        pub const ALL: &[FieldInfo] = &[
            $($(FieldInfo {
                name: <$name as Field>::NAME,
                encoding: <$name as Field>::ENCODING,
                width: Width::$width,
                class: Class::$class,
            },)*)*
        ];
    };
    (@writable ReadOnly $name:ident) => {};
    (@writable $class:ident $name:ident) => {
        impl Writable for $name {}
    };
}

fields! {
    W16 u16 Control {
        VIRTUAL_PROCESSOR_ID = 0x0000,
        POSTED_INTR_NV = 0x0002,
        EPTP_INDEX = 0x0004,
        HLAT_PREFIX_SIZE = 0x0006,
        LAST_PID_POINTER_INDEX = 0x0008,
    }
    W16 u16 Guest {
        GUEST_ES_SELECTOR = 0x0800,
        GUEST_CS_SELECTOR = 0x0802,
        GUEST_SS_SELECTOR = 0x0804,
        GUEST_DS_SELECTOR = 0x0806,
        GUEST_FS_SELECTOR = 0x0808,
        GUEST_GS_SELECTOR = 0x080a,
        GUEST_LDTR_SELECTOR = 0x080c,
        GUEST_TR_SELECTOR = 0x080e,
        GUEST_INTR_STATUS = 0x0810,
        GUEST_PML_INDEX = 0x0812,
        GUEST_UINV = 0x0814,
    }
    W16 u16 Host {
        HOST_ES_SELECTOR = 0x0c00,
        HOST_CS_SELECTOR = 0x0c02,
        HOST_SS_SELECTOR = 0x0c04,
        HOST_DS_SELECTOR = 0x0c06,
        HOST_FS_SELECTOR = 0x0c08,
        HOST_GS_SELECTOR = 0x0c0a,
        HOST_TR_SELECTOR = 0x0c0c,
    }
    W64 u64 Control {
        IO_BITMAP_A = 0x2000,
        IO_BITMAP_B = 0x2002,
        MSR_BITMAP = 0x2004,
        VM_EXIT_MSR_STORE_ADDR = 0x2006,
        VM_EXIT_MSR_LOAD_ADDR = 0x2008,
        VM_ENTRY_MSR_LOAD_ADDR = 0x200a,
        EXECUTIVE_VMCS_POINTER = 0x200c,
        PML_ADDRESS = 0x200e,
        TSC_OFFSET = 0x2010,
        VIRTUAL_APIC_PAGE_ADDR = 0x2012,
        APIC_ACCESS_ADDR = 0x2014,
        POSTED_INTR_DESC_ADDR = 0x2016,
        VM_FUNCTION_CONTROL = 0x2018,
        EPT_POINTER = 0x201a,
        EOI_EXIT_BITMAP0 = 0x201c,
        EOI_EXIT_BITMAP1 = 0x201e,
        EOI_EXIT_BITMAP2 = 0x2020,
        EOI_EXIT_BITMAP3 = 0x2022,
        EPTP_LIST_ADDRESS = 0x2024,
        VMREAD_BITMAP = 0x2026,
        VMWRITE_BITMAP = 0x2028,
        VE_INFORMATION_ADDRESS = 0x202a,
        XSS_EXIT_BITMAP = 0x202c,
        ENCLS_EXITING_BITMAP = 0x202e,
        SPP_TABLE_POINTER = 0x2030,
        TSC_MULTIPLIER = 0x2032,
        TERTIARY_VM_EXEC_CONTROL = 0x2034,
        ENCLV_EXITING_BITMAP = 0x2036,
        LOW_PASID_DIRECTORY = 0x2038,
        HIGH_PASID_DIRECTORY = 0x203a,
        SHARED_EPT_POINTER = 0x203c,
        PCONFIG_EXITING_BITMAP = 0x203e,
        HLAT_POINTER = 0x2040,
        PID_POINTER_TABLE = 0x2042,
        SECONDARY_VM_EXIT_CONTROLS = 0x2044,
        SPEC_CTRL_MASK = 0x204a,
        SPEC_CTRL_SHADOW = 0x204c,
        INJECTED_EVENT_DATA = 0x2052,
    }
    W64 u64 ReadOnly {
        GUEST_PHYSICAL_ADDRESS = 0x2400,
        ORIGINAL_EVENT_DATA = 0x2404,
    }
    W64 u64 Guest {
        VMCS_LINK_POINTER = 0x2800,
        GUEST_IA32_DEBUGCTL = 0x2802,
        GUEST_IA32_PAT = 0x2804,
        GUEST_IA32_EFER = 0x2806,
        GUEST_IA32_PERF_GLOBAL_CTRL = 0x2808,
        GUEST_PDPTR0 = 0x280a,
        GUEST_PDPTR1 = 0x280c,
        GUEST_PDPTR2 = 0x280e,
        GUEST_PDPTR3 = 0x2810,
        GUEST_BNDCFGS = 0x2812,
        GUEST_IA32_RTIT_CTL = 0x2814,
        GUEST_IA32_LBR_CTL = 0x2816,
        GUEST_IA32_PKRS = 0x2818,
        GUEST_IA32_FRED_CONFIG = 0x281a,
        GUEST_IA32_FRED_RSP1 = 0x281c,
        GUEST_IA32_FRED_RSP2 = 0x281e,
        GUEST_IA32_FRED_RSP3 = 0x2820,
        GUEST_IA32_FRED_STKLVLS = 0x2822,
        GUEST_IA32_FRED_SSP1 = 0x2824,
        GUEST_IA32_FRED_SSP2 = 0x2826,
        GUEST_IA32_FRED_SSP3 = 0x2828,
    }
    W64 u64 Host {
        HOST_IA32_PAT = 0x2c00,
        HOST_IA32_EFER = 0x2c02,
        HOST_IA32_PERF_GLOBAL_CTRL = 0x2c04,
        HOST_IA32_PKRS = 0x2c06,
        HOST_IA32_FRED_CONFIG = 0x2c08,
        HOST_IA32_FRED_RSP1 = 0x2c0a,
        HOST_IA32_FRED_RSP2 = 0x2c0c,
        HOST_IA32_FRED_RSP3 = 0x2c0e,
        HOST_IA32_FRED_STKLVLS = 0x2c10,
        HOST_IA32_FRED_SSP1 = 0x2c12,
        HOST_IA32_FRED_SSP2 = 0x2c14,
        HOST_IA32_FRED_SSP3 = 0x2c16,
    }
    W32 u32 Control {
        PIN_BASED_VM_EXEC_CONTROL = 0x4000,
        CPU_BASED_VM_EXEC_CONTROL = 0x4002,
        EXCEPTION_BITMAP = 0x4004,
        PAGE_FAULT_ERROR_CODE_MASK = 0x4006,
        PAGE_FAULT_ERROR_CODE_MATCH = 0x4008,
        CR3_TARGET_COUNT = 0x400a,
        VM_EXIT_CONTROLS = 0x400c,
        VM_EXIT_MSR_STORE_COUNT = 0x400e,
        VM_EXIT_MSR_LOAD_COUNT = 0x4010,
        VM_ENTRY_CONTROLS = 0x4012,
        VM_ENTRY_MSR_LOAD_COUNT = 0x4014,
        VM_ENTRY_INTR_INFO_FIELD = 0x4016,
        VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018,
        VM_ENTRY_INSTRUCTION_LEN = 0x401a,
        TPR_THRESHOLD = 0x401c,
        SECONDARY_VM_EXEC_CONTROL = 0x401e,
        PLE_GAP = 0x4020,
        PLE_WINDOW = 0x4022,
        NOTIFY_WINDOW = 0x4024,
    }
    W32 u32 ReadOnly {
        VM_INSTRUCTION_ERROR = 0x4400,
        VM_EXIT_REASON = 0x4402,
        VM_EXIT_INTR_INFO = 0x4404,
        VM_EXIT_INTR_ERROR_CODE = 0x4406,
        IDT_VECTORING_INFO_FIELD = 0x4408,
        IDT_VECTORING_ERROR_CODE = 0x440a,
        VM_EXIT_INSTRUCTION_LEN = 0x440c,
        VMX_INSTRUCTION_INFO = 0x440e,
    }
    W32 u32 Guest {
        GUEST_ES_LIMIT = 0x4800,
        GUEST_CS_LIMIT = 0x4802,
        GUEST_SS_LIMIT = 0x4804,
        GUEST_DS_LIMIT = 0x4806,
        GUEST_FS_LIMIT = 0x4808,
        GUEST_GS_LIMIT = 0x480a,
        GUEST_LDTR_LIMIT = 0x480c,
        GUEST_TR_LIMIT = 0x480e,
        GUEST_GDTR_LIMIT = 0x4810,
        GUEST_IDTR_LIMIT = 0x4812,
        GUEST_ES_AR_BYTES = 0x4814,
        GUEST_CS_AR_BYTES = 0x4816,
        GUEST_SS_AR_BYTES = 0x4818,
        GUEST_DS_AR_BYTES = 0x481a,
        GUEST_FS_AR_BYTES = 0x481c,
        GUEST_GS_AR_BYTES = 0x481e,
        GUEST_LDTR_AR_BYTES = 0x4820,
        GUEST_TR_AR_BYTES = 0x4822,
        GUEST_INTERRUPTIBILITY_INFO = 0x4824,
        GUEST_ACTIVITY_STATE = 0x4826,
        GUEST_SMBASE = 0x4828,
        GUEST_SYSENTER_CS = 0x482a,
        VMX_PREEMPTION_TIMER_VALUE = 0x482e,
    }
    W32 u32 Host {
        HOST_IA32_SYSENTER_CS = 0x4c00,
    }
    Natural u64 Control {
        CR0_GUEST_HOST_MASK = 0x6000,
        CR4_GUEST_HOST_MASK = 0x6002,
        CR0_READ_SHADOW = 0x6004,
        CR4_READ_SHADOW = 0x6006,
        CR3_TARGET_VALUE0 = 0x6008,
        CR3_TARGET_VALUE1 = 0x600a,
        CR3_TARGET_VALUE2 = 0x600c,
        CR3_TARGET_VALUE3 = 0x600e,
    }
    Natural u64 ReadOnly {
        EXIT_QUALIFICATION = 0x6400,
        IO_RCX = 0x6402,
        IO_RSI = 0x6404,
        IO_RDI = 0x6406,
        IO_RIP = 0x6408,
        GUEST_LINEAR_ADDRESS = 0x640a,
    }
    Natural u64 Guest {
        GUEST_CR0 = 0x6800,
        GUEST_CR3 = 0x6802,
        GUEST_CR4 = 0x6804,
        GUEST_ES_BASE = 0x6806,
        GUEST_CS_BASE = 0x6808,
        GUEST_SS_BASE = 0x680a,
        GUEST_DS_BASE = 0x680c,
        GUEST_FS_BASE = 0x680e,
        GUEST_GS_BASE = 0x6810,
        GUEST_LDTR_BASE = 0x6812,
        GUEST_TR_BASE = 0x6814,
        GUEST_GDTR_BASE = 0x6816,
        GUEST_IDTR_BASE = 0x6818,
        GUEST_DR7 = 0x681a,
        GUEST_RSP = 0x681c,
        GUEST_RIP = 0x681e,
        GUEST_RFLAGS = 0x6820,
        GUEST_PENDING_DBG_EXCEPTIONS = 0x6822,
        GUEST_SYSENTER_ESP = 0x6824,
        GUEST_SYSENTER_EIP = 0x6826,
        GUEST_S_CET = 0x6828,
        GUEST_SSP = 0x682a,
        GUEST_INTR_SSP_TABLE = 0x682c,
    }
    Natural u64 Host {
        HOST_CR0 = 0x6c00,
        HOST_CR3 = 0x6c02,
        HOST_CR4 = 0x6c04,
        HOST_FS_BASE = 0x6c06,
        HOST_GS_BASE = 0x6c08,
        HOST_TR_BASE = 0x6c0a,
        HOST_GDTR_BASE = 0x6c0c,
        HOST_IDTR_BASE = 0x6c0e,
        HOST_IA32_SYSENTER_ESP = 0x6c10,
        HOST_IA32_SYSENTER_EIP = 0x6c12,
        HOST_RSP = 0x6c14,
        HOST_RIP = 0x6c16,
        HOST_S_CET = 0x6c18,
        HOST_SSP = 0x6c1a,
        HOST_INTR_SSP_TABLE = 0x6c1c,
    }
}

// `ALL` holds each encoding once, in rising order, which a duplicate or a slip of the pen would break.
const _: () = {
    let mut rest: &[FieldInfo] = ALL;
    while let [a, tail @ ..] = rest {
        if let [b, ..] = tail {
            assert!(a.encoding < b.encoding, "fields out of order");
        }
        rest = tail;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_at_their_width() {
        assert_eq!(
            <GUEST_CS_SELECTOR as Field>::Value::from_u64(0x1_0008),
            8u16
        );
        assert_eq!(u32::from_u64(0xffff_ffff_8000_0021), 0x8000_0021);
        assert_eq!(0xffff_8000_0000_0000u64.to_u64(), 0xffff_8000_0000_0000);
        assert_eq!(0xffffu16.to_u64(), 0xffff);
    }

    #[test]
    fn names_are_unique() {
        let mut names: std::vec::Vec<_> = ALL.iter().map(|f| f.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
