//! The ring's memory as words that both ends may touch at any time.

use core::ops::Deref;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, fence};

use xen_abi::io::ring::{
    RingTypes, SRING_REQ_EVENT_OFFSET, SRING_REQ_PROD_OFFSET, SRING_RING_OFFSET, SRING_RSP_EVENT_OFFSET,
    SRING_RSP_PROD_OFFSET, ring_size, slot_offset,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Error;

/// A word that both ends may touch at any time: [`AtomicU32`]. The model checks have their own.
pub trait Word: Sealed {
    #[doc(hidden)]
    fn read(&self, order: Ordering) -> u32;
    #[doc(hidden)]
    fn write(&self, value: u32, order: Ordering);
    /// Orders everything before it against everything behind it, of all words.
    #[doc(hidden)]
    fn fence();
}

/// Only this crate knows words.
pub trait Sealed {}

impl Sealed for AtomicU32 {}
impl Word for AtomicU32 {
    #[inline(always)]
    fn read(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    #[inline(always)]
    fn write(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    #[inline(always)]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// `loom`'s words, of which it tries every order.
#[cfg(test)]
mod checked {
    use super::{Ordering, Sealed, Word};
    use loom::sync::atomic::{AtomicU32, fence};

    impl Sealed for AtomicU32 {}
    impl Word for AtomicU32 {
        fn read(&self, order: Ordering) -> u32 {
            self.load(order)
        }

        fn write(&self, value: u32, order: Ordering) {
            self.store(value, order);
        }

        fn fence() {
            fence(Ordering::SeqCst);
        }
    }
}

/// The pages of a ring: anything that lends a slice of atomic words, such as `&'static [AtomicU32]` of mapped pages
/// or `Arc<[AtomicU32]>` in a test. Several pages must lie one behind the other.
pub trait Memory: Deref<Target = [<Self as Memory>::Word]> {
    /// What it consists of.
    type Word: Word;
}

impl<W: Word, M: Deref<Target = [W]>> Memory for M {
    type Word = W;
}

/// The four indices of the header, as numbers of words.
#[derive(Clone, Copy)]
pub(super) enum Index {
    ReqProd = SRING_REQ_PROD_OFFSET as isize / 4,
    ReqEvent = SRING_REQ_EVENT_OFFSET as isize / 4,
    RspProd = SRING_RSP_PROD_OFFSET as isize / 4,
    RspEvent = SRING_RSP_EVENT_OFFSET as isize / 4,
}

/// Memory with the layout of a ring of protocol `P`.
#[derive(Debug)]
pub(super) struct Shared<P, M> {
    memory: M,
    slots: u32,
    protocol: core::marker::PhantomData<fn() -> P>,
}

impl<P: RingTypes, M: Memory> Shared<P, M> {
    /// Takes the memory as it is.
    pub fn new(memory: M) -> Result<Self, Error> {
        const { assert!(P::ENTRY_SIZE.is_multiple_of(4), "messages are whole words") };
        match ring_size(memory.len() * 4, P::ENTRY_SIZE) {
            0 => Err(Error::TooSmall),
            slots => Ok(Self { memory, slots, protocol: core::marker::PhantomData }),
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Makes it an empty ring, all of its memory zero but the event indices: the first message wakes.
    pub fn clear(&self) {
        for word in self.memory.iter() {
            word.write(0, Relaxed);
        }
        self.store(Index::ReqEvent, 1);
        self.store(Index::RspEvent, 1);
    }

    /// Reads an index; what the other end wrote before it is visible afterwards.
    pub fn load(&self, index: Index) -> u32 {
        self.memory[index as usize].read(Acquire)
    }

    /// Writes an index, behind everything that was written before.
    pub fn store(&self, index: Index, value: u32) {
        self.memory[index as usize].write(value, Release);
    }

    /// Between the write of one index and the read of another: one of both ends sees the other's write.
    pub fn fence(&self) {
        M::Word::fence();
    }

    /// The words of the slot of message `at`.
    fn slot(&self, at: u32) -> &[M::Word] {
        let start = slot_offset(at, self.slots, P::ENTRY_SIZE) / 4;
        &self.memory[start..start + P::ENTRY_SIZE / 4]
    }

    /// Copies a message into the slot of `at`.
    pub fn put<T: IntoBytes + Immutable>(&self, at: u32, message: &T) {
        let words = self.slot(at);
        let (whole, tail) = message.as_bytes().as_chunks();
        for (word, bytes) in words.iter().zip(whole) {
            word.write(u32::from_ne_bytes(*bytes), Relaxed);
        }
        if let Some(word) = words.get(whole.len()).filter(|_| !tail.is_empty()) {
            let mut last = [0; 4];
            last[..tail.len()].copy_from_slice(tail);
            word.write(u32::from_ne_bytes(last), Relaxed);
        }
    }

    /// Copies the message of `at` out.
    pub fn get<T: FromBytes + IntoBytes>(&self, at: u32) -> T {
        let mut message = T::new_zeroed();
        let words = self.slot(at);
        let (whole, tail) = message.as_mut_bytes().as_chunks_mut();
        let count = whole.len();
        for (word, bytes) in words.iter().zip(whole) {
            *bytes = word.read(Relaxed).to_ne_bytes();
        }
        if let Some(word) = words.get(count).filter(|_| !tail.is_empty()) {
            tail.copy_from_slice(&word.read(Relaxed).to_ne_bytes()[..tail.len()]);
        }
        message
    }
}

const _: () = assert!(SRING_RING_OFFSET.is_multiple_of(4));
