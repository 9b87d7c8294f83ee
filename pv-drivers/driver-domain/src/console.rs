//! The consoles of served domains: what they write appears, line by line, on this domain's own.
//!
//! The page is the other domain's. Its indexes are only believed where they make sense, and a line that
//! never ends is cut.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use pv_drivers::console::Page;
use xen_abi::io::console::XENCONS_OUT_SIZE;

/// A line is cut after so many bytes.
const LONGEST: usize = 512;

/// The serving end of a console's page.
pub struct Console<M> {
    page: Page<M>,
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
        Page::new(page).map(|page| Self { page, line: Vec::new() })
    }

    /// Takes what the domain wrote and hands whole lines on. True: something moved, and the domain is to be notified.
    pub fn serve(&mut self, mut line: impl FnMut(&str)) -> bool {
        let mut bytes = [0; XENCONS_OUT_SIZE as usize];
        // A ring that makes no sense has nothing in it.
        let count = self.page.output().pop(&mut bytes).unwrap_or(0);
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
        self.page.input().push(bytes).unwrap_or(0)
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
    use xen_abi::io::console::XenconsInterface;

    type Words = Arc<[AtomicU32]>;

    fn write(page: &Words, bytes: &[u8]) {
        assert_eq!(Page::new(page.clone()).unwrap().output().push(bytes), Ok(bytes.len()));
    }

    fn lines(console: &mut Console<Words>) -> (bool, Vec<String>) {
        let mut lines = Vec::new();
        (console.serve(|line| lines.push(line.into())), lines)
    }

    #[test]
    fn lines_come_whole() {
        let page: Words = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut console = Console::new(page.clone()).unwrap();
        write(&page, b"one\r\ntw");
        assert_eq!(lines(&mut console), (true, vec!["one".into()]));
        write(&page, b"o\n\x1b[2Jthree\n");
        assert_eq!(lines(&mut console), (true, vec!["two".into(), " [2Jthree".into()]));
        assert_eq!(lines(&mut console), (false, vec![]));
        write(&page, &[b'x'; 600]);
        assert_eq!(lines(&mut console).1, [String::from_utf8(vec![b'x'; LONGEST]).unwrap()]);
        assert_eq!(console.type_in(b"ls\n"), 3);
        assert_eq!(Page::new(page.clone()).unwrap().input().readable(), Ok(3));
        page[core::mem::offset_of!(XenconsInterface, out_prod) / 4].store(0x8000_0000, SeqCst);
        assert_eq!(lines(&mut console), (false, vec![]), "indexes that make no sense");
    }
}
