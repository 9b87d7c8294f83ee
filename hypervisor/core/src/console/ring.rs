//! The hypervisor's end of a domain's console ring (`io/console.h`), for domains that no other domain serves.
//!
//! The ring is one page of the domain, on which the hypervisor holds a reference as writable memory, so that it can
//! neither change its owner nor its type while the ring is in use. The indexes that this end writes are kept here: what
//! stands in the page is only ever told to the guest. A guest that makes nonsense of its own indexes loses text, and
//! nothing else.

use crate::ids::{Mfn, Port};
use crate::platform::FrameWords;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use spin::{Mutex, MutexGuard};
use xen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface, mask_xencons_idx};

/// The word of the guest's index of `in` (low half) and ours (high half).
const IN_INDEXES: usize = offset_of!(XenconsInterface, in_cons) / 8;
/// The word of our index of `out` (low half) and the guest's (high half).
const OUT_INDEXES: usize = offset_of!(XenconsInterface, out_cons) / 8;
const OUT_BYTES: usize = offset_of!(XenconsInterface, out);

/// Input that waits at most for a guest that does not read.
const BACKLOG: usize = 4096;

/// A console ring that the hypervisor serves.
pub(super) struct Ring {
    /// The page.
    pub(super) mfn: Mfn,
    /// The guest's port.
    pub(super) port: Port,
    end: Mutex<RingEnd>,
}

impl Ring {
    /// A ring that was just made in this page, for this port.
    pub(super) fn new(mfn: Mfn, port: Port) -> Self {
        Self { mfn, port, end: Mutex::new(RingEnd::default()) }
    }

    /// This end of the ring, locked: while the answer is held the page stays the ring's. `None` when the ring was closed; its page may
    /// be in use for anything then.
    pub(super) fn open(&self) -> Option<MutexGuard<'_, RingEnd>> {
        let end = self.end.lock();
        (!end.closed).then_some(end)
    }
}

/// What this end knows of the ring.
#[derive(Default)]
pub(super) struct RingEnd {
    out_cons: u32,
    in_prod: u32,
    /// Bytes of output that had been announced when the line had no room, and are not taken yet.
    owed: u32,
    /// The page is given back, or about to be.
    closed: bool,
    backlog: VecDeque<u8>,
}

/// Adds bytes to a queue as far as it has room, with at most `capacity` in all, and there is memory; answers how many.
#[inline(never)]
pub(super) fn add_bytes(queue: &mut VecDeque<u8>, capacity: usize, bytes: &[u8]) -> usize {
    let room = capacity.saturating_sub(queue.len()).min(bytes.len());
    if queue.try_reserve(room).is_err() {
        return 0;
    }
    queue.extend(&bytes[..room]);
    room
}

impl RingEnd {
    /// Ends the use of the page by this end: from now on [`Ring::open`] refuses.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Takes at most `most` bytes of output, and of lines no more than `lines`.
    pub(super) fn take_output(&mut self, page: &FrameWords, most: usize, lines: usize) -> Vec<u8> {
        let indexes = page[OUT_INDEXES].load(Ordering::Acquire);
        let produced = (indexes >> 32) as u32;
        let waiting = produced.wrapping_sub(self.out_cons);
        if waiting > XENCONS_OUT_SIZE {
            self.advance_out(page, waiting);
            return Vec::new();
        }
        let byte = |n: u32| {
            let at = OUT_BYTES + mask_xencons_idx(self.out_cons.wrapping_add(n), XENCONS_OUT_SIZE);
            page[at / 8].load(Ordering::Relaxed).to_le_bytes()[at % 8]
        };
        let mut bytes = Vec::with_capacity((waiting as usize).min(most));
        let mut ends = 0;
        for n in 0..waiting {
            if bytes.len() == most || ends == lines {
                break;
            }
            bytes.push(byte(n));
            ends += usize::from(bytes.ends_with(b"\n"));
        }
        self.advance_out(page, bytes.len() as u32);
        bytes
    }

    /// Remembers how much waits: that much is written when the line has room, and what comes later needs an event of its own.
    pub(super) fn owe_output(&mut self, page: &FrameWords) {
        let produced = (page[OUT_INDEXES].load(Ordering::Acquire) >> 32) as u32;
        self.owed = produced.wrapping_sub(self.out_cons).min(XENCONS_OUT_SIZE);
    }

    /// Takes a part of the output that is owed, at most `most` bytes and `lines` lines.
    pub(super) fn take_owed(&mut self, page: &FrameWords, most: usize, lines: usize) -> Vec<u8> {
        let bytes = self.take_output(page, most.min(self.owed as usize), lines);
        if bytes.is_empty() {
            // The guest took it back.
            self.owed = 0;
        }
        bytes
    }

    /// Whether output is owed.
    pub(super) fn owes_output(&self) -> bool {
        self.owed != 0
    }

    /// Whether the guest wrote more than was taken.
    pub(super) fn has_output(&self, page: &FrameWords) -> bool {
        (page[OUT_INDEXES].load(Ordering::Acquire) >> 32) as u32 != self.out_cons
    }

    /// Moves our index on. One addition to the word that also has the guest's index, which a plain store would undo.
    fn advance_out(&mut self, page: &FrameWords, count: u32) {
        self.owed = self.owed.saturating_sub(count);
        let next = self.out_cons.wrapping_add(count);
        let carry = u64::from(next < self.out_cons) << 32;
        page[OUT_INDEXES].fetch_add(u64::from(count).wrapping_sub(carry), Ordering::AcqRel);
        self.out_cons = next;
    }

    /// Adds input; what finds no room in the backlog is lost, as on any line without flow control.
    pub(super) fn add_input(&mut self, bytes: &[u8]) {
        add_bytes(&mut self.backlog, BACKLOG, bytes);
    }

    /// Moves input into the ring as far as there is room; answers whether there was any to move.
    pub(super) fn give_input(&mut self, page: &FrameWords) -> bool {
        let consumed = (page[IN_INDEXES].load(Ordering::Acquire) & 0xffff_ffff) as u32;
        let used = self.in_prod.wrapping_sub(consumed);
        let room = XENCONS_IN_SIZE.saturating_sub(used) as usize;
        let count = room.min(self.backlog.len());
        for byte in self.backlog.drain(..count) {
            let at = mask_xencons_idx(self.in_prod, XENCONS_IN_SIZE);
            put_byte(page, at, byte);
            self.in_prod = self.in_prod.wrapping_add(1);
        }
        page[IN_INDEXES].fetch_add((count as u64) << 32, Ordering::AcqRel);
        count != 0
    }
}

/// Writes one byte of a ring that only this end writes.
fn put_byte(page: &FrameWords, at: usize, byte: u8) {
    let shift = at % 8 * 8;
    let old = page[at / 8].load(Ordering::Relaxed);
    page[at / 8].store(old & !(0xff << shift) | u64::from(byte) << shift, Ordering::Relaxed);
}
