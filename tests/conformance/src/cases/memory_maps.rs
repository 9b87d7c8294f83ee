//! Memory maps, the M2P's whereabouts, and the commands of `memory_op` that PV domains have in name (memory.h).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;

use crate::call::{FAULTS, HYPERVISOR, NO_DOMAIN, NO_FRAME, NON_CANONICAL, Ret, all_fault, hc2, op};
use crate::harness::{Env, check, need, same};
use crate::memory::{change, current, memory, of_domain};

/// The number of the domain itself: what DOMID_SELF stands for. The first domain is 0.
const OWN: u16 = 0;

fn map_of(buffer: u64, entries: u32) -> XenMemoryMap {
    XenMemoryMap { nr_entries: entries, buffer: GuestHandle::from(buffer), ..XenMemoryMap::default() }
}

fn set_map(domid: u16, buffer: u64, entries: u32) -> Ret {
    let mut arg =
        XenForeignMemoryMap { domid, map: map_of(buffer, entries), ..XenForeignMemoryMap::default() };
    op(nr::MEMORY_OP, XENMEM_SET_MEMORY_MAP, &mut arg)
}

fn physmap(domid: u16, space: u32) -> Ret {
    let mut arg = XenAddToPhysmap { domid, size: 1, space, idx: 0, gpfn: 0x10 };
    op(nr::MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut arg)
}

fn physmap_batch(domid: u16, space: u32) -> Ret {
    let space = u16::try_from(space).unwrap_or(u16::MAX);
    let mut arg = XenAddToPhysmapBatch { domid, space, size: 1, ..XenAddToPhysmapBatch::default() };
    op(nr::MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut arg)
}

fn pod(command: u32, domid: u16) -> Ret {
    op(nr::MEMORY_OP, command, &mut XenPodTarget { domid, ..XenPodTarget::default() })
}

fn vnuma(domid: u16, pad: u16) -> Ret {
    op(nr::MEMORY_OP, XENMEM_GET_VNUMAINFO, &mut XenVnumaTopologyInfo { domid, pad, ..Default::default() })
}

fn access(domid: u16) -> Ret {
    op(nr::MEMORY_OP, XENMEM_ACCESS_OP, &mut XenMemAccessOp { domid, ..XenMemAccessOp::default() })
}

fn claim(domid: u16, pages: u64) -> Ret {
    claim_with(|arg| (arg.domid, arg.nr_extents) = (domid, pages))
}

fn claim_with(edit: impl FnOnce(&mut XenMemoryReservation)) -> Ret {
    let mut arg = XenMemoryReservation { domid: OWN, nr_extents: 1, ..XenMemoryReservation::default() };
    edit(&mut arg);
    op(nr::MEMORY_OP, XENMEM_CLAIM_PAGES, &mut arg)
}

fn resource(edit: impl FnOnce(&mut XenMemAcquireResource)) -> Ret {
    let mut arg = XenMemAcquireResource {
        domid: NO_DOMAIN,
        type_: XENMEM_RESOURCE_GRANT_TABLE,
        ..XenMemAcquireResource::default()
    };
    edit(&mut arg);
    op(nr::MEMORY_OP, XENMEM_ACQUIRE_RESOURCE, &mut arg)
}

fn reserved(flags: u32, buffer: u64, entries: u32) -> (Ret, u32) {
    let mut arg = XenReservedDeviceMemoryMap {
        flags,
        nr_entries: entries,
        buffer: GuestHandle::from(buffer),
        ..XenReservedDeviceMemoryMap::default()
    };
    (op(nr::MEMORY_OP, XENMEM_RESERVED_DEVICE_MEMORY_MAP, &mut arg), arg.nr_entries)
}

returns! {
    /// The first domain has no map of its own until somebody sets one.
    map_of_the_first_domain(env): op(nr::MEMORY_OP, XENMEM_MEMORY_MAP, &mut map_of(env.page(0).virt(), 1))
        => Err(Errno::ENOSYS);
    /// Bad pointers, memory map.
    map_fault(env): all_fault(|at| memory(XENMEM_MEMORY_MAP, at)) => FAULTS;
    /// Bad pointers, setting a memory map.
    set_map_fault(env): all_fault(|at| memory(XENMEM_SET_MEMORY_MAP, at)) => FAULTS;
    /// Bad pointers to the entries.
    set_map_entries_fault(env): all_fault(|at| set_map(DOMID_SELF, at, 1)) => FAULTS;
    /// A map has a bounded number of entries.
    set_map_too_long(env): set_map(DOMID_SELF, env.page(0).virt(), 1025) => Err(Errno::EINVAL);
    /// The map of a domain that does not exist.
    set_map_of_nobody(env): set_map(NO_DOMAIN, env.page(0).virt(), 1) => Err(Errno::ESRCH);
    /// Bad pointers, the M2P's place.
    machphys_mapping_fault(env): all_fault(|at| memory(XENMEM_MACHPHYS_MAPPING, at)) => FAULTS;
    /// Bad pointers, the M2P's frames.
    machphys_list_fault(env): all_fault(|at| memory(XENMEM_MACHPHYS_MFN_LIST, at)) => FAULTS;
    /// Bad pointers, highest frame.
    maximum_gpfn_fault(env): all_fault(|at| memory(XENMEM_MAXIMUM_GPFN, at)) => FAULTS;
    /// The highest frame of a domain that does not exist.
    maximum_gpfn_of_nobody(env): of_domain(XENMEM_MAXIMUM_GPFN, NO_DOMAIN) => Err(Errno::ESRCH);
    /// The maximum of a domain that does not exist.
    maximum_reservation_of_nobody(env): of_domain(XENMEM_MAXIMUM_RESERVATION, NO_DOMAIN) => Err(Errno::ESRCH);
    /// The domain's own number is as good as DOMID_SELF.
    reservation_by_number(env): of_domain(XENMEM_CURRENT_RESERVATION, OWN)
        => of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF);

    /// A PV domain has no physmap that could be changed.
    add_to_physmap(env): [XENMAPSPACE_SHARED_INFO, XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_GMFN,
        XENMAPSPACE_GMFN_RANGE, XENMAPSPACE_DEV_MMIO, 77].map(|space| physmap(DOMID_SELF, space))
        => [Err(Errno::EACCES); 6];
    /// Frames of other domains are mapped in batches only.
    add_to_physmap_foreign(env): physmap(DOMID_SELF, XENMAPSPACE_GMFN_FOREIGN) => Err(Errno::ENOSYS);
    /// The physmap of nobody.
    add_to_physmap_of_nobody(env): physmap(NO_DOMAIN, XENMAPSPACE_GMFN) => Err(Errno::ESRCH);
    /// Bad pointers, adding to a physmap.
    add_to_physmap_fault(env): all_fault(|at| memory(XENMEM_ADD_TO_PHYSMAP, at)) => FAULTS;
    /// Ranges have at most 65535 pages.
    add_to_physmap_start(env): [XENMEM_ADD_TO_PHYSMAP, XENMEM_ADD_TO_PHYSMAP_BATCH].map(|command|
        hc2(nr::MEMORY_OP, u64::from(command) | 0x1_0000 << MEMOP_EXTENT_SHIFT, 0)) => [Err(Errno::EDOM); 2];
    /// The same in batches.
    add_to_physmap_batch(env): [XENMAPSPACE_SHARED_INFO, XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_GMFN,
        XENMAPSPACE_GMFN_FOREIGN, XENMAPSPACE_DEV_MMIO].map(|space| physmap_batch(DOMID_SELF, space))
        => [Err(Errno::EACCES); 5];
    /// A range is one already.
    add_to_physmap_batch_range(env): physmap_batch(DOMID_SELF, XENMAPSPACE_GMFN_RANGE) => Err(Errno::EOPNOTSUPP);
    /// The physmap of nobody.
    add_to_physmap_batch_of_nobody(env): physmap_batch(NO_DOMAIN, XENMAPSPACE_GMFN) => Err(Errno::ESRCH);
    /// Bad pointers, batches.
    add_to_physmap_batch_fault(env): all_fault(|at| memory(XENMEM_ADD_TO_PHYSMAP_BATCH, at)) => FAULTS;
    /// Nothing can be taken out either.
    remove_from_physmap(env): [DOMID_SELF, NO_DOMAIN].map(|domid| op(nr::MEMORY_OP, XENMEM_REMOVE_FROM_PHYSMAP,
        &mut XenRemoveFromPhysmap { domid, gpfn: 1, ..XenRemoveFromPhysmap::default() }))
        => [Err(Errno::EACCES), Err(Errno::ESRCH)];
    /// Bad pointers, removing.
    remove_from_physmap_fault(env): all_fault(|at| memory(XENMEM_REMOVE_FROM_PHYSMAP, at)) => FAULTS;

    /// Populating on demand is not for PV domains.
    pod_target(env): [XENMEM_SET_POD_TARGET, XENMEM_GET_POD_TARGET].map(|command| pod(command, DOMID_SELF))
        => [Err(Errno::EINVAL); 2];
    /// Nor for those that do not exist.
    pod_target_of_nobody(env): [XENMEM_SET_POD_TARGET, XENMEM_GET_POD_TARGET].map(|command| pod(command, NO_DOMAIN))
        => [Err(Errno::ESRCH); 2];
    /// Bad pointers, populating on demand.
    pod_target_fault(env): all_fault(|at| memory(XENMEM_GET_POD_TARGET, at)) => FAULTS;
    /// Nothing is shared.
    sharing(env): [XENMEM_GET_SHARING_FREED_PAGES, XENMEM_GET_SHARING_SHARED_PAGES].map(|command| memory(command, 0))
        => [Ok(0); 2];
    /// Paging and sharing of memory are not built in.
    paging_and_sharing(env): [XENMEM_PAGING_OP, XENMEM_SHARING_OP].map(|command| memory(command, env.page(0).virt()))
        => [Err(Errno::ENOSYS); 2];
    /// Nobody restricts his own memory.
    access_self(env): access(OWN) => Err(Errno::EPERM);
    /// Nor a domain's that does not exist.
    access_of_nobody(env): access(NO_DOMAIN) => Err(Errno::ESRCH);
    /// Bad pointers, restricting.
    access_fault(env): all_fault(|at| memory(XENMEM_ACCESS_OP, at)) => FAULTS;
    /// The first domain has no virtual nodes.
    vnuma_none(env): vnuma(DOMID_SELF, 0) => Err(Errno::EOPNOTSUPP);
    /// A reserved field that is not zero.
    vnuma_padding(env): vnuma(DOMID_SELF, 1) => Err(Errno::EINVAL);
    /// The nodes of a domain that does not exist.
    vnuma_of_nobody(env): vnuma(NO_DOMAIN, 0) => Err(Errno::ESRCH);
    /// Bad pointers, virtual nodes.
    vnuma_fault(env): all_fault(|at| memory(XENMEM_GET_VNUMAINFO, at)) => FAULTS;
    /// No device has memory reserved.
    reserved_memory(env): [reserved(XENMEM_RDM_ALL, 0, 0), reserved(XENMEM_RDM_ALL, env.page(0).virt(), 3),
        reserved(0, env.page(0).virt(), 3)] => [(Ok(0), 0); 3];
    /// Flags that do not exist.
    reserved_memory_flags(env): reserved(2, env.page(0).virt(), 3).0 => Err(Errno::EINVAL);
    /// Bad pointers, reserved memory.
    reserved_memory_fault(env): all_fault(|at| memory(XENMEM_RESERVED_DEVICE_MEMORY_MAP, at)) => FAULTS;
    /// A list that could not be written to anyway.
    reserved_memory_list_fault(env): [HYPERVISOR, NON_CANONICAL].map(|at| reserved(XENMEM_RDM_ALL, at, 3).0)
        => [Err(Errno::EFAULT); 2];

    /// Bad pointers, claims.
    claim_fault(env): all_fault(|at| memory(XENMEM_CLAIM_PAGES, at)) => FAULTS;
    /// A claim has neither a list nor an order nor flags.
    claim_of_something(env): [
        claim_with(|arg| arg.extent_start = GuestHandle::from(env.page(0).virt())),
        claim_with(|arg| arg.extent_order = 1),
        claim_with(|arg| arg.mem_flags = 1),
    ] => [Err(Errno::EINVAL); 3];
    /// A claim names a domain by its number, and DOMID_SELF is none.
    claim_for_nobody(env): [NO_DOMAIN, DOMID_SELF].map(|domid| claim(domid, 1)) => [Err(Errno::EINVAL); 2];
    /// What the domain has need not be claimed.
    claim_of_what_is_there(env): claim(OWN, current()?)
        => Err(Errno::EINVAL);
    /// No more can be claimed than the domain may have.
    claim_too_much(env): claim(OWN, u64::MAX >> 1) => Err(Errno::EINVAL);
    /// Giving up a claim that is not there.
    claim_nothing(env): claim(OWN, 0) => Ok(0);

    /// Bad pointers, resources.
    resource_fault(env): all_fault(|at| memory(XENMEM_ACQUIRE_RESOURCE, at)) => FAULTS;
    /// Resources are acquired of other domains.
    resource_self(env): resource(|arg| arg.domid = OWN) => Err(Errno::EPERM);
    /// And of those that exist.
    resource_of_nobody(env): [NO_DOMAIN, DOMID_SELF].map(|domid| resource(|arg| arg.domid = domid))
        => [Err(Errno::ESRCH); 2];
    /// A reserved field that is not zero.
    resource_padding(env): resource(|arg| arg.pad = 1) => Err(Errno::EINVAL);
    /// Frames are counted in 32 bits, and what is asked for ends within them.
    resource_frame_too_large(env): [
        resource(|arg| arg.frame = 1 << 32),
        resource(|arg| (arg.frame, arg.nr_frames) = (0xffff_ffff, 1)),
    ] => [Err(Errno::EINVAL); 2];
}

case! {
    /// A map that is set is what the domain is told, as much of it as there is room for.
    fn set_and_get(env) {
        let (from, to) = (env.page(0), env.page(1));
        // Two entries of 20 bytes: address, size, type.
        let words = [0x1000, 0x2000, 1 | 0x7000 << 32, 0x9000 << 32, 2 << 32];
        for (at, word) in words.into_iter().enumerate() {
            from.set(at, word);
        }
        same("set", set_map(DOMID_SELF, from.virt(), 2), Ok(0))?;
        let mut one = map_of(to.virt(), 1);
        let first = op(nr::MEMORY_OP, XENMEM_MEMORY_MAP, &mut one);
        let beyond = to.get(3);
        let mut many = map_of(to.virt(), 9);
        let all = op(nr::MEMORY_OP, XENMEM_MEMORY_MAP, &mut many);
        let fault = op(nr::MEMORY_OP, XENMEM_MEMORY_MAP, &mut map_of(NON_CANONICAL, 9));
        same("no map", set_map(DOMID_SELF, 0, 0), Ok(0))?;
        let none = op(nr::MEMORY_OP, XENMEM_MEMORY_MAP, &mut map_of(to.virt(), 9));
        same("room for one", (first, one.nr_entries, beyond), (Ok(0), 1, 0))?;
        same("room for more", (all, many.nr_entries), (Ok(0), 2))?;
        same("entries", [0, 1, 2, 3, 4].map(|at| to.get(at)), words)?;
        same("no room at all", fault, Err(Errno::EFAULT))?;
        same("none again", none, Err(Errno::ENOSYS))
    }
}

case! {
    /// Without a buffer the machine's map says how many entries it has; with room for them it gives as many, in order.
    fn machine_map_size(env) {
        let mut arg = map_of(0, 0);
        same("size", op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut arg), Ok(0))?;
        let entries = arg.nr_entries;
        check("some", (1..200).contains(&entries))?;
        let mut arg = map_of(env.page(0).virt(), 200);
        same("map", op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut arg), Ok(0))?;
        same("as many", arg.nr_entries, entries)?;
        same("no room", op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut map_of(NON_CANONICAL, 200)),
            Err(Errno::EFAULT))
    }
}

case! {
    /// The M2P's frames: as many as fit, none of them 0, and none that the domain could map for writing.
    fn machphys_list(env) {
        let mut list = [0u64; 4];
        let mut arg = XenMachphysMfnList {
            max_extents: 1,
            extent_start: GuestHandle::from(list.as_mut_ptr() as u64),
            ..XenMachphysMfnList::default()
        };
        same("list", op(nr::MEMORY_OP, XENMEM_MACHPHYS_MFN_LIST, &mut arg), Ok(0))?;
        same("one", arg.nr_extents, 1)?;
        check("a frame", list[0] != 0)?;
        same("no more than asked for", list[1], 0)?;
        same("for writing", env.page(0).map(Pte::data(Mfn(list[0]))), Err(Errno::EBUSY))?;
        arg.extent_start = GuestHandle::from(NON_CANONICAL);
        same("fault", op(nr::MEMORY_OP, XENMEM_MACHPHYS_MFN_LIST, &mut arg), Err(Errno::EFAULT))?;
        arg.max_extents = 0;
        same("nothing", op(nr::MEMORY_OP, XENMEM_MACHPHYS_MFN_LIST, &mut arg), Ok(0))
    }
}

case! {
    /// The M2P of 32-bit guests is there, or is said not to be.
    fn machphys_compat_list(env) {
        let mut arg = XenMachphysMfnList {
            max_extents: 1,
            extent_start: GuestHandle::from(env.page(0).virt()),
            ..XenMachphysMfnList::default()
        };
        let ret = op(nr::MEMORY_OP, XENMEM_MACHPHYS_COMPAT_MFN_LIST, &mut arg);
        check("list", matches!(ret, Ok(0) | Err(Errno::EOPNOTSUPP)))
    }
}

/// Gives three pages back, and takes them again after `then`.
fn with_less(env: &Env, then: impl FnOnce(u64) -> crate::harness::Outcome) -> crate::harness::Outcome {
    let pages = [0, 1, 2].map(|at| env.page(at));
    let mut list = pages.map(|page| page.mfn().0);
    for page in pages {
        need("unmap", page.map(Pte::EMPTY))?;
    }
    need("decrease", change(XENMEM_DECREASE_RESERVATION, &mut list, 0, 0))?;
    let outcome = then(current()?);
    let _ = claim(OWN, 0);
    for page in pages {
        let mut list = [page.pfn().0];
        if change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, 0) == Ok(1) {
            page.adopt(Mfn(list[0]));
        }
    }
    outcome
}

case! {
    /// A domain has one claim at a time; it can be given up, and made anew.
    fn claim_once(env) {
        with_less(env, |has| {
            same("claim", claim(OWN, has + 2), Ok(0))?;
            same("again", claim(OWN, has + 2), Err(Errno::EINVAL))?;
            same("give up", claim(OWN, 0), Ok(0))?;
            same("anew", claim(OWN, has + 3), Ok(0))
        })
    }
}

case! {
    /// What is allocated comes out of the claim: after all of it the claim is gone, and another one can be made.
    fn claim_is_used_up(env) {
        with_less(env, |has| {
            same("claim", claim(OWN, has + 2), Ok(0))?;
            let mut list = [0x7_0000];
            same("populate", change(XENMEM_POPULATE_PHYSMAP, &mut list, 0, 0), Ok(1))?;
            same("one is left", claim(OWN, has + 3), Err(Errno::EINVAL))?;
            let mut other = [0x7_0001];
            same("populate", change(XENMEM_POPULATE_PHYSMAP, &mut other, 0, 0), Ok(1))?;
            let next = claim(OWN, has + 3);
            let mut both = [list[0], other[0]];
            need("decrease", change(XENMEM_DECREASE_RESERVATION, &mut both, 0, 0))?;
            same("none is left", next, Ok(0))
        })
    }
}

case! {
    /// A frame that does not exist is nobody's to give back, whatever its number.
    fn decrease_of_no_frames(env) {
        let _ = env;
        for frame in [NO_FRAME, u64::MAX, 1 << 52, u64::MAX >> 12] {
            same("decrease", change(XENMEM_DECREASE_RESERVATION, &mut [frame], 0, 0), Ok(0))?;
        }
        Ok(())
    }
}
