//! The consoles of served domains: what they write appears, line by line, on this domain's own.
//!
//! The page is the other domain's. Its indexes are only believed where they make sense ([`ByteRing`]), and a line that
//! never ends is cut.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use guest_pv_lib::byte_ring::ByteRing;
use xen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface};

/// A line is cut after so many bytes.
const LONGEST: usize = 512;

const OUT: usize = core::mem::offset_of!(XenconsInterface, out) / 4;
const IN_CONS: usize = core::mem::offset_of!(XenconsInterface, in_cons) / 4;
const IN_PROD: usize = core::mem::offset_of!(XenconsInterface, in_prod) / 4;
const OUT_CONS: usize = core::mem::offset_of!(XenconsInterface, out_cons) / 4;
const OUT_PROD: usize = core::mem::offset_of!(XenconsInterface, out_prod) / 4;

/// The serving end of a console's page.
pub struct Console<M> {
    page: M,
    line: Vec<u8>,
}

impl<M> fmt::Debug for Console<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl<M: Deref<Target = [AtomicU32]>> Console<M> {
    /// Takes a page as it is: the domain may have written to it already. None where the memory is smaller than the
    /// rings.
    pub fn new(page: M) -> Option<Self> {
        (page.len() > OUT_PROD).then_some(Self { page, line: Vec::new() })
    }

    /// Takes what the domain wrote and hands whole lines on. True: something moved, and the domain is to be notified.
    pub fn serve(&mut self, mut line: impl FnMut(&str)) -> bool {
        let data = &self.page[OUT..OUT + XENCONS_OUT_SIZE as usize / 4];
        let ring = ByteRing::new(data, &self.page[OUT_PROD], &self.page[OUT_CONS]);
        let mut bytes = [0; XENCONS_OUT_SIZE as usize];
        // A ring that makes no sense has nothing in it.
        let count = ring.pop(&mut bytes).unwrap_or(0);
        for byte in &bytes[..count] {
            if *byte == b'\n' || self.line.len() == LONGEST {
                line(&clean(&self.line));
                self.line.clear();
            }
            if !matches!(byte, b'\n' | b'\r') {
                self.line.push(*byte);
            }
        }
        count > 0
    }

    /// Types something; answers how much of it there was room for.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        let data = &self.page[..XENCONS_IN_SIZE as usize / 4];
        ByteRing::new(data, &self.page[IN_PROD], &self.page[IN_CONS]).push(bytes).unwrap_or(0)
    }
}

/// Text that cannot do anything to a terminal.
fn clean(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::Ordering::SeqCst;

    type Page = Arc<[AtomicU32]>;

    fn write(page: &Page, bytes: &[u8]) {
        let data = &page[OUT..OUT + XENCONS_OUT_SIZE as usize / 4];
        assert_eq!(ByteRing::new(data, &page[OUT_PROD], &page[OUT_CONS]).push(bytes), Ok(bytes.len()));
    }

    fn lines(console: &mut Console<Page>) -> (bool, Vec<String>) {
        let mut lines = Vec::new();
        (console.serve(|line| lines.push(line.into())), lines)
    }

    #[test]
    fn lines_come_whole() {
        let page: Page = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut console = Console::new(page.clone()).unwrap();
        write(&page, b"one\r\ntw");
        assert_eq!(lines(&mut console), (true, vec!["one".into()]));
        write(&page, b"o\n\x1b[2Jthree\n");
        assert_eq!(lines(&mut console), (true, vec!["two".into(), " [2Jthree".into()]));
        assert_eq!(lines(&mut console), (false, vec![]));
        write(&page, &[b'x'; 600]);
        assert_eq!(lines(&mut console).1, [String::from_utf8(vec![b'x'; LONGEST]).unwrap()]);
        assert_eq!(console.type_in(b"ls\n"), 3);
        assert_eq!(page[IN_PROD].load(SeqCst), 3);
        page[OUT_PROD].store(0x8000_0000, SeqCst);
        assert_eq!(lines(&mut console), (false, vec![]), "indexes that make no sense");
    }
}
