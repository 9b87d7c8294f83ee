//! Which vector is next: the request and in-service registers of a local APIC, and its priorities (Intel SDM vol. 3,
//! 11.8).

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU8, AtomicU32};

/// 256 bits.
type Bits = [AtomicU32; 8];

/// The interrupts of one CPU. Others request; the CPU itself takes and ends.
#[derive(Debug)]
pub struct Vectors {
    requested: Bits,
    in_service: Bits,
    priority: AtomicU8,
}

/// What a CPU keeps for [`apic`](super).
#[derive(Debug)]
pub(crate) struct State {
    pub(super) vectors: Vectors,
    /// The port that says that a vector was requested; 0: the CPU takes none.
    pub(super) port: AtomicU32,
    pub(super) timer_port: AtomicU32,
    pub(super) timer_vector: AtomicU8,
}

impl State {
    pub const fn new() -> Self {
        Self {
            vectors: Vectors::new(),
            port: AtomicU32::new(0),
            timer_port: AtomicU32::new(0),
            timer_vector: AtomicU8::new(0),
        }
    }
}

fn highest(bits: &Bits) -> Option<u8> {
    let words = bits.iter().enumerate().rev();
    words.map(|(at, word)| (at, word.load(SeqCst))).find(|&(_, word)| word != 0).map(|(at, word)| {
        // Eight words of 32 bits: the number fits.
        (at as u32 * 32 + 31 - word.leading_zeros()) as u8
    })
}

const fn place(vector: u8) -> (usize, u32) {
    (vector as usize / 32, 1 << (vector % 32))
}

impl Vectors {
    /// Nothing requested, nothing in service, everything allowed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requested: [const { AtomicU32::new(0) }; 8],
            in_service: [const { AtomicU32::new(0) }; 8],
            priority: AtomicU8::new(0),
        }
    }

    /// Requests a vector. False where it was requested already.
    pub fn request(&self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        self.requested[word].fetch_or(bit, SeqCst) & bit == 0
    }

    /// The vector that may come now, if there is one.
    fn ready(&self) -> Option<u8> {
        let vector = highest(&self.requested)?;
        let floor = highest(&self.in_service).unwrap_or(0).max(self.priority.load(SeqCst)) >> 4;
        // Class 0 is below every floor: vectors 0 to 15 are not interrupts.
        (vector >> 4 > floor).then_some(vector)
    }

    /// Whether [`next`](Self::next) has one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready().is_some()
    }

    /// Takes the vector that may come now into service.
    #[must_use]
    pub fn next(&self) -> Option<u8> {
        let vector = self.ready()?;
        let (word, bit) = place(vector);
        self.in_service[word].fetch_or(bit, SeqCst);
        self.requested[word].fetch_and(!bit, SeqCst);
        Some(vector)
    }

    /// Ends the vector in service that has the highest priority; does nothing where there is none.
    pub fn end(&self) {
        if let Some(vector) = highest(&self.in_service) {
            let (word, bit) = place(vector);
            self.in_service[word].fetch_and(!bit, SeqCst);
        }
    }

    /// Holds back vectors whose upper four bits are not above those of `priority`.
    pub fn set_priority(&self, priority: u8) {
        self.priority.store(priority, SeqCst);
    }
}

impl Default for Vectors {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_comes_first_and_holds_its_class() {
        let vectors = Vectors::new();
        for vector in [0x31, 0xf0, 0x45] {
            assert!(vectors.request(vector));
        }
        assert!(!vectors.request(0x45), "requested already");
        assert_eq!(vectors.next(), Some(0xf0));
        assert!(!vectors.is_ready(), "lower ones wait");
        vectors.end();
        assert_eq!(vectors.next(), Some(0x45));
        vectors.request(0x4f);
        assert_eq!(vectors.next(), None, "the same class waits");
        vectors.request(0x50);
        assert_eq!(vectors.next(), Some(0x50), "a higher class does not");
        vectors.end();
        assert_eq!(vectors.next(), None);
        vectors.end();
        assert_eq!((vectors.next(), vectors.is_ready()), (Some(0x4f), false));
        vectors.end();
        assert_eq!(vectors.next(), Some(0x31));
        vectors.end();
        vectors.end();
        assert_eq!(vectors.next(), None);
    }

    #[test]
    fn one_in_service_may_be_requested_again() {
        let vectors = Vectors::new();
        vectors.request(0x80);
        assert_eq!(vectors.next(), Some(0x80));
        assert!(vectors.request(0x80));
        vectors.end();
        assert_eq!(vectors.next(), Some(0x80));
    }

    #[test]
    fn the_task_priority_holds_back_its_class() {
        let vectors = Vectors::new();
        vectors.set_priority(0x50);
        vectors.request(0x5f);
        assert_eq!(vectors.next(), None);
        vectors.request(0x60);
        assert_eq!(vectors.next(), Some(0x60));
        vectors.end();
        vectors.set_priority(0x4f);
        assert_eq!(vectors.next(), Some(0x5f));
        vectors.end();
        vectors.set_priority(0);
        vectors.request(0x0f);
        assert_eq!(vectors.next(), None, "not an interrupt");
    }
}
