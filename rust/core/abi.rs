// SPDX-License-Identifier: GPL-2.0

//! The KVM ABI as a table: every capability and every ioctl that concerns x86, and how far rkvm has it.
//!
//! api.rst, KVM_CHECK_EXTENSION. The answers come from here and nowhere else, so what is not done is not
//! promised; the documentation of the ABI's coverage is made from the same rows. To take a capability or an ioctl into
//! service, turn the one word `Planned` of its row into `Done`.

pub mod capabilities;
pub mod ioctls;
#[cfg(not(CONFIG_RUST))]
pub mod page;

/// How far rkvm has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Done,
    /// It works, with another answer than C KVM's, and which.
    Differs(&'static str),
    /// It will.
    Planned,
    /// It will not, and why.
    Excluded(&'static str),
}

/// Reasons for leaving something out.
pub(crate) mod reason {
    pub(crate) const XEN: &str = "the Xen interface is not emulated";
    pub(crate) const HYPERV: &str = "the Hyper-V enlightenments are not emulated";
    pub(crate) const ENCRYPTION: &str = "encrypted guests need SEV or TDX";
    pub(crate) const NESTED: &str = "guests get no VMX of their own";
    pub(crate) const SGX: &str = "guests get no SGX";
    pub(crate) const OBSOLETE: &str = "withdrawn from the KVM ABI";
    pub(crate) const UNUSED: &str = "the kernel answers 0 on every x86";
    pub(crate) const OTHER_ARCH: &str = "not for x86";

    pub(crate) const NO_SMM: &str = "1, because there is no SMM";
    pub(crate) const NOT_PREEMPTED: &str = "the field preempted stays 0";
    pub(crate) const SOME_EXITS: &str = "HLT and PAUSE";
    pub(crate) const SOME_QUIRKS: &str =
        "OUT_7E_INC_RIP, MISC_ENABLE_NO_MWAIT and MWAIT_NEVER_UD_FAULTS";
}

#[cfg(test)]
mod tests {
    use super::capabilities::{check_extension, HostFacts, CAPABILITIES};
    use super::ioctls::{FdKind, IOCTLS};
    use super::Status;

    #[test]
    fn capabilities_are_in_order_and_named_once() {
        for pair in CAPABILITIES.windows(2) {
            assert!(
                pair[0].number < pair[1].number,
                "{} {}",
                pair[0].name,
                pair[1].name
            );
        }
        for cap in CAPABILITIES {
            assert!(cap.name.starts_with("KVM_CAP_"), "{}", cap.name);
        }
    }

    #[test]
    fn only_what_is_done_is_promised() {
        let facts = HostFacts {
            nr_vcpus: 2,
            max_vcpus: 288,
            max_vcpu_id: 1152,
            nr_memslots: 32764,
            address_spaces: 1,
            xsave2_size: 4096,
            apic_bus_cycle_ns: 1,
            xcrs: true,
            tsc_scaling: true,
            smm: true,
            disable_exits: 15,
            x2apic_api: 15,
            smaller_maxphyaddr: true,
            bus_lock_exit: true,
            notify_vmexit: true,
            pmu: true,
            ept: true,
            quirks: !0,
            vm_types: 1,
            steal_time: true,
        };
        for cap in CAPABILITIES {
            let answer = check_extension(cap.number, &facts);
            if !matches!(cap.status, Status::Done | Status::Differs(_)) {
                assert_eq!(answer, 0, "{}", cap.name);
            }
        }
        for unknown in [5, 17, 1000, u64::MAX] {
            assert_eq!(check_extension(unknown, &facts), 0);
        }
    }

    #[test]
    fn ioctls_are_kvms_and_listed_once_for_each_fd() {
        for (i, a) in IOCTLS.iter().enumerate() {
            assert_eq!(a.request >> 8 & 0xff, 0xae, "{}", a.name);
            assert!(a.name.starts_with("KVM_"));
            let twins = IOCTLS
                .iter()
                .filter(|b| b.request == a.request && b.fd == a.fd);
            assert_eq!(twins.count(), 1, "{}", a.name);
            let same_name = IOCTLS.iter().filter(|b| b.name == a.name);
            assert!(
                same_name.into_iter().all(|b| b.request == a.request),
                "{} {i}",
                a.name
            );
        }
        for fd in [FdKind::System, FdKind::Vm, FdKind::Vcpu, FdKind::Device] {
            assert!(IOCTLS.iter().any(|io| io.fd == fd));
        }
    }
}
