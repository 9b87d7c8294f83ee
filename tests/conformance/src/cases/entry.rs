//! What the kernel's entries find: registers, stack, flags and event mask, for exceptions, software interrupts and
//! system calls of every kind (docs/guest-guide/x86/pv-traps, SDM vol. 3 chapter 6).

use xen_abi::arch_x86::{FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_SS};

use crate::harness::raw::{self, SYSCALL, SYSCALL32, SYSENTER, Start, flag, go, raises, reg};
use crate::harness::user::{CODE, DATA};
use crate::harness::{Env, Outcome, same};

const UD2: [u8; 2] = [0x0f, 0x0b];
const KERNEL_CS: u64 = FLAT_USER_CS as u64 & !3;
const GP: u64 = 13;
const UD: u64 = 6;

/// Each register with a value of its own.
fn distinct() -> [u64; 15] {
    core::array::from_fn(|n| 0x1111_2222_3333_0000 + n as u64)
}

/// 32-bit user code.
const COMPAT: Start<'static> = Start { cs: Some(FLAT_USER_CS32 as u64), ..Start::USER };

case! {
    /// From the kernel: the frame goes onto the stack in use, aligned to 16, and shows the kernel as privilege level 0.
    fn exception_in_kernel(env) {
        let rsp = env.page(5).virt() + 2048;
        let seen = raises(env, &Start { rsp: Some(rsp + 4), regs: distinct(), ..Start::KERNEL }, &UD2, (UD, None), 0)?;
        same("registers", &seen.regs[..2], &distinct()[..2])?;
        same("registers", &seen.regs[3..10], &distinct()[3..10])?;
        same("rcx and r11", [seen.words[0], seen.words[1]], [distinct()[reg::RCX], distinct()[reg::R11]])?;
        same("cs", seen.cs(), KERNEL_CS)?;
        same("rsp", seen.rsp(), rsp + 4)?;
        same("stack", seen.rsp_at_entry, rsp - 7 * 8)?;
        same("ss", seen.ss(), u64::from(FLAT_USER_SS))
    }
}

case! {
    /// From user mode: the frame goes onto the kernel's stack and shows privilege level 3.
    fn exception_in_user_mode(env) {
        let seen = raises(env, &Start { regs: distinct(), ..Start::USER }, &UD2, (UD, None), 0)?;
        same("registers", &seen.regs[3..10], &distinct()[3..10])?;
        same("rcx and r11", [seen.words[0], seen.words[1]], [distinct()[reg::RCX], distinct()[reg::R11]])?;
        same("cs", seen.cs(), u64::from(FLAT_USER_CS))?;
        same("rsp", seen.rsp(), DATA + 2048)?;
        same("stack", seen.rsp_at_entry, raw::kernel_stack(env) - 7 * 8)
    }
}

case! {
    /// The saved interrupt flag and the saved mask say whether upcalls were masked; without TI_GET_IF the mask stays.
    fn mask_stays(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL };
            let seen = go(env, &start, &UD2, &[])?;
            same("masked: IF, saved mask, mask", (seen.rflags() & flag::IF, seen.saved_mask(), seen.masked), (0, 1, true))?;
            let seen = go(env, &Start { rflags: flag::ONE | flag::IF, ..start }, &UD2, &[])?;
            same("open: IF, saved mask, mask", (seen.rflags() & flag::IF, seen.saved_mask(), seen.masked), (flag::IF, 0, false))?;
        }
        Ok(())
    }
}

case! {
    /// With TI_GET_IF the entry masks upcalls, and the frame still says that they were open.
    fn mask_taken(env) {
        for user in [false, true] {
            let start = Start { user, rflags: flag::ONE | flag::IF, masking: &[UD], ..Start::KERNEL };
            let seen = go(env, &start, &UD2, &[])?;
            same("IF, saved mask, mask", (seen.rflags() & flag::IF, seen.saved_mask(), seen.masked), (flag::IF, 0, true))?;
        }
        Ok(())
    }
}

case! {
    /// An entry starts without NT, AC and RF, keeps DF, and the frame shows what was.
    fn entry_flags(env) {
        let flags = flag::ONE | flag::NT | flag::AC | flag::DF;
        for user in [false, true] {
            let seen = go(env, &Start { user, rflags: flags, ..Start::KERNEL }, &UD2, &[])?;
            let mask = flag::NT | flag::AC | flag::DF | flag::IOPL | flag::TF;
            same("frame", seen.rflags() & mask, flags & mask)?;
            same("entry", seen.rflags_at_entry & mask, flag::DF)?;
        }
        Ok(())
    }
}

case! {
    /// IOPL in the frame of `iret` never reaches the processor, and is shown as zero.
    fn no_iopl(env) {
        let seen = go(env, &Start { rflags: flag::ONE | flag::IOPL, ..Start::USER }, &UD2, &[])?;
        same("frame", seen.rflags() & flag::IOPL, 0)?;
        same("entry", seen.rflags_at_entry & flag::IOPL, 0)
    }
}

/// `mov rax, [rax]`.
const LOAD: [u8; 3] = [0x48, 0x8b, 0x00];
/// `mov [rax], rax`.
const STORE: [u8; 3] = [0x48, 0x89, 0x00];
const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;

case! {
    /// An exception with an error code pushes it below `rip`.
    fn error_code(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL }.with(reg::RAX, NON_CANONICAL);
            let seen = raises(env, &start, &LOAD, (GP, Some(0)), 0)?;
            let top = if user { raw::kernel_stack(env) } else { env.page(5).virt() + 2048 };
            same("stack", seen.rsp_at_entry, top - 8 * 8)?;
        }
        Ok(())
    }
}

case! {
    /// A non-canonical stack access is a stack fault.
    #[emulator(qemu, "a non-canonical stack address raises #GP")]
    fn stack_fault(env) {
        for user in [false, true] {
            let start = Start { user, rsp: if user { Some(NON_CANONICAL) } else { None }, ..Start::KERNEL };
            // push rax; in the kernel: xchg rax, rbp; mov rbp, [rbp]
            let code: &[u8] = if user { &[0x50] } else { &[0x48, 0x8b, 0x6d, 0x00] };
            raises(env, &start.with(reg::RBP, NON_CANONICAL), code, (12, Some(0)), 0)?;
        }
        Ok(())
    }
}

/// A page fault of this code with this address in `rax`.
fn page_fault(env: &Env, start: Start<'_>, code: &[u8], address: u64, error: u64) -> Outcome {
    let seen = go(env, &start.with(reg::RAX, address), code, &[])?;
    same("vector and error code", seen.what(), (14, Some(error)))?;
    same("address", raw::cr2(), address)
}

case! {
    /// The bits of a page fault's error code, in the kernel: present, write; never user.
    fn page_fault_codes_in_kernel(env) {
        page_fault(env, Start::KERNEL, &LOAD, crate::call::UNMAPPED, 0)?;
        page_fault(env, Start::KERNEL, &STORE, crate::call::UNMAPPED, 2)?;
        crate::harness::need("read-only", env.page(7).read_only())?;
        page_fault(env, Start::KERNEL, &STORE, env.page(7).virt(), 3)
    }
}

case! {
    /// The same in user mode: with the user bit.
    fn page_fault_codes_in_user_mode(env) {
        page_fault(env, Start::USER, &LOAD, 0x7000_0000, 4)?;
        page_fault(env, Start::USER, &STORE, 0x7000_0000, 6)?;
        page_fault(env, Start::USER, &STORE, CODE, 7)
    }
}

case! {
    /// A fetch from a page without execution: present and fetch, with the user bit in user mode.
    fn page_fault_of_a_fetch(env) {
        // jmp rax
        let jump = [0xff, 0xe0];
        let page = env.page(7);
        let entry = guest_pv_lib::mmu::Pte::new(page.mfn(), 1 | 1 << 63);
        crate::harness::need("no execution", page.map(entry))?;
        page_fault(env, Start::KERNEL, &jump, page.virt(), 0x11)?;
        page_fault(env, Start::USER, &jump, 0x7000_0000, 0x14)
    }
}

case! {
    /// A jump to a non-canonical address is a general protection fault.
    fn jump_to_non_canonical(env) {
        for user in [false, true] {
            let seen = go(env, &Start { user, ..Start::KERNEL }.with(reg::RAX, 0x8000_0000_0000), &[0xff, 0xe0], &[])?;
            same("what", seen.what(), (GP, Some(0)))?;
        }
        Ok(())
    }
}

case! {
    /// `int n` enters a vector whose DPL lets this mode do so, behind the instruction and without an error code.
    fn software_interrupt(env) {
        raises(env, &Start { dpl3: &[0], ..Start::USER }, &[0xcd, 0], (0, None), 2)?;
        raises(env, &Start { dpl1: &[0], ..Start::KERNEL }, &[0xcd, 0], (0, None), 2)?;
        raises(env, &Start { dpl3: &[0], ..Start::KERNEL }, &[0xcd, 0], (0, None), 2).map(drop)
    }
}

case! {
    /// With too little privilege `int n` is a general protection fault that names the vector: for user mode below DPL 3,
    /// for the kernel below DPL 1.
    fn software_interrupt_refused(env) {
        raises(env, &Start { dpl1: &[0], ..Start::USER }, &[0xcd, 0], (GP, Some(2)), 0)?;
        raises(env, &Start::USER, &[0xcd, 0], (GP, Some(2)), 0)?;
        raises(env, &Start::KERNEL, &[0xcd, 0], (GP, Some(2)), 0).map(drop)
    }
}

case! {
    /// A vector beyond the exceptions.
    #[emulator(qemu, "int n of a gate of DPL 0 has the error code 16n+2")]
    fn software_interrupt_high(env) {
        raises(env, &Start { dpl3: &[0x90], ..Start::USER }, &[0xcd, 0x90], (0x90, None), 2)?;
        raises(env, &Start { dpl1: &[0x90], ..Start::KERNEL }, &[0xcd, 0x90], (0x90, None), 2)?;
        raises(env, &Start::USER, &[0xcd, 0x90], (GP, Some(0x90 * 8 + 2)), 0)?;
        raises(env, &Start::USER, &[0xcd, 0xff], (GP, Some(0xff * 8 + 2)), 0).map(drop)
    }
}

case! {
    /// A software interrupt to a vector that has an error code as an exception does not push one.
    #[emulator(qemu, "int n of a gate of DPL 0 has the error code 16n+2")]
    fn software_interrupt_without_error_code(env) {
        let seen = go(env, &Start { dpl3: &[13], ..Start::USER }, &[0xcd, 13], &[])?;
        // The frame is seven words: the stub takes the word below rip for an error code.
        same("vector", seen.entry, GP)?;
        same("rip", seen.words[2], CODE + 2)?;
        same("stack", seen.rsp_at_entry, raw::kernel_stack(env) - 7 * 8)
    }
}

case! {
    /// `int 0x80` does not look at the DPL.
    fn int80(env) {
        raises(env, &Start::USER, &[0xcd, 0x80], (0x80, None), 2)?;
        raises(env, &Start::KERNEL, &[0xcd, 0x80], (0x80, None), 2).map(drop)
    }
}

case! {
    /// `int 0x80` masks upcalls as its entry of the trap table says.
    fn int80_masks(env) {
        let start = Start { rflags: flag::ONE | flag::IF, ..Start::USER };
        let seen = go(env, &start, &[0xcd, 0x80], &[])?;
        same("open", (seen.entry, seen.masked), (0x80, false))?;
        let seen = go(env, &Start { masking: &[0x80], ..start }, &[0xcd, 0x80], &[])?;
        same("masked", (seen.entry, seen.masked), (0x80, true))
    }
}

case! {
    /// `int3` and `int 3` enter vector 3 whatever its DPL, behind the instruction.
    fn int3(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL };
            raises(env, &start, &[0xcc], (3, None), 1)?;
            raises(env, &start, &[0xcd, 3], (3, None), 2)?;
        }
        Ok(())
    }
}

case! {
    /// `int 4` enters vector 4 whatever its DPL.
    fn int4(env) {
        raises(env, &Start::USER, &[0xcd, 4], (4, None), 2)?;
        raises(env, &Start::KERNEL, &[0xcd, 4], (4, None), 2).map(drop)
    }
}

case! {
    /// `into` and `bound` of 32-bit user code.
    fn compat_into_and_bound(env) {
        const OF: u64 = 1 << 11;
        let seen = raises(env, &Start { rflags: flag::ONE | OF, ..COMPAT }, &[0xce], (4, None), 1)?;
        same("cs", seen.cs(), u64::from(FLAT_USER_CS32))?;
        // bound eax, ss:[DATA] with 5 outside of 6..=7; DS is null
        let start = COMPAT.with(reg::RAX, 5);
        let seen = go(env, &start, &[0x36, 0x62, 0x05, 0x00, 0x10, 0x40, 0x00], &[6 | 7 << 32])?;
        same("bound", (seen.what(), seen.rip()), ((5, None), CODE))
    }
}

case! {
    /// An invalid instruction in 32-bit user code; the kernel is entered in 64-bit code.
    fn compat_exception(env) {
        let seen = raises(env, &COMPAT, &UD2, (UD, None), 0)?;
        same("cs", seen.cs(), u64::from(FLAT_USER_CS32))
    }
}

const SYSCALL_CODE: [u8; 2] = [0x0f, 0x05];

case! {
    /// `syscall` in user mode: the frame has the flags and the registers as they were; `rcx` and `r11` are the instruction's.
    fn syscall(env) {
        let flags = flag::ONE | flag::DF | flag::AC | flag::NT;
        let start = Start { rflags: flags, regs: distinct(), ..Start::USER };
        let seen = raises(env, &start, &SYSCALL_CODE, (SYSCALL, None), 2)?;
        same("registers", &seen.regs[3..10], &distinct()[3..10])?;
        same("rax", seen.regs[reg::RAX], distinct()[reg::RAX])?;
        same("rcx in the frame", seen.words[0], CODE + 2)?;
        same("r11 in the frame", seen.words[1] & !flag::IF, flags & !flag::IF)?;
        let mask = flag::DF | flag::AC | flag::NT;
        same("flags in the frame", seen.rflags() & mask, flags & mask)?;
        same("flags at the entry", seen.rflags_at_entry & (flag::AC | flag::NT), 0)?;
        same("stack", seen.rsp_at_entry, raw::kernel_stack(env) - 7 * 8)
    }
}

case! {
    /// The system call's callback masks upcalls if it was registered so.
    fn syscall_masks(env) {
        let start = Start { rflags: flag::ONE | flag::IF, ..Start::USER };
        let seen = go(env, &start, &SYSCALL_CODE, &[])?;
        same("open", (seen.entry, seen.masked, seen.rflags() & flag::IF), (SYSCALL, false, flag::IF))?;
        let seen = go(env, &Start { masking: &[SYSCALL], ..start }, &SYSCALL_CODE, &[])?;
        same("masked", (seen.entry, seen.masked, seen.rflags() & flag::IF), (SYSCALL, true, flag::IF))
    }
}

case! {
    /// Without a callback `syscall` in user mode is an invalid instruction.
    fn syscall_without_callback(env) {
        let start = Start { absent: &[SYSCALL, SYSCALL32, SYSENTER], ..Start::USER };
        raises(env, &start, &SYSCALL_CODE, (UD, None), 0).map(drop)
    }
}

case! {
    /// `syscall` of 32-bit user code has a callback of its own.
    #[feature(amd)]
    fn compat_syscall(env) {
        let start = Start { absent: &[], ..COMPAT };
        let seen = raises(env, &start.with(reg::RBX, 7), &SYSCALL_CODE, (SYSCALL32, None), 2)?;
        same("cs", seen.cs(), u64::from(FLAT_USER_CS32))?;
        same("ss", seen.ss(), u64::from(FLAT_USER_SS))?;
        same("rsp", seen.rsp(), DATA + 2048)?;
        same("rbx", seen.regs[reg::RBX], 7)
    }
}

case! {
    /// Without that callback it is an invalid instruction.
    fn compat_syscall_without_callback(env) {
        raises(env, &COMPAT, &SYSCALL_CODE, (UD, None), 0).map(drop)
    }
}

case! {
    /// It masks upcalls as the 64-bit callback does; its own flag is for 32-bit kernels.
    #[feature(amd)]
    fn compat_syscall_masks(env) {
        let start = Start { absent: &[], rflags: flag::ONE | flag::IF, ..COMPAT };
        let seen = go(env, &Start { masking: &[SYSCALL32], ..start }, &SYSCALL_CODE, &[])?;
        same("own flag", (seen.entry, seen.masked), (SYSCALL32, false))?;
        let seen = go(env, &Start { masking: &[SYSCALL], ..start }, &SYSCALL_CODE, &[])?;
        same("flag of the other", (seen.entry, seen.masked), (SYSCALL32, true))
    }
}

const SYSENTER_CODE: [u8; 2] = [0x0f, 0x34];

case! {
    /// `sysenter` tells neither `rip` nor `rsp`: the callback finds zeros, with the flags as they were.
    #[alone]
    #[feature(intel)]
    #[emulator(qemu, "Xen's stack for sysenter is not mapped there")]
    fn sysenter(env) {
        let flags = flag::ONE | flag::IF | flag::DF | flag::AC;
        let start = Start { absent: &[], rflags: flags, ..COMPAT };
        let seen = go(env, &start.with(reg::RBX, 9), &SYSENTER_CODE, &[])?;
        same("entry", seen.what(), (SYSENTER, None))?;
        same("rip, cs, rsp", (seen.rip(), seen.cs(), seen.rsp()), (0, 3, 0))?;
        same("ss", seen.ss(), u64::from(FLAT_USER_SS))?;
        same("flags", seen.rflags() & (flag::IF | flag::DF | flag::AC), flag::IF | flag::DF | flag::AC)?;
        same("mask", seen.masked, false)?;
        same("rbx", seen.regs[reg::RBX], 9)?;
        let seen = go(env, &Start { masking: &[SYSENTER], ..start }, &SYSENTER_CODE, &[])?;
        same("masked", seen.masked, true)
    }
}

case! {
    /// Without a callback `sysenter` is a general protection fault at address zero.
    #[alone]
    #[feature(intel)]
    #[emulator(qemu, "Xen's stack for sysenter is not mapped there")]
    fn sysenter_without_callback(env) {
        let seen = go(env, &COMPAT, &SYSENTER_CODE, &[])?;
        same("what", seen.what(), (GP, Some(0)))?;
        same("rip, cs, rsp", (seen.rip(), seen.cs(), seen.rsp()), (0, 3, 0))
    }
}
