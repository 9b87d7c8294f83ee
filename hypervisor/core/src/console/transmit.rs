//! Bytes on their way to a serial line that is slower than those who write: the machine's console fills the queue, the
//! transmitter's interrupt empties it.
//!
//! What finds no room is lost as a whole, and from then on everything until half of the queue is empty again: a stretch that is whole,
//! one that is missing, and a note with its size in between. Text of guests may fill half of the queue and is kept back where it finds
//! no room ([`Transmit::guest_room`]), so that a guest cannot make the hypervisor's own messages disappear.

use core::fmt::{self, Write};

/// Bytes that are always free for the note.
const NOTE: usize = 64;

/// A queue of at most `N` bytes.
pub struct Transmit<const N: usize> {
    bytes: [u8; N],
    /// Where the oldest byte is.
    first: usize,
    len: usize,
    /// Bytes that were lost behind the newest one; 0 while half of the queue is empty.
    lost: usize,
}

impl<const N: usize> Transmit<N> {
    const VALID: () = assert!(N >= 4 * NOTE);

    /// Nothing to transmit.
    pub const fn new() -> Self {
        let () = Self::VALID;
        Self { bytes: [0; N], first: 0, len: 0, lost: 0 }
    }

    /// Adds bytes, or loses all of them.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.lost != 0 || bytes.len() > N - NOTE - self.len {
            self.lost += bytes.len();
            self.end_loss();
        } else {
            self.append(bytes);
        }
    }

    /// Takes the oldest bytes, as many as there are and find room; answers how many.
    pub fn pop(&mut self, to: &mut [u8]) -> usize {
        let count = self.len.min(to.len());
        let straight = count.min(N - self.first);
        to[..straight].copy_from_slice(&self.bytes[self.first..self.first + straight]);
        to[straight..count].copy_from_slice(&self.bytes[..count - straight]);
        self.first = (self.first + count) % N;
        self.len -= count;
        self.end_loss();
        count
    }

    /// Whether there is nothing to transmit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of guests' text that find room.
    pub fn guest_room(&self) -> usize {
        if self.lost != 0 { 0 } else { (N / 2).saturating_sub(self.len) }
    }

    /// Says how much was lost, once there is room again.
    fn end_loss(&mut self) {
        if self.lost == 0 || self.len > N / 2 {
            return;
        }
        let lost = core::mem::take(&mut self.lost);
        // Half of the queue is more than the note.
        let _ = write!(Appender(self), "\r\n(HV) *** {lost} bytes are lost here\r\n");
    }

    /// Adds bytes for which there is room.
    fn append(&mut self, bytes: &[u8]) {
        let end = (self.first + self.len) % N;
        let (straight, around) = bytes.split_at(bytes.len().min(N - end));
        self.bytes[end..end + straight.len()].copy_from_slice(straight);
        self.bytes[..around.len()].copy_from_slice(around);
        self.len += bytes.len();
    }
}

impl<const N: usize> Default for Transmit<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Formats the note.
struct Appender<'a, const N: usize>(&'a mut Transmit<N>);

impl<const N: usize> Write for Appender<'_, N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.append(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use std::format;
    use std::vec;

    const SIZE: usize = 512;

    fn all(queue: &mut Transmit<SIZE>) -> Vec<u8> {
        let mut got = Vec::new();
        let mut chunk = [0; 16];
        loop {
            let count = queue.pop(&mut chunk);
            if count == 0 {
                return got;
            }
            got.extend_from_slice(&chunk[..count]);
        }
    }

    #[test]
    fn what_is_lost_is_told() {
        let mut queue = Transmit::<SIZE>::new();
        queue.push(&[b'a'; SIZE - NOTE]);
        queue.push(b"first");
        queue.push(b"second");
        let text = String::from_utf8(all(&mut queue)).unwrap();
        assert_eq!(text, format!("{}\r\n(HV) *** 11 bytes are lost here\r\n", "a".repeat(SIZE - NOTE)));
        queue.push(b"third");
        assert_eq!(all(&mut queue), b"third");
    }

    #[test]
    fn guests_have_half_of_it() {
        let mut queue = Transmit::<SIZE>::new();
        assert_eq!(queue.guest_room(), SIZE / 2);
        queue.push(&[b'g'; SIZE / 2 - 3]);
        assert_eq!(queue.guest_room(), 3);
        queue.push(&[b'h'; 100]);
        assert_eq!(queue.guest_room(), 0);
        assert_eq!(all(&mut queue).len(), SIZE / 2 + 97);
    }

    proptest! {
        /// Against a model: what was taken comes out once and in order, each write as a whole; the sizes in the notes are what is missing.
        #[test]
        fn nothing_is_torn(steps in prop::collection::vec((any::<bool>(), 0usize..600), 1..200)) {
            let mut queue = Transmit::<SIZE>::new();
            let (mut out, mut sent, mut number) = (Vec::new(), 0usize, 0u32);
            for (push, size) in steps {
                if push {
                    // A write is its number between brackets, and dots.
                    let mut bytes = format!("[{number}").into_bytes();
                    bytes.resize(bytes.len() + size, b'.');
                    bytes.push(b']');
                    queue.push(&bytes);
                    sent += bytes.len();
                    number += 1;
                } else {
                    let mut chunk = vec![0; size];
                    let count = queue.pop(&mut chunk);
                    prop_assert!(count <= size);
                    out.extend_from_slice(&chunk[..count]);
                }
                prop_assert!(queue.len <= SIZE && queue.guest_room() <= SIZE / 2);
            }
            out.extend(all(&mut queue));
            let text = String::from_utf8(out).unwrap();
            let (mut came, mut lost, mut last) = (0, 0, None);
            for part in text.split("\r\n") {
                if let Some(note) = part.strip_prefix("(HV) *** ") {
                    lost += note.split(' ').next().unwrap().parse::<usize>().unwrap();
                    continue;
                }
                for write in part.split_inclusive(']') {
                    prop_assert!(write.starts_with('[') && write.ends_with(']'), "{write}");
                    let digits = write.trim_matches(['[', ']', '.']);
                    let number = digits.parse::<u32>().unwrap();
                    prop_assert!(last.is_none_or(|last| last < number));
                    last = Some(number);
                    came += write.len();
                }
            }
            prop_assert_eq!(came + lost, sent);
        }
    }
}
