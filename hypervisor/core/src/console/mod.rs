//! The machine's console: one serial line that the hypervisor and all domains share.
//!
//! What each file owns: [`screen`](self) who may write what to the line, and the log; `input` whom typed bytes go to,
//! and switching that; [`ring`](self) the console rings of domains without a back end of their own; `keys` what the
//! hypervisor itself understands; `uart` the machine's serial port, and
//! `transmit` the queue of what waits for it.
//!
//! A domain writes by `console_io` (the control domain) or through its ring. At any time one domain has the input, or the
//! hypervisor has; three times the switch character (`conswitch=`, Ctrl-A) gives it to the next. Input for a domain without
//! a ring waits here, announced by `VIRQ_CONSOLE`; that for a domain whose console another one serves goes to that one.
//!
//! # Invariants
//! - Locks: a ring's end, then `input`, then `screen`. Nothing is sent to a domain while `input` or `screen` is held. The
//!   screen's lock is held while the platform writes, so that lines of several CPUs do not mix.
//! - A ring in `rings` holds a type reference to its page, which [`Hypervisor::detach_console`] gives back. A CPU
//!   may have found the ring before that, through `rings`, which names rings of dying domains too. So the page is accessed only
//!   with the ring's end locked and not closed, and is given back only after the end was closed.
//! - The line is slow, and writing never waits for it, but for the answers to keys. Text of guests is taken only while the line has
//!   room; the rest stays in their rings, or their hypercall is made again.
//! - A guest's text is written in its own time, a burst ([`BURST`] bytes, [`LINES`] lines) for each entry: a notification with more
//!   behind it is a hypercall to be made again. What waited for the line goes on when the line has room, a burst of one domain each
//!   time, the domains in turn: no more than the line takes. While some text waits, a domain that sends an event waits with the
//!   others, and `console_io` writes one burst between two of theirs: asking often gains nothing.

mod input;
mod keys;
mod ring;
mod screen;
#[cfg(test)]
mod tests;
mod transmit;
mod uart;

pub use screen::LogPart;
pub use uart::{PATIENCE, Registers, Uart};

use crate::Hypervisor;
use crate::domain::{Domain, Restart};
use crate::ids::{DomId, Mfn, Port};
use crate::page::PageType;
use crate::platform::{GuestFrame, Platform, Work};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use input::Input;
use ring::{Ring, RingEnd};
use screen::{Screen, Writer};
use spin::{Mutex, MutexGuard};
use xen_abi::errno::Errno;
use xen_abi::io::console::XENCONS_OUT_SIZE;
use xen_abi::xen::VIRQ_CON_RING;

/// Bytes of a guest's text that are written before other work is looked at.
pub(crate) const BURST: usize = 256;
/// Ends of lines among them: each costs as much as many bytes.
pub(crate) const LINES: usize = 8;
/// Room for a message of the hypervisor.
const MESSAGE: usize = 256;
/// What a burst can become on the line: a name in front of each line and of the first part, and ends of lines of two bytes.
const BURST_ROOM: usize = BURST + (LINES + 1) * 16;

/// The console's state.
pub struct Console {
    screen: Mutex<Screen>,
    input: Mutex<Input>,
    rings: Mutex<BTreeMap<DomId, Arc<Ring>>>,
    /// There is text in a ring for which the line had no room.
    more_output: AtomicBool,
    /// Some of that was written since a domain wrote by `console_io` last.
    ring_served: AtomicBool,
    /// The domain whose ring was served last of those.
    served_last: AtomicU32,
    /// The hypervisor answers a key: nothing of that may be lost, so writing waits for the line.
    patient: AtomicBool,
    /// The log grew since the control domain was told.
    log_grew: AtomicBool,
}

impl Console {
    /// Nothing written, nothing typed; nobody has the input yet.
    pub const fn new() -> Self {
        Self {
            screen: Mutex::new(Screen::new()),
            input: Mutex::new(Input::new()),
            rings: Mutex::new(BTreeMap::new()),
            more_output: AtomicBool::new(false),
            ring_served: AtomicBool::new(false),
            served_last: AtomicU32::new(0),
            patient: AtomicBool::new(false),
            log_grew: AtomicBool::new(false),
        }
    }

    /// At most `most` bytes of the log from byte `from` on (`XEN_SYSCTL_readconsole`); `None`, or a byte that is no
    /// longer there: from the oldest.
    pub fn log_part(&self, from: Option<u32>, most: usize) -> LogPart {
        self.screen.lock().log_part(from, most)
    }

    /// Forgets the log up to byte `to`, the end of a [`LogPart`] that was read.
    pub fn clear_log(&self, to: u32) {
        self.screen.lock().clear_log(to);
    }

    fn ring(&self, domain: DomId) -> Option<Arc<Ring>> {
        self.rings.lock().get(&domain).cloned()
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

/// Formats to the screen, in the hypervisor's name. It has the screen for a whole message, so that those of several CPUs
/// do not mix. What formatting yields in small parts goes to the screen together: each part costs as much there as a short line.
struct Output<'a, P: Platform> {
    platform: &'a P,
    screen: MutexGuard<'a, Screen>,
    text: [u8; MESSAGE],
    len: usize,
}

impl<P: Platform> Output<'_, P> {
    fn flush(&mut self) {
        let platform = self.platform;
        let text = &self.text[..core::mem::take(&mut self.len)];
        self.screen.write(Writer::Hypervisor, text, &mut |bytes| platform.console_write(bytes));
    }
}

impl<P: Platform> Write for Output<'_, P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            if self.len == MESSAGE {
                self.flush();
            }
            let (now, later) = rest.split_at(rest.len().min(MESSAGE - self.len));
            self.text[self.len..self.len + now.len()].copy_from_slice(now);
            self.len += now.len();
            rest = later;
        }
        Ok(())
    }

    // Padding comes in single characters.
    fn write_char(&mut self, char: char) -> fmt::Result {
        match u8::try_from(char) {
            Ok(byte) if byte.is_ascii() && self.len < MESSAGE => {
                self.text[self.len] = byte;
                self.len += 1;
                Ok(())
            }
            _ => self.write_str(char.encode_utf8(&mut [0; 4])),
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Writes a message of the hypervisor to the console; lines end in `\n`. Guests must not be able to make it say much.
    pub fn log(&self, message: fmt::Arguments<'_>) {
        if self.console.patient.load(Ordering::Relaxed) {
            self.platform.console_wait(MESSAGE);
        }
        let screen = self.console.screen.lock();
        let mut output = Output { platform: &self.platform, screen, text: [0; MESSAGE], len: 0 };
        // Writing to the screen cannot fail.
        let _ = output.write_fmt(message);
        output.flush();
        drop(output);
        self.console.log_grew.store(true, Ordering::Relaxed);
        self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
    }

    /// Whether the line has room for a burst of a guest's text.
    pub(crate) fn console_has_room(&self) -> bool {
        self.platform.console_has_room(BURST_ROOM)
    }

    /// Whether a domain may write a burst by `console_io` now: the line has room, and it is not the turn of those that wait for it.
    pub(crate) fn console_takes_text(&self) -> bool {
        if !self.console_has_room() {
            return false;
        }
        let others_wait = self.console.more_output.load(Ordering::SeqCst);
        let its_turn = !others_wait || self.console.ring_served.swap(false, Ordering::SeqCst);
        if !its_turn {
            self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
        }
        its_turn
    }

    /// Writes text of a domain: a burst at most.
    pub fn console_output(&self, domain: DomId, text: &[u8]) {
        self.write_screen(Writer::Domain(domain), text);
    }

    fn write_screen(&self, writer: Writer, text: &[u8]) {
        self.console.screen.lock().write(writer, text, &mut |bytes| self.platform.console_write(bytes));
    }

    /// Serves a domain's console ring from now on; answers the domain's port of it. The page is cleared.
    ///
    /// # Errors
    /// `EEXIST` when the domain has one already, `EINVAL` when the page cannot be the domain's writable memory; as
    /// allocating a port.
    pub fn attach_console(&self, domain: &Arc<Domain<P>>, mfn: Mfn) -> Result<Port, Errno> {
        if self.console.ring(domain.id).is_some() {
            return Err(Errno::EEXIST);
        }
        self.get_page_and_type(domain, mfn, PageType::Writable).map_err(|_| Errno::EINVAL)?;
        let port = match self.bind_console(domain) {
            Ok(port) => port,
            Err(error) => {
                self.put_page_and_type(mfn);
                return Err(error.into());
            }
        };
        self.platform.words(GuestFrame::held(mfn)).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.console.rings.lock().insert(domain.id, Arc::new(Ring::new(mfn, port)));
        self.console_appeared(domain);
        Ok(port)
    }

    /// Ends a domain's use of the console: its last text is written as far as the line has room, and the page of its ring given back.
    ///
    /// # Errors
    /// [`Restart`] when the CPU has other work first.
    pub fn detach_console(&self, domain: &Arc<Domain<P>>) -> Result<(), Restart> {
        if let Some(ring) = self.console.ring(domain.id) {
            self.finish_ring(domain.id, &ring)?;
        }
        self.console
            .screen
            .lock()
            .finish(Writer::Domain(domain.id), &mut |bytes| self.platform.console_write(bytes));
        self.console_vanished(domain.id);
        Ok(())
    }

    /// Writes the last text of a ring, takes the ring out of use and gives its page back, in this order: other CPUs may have found the
    /// ring before and use it as long as it is open.
    fn finish_ring(&self, domain: DomId, ring: &Ring) -> Result<(), Restart> {
        let page = || self.platform.frame_words(ring.mfn);
        let mut left = XENCONS_OUT_SIZE as usize;
        while left != 0 && self.console_has_room() {
            let Some(mut end) = ring.open() else { break };
            let text = end.take_output(page(), left.min(BURST), LINES);
            if text.is_empty() {
                break;
            }
            left -= text.len();
            self.console_output(domain, &text);
            drop(end);
            if self.platform.work_pending() {
                return Err(Restart);
            }
        }
        let Some(mut end) = ring.open() else { return Ok(()) };
        end.close();
        drop(end);
        self.console.rings.lock().remove(&domain);
        self.put_page_and_type(ring.mfn);
        Ok(())
    }

    /// The domain sent an event by its console's port: writes a burst of its text, and gives it the input for which there was no room.
    /// Answers whether it is to send the event again, because there is more to write.
    pub(crate) fn serve_console(&self, domain: &Arc<Domain<P>>) -> bool {
        let Some(ring) = self.console.ring(domain.id) else { return false };
        let Some(mut end) = ring.open() else { return false };
        let page = self.platform.frame_words(ring.mfn);
        let first = || !self.console.more_output.load(Ordering::SeqCst);
        let has_room = !end.has_output(page) || first() && self.console_has_room();
        let text = if has_room { end.take_output(page, BURST, LINES) } else { Vec::new() };
        let more = end.has_output(page);
        if more && !has_room {
            end.owe_output(page);
            self.console.more_output.store(true, Ordering::SeqCst);
            // The line may have got room before that was to be seen.
            if self.console_has_room() {
                self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
            }
        }
        self.finish_burst(domain, &ring, end, &text);
        more && has_room
    }

    /// Writes text that was taken from a ring, whose end is locked and open, and tells its domain.
    fn finish_burst(
        &self,
        domain: &Arc<Domain<P>>,
        ring: &Ring,
        mut end: MutexGuard<'_, RingEnd>,
        text: &[u8],
    ) {
        let moved = end.give_input(self.platform.frame_words(ring.mfn));
        if !text.is_empty() {
            self.console_output(domain.id, text);
        }
        drop(end);
        if moved || !text.is_empty() {
            self.notify_console(domain, ring.port);
        }
    }

    /// Goes on with the text for which the line had no room: a burst of the next domain that has any.
    fn serve_next_console(&self) {
        let last = DomId(self.console.served_last.load(Ordering::Relaxed) as u16);
        let rings: Vec<(DomId, Arc<Ring>)> =
            self.console.rings.lock().iter().map(|(id, ring)| (*id, ring.clone())).collect();
        let (up_to_last, behind) = rings.split_at(rings.partition_point(|(id, _)| *id <= last));
        let mut in_turn = behind.iter().chain(up_to_last);
        let owes = |ring: &Ring| ring.open().is_some_and(|end| end.owes_output());
        let Some((id, ring)) = in_turn.find(|(_, ring)| owes(ring)) else { return };
        self.console.more_output.store(true, Ordering::SeqCst);
        if !self.console_has_room() {
            return;
        }
        self.console.served_last.store(id.0.into(), Ordering::Relaxed);
        self.console.ring_served.store(true, Ordering::SeqCst);
        // It may have been closed meanwhile: then the next ring has its turn.
        if let Some(mut end) = ring.open() {
            let text = end.take_owed(self.platform.frame_words(ring.mfn), BURST, LINES);
            match self.domains.get(*id) {
                Some(domain) => self.finish_burst(&domain, ring, end, &text),
                // It is being torn down, which writes the rest.
                None => self.console_output(*id, &text),
            }
        }
        self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
    }

    /// Does what [`Work::CONSOLE`] stands for: takes typed bytes, goes on with output that waited for the line, tells of a longer log.
    pub fn console_work(&self) {
        self.console_input();
        if self.console.more_output.swap(false, Ordering::SeqCst) {
            self.serve_next_console();
        }
        if self.console.log_grew.swap(false, Ordering::Relaxed) {
            self.send_global_virq(VIRQ_CON_RING);
        }
    }
}
