// SPDX-License-Identifier: GPL-2.0

//! Which of the emulator's instruction sets the guest has, by its CPUID.

use rkvm_core::{
    cpuid::{
        features as f,
        guest::GuestCaps, //
    },
    emulate::Feature, //
};

/// Whether the guest's CPUID has what the emulator asks for.
pub(super) fn has(caps: &GuestCaps, feature: Feature) -> bool {
    let bit = match feature {
        Feature::Sysenter => f::SEP,
        Feature::Syscall => f::SYSCALL,
        Feature::Cx8 => f::CX8,
        Feature::Cx16 => f::CX16,
        Feature::Movbe => f::MOVBE,
        Feature::Popcnt => f::POPCNT,
        Feature::Lzcnt => f::ABM,
        Feature::Bmi1 => f::BMI1,
        Feature::Bmi2 => f::BMI2,
        Feature::Adx => f::ADX,
        Feature::Sse42 => f::XMM4_2,
        Feature::Rdpid => f::RDPID,
        Feature::Rdtscp => f::RDTSCP,
        Feature::Movdiri => f::MOVDIRI,
        Feature::Movdir64b => f::MOVDIR64B,
        Feature::Fsgsbase => f::FSGSBASE,
        Feature::Invpcid => f::INVPCID,
        Feature::Smap => f::SMAP,
        Feature::Clflushopt => f::CLFLUSHOPT,
        Feature::Clwb => f::CLWB,
        Feature::Fxsr => f::FXSR,
        Feature::Xsave => f::XSAVE,
        Feature::Sse => f::XMM,
        Feature::Sse2 => f::XMM2,
        Feature::Sse3 => f::XMM3,
        Feature::Sse41 => f::XMM4_1,
        Feature::Avx => f::AVX,
        Feature::Avx2 => f::AVX2,
        Feature::Avx512f => f::AVX512F,
        Feature::Avx512vl => f::AVX512VL,
        Feature::Avx512bw => f::AVX512BW,
        Feature::Avx512dq => f::AVX512DQ,
        Feature::Avx512fp16 => f::AVX512_FP16,
        Feature::Serialize => f::SERIALIZE,
        // Every guest of KVM has hypercalls.
        Feature::Vmcall => return true,
    };
    caps.has(bit)
}
