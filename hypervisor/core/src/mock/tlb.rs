//! The TLB of a CPU of the mock machine.
//!
//! It remembers as much as a processor may and as long as it may (SDM Vol. 3, 4.10; APM Vol. 2, 5.5): translations of pages, and the
//! entries of upper tables that led to them. Nothing is ever evicted, and what is remembered is preferred to what the tables say
//! now: so a flush that is missing shows.

use crate::ids::Mfn;
use crate::page::pte;
use crate::platform::FrameWords;
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Where an entry, or several on the way to a page, lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    frame: u64,
    writable: bool,
    /// Its memory type is write-back.
    cached: bool,
}

/// What a CPU can reach by what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The page's address.
    pub va: u64,
    /// Its frame.
    pub frame: Mfn,
    /// Whether it can be written.
    pub writable: bool,
}

/// What one CPU remembers.
#[derive(Debug, Default)]
pub(super) struct Tlb {
    /// Frame of the L4 table that is loaded, 0 for none.
    root: u64,
    /// By page number.
    pages: BTreeMap<u64, Cached>,
    /// By the level of a table and the part of the address that leads to it: the table, and whether all entries on the way allow
    /// writes.
    tables: BTreeMap<(u8, u64), Cached>,
}

impl Tlb {
    /// Loads an L4 table and forgets everything.
    pub(super) fn load(&mut self, root: u64) {
        self.flush();
        self.root = root;
    }

    /// Whether an L4 table of a guest's is loaded.
    pub(super) fn has_root(&self) -> bool {
        self.root != 0
    }

    /// Forgets everything.
    pub(super) fn flush(&mut self) {
        self.pages.clear();
        self.tables.clear();
    }

    /// Forgets the translation of one page and, as `invlpg` does, all entries of upper tables.
    pub(super) fn flush_page(&mut self, va: u64) {
        self.pages.remove(&(va >> 12));
        self.tables.clear();
    }

    /// The frame that an access of this kind reaches, and whether it does so by the caches; `None`: it faults.
    pub(super) fn translate(&mut self, memory: &[FrameWords], va: u64, write: bool) -> Option<(Mfn, bool)> {
        let allowed = |found: &Cached| !write || found.writable;
        let known = self.pages.get(&(va >> 12)).copied();
        let found =
            known.filter(allowed).or_else(|| self.walk(memory, va).filter(allowed)).or_else(|| {
                // Before it faults, the processor looks again at the tables as they are.
                self.flush_page(va);
                self.walk(memory, va).filter(allowed)
            })?;
        self.pages.insert(va >> 12, found);
        ((found.frame as usize) < memory.len()).then_some((Mfn(found.frame), found.cached))
    }

    /// Walks the tables from the lowest one that is remembered.
    fn walk(&mut self, memory: &[FrameWords], va: u64) -> Option<Cached> {
        let known = (1..=3u8).find_map(|level| Some((level, *self.tables.get(&(level, prefix(va, level)))?)));
        let (mut level, mut at) = match known {
            Some(known) => known,
            None if self.root == 0 => return None,
            None => (4, Cached { frame: self.root, writable: true, cached: true }),
        };
        loop {
            let words = memory.get(usize::try_from(at.frame).ok()?)?;
            at = step(at, words[pte::index(va, level)].load(Ordering::Relaxed))?;
            level -= 1;
            if level == 0 {
                return Some(at);
            }
            self.tables.insert((level, prefix(va, level)), at);
        }
    }

    /// All that can be reached by what is remembered, entries of tables included that were not looked at yet.
    pub(super) fn reach(&self, memory: &[FrameWords]) -> Vec<Reach> {
        let mut all = Vec::new();
        for (page, found) in &self.pages {
            all.push(Reach { va: page << 12, frame: Mfn(found.frame), writable: found.writable });
        }
        for ((level, prefix), table) in &self.tables {
            reach_below(memory, *level, prefix << (12 + 9 * u32::from(*level)), *table, &mut all);
        }
        all
    }
}

/// The part of an address that leads to a table of `level`.
fn prefix(va: u64, level: u8) -> u64 {
    va >> (12 + 9 * u32::from(level))
}

fn step(table: Cached, entry: u64) -> Option<Cached> {
    (entry & pte::PRESENT != 0).then(|| Cached {
        frame: pte::frame_of(entry).0,
        writable: table.writable && entry & pte::RW != 0,
        cached: entry & pte::CACHE_BITS == 0,
    })
}

fn reach_below(memory: &[FrameWords], level: u8, va: u64, table: Cached, all: &mut Vec<Reach>) {
    let Some(words) = memory.get(table.frame as usize) else { return };
    for (index, word) in (0u64..).zip(words) {
        let Some(found) = step(table, word.load(Ordering::Relaxed)) else { continue };
        let va = va | index << (12 + 9 * (u32::from(level) - 1));
        if level == 1 {
            all.push(Reach { va, frame: Mfn(found.frame), writable: found.writable });
        } else {
            reach_below(memory, level - 1, va, found, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    /// Tables 1 to 4 (L4 to L1) that map frame 5 writable at 0, with this L1 entry.
    fn memory() -> Vec<FrameWords> {
        let memory: Vec<FrameWords> = (0..7).map(|_| [const { AtomicU64::new(0) }; 512]).collect();
        (1..5).for_each(|n| set(&memory, n, 0, n as u64 + 1, pte::RW));
        memory
    }

    fn set(memory: &[FrameWords], table: usize, index: usize, frame: u64, flags: u64) {
        memory[table][index].store(frame << 12 | pte::PRESENT | flags, Ordering::Relaxed);
    }

    fn loaded() -> Tlb {
        let mut tlb = Tlb::default();
        tlb.load(1);
        tlb
    }

    #[test]
    fn a_translation_stays_until_it_is_flushed() {
        let (memory, mut tlb) = (memory(), loaded());
        assert_eq!(tlb.translate(&memory, 0x123, true), Some((Mfn(5), true)));
        memory[4][0].store(0, Ordering::Relaxed);
        assert_eq!(tlb.translate(&memory, 0, true), Some((Mfn(5), true)), "stale");
        tlb.flush_page(0x1000);
        assert_eq!(tlb.translate(&memory, 0, true), Some((Mfn(5), true)), "another page's");
        tlb.flush_page(0xfff);
        assert_eq!(tlb.translate(&memory, 0, true), None);
        assert!(tlb.reach(&memory).is_empty());
    }

    #[test]
    fn upper_entries_stay_as_well() {
        let (memory, mut tlb) = (memory(), loaded());
        set(&memory, 4, 1, 6, 0);
        assert_eq!(tlb.translate(&memory, 0, false), Some((Mfn(5), true)));
        memory[3][0].store(0, Ordering::Relaxed);
        let second = Reach { va: 0x1000, frame: Mfn(6), writable: false };
        assert!(tlb.reach(&memory).contains(&second));
        assert_eq!(tlb.translate(&memory, 0x1000, false), Some((Mfn(6), true)), "by the table that is gone");
        assert_eq!(tlb.translate(&memory, 0x1000, true), None);
        assert_eq!(tlb.translate(&memory, 0x1000, false), None, "the fault made it look again");
        assert_eq!(
            tlb.translate(&memory, 0, true),
            Some((Mfn(5), true)),
            "a page's translation needs no tables"
        );
        tlb.flush();
        assert_eq!(tlb.translate(&memory, 0, true), None);
    }

    #[test]
    fn a_right_that_was_added_is_found_by_looking_again() {
        let (memory, mut tlb) = (memory(), loaded());
        set(&memory, 4, 0, 5, 0);
        assert_eq!(tlb.translate(&memory, 0, false), Some((Mfn(5), true)));
        set(&memory, 4, 0, 5, pte::RW);
        assert_eq!(tlb.translate(&memory, 0, true), Some((Mfn(5), true)));
        set(&memory, 2, 0, 3, 0);
        tlb.flush();
        assert_eq!(tlb.translate(&memory, 0, true), None, "every level has to allow it");
    }
}
