//! The naive model: what the frame table must say, counted by looking at everything there is.

use super::Guest;
use crate::ids::Mfn;
use crate::mem::MAX_ORDER;
use crate::mock::MockPlatform;
use crate::page::{Count, PageType, Type, pte};
use crate::platform::Platform;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

/// What is counted for one frame.
#[derive(Clone, Default, Debug)]
struct Counted {
    /// Uses by type.
    typed: BTreeMap<PageType, u64>,
    /// Uses without a type.
    plain: u64,
}

/// What a scan found.
pub struct Scan {
    /// Frames that some live table maps writable.
    pub writable: BTreeSet<u64>,
    /// Frames that are tables or descriptor pages, complete or not.
    pub guarded: BTreeSet<u64>,
}

fn level_type(level: u8) -> PageType {
    [PageType::L1, PageType::L2, PageType::L3, PageType::L4][level as usize - 1]
}

/// Counts all references of all frames and compares them with the frame table. `pins` are the frames that the guest
/// believes to have pinned.
pub fn check(guest: &Guest, pins: &BTreeSet<u64>) -> Scan {
    let platform = &guest.hv.platform;
    let frames = platform.frame_table().len();
    let mut counted = vec![Counted::default(); frames];
    let mut scan = Scan { writable: BTreeSet::new(), guarded: BTreeSet::new() };
    for mfn in 0..frames {
        count_table(platform, mfn, &mut counted, &mut scan);
    }
    for vcpu in &guest.domain.vcpus {
        for root in [&vcpu.pv.guest_table, &vcpu.pv.guest_table_user] {
            root.get().iter().for_each(|root| add(&mut counted, root.0, PageType::L4));
        }
        vcpu.pv.gdt_frames.iter().for_each(|f| add(&mut counted, f.load(Relaxed), PageType::SegDesc));
        guest
            .hv
            .ldt_frames(&guest.domain, vcpu)
            .iter()
            .for_each(|f| add(&mut counted, f.0, PageType::SegDesc));
    }
    let mut owned = 0;
    for (mfn, counted) in counted.iter().enumerate() {
        let info = &platform.frame_table()[mfn];
        let (count, word) = (info.count(), info.type_word());
        assert_eq!(
            pins.contains(&(mfn as u64)),
            word.is_pinned() && !word.is_busy(),
            "pin of {mfn:#x}: {info:?}"
        );
        compare(mfn, counted, count, word);
        owned += u64::from(count.owner() == guest.domain.id && count.refs() != 0 && !count.is_xenheap());
        assert!(!word.has(Type::LOCKED), "{mfn:#x} stayed locked");
        // The type word of a free frame holds links.
        let used = count.refs() != 0;
        if used && (word.is_busy() || word.live().is_some_and(|t| t != PageType::Writable)) {
            scan.guarded.insert(mfn as u64);
        }
    }
    assert_eq!(guest.domain.pages.current(), owned, "the reservation");
    let both: Vec<_> = scan.writable.intersection(&scan.guarded).collect();
    assert!(both.is_empty(), "writable and a table at once: {both:x?}");
    check_free(guest, &counted);
    scan
}

/// Counts what one table holds.
fn count_table(platform: &MockPlatform, mfn: usize, counted: &mut [Counted], scan: &mut Scan) {
    let word = platform.frame_table()[mfn].type_word();
    if word.is_pinned() && !word.is_busy() {
        add(counted, mfn as u64, word.page_type());
    }
    let Some(level) = word.page_type().level() else { return };
    let entries = match (word.is_busy(), word.count()) {
        (true, _) => word.entries(),
        (false, 0) => 0,
        (false, _) => pte::ENTRIES,
    };
    for (i, slot) in platform.frame_words(Mfn(mfn as u64)).iter().enumerate().take(entries) {
        let entry = slot.load(Relaxed);
        if entry & pte::PRESENT == 0 || pte::is_hypervisor_slot(level, i) {
            continue;
        }
        let named = pte::frame_of(entry).0;
        assert_ne!(entry & pte::USER, 0, "ring 3 must reach what a guest maps");
        if level > 1 {
            assert_eq!(entry & (pte::PSE | pte::CACHE_BITS), 0);
            if named != mfn as u64 {
                let linear =
                    platform.frame_table()[named as usize].type_word().page_type() == level_type(level);
                assert!(!linear || entry & pte::RW == 0, "a writable linear entry");
                add(counted, named, if linear { level_type(level) } else { level_type(level - 1) });
            }
            continue;
        }
        match platform.frame_table().get(named as usize) {
            Some(info) if !info.is_io() => {
                let owner = platform.frame_table()[mfn].count().owner();
                assert_eq!(info.count().owner(), owner, "{mfn:#x} maps somebody else's {named:#x}");
                if entry & pte::RW != 0 {
                    scan.writable.insert(named);
                    add(counted, named, PageType::Writable);
                } else {
                    counted[named as usize].plain += 1;
                }
            }
            _ => {}
        }
    }
}

fn add(counted: &mut [Counted], mfn: u64, t: PageType) {
    if mfn != 0 {
        *counted[mfn as usize].typed.entry(t).or_default() += 1;
    }
}

fn compare(mfn: usize, counted: &Counted, count: Count, word: Type) {
    if count.free_order().is_some() || count.refs() == 0 {
        assert!(counted.typed.is_empty() && counted.plain == 0, "{mfn:#x} is free and in use: {counted:?}");
        return;
    }
    if count.is_xenheap() && !count.is_allocated() {
        assert!(counted.typed.is_empty() && counted.plain == 0, "{mfn:#x} is the hypervisor's: {counted:?}");
        return;
    }
    assert!(counted.typed.len() <= 1, "{mfn:#x} is used as several things: {counted:?}");
    let base = u64::from(count.is_xenheap());
    let typed = counted.typed.values().sum::<u64>() + base;
    let live = if word.is_busy() { 0 } else { word.count() };
    assert_eq!(live, typed, "type references of {mfn:#x}, {:?}: {counted:?}", word.page_type());
    if let Some(t) = counted.typed.keys().next() {
        assert_eq!(word.page_type(), *t, "type of {mfn:#x}");
    }
    let own = u64::from(count.is_allocated());
    let held = u64::from(base == 0 && (typed != 0 || word.is_busy()));
    assert_eq!(
        count.refs(),
        counted.plain + own + held,
        "references of {mfn:#x}: {counted:?}, {:?}",
        word.page_type()
    );
}

/// Free frames are in no table, and none is lost.
fn check_free(guest: &Guest, counted: &[Counted]) {
    let mut free = 0;
    for (mfn, info) in guest.hv.platform.frame_table().iter().enumerate() {
        if let Some(order) = info.count().free_order() {
            assert!(order <= MAX_ORDER);
            free += 1 << order;
            for (n, counted) in counted[mfn..mfn + (1 << order)].iter().enumerate() {
                assert!(
                    counted.typed.is_empty() && counted.plain == 0,
                    "free frame {:#x} is in use",
                    mfn + n
                );
            }
        }
    }
    assert_eq!(guest.hv.frames.free_count(), free);
    let in_use =
        guest.hv.platform.frame_table().iter().filter(|info| info.count().refs() != 0).count() as u64;
    // Frame 0 is never handed out.
    assert_eq!(free + in_use + 1, counted.len() as u64, "a frame was lost");
}
