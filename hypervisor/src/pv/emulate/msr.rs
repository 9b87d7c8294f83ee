//! Model-specific registers of PV guests. What is not listed does not exist: #GP, which kernels expect of unknown
//! registers.

use super::system::canonical;
use crate::cpu::msr;
use crate::pv::{Guest, segments};
use core::sync::atomic::Ordering;
use hypervisor_core::builder::hypercall_page;
use hypervisor_core::ids::Mfn;
use hypervisor_core::page::PageType;
use hypervisor_core::platform::Platform;
use hypervisor_core::regs::Regs;
use xen_abi::arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};

const MISC_ENABLE: u32 = 0x1a0;
const BIOS_SIGN_ID: u32 = 0x8b;
/// Machine-check architecture (SDM Vol. 3, 15.3): two banks that never report anything.
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MC_BANKS: core::ops::RangeInclusive<u32> = 0x400..=0x47f;
const MC_CTL2: core::ops::RangeInclusive<u32> = 0x280..=0x29f;
const MC_BANK_COUNT: u64 = 2;
const PLATFORM_ID: u32 = 0x17;
const PLATFORM_INFO: u32 = 0xce;
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_BSP: u64 = 1 << 8;
const EFER_SCE_LME_LMA: u64 = 1 | 1 << 8 | 1 << 10;
const EFER_NX: u64 = 1 << 11;
/// Of IA32_MISC_ENABLE: fast strings; performance monitoring, BTS and PEBS are unavailable.
const MISC_UNAVAILABLE: u64 = 1 << 11 | 1 << 12;
const MISC_PERFMON: u64 = 1 << 7;

fn put(regs: &mut Regs, value: u64) {
    regs.rax = value & 0xffff_ffff;
    regs.rdx = value >> 32;
}

/// `rdmsr`. Answers whether the register exists.
pub fn read(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    let register = (regs.rcx & 0xffff_ffff) as u32;
    let value = match register {
        msr::FS_BASE => Some(segments::active_base(true)),
        msr::GS_BASE => Some(segments::active_base(false)),
        msr::KERNEL_GS_BASE => Some(msr::read(msr::KERNEL_GS_BASE)),
        msr::EFER => Some(EFER_SCE_LME_LMA | msr::read(msr::EFER) & EFER_NX),
        msr::PAT => Some(msr::read(msr::PAT)),
        msr::APIC_BASE => {
            let bsp = if guest.vcpu.id.0 == 0 { APIC_BASE_BSP } else { 0 };
            Some(0xfee0_0000 | APIC_BASE_ENABLE | bsp)
        }
        MISC_ENABLE => msr::try_read(MISC_ENABLE).map(|v| v & !MISC_PERFMON | MISC_UNAVAILABLE),
        BIOS_SIGN_ID | PLATFORM_ID => msr::try_read(register),
        PLATFORM_INFO => Some(0),
        MCG_CAP => Some(MC_BANK_COUNT),
        MCG_STATUS => Some(0),
        _ if MC_BANKS.contains(&register) || MC_CTL2.contains(&register) => Some(0),
        // The time-stamp counter by its other name.
        0x10 => Some(crate::dev::clock::tsc()),
        _ => None,
    };
    value.map(|value| put(regs, value)).is_some()
}

/// `wrmsr`. Answers whether the register exists and takes the value.
pub fn write(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    let register = (regs.rcx & 0xffff_ffff) as u32;
    let value = (regs.rdx & 0xffff_ffff) << 32 | regs.rax & 0xffff_ffff;
    let base = |which| canonical(value) && segments::set_base(guest.vcpu, u64::from(which), value).is_ok();
    match register {
        msr::FS_BASE => base(SEGBASE_FS),
        msr::GS_BASE => base(SEGBASE_GS_KERNEL),
        msr::KERNEL_GS_BASE => base(SEGBASE_GS_USER),
        // What guests write back as they read it, and the microcode revision's question.
        msr::EFER => value == EFER_SCE_LME_LMA | msr::read(msr::EFER) & EFER_NX,
        msr::PAT => value == msr::read(msr::PAT),
        MISC_ENABLE => true,
        BIOS_SIGN_ID => value == 0,
        MCG_STATUS => true,
        _ if MC_BANKS.contains(&register) || MC_CTL2.contains(&register) => true,
        HYPERCALL_PAGE => fill_hypercall_page(guest, value),
        _ => false,
    }
}

/// Fills the frame that the guest names with hypercall stubs; bits 11..0 number the page, of which there is one.
fn fill_hypercall_page(guest: &Guest<'_>, value: u64) -> bool {
    let mfn = Mfn(value >> 12);
    if value & 0xfff != 0 || guest.hv.get_page_and_type(guest.domain, mfn, PageType::Writable).is_err() {
        return false;
    }
    let page = hypercall_page();
    let words = guest.hv.platform.frame_words(mfn);
    for (word, bytes) in words.iter().zip(page.as_chunks().0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    guest.hv.put_page_and_type(mfn);
    true
}
