//! `iret` and the returns that fail: a frame that the processor refuses comes back as the guest's own exception, at the
//! address where it was to go on (xen-x86_64.h, `struct iret_context`; SDM vol. 2, IRET).

use xen_abi::arch_x86::{FLAT_USER_CS, FLAT_USER_SS, VGCF_IN_SYSCALL};
use xen_abi::hypercall::nr;

use crate::harness::pool::with_gdt;
use crate::harness::raw::{Seen, Start, flag, go, places, reg};
use crate::harness::user::CODE;
use crate::harness::{Env, Outcome, Verdict, same};

const UD2: [u8; 2] = [0x0f, 0x0b];
const GP: u64 = 13;
const NON_CANONICAL: u64 = 0x8000_0000_0000;
/// A selector whose descriptor no table of the guest has.
const MISSING: u64 = 0x10;

/// Both modes refuse to return with these selectors (RPL 3 is added); the fault has this code.
fn refused(env: &Env, cs: Option<u64>, ss: Option<u64>, what: (u64, u64)) -> Outcome {
    for user in [false, true] {
        let ring = if user { 3 } else { 0 };
        let start = Start { user, cs: cs.map(|cs| cs | ring), ss: ss.map(|ss| ss | 3), ..Start::KERNEL };
        let seen = go(env, &start.with(reg::RBX, 0x77), &UD2, &[])?;
        same("vector and error code", seen.what(), (what.0, Some(what.1)))?;
        same("rip", seen.rip(), places(env, user).0)?;
        same("cs", seen.cs() & !3, cs.unwrap_or(u64::from(FLAT_USER_CS)) & !3)?;
        same("ss", seen.ss(), ss.unwrap_or(u64::from(FLAT_USER_SS)) | 3)?;
        same("registers", seen.regs[reg::RBX], 0x77)?;
    }
    Ok(())
}

case! {
    /// A null code selector.
    fn cs_null(env) { refused(env, Some(0), None, (GP, 0)) }
}
case! {
    /// A code selector without a descriptor.
    fn cs_missing(env) { refused(env, Some(MISSING), None, (GP, MISSING)) }
}
case! {
    /// A code selector of the LDT where there is no LDT.
    fn cs_without_ldt(env) { refused(env, Some(4), None, (GP, 4)) }
}
case! {
    /// A data segment as code.
    fn cs_data(env) { refused(env, Some(0xe028), None, (GP, 0xe028)) }
}
case! {
    /// The hypervisor's code segment.
    fn cs_hypervisor(env) { refused(env, Some(0xe008), None, (GP, 0xe008)) }
}
case! {
    /// A stack selector without a descriptor.
    fn ss_missing(env) { refused(env, None, Some(MISSING), (GP, MISSING)) }
}
case! {
    /// A null stack selector, which privilege level 3 may not have.
    fn ss_null(env) { refused(env, None, Some(0), (GP, 0)) }
}
case! {
    /// A code segment as stack.
    fn ss_code(env) { refused(env, None, Some(0xe030), (GP, 0xe030)) }
}
case! {
    /// The hypervisor's data segment as stack.
    fn ss_hypervisor(env) { refused(env, None, Some(0xe010), (GP, 0xe010)) }
}

const CODE_64: u64 = 0x00af_fb00_0000_ffff;
const CODE_32: u64 = 0x00cf_fb00_0000_ffff;
const DATA_32: u64 = 0x00cf_f300_0000_ffff;
const PRESENT: u64 = 1 << 47;

case! {
    /// A code segment that is not present: its own exception.
    fn cs_not_present(env) {
        with_gdt(env, &[CODE_64 & !PRESENT], || refused(env, Some(8), None, (11, 8)))
    }
}

case! {
    /// A stack segment that is not present: its own exception, or (by some processors) a stack fault.
    fn ss_not_present(env) {
        with_gdt(env, &[DATA_32 & !PRESENT], || {
            let seen = go(env, &Start { ss: Some(8 | 3), ..Start::USER }, &UD2, &[])?;
            same("error code", (matches!(seen.entry, 11 | 12), seen.error()), (true, Some(8)))?;
            same("where", (seen.rip(), seen.ss()), (CODE, 8 | 3))
        })
    }
}

case! {
    /// Returning to the guest's own segments works, and the next frame shows them.
    fn own_segments(env) {
        with_gdt(env, &[CODE_64, DATA_32, CODE_32], || {
            for cs in [8, 24] {
                let start = Start { cs: Some(cs | 3), ss: Some(16 | 3), ..Start::USER };
                let seen = go(env, &start, &UD2, &[])?;
                same("what", (seen.what(), seen.rip()), ((6, None), CODE))?;
                same("selectors", (seen.cs(), seen.ss()), (cs | 3, 16 | 3))?;
            }
            Ok(())
        })
    }
}

case! {
    /// Jumping through the guest's own descriptor that is not present, from user mode: the same exception at the instruction.
    #[emulator(qemu, "with SMAP, far returns in ring 3 read their stack with supervisor rights")]
    fn far_jump_not_present(env) {
        with_gdt(env, &[CODE_64 & !PRESENT], || {
            // push 8|3; push 0; retfq
            let seen = go(env, &Start::USER, &[0x6a, 0x0b, 0x6a, 0x00, 0x48, 0xcb], &[])?;
            same("what", (seen.what(), seen.rip()), ((11, Some(8)), CODE + 4))
        })
    }
}

case! {
    /// A data selector that cannot be loaded.
    fn load_of_a_bad_selector(env) {
        // mov ds, eax
        let code = [0x8e, 0xd8];
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL };
            for (selector, error) in [(MISSING | 3, MISSING), (7, 4), (0xe008, 0xe008)] {
                let seen = go(env, &start.with(reg::RAX, selector), &code, &[])?;
                same("what", (seen.what(), seen.rip()), ((GP, Some(error)), places(env, user).0))?;
            }
        }
        Ok(())
    }
}

/// Returning to a non-canonical address is a fault there, by either instruction.
fn non_canonical_rip(env: &Env, vgcf: u64) -> Outcome {
    for user in [false, true] {
        for rip in [NON_CANONICAL, u64::MAX >> 1, 1 << 63] {
            let start = Start { user, vgcf, rip: Some(rip), ..Start::KERNEL };
            let seen = go(env, &start, &UD2, &[])?;
            same("what", seen.what(), (GP, Some(0)))?;
            same("rip", seen.rip(), rip)?;
        }
    }
    Ok(())
}

case! {
    /// To a non-canonical address.
    fn to_non_canonical(env) { non_canonical_rip(env, 0) }
}

case! {
    /// To a non-canonical address with VGCF_in_syscall: `sysret` would fault with the hypervisor's privilege (XSA-7).
    fn to_non_canonical_by_sysret(env) { non_canonical_rip(env, VGCF_IN_SYSCALL) }
}

case! {
    /// Without VGCF_in_syscall `rcx` and `r11` come from the frame.
    fn rcx_and_r11(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL }.with(reg::RCX, 0xc0).with(reg::R11, 0xc1);
            let seen = go(env, &start.with(reg::RAX, 0xc2), &UD2, &[])?;
            same("registers", (seen.words[0], seen.words[1], seen.regs[reg::RAX]), (0xc0, 0xc1, 0xc2))?;
        }
        Ok(())
    }
}

/// What user mode looks like after a return with VGCF_in_syscall.
fn in_syscall(env: &Env, start: Start<'_>) -> Result<Seen, Verdict> {
    let seen = go(env, &Start { vgcf: VGCF_IN_SYSCALL, ..start }.with(reg::RAX, 5), &UD2, &[])?;
    same("what", (seen.what(), seen.rip()), ((6, None), CODE))?;
    same("rax", seen.regs[reg::RAX], 5)?;
    Ok(seen)
}

case! {
    /// With VGCF_in_syscall the return is one by `sysret`: flat segments whatever the frame says, `rcx` and `r11` are its own.
    fn in_syscall_segments(env) {
        let seen = in_syscall(env, Start { cs: Some(MISSING | 3), ss: Some(MISSING | 3), ..Start::USER })?;
        same("selectors", (seen.cs(), seen.ss()), (u64::from(FLAT_USER_CS), u64::from(FLAT_USER_SS)))?;
        same("rcx", seen.words[0], CODE)
    }
}

case! {
    /// The frame's interrupt flag is the upcall mask, upside down.
    fn mask_from_flags(env) {
        for user in [false, true] {
            let seen = go(env, &Start { user, rflags: flag::ONE | flag::IF, ..Start::KERNEL }, &UD2, &[])?;
            same("open", seen.saved_mask(), 0)?;
            let seen = go(env, &Start { user, ..Start::KERNEL }, &UD2, &[])?;
            same("masked", seen.saved_mask(), 1)?;
        }
        Ok(())
    }
}

case! {
    /// The flags of the frame reach the program.
    fn flags(env) {
        const ARITHMETIC: u64 = 0x8d5;
        const ID: u64 = 1 << 21;
        let flags = flag::ONE | ARITHMETIC | ID | flag::DF | flag::AC;
        for vgcf in [0, VGCF_IN_SYSCALL] {
            let seen = go(env, &Start { rflags: flags, vgcf, ..Start::USER }, &UD2, &[])?;
            // RF is the fault's own.
            same("flags", seen.rflags() & 0x3e_7fd7, flags)?;
        }
        Ok(())
    }
}

case! {
    /// A frame that cannot be read ends the domain.
    #[ends(crash)]
    fn frame_unreadable(env) {
        let _ = env;
        // SAFETY: the domain ends here.
        unsafe { core::arch::asm!("mov rsp, {at}", "syscall", at = in(reg) 0x1000u64, in("rax") u64::from(nr::IRET)) };
        same("still there", true, false)
    }
}

case! {
    /// Returning to user mode without a page table for it ends the domain.
    #[ends(crash)]
    fn no_user_table(env) {
        let _ = env;
        let frame = [0u64, 0, 0, 0, 0x1000, u64::from(FLAT_USER_CS), 2, 0x1000, u64::from(FLAT_USER_SS)];
        // SAFETY: the domain ends here.
        unsafe {
            core::arch::asm!("mov rsp, {at}", "syscall", at = in(reg) &frame, in("rax") u64::from(nr::IRET));
        }
        same("still there", true, false)
    }
}

case! {
    /// An exception from user mode without a kernel stack that can be written ends the domain.
    #[ends(crash)]
    fn no_kernel_stack(env) {
        let seen = go(env, &Start { stack: Some(0x1000), ..Start::USER }, &UD2, &[])?;
        same("still there", seen.entry, 0)
    }
}

case! {
    /// A stack in the hypervisor's part of the address space as well.
    #[ends(crash)]
    fn kernel_stack_in_hypervisor(env) {
        let seen = go(env, &Start { stack: Some(crate::call::HYPERVISOR), ..Start::USER }, &UD2, &[])?;
        same("still there", seen.entry, 0)
    }
}

case! {
    /// A non-canonical stack as well.
    #[ends(crash)]
    fn kernel_stack_non_canonical(env) {
        let seen = go(env, &Start { stack: Some(NON_CANONICAL), ..Start::USER }, &UD2, &[])?;
        same("still there", seen.entry, 0)
    }
}

case! {
    /// An exception without a handler ends the domain.
    #[ends(crash)]
    fn no_handler(env) {
        let seen = go(env, &Start { absent: &[6], ..Start::USER }, &UD2, &[])?;
        same("still there", seen.entry, 0)
    }
}
