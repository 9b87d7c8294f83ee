//! `XENMEM_increase_reservation`, `XENMEM_decrease_reservation` and `XENMEM_populate_physmap` (memory.h) in detail.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pfn, Pte, m2p};
use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;

use crate::call::{FAULTS, HYPERVISOR, NO_DOMAIN, NO_FRAME, NON_CANONICAL, hc2, op};
use crate::harness::{Env, Outcome, check, need, same};
use crate::memory::{change, current, memory, reservation};

/// The three commands.
const ALL: [u32; 3] = [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP];

/// What the three commands answer to a list of one frame, changed by `edit`.
fn each(edit: impl Fn(&mut XenMemoryReservation)) -> [Result<u64, Errno>; 3] {
    ALL.map(|command| {
        let mut list = [NO_FRAME];
        let mut arg = reservation(&mut list, 0);
        edit(&mut arg);
        op(nr::MEMORY_OP, command, &mut arg)
    })
}

/// Nothing was done.
const NONE: [Result<u64, Errno>; 3] = [Ok(0); 3];

returns! {
    /// No extents, nothing to do.
    no_extents(env): each(|arg| arg.nr_extents = 0) => NONE;
    /// More extents than a continuation can count: nothing is done.
    too_many_extents(env): each(|arg| arg.nr_extents = 1 << 26) => NONE;
    /// A domain that does not exist: the answer is the number of extents done, none.
    unknown_domain(env): each(|arg| arg.domid = NO_DOMAIN) => NONE;
    /// Memory below one page cannot be had: nothing is done.
    too_few_address_bits(env): each(|arg| arg.mem_flags = 12) => NONE;
    /// A node beyond any number of nodes: nothing is done.
    unknown_node(env): each(|arg| arg.mem_flags = 0xfe00) => NONE;
    /// The list lies in the hypervisor's part, or nowhere: nothing is done.
    list_fault(env): [HYPERVISOR, NON_CANONICAL].map(|at| each(|arg| arg.extent_start = GuestHandle::from(at)))
        => [NONE; 2];
    /// A continuation that starts behind the last extent has nothing to do: the answer is where it starts.
    start_behind_the_end(env): {
        let mut list = [NO_FRAME];
        let mut arg = reservation(&mut list, 0);
        let command = u64::from(XENMEM_POPULATE_PHYSMAP) | 7 << MEMOP_EXTENT_SHIFT;
        hc2(nr::MEMORY_OP, command, &raw mut arg as u64)
    } => Ok(7);
    /// Commands that are done in one go cannot be continued.
    start_of_what_has_no_extents(env): [XENMEM_EXCHANGE, XENMEM_MAXIMUM_RAM_PAGE, XENMEM_CURRENT_RESERVATION,
        XENMEM_REMOVE_FROM_PHYSMAP, XENMEM_CLAIM_PAGES, XENMEM_GET_VNUMAINFO]
        .map(|command| hc2(nr::MEMORY_OP, u64::from(command) | 1 << MEMOP_EXTENT_SHIFT, env.page(0).virt()))
        => [Err(Errno::EINVAL); 6];
    /// Commands of the architecture do not exist with a progress above them.
    start_of_memory_maps(env): [XENMEM_MEMORY_MAP, XENMEM_MACHINE_MEMORY_MAP, XENMEM_MACHPHYS_MAPPING,
        XENMEM_SET_MEMORY_MAP, XENMEM_MACHPHYS_MFN_LIST, XENMEM_GET_POD_TARGET]
        .map(|command| hc2(nr::MEMORY_OP, u64::from(command) | 1 << MEMOP_EXTENT_SHIFT, env.page(0).virt()))
        => [Err(Errno::ENOSYS); 6];
    /// Populating on demand is not for oneself.
    populate_on_demand_self(env): change(XENMEM_POPULATE_PHYSMAP, &mut [env.page(0).pfn().0], 0,
        XENMEMF_POPULATE_ON_DEMAND) => Ok(0);
    /// A reservation that cannot be read.
    increase_fault(env): crate::call::all_fault(|at| memory(XENMEM_INCREASE_RESERVATION, at)) => [Ok(0); 4];
    /// Bad pointers, exchange.
    exchange_fault(env): crate::call::all_fault(|at| memory(XENMEM_EXCHANGE, at)) => FAULTS;
}

/// Makes room for `pages` more by giving the pool's first ones back.
fn with_room(env: &Env, pages: usize, then: impl FnOnce() -> Outcome) -> Outcome {
    let before = current()?;
    let mut list = [0; 4];
    for (n, frame) in list.iter_mut().enumerate().take(pages) {
        *frame = env.page(n).mfn().0;
        need("unmap", env.page(n).map(Pte::EMPTY))?;
    }
    need("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list[..pages], 0, 0))?;
    let outcome = then();
    let mut list = [0; 4];
    for (n, frame) in list.iter_mut().enumerate().take(pages) {
        *frame = env.page(n).pfn().0;
    }
    let got = change(XENMEM_POPULATE_PHYSMAP, &mut list[..pages], 0, 0);
    for (n, frame) in list.into_iter().enumerate().take(pages) {
        env.page(n).adopt(Mfn(frame));
    }
    outcome?;
    same("populate", got, Ok(pages as u64))?;
    same("as many pages as before", current(), Ok(before))
}

case! {
    /// What is given by increase_reservation is the domain's; giving it back takes it away; the list says which.
    fn increase_and_decrease(env) {
        with_room(env, 2, || {
            let before = current()?;
            let mut list = [0; 2];
            same("increase", change(XENMEM_INCREASE_RESERVATION, &mut list, 0, 0), Ok(2))?;
            same("two more", current()?, before + 2)?;
            check("two frames", list[0] != list[1] && list[0] != 0 && list[1] != 0)?;
            same("usable", env.page(5).map(Pte::data(Mfn(list[0]))), Ok(()))?;
            need("map", env.page(5).writable())?;
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(2))?;
            same("no longer the domain's", env.page(5).map(Pte::data(Mfn(list[0]))).is_err(), true)
        })
    }
}

case! {
    /// A frame is given back once: a second time it is not the domain's.
    fn decrease_twice(env) {
        with_room(env, 1, || {
            let mut list = [0];
            need("increase", change(XENMEM_INCREASE_RESERVATION, &mut list, 0, 0))?;
            let mut twice = [list[0], list[0]];
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut twice, 0, 0), Ok(1))
        })
    }
}

case! {
    /// A frame that is mapped stays with the domain until it is unmapped; giving it back again changes nothing.
    fn decrease_while_mapped(env) {
        with_room(env, 1, || {
            let mut list = [0];
            need("increase", change(XENMEM_INCREASE_RESERVATION, &mut list, 0, 0))?;
            let place = env.page(5);
            need("map", place.map(Pte::data(Mfn(list[0]))))?;
            let before = current()?;
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(1))?;
            same("counts while it is mapped", current()?, before)?;
            place.set(9, 99);
            same("still usable", place.get(9), 99)?;
            same("again", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(1))?;
            need("map", place.writable())?;
            same("gone", current()?, before - 1)
        })
    }
}

case! {
    /// Two frames at once come contiguous and aligned, and with M2P entries that count up.
    fn populate_order_1(env) {
        with_room(env, 2, || {
            const PFN: u64 = 0x7_0000;
            let mut list = [PFN];
            let got = change(XENMEM_POPULATE_PHYSMAP, &mut list, 1, 0);
            let first = list[0];
            let seen = [m2p(Mfn(first)), m2p(Mfn(first + 1))];
            let mut back = [first, first + 1];
            need("decrease", change(XENMEM_DECREASE_RESERVATION, &mut back, 0, 0))?;
            same("populate", got, Ok(1))?;
            same("aligned", first % 2, 0)?;
            same("m2p", seen, [Some(Pfn(PFN)), Some(Pfn(PFN + 1))])
        })
    }
}

case! {
    /// Address bits are obeyed: a frame below 4 GiB.
    fn populate_address_bits(env) {
        with_room(env, 1, || {
            let mut list = [0x7_0000];
            let got = change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, xenmemf_address_bits(32));
            let frame = list[0];
            need("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0))?;
            same("populate", got, Ok(1))?;
            check("below 4 GiB", frame < 1 << 20)
        })
    }
}

case! {
    /// A node that is there may be asked for exactly.
    fn populate_node_0(env) {
        with_room(env, 1, || {
            let mut list = [0x7_0000];
            let flags = xenmemf_node(0) | XENMEMF_EXACT_NODE_REQUEST;
            same("populate", change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, flags), Ok(1))?;
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(1))
        })
    }
}

case! {
    /// A node that is not there: exactly it cannot be had, preferably it is ignored.
    fn populate_absent_node(env) {
        with_room(env, 1, || {
            let exactly = xenmemf_node(17) | XENMEMF_EXACT_NODE_REQUEST;
            same("exactly", change(XENMEM_POPULATE_PHYSMAP, &mut [0x7_0000], 0, exactly), Ok(0))?;
            let mut list = [0x7_0000];
            same("preferably", change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, xenmemf_node(17)), Ok(1))?;
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(1))
        })
    }
}

case! {
    /// A virtual node is translated where the domain has any; here it is ignored.
    fn populate_virtual_node(env) {
        with_room(env, 1, || {
            let mut list = [0x7_0000];
            let flags = xenmemf_node(17) | XENMEMF_VNODE | XENMEMF_EXACT_NODE_REQUEST;
            same("populate", change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, flags), Ok(1))?;
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0), Ok(1))
        })
    }
}

case! {
    /// Beyond the maximum there is nothing, however small the rest: the answer is what fitted.
    fn beyond_the_maximum(env) {
        let maximum = need("maximum", crate::memory::of_domain(XENMEM_MAXIMUM_RESERVATION, xen_abi::xen::DOMID_SELF))?;
        if maximum.saturating_sub(current()?) > 1 << 18 {
            return Err(crate::harness::Verdict::Skip("the domain may have as much as there is"));
        }
        let _ = env;
        // No list: only the count is told.
        let mut arg = XenMemoryReservation {
            extent_start: GuestHandle::from(0),
            nr_extents: 1,
            extent_order: 18,
            domid: xen_abi::xen::DOMID_SELF,
            ..XenMemoryReservation::default()
        };
        same("increase", op(nr::MEMORY_OP, XENMEM_INCREASE_RESERVATION, &mut arg), Ok(0))
    }
}

case! {
    /// An extent of several frames of which one is not the domain's: those before it are gone, the extent does not count.
    fn decrease_half_an_extent(env) {
        with_room(env, 2, || {
            let mut list = [0x7_0000];
            need("populate", change(XENMEM_POPULATE_PHYSMAP, &mut list, 1, 0))?;
            let first = list[0];
            let before = current()?;
            same("the second half", change(XENMEM_DECREASE_RESERVATION, &mut [first + 1], 0, 0), Ok(1))?;
            same("the whole", change(XENMEM_DECREASE_RESERVATION, &mut [first], 1, 0), Ok(0))?;
            same("both are gone", current()?, before - 2)
        })
    }
}

case! {
    /// A page table in use may be given back in name; it stays what it is.
    fn decrease_of_a_table(env) {
        let table = env.page(0);
        need("read-only", table.read_only())?;
        need("pin", crate::call::mmuext(xen_abi::xen::MMUEXT_PIN_L1_TABLE, table.mfn().0, 0))?;
        let frame = table.mfn();
        let before = current()?;
        same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut [frame.0], 0, 0), Ok(1))?;
        same("counts as long as it is pinned", current()?, before)?;
        same("unpin", crate::call::mmuext(xen_abi::xen::MMUEXT_UNPIN_TABLE, frame.0, 0), Ok(0))?;
        need("unmap", table.map(Pte::EMPTY))?;
        same("gone", current()?, before - 1)?;
        let mut list = [table.pfn().0];
        same("another", change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, 0), Ok(1))?;
        table.adopt(Mfn(list[0]));
        Ok(())
    }
}

case! {
    #[alone]
    /// A domain that takes all memory that there is gets no more; what its other hypercalls need is had, or refused by an error.
    fn all_memory(env) {
        let fifo = need("init_control", super::event_fifo::init_control(env.page(0), 0, 0));
        for order in (0..=9).rev() {
            let mut arg = reservation(&mut [], order);
            (arg.extent_start, arg.nr_extents) = (GuestHandle::from(0), 1 << 20);
            need("increase", op(nr::MEMORY_OP, XENMEM_INCREASE_RESERVATION, &mut arg))?;
        }
        fifo?;
        same("no more", change(XENMEM_INCREASE_RESERVATION, &mut [0], 0, 0), Ok(0))?;
        for _ in 0..128 {
            let answer = super::event_fifo::expand(env.page(1).mfn().0);
            check("done or refused", matches!(answer, Ok(0) | Err(Errno::ENOMEM)))?;
        }
        let mut port = 1;
        while port < 1 << 16 {
            match super::event::bind_ipi(0) {
                Ok(bound) => port = bound,
                Err(error) => {
                    same("no memory for ports", error, Errno::ENOMEM)?;
                    break;
                }
            }
        }
        check("still there", current()? > 0)
    }
}
