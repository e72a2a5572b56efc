// SPDX-License-Identifier: GPL-2.0

//! The host's performance counters around a guest that has none of its own (SDM, "Performance Monitoring").
//!
//! A counter that perf keeps for the host only is off while the guest runs. Above all one with PEBS: its records are written
//! to a linear address, which is somebody else's in the guest.

const PERF_GLOBAL_CTRL: u32 = 0x38f;
const PEBS_ENABLE: u32 = 0x3f1;

/// IA32_PERF_GLOBAL_CTRL in the host and in the guest, which differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalCtrl {
    /// What VM exit loads.
    pub host: u64,
    /// What VM entry loads.
    pub guest: u64,
}

/// What is to be switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// IA32_PERF_GLOBAL_CTRL, by entry and exit.
    pub global_ctrl: Option<GlobalCtrl>,
    /// IA32_PEBS_ENABLE of the host, on a processor that may write a record after the counter is off: 0 before the entry.
    pub pebs_enable: Option<u64>,
}

impl Switch {
    /// From what perf says of MSRs: number, the value of the host, the value of the guest. Without a PMU in the guest the
    /// others are the same in both.
    pub fn of(msrs: impl Iterator<Item = (u32, u64, u64)>) -> Self {
        let mut switch = Self::default();
        for (msr, host, guest) in msrs.filter(|(_, host, guest)| host != guest) {
            match msr {
                PERF_GLOBAL_CTRL => switch.global_ctrl = Some(GlobalCtrl { host, guest }),
                PEBS_ENABLE => switch.pebs_enable = Some(host),
                _ => {}
            }
        }
        switch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(msrs: &[(u32, u64, u64)]) -> Switch {
        Switch::of(msrs.iter().copied())
    }

    #[test]
    fn what_is_the_same_in_both_is_not_switched() {
        assert_eq!(of(&[]), Switch::default());
        // The watchdog's counter, and PEBS that is off.
        let idle = of(&[(PERF_GLOBAL_CTRL, 1 << 33, 1 << 33), (PEBS_ENABLE, 0, 0)]);
        assert_eq!(idle, Switch::default());
    }

    #[test]
    fn counters_of_the_host_stop() {
        let (host, guest) = (1 << 33 | 1, 1 << 33);
        let sampling = of(&[(PERF_GLOBAL_CTRL, host, guest), (PEBS_ENABLE, 1, 0)]);
        assert_eq!(sampling.global_ctrl, Some(GlobalCtrl { host, guest }));
        assert_eq!(sampling.pebs_enable, Some(1));
        // The buffer of records stays where it is: nothing is written to it.
        let area = of(&[(PERF_GLOBAL_CTRL, host, guest), (0x600, 0x7000, 0x7000)]);
        assert_eq!(area.pebs_enable, None);
    }
}
