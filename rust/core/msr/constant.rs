// SPDX-License-Identifier: GPL-2.0

//! MSRs that say the same to all and keep nothing: of old processors, of the package's power, of AMD's chips. Guests access
//! them without asking CPUID, by what they take for the processor's model or vendor.

use super::number::*;

/// What a read gives.
pub(super) const fn constant(msr: u32) -> Option<u64> {
    match msr {
        PLATFORM_ID | EBL_CR_POWERON | LAST_BRANCH_FROM_IP..=LAST_INT_TO_IP | PERF_CTL => Some(0),
        RAPL_POWER_UNIT | PKG_ENERGY_STATUS | DRAM_ENERGY_STATUS => Some(0),
        PP0_ENERGY_STATUS | PP1_ENERGY_STATUS => Some(0),
        P6_PERFCTR0..=P6_PERFCTR1 | P6_EVNTSEL0..=P6_EVNTSEL1 => Some(0),
        FSB_FREQ => Some(3),
        EBC_FREQUENCY_ID => Some(1 << 24),
        // 1000 TSC ticks, multiplier 4.
        PERF_STATUS => Some(1000 | 4 << 40),
        BBL_CR_CTL3 => Some(0xbe70_2111),
        K7_EVNTSEL0..=K7_PERFCTR3 | SYSCFG | NB_CFG | INT_PENDING_MSG => Some(0),
        FAM10H_MMIO_CONF_BASE | TSEG_ADDR | TSEG_MASK | VM_HSAVE_PA => Some(0),
        DC_CFG | TW_CFG | BU_CFG2 | F15H_EX_CFG => Some(0),
        // How long the clock takes to ramp up; all divisors are the least.
        K7_CLK_CTL => Some(0x2000_0000),
        _ => None,
    }
}

/// Whether a write of `value` has no effect.
pub(super) const fn write_ignored(msr: u32, value: u64) -> bool {
    match msr {
        FAM10H_MMIO_CONF_BASE => value == 0,
        _ => matches!(
            msr,
            UCODE_WRITE
                | BBL_CR_CTL3
                | P6_PERFCTR0..=P6_PERFCTR1
                | P6_EVNTSEL0..=P6_EVNTSEL1
                | K7_EVNTSEL0..=K7_PERFCTR3
                | K7_CLK_CTL
                | NB_CFG
                | PATCH_LOADER
                | VM_HSAVE_PA
                | DC_CFG
                | TW_CFG
                | BU_CFG2
                | F15H_EX_CFG
        ),
    }
}
