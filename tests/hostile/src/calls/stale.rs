//! Games with translations: an entry is cleared or exchanged without a flush, and a vCPU that still has the old translation goes
//! on using it, while the frame becomes something else.
//!
//! The hypervisor promises that no frame changes its use (given back, made a table, made a descriptor page, transferred) while
//! any CPU still has a writable translation of it. Three findings show a broken promise without another's help, because they
//! are about this domain's own frames:
//!
//! - a word that was stored through an old address appears in a pinned table or descriptor page;
//! - a frame that was populated holds the victim's pattern;
//! - a load of an address that is the hypervisor's own succeeds.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::arch_x86::HYPERVISOR_VIRT_START;
use xen_abi::xen::{MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE};

use super::argument::Cx;
use super::edge::{peek, poke};
use super::pool::{self, PAGES, map};
use super::tables::{give_back, mmuext, refill, repair, set_entry};
use super::{Finding, found};
use crate::victim;

/// What is stored through old addresses, but for the last twelve bits: as an entry it is present and names a frame that does not
/// exist, so that no update and no emulated store puts it into a table.
const MARK: u64 = 0x5a5f_ffff_ffff_f000;
/// The address that other vCPUs are to keep in their TLBs; 0: none.
static TOUCHED: AtomicU64 = AtomicU64::new(0);

/// Uses the address that another vCPU is about to take away: a load, a store, both again and again.
pub fn touch(cx: &mut Cx) {
    let at = TOUCHED.load(Acquire);
    if at == 0 {
        return;
    }
    let mark = MARK | cx.random.any() & 0xf80 | 1;
    for _ in 0..=cx.below(300) {
        poke(at, mark);
        peek(at + 8);
    }
}

/// Lets others touch a page, takes its translation away without a flush, and makes a table of its frame.
pub fn retype(cx: &mut Cx) {
    let page = PAGES + 2 * cx.vcpu;
    repair(cx, page);
    let (at, frame) = (pool::address(page), pool::frame(page));
    if frame == 0 {
        return;
    }
    for slot in 0..512 {
        poke(at + 8 * slot, 0);
    }
    TOUCHED.store(at, Release);
    poke(at, 0);
    wait(cx);
    // No flush is asked for: that is the hypervisor's affair now.
    let read_only = frame << 12 | Pte::PRESENT;
    let gone = if cx.rarely(2) {
        map(page, read_only, 0)
    } else {
        set_entry(super::pool::place().entries[page], read_only)
    };
    if !gone {
        return TOUCHED.store(0, Release);
    }
    let is_pinned = mmuext(MMUEXT_PIN_L1_TABLE, frame, 0);
    if is_pinned {
        wait(cx);
        let word = peek(at);
        if word & !0xfff == MARK {
            found(Finding::StaleStore, frame, word);
        }
        mmuext(MMUEXT_UNPIN_TABLE, frame, 0);
    }
    TOUCHED.store(0, Release);
    map(page, Pte::data(Mfn(frame)).0, 2);
}

/// Lets others touch a page whose frame is given back meanwhile.
pub fn give(cx: &mut Cx) {
    let page = PAGES + 2 * cx.vcpu + 1;
    repair(cx, page);
    if pool::frame(page) == 0 {
        return;
    }
    TOUCHED.store(pool::address(page), Release);
    wait(cx);
    let given = give_back(cx, page);
    if given && cx.rarely(2) {
        wait(cx);
    }
    if given {
        refill(cx, page);
    }
    TOUCHED.store(0, Release);
}

fn wait(cx: &mut Cx) {
    for _ in 0..cx.below(400) {
        core::hint::spin_loop();
    }
}

/// Judges a frame that was just given to this domain. Only this vCPU knows of it; an address that others touch is left out.
pub fn look_at_new(cx: &mut Cx, page: usize, frame: u64) {
    let at = pool::address(page);
    if TOUCHED.load(Relaxed) == at {
        return;
    }
    let slot = 8 * cx.below(512) as u64;
    let word = peek(at + slot);
    if victim::is_pattern(word) {
        found(Finding::Secret, frame, word);
    }
}

/// Loads what no domain may.
pub fn probe(cx: &mut Cx) {
    let slot = match cx.below(6) {
        0 => 256,
        1 => cx.below(16) + 256,
        2 => 261,
        3 => 271,
        _ => 257 + cx.below(14),
    };
    let mut inside = cx.random.any() & 0x7f_ffff_fff8;
    if cx.rarely(2) {
        // Near the beginning of something.
        inside &= 0x7f_c01f_fff8;
    }
    // The first half of the first slot shows the M2P, which everybody may read.
    if slot == 256 && inside < 0x40_0000_0000 {
        inside += 0x40_0000_0000;
    }
    let at = HYPERVISOR_VIRT_START + ((slot as u64 - 256) << 39) + inside;
    let word = peek(at);
    found(Finding::HypervisorRead, at, word);
}
