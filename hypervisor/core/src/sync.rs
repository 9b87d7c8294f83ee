//! The seam under the protocols with guests and between CPUs: words that several sides access at the same time.
//!
//! What a protocol does to shared words is written once, generic over [`Word`]. Shipped code uses the words of the frames, of
//! vCPUs and of CPUs; the model checks use `loom`'s, which try every order in which the steps of all sides can take effect.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A word that others change at the same time. All accesses but [`Word::put`] are in one order (`SeqCst`).
pub trait Word<V = u64> {
    /// The value now.
    fn read(&self) -> V;
    /// Stores a value. What this CPU did before is seen by every CPU that reads it.
    fn put(&self, new: V);
    /// Stores a value; answers what was there.
    fn exchange(&self, new: V) -> V;
    /// Sets bits; answers what was there.
    fn set_bits(&self, bits: V) -> V;
    /// Clears bits; answers what was there.
    fn clear_bits(&self, bits: V) -> V;
    /// Flips bits; answers what was there.
    fn flip_bits(&self, bits: V) -> V;
    /// Adds, around the end of the numbers; answers what was there.
    fn add(&self, more: V) -> V;
    /// Stores `new` if the value is `old`.
    ///
    /// # Errors
    /// The value, where it is another one.
    fn replace(&self, old: V, new: V) -> Result<V, V>;
    /// A moment of waiting for another CPU to change the word.
    fn pause();
}

/// CPUs that go one after the other, in the order in which they came. So each waits for those only that came before it.
#[derive(Debug, Default)]
pub(crate) struct Turns<W = AtomicU32> {
    /// The number that the next CPU to come gets.
    next: W,
    /// The number whose turn it is.
    now: W,
}

impl Turns {
    /// None waits.
    pub const fn new() -> Self {
        Self { next: AtomicU32::new(0), now: AtomicU32::new(0) }
    }
}

impl<W: Word<u32>> Turns<W> {
    /// Does `act` when it is this CPU's turn. It waits for nothing that another CPU does in its own turn.
    pub fn take<R>(&self, act: impl FnOnce() -> R) -> R {
        let mine = self.next.add(1);
        while self.now.read() != mine {
            W::pause();
        }
        let answer = act();
        self.now.put(mine.wrapping_add(1));
        answer
    }
}

/// A lock that CPUs get in the order in which they came, so that each waits for those only that came before it.
///
/// It guards what the vCPUs of one domain lock as often as they like and on many CPUs, and another domain, or the hypervisor in its own
/// work, locks as well: the frame allocator, grant tables, the ports of a domain (and, in the binary, the heap). For what belongs to one
/// domain or one CPU a plain lock is enough and one instruction shorter. No handler of an interrupt takes it: it may have interrupted a CPU that
/// is in line, and would wait behind that one.
pub(crate) use spin::mutex::{TicketMutex as FairMutex, TicketMutexGuard as FairMutexGuard};

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word<$value> for $atomic {
            #[inline(always)]
            fn read(&self) -> $value {
                self.load(Ordering::SeqCst)
            }

            #[inline(always)]
            fn put(&self, new: $value) {
                self.store(new, Ordering::Release);
            }

            #[inline(always)]
            fn exchange(&self, new: $value) -> $value {
                self.swap(new, Ordering::SeqCst)
            }

            #[inline(always)]
            fn set_bits(&self, bits: $value) -> $value {
                self.fetch_or(bits, Ordering::SeqCst)
            }

            #[inline(always)]
            fn clear_bits(&self, bits: $value) -> $value {
                self.fetch_and(!bits, Ordering::SeqCst)
            }

            #[inline(always)]
            fn flip_bits(&self, bits: $value) -> $value {
                self.fetch_xor(bits, Ordering::SeqCst)
            }

            #[inline(always)]
            fn add(&self, more: $value) -> $value {
                self.fetch_add(more, Ordering::SeqCst)
            }

            #[inline(always)]
            fn replace(&self, old: $value, new: $value) -> Result<$value, $value> {
                self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            }

            #[inline(always)]
            fn pause() {
                core::hint::spin_loop();
            }
        }
    };
}

word!(AtomicU64, u64);
word!(AtomicU32, u32);

/// A word that another CPU accesses before each step of this one.
#[cfg(test)]
pub(crate) struct Contested<'a> {
    /// The word.
    pub word: &'a AtomicU64,
    /// What the other CPU does each time.
    pub other: &'a dyn Fn(),
}

#[cfg(test)]
impl Contested<'_> {
    fn step(&self) -> &AtomicU64 {
        (self.other)();
        self.word
    }
}

#[cfg(test)]
impl Word for Contested<'_> {
    fn read(&self) -> u64 {
        self.step().read()
    }

    fn put(&self, new: u64) {
        self.step().put(new);
    }

    fn exchange(&self, new: u64) -> u64 {
        self.step().exchange(new)
    }

    fn set_bits(&self, bits: u64) -> u64 {
        self.step().set_bits(bits)
    }

    fn clear_bits(&self, bits: u64) -> u64 {
        self.step().clear_bits(bits)
    }

    fn flip_bits(&self, bits: u64) -> u64 {
        self.step().flip_bits(bits)
    }

    fn add(&self, more: u64) -> u64 {
        self.step().add(more)
    }

    fn replace(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.step().replace(old, new)
    }

    fn pause() {}
}

/// `loom` orders accesses by acquire and release only, so that the one order of all of them is made by fences: beside each change, as the
/// processor has them, and not beside reads, which may come before an older [`Word::put`] is seen.
#[cfg(test)]
mod checked {
    use super::Word;
    use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    fn in_order<R>(access: impl FnOnce() -> R) -> R {
        fence(Ordering::SeqCst);
        let result = access();
        fence(Ordering::SeqCst);
        result
    }

    macro_rules! checked {
        ($atomic:ty, $value:ty) => {
            impl Word<$value> for $atomic {
                fn read(&self) -> $value {
                    self.load(Ordering::SeqCst)
                }

                fn put(&self, new: $value) {
                    self.store(new, Ordering::Release);
                }

                fn exchange(&self, new: $value) -> $value {
                    in_order(|| self.swap(new, Ordering::SeqCst))
                }

                fn set_bits(&self, bits: $value) -> $value {
                    in_order(|| self.fetch_or(bits, Ordering::SeqCst))
                }

                fn clear_bits(&self, bits: $value) -> $value {
                    in_order(|| self.fetch_and(!bits, Ordering::SeqCst))
                }

                fn flip_bits(&self, bits: $value) -> $value {
                    in_order(|| self.fetch_xor(bits, Ordering::SeqCst))
                }

                fn add(&self, more: $value) -> $value {
                    in_order(|| self.fetch_add(more, Ordering::SeqCst))
                }

                fn replace(&self, old: $value, new: $value) -> Result<$value, $value> {
                    in_order(|| self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst))
                }

                fn pause() {
                    loom::thread::yield_now();
                }
            }
        };
    }

    checked!(AtomicU64, u64);
    checked!(AtomicU32, u32);
}
