//! A page of events, from back end to front end.
//!
//! The page begins with the index that the front end reads next and the one behind the last event; both run freely and
//! are taken modulo the number of slots. Each end keeps its own index; the other's is believed only as far as it fits.

use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Release};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::transport::words;

/// The indices, as numbers of words.
const CONS: usize = 0;
const PROD: usize = 1;

/// What a page holds.
pub trait Layout {
    /// One event.
    type Event: FromBytes + IntoBytes + Immutable;
    /// Byte of the first.
    const OFFSET: usize;
    /// How many there is room for.
    const SLOTS: u32;
}

/// The other end's index cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Byte of the slot of event `at`.
const fn slot<L: Layout>(at: u32) -> usize {
    L::OFFSET + (at % L::SLOTS) as usize * size_of::<L::Event>()
}

/// The back end.
#[derive(Debug)]
pub struct Producer<L, M> {
    memory: M,
    produced: u32,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout, M: Deref<Target = [AtomicU32]>> Producer<L, M> {
    /// Goes on behind the last event in `memory`, a page.
    pub fn new(memory: M) -> Self {
        let produced = memory[PROD].load(Acquire);
        Self { memory, produced, layout: PhantomData }
    }

    /// Adds an event. False: there is no room, and it is lost.
    pub fn push(&mut self, event: &L::Event) -> bool {
        if self.produced.wrapping_sub(self.memory[CONS].load(Acquire)) >= L::SLOTS {
            return false;
        }
        words::store(&self.memory, slot::<L>(self.produced), event.as_bytes());
        self.produced = self.produced.wrapping_add(1);
        self.memory[PROD].store(self.produced, Release);
        true
    }
}

/// The front end.
#[derive(Debug)]
pub struct Consumer<L, M> {
    memory: M,
    consumed: u32,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout, M: Deref<Target = [AtomicU32]>> Consumer<L, M> {
    /// Begins with a page of zeros.
    pub const fn new(memory: M) -> Self {
        Self { memory, consumed: 0, layout: PhantomData }
    }

    /// The next event.
    ///
    /// # Errors
    ///
    /// [`Corrupt`].
    pub fn pop(&mut self) -> Result<Option<L::Event>, Corrupt> {
        match self.memory[PROD].load(Acquire).wrapping_sub(self.consumed) {
            0 => Ok(None),
            there if there > L::SLOTS => Err(Corrupt),
            _ => {
                let mut event = L::Event::new_zeroed();
                words::load(&self.memory, slot::<L>(self.consumed), event.as_mut_bytes());
                self.consumed = self.consumed.wrapping_add(1);
                self.memory[CONS].store(self.consumed, Release);
                Ok(Some(event))
            }
        }
    }
}
