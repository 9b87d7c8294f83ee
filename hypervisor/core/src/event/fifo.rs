//! The FIFO ABI: a word per port, linked into queues by vCPU and priority (event_channel.h, and Xen's
//! event-channel FIFO design).
//!
//! The guest allocates the pages of words and, for each vCPU, a control block with the heads of its sixteen queues.
//! We link an event at a queue's tail, the guest takes it from the head. Both change the same words: a
//! *linked* word stays in its queue until the guest unlinks it, even when its event moves to another vCPU or priority
//! meanwhile.
//!
//! # Invariants
//!
//! - The tails of a vCPU's queues are guarded by its lock. An event is linked while the locks of the vCPU it notifies
//!   now and of the vCPU it was linked at last are held (lower vCPU first), so `last` does not change under a linker.
//! - Guest pages are touched only with at least one vCPU's lock held and after `ports` was read under it, or with the
//!   domain's mutex held. Leaving sets `ports` to 0 and then takes every lock once, so that no sender is left in
//!   the pages when they are given back (`leave`).
//! - All loops over words that the guest writes are bounded: a guest that writes what it must not loses its own events.

mod leave;

pub(super) use leave::Leaving;

use super::slot::Slot;
use super::{Changes, EventError};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{MachineAddr, Mfn, PAGE_SIZE, Port, VcpuId};
use crate::page::{PageError, PageType};
use crate::platform::{GuestFrame, Platform};
use crate::sync::Word;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::{Mutex, MutexGuard, Once};
use xen_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EvtchnFifoControlBlock,
};

const WORDS_PER_PAGE: u32 = PAGE_SIZE as u32 / 4;
/// Ports whose saved events are raised between two looks for other work: each may wake a vCPU of its own.
const RAISED: u32 = 8;
/// Bytes of what is kept for a domain of this ABI, without those for each vCPU.
const FIFO_BYTES: usize = MAX_PAGES * (size_of::<AtomicU64>() + size_of::<Once<Box<[AtomicU32]>>>());
const MAX_PAGES: usize = (EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE) as usize;
const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
/// Attempts at a word that the guest may legally change four times, and whose neighbour it may change as well.
const LINK_TRIES: u32 = 64;
/// Attempts at the right locks, each of which fails only when another CPU linked the same event.
const LOCK_TRIES: u32 = 64;

/// Tails of a vCPU's queues, by priority; 0: the queue is empty.
type Tails = [u32; EVTCHN_FIFO_MAX_QUEUES];

/// What a vCPU has of the FIFO ABI.
struct FifoVcpu {
    /// Machine address of its control block, 0 while there is none. Changes under the lock of `tails`.
    control: AtomicU64,
    tails: Mutex<Tails>,
}

/// A page of words that was added, and the ports whose saved events are not raised yet.
pub(super) struct Raising {
    frame: Mfn,
    next: u32,
    end: u32,
}

/// The FIFO state of a domain.
pub(super) struct Fifo {
    /// Ports below this have a word.
    ports: AtomicU32,
    /// Frames of the words, in order.
    pages: Box<[AtomicU64]>,
    /// For each port of each page: the queue it was linked to last, as vCPU * 16 + priority.
    last: Box<[Once<Box<[AtomicU32]>>]>,
    vcpus: Box<[FifoVcpu]>,
}

/// A 32-bit word of the guest within the 64-bit word that is accessed.
pub(super) struct EventWord<'a, W = AtomicU64> {
    pub word: &'a W,
    pub shift: u32,
}

impl<W: Word> EventWord<'_, W> {
    fn load(&self) -> u32 {
        self.extract(self.word.read())
    }

    fn extract(&self, value: u64) -> u32 {
        (value >> self.shift & u64::from(u32::MAX)) as u32
    }

    /// Sets bits; answers what was there.
    fn set(&self, bits: u32) -> u32 {
        self.extract(self.word.set_bits(u64::from(bits) << self.shift))
    }

    /// Clears bits; answers what was there.
    fn clear(&self, bits: u32) -> u32 {
        self.extract(self.word.clear_bits(u64::from(bits) << self.shift))
    }

    /// Stores a value in one step that cannot fail. Only this side may write the word at the same time.
    fn store(&self, value: u32) {
        let flips = self.load() ^ value;
        self.word.flip_bits(u64::from(flips) << self.shift);
    }

    /// Makes a linked word point to `next`; answers whether it was linked still (then `next` is reachable).
    fn set_link(&self, next: u32) -> bool {
        if let Some(linked) = self.try_link(next, 1) {
            return linked;
        }
        // A busy word is not unmasked by the guest, so that only its few other changes can get in between.
        self.set(BUSY);
        match self.try_link(next, LINK_TRIES) {
            Some(true) => true,
            other => {
                self.clear(BUSY);
                other.is_none()
            }
        }
    }

    fn try_link(&self, next: u32, tries: u32) -> Option<bool> {
        let mut old = self.word.read();
        for _ in 0..tries {
            let event = self.extract(old);
            if event & LINKED == 0 {
                return Some(false);
            }
            let linked = event & !(BUSY | EVTCHN_FIFO_LINK_MASK) | next & EVTCHN_FIFO_LINK_MASK;
            let new = old & !(u64::from(u32::MAX) << self.shift) | u64::from(linked) << self.shift;
            match self.word.replace(old, new) {
                Ok(_) => return Some(true),
                Err(now) => old = now,
            }
        }
        None
    }
}

/// Makes an event reachable: by the queue's tail, or by its head where the tail left the queue. Answers whether the vCPU must
/// be told.
pub(super) fn link<W: Word>(
    tail: Option<&EventWord<'_, W>>,
    head: &EventWord<'_, W>,
    ready: &EventWord<'_, W>,
    priority: usize,
    port: Port,
) -> bool {
    if tail.is_some_and(|tail| tail.set_link(port.0)) {
        return false;
    }
    head.store(port.0);
    ready.set(1 << priority) & 1 << priority == 0
}

/// The locks that linking an event needs.
struct QueueLocks<'a> {
    tails: MutexGuard<'a, Tails>,
    old: Option<MutexGuard<'a, Tails>>,
}

impl Fifo {
    fn new(vcpus: usize) -> Result<Self, EventError> {
        let mut list = Vec::new();
        list.try_reserve_exact(vcpus).map_err(|_| EventError::NoMemory)?;
        list.resize_with(vcpus, || FifoVcpu {
            control: AtomicU64::new(0),
            tails: Mutex::new([0; EVTCHN_FIFO_MAX_QUEUES]),
        });
        Ok(Self {
            ports: AtomicU32::new(0),
            pages: (0..MAX_PAGES).map(|_| AtomicU64::new(0)).collect(),
            last: (0..MAX_PAGES).map(|_| Once::new()).collect(),
            vcpus: list.into_boxed_slice(),
        })
    }

    /// The port's word, if its page is there.
    fn word<'a, P: Platform>(&self, platform: &'a P, port: Port) -> Option<EventWord<'a>> {
        if port.0 >= self.ports.load(Ordering::Acquire) {
            return None;
        }
        let page = self.pages.get((port.0 / WORDS_PER_PAGE) as usize)?;
        let index = (port.0 % WORDS_PER_PAGE) as usize;
        let word = platform.words(GuestFrame::held(Mfn(page.load(Ordering::Acquire)))).get(index / 2)?;
        Some(EventWord { word, shift: 32 * (port.0 % 2) })
    }

    /// The 32-bit word at this byte of a control block.
    fn control_word<P: Platform>(platform: &P, control: u64, offset: usize) -> Option<EventWord<'_>> {
        let at = MachineAddr(control + offset as u64);
        let word = platform.words(GuestFrame::held(at.mfn())).get(at.page_offset() / 8)?;
        Some(EventWord { word, shift: if at.0 % 8 < 4 { 0 } else { 32 } })
    }

    fn has_word(&self, port: Port) -> bool {
        port.0 < self.ports.load(Ordering::SeqCst)
    }

    fn last(&self, port: Port) -> Option<&AtomicU32> {
        self.last.get((port.0 / WORDS_PER_PAGE) as usize)?.get()?.get((port.0 % WORDS_PER_PAGE) as usize)
    }

    fn vcpu(&self, vcpu: u32) -> Option<&FifoVcpu> {
        self.vcpus.get(vcpu as usize)
    }

    /// Locks the queues of the vCPU to notify and of the one in `last`; answers the value of `last` that this fits.
    fn lock_queues(&self, vcpu: VcpuId, last: &AtomicU32) -> Option<(QueueLocks<'_>, u32)> {
        let new = self.vcpu(vcpu.0)?;
        for _ in 0..LOCK_TRIES {
            let seen = last.load(Ordering::SeqCst);
            let old_vcpu = seen / EVTCHN_FIFO_MAX_QUEUES as u32;
            let old = self.vcpu(old_vcpu)?;
            let locks = if old_vcpu == vcpu.0 {
                QueueLocks { tails: new.tails.lock(), old: None }
            } else if vcpu.0 < old_vcpu {
                let tails = new.tails.lock();
                QueueLocks { tails, old: Some(old.tails.lock()) }
            } else {
                let old = old.tails.lock();
                QueueLocks { tails: new.tails.lock(), old: Some(old) }
            };
            if last.load(Ordering::SeqCst) == seen {
                return Some((locks, seen));
            }
        }
        None
    }

    /// Whether an event waits on the port.
    pub(super) fn is_pending<P: Platform>(&self, platform: &P, port: Port) -> bool {
        let _lock = self.any_lock();
        self.word(platform, port).is_some_and(|w| w.load() & PENDING != 0)
    }

    /// Whether the guest masked the port, or it has no word.
    pub(super) fn is_masked<P: Platform>(&self, platform: &P, port: Port) -> bool {
        let _lock = self.any_lock();
        self.word(platform, port).is_none_or(|w| w.load() & MASKED != 0)
    }

    /// Whether the port's word is in some queue still, so that the port must not be used anew. The caller holds the
    /// domain's mutex.
    pub(super) fn is_linked<P: Platform>(&self, platform: &P, port: Port) -> bool {
        self.word(platform, port).is_some_and(|w| w.load() & LINKED != 0)
    }

    /// Takes an event back. The caller holds the domain's mutex.
    pub(super) fn clear_pending<P: Platform>(&self, platform: &P, port: Port) {
        if let Some(word) = self.word(platform, port) {
            word.clear(PENDING);
        }
    }

    /// Unmasks the port; answers whether an event is pending there, which must be linked then.
    pub(super) fn unmask<P: Platform>(&self, platform: &P, port: Port, vcpu: VcpuId) -> bool {
        let Some(queues) = self.vcpu(vcpu.0) else { return false };
        let _lock = queues.tails.lock();
        self.word(platform, port).is_some_and(|w| w.clear(MASKED) & PENDING != 0)
    }

    fn any_lock(&self) -> Option<MutexGuard<'_, Tails>> {
        self.vcpus.first().map(|v| v.tails.lock())
    }
}

/// If the event was the tail of the queue it was in last, that queue is empty now: nothing may be linked to it there.
fn leave_old_queue(locks: &mut QueueLocks<'_>, seen: u32, port: Port) {
    let old_priority = seen as usize % EVTCHN_FIFO_MAX_QUEUES;
    let tails = locks.old.as_mut().unwrap_or(&mut locks.tails);
    if tails[old_priority] == port.0 {
        tails[old_priority] = 0;
    }
}

/// The next ports whose saved events are to be raised, which counts as done.
fn next_part<P: Platform>(domain: &Domain<P>, changes: &mut Changes) -> Range<u32> {
    let Some(raising) = &mut changes.raising else { return 0..0 };
    let end = raising.end.min(domain.events.slots.valid());
    let part = raising.next..(raising.next + RAISED).min(end);
    raising.next = part.end.max(part.start);
    if part.end >= end {
        changes.raising = None;
    }
    part
}

fn new_last() -> Result<Box<[AtomicU32]>, EventError> {
    let mut last = Vec::new();
    last.try_reserve_exact(WORDS_PER_PAGE as usize).map_err(|_| EventError::NoMemory)?;
    last.resize_with(WORDS_PER_PAGE as usize, || AtomicU32::new(0));
    Ok(last.into_boxed_slice())
}

impl<P: Platform> Hypervisor<P> {
    /// Shows an event to the guest. Answers whether it was not pending already.
    pub(super) fn fifo_set_pending(
        &self,
        domain: &Arc<Domain<P>>,
        fifo: &Fifo,
        port: Port,
        slot: &Slot,
    ) -> bool {
        let state = slot.load();
        let (vcpu, priority) = (state.vcpu(), state.priority());
        if !fifo.has_word(port) {
            slot.save_event();
            // The page may have come, and its saved events been raised, just before this one was saved.
            if !fifo.has_word(port) || !slot.take_saved_event() {
                return false;
            }
        }
        let Some(last) = fifo.last(port) else { return false };
        let Some((mut locks, seen)) = fifo.lock_queues(vcpu, last) else { return false };
        let control = fifo.vcpu(vcpu.0).map_or(0, |v| v.control.load(Ordering::SeqCst));
        let Some(word) = fifo.word(&self.platform, port).filter(|_| control != 0) else { return false };
        let old = word.set(PENDING);
        if old & MASKED != 0 || word.set(LINKED) & LINKED != 0 {
            return old & PENDING == 0;
        }
        leave_old_queue(&mut locks, seen, port);
        last.store(vcpu.0 * EVTCHN_FIFO_MAX_QUEUES as u32 + priority as u32, Ordering::SeqCst);
        let first = self.append(fifo, &mut locks.tails, control, priority, port);
        drop(locks);
        if first && let Some(info) = self.vcpu_info(domain, vcpu) {
            self.mark_upcall(domain, vcpu, &info);
        }
        old & PENDING == 0
    }

    /// Links an event at the end of a queue. Answers whether the vCPU must be told that this queue has events.
    fn append(&self, fifo: &Fifo, tails: &mut Tails, control: u64, priority: usize, port: Port) -> bool {
        let tail = core::mem::replace(&mut tails[priority], port.0);
        let tail = if tail == 0 { None } else { fifo.word(&self.platform, Port(tail)) };
        let word = |offset| Fifo::control_word(&self.platform, control, offset);
        let head = word(offset_of!(EvtchnFifoControlBlock, head) + 4 * priority);
        let ready = word(offset_of!(EvtchnFifoControlBlock, ready));
        match (head, ready) {
            (Some(head), Some(ready)) => link(tail.as_ref(), &head, &ready, priority, port),
            _ => false,
        }
    }

    /// Gives a vCPU its control block, and switches the domain to the FIFO ABI with the first one
    /// (`EVTCHNOP_init_control`).
    ///
    /// # Errors
    /// [`EventError::NoSuchVcpu`], [`EventError::Invalid`] for a vCPU that has one already, a block that is misaligned or
    /// crosses a page, or a frame that the domain cannot write; [`EventError::NoMemory`]; [`EventError::Restart`].
    pub fn fifo_init_control(
        &self,
        domain: &Arc<Domain<P>>,
        vcpu: VcpuId,
        frame: Mfn,
        offset: u32,
    ) -> Result<(), EventError> {
        super::vcpu_exists(domain, vcpu)?;
        self.give_all_pages_back(domain)?;
        if offset as usize > PAGE_SIZE - size_of::<EvtchnFifoControlBlock>() || !offset.is_multiple_of(8) {
            return Err(EventError::Invalid);
        }
        let place = |changes: &Changes| -> Result<&FifoVcpu, EventError> {
            if changes.leaving.is_some() {
                return Err(EventError::Restart);
            }
            let fifo = domain.events.fifo.try_call_once(|| {
                self.room_for_ports(domain, domain.vcpus.len() * size_of::<FifoVcpu>() + FIFO_BYTES)?;
                Fifo::new(domain.vcpus.len())
            })?;
            let queues = fifo.vcpu(vcpu.0).ok_or(EventError::NoSuchVcpu)?;
            if queues.control.load(Ordering::SeqCst) != 0 {
                return Err(EventError::Invalid);
            }
            Ok(queues)
        };
        self.use_event_page(domain, frame, place, |_, queues| {
            {
                let _tails = queues.tails.lock();
                queues.control.store(frame.addr().0 + u64::from(offset), Ordering::SeqCst);
            }
            if !domain.events.uses_fifo.swap(true, Ordering::SeqCst) {
                self.carry_over_pending(domain);
            }
        })
    }

    /// Takes a page of the domain's that the hypervisor writes to, and has `add` put it at the place that `place` finds. Both are
    /// called with the ports locked.
    ///
    /// Taking the page may mean to give up page tables, or to wait until another CPU has given them up, so the ports are not locked
    /// meanwhile. The place is looked for twice: before, because Xen answers what is wrong with the place first, and after,
    /// because only that counts.
    fn use_event_page<T>(
        &self,
        domain: &Domain<P>,
        frame: Mfn,
        place: impl Fn(&Changes) -> Result<T, EventError>,
        add: impl FnOnce(&mut Changes, T),
    ) -> Result<(), EventError> {
        place(&domain.events.changes.lock())?;
        self.get_event_page(domain, frame)?;
        let mut changes = domain.events.changes.lock();
        match place(&changes) {
            Ok(found) => {
                add(&mut changes, found);
                Ok(())
            }
            Err(error) => {
                drop(changes);
                self.put_page_and_type(frame);
                Err(error)
            }
        }
    }

    /// Remembers the events that are pending with the two-level ABI, until their words are there. Every bound port has the default
    /// priority: that ABI has no other. A guest may set the bits of all 4096 ports, so what is done for each is little.
    fn carry_over_pending(&self, domain: &Domain<P>) {
        for (n, mut pending) in (0..).zip(self.two_level_pending(domain)) {
            let Some(slots) = domain.events.slots.step(n) else { return };
            if n == 0 {
                // There is no port 0.
                pending &= !1;
            }
            while pending != 0 {
                if let Some(slot) = slots.get(pending.trailing_zeros() as usize) {
                    slot.save_event();
                }
                pending &= pending - 1;
            }
        }
    }

    /// Adds a page of event words (`EVTCHNOP_expand_array`), and raises the events that were saved for want of these words.
    ///
    /// # Errors
    /// [`EventError::NotFifo`] before the first control block, [`EventError::NoPort`] when there are words for all ports,
    /// [`EventError::Invalid`] for a frame that the domain cannot write, [`EventError::NoMemory`]; [`EventError::Restart`].
    pub fn fifo_expand_array(&self, domain: &Arc<Domain<P>>, frame: Mfn) -> Result<(), EventError> {
        let mut added = false;
        loop {
            let mut changes = domain.events.changes.lock();
            domain.events.fifo().ok_or(EventError::NotFifo)?;
            let Some(raising) = &changes.raising else {
                if added {
                    return Ok(());
                }
                drop(changes);
                self.add_page(domain, frame)?;
                added = true;
                continue;
            };
            // The page that this hypercall added before it was to be made again; or another one, of which the rest comes first.
            added |= raising.frame == frame;
            let part = next_part(domain, &mut changes);
            let over = added && changes.raising.is_none();
            // Peers wait for this lock, and to wake vCPUs takes longer than they should wait.
            drop(changes);
            self.ask_only(true);
            self.raise_saved(domain, part);
            self.ask_only(false);
            if over {
                return Ok(());
            }
            if self.platform.work_pending() {
                return Err(EventError::Restart);
            }
        }
    }

    /// Adds a page, the events of which are to be raised then.
    ///
    /// # Errors
    /// As [`Self::fifo_expand_array`]; [`EventError::Restart`] also when another vCPU was first and its page's events are being raised.
    fn add_page(&self, domain: &Arc<Domain<P>>, frame: Mfn) -> Result<(), EventError> {
        let place = |changes: &Changes| {
            let fifo = domain.events.fifo().ok_or(EventError::NotFifo)?;
            if changes.raising.is_some() {
                return Err(EventError::Restart);
            }
            let first = fifo.ports.load(Ordering::SeqCst);
            let index = (first / WORDS_PER_PAGE) as usize;
            let page = fifo.pages.get(index).ok_or(EventError::NoPort)?;
            fifo.last[index].try_call_once(|| {
                self.room_for_ports(domain, WORDS_PER_PAGE as usize * size_of::<AtomicU32>())?;
                new_last()
            })?;
            Ok((fifo, first, page))
        };
        self.use_event_page(domain, frame, place, |changes, (fifo, first, page)| {
            page.store(frame.0, Ordering::SeqCst);
            // Senders take this for the sign that the words are there: it comes last.
            fifo.ports.store(first + WORDS_PER_PAGE, Ordering::SeqCst);
            changes.raising = Some(Raising { frame, next: first, end: first + WORDS_PER_PAGE });
        })
    }

    /// Raises the events of these ports that were saved for want of their words. The vCPUs that poll them are woken later.
    fn raise_saved(&self, domain: &Arc<Domain<P>>, part: Range<u32>) {
        for port in part.map(Port) {
            let Some(slot) = domain.events.slots.get(port) else { return };
            let guard = slot.lock();
            if slot.take_saved_event() {
                self.set_pending(domain, port, guard.slot());
            }
        }
    }

    /// Takes a page of the domain's that the hypervisor writes to.
    pub(super) fn get_event_page(&self, domain: &Domain<P>, frame: Mfn) -> Result<(), EventError> {
        self.get_page_and_type(domain, frame, PageType::Writable).map_err(|error| match error {
            PageError::Restart => EventError::Restart,
            _ => EventError::Invalid,
        })
    }
}

#[cfg(test)]
impl Fifo {
    /// The domain's frames for which it holds a reference each.
    pub(super) fn frames(&self) -> std::vec::Vec<Mfn> {
        let controls = self.vcpus.iter().map(|vcpu| vcpu.control.load(Ordering::SeqCst) >> 12);
        let pages = self.pages.iter().map(|page| page.load(Ordering::SeqCst));
        controls.chain(pages).filter(|mfn| *mfn != 0).map(Mfn).collect()
    }
}
