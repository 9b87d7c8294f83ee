//! The instruction: `syscall` with a hypercall's registers.
//!
//! Xen's 64-bit convention: number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`, result in `rax`. The instruction
//! itself overwrites `rcx` and `r11`; the registers of the arguments that the hypercall takes belong to the
//! hypervisor and may come back changed (debug builds of Xen make sure that they do). Everything else, the stack
//! included, is preserved. Every function here states exactly that to the compiler.
//!
//! With the feature `native`, a kernel that was not started as a PV guest has [the platform](crate::platform) answer.

/// With the feature `poison`: overwrites a register behind the hypercall, as debug builds of Xen do.
#[cfg(feature = "poison")]
macro_rules! poison {
    ($reg:tt) => {
        concat!("movabs ", $reg, ", 0xdeadbeefdeadbeef")
    };
}
#[cfg(not(feature = "poison"))]
macro_rules! poison {
    ($reg:tt) => {
        ""
    };
}

macro_rules! hypercall {
    ($(#[$doc:meta])* $name:ident($($arg:ident in $reg:tt),*)) => {
        $(#[$doc])*
        ///
        /// Returns the raw `rax`; see [`check`](super::check).
        ///
        /// # Safety
        ///
        /// Must run in kernel mode of a PV guest. What the hypercall does to memory, mappings and registers must
        /// be something that the caller may do; addresses among the arguments must satisfy what the hypercall
        /// asks of them.
        #[inline(always)]
        #[cfg_attr(not(target_os = "none"), allow(dead_code))]
        pub unsafe fn $name(nr: u32 $(, $arg: u64)*) -> i64 {
            #[cfg(all(feature = "native", target_os = "none"))]
            if !crate::platform::is_pv() {
                #[allow(unused_mut, unused_assignments)]
                let mut args = [0; 6];
                let given = [$($arg),*];
                args[..given.len()].copy_from_slice(&given);
                // SAFETY: the caller's promise.
                return unsafe { crate::platform::native::hypercall(nr, args) };
            }
            let ret: i64;
            // SAFETY: the clobbers are those of the module's head. `nostack`: the hypervisor leaves the caller's
            // stack alone; an upcall injected on the way back pushes below `rsp`, where without a red zone (the
            // target has none) nothing lives. What the call does is the caller's promise.
            unsafe {
                core::arch::asm!(
                    "syscall",
                    $(poison!($reg),)*
                    inlateout("rax") i64::from(nr) => ret,
                    $(inlateout($reg) $arg => _,)*
                    lateout("rcx") _,
                    lateout("r11") _,
                    options(nostack),
                );
            }
            ret
        }
    };
}

hypercall! {
    /// A hypercall without arguments.
    call0()
}
hypercall! {
    /// A hypercall with one argument.
    call1(a1 in "rdi")
}
hypercall! {
    /// A hypercall with two arguments.
    call2(a1 in "rdi", a2 in "rsi")
}
hypercall! {
    /// A hypercall with three arguments.
    call3(a1 in "rdi", a2 in "rsi", a3 in "rdx")
}
hypercall! {
    /// A hypercall with four arguments.
    call4(a1 in "rdi", a2 in "rsi", a3 in "rdx", a4 in "r10")
}
hypercall! {
    /// A hypercall with five arguments.
    call5(a1 in "rdi", a2 in "rsi", a3 in "rdx", a4 in "r10", a5 in "r8")
}
hypercall! {
    /// A hypercall with six arguments.
    call6(a1 in "rdi", a2 in "rsi", a3 in "rdx", a4 in "r10", a5 in "r8", a6 in "r9")
}
