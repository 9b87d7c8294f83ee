//! How a kernel asks the hypervisor for something: the instruction, and the meaning of what comes back.
//!
//! Everything above is typed and lives with its topic ([`events`](crate::events), [`mmu`](crate::mmu),
//! [`sched`](crate::sched) ...). This module is the edge: [`raw`] for code that needs a hypercall the library has no
//! wrapper for (a conformance test, a driver of a rare interface).

mod multicall;
#[cfg(target_os = "none")]
pub mod page;
pub mod raw;

pub use multicall::multicall;
pub use xen_abi::errno::Errno;

/// Splits a raw result into value and error: Xen returns `-errno` in the last page of the number space.
///
/// # Errors
///
/// The error number that the hypervisor returned.
#[inline]
pub const fn check(ret: i64) -> Result<u64, Errno> {
    match ret {
        // The range makes the negation and the narrowing exact.
        -4095..=-1 => Err(Errno(-ret as i32)),
        _ => Ok(ret.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_last_page() {
        assert_eq!(check(0), Ok(0));
        assert_eq!(check(7), Ok(7));
        assert_eq!(check(-14), Err(Errno::EFAULT));
        assert_eq!(check(-4095), Err(Errno(4095)));
        assert_eq!(check(-4096), Ok(u64::MAX - 4095));
        assert_eq!(check(i64::MIN), Ok(1 << 63));
    }
}
