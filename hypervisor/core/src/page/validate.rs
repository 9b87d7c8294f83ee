//! Checking the contents of a page table, entry by entry, and taking the references that its entries stand for.
//!
//! What an entry may name depends on the level: an L1 entry any page that the domain may map (see
//! [`Hypervisor::take_l1_entry`]), an entry further up a table of the next lower level, which is checked in turn. An
//! entry further up may also name a table of its *own* level, read-only: such *linear* entries let a guest see its tables in
//! its own address space. A table that names itself holds no reference for that; tables that name each other must be
//! either the naming or the named kind, never both, so no cycle of references comes about. Either kind is counted, so
//! that a table is free to be the other kind when the last such entry is gone. What those of level 4 make of the
//! hypervisor's own slots is the subject of `linear.rs`.

use super::info::{FrameInfo, PageType, Type};
use super::update::UpdateError;
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::platform::{FrameWords, Platform, Work};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// The type of a table of `level`.
const fn type_of(level: u8) -> PageType {
    match level {
        1 => PageType::L1,
        2 => PageType::L2,
        3 => PageType::L3,
        _ => PageType::L4,
    }
}

/// Whose pages L1 entries may name.
pub(crate) enum Pages<'a, P: Platform> {
    /// Those of a domain.
    Of(&'a Domain<P>),
    /// Only what is not RAM (`DOMID_IO`).
    Io,
}

impl<P: Platform> Hypervisor<P> {
    /// Takes the references that a present L1 entry (already [adjusted](pte::adjust_l1)) stands for, and answers the entry as it
    /// is to be stored. `tables` owns the table, `pages` the page.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] for flags, [`PageError::CannotMap`] for RAM, [`PageError::Denied`] for what is not RAM,
    /// [`PageError::Restart`].
    #[inline(always)]
    pub(crate) fn take_l1_entry(
        &self,
        tables: &Domain<P>,
        pages: &Pages<'_, P>,
        entry: u64,
    ) -> Result<u64, PageError> {
        if entry & pte::CACHE_BITS == 0
            && let (Pages::Of(owner), Some(info)) = (pages, self.frame(pte::frame_of(entry)))
            && self.try_get_mapped(owner.id, info, entry)
        {
            return Ok(entry);
        }
        self.take_odd_entry(tables, pages, entry)
    }

    /// All cases of [`Hypervisor::take_l1_entry`].
    #[cold]
    #[inline(never)]
    fn take_odd_entry(&self, tables: &Domain<P>, pages: &Pages<'_, P>, entry: u64) -> Result<u64, PageError> {
        if entry & pte::CACHE_BITS != 0 {
            self.check_cache_bits(tables)?;
        }
        if let (Pages::Of(owner), Some(info)) = (pages, self.frame(pte::frame_of(entry))) {
            match self.get_mapped(owner, info, entry) {
                // Frames that the hypervisor writes to itself stay write-back. With a reference to it, a frame is no longer
                // about to become one.
                Ok(()) if entry & pte::CACHE_BITS != 0 && info.count().is_xenheap() => {
                    self.put_l1_entry(owner.id, entry);
                    return Err(PageError::CannotMap);
                }
                Ok(()) => {
                    if entry & pte::CACHE_BITS != 0 && entry & pte::RW != 0 {
                        info.mark_incoherent();
                    }
                    return Ok(entry);
                }
                Err(PageError::Restart) => return Err(PageError::Restart),
                Err(_) if !info.is_io() => return Err(PageError::CannotMap),
                Err(_) => {}
            }
        }
        self.take_io_entry(tables, pages, entry)
    }

    /// Whether a domain may choose memory types and flush caches: only one that drives devices.
    pub fn may_flush_caches(&self, domain: &Domain<P>) -> bool {
        let permissions = domain.permissions.read();
        permissions.iomem.iter().next().is_some() || permissions.ioports.iter().next().is_some()
    }

    /// Judges an L1 entry that chooses a memory type: for domains that drive devices only.
    #[cold]
    pub(crate) fn check_cache_bits(&self, tables: &Domain<P>) -> Result<(), PageError> {
        if self.may_flush_caches(tables) { Ok(()) } else { Err(PageError::BadEntry) }
    }

    /// The case of an L1 entry whose frame is not the RAM of a domain: no references, but permissions.
    #[cold]
    fn take_io_entry(&self, tables: &Domain<P>, pages: &Pages<'_, P>, entry: u64) -> Result<u64, PageError> {
        let mfn = pte::frame_of(entry);
        if self.frame(mfn).is_some_and(|info| !info.is_io()) {
            return Err(PageError::CannotMap);
        }
        let allowed = |d: &Domain<P>| d.permissions.read().allows_iomem(mfn);
        let owner_allows = match pages {
            Pages::Of(owner) if owner.id != tables.id => allowed(owner),
            _ => true,
        };
        if !owner_allows || !allowed(tables) {
            return Err(if mfn.0 == pte::FRAME_MASK >> 12 { PageError::BadEntry } else { PageError::Denied });
        }
        // What the hypervisor drives itself may be looked at only.
        let entry = if self.platform.mmio_reserved(mfn) { entry & !pte::RW } else { entry };
        Ok(pte::uncached(entry))
    }

    /// Checks an L1 table from entry `from` on.
    ///
    /// # Errors
    /// The error and how many entries hold references. [`PageError::Restart`] when this CPU has other work: at least one entry
    /// is done each time.
    pub(crate) fn check_l1(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        from: usize,
    ) -> Result<(), (PageError, usize)> {
        self.judge_all_absent(domain, mfn, 1).map_err(|error| (error, from))?;
        let words = self.platform.frame_words(mfn);
        if from != 0 {
            return self.check_rest_of_l1(domain, words, from);
        }
        let (table, mut any_odd) = (self.platform.frame_table(), false);
        pte::for_present(words, |i, word, entry| {
            self.check_l1_entry(domain, table, (word, entry), &mut any_odd).map_err(|error| (error, i))
        })
    }

    /// As [`Hypervisor::check_l1`], for a table that was left partly checked.
    #[cold]
    #[inline(never)]
    fn check_rest_of_l1(
        &self,
        domain: &Domain<P>,
        words: &FrameWords,
        from: usize,
    ) -> Result<(), (PageError, usize)> {
        let (table, mut any_odd) = (self.platform.frame_table(), false);
        let rest = words.iter().enumerate().skip(from);
        let rest = rest.map(|(i, word)| (i, word, word.load(Relaxed)));
        for (i, word, entry) in rest.filter(|(.., entry)| entry & pte::PRESENT != 0) {
            self.check_l1_entry(domain, table, (word, entry), &mut any_odd).map_err(|error| (error, i))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn check_l1_entry(
        &self,
        domain: &Domain<P>,
        table: &[FrameInfo],
        (word, entry): (&AtomicU64, u64),
        any_odd: &mut bool,
    ) -> Result<(), PageError> {
        let mut stored = pte::adjust_l1(entry);
        let taken = match table.get(pte::frame_of(entry).0 as usize) {
            Some(info) if entry & pte::CACHE_BITS == 0 => self.try_get_mapped(domain.id, info, entry),
            _ => false,
        };
        if !taken {
            stored = self.check_odd(domain, stored, any_odd)?;
        }
        if stored != entry {
            word.store(stored, Relaxed);
        }
        Ok(())
    }

    /// The case of an entry of a table that is checked which takes more than a reference: permissions, a flush. A whole table of the
    /// others is short; these look for other work, once `any` was done.
    #[cold]
    #[inline(never)]
    fn check_odd(&self, domain: &Domain<P>, entry: u64, any: &mut bool) -> Result<u64, PageError> {
        if core::mem::replace(any, true) && self.platform.work_pending() {
            return Err(PageError::Restart);
        }
        self.take_odd_entry(domain, &Pages::Of(domain), entry)
    }

    /// Checks a table of `level` 2..=4 from entry `from` on.
    ///
    /// # Errors
    /// The error and how many entries hold references.
    pub(crate) fn check_upper(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        level: u8,
        from: usize,
    ) -> Result<(), (PageError, usize)> {
        self.judge_all_absent(domain, mfn, level).map_err(|error| (error, from))?;
        let words = self.platform.frame_words(mfn);
        let mut fresh = true;
        pte::for_present(words, |i, word, entry| {
            if i < from || pte::is_hypervisor_slot(level, i) {
                return Ok(());
            }
            // At least one entry is done each time, so that whoever asks again gets on.
            if !fresh && self.platform.work_pending() {
                return Err((PageError::Restart, i));
            }
            let stored = self.take_upper_entry(domain, (mfn, level, i), entry).map_err(|error| (error, i))?;
            fresh = false;
            if stored != entry {
                word.store(stored, Relaxed);
            }
            Ok(())
        })?;
        if level == 4 {
            install_hypervisor_slots(words, self.platform.hypervisor_l4_slots());
        }
        Ok(())
    }

    /// Takes the references that a present entry stands for, and answers the entry as it is to be stored. `place` is its table, the
    /// table's level (2..=4), and its index.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] for flags, what the named table is refused for, [`PageError::Restart`].
    pub(crate) fn take_upper_entry(
        &self,
        domain: &Domain<P>,
        place: (Mfn, u8, usize),
        entry: u64,
    ) -> Result<u64, PageError> {
        let level = place.1;
        if entry & pte::UPPER_DISALLOWED != 0 {
            return Err(PageError::BadEntry);
        }
        let named = pte::frame_of(entry);
        match self.get_typed(domain, named, type_of(level - 1)) {
            Ok(()) => {}
            Err(PageError::WrongType) => self.take_linear_entry(domain, place, entry)?,
            Err(error) => return Err(error),
        }
        Ok(pte::adjust_upper(entry, level))
    }

    /// As [`Hypervisor::take_upper_entry`], for an entry of a table that is locked: checks no frame.
    ///
    /// # Errors
    /// As there, and [`UpdateError::Unchecked`] for a frame that has to be checked before.
    pub(crate) fn take_live_entry(
        &self,
        domain: &Domain<P>,
        place: (Mfn, u8, usize),
        entry: u64,
    ) -> Result<(), UpdateError> {
        let (table, level, _) = place;
        let (named, wanted) = (pte::frame_of(entry), type_of(level - 1));
        let info = self.frame(named).ok_or(PageError::BadFrame)?;
        // The owner comes first, with a reference that keeps it the owner: a type reference to a frame that has changed hands would have to
        // be dropped again, and may be the last one.
        if info.try_get(domain.id).is_ok() {
            let live = info.try_get_live(wanted);
            let same_level = named == table || info.type_word().live() == Some(type_of(level));
            self.put_page(named);
            if live {
                return Ok(());
            }
            if same_level {
                return Ok(self.take_linear_entry(domain, place, entry)?);
            }
        }
        Err(UpdateError::Unchecked(named, wanted))
    }

    /// L1TF: judges an entry that may not be present. One that a processor with that flaw can read memory by ends its domain, as on a Xen
    /// without shadow page tables: the entry would have to be changed behind the guest's back.
    ///
    /// # Errors
    /// [`PageError::BadEntry`]; the domain is at its end.
    #[inline(always)]
    pub(crate) fn judge_absent(&self, tables: &Domain<P>, level: u8, entry: u64) -> Result<(), PageError> {
        match &tables.safe_entries {
            Some(safe) if entry & pte::PRESENT == 0 && !safe.has(level, entry) => {
                Err(self.end_for_entry(tables, level, entry))
            }
            _ => Ok(()),
        }
    }

    #[cold]
    #[inline(never)]
    fn end_for_entry(&self, tables: &Domain<P>, level: u8, entry: u64) -> PageError {
        // A table may be locked, and a domain's end takes locks that come before it.
        self.log(format_args!("Domain {}: level-{level} entry {entry:#x} is open to L1TF\n", tables.id.0));
        tables.convicted.store(true, Release);
        self.platform.raise_work(self.platform.this_cpu(), Work::CONVICTED);
        PageError::BadEntry
    }

    /// Ends the domains that [`Hypervisor::judge_absent`] found guilty; with no lock held.
    pub fn end_convicted(&self) {
        for domain in self.domains.all() {
            if domain.convicted.swap(false, AcqRel) {
                self.crash_domain(&domain, "a page-table entry is open to L1TF");
            }
        }
    }

    /// [`Hypervisor::judge_absent`] for all entries of a table.
    fn judge_all_absent(&self, domain: &Domain<P>, mfn: Mfn, level: u8) -> Result<(), PageError> {
        if domain.safe_entries.is_none() {
            return Ok(());
        }
        let entries = self.platform.frame_words(mfn).iter().enumerate();
        let mut entries = entries.filter(|(index, _)| !pte::is_hypervisor_slot(level, *index));
        entries.try_for_each(|(_, word)| self.judge_absent(domain, level, word.load(Relaxed)))
    }

    /// The case of an entry that names a table of its own level.
    #[cold]
    fn take_linear_entry(
        &self,
        domain: &Domain<P>,
        (table, level, index): (Mfn, u8, usize),
        entry: u64,
    ) -> Result<(), PageError> {
        let named = pte::frame_of(entry);
        let to = self.frame(named).ok_or(PageError::BadFrame)?;
        let linear = to.type_word().page_type() == type_of(level);
        if !linear || entry & pte::RW != 0 || !self.options.pv_linear_pt {
            return Err(PageError::WrongType);
        }
        if level == 4 {
            // It would lead ring 3 from the copy to the table itself, and so to all of the hypervisor's.
            if self.platform.isolates(domain) {
                return Err(PageError::WrongType);
            }
            self.allow_linear_root(domain, index)?;
        }
        if named == table {
            return Ok(());
        }
        let from = self.known_frame(table);
        // A type reference to another domain's table would keep that domain from giving it up. So the owner comes first, with a
        // reference that keeps it the owner.
        to.try_get(domain.id)?;
        let taken = from.count_linear(Type::LINEAR_OUT) && {
            let taken = to.try_get_linear(type_of(level));
            if !taken {
                from.uncount_linear(Type::LINEAR_OUT);
            }
            taken
        };
        self.put_page(named);
        if taken { Ok(()) } else { Err(PageError::WrongType) }
    }

    /// Drops the references that a present entry of a table of `level` 2..=4 stands for. That may have to wait until the named table is
    /// unlocked, so `table` is not locked.
    #[inline]
    pub(crate) fn put_upper_entry(&self, domain: &Domain<P>, table: Mfn, entry: u64) {
        if let Some(named) = self.leave_upper_entry(table, entry) {
            self.put_table(domain, named);
        }
    }

    /// All of [`Hypervisor::put_upper_entry`] but the type reference to the table that is answered.
    #[inline]
    pub(crate) fn leave_upper_entry(&self, table: Mfn, entry: u64) -> Option<Mfn> {
        let named = pte::frame_of(entry);
        if named == table {
            return None;
        }
        let (from, to) = (self.known_frame(table), self.known_frame(named));
        // While the entry's reference is there, the named table keeps its type.
        if to.type_word().page_type() == from.type_word().page_type() {
            to.uncount_linear(Type::LINEAR_IN);
            from.uncount_linear(Type::LINEAR_OUT);
        }
        Some(named)
    }
}

impl FrameInfo {
    /// Counts a linear entry of which this table is the `end`; `false` when it is the other end of some.
    fn count_linear(&self, end: u64) -> bool {
        let more = |word: u64| Type(word).with_linear(end).map(|word| word.0);
        self.type_.fetch_update(AcqRel, Acquire, more).is_ok()
    }

    /// Takes a type reference of a table that is live as `t` and counts a linear entry that names it: both or nothing, so that nothing
    /// has to be dropped where another table is locked.
    fn try_get_linear(&self, t: PageType) -> bool {
        let taken = |word: u64| {
            let word = Type(word);
            let more = word.live() == Some(t) && word.count() < Type::MAX_COUNT;
            let counted = if more { word.with_linear(Type::LINEAR_IN) } else { None };
            counted.map(|word| word.0 + 1)
        };
        self.type_.fetch_update(AcqRel, Acquire, taken).is_ok()
    }

    /// Undoes [`FrameInfo::count_linear`]. A table that is being given up has forgotten what it counted.
    fn uncount_linear(&self, end: u64) {
        let less = |word: u64| Type(word).without_linear(end).map(|word| word.0);
        // Nothing to undo is no failure.
        let _ = self.type_.fetch_update(AcqRel, Acquire, less);
    }
}

/// Writes the hypervisor's own entries into an L4 table. The machine-to-physical table, which ring 3 can read, stays out of it
/// until the table is loaded for a kernel: user code has no business with machine addresses.
fn install_hypervisor_slots(words: &FrameWords, slots: &[u64; 16]) {
    words[pte::M2P_SLOT].store(0, Relaxed);
    for (word, slot) in words[pte::HYPERVISOR_SLOTS].iter().zip(slots).skip(1) {
        word.store(*slot, Relaxed);
    }
}
