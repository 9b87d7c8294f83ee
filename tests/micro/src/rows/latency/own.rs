//! What a domain asks for itself that takes long, on 128 pages of its image.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::events;
use guest_pv_lib::events::fifo::Storage;
use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};
use guest_pv_lib::time;
use xen_abi::GuestHandle;
use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::*;

use super::super::need;
use crate::call::{grant, hc2, hc3, mmu, mmuext, op};
use crate::{Env, Missing};

/// log2 of the pages of the large block: 16 MiB.
pub const LARGE: u32 = 12;
/// log2 of the pages of the largest block that there is: 1 GiB.
pub const LARGEST: u32 = 18;
/// log2 of the pages of an exchange: 2 MiB.
const EXCHANGED: u32 = 9;
/// Level-1 tables of the tree.
pub const TABLES: usize = 126;
/// Frames of the guest's part of a GDT, and of the largest LDT.
const GDT_FRAMES: usize = 14;
const LDT_FRAMES: usize = 16;
/// A code segment.
const CODE: u64 = 0x00af_fb00_0000_ffff;
/// All that a grant table may have without asking for more.
const GRANT_FRAMES: u32 = 64;

/// Pages, as atomics: the hypervisor writes to them as well.
#[repr(C, align(4096))]
pub struct Words(pub [AtomicU64; 512]);

/// A table of level 2, those of level 1 below it, and one page that all of them map.
pub static PAGES: [Words; TABLES + 2] = [const { Words([const { AtomicU64::new(0) }; 512]) }; TABLES + 2];
static PORTS: Storage<1> = Storage::new();

pub fn idle(_: &Env) -> Result<(), Missing> {
    let end = time::now() + 1_000_000;
    while time::now() < end {
        core::hint::spin_loop();
    }
    Ok(())
}

pub fn address(page: usize) -> u64 {
    &raw const PAGES[page] as u64
}

pub fn frame(env: &Env, page: usize) -> Mfn {
    env.frame_of(address(page))
}

/// The first store to each page is not what is counted.
pub fn touch() {
    PAGES.iter().for_each(|page| page.0[0].store(0, Relaxed));
}

/// Maps something at the place of a page.
pub fn show(page: usize, entry: Pte) -> Result<(), Missing> {
    // SAFETY: the pages are atomics that only the rows touch, and they know what is mapped.
    need("map", unsafe { update_va_mapping(address(page), entry, Flush::Local) })
}

pub fn remap(env: &Env, page: usize, entry: fn(Mfn) -> Pte) -> Result<(), Missing> {
    show(page, entry(frame(env, page)))
}

/// A table of level 2 that names as many of level 1 as there are, all of whose entries map one page.
pub fn pin_tables(env: &Env) -> Result<(), Missing> {
    let data = Pte::data(frame(env, TABLES + 1)).0;
    for (table, page) in PAGES.iter().enumerate().skip(1).take(TABLES) {
        page.0.iter().for_each(|word| word.store(data, Relaxed));
        PAGES[0].0[table].store(Pte::data(frame(env, table)).0, Relaxed);
    }
    (0..=TABLES).try_for_each(|page| remap(env, page, Pte::read_only))?;
    need("pin", mmuext(MMUEXT_PIN_L2_TABLE, frame(env, 0).0)).map(drop)
}

/// Batches of changes of one table.
pub fn update_tables(env: &Env) -> Result<(), Missing> {
    let (table, data) = (frame(env, 1).address(), Pte::data(frame(env, TABLES + 1)).0);
    let requests: [MmuUpdate; 256] = core::array::from_fn(|n| MmuUpdate {
        ptr: table + 8 * (n as u64 / 2),
        val: if n % 2 == 0 { 0 } else { data },
    });
    (0..20).try_for_each(|_| need("mmu_update", mmu(&requests)).map(drop))
}

pub fn unpin_tables(env: &Env) -> Result<(), Missing> {
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, frame(env, 0).0))?;
    (0..=TABLES).try_for_each(|page| remap(env, page, Pte::data))
}

/// Descriptor pages that were none before, full of segments.
pub fn set_gdt(env: &Env) -> Result<(), Missing> {
    let frames: [u64; GDT_FRAMES] = core::array::from_fn(|page| frame(env, page).0);
    for (page, words) in PAGES.iter().enumerate().take(LDT_FRAMES) {
        words.0.iter().for_each(|word| word.store(CODE, Relaxed));
        remap(env, page, Pte::read_only)?;
    }
    need("set_gdt", hc2(nr::SET_GDT, frames.as_ptr() as u64, 512 * GDT_FRAMES as u64))?;
    need("set_gdt", hc2(nr::SET_GDT, 0, 0)).map(drop)
}

pub fn set_ldt(env: &Env) -> Result<(), Missing> {
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
pub static EXTENT: AtomicU64 = AtomicU64::new(0);

pub fn reservation(list: u64, extents: u64, order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: GuestHandle::from(list),
        nr_extents: extents,
        extent_order: order,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

pub fn populate(order: u32) -> Result<(), Missing> {
    // Beyond all pages that the domain has.
    EXTENT.store(1 << 24, Relaxed);
    let mut arg = reservation(EXTENT.as_ptr() as u64, 1, order);
    match op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg) {
        Ok(1) => Ok(()),
        _ => Err("populate_physmap"),
    }
}

pub fn decrease(order: u32) -> Result<(), Missing> {
    let mut arg = reservation(EXTENT.as_ptr() as u64, 1, order);
    match op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut arg) {
        Ok(1) => Ok(()),
        _ => Err("decrease_reservation"),
    }
}

/// Single frames for a block.
pub fn exchange(_: &Env) -> Result<(), Missing> {
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

pub fn grow_grant_table(_: &Env) -> Result<(), Missing> {
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

pub fn change_grant_version(_: &Env) -> Result<(), Missing> {
    for version in [2, 1] {
        need("set_version", grant(GNTTABOP_SET_VERSION, &mut GnttabSetVersion { version }))?;
    }
    Ok(())
}

/// Words for as many ports as there can be, all of them linked: none can be bound.
pub fn expand_fifo(env: &Env) -> Result<(), Missing> {
    const LINKED: u64 = 1 << 29 | 1 << 61;
    for (page, words) in PAGES.iter().enumerate().take(PAGES.len() - 1) {
        words.0.iter().for_each(|word| word.store(LINKED, Relaxed));
        let mut expand = EvtchnExpandArray { array_gfn: frame(env, page).0 };
        need("expand_array", op(nr::EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY, &mut expand))?;
    }
    Ok(())
}

/// First the ports of the page that the library has, then a search that finds none.
pub fn search_ports(_: &Env) -> Result<(), Missing> {
    for _ in 0..1 << 10 {
        let mut bind = EvtchnBindIpi::default();
        if op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind).is_err() {
            return Ok(());
        }
    }
    Err("a linked port was bound")
}

/// Changes to the FIFO ABI.
pub fn use_fifo(env: &Env) -> Result<(), Missing> {
    need("use_fifo", events::fifo::use_fifo(&env.boot, &PORTS))
}

/// Ports for a port of another domain that is none, and for one of that domain which is another's.
pub fn bind_to_nonsense(_: &Env) -> Result<(), Missing> {
    for (remote_dom, remote_port) in
        [(1, 0), (1, 1), (1, 1 << 16), (1, u32::MAX), (DOMID_SELF, 1), (0, 1 << 17)]
    {
        let mut bind = EvtchnBindInterdomain { remote_dom, remote_port, ..EvtchnBindInterdomain::default() };
        if op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_INTERDOMAIN, &mut bind).is_ok() {
            return Err("a port was bound to nonsense");
        }
    }
    Ok(())
}

/// Deadlines that overflow what a clock computes of them.
pub fn far_deadlines(_: &Env) -> Result<(), Missing> {
    const MOST: u64 = u64::MAX;
    for deadline in
        [MOST / 3, MOST / 3 + 1, MOST / 2, MOST / 2 + 1, MOST / 4, MOST - 1, MOST, 1 << 63, 1 << 62]
    {
        for off in 0..64 {
            let _ = time::set_timer(deadline - off * 1_000_000_007);
            let _ = time::set_oneshot(deadline - off);
            let _ = time::set_periodic(deadline - off);
        }
        let _ = time::set_timer(deadline);
        // A storm of a timer that is always due would be seen here.
        let end = time::now() + 100_000;
        while time::now() < end {
            core::hint::spin_loop();
        }
    }
    need("stop_periodic", time::stop_periodic())
}

/// Text by hypercall, more than the line takes at once.
pub fn write_console(_: &Env) -> Result<(), Missing> {
    static TEXT: [u8; 4096] = [b'.'; 4096];
    let write = || hc3(nr::CONSOLE_IO, CONSOLEIO_WRITE.into(), TEXT.len() as u64, TEXT.as_ptr() as u64);
    (0..2).try_for_each(|_| need("console_io", write()).map(drop))
}
