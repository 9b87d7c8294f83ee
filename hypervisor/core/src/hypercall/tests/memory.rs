//! `memory_op` and what it promises: claims, resources, places; and flushes by `mmuext_op` that reach other CPUs.

use super::*;
use crate::ids::CpuId;
use crate::mock::domain;
use xen_abi::memory::*;
use xen_abi::xen::*;

impl Caller {
    fn memory<T: IntoBytes + Immutable>(&self, command: u32, arg: &T) -> Result<i64, Errno> {
        self.call(nr::MEMORY_OP, &[command.into(), self.put(arg)])
    }

    fn claim(&self, domid: u16, pages: u64) -> Result<i64, Errno> {
        let request = XenMemoryReservation { domid, nr_extents: pages, ..Default::default() };
        self.memory(XENMEM_CLAIM_PAGES, &request)
    }

    fn increase(&self, domid: u16, pages: u64, mem_flags: u32) -> Result<i64, Errno> {
        let request = XenMemoryReservation { domid, nr_extents: pages, mem_flags, ..Default::default() };
        self.memory(XENMEM_INCREASE_RESERVATION, &request)
    }
}

/// What is claimed for one domain is not another's, and comes out of the claim.
#[test]
fn claims_set_frames_aside() {
    let caller = Caller::new();
    let guest = domain(&caller.hv, 5, 1, 1 << 20);
    let floor = caller.hv.frames.floor();
    assert_ne!(floor, 0);
    let free = caller.hv.frames.free_count() - floor;
    assert_eq!(caller.claim(5, free + 1), Err(Errno::ENOMEM));
    assert_eq!(caller.claim(5, free - 2), Ok(0));
    assert_eq!((guest.pages.claimed(), caller.hv.frames.claimed()), (free - 2, free - 2));
    assert_eq!(caller.claim(5, 1), Err(Errno::EINVAL), "one at a time");
    caller.domain.pages.set_max(1 << 20);
    assert_eq!(caller.increase(DOMID_SELF, 3, 0), Ok(2), "the rest is claimed");
    let own: Vec<_> = core::iter::from_fn(|| caller.hv.alloc_frames(0)).collect();
    assert_eq!(own.len() as u64, floor, "what no domain gets");
    assert_eq!(caller.hv.alloc_frames(0), None, "the hypervisor itself does without");
    own.iter().for_each(|mfn| caller.hv.frames.free(*mfn, 0));
    assert_eq!(caller.increase(5, 3, 0), Ok(3));
    assert_eq!((guest.pages.claimed(), caller.hv.frames.claimed()), (free - 5, free - 5));
    caller.hv.remove_domain_page(&guest, first_frame(&caller, 5)).unwrap();
    assert_eq!(guest.pages.claimed(), free - 4, "what it gives back stays set aside for it");
    assert_eq!(caller.claim(5, 0), Ok(0));
    assert_eq!(caller.hv.frames.claimed(), 0);
    assert_eq!(caller.increase(DOMID_SELF, 1, 0), Ok(1));
}

/// Some frame that a domain owns.
fn first_frame(caller: &Caller, id: u16) -> crate::ids::Mfn {
    let owned = |n: &u64| caller.hv.page_owner(crate::ids::Mfn(*n)) == Some(crate::ids::DomId(id));
    let end = caller.hv.platform.frame_table().len() as u64;
    let allocated = |n: &u64| {
        caller
            .hv
            .frame(crate::ids::Mfn(*n))
            .is_some_and(|f| f.count().is_allocated() && !f.count().is_xenheap())
    };
    (0..end).filter(owned).find(allocated).map(crate::ids::Mfn).unwrap()
}

/// A domain that ends takes its claim with it.
#[test]
fn claims_end_with_their_domain() {
    let caller = Caller::new();
    let guest = domain(&caller.hv, 5, 1, 1 << 20);
    assert_eq!(caller.claim(5, 10), Ok(0));
    caller.hv.release_domain_pages(&guest).unwrap();
    assert_eq!(caller.hv.frames.claimed(), 0);
}

/// Grant-table frames of another domain: their number, some of them, all of them with interruptions; status frames only
/// where there are any.
#[test]
fn grant_tables_are_resources() {
    let caller = Caller::new();
    let guest = domain(&caller.hv, 5, 1, 64);
    let list = FLAT_BASE + 0x800;
    let request = |id, frame, nr_frames, list: u64| XenMemAcquireResource {
        domid: 5,
        type_: XENMEM_RESOURCE_GRANT_TABLE,
        id,
        frame,
        nr_frames,
        frame_list: list.into(),
        ..Default::default()
    };
    let acquire = |r: &XenMemAcquireResource| caller.memory(XENMEM_ACQUIRE_RESOURCE, r);
    assert_eq!(acquire(&request(0, 0, 0, 0)), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 8) as u32, 64, "as many as there may be");
    assert_eq!(acquire(&request(1, 0, 0, 0)), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 8) as u32, 8);
    assert_eq!(acquire(&request(2, 0, 0, 0)), Err(Errno::EINVAL));
    assert_eq!(acquire(&request(0, 0, 1, 0)), Err(Errno::EINVAL));
    assert_eq!(acquire(&request(0, 0, 0, list)), Err(Errno::EINVAL));
    assert_eq!(acquire(&request(0, 64, 1, list)), Err(Errno::EINVAL));
    assert_eq!(acquire(&request(1, 0, 1, list)), Err(Errno::EINVAL), "version 1 has none");
    assert_eq!(acquire(&request(0, 0, 1, 0x10)), Err(Errno::EFAULT));
    assert_eq!(acquire(&request(0, 2, 2, list)), Ok(0));
    let frame = crate::ids::Mfn(caller.word(list));
    assert_eq!(caller.hv.page_owner(frame), Some(guest.id));
    assert_eq!(caller.hv.grant_table_size(&caller.domain, guest.id).unwrap().frames, 4);

    caller.hv.platform.preempt_every.store(1, SeqCst);
    let at = caller.put(&request(0, 0, 64, list));
    let mut args = [u64::from(XENMEM_ACQUIRE_RESOURCE), at, 0, 0, 0, 0];
    let mut stops = 0;
    while let Outcome::Again(again) = caller.outcome(nr::MEMORY_OP, args) {
        (args, stops) = (again, stops + 1);
    }
    caller.hv.platform.preempt_every.store(0, SeqCst);
    let expected = (59, frame.0);
    assert_eq!(
        (stops, caller.word(list + 16)),
        expected,
        "stopped at each new frame, and went on where it stopped"
    );

    caller.hv.set_grant_table_version(&guest, 2).unwrap();
    assert_eq!(acquire(&request(1, 7, 1, list)), Ok(0));
    let other = XenMemAcquireResource { type_: XENMEM_RESOURCE_IOREQ_SERVER, ..request(0, 0, 0, 0) };
    assert_eq!(acquire(&other), Err(Errno::EINVAL));
    let unprivileged = Caller::with_id(1);
    domain(&unprivileged.hv, 5, 1, 64);
    assert_eq!(unprivileged.memory(XENMEM_ACQUIRE_RESOURCE, &request(0, 0, 0, 0)), Err(Errno::EPERM));
}

/// Nodes: those that cannot be are refused, those that are not there are not had, and who may not demand one is told so.
#[test]
fn nodes() {
    let caller = Caller::new();
    caller.domain.pages.set_max(1 << 20);
    let exact = XENMEMF_EXACT_NODE_REQUEST;
    assert_eq!(caller.increase(DOMID_SELF, 1, xenmemf_node(0) | exact), Ok(1));
    assert_eq!(caller.increase(DOMID_SELF, 1, xenmemf_node(3) | exact), Ok(0));
    assert_eq!(caller.increase(DOMID_SELF, 1, xenmemf_node(3)), Ok(1));
    assert_eq!(caller.increase(DOMID_SELF, 1, xenmemf_node(64)), Ok(0));
    let guest = Caller::with_id(1);
    guest.domain.pages.set_max(1 << 20);
    assert_eq!(guest.increase(DOMID_SELF, 1, xenmemf_node(3)), Ok(1));
    assert_eq!(guest.increase(DOMID_SELF, 1, xenmemf_node(0) | exact), Ok(0));
}

/// A flush of all caches reaches every CPU, whether the domain ever ran there or not; a plain one this CPU.
#[test]
fn cache_flushes() {
    let caller = Caller::new();
    caller.hv.platform.cpus.store(3, SeqCst);
    let flush = |cmd| {
        let op = MmuextOp { cmd, ..MmuextOp::default() };
        caller.call(nr::MMUEXT_OP, &[caller.put(&op), 1, 0, DOMID_SELF.into()])
    };
    assert_eq!(flush(MMUEXT_FLUSH_CACHE), Err(Errno::EACCES), "no devices, no choice");
    assert_eq!(flush(MMUEXT_FLUSH_CACHE_GLOBAL), Err(Errno::EINVAL));
    *caller.domain.permissions.write() = crate::permissions::Permissions::all();
    assert_eq!((flush(MMUEXT_FLUSH_CACHE), flush(MMUEXT_FLUSH_CACHE_GLOBAL)), (Ok(0), Ok(0)));
    let flushed = caller.hv.platform.record.lock().unwrap().cache_flushes.clone();
    let all = caller.hv.platform.online_cpus();
    assert_eq!(flushed, [crate::cpumask::CpuMask::of(CpuId(0)), all]);
}
