//! The calling convention itself.

use core::arch::asm;

use guest_pv_lib::Errno;
use xen_abi::hypercall::nr;
use xen_abi::version::XENVER_VERSION;

use crate::call::hc2;
use crate::harness::same;

returns! {
    /// A number between the defined ones has no hypercall (xen.h: 11 is not assigned).
    unassigned_number(env): hc2(11, 0, 0) => Err(Errno::ENOSYS);
    /// The number behind the last architecture-specific one.
    number_behind_the_table(env): hc2(56, 0, 0) => Err(Errno::ENOSYS);
    /// 64 is the first number that a 64-entry table does not hold.
    number_64(env): hc2(64, 0, 0) => Err(Errno::ENOSYS);
    /// A number with the sign bit set is not an index either.
    huge_number(env): hc2(u32::MAX, 0, 0) => Err(Errno::ENOSYS);
}

case! {
    /// The upper half of a register whose argument is 32 bits wide does not count.
    fn upper_bits_of_narrow_arguments(env) {
        let _ = env;
        same("xen_version", hc2(nr::XEN_VERSION, u64::from(XENVER_VERSION) | 0xdead << 32, 0),
            hc2(nr::XEN_VERSION, u64::from(XENVER_VERSION), 0))
    }
}

case! {
    /// A hypercall preserves every register but rax, rcx, r11 and those of its own arguments.
    fn registers_are_preserved(env) {
        let _ = env;
        let mut after = [0u64; 9];
        // SAFETY: `xen_version` reads nothing and writes nothing with this command; rbx and rbp, which the compiler
        // keeps for itself, are saved around.
        unsafe {
            asm!(
                "push rbx", "push rbp",
                "mov ebx, 11", "mov ebp, 12",
                "syscall",
                "mov [r15], rbx", "mov [r15 + 8], rbp",
                "pop rbp", "pop rbx",
                "mov [r15 + 16], rdx", "mov [r15 + 24], r10", "mov [r15 + 32], r8",
                "mov [r15 + 40], r9", "mov [r15 + 48], r12", "mov [r15 + 56], r13", "mov [r15 + 64], r14",
                inout("rax") u64::from(nr::XEN_VERSION) => _, inout("rdi") u64::from(XENVER_VERSION) => _,
                inout("rsi") 0u64 => _, inout("rdx") 1u64 => _, inout("r10") 2u64 => _, inout("r8") 3u64 => _,
                inout("r9") 4u64 => _, inout("r12") 5u64 => _, inout("r13") 6u64 => _, inout("r14") 7u64 => _,
                in("r15") after.as_mut_ptr(), lateout("rcx") _, lateout("r11") _,
            );
        }
        same("rbx rbp rdx r10 r8 r9 r12 r13 r14", after, [11, 12, 1, 2, 3, 4, 5, 6, 7])
    }
}

case! {
    /// The flags (direction and arithmetic ones) come back as they were.
    fn flags_are_preserved(env) {
        let _ = env;
        let flags: u64;
        // SAFETY: as above; the direction flag is cleared again.
        unsafe {
            asm!(
                "std", "stc",
                "syscall",
                "pushfq", "pop {flags}", "cld",
                flags = out(reg) flags,
                inout("rax") u64::from(nr::XEN_VERSION) => _, inout("rdi") u64::from(XENVER_VERSION) => _,
                inout("rsi") 0u64 => _, lateout("rcx") _, lateout("r11") _,
            );
        }
        same("direction and carry", flags & 0x401, 0x401)
    }
}

case! {
    /// The stubs of the hypercall page do what the instruction does (elfnote.h, HYPERCALL_PAGE).
    fn hypercall_page(env) {
        let _ = env;
        #[cfg(target_os = "none")]
        {
            use guest_pv_lib::hypercall::{check, page};
            // SAFETY: the command has no effect.
            let ret = unsafe { page::call2(nr::XEN_VERSION, u64::from(XENVER_VERSION), 0) };
            return same("by the page", check(ret), hc2(nr::XEN_VERSION, u64::from(XENVER_VERSION), 0));
        }
        #[cfg(not(target_os = "none"))]
        Ok(())
    }
}
