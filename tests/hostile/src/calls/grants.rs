//! Grants to and from the neighbour: entries of the own table, and every `grant_table_op`.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::DOMID_SELF;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::argument::Cx;
use super::edge::{call, is_error, poke};
use super::memory::entry_address;
use super::ops::Call;
use super::pool::{self, WINDOW};

/// Structures of one call, at most.
const MOST: usize = 4;
/// Handles that the hypervisor gave out last.
static HANDLES: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// A handle of a mapping.
fn handle(cx: &mut Cx) -> u32 {
    match cx.below(8) {
        0 => cx.number() as u32,
        1 => cx.below(64) as u32,
        _ => HANDLES[cx.below(64)].load(Relaxed) as u32,
    }
}

/// An array of structures, of which a call does some.
fn many<T: IntoBytes + Immutable + FromZeros + Copy>(
    cx: &mut Cx,
    command: u32,
    make: impl Fn(&mut Cx) -> T,
) -> Call {
    let mut all: [T; MOST] = FromZeros::new_zeroed();
    for slot in &mut all {
        *slot = make(cx);
    }
    let count = cx.count();
    let at = cx.put_some(&all, count);
    Call::new(nr::GRANT_TABLE_OP, &[u64::from(command), at, count])
}

/// Where a grant is mapped: at an address, or by a page-table entry.
fn host_address(cx: &mut Cx, flags: u32) -> u64 {
    if flags & GNTMAP_CONTAINS_PTE != 0 { entry_address(cx) } else { cx.virt() }
}

fn map(cx: &mut Cx) -> GnttabMapGrantRef {
    let flags = match cx.below(12) {
        0 => cx.number() as u32,
        1 => GNTMAP_DEVICE_MAP,
        2 => GNTMAP_DEVICE_MAP | GNTMAP_HOST_MAP,
        3 | 4 => GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE,
        5 | 6 => GNTMAP_HOST_MAP | GNTMAP_READONLY,
        7 => GNTMAP_HOST_MAP | GNTMAP_READONLY | GNTMAP_CONTAINS_PTE,
        8 => GNTMAP_HOST_MAP | GNTMAP_APPLICATION_MAP,
        _ => GNTMAP_HOST_MAP,
    };
    GnttabMapGrantRef {
        host_addr: host_address(cx, flags),
        flags,
        ref_: cx.gref(),
        dom: cx.peer(),
        ..Default::default()
    }
}

/// Maps grants and keeps the handles.
pub fn map_now(cx: &mut Cx) {
    let count = 1 + cx.below(MOST);
    let mut all = [GnttabMapGrantRef::default(); MOST];
    for slot in &mut all[..count] {
        *slot = map(cx);
    }
    let at = &raw mut all as u64;
    call(nr::GRANT_TABLE_OP, [u64::from(GNTTABOP_MAP_GRANT_REF), at, count as u64, 0, 0, 0]);
    for slot in all[..count].iter().filter(|slot| slot.status == 0) {
        HANDLES[cx.below(64)].store(u64::from(slot.handle), Relaxed);
    }
}

/// Shows the grant table in the window, in the layout of the version that was asked for last.
pub fn show_table(cx: &mut Cx) {
    let mut frames = [0u64; 8];
    let status = cx.rarely(8);
    let first = &raw mut frames as u64;
    let (command, at) = if status {
        let arg = GnttabGetStatusFrames {
            nr_frames: 1,
            dom: DOMID_SELF,
            frame_list: first.into(),
            ..Default::default()
        };
        (GNTTABOP_GET_STATUS_FRAMES, cx.store(arg.as_bytes()))
    } else {
        let arg = GnttabSetupTable {
            dom: DOMID_SELF,
            nr_frames: 1 + cx.below(3) as u32,
            frame_list: first.into(),
            ..Default::default()
        };
        (GNTTABOP_SETUP_TABLE, cx.store(arg.as_bytes()))
    };
    let result = call(nr::GRANT_TABLE_OP, [u64::from(command), at, 1, 0, 0, 0]);
    if !is_error(result) && frames[0] != 0 {
        pool::map(WINDOW, frames[0] << 12 | 0x8000_0000_0000_0063, 2);
    }
}

/// Writes entries of the own grant table, of either version.
pub fn write_entries(cx: &mut Cx) {
    let is_second = cx.rarely(3);
    for _ in 0..8 {
        let flags = match cx.below(16) {
            0 => cx.random.any() as u16,
            1 => 0,
            2 => GTF_ACCEPT_TRANSFER,
            3 if is_second => GTF_TRANSITIVE,
            4 if is_second => GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
            5 | 6 => GTF_PERMIT_ACCESS | GTF_READONLY,
            7 => GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING,
            _ => GTF_PERMIT_ACCESS,
        };
        let (domid, frame, gref) = (cx.peer(), cx.frame(), cx.gref() & 255);
        let header = u64::from(flags) | u64::from(domid) << 16;
        let at = pool::address(WINDOW);
        if is_second {
            let at = at + 16 * u64::from(gref);
            if flags & 3 == GTF_TRANSITIVE {
                poke(at + 8, u64::from(cx.gref()));
                poke(at, header | u64::from(cx.peer()) << 32);
            } else {
                poke(at + 8, frame);
                poke(at, header | cx.offset() << 32 | (cx.below(5000) as u64) << 48);
            }
        } else {
            poke(at + 8 * u64::from(gref), header | frame << 32);
        }
    }
}

fn copy_end(cx: &mut Cx, by_reference: bool) -> GnttabCopyPtr {
    let offset = if cx.rarely(3) { cx.offset() as u16 } else { 0 };
    if by_reference {
        return GnttabCopyPtr { u: u64::from(cx.gref()), domid: cx.peer(), offset, ..Default::default() };
    }
    let domid = if cx.rarely(6) { cx.domid() } else { DOMID_SELF };
    GnttabCopyPtr { u: cx.gfn(), domid, offset, ..Default::default() }
}

fn copy(cx: &mut Cx) -> GnttabCopy {
    let flags = if cx.rarely(16) { cx.number() as u16 } else { cx.below(4) as u16 };
    GnttabCopy {
        source: copy_end(cx, flags & 1 != 0),
        dest: copy_end(cx, flags & 2 != 0),
        len: if cx.rarely(3) { cx.below(4200) as u16 } else { 64 },
        flags,
        ..Default::default()
    }
}

/// Any of them.
pub fn any(cx: &mut Cx) -> Call {
    match cx.below(40) {
        0..8 => many(cx, GNTTABOP_MAP_GRANT_REF, map),
        8..15 => many(cx, GNTTABOP_UNMAP_GRANT_REF, |cx| GnttabUnmapGrantRef {
            host_addr: if cx.rarely(4) { entry_address(cx) } else { cx.virt() },
            dev_bus_addr: if cx.rarely(4) { cx.frame() << 12 } else { 0 },
            handle: handle(cx),
            ..Default::default()
        }),
        15..18 => many(cx, GNTTABOP_UNMAP_AND_REPLACE, |cx| GnttabUnmapAndReplace {
            host_addr: cx.virt(),
            new_addr: cx.virt(),
            handle: handle(cx),
            ..Default::default()
        }),
        18..28 => many(cx, GNTTABOP_COPY, copy),
        28 => many(cx, GNTTABOP_TRANSFER, |cx| GnttabTransfer {
            mfn: cx.frame(),
            domid: cx.peer(),
            ref_: cx.gref(),
            ..Default::default()
        }),
        29 => many(cx, GNTTABOP_SET_VERSION, |cx| GnttabSetVersion { version: cx.pick(&[1, 1, 2, 2, 0, 3]) }),
        30 => many(cx, GNTTABOP_GET_VERSION, |cx| GnttabGetVersion { dom: cx.domid(), ..Default::default() }),
        31 => many(cx, GNTTABOP_QUERY_SIZE, |cx| GnttabQuerySize { dom: cx.domid(), ..Default::default() }),
        32 | 33 => many(cx, GNTTABOP_SETUP_TABLE, |cx| GnttabSetupTable {
            dom: cx.domid(),
            nr_frames: cx.count() as u32,
            frame_list: cx.address().into(),
            ..Default::default()
        }),
        34 => many(cx, GNTTABOP_GET_STATUS_FRAMES, |cx| GnttabGetStatusFrames {
            nr_frames: cx.count() as u32,
            dom: cx.domid(),
            frame_list: cx.address().into(),
            ..Default::default()
        }),
        35 | 36 => many(cx, GNTTABOP_SWAP_GRANT_REF, |cx| GnttabSwapGrantRef {
            ref_a: cx.gref(),
            ref_b: cx.gref(),
            ..Default::default()
        }),
        37 => many(cx, GNTTABOP_CACHE_FLUSH, |cx| GnttabCacheFlush {
            a: if cx.rarely(2) { cx.frame() << 12 } else { u64::from(cx.gref()) },
            offset: cx.offset() as u16,
            length: cx.below(4097) as u16,
            op: cx.pick(&[1, 2, 3, 1 | 1 << 31, 2 | 1 << 31, 0, 4]),
        }),
        _ => {
            let command = u64::from(cx.below(14) as u32) | if cx.rarely(8) { cx.number() } else { 0 };
            Call::new(nr::GRANT_TABLE_OP, &[command, cx.far(), cx.count()])
        }
    }
}
