//! What travels through a connection: a header, then strings and values (`io/xs_wire.h`, `docs/misc/xenstore.txt`).
//!
//! Nothing here keeps state but [`Assembler`], which joins the bytes of a ring to messages; server and client both use it.

use core::fmt;

use xen_abi::io::xs_wire::XSD_ERRORS;
#[cfg(feature = "alloc")]
use {
    alloc::vec::Vec,
    xen_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XsdSockmsg},
    zerocopy::{FromZeros, IntoBytes},
};

use crate::Errno;
#[cfg(feature = "alloc")]
use crate::byte_ring::{ByteRing, Corrupt};

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing.
    #[doc(alias = "XS_PERM_NONE")]
    None,
    /// Read it.
    #[doc(alias = "XS_PERM_READ")]
    Read,
    /// Write it.
    #[doc(alias = "XS_PERM_WRITE")]
    Write,
    /// Both.
    Both,
}

impl Permission {
    /// The letter that stands for it.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    /// What a letter stands for.
    #[must_use]
    pub const fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'n' => Self::None,
            b'r' => Self::Read,
            b'w' => Self::Write,
            b'b' => Self::Both,
            _ => return None,
        })
    }

    /// Whether it includes reading.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether it includes writing.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// A domain's number and what it may do, as text: `r5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u16, pub Permission);

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.1.letter(), self.0)
    }
}

impl Entry {
    /// Reads the text of an entry, without its terminator.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (letter, domain) = text.split_first()?;
        if !domain.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let domain = core::str::from_utf8(domain).ok()?.parse().ok()?;
        Some(Self(domain, Permission::from_letter(*letter)?))
    }
}

/// The strings of a payload, each ended by NUL. What follows the last NUL is a last string unless it is empty.
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let terminated = payload.last() == Some(&0);
    let without = if terminated { &payload[..payload.len() - 1] } else { payload };
    without.split(|byte| *byte == 0).take(if payload.is_empty() { 0 } else { usize::MAX })
}

/// The name that an error has on the wire. An error without one is `EINVAL`.
#[must_use]
pub fn error_name(error: Errno) -> &'static str {
    XSD_ERRORS.iter().find(|known| known.errnum == error.0).map_or("EINVAL", |known| known.errstring)
}

/// The error that an answer names. A name that this end does not know is `EIO`.
#[must_use]
pub fn error_of(payload: &[u8]) -> Errno {
    let name = strings(payload).next().unwrap_or_default();
    XSD_ERRORS
        .iter()
        .find(|known| known.errstring.as_bytes() == name)
        .map_or(Errno::EIO, |known| Errno(known.errnum))
}

/// A message, complete.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The header; `len` is the payload's length.
    pub header: XsdSockmsg,
    /// What follows it.
    pub payload: Vec<u8>,
}

/// Why no further message comes out of a ring.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The ring's indices are impossible.
    Indices,
    /// A header announces more than [`XENSTORE_PAYLOAD_MAX`] bytes.
    TooLong,
}

#[cfg(feature = "alloc")]
impl From<Corrupt> for Broken {
    fn from(_: Corrupt) -> Self {
        Self::Indices
    }
}

/// Joins what comes out of a ring to messages.
#[cfg(feature = "alloc")]
#[derive(Debug)]
pub struct Assembler {
    header: XsdSockmsg,
    /// Bytes of header and payload that are there.
    have: usize,
    payload: Vec<u8>,
}

#[cfg(feature = "alloc")]
impl Default for Assembler {
    fn default() -> Self {
        Self { header: XsdSockmsg::new_zeroed(), have: 0, payload: Vec::new() }
    }
}

#[cfg(feature = "alloc")]
impl Assembler {
    /// Takes bytes until a message is complete. None where the ring is empty before that; what was taken is kept.
    ///
    /// # Errors
    ///
    /// [`Broken`]: the other end does not speak the protocol.
    pub fn next(&mut self, ring: ByteRing<'_>) -> Result<Option<Message>, Broken> {
        const HEADER: usize = size_of::<XsdSockmsg>();
        if self.have < HEADER {
            self.have += ring.pop(&mut self.header.as_mut_bytes()[self.have..])?;
            if self.have < HEADER {
                return Ok(None);
            }
            if self.header.len > XENSTORE_PAYLOAD_MAX {
                return Err(Broken::TooLong);
            }
            self.payload = alloc::vec![0; self.header.len as usize];
        }
        self.have += ring.pop(&mut self.payload[self.have - HEADER..])?;
        if self.have < HEADER + self.payload.len() {
            return Ok(None);
        }
        self.have = 0;
        Ok(Some(Message { header: self.header, payload: core::mem::take(&mut self.payload) }))
    }

    /// Whether a message has begun and is not complete.
    #[must_use]
    pub const fn is_within_message(&self) -> bool {
        self.have != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn permissions_are_read_as_they_are_written() {
        for entry in [Entry(0, Permission::None), Entry(5, Permission::Both), Entry(65535, Permission::Read)]
        {
            assert_eq!(Entry::parse(entry.to_string().as_bytes()), Some(entry));
        }
        for wrong in ["", "r", "x1", "r65536", "r-1", "r+1", "r1 "] {
            assert_eq!(Entry::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn payloads_fall_apart_at_their_terminators() {
        let split = |payload: &'static [u8]| strings(payload).collect::<Vec<_>>();
        assert_eq!(split(b""), Vec::<&[u8]>::new());
        assert_eq!(split(b"a\0bc\0"), [b"a".as_slice(), b"bc"]);
        assert_eq!(split(b"a\0bc"), [b"a".as_slice(), b"bc"]);
        assert_eq!(split(b"\0"), [b"".as_slice()]);
        assert_eq!(split(b"a\0\0"), [b"a".as_slice(), b""]);
    }

    #[test]
    fn errors_keep_their_names() {
        assert_eq!(error_of(b"ENOENT\0"), Errno::ENOENT);
        assert_eq!(error_of(error_name(Errno::EAGAIN).as_bytes()), Errno::EAGAIN);
        assert_eq!(error_of(b"EWHATEVER\0"), Errno::EIO);
        assert_eq!(error_of(b""), Errno::EIO);
        assert_eq!(error_name(Errno::EFAULT), "EINVAL");
    }
}
