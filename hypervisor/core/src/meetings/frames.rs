//! What can be done to a page of domain 1: by its own vCPUs, and by the privileged domain.

use super::world::{RO, RW, SELF, TABLE_SLOT, Who, World};
use super::{Op, last, meet, meet_some, op};
use crate::guest_ptr::GuestPtr;
use crate::ids::{GuestVirt, Mfn};
use crate::page::{PtWrite, ReadOnlyPage};
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::vcpu::{VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use xen_abi::xen::*;

pub(super) const OPS: &[Op] = &[
    op(1, "map writable", |w, who| w.map(who, who.cpu as u64, w.page.addr().0 | RW)),
    op(1, "map read-only", |w, who| w.map(who, who.cpu as u64, w.page.addr().0 | RO)),
    op(1, "unmap", |w, who| (0..2).all(|slot| w.map(who, slot, 0))).after(&["map writable"]),
    op(1, "unmap by mmu_update", |w, who| (0..2).all(|slot| w.update(who, w.tables[1][3], slot, 0, SELF)))
        .after(&["map read-only"]),
    op(1, "access", access).after(&["map writable"]),
    op(1, "read", read).after(&["map read-only"]),
    op(1, "pin as L1", |w, who| w.ext(who, MMUEXT_PIN_L1_TABLE, w.page.0, 0)),
    op(1, "pin as L2", |w, who| w.ext(who, MMUEXT_PIN_L2_TABLE, w.page.0, 0)),
    op(1, "pin as L3", |w, who| w.ext(who, MMUEXT_PIN_L3_TABLE, w.page.0, 0)),
    op(1, "pin as L4", |w, who| w.ext(who, MMUEXT_PIN_L4_TABLE, w.page.0, 0)),
    op(1, "unpin", |w, who| w.ext(who, MMUEXT_UNPIN_TABLE, w.page.0, 0)).after(&["pin as L1"]),
    op(1, "link as L1", |w, who| {
        w.update(who, w.tables[1][2], 1 + who.cpu as u64, w.page.addr().0 | RW, SELF)
    }),
    op(1, "unlink", |w, who| (1..3).all(|slot| w.update(who, w.tables[1][2], slot, 0, SELF)))
        .after(&["link as L1"]),
    op(1, "entry in it", |w, who| w.update(who, w.page, 7, w.other.addr().0 | RW, SELF))
        .after(&["pin as L1"]),
    op(1, "table in it", |w, who| w.update(who, w.page, 8, w.spare_table.addr().0 | RW, SELF))
        .after(&["pin as L2"]),
    op(1, "itself in it", |w, who| w.update(who, w.page, 9, w.page.addr().0 | RO, SELF))
        .after(&["pin as L4"]),
    op(1, "user root", |w, who| w.ext(who, MMUEXT_NEW_USER_BASEPTR, w.page.0, 0)),
    op(1, "no user root", |w, who| w.ext(who, MMUEXT_NEW_USER_BASEPTR, 0, 0)).after(&["user root"]),
    op(1, "kernel root", |w, who| {
        w.ext(who, MMUEXT_NEW_BASEPTR, w.page.0, 0) && w.ext(who, MMUEXT_NEW_BASEPTR, w.tables[1][0].0, 0)
    }),
    op(1, "give up", |w, who| memory(w, who, XENMEM_DECREASE_RESERVATION, w.page)),
    op(1, "take", |w, who| memory(w, who, XENMEM_INCREASE_RESERVATION, Mfn(0))),
    op(1, "exchange", exchange),
    op(1, "store to a table", |w, who| store(w, who, w.page.addr().0 | RW)),
    op(1, "store of nothing", |w, who| store(w, who, 0)),
    op(1, "descriptor", |w, who| {
        w.did(who, nr::UPDATE_DESCRIPTOR, &[w.page.addr().0 + 8 * who.cpu as u64, 0])
    }),
    op(1, "GDT", |w, who| w.did(who, nr::SET_GDT, &[w.put(who, 0, &[w.page.0]), 512])),
    op(1, "no GDT", |w, who| w.did(who, nr::SET_GDT, &[w.put(who, 0, &[0u64]), 0])).after(&["GDT"]),
    op(1, "LDT", |w, who| w.ext(who, MMUEXT_SET_LDT, who.cpu as u64 * 4096, 512)).after(&["map read-only"]),
    op(1, "no LDT", |w, who| w.ext(who, MMUEXT_SET_LDT, 0, 0)).after(&["map read-only", "LDT"]),
    op(1, "vcpu_info", |w, who| {
        let at = w.put(who, 0, &[VcpuRegisterVcpuInfo { mfn: w.page.0, offset: 0, rsvd: 0 }]);
        w.did(who, nr::VCPU_OP, &[VCPUOP_REGISTER_VCPU_INFO.into(), who.cpu as u64, at])
    }),
    op(1, "FIFO control block", |w, who| fifo_control(w, who, w.page)),
    op(1, "FIFO words", |w, who| fifo_words(w, who, w.page)).after(&["FIFO control block"]),
    op(1, "no events", |w, who| {
        let at = w.put(who, 0, &[EvtchnReset { dom: DOMID_SELF }]);
        w.did(who, nr::EVENT_CHANNEL_OP, &[EVTCHNOP_RESET.into(), at])
    })
    .after(&["FIFO control block"]),
    op(1, "clear", |w, who| w.ext(who, MMUEXT_CLEAR_PAGE, w.page.0, 0)),
    op(1, "copy into it", |w, who| w.ext(who, MMUEXT_COPY_PAGE, w.page.0, w.other.0)),
    op(0, "map another's", |w, who| w.update(who, w.tables[0][3], who.cpu as u64, w.page.addr().0 | RW, 1)),
    op(0, "map another's read-only", |w, who| {
        w.update(who, w.tables[0][3], who.cpu as u64, w.page.addr().0 | RO, 1)
    }),
    op(0, "unmap another's", |w, who| (0..2).all(|slot| w.update(who, w.tables[0][3], slot, 0, SELF)))
        .after(&["map another's"]),
    op(0, "access to another's", access).after(&["map another's"]),
    op(2, "take what was given up", |w, who| memory(w, who, XENMEM_INCREASE_RESERVATION, Mfn(0)))
        .after(&["give up"]),
    super::domains::DESTROY,
];

pub(super) fn access(w: &World, who: Who) -> bool {
    let value = (who.cpu as u64) << 40 | 0x5000 | RW;
    (0..4).filter(|slot| w.hv.platform.access(slot * 4096 + 8 * 100, Some(value)).is_some()).count() != 0
}

/// Reads all low pages.
pub(super) fn read(w: &World, _who: Who) -> bool {
    (0..4).filter(|slot| w.hv.platform.access(slot * 4096, None).is_some()).count() != 0
}

pub(super) fn memory(w: &World, who: Who, cmd: u32, mfn: Mfn) -> bool {
    let at = w.put(who, 0x100, &[mfn.0]);
    let arg = XenMemoryReservation {
        extent_start: at.into(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let arg = w.put(who, 0, &[arg]);
    w.call(who, nr::MEMORY_OP, &[cmd.into(), arg]) == Some(1)
}

fn exchange(w: &World, who: Who) -> bool {
    let list = |at: u64, number: u64| XenMemoryReservation {
        extent_start: w.put(who, at, &[number]).into(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let arg = XenMemoryExchange { in_: list(0x100, w.page.0), out: list(0x108, 7), nr_exchanged: 0 };
    let arg = w.put(who, 0, &[arg]);
    w.did(who, nr::MEMORY_OP, &[XENMEM_EXCHANGE.into(), arg])
}

/// A store to the domain's own L1 table where it is mapped read-only.
fn store(w: &World, who: Who, entry: u64) -> bool {
    let va = GuestVirt(TABLE_SLOT * 4096 + 8 * who.cpu as u64);
    while w.may_run(who) {
        let Some(ReadOnlyPage::Table(table)) = w.hv.read_only_page(w.cx(who), va) else { return false };
        match w.hv.emulate_pt_write(w.cx(who), table, va, None, entry, 8) {
            PtWrite::Retry => {}
            answer => return answer == PtWrite::Done,
        }
        if w.may_run(who) {
            w.hv.platform.quiet_point();
        }
        core::hint::spin_loop();
    }
    false
}

pub(super) fn fifo_control(w: &World, who: Who, page: Mfn) -> bool {
    let arg =
        EvtchnInitControl { control_gfn: page.0, offset: 2048, vcpu: who.cpu as u32, ..Default::default() };
    let at = w.put(who, 0, &[arg]);
    w.did(who, nr::EVENT_CHANNEL_OP, &[EVTCHNOP_INIT_CONTROL.into(), at])
}

pub(super) fn fifo_words(w: &World, who: Who, page: Mfn) -> bool {
    let at = w.put(who, 0, &[EvtchnExpandArray { array_gfn: page.0 }]);
    w.did(who, nr::EVENT_CHANNEL_OP, &[EVTCHNOP_EXPAND_ARRAY.into(), at])
}

/// A number that a hypercall put where this CPU's arguments are.
pub(super) fn answer<T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::IntoBytes>(
    w: &World,
    at: u64,
) -> T {
    GuestPtr::<T>::new(at).read(&w.hv).expect("the flat buffer")
}

#[test]
fn on_a_frame() {
    meet(OPS);
}

/// The status words of domain 1's grants are there only now and then; see `grants`.
pub(super) fn status_frame(w: &World) -> Option<Mfn> {
    Some(w.status.load(Relaxed)).filter(|frame| *frame != 0).map(Mfn)
}

/// Pages of domain 1 that it gave up while another domain held the last references to them.
const GIVEN_UP: &[Op] = &[
    op(1, "take some", |w, who| {
        let some = (0..GIVEN).map_while(|_| take(w, who));
        *w.given.lock().unwrap() = some.collect();
        true
    }),
    op(0, "map theirs", |w, who| {
        let map = |(mfn, slot): (&Mfn, u64)| w.update(who, w.tables[0][3], slot, mfn.addr().0 | RO, 1);
        w.given.lock().unwrap().iter().zip(0..).all(map)
    }),
    op(1, "give them up", |w, who| {
        w.given.lock().unwrap().iter().all(|mfn| memory(w, who, XENMEM_DECREASE_RESERVATION, *mfn))
    }),
    last(0, "begin its end", |w, _| {
        // Up to the time when nothing is pinned any more, nor partly checked: then each frame is looked at once more.
        let pinned = || w.hv.known_frame(w.tables[1][0]).type_word().is_pinned();
        w.hv.platform.preempt_every.store(1, Relaxed);
        (0..1000).take_while(|_| pinned()).chain([0]).for_each(|_| {
            let _ = w.hv.destroy_domain(&w.domains[1]);
        });
        w.hv.platform.preempt_every.store(0, Relaxed);
        !pinned()
    }),
    last(0, "drop the last references", |w, who| {
        let dropped = (0..GIVEN).all(|slot| w.update(who, w.tables[0][3], slot, 0, SELF));
        // Most likely they are among these.
        let taken = (0..2 * GIVEN).map_while(|_| take(w, who)).collect();
        *w.taken.lock().unwrap() = taken;
        dropped
    })
    .after(&["take some", "map theirs", "give them up", "begin its end"]),
    super::domains::DESTROY.after(&["take some", "map theirs", "give them up", "begin its end"]),
];

/// Pages that are given up.
const GIVEN: u64 = 12;

/// A page more, if there is one.
fn take(w: &World, who: Who) -> Option<Mfn> {
    memory(w, who, XENMEM_INCREASE_RESERVATION, Mfn(0)).then(|| Mfn(w.argument(who, 0x100)))
}

/// The teardown looks at a frame of its domain's whose last reference another domain drops at that moment, and which is that domain's
/// own in the next. The moment that matters is short.
#[test]
fn on_a_last_reference_and_its_owners_end() {
    meet_some(GIVEN_UP, 2500, |one, other| (one, other) == ("destroy", "drop the last references"));
}
