//! What a CPU is to do before it returns to a guest: one word, and an interrupt that makes the CPU look at it.
//!
//! Anybody raises work. The CPU itself looks at the word with interrupts off on every way to a guest and before it halts, so that
//! an interrupt which comes after the look makes it look again. Whoever raises something on another CPU interrupts it, unless
//! there was something in the word: then the CPU has yet to look, or was interrupted already.

use crate::platform::Work;
use crate::sync::Word;
use core::sync::atomic::{AtomicU32, Ordering};

/// The word of one CPU.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RaisedWork(Raised<AtomicU32>);

/// The protocol, over any kind of word.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Raised<W>(W);

impl RaisedWork {
    /// Nothing to do.
    pub const fn new() -> Self {
        Self(Raised(AtomicU32::new(0)))
    }

    /// Raises work; `Work::empty()` for no more than a look at the vCPU's event flags. Answers whether the CPU must be interrupted,
    /// if it is another one than this.
    #[inline(always)]
    pub fn raise(&self, work: Work) -> bool {
        self.0.raise(work)
    }

    /// On the CPU itself: takes all that was raised.
    #[inline(always)]
    pub fn take(&self) -> Work {
        self.0.take()
    }

    /// On the CPU itself: whether there is something to take.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) != 0
    }
}

impl<W: Word<u32>> Raised<W> {
    #[inline(always)]
    pub fn raise(&self, work: Work) -> bool {
        self.0.set_bits(work.bits()) == 0
    }

    #[inline(always)]
    pub fn take(&self) -> Work {
        Work::from_bits_retain(self.0.exchange(0))
    }
}
