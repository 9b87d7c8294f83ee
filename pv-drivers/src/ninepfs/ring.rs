//! One end of a ring of messages: an index page, and data pages of which half go each way.
//!
//! The index page is `FlexRingIntf` with the references of the data pages behind it. `in` is what the back end sends.
//! Indices run freely, and there is no way to ask for no events: each piece of a message is followed by one.

use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::byte_ring::{ByteRing, Corrupt};
use xen_abi::io::ninepfs::XEN_9PFS_REF_OFFSET;

use super::message::{HEADER, Header};
use crate::transport::GrantRef;

/// The index page's fields, as numbers of words.
const IN_CONS: usize = 0;
const IN_PROD: usize = 1;
const OUT_CONS: usize = 16;
const OUT_PROD: usize = 17;
const ORDER: usize = 32;
const REFS: usize = XEN_9PFS_REF_OFFSET / 4;

/// The largest order of a ring.
pub const MAX_ORDER: u32 = 9;

/// Bytes that are read of a message at a time, so that one takes the memory that its sender filled and not what its header
/// promises.
const PIECE: usize = 8 << 10;
/// Bytes that a buffer keeps for the next message.
const KEPT: usize = 64 << 10;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The indices are further apart than the ring is long.
    Indices,
    /// A message is shorter than its header or longer than was agreed to.
    Size,
}

impl Broken {
    /// The same in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Indices => "the other end's ring indices are impossible",
            Self::Size => "the other end's message has an impossible size",
        }
    }
}

impl From<Corrupt> for Broken {
    fn from(_: Corrupt) -> Self {
        Self::Indices
    }
}

impl From<Broken> for crate::xenbus::Error {
    fn from(broken: Broken) -> Self {
        Self::Peer(broken.reason())
    }
}

/// Writes order and references into a new index page.
pub fn describe(index: &[AtomicU32], order: u32, refs: &[GrantRef]) {
    index[ORDER].store(order, Relaxed);
    for (word, reference) in index[REFS..].iter().zip(refs) {
        word.store(reference.0, Relaxed);
    }
}

/// The references of the data pages that an index page names; none where its order is none.
#[must_use]
pub fn described(index: &[AtomicU32]) -> Option<Vec<GrantRef>> {
    let order = index[ORDER].load(Relaxed);
    let refs = index[REFS..].iter().take(1 << order.min(MAX_ORDER));
    (order <= MAX_ORDER).then(|| refs.map(|word| GrantRef(word.load(Relaxed))).collect())
}

/// One end: what it writes and what it reads.
#[derive(Debug)]
pub struct Messages<M> {
    index: M,
    data: M,
    is_back: bool,
    /// What was read of a message.
    incoming: Vec<u8>,
    /// What was not written of one yet.
    outgoing: Vec<u8>,
    written: usize,
}

impl<M: Deref<Target = [AtomicU32]>> Messages<M> {
    /// An end over mapped pages; `data` is a power of two of pages.
    pub const fn new(index: M, data: M, is_back: bool) -> Self {
        Self { index, data, is_back, incoming: Vec::new(), outgoing: Vec::new(), written: 0 }
    }

    fn ring(&self, to_front: bool) -> ByteRing<'_> {
        let (toward_front, toward_back) = self.data.split_at(self.data.len() / 2);
        if to_front {
            ByteRing::new(toward_front, &self.index[IN_PROD], &self.index[IN_CONS])
        } else {
            ByteRing::new(toward_back, &self.index[OUT_PROD], &self.index[OUT_CONS])
        }
    }

    /// Bytes that fit into the ring.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.ring(true).size()
    }

    /// Whether the last message was written to its end.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.written == self.outgoing.len()
    }

    /// Writes a message, as far as there is room: [`flush`](Self::flush) goes on. The last one was written.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn send(&mut self, message: &[u8]) -> Result<bool, Broken> {
        self.outgoing.clear();
        self.outgoing.extend_from_slice(message);
        self.written = 0;
        self.flush()
    }

    /// Goes on writing. True: something was written, and the other end must be sent an event.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn flush(&mut self) -> Result<bool, Broken> {
        let count = self.ring(self.is_back).push(&self.outgoing[self.written..])?;
        self.written += count;
        if self.is_sent() && self.outgoing.capacity() > KEPT {
            (self.outgoing, self.written) = (Vec::new(), 0);
        }
        Ok(count > 0)
    }

    /// Reads on; true: bytes were taken, and the other end must be sent an event. The message is complete where
    /// [`message`](Self::message) says so.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn receive(&mut self, largest: u32) -> Result<bool, Broken> {
        let mut taken = false;
        loop {
            let wanted = self.wanted(largest)?;
            let start = self.incoming.len();
            if start == wanted {
                return Ok(taken);
            }
            let end = wanted.min(start + PIECE);
            self.incoming.resize(end, 0);
            let mut piece = core::mem::take(&mut self.incoming);
            let count = self.ring(!self.is_back).pop(&mut piece[start..]);
            self.incoming = piece;
            self.incoming.truncate(start + *count.as_ref().unwrap_or(&0));
            taken |= count? > 0;
            if self.incoming.len() < end {
                return Ok(taken);
            }
        }
    }

    /// Bytes that the message at hand has as far as is known: its header, or all.
    fn wanted(&self, largest: u32) -> Result<usize, Broken> {
        let Some(header) = self.incoming.first_chunk().map(Header::parse) else { return Ok(HEADER) };
        if header.size < HEADER as u32 || header.size > largest {
            return Err(Broken::Size);
        }
        Ok(header.size as usize)
    }

    /// The message, once all of it is here.
    #[must_use]
    pub fn message(&self) -> Option<&[u8]> {
        let header = self.incoming.first_chunk().map(Header::parse)?;
        (header.size as usize == self.incoming.len()).then_some(&self.incoming[..])
    }

    /// Makes room for the next message.
    pub fn done(&mut self) {
        if self.incoming.capacity() > KEPT {
            self.incoming = Vec::new();
        }
        self.incoming.clear();
    }
}
