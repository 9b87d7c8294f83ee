//! Tables of 40 MiB that are given up, while other hypercalls want frames of them.
//!
//! The kernel unpins them. While it does, a timer expires; its handler asks for frames that are tables on the way to be none: for a
//! descriptor in one, for a grant's copy from and mapping of one. Each waits for what is above the frame, or is refused.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};
use guest_pv_lib::time;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, MMUEXT_PIN_L3_TABLE, MMUEXT_UNPIN_TABLE};

use super::super::need;
use super::own::{self, EXTENT, PAGES};
use crate::call::{grant, hc2, mmuext};
use crate::{Env, Missing};

/// Tables of level 2, each over 512 tables of level 1: 40 MiB.
const UPPER: u64 = 20;
/// Tables of a level-2 table, and entries of each: log2.
const ORDER: u32 = 9;
/// The page of the image through which they are written.
const WINDOW: usize = 0;
/// Pages that their entries map.
const TARGETS: usize = 64;
/// Ticks after which other hypercalls want the frames.
const SOON: u64 = 20_000;

static ROOT: AtomicU64 = AtomicU64::new(0);
/// The tables are being given up: ask for one, of level 2.
static WANTED: AtomicU64 = AtomicU64::new(0);
static MET: AtomicBool = AtomicBool::new(false);

/// First frame of a block of 512.
fn block() -> Result<Mfn, Missing> {
    own::populate(ORDER)?;
    Ok(Mfn(EXTENT.load(Relaxed)))
}

fn map(entry: Pte) -> Result<(), Missing> {
    // SAFETY: the page is one of atomics that only the rows touch.
    need("map", unsafe { update_va_mapping(own::address(WINDOW), entry, Flush::Local) })
}

/// Writes a table of which as many entries are used.
fn write(table: Mfn, entries: u64, entry: impl Fn(u64) -> Pte) -> Result<(), Missing> {
    map(Pte::data(table))?;
    (0..).zip(&PAGES[WINDOW].0).for_each(|(n, word)| {
        word.store(if n < entries { entry(n).0 } else { 0 }, Relaxed);
    });
    Ok(())
}

/// Makes the tables and pins them.
pub fn pin(env: &Env) -> Result<(), Missing> {
    let targets: [Mfn; TARGETS] = core::array::from_fn(|page| own::frame(env, 1 + page));
    let upper = block()?;
    let root = Mfn(upper.0 + UPPER);
    for n in 0..UPPER {
        let tables = block()?;
        for table in 0..1 << ORDER {
            write(Mfn(tables.0 + table), 512, |entry| {
                Pte::data(targets[(entry + table) as usize % TARGETS])
            })?;
        }
        write(Mfn(upper.0 + n), 512, |entry| Pte::data(Mfn(tables.0 + entry)))?;
    }
    write(root, UPPER, |entry| Pte::data(Mfn(upper.0 + entry)))?;
    map(Pte::data(own::frame(env, WINDOW)))?;
    ROOT.store(root.0, Relaxed);
    need("pin", mmuext(MMUEXT_PIN_L3_TABLE, root.0)).map(drop)
}

/// Gives them up, and meets them.
pub fn unpin(_: &Env) -> Result<(), Missing> {
    let root = ROOT.load(Relaxed);
    if root == 0 {
        return Err("the tables are not pinned");
    }
    WANTED.store(root - UPPER / 2, Relaxed);
    need("timer", time::set_timer(time::now() + SOON))?;
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, root))?;
    WANTED.store(0, Relaxed);
    if MET.load(Relaxed) { Ok(()) } else { Err("the descriptor did not meet the tables") }
}

/// In the upcall: asks for a frame of the tables that are given up, in every way that there is.
pub fn meet() {
    let wanted = WANTED.load(Relaxed);
    if wanted == 0 || MET.swap(true, Relaxed) {
        return;
    }
    let source = GnttabCopyPtr { u: wanted, domid: DOMID_SELF, ..GnttabCopyPtr::default() };
    let target = GnttabCopyPtr { u: wanted + 1, domid: DOMID_SELF, ..GnttabCopyPtr::default() };
    let mut copy = GnttabCopy { source, dest: target, len: 8, ..GnttabCopy::default() };
    // Whatever they answer: a table that is busy is refused or waited for.
    let _ = grant(GNTTABOP_COPY, &mut copy);
    let _ = hc2(nr::UPDATE_DESCRIPTOR, wanted << 12, 0);
    let _ = mmuext(xen_abi::xen::MMUEXT_PIN_L1_TABLE, wanted + 2);
    let _ = mmuext(MMUEXT_UNPIN_TABLE, wanted + 2);
}
