//! What can be done to a grant of domain 1's page, to the tables in which grants are, and to the page meanwhile.

use super::frames::{self, answer, memory, status_frame};
use super::world::{RO, RW, Who, World};
use super::{Op, meet, op};
use crate::platform::Platform;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::XENMEM_DECREASE_RESERVATION;
use xen_abi::xen::*;

/// The reference of the grant, and that of domain 2's entry that takes a page.
const REFERENCE: u32 = 9;
const TAKES: u32 = 10;

pub(super) const OPS: &[Op] = &[
    op(1, "grant", |w, who| grant(w, who, GTF_PERMIT_ACCESS)),
    op(1, "grant read-only", |w, who| grant(w, who, GTF_PERMIT_ACCESS | GTF_READONLY)),
    op(1, "revoke", revoke).after(&["grant"]),
    op(2, "map", |w, who| granted(w, who, GNTMAP_HOST_MAP)).after(&["grant"]),
    op(2, "map read-only", |w, who| granted(w, who, GNTMAP_HOST_MAP | GNTMAP_READONLY))
        .after(&["grant read-only"]),
    op(2, "map for a device", |w, who| granted(w, who, GNTMAP_DEVICE_MAP | GNTMAP_HOST_MAP))
        .after(&["grant"]),
    op(2, "unmap", |w, who| ungrant(w, who, 0)).after(&["map"]),
    op(2, "unmap and replace", |w, who| ungrant(w, who, 12)).after(&["map"]),
    op(2, "overwrite the mapping", |w, who| (0..2).all(|slot| w.map(who, slot, 0))).after(&["map"]),
    op(2, "access", frames::access).after(&["map"]),
    op(2, "read", frames::read).after(&["map read-only"]),
    op(1, "own access", frames::access).after(&["own mapping"]),
    op(2, "copy into it", |w, who| copy(w, who, true)).after(&["grant"]),
    op(2, "copy out of it", |w, who| copy(w, who, false)).after(&["grant read-only"]),
    op(1, "version 2", |w, who| version(w, who, 2)),
    op(1, "version 1", |w, who| version(w, who, 1)).after(&["version 2"]),
    op(1, "more frames", |w, who| grow(w, who, 2 + who.cpu as u32)),
    op(1, "map status words", |w, who| {
        status_frame(w).is_some_and(|frame| w.map(who, 2 + who.cpu as u64, frame.addr().0 | RW))
    })
    .after(&["version 2"]),
    op(1, "map status words read-only", |w, who| {
        status_frame(w).is_some_and(|frame| w.map(who, 2 + who.cpu as u64, frame.addr().0 | RO))
    })
    .after(&["version 2"]),
    op(1, "unmap status words", |w, who| (2..4).all(|slot| w.map(who, slot, 0))).after(&["map status words"]),
    op(1, "swap", |w, who| {
        let at = w.put(who, 0, &[GnttabSwapGrantRef { ref_a: REFERENCE, ref_b: 11, ..Default::default() }]);
        w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_SWAP_GRANT_REF.into(), at, 1])
            && answer::<GnttabSwapGrantRef>(w, at).status == GNTST_OKAY
    })
    .after(&["grant"]),
    op(2, "take a page", |w, who| {
        let word = u64::from(GTF_ACCEPT_TRANSFER) | 1 << 16 | 5 << 32;
        w.hv.platform.frame_words(w.grant_tables[2])[TAKES as usize].store(word, SeqCst);
        w.may_run(who)
    }),
    op(1, "transfer", |w, who| {
        let arg = GnttabTransfer { mfn: w.page.0, domid: 2, ref_: TAKES, ..Default::default() };
        let at = w.put(who, 0, &[arg]);
        w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_TRANSFER.into(), at, 1])
            && answer::<GnttabTransfer>(w, at).status == GNTST_OKAY
    })
    .after(&["own mapping", "own access", "own unmapping", "take a page"])
    .after(&["own mapping"]),
    op(2, "flush its cache", |w, who| {
        let arg =
            GnttabCacheFlush { a: w.page.addr().0, length: 64, op: GNTTAB_CACHE_CLEAN, ..Default::default() };
        let at = w.put(who, 0, &[arg]);
        w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_CACHE_FLUSH.into(), at, 1])
    })
    .after(&["map"]),
    op(1, "own mapping", |w, who| w.map(who, who.cpu as u64, w.page.addr().0 | RW)),
    op(1, "own unmapping", |w, who| (0..2).all(|slot| w.map(who, slot, 0))),
    op(1, "pin as L1", |w, who| w.ext(who, MMUEXT_PIN_L1_TABLE, w.page.0, 0)),
    op(1, "pin as L2", |w, who| w.ext(who, MMUEXT_PIN_L2_TABLE, w.page.0, 0)),
    op(1, "unpin", |w, who| w.ext(who, MMUEXT_UNPIN_TABLE, w.page.0, 0)).after(&["pin as L1"]),
    op(1, "give up", |w, who| memory(w, who, XENMEM_DECREASE_RESERVATION, w.page)),
    super::domains::DESTROY,
    super::domains::DESTROY_NEIGHBOUR,
];

/// Domain 1 writes the entry, in the format that its table seems to have.
fn grant(w: &World, who: Who, flags: u16) -> bool {
    let first = u64::from(flags) | 2 << 16;
    let words = w.hv.platform.frame_words(w.grant_tables[1]);
    if status_frame(w).is_some() {
        words[2 * REFERENCE as usize + 1].store(w.page.0, SeqCst);
        words[2 * REFERENCE as usize].store(first, SeqCst);
    } else {
        words[REFERENCE as usize].store(first | w.page.0 << 32, SeqCst);
    }
    w.may_run(who)
}

/// Domain 1 takes the grant back if it sees that it is not in use.
fn revoke(w: &World, who: Who) -> bool {
    let words = w.hv.platform.frame_words(w.grant_tables[1]);
    if status_frame(w).is_some() {
        // Whether it is in use stands in the status words, which may be gone by now.
        words[2 * REFERENCE as usize].store(0, SeqCst);
        return w.may_run(who);
    }
    let word = &words[REFERENCE as usize];
    let old = word.load(SeqCst);
    let unused = old & u64::from(GTF_READING | GTF_WRITING) == 0;
    unused && word.compare_exchange(old, 0, SeqCst, SeqCst).is_ok()
}

/// Domain 2 maps it.
fn granted(w: &World, who: Who, flags: u32) -> bool {
    let arg = GnttabMapGrantRef {
        host_addr: who.cpu as u64 * 4096,
        flags,
        ref_: REFERENCE,
        dom: 1,
        ..Default::default()
    };
    let at = w.put(who, 0, &[arg]);
    if !w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_MAP_GRANT_REF.into(), at, 1]) {
        return false;
    }
    let arg: GnttabMapGrantRef = answer(w, at);
    if arg.status != GNTST_OKAY {
        return false;
    }
    if let Some(slot) = w.handles.iter().find(|slot| slot.load(Relaxed) == 0) {
        slot.store((u64::from(arg.handle) + 1) | (who.cpu as u64) << 32, Relaxed);
    }
    true
}

/// Domain 2 undoes all mappings that it knows of; with `replacement` what is mapped at that slot comes in their place.
fn ungrant(w: &World, who: Who, replacement: u64) -> bool {
    let mut done = false;
    for slot in &w.handles {
        let known = slot.load(Relaxed);
        let (handle, host_addr) = ((known as u32).wrapping_sub(1), (known >> 32) * 4096);
        if known == 0 || !w.may_run(who) {
            continue;
        }
        let (cmd, at) = if replacement == 0 {
            let dev_bus_addr = w.page.addr().0;
            let arg = GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..Default::default() };
            (GNTTABOP_UNMAP_GRANT_REF, w.put(who, 0, &[arg]))
        } else {
            let new_addr = replacement * 4096;
            let arg = GnttabUnmapAndReplace { host_addr, new_addr, handle, ..Default::default() };
            (GNTTABOP_UNMAP_AND_REPLACE, w.put(who, 0, &[arg]))
        };
        if w.did(who, nr::GRANT_TABLE_OP, &[cmd.into(), at, 1]) {
            let status = match cmd {
                GNTTABOP_UNMAP_GRANT_REF => answer::<GnttabUnmapGrantRef>(w, at).status,
                _ => answer::<GnttabUnmapAndReplace>(w, at).status,
            };
            done |= status == GNTST_OKAY;
            slot.store(0, Relaxed);
        }
    }
    done
}

/// Domain 2 copies between a page of its own (its L1 table is none, its grant table is) and the grant.
fn copy(w: &World, who: Who, into: bool) -> bool {
    let grant = GnttabCopyPtr { u: REFERENCE.into(), domid: 1, ..Default::default() };
    let own = GnttabCopyPtr { u: w.tables[2][3].0, domid: DOMID_SELF, ..Default::default() };
    let buffer = GnttabCopyPtr { u: w.buffer.0, domid: DOMID_SELF, ..Default::default() };
    let (source, dest, flags) =
        if into { (own, grant, GNTCOPY_DEST_GREF) } else { (grant, buffer, GNTCOPY_SOURCE_GREF) };
    let arg = GnttabCopy { source, dest, len: 64, flags, ..Default::default() };
    let at = w.put(who, 0, &[arg]);
    w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_COPY.into(), at, 1])
        && answer::<GnttabCopy>(w, at).status == GNTST_OKAY
}

fn version(w: &World, who: Who, version: u32) -> bool {
    let at = w.put(who, 0, &[GnttabSetVersion { version }]);
    if !w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_SET_VERSION.into(), at, 1]) {
        return false;
    }
    let arg = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: DOMID_SELF,
        frame_list: w.put(who, 0x100, &[0u64]).into(),
        ..Default::default()
    };
    let at = w.put(who, 0, &[arg]);
    let asked = w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_GET_STATUS_FRAMES.into(), at, 1]);
    let there = asked && answer::<GnttabGetStatusFrames>(w, at).status == GNTST_OKAY;
    w.status.store(if there { answer(w, at + 0x100) } else { 0 }, Relaxed);
    true
}

fn grow(w: &World, who: Who, frames: u32) -> bool {
    let arg = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: frames,
        frame_list: w.put(who, 0x100, &[0u64; 8]).into(),
        ..Default::default()
    };
    let at = w.put(who, 0, &[arg]);
    w.did(who, nr::GRANT_TABLE_OP, &[GNTTABOP_SETUP_TABLE.into(), at, 1])
        && answer::<GnttabSetupTable>(w, at).status == GNTST_OKAY
}

#[test]
fn on_a_grant() {
    meet(OPS);
}
