//! The consoles of served domains: what they write appears, line by line, on this domain's own, and what is typed there
//! goes to the one that was chosen, whose output appears as it is.
//!
//! The page is the other domain's. Its indexes are only believed where they make sense, and a line that
//! never ends is cut. Output is taken from the page only while this domain's own console has room for it: the rest waits
//! there, and the domain that writes it waits for itself alone.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use pv_drivers::console::Page;
use xen_abi::io::console::XENCONS_OUT_SIZE;

/// A line is cut after so many bytes.
pub const LONGEST: usize = 512;
/// Input that waits at most for a domain that does not read; further input is lost, as on any line without flow control.
const BACKLOG: usize = 4096;
/// The byte of the hypervisor's notes in the input, before the number of the domain that what follows is for.
const SELECT: u8 = 0xff;

/// The serving end of a console's page.
pub struct Console<M> {
    page: Page<M>,
    line: Vec<u8>,
    typed: VecDeque<u8>,
}

impl<M> fmt::Debug for Console<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// What a domain wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A line, without its end and without anything that a terminal obeys.
    Line(&'a str),
    /// Bytes as they are, of the domain that has the input.
    Raw(&'a [u8]),
}

impl<M: Deref<Target = [AtomicU32]>> Console<M> {
    /// Takes a page as it is: the domain may have written to it already. None where the memory is smaller than the
    /// rings.
    pub fn new(page: M) -> Option<Self> {
        Page::new(page).map(|page| Self { page, line: Vec::new(), typed: VecDeque::new() })
    }

    /// Takes what the domain wrote and hands it on, and gives it what was typed, as far as there is room: for `room` bytes
    /// of output at first, and then for as many as `out` answers. True: something moved, and the domain is to be notified.
    pub fn serve(&mut self, is_chosen: bool, room: usize, mut out: impl FnMut(Output<'_>) -> usize) -> bool {
        let taken = if is_chosen { self.show(room, &mut out) } else { self.collect(room, &mut out) };
        self.give() | (taken > 0)
    }

    /// Whether the domain wrote more than was taken.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.page.output().readable().is_ok_and(|count| count > 0)
    }

    /// The prompt that stands there, and what follows. How many bytes of it were taken from the page.
    fn show(&mut self, mut room: usize, out: &mut impl FnMut(Output<'_>) -> usize) -> usize {
        if !self.line.is_empty() && room >= LONGEST {
            room = out(Output::Raw(&core::mem::take(&mut self.line)));
        }
        let mut bytes = [0; LONGEST];
        let wanted = if self.line.is_empty() { room.min(LONGEST) } else { 0 };
        // A ring that makes no sense has nothing in it.
        let count = self.page.output().pop(&mut bytes[..wanted]).unwrap_or(0);
        if count > 0 {
            out(Output::Raw(&bytes[..count]));
        }
        count
    }

    /// Takes bytes while there is room for the line that each of them may end; how many.
    fn collect(&mut self, mut room: usize, out: &mut impl FnMut(Output<'_>) -> usize) -> usize {
        let (mut taken, mut next) = (0, [0]);
        while room >= LONGEST
            && taken < XENCONS_OUT_SIZE as usize
            && self.page.output().pop(&mut next).unwrap_or(0) == 1
        {
            taken += 1;
            let [byte] = next;
            if byte == b'\n' || self.line.len() == LONGEST {
                room = out(Output::Line(&clean(&self.line)));
                self.line.clear();
            }
            if !matches!(byte, b'\n' | b'\r') {
                self.line.push(byte);
            }
        }
        taken
    }

    /// Types something.
    pub fn type_in(&mut self, bytes: &[u8]) {
        let room = BACKLOG - self.typed.len();
        self.typed.extend(&bytes[..bytes.len().min(room)]);
    }

    fn give(&mut self) -> bool {
        let given = self.page.input().push(self.typed.make_contiguous()).unwrap_or(0);
        self.typed.drain(..given);
        given > 0
    }
}

/// Text that cannot do anything to a terminal. Beyond ASCII that depends on the terminal: the bytes of many a character are control
/// characters for one of 8 bits (0x9b ends the two of `\u{11b}`), and other characters turn the direction of the
/// text. So such a character is shown by a question mark.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let shown = |c| match c {
        '\t' | ' '..='~' => c,
        c if c.is_control() => ' ',
        _ => '?',
    };
    text.chars().map(shown).collect()
}

/// Whom typed bytes are for: the hypervisor says so between them.
#[derive(Debug, Default)]
pub struct Keyboard {
    chosen: Option<u16>,
    note: Vec<u8>,
}

impl Keyboard {
    /// The domain that was chosen; none at first, and where nobody's console is meant but this domain's.
    #[must_use]
    pub fn chosen(&self) -> Option<u16> {
        self.chosen
    }

    /// Hands each typed byte to the domain that it is for.
    pub fn sort(&mut self, bytes: &[u8], mut to: impl FnMut(u16, u8)) {
        for &byte in bytes {
            match self.note[..] {
                [] if byte == SELECT => self.note.push(byte),
                [] => self.chosen.iter().for_each(|domain| to(*domain, byte)),
                [_] => self.note.push(byte),
                [_, high, ..] => {
                    self.chosen = Some(u16::from_be_bytes([high, byte]));
                    self.note.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::sync::Arc;
    use core::sync::atomic::Ordering::SeqCst;
    use xen_abi::io::console::{XENCONS_IN_SIZE, XenconsInterface};

    type Words = Arc<[AtomicU32]>;

    fn write(page: &Words, bytes: &[u8]) {
        assert_eq!(Page::new(page.clone()).unwrap().output().push(bytes), Ok(bytes.len()));
    }

    fn output(console: &mut Console<Words>, is_chosen: bool) -> (bool, Vec<String>) {
        let mut all = Vec::new();
        let moved = console.serve(is_chosen, LONGEST, |out| {
            match out {
                Output::Line(line) => all.push(line.into()),
                Output::Raw(bytes) => all.push(format!("raw {}", str::from_utf8(bytes).unwrap())),
            }
            LONGEST
        });
        (moved, all)
    }

    fn lines(console: &mut Console<Words>) -> (bool, Vec<String>) {
        output(console, false)
    }

    fn console() -> (Words, Console<Words>) {
        let page: Words = (0..1024).map(|_| AtomicU32::new(0)).collect();
        (page.clone(), Console::new(page).unwrap())
    }

    #[test]
    fn lines_come_whole() {
        let (page, mut console) = console();
        write(&page, b"one\r\ntw");
        assert_eq!(lines(&mut console), (true, vec!["one".into()]));
        write(&page, b"o\n\x1b[2Jthree\n");
        assert_eq!(lines(&mut console), (true, vec!["two".into(), " [2Jthree".into()]));
        assert_eq!(lines(&mut console), (false, vec![]));
        write(&page, &[b'x'; 600]);
        assert_eq!(lines(&mut console).1, [String::from_utf8(vec![b'x'; LONGEST]).unwrap()]);
        page[core::mem::offset_of!(XenconsInterface, out_prod) / 4].store(0x8000_0000, SeqCst);
        assert_eq!(lines(&mut console), (false, vec![]), "indexes that make no sense");
    }

    /// C1 control characters as single bytes, as the two bytes that they have in UTF-8, and as the second byte of another character.
    #[test]
    fn a_line_moves_no_cursor() {
        let (page, mut console) = console();
        for byte in 0x7f..=0xffu8 {
            let text = [b"a".as_slice(), &[byte], "\u{11b}".as_bytes(), &[0xc2, byte], b"z\n"].concat();
            write(&page, &text);
            let line = lines(&mut console).1.remove(0);
            assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{byte:#x}: {line:?}");
            assert!(line.starts_with('a') && line.ends_with('z'));
        }
        write(&page, "\u{9b}2J \u{202e}x\ty\n".as_bytes());
        assert_eq!(lines(&mut console).1, [" 2J ?x\ty"]);
    }

    #[test]
    fn the_chosen_one_is_seen_as_it_writes() {
        let (page, mut console) = console();
        write(&page, b"log\nlogin: ");
        assert_eq!(lines(&mut console).1, ["log"]);
        assert_eq!(output(&mut console, true), (false, vec!["raw login: ".into()]));
        write(&page, b"ro\x1b[m");
        assert_eq!(output(&mut console, true), (true, vec!["raw ro\x1b[m".into()]));
        write(&page, b"ot\n");
        assert_eq!(lines(&mut console).1, ["ot"]);
    }

    /// A page full of line ends is more on this domain's console than in the page.
    #[test]
    fn output_stays_in_the_page_while_there_is_no_room_for_it() {
        let (page, mut console) = console();
        write(&page, &[b'\n'; XENCONS_OUT_SIZE as usize]);
        let mut serve = |is_chosen, room| {
            let (mut lines, mut left) = (0, room);
            let moved = console.serve(is_chosen, room, |out| {
                lines += 1;
                left -= if let Output::Raw(bytes) = out { bytes.len() } else { 10 };
                left
            });
            (moved, lines, console.has_output())
        };
        for is_chosen in [false, true] {
            assert_eq!(serve(is_chosen, 0), (false, 0, true));
        }
        assert_eq!(serve(false, LONGEST), (true, 1, true));
        assert_eq!(serve(false, LONGEST + 95), (true, 10, true));
        assert_eq!(serve(true, 2037), (true, 1, true));
        let mut rounds = 0;
        while serve(true, 100).2 {
            rounds += 1;
        }
        assert_eq!(rounds, (2048 - 11 - LONGEST) / 100);
    }

    #[test]
    fn what_is_typed_arrives_as_far_as_it_is_read() {
        let (page, mut console) = console();
        let typed: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        console.type_in(&typed);
        let (guest, mut got) = (Page::new(page).unwrap(), Vec::<u8>::new());
        while lines(&mut console).0 {
            let mut bytes = [0; XENCONS_IN_SIZE as usize];
            let count = guest.input().pop(&mut bytes).unwrap();
            got.extend(&bytes[..count]);
        }
        assert_eq!(got, typed[..BACKLOG]);
    }

    #[test]
    fn notes_say_whom_input_is_for() {
        let mut keyboard = Keyboard::default();
        let mut sort = |bytes: &[u8]| {
            let mut all = Vec::new();
            keyboard.sort(bytes, |domain, byte| all.push((domain, byte)));
            (keyboard.chosen(), all)
        };
        assert_eq!(sort(b"nobody"), (None, vec![]));
        assert_eq!(sort(&[0xff, 1]), (None, vec![]));
        assert_eq!(sort(&[2, b'a', 0xff]), (Some(0x102), vec![(0x102, b'a')]));
        assert_eq!(sort(&[0xff, 0xff, b'b']), (Some(0xffff), vec![(0xffff, b'b')]));
    }
}
