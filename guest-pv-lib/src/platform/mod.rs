//! Where the kernel runs.

/// What the kernel was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A paravirtual domain: everything privileged is a hypercall.
    Pv,
}

/// What the kernel was started as.
#[must_use]
pub const fn kind() -> Kind {
    Kind::Pv
}

/// The selectors of user mode: code and stack.
pub(crate) const fn user_selectors() -> (u16, u16) {
    (xen_abi::arch_x86::FLAT_USER_CS, xen_abi::arch_x86::FLAT_USER_SS)
}

/// Address of the code that leaves an exception by the frame at the stack pointer.
#[cfg(target_os = "none")]
pub(crate) fn trap_return() -> u64 {
    crate::traps::stubs::return_address()
}
