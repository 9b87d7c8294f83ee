//! Changes of a frame's type: from idle to live and back, by way of *busy* for frames whose contents matter.

use super::info::{Count, FrameInfo, PageType, Type};
use super::{PageError, segment};
use crate::Hypervisor;
use crate::cpumask::CpuMask;
use crate::domain::Domain;
use crate::ids::{DomId, Mfn};
use crate::platform::{Flush, Platform};
use crate::sync::Word;
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// How an attempt at a frame's type ended, when the frame is not live as that type.
pub(crate) enum Claim {
    /// This CPU made the frame busy; entries below the number hold references already.
    Ours(usize),
    /// The frame is live as the type: one more reference was taken. The caller's own reference is not needed for it.
    Shared,
    /// The frame became live with the caller's own reference as the type's.
    First,
    /// It cannot be had.
    Refused(PageError),
}

impl<W: Word> FrameInfo<W> {
    /// Makes the frame, to which the caller holds an ordinary reference, live or busy as `t`. `flush` has the CPUs flushed that did
    /// not since the stamp that it gets; `write_back` writes the frame's cache lines back; `busy` decides about a frame that is busy, or
    /// says `None`: look again.
    pub(crate) fn claim(
        &self,
        t: PageType,
        flush: impl Fn(u32),
        write_back: impl Fn(),
        mut busy: impl FnMut(Type) -> Option<Claim>,
    ) -> Claim {
        loop {
            let word = self.type_word();
            if word.is_busy() {
                match busy(word) {
                    Some(claim) => return claim,
                    None => {
                        W::pause();
                        continue;
                    }
                }
            }
            match word.live() {
                Some(now) if now != t => {
                    let error = if word.is_going() { PageError::Restart } else { PageError::WrongType };
                    return Claim::Refused(error);
                }
                Some(_) if word.count() >= Type::MAX_COUNT => return Claim::Refused(PageError::TooMany),
                Some(_) => {
                    if self.try_get_live(t) {
                        return Claim::Shared;
                    }
                }
                None => {
                    if word.page_type() != t && word.page_type() != PageType::None {
                        flush(word.stamp());
                    }
                    // What was checked as descriptors can change only by way of another type.
                    let has_contents =
                        t.is_table() || t == PageType::SegDesc && word.page_type() != PageType::SegDesc;
                    let incoherent = word.0 & Type::INCOHERENT;
                    let next =
                        if has_contents { Type::busy(t, 0, 0) } else { Type(Type::first(t).0 | incoherent) };
                    if self.swap_type(word, next) {
                        // Not before: until now the frame could become writable again. No CPU writes to it any more.
                        if has_contents && incoherent != 0 {
                            write_back();
                        }
                        return if has_contents { Claim::Ours(0) } else { Claim::First };
                    }
                }
            }
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Takes a type reference where [`FrameInfo::try_get_live`] did not do: the first one, most often.
    #[cold]
    #[inline(never)]
    pub(crate) fn get_type_slowly(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        info: &FrameInfo,
        t: PageType,
    ) -> Result<(), PageError> {
        // Becomes the reference that a typed frame holds, if this is the first of its type.
        info.try_get(domain.id)?;
        match self.claim(domain, mfn, info, t) {
            Claim::First => Ok(()),
            Claim::Shared => {
                self.put_page(mfn);
                Ok(())
            }
            Claim::Refused(error) => {
                self.put_page(mfn);
                Err(error)
            }
            Claim::Ours(done) => {
                if done != 0 {
                    // A table that was left partly checked kept its reference.
                    self.put_page(mfn);
                }
                self.check_contents(domain, mfn, info, t, done)
            }
        }
    }

    fn claim(&self, domain: &Domain<P>, mfn: Mfn, info: &FrameInfo, t: PageType) -> Claim {
        let flush = |stamp| self.flush_stale(domain, stamp);
        info.claim(
            t,
            flush,
            || self.write_back(mfn),
            |word| {
                let claim = self.claim_busy(domain, mfn, info, t, word);
                // The CPU that checks the frame may take long, and looks at its own work only.
                claim.or_else(|| self.platform.work_pending().then_some(Claim::Refused(PageError::Restart)))
            },
        )
    }

    /// The case of a busy frame. `None`: look again.
    fn claim_busy(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        info: &FrameInfo,
        t: PageType,
        word: Type,
    ) -> Option<Claim> {
        let same = word.page_type() == t;
        if word.has(Type::DOOMED) {
            return Some(Claim::Refused(PageError::Restart));
        }
        if word.has(Type::PARTIAL) {
            if same {
                let carry_on = Type(word.0 & !Type::PARTIAL);
                return info.swap_type(word, carry_on).then(|| Claim::Ours(word.entries()));
            }
            // Somebody began to make it a table and never came back.
            self.doom(domain, mfn, info, word);
            return Some(Claim::Refused(PageError::Restart));
        }
        if same { None } else { Some(Claim::Refused(PageError::WrongType)) }
    }

    /// Checks the contents of a frame that this CPU made busy, and makes it live, leaves it partial, or gives it up.
    fn check_contents(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        info: &FrameInfo,
        t: PageType,
        from: usize,
    ) -> Result<(), PageError> {
        let result = match t {
            PageType::SegDesc => segment::check_frame(self.platform.frame_words(mfn)),
            _ => match self.check_table(domain, mfn, t, from) {
                Err((error, done)) if done != 0 => {
                    let word = info.type_word();
                    let linear = word.0 & Type::LINEAR;
                    if error == PageError::Restart {
                        info.set_type(Type::busy(t, done, Type::PARTIAL | linear));
                    } else {
                        // Many entries may have to be given up: that is preemptible only by way of the list.
                        let stopped = Type::busy(t, done, Type::DOOMED);
                        info.set_type(stopped);
                        self.doom(domain, mfn, info, stopped);
                    }
                    return Err(error);
                }
                // Nothing was done: leave no trace, so that a partial table always has entries.
                other => other.map_err(|(error, _)| error),
            },
        };
        match result {
            Ok(()) => {
                let linear = info.type_word().0 & Type::LINEAR;
                info.set_type(Type(Type::first(t).0 | linear));
            }
            Err(_) => {
                // An idle descriptor page is one that was checked.
                let left_as = if t == PageType::SegDesc { PageType::Writable } else { t };
                info.set_type(Type::idle(left_as, self.frames.tlb().stamp()));
                self.put_page(mfn);
            }
        }
        result
    }

    /// Checks a table from entry `from` on; see [`Hypervisor::check_upper`].
    fn check_table(
        &self,
        domain: &Domain<P>,
        mfn: Mfn,
        t: PageType,
        from: usize,
    ) -> Result<(), (PageError, usize)> {
        match t {
            PageType::L1 => self.check_l1(domain, mfn, from),
            _ => self.check_upper(domain, mfn, t.level().unwrap_or(4), from),
        }
    }

    /// Drops what may be the last type reference. That of a table which is locked is dropped by the CPU that unlocks it, if this one has
    /// other work: other vCPUs of the owner may lock it again and again.
    #[cold]
    #[inline(never)]
    pub(crate) fn put_last_type(&self, domain: Option<&Domain<P>>, mfn: Mfn, info: &FrameInfo) {
        loop {
            let word = info.type_word();
            if word.count() > 1 {
                if info.try_put_live() {
                    return;
                }
                continue;
            }
            if word.count() == 0 || word.is_going() {
                super::refs::broken(mfn, info);
            }
            if word.has(Type::LOCKED) {
                if !self.platform.work_pending() {
                    spin_loop();
                } else if info.leave_last(word) {
                    return;
                }
                continue;
            }
            let t = word.page_type();
            match t {
                PageType::L2 | PageType::L3 | PageType::L4 => {
                    if self.doom_in(domain, mfn, info, word) {
                        return;
                    }
                }
                PageType::L1 => {
                    if info.swap_type(word, Type::busy(t, super::pte::ENTRIES, Type::DOOMED)) {
                        return self.put_last_l1(domain, mfn, info);
                    }
                }
                _ => {
                    if info.swap_type(word, word.at_rest(self.frames.tlb().stamp())) {
                        return self.put_page(mfn);
                    }
                }
            }
        }
    }

    /// Undoes [`Hypervisor::lock_table_of`].
    #[inline]
    pub(crate) fn unlock_table(&self, mfn: Mfn) {
        let info = self.known_frame(mfn);
        if info.unlock_table() {
            self.put_left(mfn, info);
        }
    }

    /// Drops the reference to a table that another CPU left to this one, which had it locked.
    #[cold]
    #[inline(never)]
    fn put_left(&self, mfn: Mfn, info: &FrameInfo) {
        if info.take_left() {
            self.put_page_and_type(mfn);
        }
    }

    /// Gives up an L1 table that this CPU made busy, or leaves the rest of it to its owner's list when other work comes up.
    fn put_last_l1(&self, domain: Option<&Domain<P>>, mfn: Mfn, info: &FrameInfo) {
        let (words, owner) = (self.platform.frame_words(mfn), info.count().owner());
        let mut left = super::pte::ENTRIES;
        while left != 0 {
            left = self.give_up_l1(owner, words, left);
            if left != 0 {
                let resting = Type::busy(PageType::L1, left, Type::DOOMED);
                info.set_type(resting);
                if self.doom_in(domain, mfn, info, resting) {
                    return;
                }
            }
        }
        info.set_type(Type::idle(PageType::L1, self.frames.tlb().stamp()));
        self.put_page(mfn);
    }

    /// Puts a table whose last reference goes on its owner's list, whatever the domain whose entry or hypercall held that reference.
    /// Without an owner in the table of domains it is left partial. Answers whether it was done.
    fn doom_in(&self, domain: Option<&Domain<P>>, mfn: Mfn, info: &FrameInfo, word: Type) -> bool {
        let owner = info.count().owner();
        if let Some(domain) = domain.filter(|domain| domain.id == owner) {
            return self.doom(domain, mfn, info, word);
        }
        match self.domains.get(owner).or_else(|| self.domains.get_dying(owner)) {
            Some(owner) => self.doom(&owner, mfn, info, word),
            None => {
                let entries = if word.is_busy() { word.entries() } else { super::pte::ENTRIES };
                info.swap_type(word, Type::busy(word.page_type(), entries, Type::PARTIAL))
            }
        }
    }

    /// Gives a frame without references back to the allocator.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_frame(&self, mfn: Mfn, info: &FrameInfo) {
        let count = info.count();
        if count.is_xenheap() {
            return;
        }
        // Its domain is going: what it left in its memory is nobody's business.
        let Some(owner) = self.domains.get(count.owner()) else {
            return self.free_frame_of_dying(mfn, info, count.owner());
        };
        owner.pages.shrink(1);
        if owner.pages.claimed() != 0 {
            // Before another domain can take it.
            self.frames.extend_claim(&owner.pages.claim);
        }
        self.release_frame_words(mfn, info);
    }

    fn free_frame_of_dying(&self, mfn: Mfn, info: &FrameInfo, owner: DomId) {
        // Freed first: with its last frame the identifier may be given out again.
        self.forget_use(mfn, info);
        info.count.store(Count::DIRTY, Release);
        let owner = self.domains.get_dying(owner);
        self.frames.give_dirty(mfn.0..mfn.0 + 1, owner.as_ref().map(|owner| &*owner.pages.claim));
        if let Some(owner) = owner {
            owner.pages.shrink(1);
            self.bury_domain(&owner);
        }
    }

    /// Frees a frame of a dying domain that nothing but the domain's own reference holds, short of giving it to the allocator: it is
    /// dirty. `None`: it is no such frame; else whether that took as long as the write-back of its cache lines.
    pub(crate) fn take_idle_frame(&self, owner: DomId, mfn: Mfn, info: &FrameInfo) -> Option<bool> {
        let idle = Count::idle_of(owner).0;
        info.count.compare_exchange(idle, Count::DIRTY, AcqRel, Relaxed).ok()?;
        Some(self.forget_use(mfn, info))
    }

    /// Forgets what a frame was used as; answers whether its cache lines were written back.
    fn forget_use(&self, mfn: Mfn, info: &FrameInfo) -> bool {
        if let Some(entry) = self.platform.m2p().get(mfn.0 as usize) {
            entry.store(u64::MAX, Relaxed);
        }
        let incoherent = info.is_incoherent();
        if incoherent {
            self.write_back_unused(mfn, info);
        }
        info.set_type(Type(0));
        incoherent
    }

    /// Hands a frame without references over to the allocator, as dirty as it is.
    pub(crate) fn release_frame_words(&self, mfn: Mfn, info: &FrameInfo) {
        let dirty = info.count().is_dirty();
        self.forget_use(mfn, info);
        if dirty {
            info.count.store(Count::DIRTY, Release);
            return self.frames.give_dirty(mfn.0..mfn.0 + 1, None);
        }
        info.count.store(0, Release);
        self.frames.give(mfn, 0);
    }

    /// Gives up the owner's own reference to a frame. The caller holds another one. Answers whether it was still there.
    pub(crate) fn clear_allocated(&self, mfn: Mfn, info: &FrameInfo) -> bool {
        let was = info.count.fetch_and(!Count::ALLOCATED, AcqRel) & Count::ALLOCATED != 0;
        if was {
            self.put_page(mfn);
        }
        was
    }

    // ---- TLB -------------------------------------------------------------------------------------------------

    /// Flushes the CPUs of `domain` that did not flush since `stamp`.
    fn flush_stale(&self, domain: &Domain<P>, stamp: u32) {
        let (tlb, here) = (self.frames.tlb(), self.platform.this_cpu());
        let time = tlb.time_of(stamp);
        let mut cpus = domain.dirty_cpus.load();
        cpus.insert(here);
        if cpus == CpuMask::of(here) {
            if !tlb.is_clean(here, time) {
                self.flush_tlb_all(&cpus);
            }
            return;
        }
        self.flush_tlb_all(&tlb.stale(&cpus, time));
    }

    /// Flushes all CPUs that did not flush since `time`: before a frame that was used at that time gets another owner.
    pub(crate) fn flush_since(&self, time: u64) {
        let (tlb, online) = (self.frames.tlb(), self.platform.online_cpus());
        // As nearly always.
        if !online.all(|cpu| tlb.is_clean(cpu, time)) {
            self.flush_tlb_all(&tlb.stale(&online, time));
        }
    }

    /// Flushes whole TLBs, and notes it. An empty set is nothing to do, and no time passes: guests may ask for it in a loop.
    pub fn flush_tlb_all(&self, cpus: &CpuMask) {
        let (tlb, here) = (self.frames.tlb(), self.platform.this_cpu());
        if cpus.is_only(here) {
            let tick = tlb.begin_flush();
            self.platform.flush_tlb_here(Flush::All);
            tlb.flushed(here, tick);
        } else if !cpus.is_empty() {
            let tick = tlb.begin_flush();
            self.platform.flush_tlb(cpus, Flush::All);
            cpus.iter().for_each(|cpu| tlb.flushed(cpu, tick));
        }
    }

    /// Loads the calling vCPU's page tables anew, which flushes this CPU's TLB, and notes it.
    pub fn reload_page_tables(&self, vcpu: &crate::domain::Vcpu<P>) {
        let tick = self.frames.tlb().begin_flush();
        self.platform.load_page_tables(vcpu);
        self.frames.tlb().flushed(self.platform.this_cpu(), tick);
    }
}
