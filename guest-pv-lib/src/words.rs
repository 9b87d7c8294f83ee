//! Bytes into and out of memory that others change at any time: shared pages, as slices of atomic words.
//!
//! They move in words of eight bytes, by the processor's string instructions: a byte is copied once, whatever the other
//! side does meanwhile, so what was copied can be checked and then believed. Nothing is ordered by these copies: an
//! index that is loaded or stored with acquire or release semantics does that.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// A word of memory that this domain has mapped for reading only, and that its owner changes at any time: an [`AtomicU32`]
/// without the ways to write it, which would fault.
#[derive(Debug)]
#[repr(transparent)]
pub struct ReadWord(AtomicU32);

impl ReadWord {
    /// The same words for a user that only reads them.
    #[must_use]
    pub const fn of(words: &[AtomicU32]) -> &[Self] {
        // SAFETY: the same layout, for as long, and fewer rights.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast::<Self>(), words.len()) }
    }

    /// The value now.
    ///
    /// # Panics
    ///
    /// Where `order` is one of a store, as [`AtomicU32::load`] does.
    #[must_use]
    pub fn load(&self, order: Ordering) -> u32 {
        assert!(!matches!(order, Ordering::Release | Ordering::AcqRel), "a load has no {order:?} ordering");
        // Of memory that cannot be written Rust promises relaxed loads only.
        let value = self.0.load(Relaxed);
        if order != Relaxed {
            fence(order);
        }
        value
    }
}

/// Copies the bytes from byte `offset` of `words` on, which cannot be written, to `into`, which they fill.
///
/// # Panics
///
/// Where they do not lie within `words`.
pub fn copy_out_read_only(words: &[ReadWord], offset: usize, into: &mut [u8]) {
    let from = start(words, offset, into.len());
    // SAFETY: `into` is exclusively borrowed, and the source lies within memory that may be read.
    unsafe { string_copy(into.as_mut_ptr(), from, into.len()) }
}

/// The address of byte `offset`, where `len` bytes behind it lie within `words`.
///
/// # Panics
///
/// Where they do not: the caller's mistake.
fn start<W>(words: &[W], offset: usize, len: usize) -> *const u8 {
    let size = size_of_val(words);
    let fits = offset.checked_add(len).is_some_and(|end| end <= size);
    assert!(fits, "{len} bytes at {offset} of {size}");
    words.as_ptr().cast::<u8>().wrapping_add(offset)
}

/// The same for words that can be written.
fn address(words: &[AtomicU32], offset: usize, len: usize) -> *mut u8 {
    start(words, offset, len).cast_mut()
}

/// Copies `bytes` to byte `offset` of `words` and on.
///
/// # Panics
///
/// Where they do not lie within `words`.
pub fn copy_in(words: &[AtomicU32], offset: usize, bytes: &[u8]) {
    let to = address(words, offset, bytes.len());
    // SAFETY: `bytes` may be read, and the target lies within atomics, which may be written through a shared reference.
    unsafe { string_copy(to, bytes.as_ptr(), bytes.len()) }
}

/// Copies the bytes from byte `offset` of `words` on to `into`, which they fill.
///
/// # Panics
///
/// Where they do not lie within `words`.
pub fn copy_out(words: &[AtomicU32], offset: usize, into: &mut [u8]) {
    let from = address(words, offset, into.len());
    // SAFETY: `into` is exclusively borrowed, and the source lies within memory of the domain's that may be read.
    unsafe { string_copy(into.as_mut_ptr(), from, into.len()) }
}

/// Copies `len` bytes between shared memories, which may be the same but not overlap in these bytes.
///
/// # Panics
///
/// Where they do not lie within `to` and `from`.
pub fn copy(to: &[AtomicU32], to_offset: usize, from: &[AtomicU32], from_offset: usize, len: usize) {
    let (to, from) = (address(to, to_offset, len), address(from, from_offset, len));
    // SAFETY: both lie within atomics. Where they overlap, bytes come out mixed, which atomics' contents may be.
    unsafe { string_copy(to, from, len) }
}

/// Sets `len` bytes from byte `offset` of `words` on to zero.
///
/// # Panics
///
/// Where they do not lie within `words`.
pub fn clear(words: &[AtomicU32], offset: usize, len: usize) {
    let to = address(words, offset, len);
    // SAFETY: the target lies within atomics; the instructions write `len` bytes there, upwards, because the direction
    // flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {rest:e}",
            "rep stosb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// The copy itself. In assembly, because a plain copy of Rust must not meet a writer, and here one may be at work: the
/// processor reads or writes each byte once, like relaxed atomics.
///
/// # Safety
///
/// `len` bytes may be read from `from` and written to `to`; if others change one of them meanwhile, it is shared memory.
unsafe fn string_copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::Ordering::Relaxed;
    use std::vec::Vec;

    use super::*;

    fn memory(words: usize) -> Vec<AtomicU32> {
        (0..words).map(|_| AtomicU32::new(0xeeee_eeee)).collect()
    }

    #[test]
    fn bytes_arrive_at_any_offset_and_length_and_nowhere_else() {
        let source: Vec<u8> = (0..64).collect();
        for offset in 0..20 {
            for len in 0..40 {
                let words = memory(16);
                copy_in(&words, offset, &source[..len]);
                let mut all = [0; 64];
                copy_out(&words, 0, &mut all);
                assert!(all[..offset].iter().chain(&all[offset + len..]).all(|&byte| byte == 0xee));
                assert_eq!(all[offset..offset + len], source[..len]);
                let mut part = Vec::from([0; 40]);
                copy_out(&words, offset, &mut part[..len]);
                assert_eq!(part[..len], source[..len]);
                let other = memory(16);
                copy(&other, 3, &words, offset, len);
                copy_out(&other, 3, &mut part[..len]);
                assert_eq!(part[..len], source[..len]);
                clear(&words, offset, len);
                copy_out(&words, 0, &mut all);
                assert!(all[offset..offset + len].iter().all(|&byte| byte == 0));
                assert!(all[offset + len..].iter().all(|&byte| byte == 0xee));
            }
        }
    }

    #[test]
    fn words_that_are_only_read_have_the_same_bytes() {
        let words = [AtomicU32::new(0x0403_0201), AtomicU32::new(0x0807_0605)];
        let words = ReadWord::of(&words);
        let mut bytes = [0; 5];
        copy_out_read_only(words, 2, &mut bytes);
        assert_eq!(bytes, [3, 4, 5, 6, 7]);
        assert_eq!(
            [Relaxed, Ordering::Acquire, Ordering::SeqCst].map(|order| words[1].load(order)),
            [0x0807_0605; 3]
        );
    }

    #[test]
    #[should_panic = "no Release ordering"]
    fn a_load_is_no_store() {
        let _ = ReadWord(AtomicU32::new(0)).load(Ordering::Release);
    }

    #[test]
    fn words_are_in_memory_order() {
        let words = memory(2);
        copy_in(&words, 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(words[1].load(Relaxed), 0x0807_0605);
    }

    #[test]
    #[should_panic = "2 bytes at 3 of 4"]
    fn the_end_is_the_end() {
        copy_out(&memory(1), 3, &mut [0; 2]);
    }

    #[test]
    #[should_panic = "bytes at 18446744073709551615"]
    fn an_offset_beyond_all_memory_is_found() {
        copy_in(&memory(1), usize::MAX, &[0; 2]);
    }
}
