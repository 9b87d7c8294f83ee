//! The console: the machine's for the first domain, a ring that a console server empties for the others.
//!
//! [`print!`](crate::print!) and [`println!`](crate::println!) write to whichever the domain has. Output of one
//! statement is not torn by an upcall's output; code that must get through whatever was interrupted (a panic, an
//! unhandled exception) uses [`emergency`].

pub mod hypervisor;
pub mod ring;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::events;

/// Whether the domain's console is the ring.
static USE_RING: AtomicBool = AtomicBool::new(false);
static LOCK: spin::Mutex<()> = spin::Mutex::new(());

/// Chooses the console.
#[cfg(target_os = "none")]
pub(crate) fn init(boot: &crate::BootContext) {
    if boot.is_initial_domain() {
        return;
    }
    // SAFETY: once, by the entry, before any output.
    USE_RING.store(unsafe { ring::map(boot) }.is_ok(), Ordering::Release);
}

/// Prints without a line end.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::print(::core::format_args!($($text)*)) };
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($text:tt)*) => { $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($text)*))) };
}

/// Prints on the domain's console.
pub fn print(text: fmt::Arguments<'_>) {
    events::without_upcalls(|| {
        // On one CPU the lock can only be held by code that an exception interrupted: then the text goes between.
        let _guard = LOCK.try_lock();
        emergency(text);
    });
}

/// Prints without waiting for whoever prints.
pub fn emergency(text: fmt::Arguments<'_>) {
    let mut out = Buffered { bytes: [0; 128], used: 0 };
    // Our own writer never fails; a failing `Display` loses the rest of its line.
    let _ = out.write_fmt(text);
    out.flush();
}

/// Writes bytes to the domain's console.
pub fn write(bytes: &[u8]) {
    if USE_RING.load(Ordering::Acquire) {
        ring::write(bytes);
    } else {
        hypervisor::write(bytes);
    }
}

/// Joins the pieces of a formatted text, so that a line is one hypercall and not ten.
struct Buffered {
    bytes: [u8; 128],
    used: usize,
}

impl Buffered {
    fn flush(&mut self) {
        write(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Write for Buffered {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}
