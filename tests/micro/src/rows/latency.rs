//! How long work that is raised for a CPU waits for the hypervisor to look at it, while the guest asks for what takes long.
//!
//! A timer expires every few thousand ticks. The hypervisor finds that out when it looks at the work that waits for its CPU; then
//! the hypercall under way is made again later and the kernel gets its event. What passes from a deadline to its event is how long
//! the hypervisor did not look, and the way to the handler, which the row `idle` tells.
//!
//! A row is one line, `latency KEY: TICKS`, the longest of all deadlines while it ran.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::events::fifo::Storage;
use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};
use guest_pv_lib::{println, time};
use xen_abi::GuestHandle;
use xen_abi::event_channel::{EVTCHNOP_BIND_IPI, EVTCHNOP_EXPAND_ARRAY, EvtchnBindIpi, EvtchnExpandArray};
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::*;

use super::need;
use crate::call::{grant, hc2, mmu, mmuext, op};
use crate::{Env, Missing};

/// Ticks from one event to the next deadline.
const AHEAD: u64 = 3_000;
/// log2 of the pages of the large block: 16 MiB.
const LARGE: u32 = 12;
/// log2 of the pages of an exchange: 2 MiB.
const EXCHANGED: u32 = 9;
/// Level-1 tables of the tree.
const TABLES: usize = 126;
/// Frames of the guest's part of a GDT, and of the largest LDT.
const GDT_FRAMES: usize = 14;
const LDT_FRAMES: usize = 16;
/// A code segment.
const CODE: u64 = 0x00af_fb00_0000_ffff;
/// All that a grant table may have without asking for more.
const GRANT_FRAMES: u32 = 64;

/// Pages, as atomics: the hypervisor writes to them as well.
#[repr(C, align(4096))]
struct Words([AtomicU64; 512]);

/// A table of level 2, those of level 1 below it, and one page that all of them map.
static PAGES: [Words; TABLES + 2] = [const { Words([const { AtomicU64::new(0) }; 512]) }; TABLES + 2];
static PORTS: Storage<1> = Storage::new();

static DEADLINE: AtomicU64 = AtomicU64::new(0);
static LONGEST: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);

type Work = fn(&Env) -> Result<(), Missing>;

/// In this order: some leave for the next what it needs.
const ROWS: &[(&str, Work)] = &[
    ("idle", idle),
    ("pin_tables", pin_tables),
    ("update_tables", update_tables),
    ("unpin_tables", unpin_tables),
    ("set_gdt", set_gdt),
    ("set_ldt", set_ldt),
    ("populate_16m", |_| populate(LARGE)),
    ("decrease_16m", |_| decrease(LARGE)),
    ("exchange_2m", exchange),
    ("grant_table_grow", grow_grant_table),
    ("grant_table_version", change_grant_version),
    ("fifo_init", |env| need("use_fifo", events::fifo::use_fifo(&env.boot, &PORTS))),
    ("fifo_expand", expand_fifo),
    ("port_search", search_ports),
];

/// Counts all rows.
pub fn all(env: &Env) {
    for page in &PAGES {
        // The first store to each page is not what is counted.
        page.0[0].store(0, Relaxed);
    }
    let port = match events::bind_virq(Virq::TIMER) {
        Ok(port) => port,
        Err(error) => return println!("bind_virq: {error:?}"),
    };
    events::set_handler(port, tick);
    events::unmask(port);
    events::unmask_upcalls();
    for (key, work) in ROWS {
        match longest(env, *work) {
            Ok(ticks) => println!("latency {key}: {ticks}"),
            Err(reason) => println!("latency {key}: missing, {reason}"),
        }
    }
}

/// The longest that a deadline waited while `work` ran.
fn longest(env: &Env, work: Work) -> Result<u64, Missing> {
    LONGEST.store(0, Relaxed);
    arm();
    let done = work(env);
    // The deadline that passed in it, if one did at its end.
    let before = EVENTS.load(Relaxed);
    while EVENTS.load(Relaxed) < before + 2 {
        core::hint::spin_loop();
    }
    need("stop", time::stop_oneshot())?;
    done.map(|()| LONGEST.load(Relaxed))
}

fn arm() {
    let deadline = time::now() + AHEAD;
    DEADLINE.store(deadline, Relaxed);
    // A deadline that passed meanwhile fires at once.
    let _ = time::set_timer(deadline);
}

fn tick(_: Port) {
    LONGEST.fetch_max(time::now().saturating_sub(DEADLINE.load(Relaxed)), Relaxed);
    EVENTS.fetch_add(1, Relaxed);
    arm();
}

fn idle(_: &Env) -> Result<(), Missing> {
    let end = time::now() + 1_000_000;
    while time::now() < end {
        core::hint::spin_loop();
    }
    Ok(())
}

fn address(page: usize) -> u64 {
    &raw const PAGES[page] as u64
}

fn frame(env: &Env, page: usize) -> Mfn {
    env.frame_of(address(page))
}

fn remap(env: &Env, page: usize, entry: fn(Mfn) -> Pte) -> Result<(), Missing> {
    // SAFETY: the pages are atomics that only this file touches, and it knows what is mapped.
    need("map", unsafe { update_va_mapping(address(page), entry(frame(env, page)), Flush::Local) })
}

/// A table of level 2 that names as many of level 1 as there are, all of whose entries map one page.
fn pin_tables(env: &Env) -> Result<(), Missing> {
    let data = Pte::data(frame(env, TABLES + 1)).0;
    for (table, page) in PAGES.iter().enumerate().skip(1).take(TABLES) {
        page.0.iter().for_each(|word| word.store(data, Relaxed));
        PAGES[0].0[table].store(Pte::data(frame(env, table)).0, Relaxed);
    }
    (0..=TABLES).try_for_each(|page| remap(env, page, Pte::read_only))?;
    need("pin", mmuext(MMUEXT_PIN_L2_TABLE, frame(env, 0).0)).map(drop)
}

/// Batches of changes of one table.
fn update_tables(env: &Env) -> Result<(), Missing> {
    let (table, data) = (frame(env, 1).address(), Pte::data(frame(env, TABLES + 1)).0);
    let requests: [MmuUpdate; 256] = core::array::from_fn(|n| MmuUpdate {
        ptr: table + 8 * (n as u64 / 2),
        val: if n % 2 == 0 { 0 } else { data },
    });
    (0..20).try_for_each(|_| need("mmu_update", mmu(&requests)).map(drop))
}

fn unpin_tables(env: &Env) -> Result<(), Missing> {
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, frame(env, 0).0))?;
    (0..=TABLES).try_for_each(|page| remap(env, page, Pte::data))
}

/// Descriptor pages that were none before, full of segments.
fn set_gdt(env: &Env) -> Result<(), Missing> {
    let frames: [u64; GDT_FRAMES] = core::array::from_fn(|page| frame(env, page).0);
    for (page, words) in PAGES.iter().enumerate().take(LDT_FRAMES) {
        words.0.iter().for_each(|word| word.store(CODE, Relaxed));
        remap(env, page, Pte::read_only)?;
    }
    need("set_gdt", hc2(nr::SET_GDT, frames.as_ptr() as u64, 512 * GDT_FRAMES as u64))?;
    need("set_gdt", hc2(nr::SET_GDT, 0, 0)).map(drop)
}

fn set_ldt(env: &Env) -> Result<(), Missing> {
    let set = |base, entries| {
        let request = MmuextOp { cmd: MMUEXT_SET_LDT, arg1: base, arg2: entries, ..MmuextOp::default() };
        let at = &raw const request as u64;
        need("set_ldt", crate::call::hc4(nr::MMUEXT_OP, at, 1, 0, u64::from(DOMID_SELF)))
    };
    set(address(0), 512 * LDT_FRAMES as u64)?;
    set(0, 0)?;
    (0..LDT_FRAMES).try_for_each(|page| remap(env, page, Pte::data))
}

/// The extent that [`populate`] got.
static EXTENT: AtomicU64 = AtomicU64::new(0);

fn reservation(list: u64, extents: u64, order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: GuestHandle::from(list),
        nr_extents: extents,
        extent_order: order,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

fn populate(order: u32) -> Result<(), Missing> {
    // Beyond all pages that the domain has.
    EXTENT.store(1 << 24, Relaxed);
    let mut arg = reservation(EXTENT.as_ptr() as u64, 1, order);
    match op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg) {
        Ok(1) => Ok(()),
        _ => Err("populate_physmap"),
    }
}

fn decrease(order: u32) -> Result<(), Missing> {
    let mut arg = reservation(EXTENT.as_ptr() as u64, 1, order);
    match op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut arg) {
        Ok(1) => Ok(()),
        _ => Err("decrease_reservation"),
    }
}

/// Single frames for a block.
fn exchange(_: &Env) -> Result<(), Missing> {
    populate(EXCHANGED)?;
    let first = EXTENT.load(Relaxed);
    let list = &PAGES[0].0;
    list.iter().zip(first..).for_each(|(word, mfn)| word.store(mfn, Relaxed));
    EXTENT.store(1 << 24, Relaxed);
    let mut arg = XenMemoryExchange {
        in_: reservation(list.as_ptr() as u64, 1 << EXCHANGED, 0),
        out: reservation(EXTENT.as_ptr() as u64, 1, EXCHANGED),
        ..XenMemoryExchange::default()
    };
    need("exchange", op(nr::MEMORY_OP, XENMEM_EXCHANGE, &mut arg))?;
    decrease(EXCHANGED)
}

fn grow_grant_table(_: &Env) -> Result<(), Missing> {
    let mut frames = [0u64; GRANT_FRAMES as usize];
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: GRANT_FRAMES,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    };
    need("setup_table", grant(GNTTABOP_SETUP_TABLE, &mut setup))?;
    if setup.status == GNTST_OKAY { Ok(()) } else { Err("setup_table") }
}

fn change_grant_version(_: &Env) -> Result<(), Missing> {
    for version in [2, 1] {
        need("set_version", grant(GNTTABOP_SET_VERSION, &mut GnttabSetVersion { version }))?;
    }
    Ok(())
}

/// Words for as many ports as there can be, all of them linked: none can be bound.
fn expand_fifo(env: &Env) -> Result<(), Missing> {
    const LINKED: u64 = 1 << 29 | 1 << 61;
    for (page, words) in PAGES.iter().enumerate().take(PAGES.len() - 1) {
        words.0.iter().for_each(|word| word.store(LINKED, Relaxed));
        let mut expand = EvtchnExpandArray { array_gfn: frame(env, page).0 };
        need("expand_array", op(nr::EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY, &mut expand))?;
    }
    Ok(())
}

/// First the ports of the page that the library has, then a search that finds none.
fn search_ports(_: &Env) -> Result<(), Missing> {
    for _ in 0..1 << 10 {
        let mut bind = EvtchnBindIpi::default();
        if op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind).is_err() {
            return Ok(());
        }
    }
    Err("a linked port was bound")
}
