//! `rdmsr` and `wrmsr` of a guest's kernel: the machine's side of `core::cpu_policy::msr`.

use crate::cpu::{features, msr, native_cpuid};
use crate::pv::{Guest, segments};
use core::sync::atomic::Ordering;
use hypervisor_core::builder::hypercall_page;
use hypervisor_core::cpu_policy::{MsrGuest, MsrState, Vendor, msr as policy};
use hypervisor_core::ids::Mfn;
use hypervisor_core::page::PageType;
use hypervisor_core::platform::Platform;
use hypervisor_core::regs::Regs;
use xen_abi::arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};

/// `rdmsr`. Answers whether the register exists.
pub fn read(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    let value = policy::read(guest, (regs.rcx & 0xffff_ffff) as u32);
    if let Some(value) = value {
        regs.rax = value & 0xffff_ffff;
        regs.rdx = value >> 32;
    }
    value.is_some()
}

/// `wrmsr`. Answers whether the register exists and takes the value.
pub fn write(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    let value = (regs.rdx & 0xffff_ffff) << 32 | regs.rax & 0xffff_ffff;
    policy::write(guest, (regs.rcx & 0xffff_ffff) as u32, value)
}

impl MsrGuest for Guest<'_> {
    fn vendor(&self) -> Vendor {
        Vendor::of(native_cpuid(0, 0))
    }

    fn privileged(&self) -> bool {
        self.domain.privileged
    }

    fn is_first(&self) -> bool {
        self.vcpu.id.0 == 0
    }

    fn native(&self, register: u32) -> Option<u64> {
        msr::try_read(register)
    }

    fn state(&self) -> &MsrState {
        &self.vcpu.arch.msrs
    }

    fn base(&self, register: u32) -> u64 {
        match register {
            msr::FS_BASE => segments::active_base(true),
            msr::GS_BASE => segments::active_base(false),
            _ => msr::read(msr::KERNEL_GS_BASE),
        }
    }

    fn set_base(&self, register: u32, base: u64) {
        let which = match register {
            msr::FS_BASE => SEGBASE_FS,
            msr::GS_BASE => SEGBASE_GS_KERNEL,
            _ => SEGBASE_GS_USER,
        };
        // Only an unknown register is refused.
        let _ = segments::set_base(self.vcpu, which.into(), base);
    }

    fn tsc(&self) -> u64 {
        crate::dev::clock::tsc()
    }

    fn has_tsc_aux(&self) -> bool {
        features().rdtscp
    }

    fn load_tsc_aux(&self, value: u32) {
        // SAFETY: the CPU has the register, which is the guest's.
        unsafe { msr::write(msr::TSC_AUX, value.into()) };
    }

    fn has_cpuid_faulting(&self) -> bool {
        features().cpuid_faulting
    }

    fn handles_faults(&self) -> bool {
        const GENERAL_PROTECTION: usize = 13;
        self.vcpu.pv.traps[GENERAL_PROTECTION].address.load(Ordering::Relaxed) != 0
    }

    fn fill_hypercall_page(&self, mfn: u64) -> bool {
        let mfn = Mfn(mfn);
        if self.hv.get_page_and_type(self.domain, mfn, PageType::Writable).is_err() {
            return false;
        }
        let page = hypercall_page();
        let words = self.hv.platform.frame_words(mfn);
        for (word, bytes) in words.iter().zip(page.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        self.hv.put_page_and_type(mfn);
        true
    }
}
