//! One serial line for many writers.
//!
//! The domain that has the input writes to the line as it pleases, byte by byte, for it may be an editor or a shell. All
//! others, and the hypervisor itself, write whole lines, each with its writer's name in front. A line that somebody
//! else interrupts is ended first, so that no line on the screen has two writers.

use crate::ids::DomId;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// Bytes of an unfinished line that are kept; a longer one is broken.
const LINE: usize = 256;
/// Bytes of the log that `XEN_SYSCTL_readconsole` can still read.
const LOG: usize = 16 * 1024;
/// Bytes of the longest line, with its prefix and end.
const MOST_KEPT: usize = LINE + 16;

/// Who wrote to the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Writer {
    /// The hypervisor.
    Hypervisor,
    /// A domain.
    Domain(DomId),
}

/// Where a stretch of the log begins that a reader gets, and the stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPart {
    /// Number of bytes that were logged before it.
    pub start: u32,
    /// The text; lines end in `\n`.
    pub text: Vec<u8>,
}

/// What is on the line, and what will be.
pub(super) struct Screen {
    /// The domain whose bytes go out as they are.
    focus: Option<DomId>,
    /// Whose unfinished line is on the screen.
    open: Option<Writer>,
    /// Lines that the other writers have not finished.
    unfinished: BTreeMap<Writer, Vec<u8>>,
    /// Room for a line as it is written and for one as it is shown, empty in between: a log that allocates for each line is slow.
    room: [Vec<u8>; 2],
    /// Whole lines of all writers without focus, oldest first.
    log: VecDeque<u8>,
    /// Bytes that ever entered the log, modulo 2^32.
    logged: u32,
}

impl Screen {
    pub(super) const fn new() -> Self {
        Self {
            focus: None,
            open: None,
            unfinished: BTreeMap::new(),
            room: [Vec::new(), Vec::new()],
            log: VecDeque::new(),
            logged: 0,
        }
    }

    /// Gives the screen to a domain, and shows what it has begun to write (the prompt of a shell).
    pub(super) fn set_focus(&mut self, focus: Option<DomId>, out: &mut impl FnMut(&[u8])) {
        self.focus = focus;
        let Some(begun) = focus.and_then(|domain| self.unfinished.remove(&Writer::Domain(domain))) else {
            return;
        };
        self.raw(Writer::Domain(focus.unwrap_or(DomId(0))), &begun, out);
    }

    /// Text of a writer.
    pub(super) fn write(&mut self, writer: Writer, bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        if self.focus.is_some_and(|domain| writer == Writer::Domain(domain)) {
            self.raw(writer, bytes, out);
            return;
        }
        let begun = self.unfinished.remove(&writer);
        let mut line = begun.unwrap_or_else(|| core::mem::take(&mut self.room[0]));
        let mut rest = bytes;
        while !rest.is_empty() {
            // Most of it is shown as it is.
            let fits = rest.len().min(LINE - line.len());
            let plain = rest[..fits].iter().position(|byte| !matches!(byte, b' '..0x7f)).unwrap_or(fits);
            line.extend_from_slice(&rest[..plain]);
            rest = &rest[plain..];
            let mut ends = line.len() == LINE;
            if !ends && let Some((byte, behind)) = rest.split_first() {
                line.extend(as_text(*byte));
                rest = behind;
                ends = *byte == b'\n' || line.len() == LINE;
            }
            if ends {
                self.line(writer, &line, out);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.unfinished.insert(writer, line);
        } else if self.room[0].capacity() == 0 {
            self.room[0] = line;
        }
    }

    /// Writes what a writer has not finished, for nothing more of it will come.
    pub(super) fn finish(&mut self, writer: Writer, out: &mut impl FnMut(&[u8])) {
        if let Some(line) = self.unfinished.remove(&writer).filter(|line| !line.is_empty()) {
            self.line(writer, &line, out);
        }
    }

    fn raw(&mut self, writer: Writer, bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        let Some(last) = bytes.last() else { return };
        if self.open.is_some_and(|open| open != writer) {
            out(b"\r\n");
        }
        out(bytes);
        self.open = (*last != b'\n').then_some(writer);
    }

    fn line(&mut self, writer: Writer, text: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut line = core::mem::take(&mut self.room[1]);
        match writer {
            Writer::Hypervisor => line.extend_from_slice(b"(HV) "),
            Writer::Domain(id) => line.extend_from_slice(alloc::format!("(d{}) ", id.0).as_bytes()),
        }
        line.extend_from_slice(text);
        if self.open.take().is_some() {
            out(b"\r\n");
        }
        out(&line);
        out(b"\r\n");
        line.push(b'\n');
        self.keep(&line);
        line.clear();
        self.room[1] = line;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.log.capacity() == 0 {
            // All of it with the first line, at boot: when it grows later there may not be as much memory in a row.
            self.log = VecDeque::with_capacity(LOG + MOST_KEPT);
        }
        self.log.extend(bytes);
        let excess = self.log.len().saturating_sub(LOG);
        self.log.drain(..excess);
        // A counter that wraps, as the ABI's index does.
        self.logged = self.logged.wrapping_add((bytes.len() & 0xffff_ffff) as u32);
    }

    /// At most `most` bytes of the log from byte `from` on, or from the oldest there is when `from` is older or `None`.
    pub(super) fn log_part(&self, from: Option<u32>, most: usize) -> LogPart {
        let kept = self.log.len() as u32;
        let oldest = self.logged.wrapping_sub(kept);
        let skip = from.map_or(0, |from| from.wrapping_sub(oldest));
        let skip = if skip > kept { 0 } else { skip };
        let text = self.log.iter().skip(skip as usize).take(most).copied().collect();
        LogPart { start: oldest.wrapping_add(skip), text }
    }

    /// Forgets the log up to this byte. What was not read yet stays.
    pub(super) fn clear_log(&mut self, to: u32) {
        let kept = self.log.len() as u32;
        let read = to.wrapping_sub(self.logged.wrapping_sub(kept));
        // Otherwise it is older than the oldest byte that there still is.
        if read <= kept {
            self.log.drain(..read as usize);
        }
    }
}

/// What a byte is in a line of a writer that does not have the screen, if anything: nothing that moves the cursor. Beyond ASCII that
/// depends on the terminal (0x85 and 0x9b are control characters for one of 8 bits, and are behind 0xc2 for one of UTF-8), so that a
/// character is shown by a question mark in place of its first byte.
fn as_text(byte: u8) -> Option<u8> {
    match byte {
        b'\t' | b' '..0x7f => Some(byte),
        0xc0.. => Some(b'?'),
        _ => None,
    }
}
