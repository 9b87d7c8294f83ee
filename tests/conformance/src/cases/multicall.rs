//! `multicall` (xen.h).

use guest_pv_lib::Errno;
use xen_abi::hypercall::nr;
use xen_abi::version::{XENVER_PAGESIZE, XENVER_VERSION};
use xen_abi::xen::MulticallEntry;

use crate::call::{FAULTS, all_fault, hc2};
use crate::harness::{need, same};

fn entry(nr: u32, args: [u64; 2]) -> MulticallEntry {
    MulticallEntry { op: u64::from(nr), result: 0x55, args: [args[0], args[1], 0, 0, 0, 0] }
}

fn multicall(entries: &mut [MulticallEntry]) -> Result<u64, Errno> {
    hc2(nr::MULTICALL, entries.as_mut_ptr() as u64, entries.len() as u64)
}

returns! {
    /// No calls, nothing to do.
    nothing(env): multicall(&mut []) => Ok(0);
    /// Bad pointers.
    fault(env): all_fault(|at| hc2(nr::MULTICALL, at, 1)) => FAULTS;
}

case! {
    /// Each entry gets its own result, errors included, and later entries run all the same.
    fn results(env) {
        let _ = env;
        let mut entries = [
            entry(nr::XEN_VERSION, [u64::from(XENVER_PAGESIZE), 0]),
            entry(63, [0, 0]),
            entry(nr::XEN_VERSION, [u64::from(XENVER_VERSION), 0]),
        ];
        need("multicall", multicall(&mut entries))?;
        same("first", entries[0].result, 4096)?;
        same("unassigned number", entries[1].result, Errno::ENOSYS.to_ret().cast_unsigned())?;
        same("last", entries[2].result, 4 << 16 | 17)
    }
}

case! {
    /// A multicall inside a multicall does not run.
    fn nested(env) {
        let _ = env;
        let mut inner = [entry(nr::XEN_VERSION, [u64::from(XENVER_PAGESIZE), 0])];
        let mut outer = [entry(nr::MULTICALL, [inner.as_mut_ptr() as u64, 1])];
        need("multicall", multicall(&mut outer))?;
        same("result of the inner one", outer[0].result, Errno::EINVAL.to_ret().cast_unsigned())?;
        same("the inner entry is untouched", inner[0].result, 0x55)
    }
}
