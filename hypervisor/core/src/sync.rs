//! The seam under the protocols with guests: 64-bit words that both sides access at the same time.
//!
//! What a protocol does to shared words is written once, generic over [`Word`]. Shipped code uses the words of the frames; the
//! model checks use `loom`'s, which try every order in which the steps of both sides can take effect.

use core::sync::atomic::{AtomicU64, Ordering};

/// A word that others change at the same time. All accesses are in one order (`SeqCst`).
pub(crate) trait Word {
    /// The value now.
    fn read(&self) -> u64;
    /// Sets bits; answers what was there.
    fn set_bits(&self, bits: u64) -> u64;
    /// Clears bits; answers what was there.
    fn clear_bits(&self, bits: u64) -> u64;
    /// Flips bits; answers what was there.
    fn flip_bits(&self, bits: u64) -> u64;
    /// Stores `new` if the value is `old`.
    ///
    /// # Errors
    /// The value, where it is another one.
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn read(&self) -> u64 {
        self.load(Ordering::SeqCst)
    }

    #[inline(always)]
    fn set_bits(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::SeqCst)
    }

    #[inline(always)]
    fn clear_bits(&self, bits: u64) -> u64 {
        self.fetch_and(!bits, Ordering::SeqCst)
    }

    #[inline(always)]
    fn flip_bits(&self, bits: u64) -> u64 {
        self.fetch_xor(bits, Ordering::SeqCst)
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}

/// `loom` orders accesses by acquire and release only, so that the one order of all of them is made by fences.
#[cfg(test)]
mod checked {
    use super::Word;
    use loom::sync::atomic::{AtomicU64, Ordering, fence};

    fn in_order<R>(access: impl FnOnce() -> R) -> R {
        fence(Ordering::SeqCst);
        let result = access();
        fence(Ordering::SeqCst);
        result
    }

    impl Word for AtomicU64 {
        fn read(&self) -> u64 {
            in_order(|| self.load(Ordering::SeqCst))
        }

        fn set_bits(&self, bits: u64) -> u64 {
            in_order(|| self.fetch_or(bits, Ordering::SeqCst))
        }

        fn clear_bits(&self, bits: u64) -> u64 {
            in_order(|| self.fetch_and(!bits, Ordering::SeqCst))
        }

        fn flip_bits(&self, bits: u64) -> u64 {
            in_order(|| self.fetch_xor(bits, Ordering::SeqCst))
        }

        fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
            in_order(|| self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst))
        }
    }
}
