//! The table itself: entries of either version, and the free list of references that runs through them.
//!
//! A version 1 entry is one 64-bit word (flags, domain, frame) and is written by one store. Of a version 2 entry the
//! second word (the frame) is written before the first; its "in use" flags are in a status word of its own. A free
//! entry has flags 0, which makes the hypervisor ignore the rest: there lies the reference of the next free one.
//!
//! The free list is a stack whose head carries a tag that each change counts up, so that a head which was taken and
//! came back is not mistaken for the one that was read.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, fence};
use core::{hint, ptr};

use xen_abi::grant_table::{
    GNTTAB_NR_RESERVED_ENTRIES, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING, GrantEntryV1,
    GrantEntryV2, GrantStatus,
};

use super::{Access, Error, Version};
use crate::mmu::{Mfn, PAGE_SIZE};

/// Frames that a table can have here, four times what a hypervisor allows unless it is told otherwise.
pub const MAX_FRAMES: usize = 256;
/// Frames of status words that belong to them.
pub const MAX_STATUS_FRAMES: usize = MAX_FRAMES * V2_ENTRIES / STATUS_WORDS;

const V1_ENTRIES: usize = PAGE_SIZE / size_of::<GrantEntryV1>();
const V2_ENTRIES: usize = PAGE_SIZE / size_of::<GrantEntryV2>();
const STATUS_WORDS: usize = PAGE_SIZE / size_of::<GrantStatus>();
const IN_USE: u16 = GTF_READING | GTF_WRITING;
/// No reference: the end of the free list.
const NONE: u32 = u32::MAX;

/// A table whose frames are mapped one by one as it grows, and never unmapped.
#[derive(Debug)]
pub struct Table {
    version: Version,
    frames: [AtomicPtr<AtomicU64>; MAX_FRAMES],
    status: [AtomicPtr<AtomicU16>; MAX_STATUS_FRAMES],
    /// Tag in the upper half, the first free reference in the lower one.
    free: AtomicU64,
}

impl Table {
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            frames: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_FRAMES],
            status: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_STATUS_FRAMES],
            free: AtomicU64::new(NONE as u64),
        }
    }

    pub const fn version(&self) -> Version {
        self.version
    }

    /// References that nobody has. It counts them one by one, and more or less where others take and give meanwhile.
    pub fn free_references(&self) -> u32 {
        let most = MAX_FRAMES * self.entries_per_frame();
        let mut next = self.free.load(Acquire) as u32;
        let mut count = 0;
        // What somebody takes meanwhile is not a link any more: it may lead anywhere.
        while self.has(next) && (count as usize) < most {
            count += 1;
            next = self.next_free(next);
        }
        count
    }

    /// Whether there is a reference that nobody has.
    pub fn has_free(&self) -> bool {
        self.free.load(Acquire) as u32 != NONE
    }

    /// Whether the table has room for an entry of this reference.
    pub fn has(&self, reference: u32) -> bool {
        let frame = reference as usize / self.entries_per_frame();
        self.frames.get(frame).is_some_and(|frame| !frame.load(Acquire).is_null())
    }

    const fn entries_per_frame(&self) -> usize {
        match self.version {
            Version::One => V1_ENTRIES,
            Version::Two => V2_ENTRIES,
        }
    }

    /// Where its frames and its status frames are mapped.
    #[cfg(all(target_os = "none", feature = "alloc"))]
    pub fn places(&self) -> (impl Iterator<Item = u64>, impl Iterator<Item = u64>) {
        let entries = self.frames.iter().map(|frame| frame.load(Acquire) as u64);
        let status = self.status.iter().map(|frame| frame.load(Acquire) as u64);
        (entries.take_while(|&at| at != 0), status.take_while(|&at| at != 0))
    }

    /// All that is written in it.
    #[cfg(any(test, all(target_os = "none", feature = "alloc")))]
    pub fn contents(&self) -> alloc::vec::Vec<(u64, u64)> {
        let read = |(first, second): (&AtomicU64, &AtomicU64)| (first.load(Acquire), second.load(Acquire));
        (0..)
            .take_while(|&reference| self.has(reference))
            .map(|reference| read(self.words(reference)))
            .collect()
    }

    /// Puts the free list of `contents` into a new domain's table. What was granted is granted no more: its owners find
    /// that out when they end it.
    #[cfg(any(test, all(target_os = "none", feature = "alloc")))]
    pub fn refill(&self, contents: &[(u64, u64)]) {
        let kept = (0..).zip(contents).skip(GNTTAB_NR_RESERVED_ENTRIES as usize);
        for (reference, &(first, second)) in kept.take_while(|&(reference, _)| self.has(reference)) {
            let free = first as u16 == 0;
            let (to_first, to_second) = self.words(reference);
            if matches!(self.version, Version::Two) {
                to_second.store(if free { second } else { 0 }, Relaxed);
            }
            to_first.store(if free { first } else { 0 }, Release);
        }
    }

    /// Status frames that `frames` frames of entries need.
    pub const fn status_frames(&self, frames: usize) -> usize {
        match self.version {
            Version::One => 0,
            Version::Two => (frames * V2_ENTRIES).div_ceil(STATUS_WORDS),
        }
    }

    /// Notes where status frame `index` is mapped; before the frames of its entries.
    ///
    /// # Safety
    ///
    /// `at` is a page of the table's status words, mapped for good.
    pub unsafe fn add_status(&self, index: usize, at: *mut AtomicU16) {
        self.status[index].store(at, Release);
    }

    /// Notes where frame `index` is mapped, and puts its references on the free list.
    ///
    /// # Safety
    ///
    /// `at` is a page of the table's entries, mapped for good, of which none but reserved ones is in use; called once for
    /// an index.
    pub unsafe fn add_frame(&self, index: usize, at: *mut AtomicU64) {
        self.frames[index].store(at, Release);
        let first = (index * self.entries_per_frame()) as u32;
        // From the last one, so that the lowest references are handed out first.
        for reference in (first..first + self.entries_per_frame() as u32).rev() {
            if reference >= GNTTAB_NR_RESERVED_ENTRIES {
                // SAFETY: a new reference, which no other code has.
                unsafe { self.give_back(reference) };
            }
        }
    }

    /// The word with flags and domain of an entry; the one behind it, in version 2, has the frame.
    #[inline]
    fn words(&self, reference: u32) -> (&AtomicU64, &AtomicU64) {
        let index = reference as usize;
        let (frame, first, second) = match self.version {
            Version::One => (index / V1_ENTRIES, index % V1_ENTRIES, index % V1_ENTRIES),
            Version::Two => (index / V2_ENTRIES, index % V2_ENTRIES * 2, index % V2_ENTRIES * 2 + 1),
        };
        let frame = self.frames[frame].load(Acquire);
        assert!(!frame.is_null(), "reference {index} is beyond the table");
        // SAFETY: a page that `add_frame` was promised to be mapped for good, and both words lie in it. The hypervisor
        // changes parts of them by atomic operations, as this module does.
        unsafe { (&*frame.add(first), &*frame.add(second)) }
    }

    /// The link in the entry of a free reference.
    #[inline]
    fn next_free(&self, reference: u32) -> u32 {
        let word = self.words(reference).1.load(Relaxed);
        match self.version {
            Version::One => (word >> 32) as u32,
            Version::Two => word as u32,
        }
    }

    /// The status word of an entry.
    fn status(&self, reference: u32) -> &AtomicU16 {
        let frame = self.status[reference as usize / STATUS_WORDS].load(Acquire);
        assert!(!frame.is_null(), "reference {reference} is beyond the table");
        // SAFETY: a page that `add_status` was promised to be mapped for good.
        unsafe { &*frame.add(reference as usize % STATUS_WORDS) }
    }

    /// Takes a reference off the free list.
    #[inline]
    fn take(&self) -> Option<u32> {
        let mut head = self.free.load(Acquire);
        loop {
            let first = head as u32;
            if first == NONE {
                return None;
            }
            // Where another CPU takes the same one meanwhile, this is nonsense, and the exchange fails by the tag.
            let next = self.next_free(first);
            match self.free.compare_exchange_weak(head, retagged(head, next), Acquire, Acquire) {
                Ok(_) => return Some(first),
                Err(now) => head = now,
            }
            hint::spin_loop();
        }
    }

    /// Puts a reference on the free list.
    ///
    /// # Safety
    ///
    /// The reference is the caller's, who does not use it again, and its entry grants nothing.
    #[inline]
    pub unsafe fn give_back(&self, reference: u32) {
        let shift = if matches!(self.version, Version::One) { 32 } else { 0 };
        let link = self.words(reference).1;
        let mut head = self.free.load(Relaxed);
        loop {
            link.store(u64::from(head as u32) << shift, Relaxed);
            match self.free.compare_exchange_weak(head, retagged(head, reference), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
            hint::spin_loop();
        }
    }

    /// Grants `frame` to `peer`. Where no reference is free, `grow` makes some or says why it cannot.
    ///
    /// # Safety
    ///
    /// As for [`publish`](super::publish).
    #[inline]
    pub unsafe fn publish(
        &self,
        peer: u16,
        frame: Mfn,
        access: Access,
        grow: impl Fn(&Self) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        let reference = self.reserve(frame, grow)?;
        // SAFETY: the reference was reserved just now; the rest is the caller's promise.
        unsafe { self.fill(reference, peer, frame, access) };
        Ok(reference)
    }

    /// Takes a reference for `frame`, which grants nothing yet.
    #[inline]
    pub fn reserve(&self, frame: Mfn, grow: impl Fn(&Self) -> Result<(), Error>) -> Result<u32, Error> {
        if matches!(self.version, Version::One) && frame.0 > u64::from(u32::MAX) {
            return Err(Error::OutOfRange);
        }
        loop {
            match self.take() {
                Some(reference) => return Ok(reference),
                None => grow(self)?,
            }
        }
    }

    /// Makes a reference grant `frame` to `peer`.
    ///
    /// # Safety
    ///
    /// [`reserve`](Self::reserve) gave the reference to the caller, and nothing was done with it. For the frame as for
    /// [`publish`](super::publish).
    #[inline]
    pub unsafe fn fill(&self, reference: u32, peer: u16, frame: Mfn, access: Access) {
        let flags = match access {
            Access::ReadOnly => GTF_PERMIT_ACCESS | GTF_READONLY,
            Access::ReadWrite => GTF_PERMIT_ACCESS,
        };
        let header = u64::from(flags) | u64::from(peer) << 16;
        let (first, second) = self.words(reference);
        match self.version {
            Version::One => first.store(header | frame.0 << 32, Release),
            Version::Two => {
                second.store(frame.0, Relaxed);
                first.store(header, Release);
            }
        }
    }

    /// Makes an entry grant nothing, unless it is in use. May be asked again after it has been done.
    #[inline]
    pub fn revoke(&self, reference: u32) -> bool {
        let word = self.words(reference).0;
        match self.version {
            Version::One => {
                let mut now = word.load(Relaxed);
                while now as u16 & IN_USE == 0 {
                    match word.compare_exchange_weak(now, 0, AcqRel, Relaxed) {
                        Ok(_) => return true,
                        Err(changed) => now = changed,
                    }
                }
                false
            }
            Version::Two => {
                word.store(0, SeqCst);
                // The hypervisor sets the status and then looks at the flags again; here it is the other way round, so
                // that one of the two sees the other.
                fence(SeqCst);
                self.status(reference).load(Acquire) & IN_USE == 0
            }
        }
    }

    /// Whether the peer has it mapped or copies it at the moment.
    pub fn is_in_use(&self, reference: u32) -> bool {
        let flags = match self.version {
            Version::One => self.words(reference).0.load(Acquire) as u16,
            Version::Two => self.status(reference).load(Acquire),
        };
        flags & IN_USE != 0
    }
}

/// The head `head` with another first reference: one change later.
const fn retagged(head: u64, first: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | first as u64
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::boxed::Box;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_new_domains_table_goes_on_with_the_free_list() {
        for version in [Version::One, Version::Two] {
            let table = table(version, 1);
            let [kept, ended] =
                [1, 2].map(|peer| publish(table, peer, Mfn(5), Access::ReadWrite, full).unwrap());
            assert!(table.revoke(ended));
            give_back(table, ended);
            let (free, contents) = (table.free_references(), table.contents());
            assert_eq!(contents.len(), table.entries_per_frame());
            // The new table: empty, but for the entries that the toolstack made.
            let set = |reference, to| {
                let (first, second) = table.words(reference);
                first.store(to, SeqCst);
                second.store(to, SeqCst);
            };
            (0..contents.len() as u32).for_each(|reference| set(reference, 0));
            set(1, 77);
            table.refill(&contents);
            assert_eq!(table.words(1).0.load(SeqCst), 77);
            assert_eq!(table.words(kept).0.load(SeqCst) as u16, 0, "granted to nobody of the new domain's");
            assert_eq!(table.free_references(), free);
            assert!(table.revoke(kept));
            give_back(table, kept);
            assert_eq!(table.free_references(), free + 1);
        }
    }

    /// Nobody looks at the frames of these tables.
    fn publish(
        table: &Table,
        peer: u16,
        frame: Mfn,
        access: Access,
        grow: impl Fn(&Table) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        // SAFETY: the frames are numbers only.
        unsafe { table.publish(peer, frame, access, grow) }
    }

    fn give_back(table: &Table, reference: u32) {
        // SAFETY: the tests give back what they have published and revoked, or reserved.
        unsafe { table.give_back(reference) };
    }

    fn full(_: &Table) -> Result<(), Error> {
        Err(Error::NoRoom)
    }

    /// A table with `frames` frames of leaked memory.
    fn table(version: Version, frames: usize) -> &'static Table {
        let table: &Table = Box::leak(Box::new(Table::new(version)));
        for index in 0..table.status_frames(frames) {
            let words: Vec<AtomicU16> = (0..2048).map(|_| AtomicU16::new(0)).collect();
            // SAFETY: leaked.
            unsafe { table.add_status(index, words.leak().as_mut_ptr()) };
        }
        for index in 0..frames {
            let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
            // SAFETY: leaked.
            unsafe { table.add_frame(index, words.leak().as_mut_ptr()) };
        }
        table
    }

    #[test]
    fn entries_are_what_the_hypervisor_reads() {
        let one = table(Version::One, 1);
        let reference = publish(one, 7, Mfn(0x1234_5678), Access::ReadOnly, full).unwrap();
        assert_eq!(reference, 8, "the first eight are reserved");
        assert_eq!(one.words(8).0.load(Relaxed), 0x1234_5678_0007_0005);
        assert_eq!(publish(one, 7, Mfn(1 << 32), Access::ReadWrite, full), Err(Error::OutOfRange));

        let two = table(Version::Two, 1);
        let reference = publish(two, 0x7ff0, Mfn(1 << 33), Access::ReadWrite, full).unwrap();
        let (first, second) = two.words(reference);
        assert_eq!((first.load(Relaxed), second.load(Relaxed)), (0x7ff0_0001, 1 << 33));
    }

    #[test]
    fn a_reserved_reference_grants_nothing() {
        for version in [Version::One, Version::Two] {
            let table = table(version, 1);
            let free = table.free_references();
            let reference = table.reserve(Mfn(5), full).unwrap();
            assert_eq!(table.words(reference).0.load(Relaxed) as u16, 0);
            give_back(table, reference);
            assert_eq!(table.free_references(), free);
        }
    }

    #[test]
    fn an_entry_in_use_stays() {
        for version in [Version::One, Version::Two] {
            let table = table(version, 1);
            let reference = publish(table, 1, Mfn(5), Access::ReadWrite, full).unwrap();
            // What the hypervisor does while the peer has it mapped.
            let mark = |on: bool| match version {
                Version::One if on => drop(table.words(reference).0.fetch_or(u64::from(IN_USE), SeqCst)),
                Version::One => drop(table.words(reference).0.fetch_and(!u64::from(IN_USE), SeqCst)),
                Version::Two => table.status(reference).store(if on { IN_USE } else { 0 }, SeqCst),
            };
            mark(true);
            assert!(table.is_in_use(reference) && !table.revoke(reference));
            mark(false);
            assert!(table.revoke(reference) && table.revoke(reference));
            assert_eq!(table.words(reference).0.load(Relaxed), 0);
        }
    }

    #[test]
    fn every_reference_is_handed_out_once() {
        for (version, len) in [(Version::One, 512), (Version::Two, 256)] {
            let table = table(version, 3);
            let all: BTreeSet<u32> =
                core::iter::from_fn(|| publish(table, 1, Mfn(5), Access::ReadWrite, full).ok()).collect();
            assert_eq!(all.len(), 3 * len - 8);
            assert_eq!(all.iter().copied().max(), Some(3 * len as u32 - 1));
            assert_eq!(table.free_references(), 0);
            for reference in all.iter().copied().filter(|reference| reference % 2 == 0) {
                assert!(table.revoke(reference));
                give_back(table, reference);
            }
            let again: BTreeSet<u32> =
                core::iter::from_fn(|| publish(table, 1, Mfn(5), Access::ReadWrite, full).ok()).collect();
            assert!(again.iter().all(|reference| reference % 2 == 0) && again.len() == all.len() / 2);
        }
    }

    #[test]
    fn the_free_list_survives_threads() {
        let table = table(Version::One, 1);
        std::thread::scope(|scope| {
            for peer in 1..5 {
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..20_000u64 {
                        if round % 7 < 4 {
                            held.extend(
                                publish(table, peer, Mfn(round), Access::ReadWrite, full).map(|r| (r, round)),
                            );
                        } else if let Some((reference, frame)) = held.pop() {
                            let entry = table.words(reference).0.load(Relaxed);
                            assert_eq!(
                                entry,
                                frame << 32 | u64::from(peer) << 16 | 1,
                                "somebody else has it, too"
                            );
                            assert!(table.revoke(reference));
                            give_back(table, reference);
                        }
                    }
                    for (reference, _) in held {
                        assert!(table.revoke(reference));
                        give_back(table, reference);
                    }
                });
            }
        });
        assert_eq!(table.free_references(), 504);
    }

    #[test]
    fn growth_is_asked_for_when_the_table_is_full() {
        let table = table(Version::One, 1);
        let grow = |table: &Table| {
            let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
            // SAFETY: leaked; index 1 is added once.
            unsafe { table.add_frame(1, words.leak().as_mut_ptr()) };
            Ok(())
        };
        for _ in 0..504 {
            publish(table, 1, Mfn(5), Access::ReadWrite, full).unwrap();
        }
        assert_eq!(publish(table, 1, Mfn(5), Access::ReadWrite, full), Err(Error::NoRoom));
        assert_eq!(publish(table, 1, Mfn(5), Access::ReadWrite, grow), Ok(512));
    }
}
