//! The console ring of an ordinary domain (`io/console.h`): two byte rings in one page shared with a server.
//!
//! Indices run freely and are taken modulo the ring's size. Each side writes its own index only; what the other side
//! writes is believed no further than the ring is long.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU32};

use xen_abi::io::console::XenconsInterface;

use crate::events::{self, Port};
use crate::sched;

/// `struct xencons_interface`, as atomics.
#[doc(alias = "xencons_interface")]
#[repr(C)]
#[derive(Debug)]
pub struct Ring {
    input: [AtomicU8; 1024],
    output: [AtomicU8; 2048],
    in_cons: AtomicU32,
    in_prod: AtomicU32,
    out_cons: AtomicU32,
    out_prod: AtomicU32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Ring>() == size_of::<XenconsInterface>() && size_of::<Slot>() == 4096);
    assert!(offset_of!(Ring, output) == offset_of!(XenconsInterface, out));
    assert!(offset_of!(Ring, in_cons) == offset_of!(XenconsInterface, in_cons));
    assert!(offset_of!(Ring, out_prod) == offset_of!(XenconsInterface, out_prod));
};

impl Ring {
    const fn new() -> Self {
        Self {
            input: [const { AtomicU8::new(0) }; 1024],
            output: [const { AtomicU8::new(0) }; 2048],
            in_cons: AtomicU32::new(0),
            in_prod: AtomicU32::new(0),
            out_cons: AtomicU32::new(0),
            out_prod: AtomicU32::new(0),
        }
    }

    /// Puts as much of `bytes` into the output as there is room for, and returns how much that was.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let size = self.output.len() as u32;
        let produced = self.out_prod.load(Relaxed);
        // A server that claims to have read more than there was has no room to give.
        let room = size.saturating_sub(produced.wrapping_sub(self.out_cons.load(Acquire)));
        let len = bytes.len().min(room as usize);
        for (offset, &byte) in (0u32..).zip(&bytes[..len]) {
            self.output[(produced.wrapping_add(offset) % size) as usize].store(byte, Relaxed);
        }
        self.out_prod.store(produced.wrapping_add(len as u32), Release);
        len
    }

    /// Takes input into `buffer` and returns how many bytes that was.
    pub fn receive(&self, buffer: &mut [u8]) -> usize {
        let size = self.input.len() as u32;
        let consumed = self.in_cons.load(Relaxed);
        let there = self.in_prod.load(Acquire).wrapping_sub(consumed).min(size);
        let len = buffer.len().min(there as usize);
        for (offset, byte) in (0u32..).zip(&mut buffer[..len]) {
            *byte = self.input[(consumed.wrapping_add(offset) % size) as usize].load(Relaxed);
        }
        self.in_cons.store(consumed.wrapping_add(len as u32), Release);
        len
    }
}

/// A whole page of the image, over which the ring's frame is mapped.
#[repr(C, align(4096))]
struct Slot(Ring);

static SLOT: Slot = Slot(Ring::new());
static PORT: AtomicU32 = AtomicU32::new(0);

/// The domain's ring.
#[must_use]
pub fn ring() -> &'static Ring {
    &SLOT.0
}

/// Writes all of `bytes`, waiting for room as long as it takes.
pub fn write(mut bytes: &[u8]) {
    let port = Port(PORT.load(Relaxed));
    while !bytes.is_empty() {
        bytes = &bytes[SLOT.0.send(bytes)..];
        // A server that went away (the port is closed) leaves nobody to tell.
        if events::notify(port).is_err() {
            return;
        }
        if !bytes.is_empty() {
            sched::yield_now();
        }
    }
}

/// Maps the ring that `start_info` names over the static.
///
/// # Safety
///
/// Once, by the entry, before anything else uses this module.
#[cfg(target_os = "none")]
pub(super) unsafe fn map(boot: &crate::BootContext) -> Result<(), crate::Errno> {
    use crate::mmu::{Flush, Pte, update_va_mapping};

    let (frame, port) = boot.console_ring().ok_or(crate::Errno::ENODEV)?;
    PORT.store(port.0, Relaxed);
    // SAFETY: the page belongs to `SLOT` alone, whose type allows any contents and any change; the frame is the one
    // that the domain builder set aside for this purpose.
    unsafe { update_va_mapping(&raw const SLOT as u64, Pte::data(frame), Flush::Local) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stops_where_the_ring_is_full_and_wraps() {
        let ring = Ring::new();
        ring.out_prod.store(u32::MAX - 9, Relaxed);
        ring.out_cons.store(u32::MAX - 9, Relaxed);
        assert_eq!(ring.send(&[7; 3000]), 2048);
        assert_eq!(ring.send(&[7; 1]), 0);
        ring.out_cons.store(u32::MAX, Relaxed);
        assert_eq!(ring.send(&[9; 100]), 9);
        assert_eq!(ring.output[(u32::MAX - 9) as usize % 2048].load(Relaxed), 9);
    }

    #[test]
    fn a_lying_server_gains_nothing() {
        let ring = Ring::new();
        ring.out_cons.store(5, Relaxed);
        assert_eq!(ring.send(&[1; 10]), 0);
        ring.in_prod.store(1 << 30, Relaxed);
        let mut buffer = [0; 4096];
        assert_eq!(ring.receive(&mut buffer), 1024);
    }

    #[test]
    fn input_comes_in_order() {
        let ring = Ring::new();
        for (slot, byte) in ring.input.iter().zip(b"hello") {
            slot.store(*byte, Relaxed);
        }
        ring.in_prod.store(5, Relaxed);
        let mut buffer = [0; 3];
        assert_eq!(ring.receive(&mut buffer), 3);
        assert_eq!(&buffer, b"hel");
        assert_eq!(ring.receive(&mut buffer), 2);
        assert_eq!(&buffer[..2], b"lo");
    }
}
