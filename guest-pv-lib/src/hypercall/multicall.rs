//! `multicall`: several hypercalls for the price of one entry into the hypervisor.

use xen_abi::hypercall::nr;
use xen_abi::xen::MulticallEntry;

use super::{Errno, check, raw};

/// Makes the calls in order. All of them are made, also behind one that failed; each entry holds its own result
/// afterwards.
///
/// # Errors
///
/// The first error among the results, or that of the hypercall itself.
///
/// # Safety
///
/// As for [`raw`], for each call.
#[doc(alias = "HYPERVISOR_multicall")]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub unsafe fn multicall(calls: &mut [MulticallEntry]) -> Result<(), Errno> {
    let count = calls.len() as u64;
    // SAFETY: the entries are exclusively borrowed; the hypervisor writes their results and nothing else. What the calls
    // do is the caller's promise.
    check(unsafe { raw::call2(nr::MULTICALL, calls.as_mut_ptr() as u64, count) })?;
    calls.iter().try_for_each(|call| check(call.result.cast_signed()).map(drop))
}
