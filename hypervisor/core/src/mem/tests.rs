//! What a domain can have of the machine's memory, and what is left for the hypervisor in any case.

use crate::Hypervisor;
use crate::domain::{Domain, DomainConfig};
use crate::event::EventError;
use crate::grant::GrantError;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, dispatch};
use crate::ids::{DomId, Mfn, VcpuId};
use crate::mem::Taker;
use crate::mock::{self, FLAT_BASE, MockPlatform};
use crate::regs::Regs;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;
use zerocopy::{Immutable, IntoBytes};

type Mock = Hypervisor<MockPlatform>;
type MockDomain = Arc<Domain<MockPlatform>>;

const SELF: DomId = DomId(DOMID_SELF);
const LISTS: [u64; 2] = [FLAT_BASE + 0x2000, FLAT_BASE + 0x4000];

/// A machine, and a domain without rights that may own any number of pages.
fn machine() -> (Mock, MockDomain) {
    let hv = mock::hypervisor(8192);
    assert_eq!(hv.frames.floor(), 128);
    let domain = mock::domain(&hv, 1, 2, u64::from(u32::MAX));
    (hv, domain)
}

/// A domain takes memory, in blocks of this order at first, until it gets no more.
fn take_all(hv: &Mock, domain: &MockDomain, order: u32) -> Vec<Mfn> {
    let blocks = |order| core::iter::from_fn(move || hv.alloc_domain_pages(domain, order, 0).ok());
    let all = (0..=order).rev().flat_map(|order| blocks(order).map(move |first| (first, order)));
    all.flat_map(|(first, order)| (0..1 << order).map(move |n| first.add(n))).collect()
}

fn memory<T: IntoBytes + Immutable>(hv: &Mock, domain: &MockDomain, command: u32, argument: &T) -> i64 {
    GuestPtr::<T>::new(FLAT_BASE + 0x1000).write(hv, argument).expect("the flat buffer");
    let cx = Cx { hv, domain, vcpu: &domain.vcpus[0] };
    let mut regs = Regs { rdi: command.into(), rsi: FLAT_BASE + 0x1000, ..Regs::default() };
    loop {
        match dispatch(cx, nr::MEMORY_OP.into(), &mut regs) {
            Outcome::Again(args) => (regs.rdi, regs.rsi) = (args[0], args[1]),
            Outcome::Done(value) => return value,
            Outcome::RegsReplaced => unreachable!("no such hypercall"),
        }
        assert!(hv.frames.free_count() >= hv.frames.floor());
    }
}

fn reservation(hv: &Mock, list: usize, values: &[u64], order: u32) -> XenMemoryReservation {
    GuestPtr::<u64>::new(LISTS[list]).write_slice(hv, values).expect("the flat buffer");
    XenMemoryReservation {
        extent_start: LISTS[list].into(),
        nr_extents: values.len() as u64,
        extent_order: order,
        domid: DOMID_SELF,
        ..Default::default()
    }
}

/// The hypervisor finds all the frames that no domain gets.
fn check_floor(hv: &Mock) {
    let own: Vec<_> = core::iter::from_fn(|| hv.alloc_frames(0)).collect();
    assert!(own.len() as u64 >= hv.frames.floor(), "{}", own.len());
    own.iter().for_each(|mfn| hv.frames.free(*mfn, 0));
}

/// A domain took all frames there were. Then the hypervisor's heap did not grow any more, and the next small allocation, of which a
/// hypercall makes some, ended the machine.
#[test]
fn no_domain_gets_the_last_frames() {
    for order in [0, 3, 9] {
        let (hv, domain) = machine();
        hv.bind_ipi(&domain, VcpuId(0)).expect("a port");
        let control = hv.alloc_domain_page(&domain, 0).expect("a page");
        let all = take_all(&hv, &domain, order);
        assert!(all.len() > 7000);
        assert_eq!(hv.frames.free_count(), hv.frames.floor());
        // Whatever it asks for then has an answer, and takes nothing.
        assert_eq!(memory(&hv, &domain, XENMEM_INCREASE_RESERVATION, &reservation(&hv, 0, &[0], 0)), 0);
        assert_eq!(memory(&hv, &domain, XENMEM_POPULATE_PHYSMAP, &reservation(&hv, 0, &[5], 0)), 0);
        assert_eq!(hv.setup_grant_table(&domain, SELF, 4), Err(GrantError::General));
        assert_eq!(hv.grant_table_size(&domain, SELF).map(|size| size.frames), Ok(0));
        let ports = (0..100).map_while(|_| hv.bind_ipi(&domain, VcpuId(0)).ok()).count();
        assert!(ports < 64 && hv.bind_ipi(&domain, VcpuId(0)) == Err(EventError::NoMemory));
        let fifo = hv.fifo_init_control(&domain, VcpuId(0), control, 0);
        assert_eq!(fifo, Err(EventError::NoMemory));
        assert!(!hv.frames.has_room(&domain.pages.claim, 1));
        assert_eq!(hv.claim_pages(&domain, domain.pages.current() + 1), Err(Errno::ENOMEM));
        let other = hv.create_domain_for((DomId(0), VcpuId(0)), DomainConfig::new(DomId(7)));
        assert_eq!(other.err(), Some(Errno::ENOMEM));
        assert_eq!(hv.frames.free_count(), hv.frames.floor());
        check_floor(&hv);
        // What it gives back is there for all.
        all[..20].iter().for_each(|mfn| hv.remove_domain_page(&domain, *mfn).expect("its own"));
        assert!(hv.setup_grant_table(&domain, SELF, 1).is_ok());
        assert_eq!(take_all(&hv, &domain, 0).len(), 19);
    }
}

/// The hypervisor has single frames when a domain left it no two in a row.
#[test]
fn the_last_frames_need_not_be_in_a_row() {
    let (hv, domain) = machine();
    let all = take_all(&hv, &domain, 9);
    let odd = |mfn: &&Mfn| mfn.0 > 256 && mfn.0 % 2 == 1;
    all.iter().filter(odd).for_each(|mfn| hv.remove_domain_page(&domain, *mfn).expect("its own"));
    // Those below 1 MiB were left so far.
    while hv.alloc_domain_page(&domain, xenmemf_address_bits(20)).is_ok() {}
    take_all(&hv, &domain, 0);
    assert_eq!(hv.frames.free_count(), hv.frames.floor());
    assert_eq!(hv.alloc_frames(1), None, "no two in a row");
    assert!(!hv.frames.has_spare(1));
    check_floor(&hv);
}

/// Exchanges of any size were judged by whether there was room for one frame, and took frames that were set aside.
#[test]
fn exchanges_leave_the_last_frames() {
    for order in 0..=9u32 {
        let (hv, domain) = machine();
        let old = hv.alloc_domain_pages(&domain, 9, 0).expect("a block");
        let block = hv.alloc_domain_pages(&domain, order, 0).expect("a block");
        let other = mock::domain(&hv, 2, 1, u64::from(u32::MAX));
        take_all(&hv, &other, 9);
        // There is a block as it is wanted, and one frame less that a domain may have.
        (0..1 << order).for_each(|n| hv.remove_domain_page(&domain, block.add(n)).expect("its own"));
        let claim = super::Claim::default();
        assert!(hv.frames.promise(&claim, 1));
        let old: Vec<u64> = (0..1 << order).map(|n| old.0 + n).collect();
        let trade = || {
            let in_ = reservation(&hv, 0, &old, 0);
            let out = reservation(&hv, 1, &[77], order);
            memory(&hv, &domain, XENMEM_EXCHANGE, &XenMemoryExchange { in_, out, nr_exchanged: 0 })
        };
        let free = hv.frames.free_count();
        for preempt in [0, 1, 2] {
            hv.platform.preempt_every.store(preempt, SeqCst);
            assert_eq!(trade(), Errno::ENOMEM.to_ret(), "order {order}");
            assert_eq!(hv.frames.free_count(), free);
        }
        hv.platform.preempt_every.store(0, SeqCst);
        check_floor(&hv);
        hv.frames.redeem(&claim, 1);
        // With the two frames that the lists may take.
        assert_eq!(trade(), if order < 1 { Errno::ENOMEM.to_ret() } else { 0 }, "order {order}");
        assert_eq!(hv.frames.free_count(), free);
    }
}

/// Claims and promises are judged against what domains may have.
#[test]
fn claims_and_promises_leave_the_last_frames() {
    let (hv, domain) = machine();
    let room = hv.frames.free_count() - hv.frames.floor();
    assert_eq!(hv.claim_pages(&domain, room + 1), Err(Errno::ENOMEM));
    assert_eq!(hv.claim_pages(&domain, room), Ok(()));
    let claim = super::Claim::default();
    assert!(!hv.frames.promise(&claim, 1) && !hv.frames.has_spare(1));
    check_floor(&hv);
    assert_eq!(take_all(&hv, &domain, 9).len() as u64, room, "all that it claimed, and no more");
    assert_eq!((domain.pages.claimed(), hv.frames.claimed()), (0, 0));
    check_floor(&hv);
    let (hv, domain) = machine();
    assert!(!hv.frames.promise(&claim, room + 1) && hv.frames.promise(&claim, room - 1));
    assert_eq!(hv.claim_pages(&domain, 2), Err(Errno::ENOMEM));
    assert_eq!(take_all(&hv, &domain, 9).len(), 1);
    // What is promised is for what grows with that very domain.
    assert!(!hv.frames.has_room(&domain.pages.claim, 1) && hv.frames.has_room(&claim, 4));
    hv.frames.redeem(&claim, u64::MAX);
    assert_eq!(take_all(&hv, &domain, 9).len() as u64, room - 1);
    check_floor(&hv);
}

/// What is all its own is not kept from a domain by what others were promised beyond what there is.
#[test]
fn more_promised_than_there_is_takes_nothing_from_claims() {
    let (hv, domain) = machine();
    let claim = super::Claim::default();
    let room = hv.frames.free_count() - hv.frames.floor();
    assert_eq!(hv.claim_pages(&domain, 8), Ok(()));
    hv.frames.owe(&claim, room + 100);
    assert!(!hv.frames.has_spare(1));
    assert_eq!(take_all(&hv, &domain, 0).len(), 8, "its own, and no more");
    check_floor(&hv);
    hv.frames.owe(&claim, 0);
    assert_eq!(take_all(&hv, &domain, 9).len() as u64, room - 8);
    check_floor(&hv);
}

/// What a domain leaves that is started again is set aside for it in the same step, and what is missing must be there for all.
#[test]
fn a_kept_claim_lasts() {
    let (hv, domain) = machine();
    let claim = super::Claim::default();
    let take = || hv.take_frames(super::Taker::Hypervisor, 0, 0).expect("a frame");
    let leave = |mfn: Mfn| hv.frames.give_dirty(mfn.0..mfn.0 + 1, Some(&claim));
    let mfns = [take(), take(), take()];
    leave(mfns[0]);
    assert_eq!(hv.frames.claimed(), 0, "it is not kept");
    hv.frames.keep_claim(&claim);
    mfns[1..].iter().for_each(|mfn| leave(*mfn));
    hv.frames.drop_claim(&claim);
    assert_eq!((claim.pages(), hv.frames.claimed()), (2, 2));
    let room = take_all(&hv, &domain, 9);
    assert_eq!(hv.frames.free_count(), hv.frames.floor() + 2);
    assert!(!hv.frames.renew_claim(&claim, 2, 5), "five are missing");
    assert_eq!(claim.pages(), 2, "it stays as it was");
    assert!(hv.frames.renew_claim(&claim, 1, 1));
    room[..5].iter().for_each(|mfn| hv.remove_domain_page(&domain, *mfn).expect("its own"));
    assert!(!hv.frames.renew_claim(&claim, 2, 6) && hv.frames.renew_claim(&claim, 2, 5));
    assert_eq!(take_all(&hv, &domain, 0), []);
    hv.frames.forget_claim(&claim);
    assert_eq!(take_all(&hv, &domain, 0).len(), 7);
}

/// Frames that an exchange took and puts back were seen by no guest: the next to take them has no CPU flush. A domain whose exchanges
/// fail, again and again, had every CPU flush for each.
#[test]
fn frames_that_are_put_back_unseen_cost_no_flush() {
    let (hv, domain) = machine();
    let mfn = hv.alloc_domain_page(&domain, 0).expect("a frame");
    hv.remove_domain_page(&domain, mfn).expect("its own");
    let flushes = || core::mem::take(&mut hv.platform.record.lock().unwrap().flushes).len();
    flushes();
    let taken = hv.take_frames(Taker::Loan, 0, 0).expect("a frame");
    assert!(flushes() > 0, "a guest may still see what was freed");
    for _ in 0..3 {
        hv.give_back_taken(taken, 0);
        assert_eq!(hv.take_frames(Taker::Loan, 0, 0), Some(taken));
        assert_eq!(flushes(), 0);
    }
    hv.give_back_taken(taken, 0);
}
