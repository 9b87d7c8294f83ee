//! The machine's console: one serial line that the hypervisor and all domains share.
//!
//! What each file owns: [`screen`](self) who may write what to the line, and the log; `input` whom typed bytes go to,
//! and switching that; [`ring`](self) the console rings of domains without a back end of their own; `keys` what the
//! hypervisor itself understands.
//!
//! A domain writes by `console_io` (the control domain) or through its ring. At any time one domain has the input, or the
//! hypervisor has; three times the switch character (`conswitch=`, Ctrl-A) gives it to the next. Input for a domain without
//! a ring waits here, announced by `VIRQ_CONSOLE`; that for a domain whose console another one serves goes to that one.
//!
//! # Invariants
//! - Locks: a ring's end, then `input`, then `screen`. Nothing is sent to a domain while `input` or `screen` is held. The
//!   screen's lock is held while the platform writes, so that lines of several CPUs do not mix.
//! - A ring in `rings` holds a type reference to its page, which [`Hypervisor::detach_console`] gives back.
//! - What one notification of a guest makes the hypervisor do is bounded: [`BURST`] bytes, then other work comes first.

mod input;
mod keys;
mod ring;
mod screen;
#[cfg(test)]
mod tests;

pub use screen::LogPart;

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Mfn, Port};
use crate::page::PageType;
use crate::platform::{GuestFrame, Platform, Work};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use input::Input;
use ring::{Ring, RingEnd};
use screen::{Screen, Writer};
use spin::{Mutex, MutexGuard};
use xen_abi::errno::Errno;
use xen_abi::xen::VIRQ_CON_RING;

/// Bytes of a ring that are written out before other work is looked at: 22 ms of a line at 115,200 baud.
const BURST: usize = 256;

/// The console's state.
pub struct Console {
    screen: Mutex<Screen>,
    input: Mutex<Input>,
    rings: Mutex<BTreeMap<DomId, Arc<Ring>>>,
    /// There is more in a ring than one burst.
    more_output: AtomicBool,
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
            log_grew: AtomicBool::new(false),
        }
    }

    /// At most `most` bytes of the log from byte `from` on (`XEN_SYSCTL_readconsole`); `None`, or a byte that is no
    /// longer there: from the oldest.
    pub fn log_part(&self, from: Option<u32>, most: usize) -> LogPart {
        self.screen.lock().log_part(from, most)
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.screen.lock().clear_log();
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
/// do not mix.
struct Output<'a, P: Platform> {
    platform: &'a P,
    screen: MutexGuard<'a, Screen>,
}

impl<P: Platform> Write for Output<'_, P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let platform = self.platform;
        self.screen.write(Writer::Hypervisor, text.as_bytes(), &mut |bytes| platform.console_write(bytes));
        Ok(())
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Writes a message of the hypervisor to the console; lines end in `\n`. Guests must not be able to make it say much.
    pub fn log(&self, message: fmt::Arguments<'_>) {
        // Writing to the screen cannot fail.
        let _ = Output { platform: &self.platform, screen: self.console.screen.lock() }.write_fmt(message);
        self.console.log_grew.store(true, Ordering::Relaxed);
        self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
    }

    /// Writes text of a domain.
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
        let ring = Ring { mfn, port, end: Mutex::new(RingEnd::default()) };
        self.console.rings.lock().insert(domain.id, Arc::new(ring));
        self.console_appeared(domain);
        Ok(port)
    }

    /// Ends a domain's use of the console: its last text is written, and the page of its ring given back.
    pub fn detach_console(&self, domain: &Arc<Domain<P>>) {
        if let Some(ring) = self.console.rings.lock().remove(&domain.id) {
            let rest = ring.end.lock().take_output(self.platform.frame_words(ring.mfn), usize::MAX);
            self.console_output(domain.id, &rest);
            self.put_page_and_type(ring.mfn);
        }
        self.console
            .screen
            .lock()
            .finish(Writer::Domain(domain.id), &mut |bytes| self.platform.console_write(bytes));
        self.console_vanished(domain.id);
    }

    /// The domain sent an event by its console's port: writes its text, and gives it the input for which there was no room.
    pub(crate) fn serve_console(&self, domain: &Arc<Domain<P>>) {
        let Some(ring) = self.console.ring(domain.id) else { return };
        let page = self.platform.frame_words(ring.mfn);
        let mut end = ring.end.lock();
        let text = end.take_output(page, BURST);
        let more = end.has_output(page);
        let moved = end.give_input(page);
        self.console_output(domain.id, &text);
        drop(end);
        if more {
            self.console.more_output.store(true, Ordering::Relaxed);
            self.platform.raise_work(self.platform.this_cpu(), Work::CONSOLE);
        }
        if moved || !text.is_empty() {
            self.notify_console(domain, ring.port);
        }
    }

    /// Does what [`Work::CONSOLE`] stands for: takes typed bytes, goes on with long output, tells of a longer log.
    pub fn console_work(&self) {
        self.console_input();
        if self.console.more_output.swap(false, Ordering::Relaxed) {
            for domain in self.domains.all() {
                self.serve_console(&domain);
            }
        }
        if self.console.log_grew.swap(false, Ordering::Relaxed) {
            self.send_global_virq(VIRQ_CON_RING);
        }
    }
}
