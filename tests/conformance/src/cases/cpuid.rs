//! CPUID as a PV guest sees it by the forced-emulation prefix (arch-x86/xen.h, arch-x86/cpuid.h).

use core::arch::x86_64::__cpuid_count;

use crate::harness::raw::{self, Start, completes, go, raises, reg};
use crate::harness::{Env, Verdict, need, same};
use guest_pv_lib::mmu::Pte;

/// `ud2; "xen"; cpuid`, then `mov r8, rcx`.
const FORCED: [u8; 10] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2, 0x49, 0x89, 0xc8];

fn forced(env: &Env, user: bool, leaf: u32, sub: u32) -> Result<[u32; 4], Verdict> {
    let start = Start { user, ..Start::KERNEL }.with(reg::RAX, leaf.into()).with(reg::RCX, sub.into());
    let seen = completes(env, &start, &FORCED, &[])?;
    Ok([reg::RAX, reg::RBX, reg::R8, reg::RDX].map(|register| seen.regs[register] as u32))
}

fn native(leaf: u32, sub: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, sub);
    [result.eax, result.ebx, result.ecx, result.edx]
}

case! {
    /// The maker is the processor's; no leaf beyond XSAVE's is told.
    fn maker(env) {
        let [max, name @ ..] = forced(env, false, 0, 0)?;
        let [native_max, native_name @ ..] = native(0, 0);
        same("maker", name, native_name)?;
        same("highest leaf", max, native_max.min(0xd))
    }
}

case! {
    /// Leaf 1: no virtual-8086 mode, large pages, global pages, x2APIC, VMX, PCID; machine checks, an APIC and a hypervisor.
    fn features(env) {
        const ABSENT_EDX: u32 = 1 << 1 | 1 << 3 | 1 << 13 | 1 << 17;
        const PRESENT_EDX: u32 = 1 << 7 | 1 << 9 | 1 << 14;
        const ABSENT_ECX: u32 = 1 << 3 | 1 << 5 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24;
        let [_, ebx, ecx, edx] = forced(env, false, 1, 0)?;
        let native_edx = native(1, 0)[3];
        same("absent, EDX", edx & ABSENT_EDX, 0)?;
        same("present, EDX", edx & PRESENT_EDX, native_edx & PRESENT_EDX)?;
        same("absent, ECX", ecx & ABSENT_ECX, 0)?;
        same("hypervisor", ecx >> 31, 1)?;
        same("APIC identifier", ebx >> 24, 0)
    }
}

case! {
    /// OSXSAVE is the hypervisor's for the kernel, and the guest's CR4 for user mode.
    #[feature(xsave)]
    fn osxsave(env) {
        same("kernel", forced(env, false, 1, 0)?[2] >> 27 & 1, 1)?;
        same("user mode", forced(env, true, 1, 0)?[2] >> 27 & 1, 0)?;
        // mov cr4, rax
        completes(env, &Start::KERNEL.with(reg::RAX, 1 << 18), &[0x0f, 0x22, 0xe0], &[])?;
        same("user mode with CR4.OSXSAVE", forced(env, true, 1, 0)?[2] >> 27 & 1, 1)?;
        completes(env, &Start::KERNEL, &[0x0f, 0x22, 0xe0], &[]).map(drop)
    }
}

case! {
    /// The control domain's kernel sees memory-type registers, for which it has hypercalls; its user code does not.
    fn memory_types(env) {
        let machine = native(1, 0)[3] >> 12 & 1;
        same("kernel", forced(env, false, 1, 0)?[3] >> 12 & 1, machine)?;
        same("user mode", forced(env, true, 1, 0)?[3] >> 12 & 1, 0)
    }
}

case! {
    /// Leaf 7: no SMEP, SMAP, INVPCID, protection keys, UMIP, shadow stacks; FSGSBASE, BMI and the rest as the processor has them.
    fn more_features(env) {
        const ABSENT_EBX: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 7 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 20 | 1 << 25;
        const AS_NATIVE_EBX: u32 = 1 | 1 << 3 | 1 << 8 | 1 << 9 | 1 << 19;
        const ABSENT_ECX: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16;
        let [_, ebx, ecx, edx] = forced(env, false, 7, 0)?;
        let native_ebx = native(7, 0)[1];
        same("absent, EBX", ebx & ABSENT_EBX, 0)?;
        same("as the processor's", ebx & AS_NATIVE_EBX, native_ebx & AS_NATIVE_EBX)?;
        same("absent, ECX", ecx & ABSENT_ECX, 0)?;
        same("absent, EDX", edx & (1 << 20 | 1 << 22 | 1 << 24 | 1 << 25 | 1 << 30), 0)
    }
}

case! {
    /// MONITOR, power management, performance monitoring, topology, resource control, SGX, tracing: nothing.
    fn empty_leaves(env) {
        for leaf in [3, 5, 6, 8, 9, 0xa, 0xb, 0xc, 0xe, 0xf, 0x10, 0x12, 0x14, 0x1f, 0x8000_000a, 0x8000_001b, 0x8000_001f, 0x9000_0000] {
            same("leaf", (leaf, forced(env, false, leaf, 0)?), (leaf, [0; 4]))?;
        }
        Ok(())
    }
}

case! {
    /// XSAVE's leaf: only x87, SSE, AVX and AVX-512; the size of what is enabled is the processor's.
    #[feature(xsave)]
    fn xsave(env) {
        let [low, size, max, high] = forced(env, false, 0xd, 0)?;
        same("parts", (low & !0xe7, high), (0, 0))?;
        same("x87 and SSE, nothing that the processor has not", (low & 3, low & !native(0xd, 0)[0]), (3, 0))?;
        same("size", size, native(0xd, 0)[1])?;
        same("room for all", max >= size && max >= 576, true)?;
        same("XSAVEOPT and the like", forced(env, false, 0xd, 1)?[0], native(0xd, 1)[0] & 7)?;
        same("protection keys", forced(env, false, 0xd, 9)?, [0; 4])?;
        for part in (2..63).filter(|n| low >> n & 1 != 0) {
            same("place", forced(env, false, 0xd, part)?[..2].first(), native(0xd, part).first())?;
        }
        Ok(())
    }
}

case! {
    /// Leaf 80000001h: NX, long mode, SYSCALL; no SVM, no pages of 1 GiB.
    fn extended_features(env) {
        let [_, _, ecx, edx] = forced(env, false, 0x8000_0001, 0)?;
        same("NX, long mode, SYSCALL", edx & (1 << 20 | 1 << 29 | 1 << 11), 1 << 20 | 1 << 29 | 1 << 11)?;
        same("no pages of 1 GiB", edx & 1 << 26, 0)?;
        same("no SVM, IBS, topology", ecx & (1 << 2 | 1 << 10 | 1 << 22), 0)
    }
}

case! {
    /// Addresses have as many bits as the machine's, linear ones 48.
    fn address_widths(env) {
        let [eax, ..] = forced(env, false, 0x8000_0008, 0)?;
        same("widths", eax, native(0x8000_0008, 0)[0] & 0xff | 48 << 8)
    }
}

case! {
    /// The name of the processor.
    fn brand(env) {
        for leaf in 0x8000_0002..=0x8000_0004 {
            same("part", forced(env, false, leaf, 0)?, native(leaf, 0))?;
        }
        Ok(())
    }
}

case! {
    /// The hypervisor's leaves: signature, version 4.17, one hypercall page at its register, PT_UPDATE_PRESERVE_AD, width of
    /// machine addresses; nothing behind them.
    fn hypervisor_leaves(env) {
        let base = 0x4000_0000;
        same("last leaf", forced(env, false, base, 0)?[0], base + 5)?;
        same("version", forced(env, false, base + 1, 0)?, [4 << 16 | 17, 0, 0, 0])?;
        same("pages", forced(env, false, base + 2, 0)?, [1, 0x4000_0000, 1, 0])?;
        let [flags, mode, khz, incarnation] = forced(env, false, base + 3, 0)?;
        same("TSC not emulated; the control domain has no rate of its own", (flags & 1, mode, khz, incarnation), (0, 0, 0, 0))?;
        same("no offset", forced(env, false, base + 3, 1)?, [0; 4])?;
        same("kHz of the machine", forced(env, false, base + 3, 2)?[0] > 10_000, true)?;
        same("none for PV", forced(env, false, base + 4, 0)?, [0; 4])?;
        let width = forced(env, false, base + 5, 0)?[1];
        same("width", (20..=52).contains(&width), true)?;
        same("behind", [forced(env, false, base + 6, 0)?, forced(env, false, base + 0x100, 0)?], [[0; 4]; 2])
    }
}

case! {
    /// The prefix works in user mode, with the same maker.
    fn user_mode(env) {
        same("leaf 0", forced(env, true, 0, 0)?, forced(env, false, 0, 0)?)?;
        same("signature", forced(env, true, 0x4000_0000, 0)?[1], u32::from_le_bytes(*b"XenV"))
    }
}

case! {
    /// The prefix in front of anything but `cpuid` is an invalid instruction, and so is `ud2` in front of anything else.
    fn prefix_of_others(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL };
            raises(env, &start, &[0x0f, 0x0b, b'x', b'e', b'n', 0x90, 0x90], (6, None), 0)?;
            raises(env, &start, &[0x0f, 0x0b, b'x', b'e', b'm', 0x0f, 0xa2], (6, None), 0)?;
        }
        Ok(())
    }
}

case! {
    /// The hypervisor looks for the prefix at every invalid instruction: where its bytes cannot be read that is a page fault
    /// of a read.
    fn prefix_unreadable(env) {
        let (page, behind) = (env.page(7), env.page(8));
        need("not mapped", behind.map(Pte::EMPTY))?;
        for code in [&FORCED[..2], &FORCED[..4], &FORCED[..5]] {
            let mut word = [0x90; 8];
            word[8 - code.len()..].copy_from_slice(code);
            need("writable", page.writable())?;
            page.set(511, u64::from_le_bytes(word));
            need("executable", page.map(Pte::new(page.mfn(), Pte::PRESENT)))?;
            let rip = behind.virt() - code.len() as u64;
            let seen = go(env, &Start { rip: Some(rip), ..Start::KERNEL }, &[], &[])?;
            same("what", (seen.what(), raw::cr2(), seen.rip()), ((14, Some(0)), behind.virt(), rip))?;
        }
        Ok(())
    }
}
