//! Throwing away translations on other CPUs.
//!
//! A PV kernel sends no interrupts for that: the hypervisor knows which of the CPUs run at all, and flushes those in one
//! hypercall. An update of a single entry can flush by itself
//! ([`update_va_mapping`](crate::mmu::update_va_mapping)).

use xen_abi::xen::{
    MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_MULTI, MmuextOp,
};

use super::CpuSet;
use crate::mmu::mmuext_op;

/// Which translations to throw away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The one of the page of this virtual address.
    Page(u64),
    /// All of them.
    All,
}

/// Throws translations away on the CPUs of `set`, and returns when they have.
#[doc(alias("MMUEXT_INVLPG_MULTI", "MMUEXT_TLB_FLUSH_MULTI"))]
pub fn flush_on(set: &CpuSet, what: What) {
    op(what, Some(set));
}

/// Throws translations away on all CPUs of the domain, and returns when they have.
#[doc(alias("MMUEXT_INVLPG_ALL", "MMUEXT_TLB_FLUSH_ALL"))]
pub fn flush_everywhere(what: What) {
    op(what, None);
}

/// Flushes on the CPUs of `set`, or on all.
fn op(what: What, set: Option<&CpuSet>) {
    let (cmd, arg1) = match (what, set) {
        (What::Page(address), Some(_)) => (MMUEXT_INVLPG_MULTI, address),
        (What::Page(address), None) => (MMUEXT_INVLPG_ALL, address),
        (What::All, Some(_)) => (MMUEXT_TLB_FLUSH_MULTI, 0),
        (What::All, None) => (MMUEXT_TLB_FLUSH_ALL, 0),
    };
    // The hypervisor reads as many bits as the domain has CPUs, by bytes.
    let arg2 = set.map_or(0, |set| set.words().as_ptr() as u64);
    let operation = MmuextOp { cmd, arg1, arg2, ..MmuextOp::default() };
    // SAFETY: flushing changes no translation; it ends the use of those that are not in the tables any more. The mask
    // is null where the command has none, or lives across the call and is as long as the most CPUs a domain can have
    // here.
    let result = unsafe { mmuext_op(&[operation]) };
    assert!(result.is_ok(), "the hypervisor refused to flush {what:?}: {result:?}");
}
