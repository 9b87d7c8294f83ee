//! The seam under protocols on shared words: what they do is written once, generic over [`Word`]. Kernels use the
//! processor's words; the model checks use those of `loom`, which try every order in which the steps of several sides
//! can take effect.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

/// A word that others change at the same time. All accesses are in one order.
pub(crate) trait Word {
    /// The value now.
    fn read(&self) -> u32;
    /// Stores a value.
    fn write(&self, value: u32);
    /// Stores a value; answers what was there.
    fn swap(&self, value: u32) -> u32;
    /// Sets bits; answers what was there.
    fn set_bits(&self, bits: u32) -> u32;
    /// Clears bits; answers what was there.
    fn clear_bits(&self, bits: u32) -> u32;
    /// Adds to the value, which wraps around.
    fn add(&self, number: u32);
    /// Stores `new` if the value is `old`.
    ///
    /// # Errors
    ///
    /// The value, where it is another one.
    fn replace(&self, old: u32, new: u32) -> Result<(), u32>;
}

impl Word for AtomicU32 {
    fn read(&self) -> u32 {
        self.load(SeqCst)
    }

    fn write(&self, value: u32) {
        self.store(value, SeqCst);
    }

    fn swap(&self, value: u32) -> u32 {
        AtomicU32::swap(self, value, SeqCst)
    }

    fn set_bits(&self, bits: u32) -> u32 {
        self.fetch_or(bits, SeqCst)
    }

    fn clear_bits(&self, bits: u32) -> u32 {
        self.fetch_and(!bits, SeqCst)
    }

    fn add(&self, number: u32) {
        self.fetch_add(number, SeqCst);
    }

    fn replace(&self, old: u32, new: u32) -> Result<(), u32> {
        self.compare_exchange(old, new, SeqCst, SeqCst).map(drop)
    }
}

/// `loom` orders accesses by acquire and release only, so the one order of all of them is made by fences.
#[cfg(test)]
mod checked {
    use loom::sync::atomic::Ordering::SeqCst;
    use loom::sync::atomic::{AtomicU32, fence};

    use super::Word;

    fn in_order<R>(access: impl FnOnce() -> R) -> R {
        fence(SeqCst);
        let result = access();
        fence(SeqCst);
        result
    }

    impl Word for AtomicU32 {
        fn read(&self) -> u32 {
            in_order(|| self.load(SeqCst))
        }

        fn write(&self, value: u32) {
            in_order(|| self.store(value, SeqCst));
        }

        fn swap(&self, value: u32) -> u32 {
            in_order(|| AtomicU32::swap(self, value, SeqCst))
        }

        fn set_bits(&self, bits: u32) -> u32 {
            in_order(|| self.fetch_or(bits, SeqCst))
        }

        fn clear_bits(&self, bits: u32) -> u32 {
            in_order(|| self.fetch_and(!bits, SeqCst))
        }

        fn add(&self, number: u32) {
            in_order(|| self.fetch_add(number, SeqCst));
        }

        fn replace(&self, old: u32, new: u32) -> Result<(), u32> {
            in_order(|| self.compare_exchange(old, new, SeqCst, SeqCst).map(drop))
        }
    }
}
