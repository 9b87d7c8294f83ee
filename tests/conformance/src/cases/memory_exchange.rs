//! `XENMEM_exchange` (memory.h): frames for other frames.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pfn, Pte, m2p};
use xen_abi::GuestHandle;
use xen_abi::memory::*;

use crate::call::{HYPERVISOR, NO_DOMAIN, NO_FRAME, NON_CANONICAL, Ret};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, check, need, same};
use crate::memory::{current, exchange, nothing_left, replace, trade};

/// An exchange of page 0's frame, which is unmapped, changed by `edit`.
fn edited(env: &Env, edit: impl FnOnce(&mut XenMemoryExchange)) -> (Ret, u64) {
    let page = env.page(0);
    if page.map(Pte::EMPTY).is_err() {
        return (Err(Errno::EIO), 0);
    }
    let (mut old, mut new) = ([page.mfn().0], [page.pfn().0]);
    let mut arg = trade((&mut old, 0), (&mut new, 0));
    edit(&mut arg);
    (exchange(&mut arg), arg.nr_exchanged)
}

returns! {
    /// Orders beyond what the caller may ask for.
    order_of_the_old(env): edited(env, |arg| arg.in_.extent_order = 40) => (Err(Errno::EPERM), 0);
    /// The same of what is to be got.
    order_of_the_new(env): edited(env, |arg| arg.out.extent_order = 40) => (Err(Errno::EPERM), 0);
    /// Both sides are of the same amount.
    amounts_differ(env): edited(env, |arg| arg.out.nr_extents = 2) => (Err(Errno::EINVAL), 0);
    /// Amounts that are the same only by wrapping are not.
    amounts_wrap(env): edited(env, |arg| {
        arg.in_.extent_order = 1;
        arg.in_.nr_extents = 1 << 63;
        arg.out.nr_extents = 0;
    }) => (Err(Errno::EINVAL), 0);
    /// Both sides are of the same domain.
    domains_differ(env): edited(env, |arg| arg.out.domid = NO_DOMAIN) => (Err(Errno::EINVAL), 0);
    /// A domain that does not exist.
    unknown_domain(env): edited(env, |arg| (arg.in_.domid, arg.out.domid) = (NO_DOMAIN, NO_DOMAIN))
        => (Err(Errno::ESRCH), 0);
    /// No more can be done already than there is.
    too_much_done(env): edited(env, |arg| arg.nr_exchanged = 2) => (Err(Errno::EINVAL), 2);
    /// All is done already.
    all_done(env): edited(env, |arg| arg.nr_exchanged = 1) => (Ok(0), 1);
    /// A node beyond any number of nodes.
    unknown_node(env): edited(env, |arg| arg.out.mem_flags = 0xfe00) => (Err(Errno::EINVAL), 0);
    /// Memory below one page cannot be had.
    too_few_address_bits(env): edited(env, |arg| arg.out.mem_flags = 12) => (Err(Errno::ENOMEM), 0);
    /// The list of the old lies in the hypervisor's part, or nowhere.
    old_list_fault(env): [HYPERVISOR, NON_CANONICAL].map(|at|
        edited(env, |arg| arg.in_.extent_start = GuestHandle::from(at))) => [(Err(Errno::EFAULT), 0); 2];
    /// The list of the new lies in the hypervisor's part, or nowhere.
    new_list_fault(env): [HYPERVISOR, NON_CANONICAL].map(|at|
        edited(env, |arg| arg.out.extent_start = GuestHandle::from(at))) => [(Err(Errno::EFAULT), 0); 2];
    /// The list of the old is not mapped.
    old_list_unmapped(env): edited(env, |arg| arg.in_.extent_start = GuestHandle::from(0x1000))
        => (Err(Errno::EFAULT), 0);
}

case! {
    /// A frame is traded for another one, with its M2P entry set; the domain has as many pages as before.
    fn one_for_one(env) {
        let page = env.page(0);
        let before = current()?;
        let old = page.mfn();
        same("exchange", replace(page), Ok(0))?;
        same("m2p", m2p(page.mfn()), Some(page.pfn()))?;
        same("as many", current()?, before)?;
        if page.mfn() == old {
            return Ok(());
        }
        same("the old one is not the domain's", env.page(1).map(Pte::data(old)).is_err(), true)
    }
}

/// A frame that does not exist, among others.
fn bad_frame(env: &Env, frame: u64) -> Outcome {
    let pages = [env.page(0), env.page(1)];
    for page in pages {
        need("unmap", page.map(Pte::EMPTY))?;
    }
    let (mut old, mut new) = ([pages[0].mfn().0, frame], [pages[0].pfn().0]);
    let mut arg = trade((&mut old, 0), (&mut new, 1));
    same("exchange", exchange(&mut arg), Err(Errno::EINVAL))?;
    same("nothing done", arg.nr_exchanged, 0)?;
    same("the first is the domain's again", pages[0].writable(), Ok(()))
}

case! {
    /// One of the frames does not exist: those before it stay the domain's.
    fn old_frame_missing(env) { bad_frame(env, NO_FRAME) }
}
case! {
    /// A frame is named twice: nobody has it twice.
    fn old_frame_twice(env) { bad_frame(env, env.page(0).mfn().0) }
}
case! {
    /// A table in use cannot be traded.
    fn old_frame_is_a_table(env) { bad_frame(env, env.boot.root_table().0) }
}
case! {
    /// A frame that is mapped cannot be traded.
    fn old_frame_is_mapped(env) { bad_frame(env, env.page(2).mfn().0) }
}

/// Unmaps four pages and answers them.
fn four(env: &Env) -> Result<[Page<'_>; 4], crate::harness::Verdict> {
    let pages = [0, 1, 2, 3].map(|at| env.page(at));
    for page in pages {
        need("unmap", page.map(Pte::EMPTY))?;
    }
    Ok(pages)
}

/// Backs four pages by the frames from `first` on, or by those of `list`.
fn back(pages: [Page<'_>; 4], frames: [u64; 4]) -> Outcome {
    for (page, frame) in pages.into_iter().zip(frames) {
        page.adopt(Mfn(frame));
        same("mapped", page.writable(), Ok(()))?;
    }
    Ok(())
}

case! {
    /// Four single frames for one extent of four, as drivers do to get memory that devices can use; and back.
    fn contiguous_and_back(env) {
        let pages = four(env)?;
        let mut old = pages.map(|page| page.mfn().0);
        let mut new = [pages[0].pfn().0];
        let mut arg = trade((&mut old, 0), (&mut new, 2));
        arg.out.mem_flags = xenmemf_address_bits(32);
        same("exchange", exchange(&mut arg), Ok(0))?;
        same("all four", arg.nr_exchanged, 4)?;
        let first = new[0];
        same("aligned", first % 4, 0)?;
        check("below 4 GiB", first + 4 <= 1 << 20)?;
        let seen = [0, 1, 2, 3].map(|n| m2p(Mfn(first + n)));
        same("m2p", seen, [0, 1, 2, 3].map(|n| Some(Pfn(pages[0].pfn().0 + n))))?;
        back(pages, [0, 1, 2, 3].map(|n| first + n))?;

        let pages = four(env)?;
        let (mut old, mut new) = ([first], pages.map(|page| page.pfn().0));
        let mut arg = trade((&mut old, 2), (&mut new, 0));
        same("back", exchange(&mut arg), Ok(0))?;
        same("one extent", arg.nr_exchanged, 1)?;
        back(pages, new)
    }
}

case! {
    /// Of two exchanges in one the second fails: the first is done, and that is what is reported.
    fn stops_in_the_middle(env) {
        let page = env.page(0);
        need("unmap", page.map(Pte::EMPTY))?;
        let (mut old, mut new) = ([page.mfn().0, NO_FRAME], [page.pfn().0, 5]);
        let mut arg = trade((&mut old, 0), (&mut new, 0));
        same("exchange", exchange(&mut arg), Err(Errno::EINVAL))?;
        same("one done", arg.nr_exchanged, 1)?;
        page.adopt(Mfn(new[0]));
        same("mapped", page.writable(), Ok(()))?;
        same("the other place is as it was", new[1], 5)
    }
}

case! {
    /// An exchange that was stopped goes on where it says that it stopped.
    fn goes_on(env) {
        let pages = [env.page(0), env.page(1)];
        for page in pages {
            need("unmap", page.map(Pte::EMPTY))?;
        }
        // The first entries are done: nobody looks at them.
        let (mut old, mut new) = ([NO_FRAME, pages[1].mfn().0], [7, pages[1].pfn().0]);
        let mut arg = trade((&mut old, 0), (&mut new, 0));
        arg.nr_exchanged = 1;
        same("exchange", exchange(&mut arg), Ok(0))?;
        same("all done", (arg.nr_exchanged, new[0]), (2, 7))?;
        pages[1].adopt(Mfn(new[1]));
        same("mapped", pages[1].writable(), Ok(()))
    }
}

case! {
    /// A page that was a table, a descriptor page and mapped by turns is held by nothing in the end.
    fn nothing_is_left_over(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        for pin in xen_abi::xen::MMUEXT_PIN_L1_TABLE..=xen_abi::xen::MMUEXT_PIN_L4_TABLE {
            need("pin", crate::call::mmuext(pin, page.mfn().0, 0))?;
            need("unpin", crate::call::mmuext(xen_abi::xen::MMUEXT_UNPIN_TABLE, page.mfn().0, 0))?;
        }
        let frame = page.mfn().0;
        need("set_gdt", crate::call::hc2(xen_abi::hypercall::nr::SET_GDT, &raw const frame as u64, 1))?;
        need("no GDT", crate::call::hc2(xen_abi::hypercall::nr::SET_GDT, 0, 0))?;
        nothing_left(page)
    }
}
