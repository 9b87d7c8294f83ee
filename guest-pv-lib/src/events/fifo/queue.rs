//! The queues of a CPU: what the kernel does to them while the hypervisor appends.
//!
//! For each priority the control block has the head of a queue; a set bit in its `ready` says that the queue was empty
//! and has a new head. From then on the kernel follows the links: it clears a word's link together with its bit
//! *linked*, which tells the hypervisor that nothing can be appended to that word any more, and remembers the next. At
//! a word that links to nothing the queue is empty, and the next event comes by head and `ready` again.
//!
//! Both what is left of `ready` and the heads are kept between calls, so that a handler may let an upcall in that goes
//! on with the queues: each event is taken out exactly once.

use core::sync::atomic::AtomicU32;

use xen_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MAX_QUEUES,
    EvtchnFifoControlBlock,
};

use super::{MASKED, PENDING};
use crate::sync::word::Word;

const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// `struct evtchn_fifo_control_block`: shared with the hypervisor.
#[derive(Debug)]
#[repr(C, align(8))]
pub(super) struct Control<W> {
    pub ready: W,
    _rsvd: W,
    pub head: [W; EVTCHN_FIFO_MAX_QUEUES],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Control<AtomicU32>>() == size_of::<EvtchnFifoControlBlock>());
    assert!(offset_of!(Control<AtomicU32>, head) == offset_of!(EvtchnFifoControlBlock, head));
};

/// The queues of a CPU, one for each priority.
#[derive(Debug)]
pub(crate) struct Queues<W = AtomicU32> {
    pub(super) control: Control<W>,
    /// What was ready and is not known to be empty; this CPU's own.
    ready: W,
    /// The next word of each queue, 0: at the control block's head; this CPU's own.
    head: [W; EVTCHN_FIFO_MAX_QUEUES],
}

impl Queues {
    pub const fn new() -> Self {
        Self {
            control: Control {
                ready: AtomicU32::new(0),
                _rsvd: AtomicU32::new(0),
                head: [const { AtomicU32::new(0) }; EVTCHN_FIFO_MAX_QUEUES],
            },
            ready: AtomicU32::new(0),
            head: [const { AtomicU32::new(0) }; EVTCHN_FIFO_MAX_QUEUES],
        }
    }

    /// Makes them empty, as the hypervisor's side of them is in a new domain.
    #[cfg(all(target_os = "none", feature = "alloc"))]
    pub fn reset(&self) {
        use core::sync::atomic::Ordering::Release;

        let heads = self.control.head.iter().chain(&self.head);
        heads.chain([&self.control.ready, &self.ready]).for_each(|word| word.store(0, Release));
    }

    /// Where the control block is.
    pub fn control_address(&self) -> u64 {
        &raw const self.control as u64
    }
}

impl<W: Word> Queues<W> {
    /// Takes the next event out: the port whose pending bit this cleared. `word` finds the word of a port.
    pub fn next<'a>(&self, word: impl Fn(u32) -> Option<&'a W>) -> Option<u32>
    where
        W: 'a,
    {
        loop {
            let new = self.control.ready.swap(0);
            let ready = self.ready.set_bits(new) | new;
            if ready == 0 {
                return None;
            }
            if let Some(port) = self.next_of(ready.trailing_zeros(), &word) {
                return Some(port);
            }
        }
    }

    /// Takes the first word of the queue of `priority` out; its port, where it has an event that is not masked.
    fn next_of<'a>(&self, priority: u32, word: impl Fn(u32) -> Option<&'a W>) -> Option<u32>
    where
        W: 'a,
    {
        // A bit beyond the queues is none that the hypervisor sets.
        let (head, first) = match (self.head.get(priority as usize), self.control.head.get(priority as usize))
        {
            (Some(head), Some(first)) => (head, first),
            _ => {
                self.ready.clear_bits(1 << priority);
                return None;
            }
        };
        let port = match head.read() {
            0 => first.read(),
            port => port,
        };
        let found = word(port);
        let next = found.map_or(0, unlink);
        head.write(next);
        if next == 0 {
            self.ready.clear_bits(1 << priority);
        }
        found.is_some_and(take_unmasked).then_some(port)
    }
}

/// Takes a word out of its queue; the port that it linked to.
fn unlink<W: Word>(word: &W) -> u32 {
    let mut old = word.read();
    loop {
        match word.replace(old, old & !(LINKED | EVTCHN_FIFO_LINK_MASK)) {
            Ok(()) => return old & EVTCHN_FIFO_LINK_MASK,
            Err(now) => old = now,
        }
    }
}

/// Takes the event of a word that is not masked. A masked one keeps it until it is unmasked.
fn take_unmasked<W: Word>(word: &W) -> bool {
    word.read() & MASKED == 0 && word.clear_bits(PENDING) & PENDING != 0
}

/// Clears the mask bit. False where an event is pending: the hypervisor must link it.
pub(super) fn unmask<W: Word>(word: &W) -> bool {
    let mut old = word.read();
    while old & MASKED != 0 {
        if old & PENDING != 0 {
            return false;
        }
        // A busy word is about to be linked to: wait until that is over.
        match word.replace(old & !BUSY, old & !(MASKED | BUSY)) {
            Ok(()) => return true,
            Err(now) => old = now,
        }
    }
    true
}

#[cfg(test)]
mod tests;
