//! References to frames: taking and dropping them, with and without a type.
//!
//! The first type reference of a frame also holds one ordinary reference, which the last one gives back: a typed frame is
//! never freed, and a further writable mapping costs one atomic operation instead of two.

use super::info::{Count, DOMID_IO, FrameInfo, PageType, Type};
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Mfn};
use crate::platform::Platform;
use crate::sync::Word;
use core::hint::spin_loop;

/// Another CPU changes entries of the table.
pub(crate) struct Busy;

/// What became of an attempt to make a frame writable for the first time.
pub(crate) enum FirstWritable {
    /// The frame is live as writable.
    Won,
    /// It is not, and the ordinary reference that was taken for it is to be dropped.
    Lost,
    /// It is not, and nothing was taken.
    Not,
}

/// The protocol of the two words. What it does not know (contents, lists, TLBs) is the business of [`Hypervisor`]'s methods.
impl<W: Word> FrameInfo<W> {
    /// Takes an ordinary reference to a frame of `owner` that is in use.
    #[inline]
    pub(crate) fn try_get(&self, owner: DomId) -> Result<(), PageError> {
        let mut word = self.count.read();
        loop {
            // Owner and references in one comparison; the flag bits between them do not matter.
            let refs = (word ^ Count::new(owner, 0, 0).0) & !Count::FLAGS;
            if refs.wrapping_sub(1) >= Count::MAX_REFS - 1 {
                return Err(self.why_not(owner));
            }
            match self.count.replace(word, word + 1) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Whether the frame is in use and `owner`'s now.
    ///
    /// # Errors
    /// [`PageError::BadFrame`], [`PageError::NotOwner`].
    #[inline]
    pub(crate) fn judge(&self, owner: DomId) -> Result<(), PageError> {
        let count = self.count();
        match count.refs() {
            0 => Err(PageError::BadFrame),
            _ if count.owner() != owner => Err(PageError::NotOwner),
            _ => Ok(()),
        }
    }

    #[cold]
    fn why_not(&self, owner: DomId) -> PageError {
        let count = self.count();
        match count.refs() {
            0 => PageError::BadFrame,
            _ if count.owner() != owner => PageError::NotOwner,
            _ => PageError::TooMany,
        }
    }

    /// Drops an ordinary reference; answers how many there were. With 1 the frame is to be freed; 0 cannot be.
    #[inline]
    #[must_use]
    pub(crate) fn put(&self) -> u64 {
        self.count.add(u64::MAX) & Count::REFS
    }

    /// Takes a further type reference of a frame that is live as `t`; the caller checks the owner afterwards.
    #[inline]
    pub(crate) fn try_get_live(&self, t: PageType) -> bool {
        let mut word = self.type_.read();
        loop {
            let count = (word ^ Type::bits_of(t)) & (Type::TYPE | Type::BUSY | Type::COUNT);
            if count.wrapping_sub(1) >= Type::MAX_COUNT - 1 {
                return false;
            }
            match self.type_.replace(word, word + 1) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Drops a type reference of a frame that is live, unless it is the last. That it is live is judged for the last one only, which
    /// goes the long way; what this would do to a table on a list, the list finds (`doomed.rs`).
    #[inline]
    pub(crate) fn try_put_live(&self) -> bool {
        let mut word = self.type_.read();
        loop {
            if word & Type::COUNT <= 1 {
                return false;
            }
            match self.type_.replace(word, word - 1) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Makes a frame of `owner` writable for the first time, if it was nothing else since it was allocated or is idle as
    /// writable: then no TLB has anything against it. An incoherent frame, which must stay so, goes the long way.
    pub(crate) fn try_first_writable(&self, owner: DomId) -> FirstWritable {
        let word = self.type_.read();
        let as_writable = word ^ Type::bits_of(PageType::Writable);
        let other = Type::TYPE | Type::INCOHERENT | Type::BUSY | Type::COUNT;
        let unused = word == 0 || as_writable & other == 0;
        if !unused || self.try_get(owner).is_err() {
            return FirstWritable::Not;
        }
        match self.type_.replace(word, Type::first(PageType::Writable).0) {
            Ok(_) => FirstWritable::Won,
            Err(_) => FirstWritable::Lost,
        }
    }

    /// Locks the entries of a table that is live, waiting while another CPU changes them. Answers its type, or `None` when
    /// it is no live table. While it is locked its last type reference does not go.
    ///
    /// # Errors
    /// [`Busy`] when `give_up` says so while another CPU has it.
    #[inline(always)]
    pub(crate) fn lock_table(&self, give_up: impl Fn() -> bool) -> Result<Option<PageType>, Busy> {
        let word = self.type_word();
        if word.is_to_be_locked() && self.type_.replace(word.0, word.0 | Type::LOCKED).is_ok() {
            return Ok(Some(word.page_type()));
        }
        self.lock_table_soon(give_up)
    }

    #[cold]
    #[inline(never)]
    fn lock_table_soon(&self, give_up: impl Fn() -> bool) -> Result<Option<PageType>, Busy> {
        let mut word = self.type_word();
        loop {
            if word.is_to_be_locked() {
                match self.type_.replace(word.0, word.0 | Type::LOCKED) {
                    Ok(_) => return Ok(Some(word.page_type())),
                    Err(now) => word = Type(now),
                }
                continue;
            }
            if !word.is_table() || word.count() == 0 {
                return Ok(None);
            }
            if give_up() {
                return Err(Busy);
            }
            W::pause();
            word = self.type_word();
        }
    }

    /// As [`FrameInfo::lock_table`], for a CPU that cannot stop. It has the lock next, however often others take it: once the word says
    /// that the table is wanted, they wait. One CPU at a time comes here for a table.
    pub(crate) fn lock_table_in_turn(&self) -> Option<PageType> {
        let mut word = self.type_word();
        while word.is_table() && word.count() != 0 {
            let next = match word.has(Type::LOCKED) {
                false => word.0 & !Type::WANTED | Type::LOCKED,
                true => word.0 | Type::WANTED,
            };
            match self.type_.replace(word.0, next) {
                Ok(_) if !word.has(Type::LOCKED) => return Some(word.page_type()),
                Ok(_) => {
                    W::pause();
                    word = self.type_word();
                }
                Err(now) => word = Type(now),
            }
        }
        // What a word says of a table that is wanted goes with its last reference.
        None
    }

    /// Undoes [`FrameInfo::lock_table`]. Answers whether a reference was left that [`FrameInfo::take_left`] takes.
    #[inline]
    #[must_use]
    pub(crate) fn unlock_table(&self) -> bool {
        // This CPU locked it: the bit is there.
        self.type_.add(Type::LOCKED.wrapping_neg()) & Type::LEFT != 0
    }

    /// Whether the CPU that has the table locked is to unlock it soon: another one waits in turn, or left it the last reference.
    #[inline(always)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.type_word().0 & (Type::WANTED | Type::LEFT) != 0
    }

    /// Leaves the last type reference, which this CPU holds, to the CPU that has the table locked. `word` is what this CPU saw; answers
    /// whether it was still that.
    pub(crate) fn leave_last(&self, word: Type) -> bool {
        self.swap_type(word, Type(word.0 | Type::LEFT))
    }

    /// Takes the type reference that was left to a CPU which unlocks the table. Answers whether this CPU has it: another one may have
    /// locked and unlocked the table meanwhile.
    pub(crate) fn take_left(&self) -> bool {
        let mut word = self.type_word();
        // This CPU holds no reference: the frame may be free by now, and its word anything but that of a table.
        while word.is_table() && word.count() != 0 && word.has(Type::LEFT) {
            match self.type_.replace(word.0, word.0 & !Type::LEFT) {
                Ok(_) => return true,
                Err(now) => word = Type(now),
            }
        }
        false
    }

    /// Sets the type word of a frame that only this CPU may change: one that is busy, or not yet visible.
    pub(crate) fn set_type(&self, word: Type) {
        self.type_.put(word.0);
    }

    /// Replaces the type word if nobody changed it.
    pub(crate) fn swap_type(&self, old: Type, new: Type) -> bool {
        self.type_.replace(old.0, new.0).is_ok()
    }

    /// Shares a frame of the hypervisor's own, which nothing refers to, with `owner`: one type reference and the ordinary one
    /// that belongs to it are the hypervisor's.
    pub(crate) fn share(&self, owner: DomId) {
        self.set_type(Type::first(PageType::Writable));
        self.count.put(Count::new(owner, Count::XENHEAP | Count::ALLOCATED, 1).0);
    }

    /// Undoes [`FrameInfo::share`] if the hypervisor's references are the only ones; answers whether they were.
    ///
    /// A writable mapping changes the type word only, a read-only one the count word only, so no single operation sees both. The last
    /// type reference is taken away first: a writable mapping that came before fails this, and one that comes later finds the frame
    /// busy and fails. Then the count word cannot change any more but by read-only mappings, and it is judged and replaced
    /// in one step.
    pub(crate) fn try_unshare(&self) -> bool {
        let shared = Type::first(PageType::Writable);
        if !self.swap_type(shared, Type::busy(PageType::None, 0, 0)) {
            return false;
        }
        let now = self.count();
        let alone = now.refs() == 1 && self.count.replace(now.0, Count::XENS.0).is_ok();
        self.set_type(if alone { Type(0) } else { shared });
        alone
    }

    /// Makes a frame that the hypervisor shared with a domain one of the domain's, held by its type reference only.
    pub(crate) fn clear_shared(&self) {
        self.count.clear_bits(Count::XENHEAP | Count::ALLOCATED);
    }

    /// Makes a frame of `owner` the hypervisor's, if nothing but the owner's own reference holds it; answers whether it did.
    pub(crate) fn try_steal(&self, owner: DomId) -> bool {
        self.count.replace(Count::idle_of(owner).0, Count::XENS.0).is_ok()
    }
}

impl<P: Platform> Hypervisor<P> {
    /// The record of a frame; `None` beyond the end of RAM.
    #[inline]
    pub fn frame(&self, mfn: Mfn) -> Option<&FrameInfo> {
        self.platform.frame_table().get(usize::try_from(mfn.0).ok()?)
    }

    /// The record of a frame that some entry or state of ours names.
    #[inline]
    pub(crate) fn known_frame(&self, mfn: Mfn) -> &FrameInfo {
        &self.platform.frame_table()[mfn.0 as usize]
    }

    /// Takes a reference to a frame of `owner`: it stays its owner's until [`Hypervisor::put_page`].
    ///
    /// # Errors
    /// [`PageError::BadFrame`], [`PageError::NotOwner`], [`PageError::TooMany`].
    pub fn get_page(&self, owner: DomId, mfn: Mfn) -> Result<(), PageError> {
        self.frame(mfn).ok_or(PageError::BadFrame)?.try_get(owner)
    }

    /// Drops a reference of [`Hypervisor::get_page`]; with the last one the frame is free.
    #[inline]
    pub fn put_page(&self, mfn: Mfn) {
        self.put_plain(mfn, self.known_frame(mfn));
    }

    #[inline(always)]
    fn put_plain(&self, mfn: Mfn, info: &FrameInfo) {
        let refs = info.put();
        if refs <= 1 {
            self.put_last(mfn, info, refs);
        }
    }

    /// The last of `refs` references was dropped, or one that was not there.
    #[cold]
    #[inline(never)]
    fn put_last(&self, mfn: Mfn, info: &FrameInfo, refs: u64) {
        if refs == 0 {
            broken(mfn, info);
        }
        self.free_frame(mfn, info);
    }

    /// Takes a reference to a frame of `domain` together with a type reference: until [`Hypervisor::put_page_and_type`] it is
    /// nothing but a `t`. Tables are checked here, with all that hangs below them.
    ///
    /// # Errors
    /// Any [`PageError`]; [`PageError::Restart`] when the frame, or something below it, is waiting to be given up and this CPU has
    /// other work first: ask again after that.
    pub fn get_page_and_type(&self, domain: &Domain<P>, mfn: Mfn, t: PageType) -> Result<(), PageError> {
        if t.level().is_some_and(|level| level > 1) {
            // The next time there is less in the way.
            self.work_off_doomed(domain)?;
        }
        loop {
            match self.get_typed(domain, mfn, t) {
                Err(PageError::Restart) if t.level().is_none_or(|level| level == 1) => {
                    self.work_off_doomed(domain)?;
                    if self.platform.work_pending() {
                        return Err(PageError::Restart);
                    }
                    spin_loop();
                }
                answer => return answer,
            }
        }
    }

    /// As [`Hypervisor::get_page_and_type`], without giving up what is in the way: [`PageError::Restart`] at once.
    #[inline]
    pub(crate) fn get_typed(&self, domain: &Domain<P>, mfn: Mfn, t: PageType) -> Result<(), PageError> {
        let info = self.frame(mfn).ok_or(PageError::BadFrame)?;
        // Another domain's frame is not touched: its owner may be waiting for its last reference.
        if info.count().owner() == domain.id && info.try_get_live(t) {
            return self.check_owner(info, mfn, domain.id);
        }
        self.get_type_slowly(domain, mfn, info, t)
    }

    /// Judges the owner of a frame to which a type reference was taken, and gives that back if it is the wrong one.
    #[inline]
    pub(super) fn check_owner(&self, info: &FrameInfo, mfn: Mfn, owner: DomId) -> Result<(), PageError> {
        if info.count().owner() == owner {
            return Ok(());
        }
        self.put_page_and_type(mfn);
        Err(PageError::NotOwner)
    }

    /// Takes the references that a present L1 entry for a page of RAM stands for, in the cases that hardly ever fail: a
    /// read-only mapping, a further writable one, or the first writable one of a page that was no table before. `false`: nothing
    /// was taken, ask [`Hypervisor::get_mapped`].
    #[inline(always)]
    pub(crate) fn try_get_mapped(&self, owner: DomId, info: &FrameInfo, entry: u64) -> bool {
        if entry & pte::RW == 0 {
            return info.try_get(owner).is_ok();
        }
        // As in `get_typed`: another domain's frame is not touched.
        if info.count().owner() != owner {
            return false;
        }
        if !info.try_get_live(PageType::Writable) {
            return self.try_first_writable(owner, pte::frame_of(entry), info);
        }
        // It may have changed hands meanwhile.
        if info.count().owner() == owner {
            return true;
        }
        self.put_page_and_type_of_other(pte::frame_of(entry));
        false
    }

    #[cold]
    #[inline(never)]
    fn put_page_and_type_of_other(&self, mfn: Mfn) {
        self.put_page_and_type(mfn);
    }

    fn try_first_writable(&self, owner: DomId, mfn: Mfn, info: &FrameInfo) -> bool {
        match info.try_first_writable(owner) {
            FirstWritable::Won => true,
            FirstWritable::Lost => {
                self.put_page(mfn);
                false
            }
            FirstWritable::Not => false,
        }
    }

    /// As [`Hypervisor::try_get_mapped`], for all cases.
    #[cold]
    pub(crate) fn get_mapped(
        &self,
        pages: &Domain<P>,
        info: &FrameInfo,
        entry: u64,
    ) -> Result<(), PageError> {
        if entry & pte::RW == 0 {
            info.try_get(pages.id)
        } else {
            self.get_typed(pages, pte::frame_of(entry), PageType::Writable)
        }
    }

    /// Drops what [`Hypervisor::get_page_and_type`] took. The last reference to a table gives up everything below it; tables of
    /// level 2 and up wait for that on their owner's list.
    #[inline]
    pub fn put_page_and_type(&self, mfn: Mfn) {
        let info = self.known_frame(mfn);
        if !info.try_put_live() {
            self.put_last_type(None, mfn, info);
        }
    }

    /// Drops the type reference only, where an ordinary reference of the caller's keeps the frame.
    pub fn put_page_type(&self, mfn: Mfn) {
        self.put_page_and_type(mfn);
    }

    /// As [`Hypervisor::put_page_and_type`] for a table of `domain`, whose list is at hand.
    #[inline]
    pub(crate) fn put_table(&self, domain: &Domain<P>, mfn: Mfn) {
        let info = self.known_frame(mfn);
        if !info.try_put_live() {
            self.put_last_type(Some(domain), mfn, info);
        }
    }

    /// Drops the references that a present L1 entry, which is no longer in any table, stands for. `tables` owns the table that
    /// it was in.
    #[inline(always)]
    pub(crate) fn put_l1_entry(&self, tables: DomId, entry: u64) {
        let mfn = pte::frame_of(entry);
        let Some(info) = self.frame(mfn) else { return };
        let owner = info.count().owner();
        if owner != tables && !self.put_foreign(tables, owner, entry) {
            return;
        }
        if entry & pte::RW != 0 {
            if !info.try_put_live() {
                self.put_last_type(None, mfn, info);
            }
        } else {
            self.put_plain(mfn, info);
        }
    }

    /// The case of an entry for a page that is not the table owner's; answers whether references are to be dropped. When the
    /// page changes its use, only its own owner's CPUs are flushed, so those of the domain that mapped it are flushed now.
    #[cold]
    #[inline(never)]
    fn put_foreign(&self, tables: DomId, owner: DomId, entry: u64) -> bool {
        if owner == DOMID_IO {
            return false;
        }
        if entry & pte::RW != 0 {
            // A domain is among the dying before it leaves the others.
            let mapper = self.domains.get(tables).or_else(|| self.domains.get_dying(tables));
            let cpus = mapper.map(|domain| domain.dirty_cpus.load());
            self.flush_tlb_all(&cpus.unwrap_or_else(|| self.platform.online_cpus()));
        }
        true
    }

    /// The owner of a frame that is RAM and in use.
    pub fn page_owner(&self, mfn: Mfn) -> Option<DomId> {
        self.frame(mfn)?.owner().filter(|owner| *owner != DOMID_IO)
    }
}

/// Stops the machine: a reference to the frame was dropped that is not there. The frame may be in use by somebody whose reference it
/// was, so nothing that is known of frames can be trusted any more. Only a mistake of the hypervisor's leads here.
#[cold]
#[inline(never)]
pub(crate) fn broken(mfn: Mfn, info: &FrameInfo) -> ! {
    panic!("a reference to frame {:#x} was dropped twice: {info:?}", mfn.0);
}
