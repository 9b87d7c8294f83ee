//! `memory_op` as the cases make it, and questions about frames that it can answer.

use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;

use crate::call::{Ret, hc2, op};
use crate::harness::pool::Page;
use crate::harness::{Outcome, Verdict, need, same};

/// `memory_op` with any argument at all.
pub fn memory(command: u32, at: u64) -> Ret {
    hc2(nr::MEMORY_OP, u64::from(command), at)
}

/// A command whose argument is a domain's number alone.
pub fn of_domain(command: u32, mut domain: u16) -> Ret {
    op(nr::MEMORY_OP, command, &mut domain)
}

/// Pages that the domain has.
pub fn current() -> Result<u64, Verdict> {
    need("current_reservation", of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF))
}

/// A reservation of the caller's: `list` names its extents.
pub fn reservation(list: &mut [u64], order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: GuestHandle::from(list.as_mut_ptr() as u64),
        nr_extents: list.len() as u64,
        extent_order: order,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

/// One of the commands that take a reservation.
pub fn change(command: u32, list: &mut [u64], order: u32, mem_flags: u32) -> Ret {
    let mut arg = XenMemoryReservation { mem_flags, ..reservation(list, order) };
    op(nr::MEMORY_OP, command, &mut arg)
}

/// The argument of an exchange of `old`, extents of `order`, for as many frames of `new`.
pub fn trade(old: (&mut [u64], u32), new: (&mut [u64], u32)) -> XenMemoryExchange {
    XenMemoryExchange { in_: reservation(old.0, old.1), out: reservation(new.0, new.1), nr_exchanged: 0 }
}

/// Makes an exchange.
pub fn exchange(arg: &mut XenMemoryExchange) -> Ret {
    op(nr::MEMORY_OP, XENMEM_EXCHANGE, arg)
}

/// Unmaps a page of the pool and trades its frame for another, which takes its place. That works only while nothing but
/// the domain itself holds the frame.
pub fn replace(page: Page<'_>) -> Ret {
    page.map(Pte::EMPTY)?;
    let (mut old, mut new) = ([page.mfn().0], [page.pfn().0]);
    exchange(&mut trade((&mut old, 0), (&mut new, 0)))?;
    page.adopt(Mfn(new[0]));
    page.writable()?;
    Ok(0)
}

/// Fails where anything still holds the frame of `page`: no reference of any kind may be left over.
pub fn nothing_left(page: Page<'_>) -> Outcome {
    same("the frame is held by nothing but its domain", replace(page), Ok(0))
}
