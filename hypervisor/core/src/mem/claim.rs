//! Frames that are set aside, and the floor below which no domain takes any.
//!
//! The hypervisor allocates in places where it cannot fail: it would have to stop the machine. So some free frames are the
//! hypervisor's alone: the *floor* ([`MOST_SPARED`], or a 64th of the machine). Whatever a domain asks for ([`Taker`]) is judged in the
//! step that takes the frames, against what is free beyond the floor and beyond what is set aside for others:
//!
//! | what grows | taker |
//! |---|---|
//! | a domain's memory, at whichever request | [`Taker::Memory`] |
//! | grant tables, `shared_info` | [`Taker::Growth`] |
//! | the new frames of an exchange | [`Taker::Loan`] |
//! | the hypervisor's heap and its own page tables | [`Taker::Hypervisor`] |
//!
//! Only the last one goes below the floor. The heap grows at a guest's wish, too, so whatever the hypervisor keeps for a domain
//! beyond the call that made it is judged before, like frames ([`FrameAllocator::has_room`]), or paid for when the domain is made
//! ([`FrameAllocator::promise`]). What is allocated without being judged lives no longer than a hypercall, or there is a fixed
//! number of it for each vCPU or domain, far less than was paid for, and a page holds it. Each CPU has one hypercall at a time, with
//! two such pages at most. Several CPUs may be told at the same time that there is room for the same frames: for up to six each. So no
//! more than eight frames per CPU are outstanding below the floor, and a small allocation that cannot fail finds a frame. What takes
//! more than a page is allocated fallibly: the floor is made of single frames.
//!
//! A [`Claim`] is what is set aside for one domain. `pages` are for its memory (`XENMEM_claim_pages`), `promised` for what the
//! hypervisor keeps for it. Claims and promises are judged against what is free beyond the floor as well. The claim of a domain that is
//! started again after its end lasts from one life to the next: it is *kept*. The frames that such a domain leaves are added to it, in the
//! step that makes them free, so no other domain gets them in between.

use super::buddy::{FrameAllocator, Lists};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Free frames that no domain gets: eight for each of 256 CPUs, or a 64th of the machine where that is less.
const MOST_SPARED: u64 = 2048;

/// No more than this part of the floor is lent to domains that are made again, in place of what was promised to them and is in the heap by
/// now: others may have taken that room in the heap.
const CREDIT: u64 = 2;

/// The floor of a machine with so many frames.
pub(super) const fn floor_of(frames: usize) -> u64 {
    let part = frames as u64 / 64;
    if part < MOST_SPARED { part } else { MOST_SPARED }
}

/// Frames that an allocation of so many bytes on the heap takes at most, its surroundings included.
pub(crate) const fn frames_for(bytes: usize) -> u64 {
    bytes as u64 / crate::ids::PAGE_SIZE as u64 + 2
}

/// What is set aside for a domain. Changed by the allocator only, under its lock.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Frames for its memory, beyond what it has.
    pages: AtomicU64,
    /// Frames for what the hypervisor keeps for it.
    promised: AtomicU64,
    /// It lasts beyond the end of its domain, and grows by the frames that the domain leaves.
    kept: AtomicBool,
    /// Frames that went out of what was promised into the heap, for what was kept for the domain in this life and before. The heap keeps
    /// them when the domain ends.
    heap: AtomicU64,
    /// Frames of these that this life may still use: there are no others in their place.
    credit: AtomicU64,
}

impl Claim {
    /// Frames that are set aside for the domain's memory.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    fn promised(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    fn credit(&self) -> u64 {
        self.credit.load(Ordering::Relaxed)
    }

    /// Whether it is to last beyond the end of its domain.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

/// Who takes frames.
#[derive(Clone, Copy)]
pub(crate) enum Taker<'a> {
    /// The hypervisor, for what must not fail.
    Hypervisor,
    /// A domain, as memory: first out of its claim.
    Memory(&'a Claim),
    /// The hypervisor, for something that grows with a domain: out of what is promised to it where no others are left.
    Growth(&'a Claim),
    /// A domain that gives as many for them later.
    Loan,
}

impl FrameAllocator {
    /// Whether the heap may grow by `frames` for something that the hypervisor keeps for the domain with the claim `own`. Where there
    /// are no others they come out of what is promised to it.
    pub(crate) fn has_room(&self, own: &Claim, frames: u64) -> bool {
        let mut lists = self.lists.lock();
        match lists.judge(Taker::Growth(own), self.free_count(), frames, self.floor()) {
            Some(drawn) => {
                lists.draw(Taker::Growth(own), drawn);
                own.heap.fetch_add(drawn, Ordering::Relaxed);
                true
            }
            // Its former life left room for it in the heap.
            None if own.credit() >= frames => {
                lists.set_credit(own, own.credit() - frames);
                true
            }
            None => false,
        }
    }

    /// Whether `frames` are left beyond the floor and all that is set aside.
    pub fn has_spare(&self, frames: u64) -> bool {
        self.fits(&self.lists.lock(), frames)
    }

    #[inline(never)]
    fn fits(&self, lists: &Lists, frames: u64) -> bool {
        lists.judge(Taker::Loan, self.free_count(), frames, self.floor()).is_some()
    }

    /// Free frames that a domain can have: those beyond the floor that are not set aside for others than the one with the claim `own`.
    pub(crate) fn available(&self, own: &Claim) -> u64 {
        let lists = self.lists.lock();
        let left = self.free_count().saturating_sub(self.floor());
        let beside = |others: u64| left.saturating_sub(others.saturating_sub(own.pages()));
        // What is all its own is not kept from it by what others are owed beyond what there is.
        beside(lists.set_aside()).max(beside(lists.claimed).min(own.pages()))
    }

    /// Sets `frames` free frames aside for the memory of the domain with the claim `own`, which has none yet; answers whether there are
    /// as many.
    pub(crate) fn claim(&self, own: &Claim, frames: u64) -> bool {
        let mut lists = self.lists.lock();
        let fits = self.fits(&lists, frames);
        if fits && own.pages() == 0 {
            lists.set(own, frames, own.promised());
        }
        fits
    }

    /// Gives up what is set aside for a domain's memory, unless it is kept.
    pub(crate) fn drop_claim(&self, own: &Claim) {
        let mut lists = self.lists.lock();
        if !own.is_kept() {
            lists.set(own, 0, own.promised());
        }
    }

    /// A domain with a claim gives a frame back: it is set aside for it, too.
    pub(crate) fn extend_claim(&self, own: &Claim) {
        let mut lists = self.lists.lock();
        if own.pages() != 0 {
            lists.set(own, own.pages() + 1, own.promised());
        }
    }

    /// Sets `frames` free frames aside for what the hypervisor will keep for a domain that is begun. Answers whether there are as many.
    pub(crate) fn promise(&self, own: &Claim, frames: u64) -> bool {
        let mut lists = self.lists.lock();
        let fits = self.fits(&lists, frames);
        if fits {
            lists.set(own, own.pages(), own.promised() + frames);
        }
        fits
    }

    /// Promises `frames` to a domain in all, and claims nothing more for its memory. Where there are not as many no domain gets any until
    /// enough came back.
    pub(crate) fn owe(&self, own: &Claim, frames: u64) {
        self.lists.lock().set(own, 0, frames);
    }

    /// As [`FrameAllocator::owe`], of a domain that was begun again: no more than there are. What is missing is in the heap, where it comes
    /// back at the domain's end.
    pub(crate) fn owe_again(&self, own: &Claim, frames: u64) {
        let mut lists = self.lists.lock();
        lists.set(own, 0, own.promised());
        lists.set_credit(own, 0);
        let left = self.free_count().saturating_sub(self.floor().saturating_add(lists.set_aside()));
        let more = frames.saturating_sub(own.promised()).min(left);
        lists.set(own, 0, own.promised() + more);
    }

    /// So many frames of those of [`FrameAllocator::promise`] were taken, or are not needed. What a kept claim promises stays: its domain's
    /// former life left room in the heap for what is taken.
    pub(crate) fn redeem(&self, own: &Claim, frames: u64) {
        let mut lists = self.lists.lock();
        if !own.is_kept() {
            lists.set(own, own.pages(), own.promised().saturating_sub(frames));
        }
    }

    /// From now on a claim lasts beyond the end of its domain.
    pub(crate) fn keep_claim(&self, own: &Claim) {
        let _lists = self.lists.lock();
        own.kept.store(true, Ordering::Relaxed);
    }

    /// Gives up everything that is set aside by a claim, kept or not.
    pub(crate) fn forget_claim(&self, own: &Claim) {
        let mut lists = self.lists.lock();
        own.kept.store(false, Ordering::Relaxed);
        lists.set(own, 0, 0);
        lists.set_credit(own, 0);
    }

    /// Makes a kept claim one of `pages` and `promised` frames. What is missing comes from the frames that all may have; where these are not
    /// enough, the heap has what was drawn out of the promise before ([`CREDIT`]). Answers whether there are enough, and leaves it as it is otherwise.
    pub(crate) fn renew_claim(&self, own: &Claim, pages: u64, promised: u64) -> bool {
        let mut lists = self.lists.lock();
        let missing = pages.saturating_add(promised).saturating_sub(own.pages() + own.promised());
        let fits = |missing: u64| {
            missing == 0 || lists.judge(Taker::Loan, self.free_count(), missing, self.floor()).is_some()
        };
        let most = (self.floor() / CREDIT).saturating_sub(lists.credit - own.credit());
        let heap = own.heap.load(Ordering::Relaxed).min(promised);
        let credit = if fits(missing) { 0 } else { heap.min(missing).min(most) };
        let fits = fits(missing - credit);
        if fits {
            own.heap.store(heap, Ordering::Relaxed);
            lists.set(own, pages, promised - credit);
            lists.set_credit(own, credit);
        }
        fits
    }

    /// Free frames that are set aside for the memory of domains.
    pub fn claimed(&self) -> u64 {
        self.lists.lock().claimed
    }
}

impl Lists {
    /// Free frames that no domain gets without a claim.
    fn set_aside(&self) -> u64 {
        self.claimed.saturating_add(self.promised)
    }

    /// Whether `frames` of `free` ones may be taken, and then how many of them come out of what is set aside for the taker.
    pub(super) fn judge(&self, taker: Taker<'_>, free: u64, frames: u64, floor: u64) -> Option<u64> {
        let left = free.checked_sub(frames)?;
        let least = floor.saturating_add(self.set_aside());
        let drawn = match taker {
            Taker::Hypervisor => return (left >= self.claimed).then_some(0),
            // What is all its own is not kept from it by what others are owed beyond what there is.
            Taker::Memory(own) if own.pages() >= frames => {
                let others = self.claimed - frames;
                return (left >= floor.saturating_add(others)).then_some(frames);
            }
            Taker::Memory(own) => own.pages().min(frames),
            // Likewise.
            Taker::Growth(own) if left < least && own.promised() >= frames => {
                return (left >= floor.saturating_add(self.claimed)).then_some(frames);
            }
            Taker::Growth(_) | Taker::Loan => 0,
        };
        (left >= least - drawn).then_some(drawn)
    }

    /// Takes what [`Lists::judge`] answered out of what is set aside for the taker.
    pub(super) fn draw(&mut self, taker: Taker<'_>, drawn: u64) {
        match taker {
            Taker::Memory(own) if drawn != 0 => self.set(own, own.pages() - drawn, own.promised()),
            Taker::Growth(own) if drawn != 0 => self.set(own, own.pages(), own.promised() - drawn),
            _ => {}
        }
    }

    /// `frames` become free that a domain with this claim leaves at its end.
    pub(super) fn leave(&mut self, own: &Claim, frames: u64) {
        if own.is_kept() {
            self.set(own, own.pages() + frames, own.promised());
        }
    }

    fn set_credit(&mut self, own: &Claim, credit: u64) {
        self.credit = self.credit + credit - own.credit.swap(credit, Ordering::Relaxed);
    }

    fn set(&mut self, own: &Claim, pages: u64, promised: u64) {
        self.claimed = self.claimed + pages - own.pages.swap(pages, Ordering::Relaxed);
        self.promised = self.promised + promised - own.promised.swap(promised, Ordering::Relaxed);
    }
}
