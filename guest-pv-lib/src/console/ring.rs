//! The console ring of an ordinary domain (`io/console.h`): two byte rings in one page shared with a server.
//!
//! [`Ring`] is the page from either end: the domain's own, which this module maps over a page of the image, or the one that
//! a server of consoles mapped. What the other end writes is believed no further than the rings are long.

use core::mem::offset_of;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use xen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface as Wire};

use crate::byte_ring::ByteRing;
use crate::events::{self, Port};

/// Where the page's fields are, in words.
const IN: usize = offset_of!(Wire, in_) / 4;
const OUT: usize = offset_of!(Wire, out) / 4;
const IN_CONS: usize = offset_of!(Wire, in_cons) / 4;
const IN_PROD: usize = offset_of!(Wire, in_prod) / 4;
const OUT_CONS: usize = offset_of!(Wire, out_cons) / 4;
const OUT_PROD: usize = offset_of!(Wire, out_prod) / 4;
const WORDS: usize = size_of::<Wire>() / 4;

/// The shared page of a console.
#[doc(alias = "xencons_interface")]
#[derive(Debug)]
pub struct Ring<M>(M);

impl<M: Deref<Target = [AtomicU32]>> Ring<M> {
    /// Takes the memory as it is; none where it is shorter than the interface.
    #[must_use]
    pub fn new(memory: M) -> Option<Self> {
        (memory.len() >= WORDS).then_some(Self(memory))
    }

    /// From the server to the domain: what is typed.
    #[must_use]
    pub fn input(&self) -> ByteRing<'_> {
        let data = &self.0[IN..IN + XENCONS_IN_SIZE as usize / 4];
        ByteRing::new(data, &self.0[IN_PROD], &self.0[IN_CONS])
    }

    /// From the domain to the server: what is printed.
    #[must_use]
    pub fn output(&self) -> ByteRing<'_> {
        let data = &self.0[OUT..OUT + XENCONS_OUT_SIZE as usize / 4];
        ByteRing::new(data, &self.0[OUT_PROD], &self.0[OUT_CONS])
    }
}

/// A whole page of the image, over which the ring's frame is mapped.
#[repr(C, align(4096))]
struct Slot([AtomicU32; 1024]);

static SLOT: Slot = Slot([const { AtomicU32::new(0) }; 1024]);
static PORT: AtomicU32 = AtomicU32::new(0);

/// The domain's ring.
fn own() -> Ring<&'static [AtomicU32]> {
    Ring(&SLOT.0)
}

/// The port by which both ends tell each other that the ring changed.
pub(super) fn port() -> Port {
    Port(PORT.load(Relaxed))
}

/// Notes the port that the ring has in a domain that has gone on elsewhere.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) fn set_port(port: Port) {
    PORT.store(port.0, Relaxed);
}

/// Writes all of `bytes`, waiting for room as long as it takes. A server that is gone, or breaks the ring, loses them.
pub(super) fn write(mut bytes: &[u8]) {
    loop {
        let Ok(sent) = own().output().push(bytes) else { return };
        // A closed port leaves nobody to make room.
        if events::notify(port()).is_err() {
            return;
        }
        bytes = &bytes[sent..];
        if bytes.is_empty() {
            return;
        }
        super::pause();
    }
}

/// Bytes that [`write`] writes without waiting: any number into a ring that makes no sense, where they are lost.
pub(super) fn room() -> usize {
    own().output().room().map_or(usize::MAX, |room| room as usize)
}

/// Takes what was typed, without waiting.
pub(super) fn read(buffer: &mut [u8]) -> usize {
    let len = own().input().pop(buffer).unwrap_or(0);
    if len > 0 {
        // There is room again. A server that is gone does not care.
        let _ = events::notify(port());
    }
    len
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
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn memory() -> Vec<AtomicU32> {
        (0..1024).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn the_fields_are_where_the_header_says() {
        let memory = memory();
        let ring = Ring::new(memory.as_slice()).unwrap();
        ring.output().push(b"out").unwrap();
        ring.input().push(b"input").unwrap();
        assert_eq!(memory[3084 / 4].load(Relaxed), 3);
        assert_eq!(memory[3076 / 4].load(Relaxed), 5);
        assert_eq!(memory[1024 / 4].load(Relaxed).to_le_bytes(), *b"out\0");
        assert_eq!(memory[0].load(Relaxed).to_le_bytes(), *b"inpu");
        assert_eq!((ring.output().size(), ring.input().size()), (2048, 1024));
        assert!(Ring::new(&memory[..771]).is_none());
    }

    #[test]
    fn both_ends_understand_each_other() {
        let memory = memory();
        let (domain, server) = (Ring::new(memory.as_slice()).unwrap(), Ring::new(memory.as_slice()).unwrap());
        assert_eq!(domain.output().push(&[7; 3000]), Ok(2048));
        let mut buffer = [0; 4096];
        assert_eq!(server.output().pop(&mut buffer), Ok(2048));
        assert_eq!(server.input().push(b"hello"), Ok(5));
        assert_eq!(domain.input().pop(&mut buffer[..3]), Ok(3));
        assert_eq!(&buffer[..3], b"hel");
    }
}
