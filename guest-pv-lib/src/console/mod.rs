//! The console: the machine's for the first domain, a ring that a console server empties for the others.
//!
//! [`print!`](crate::print!) and [`println!`](crate::println!) write to whichever the domain has. Output of one
//! statement is not torn by an upcall's or another CPU's; code that must get through whatever was interrupted (a
//! panic, an unhandled exception) uses [`emergency`].
//!
//! [`Console`] is the same as a value: a [`fmt::Write`], and with the feature `embedded-io` a reader and writer of that
//! crate's traits. With the feature `log`, `init_log` makes the console what the macros of the crate `log` write to.

pub mod hypervisor;
mod io;
#[cfg(feature = "log")]
mod log;
pub mod ring;

use core::fmt::{self, Write};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};

pub use io::Console;
#[cfg(feature = "log")]
pub use log::init_log;

use crate::events::{Channel, Virq};
use crate::{Errno, events, sched, smp, time};

/// Whether the domain's console is the ring.
static USE_RING: AtomicBool = AtomicBool::new(false);
/// One more than the number of the CPU that prints; 0 while nobody does.
static PRINTER: AtomicU32 = AtomicU32::new(0);
/// Held while input is taken.
static INPUT: spin::Mutex<()> = spin::Mutex::new(());

/// How often a CPU lets others run while one of them prints, before it prints all the same: that one may have died.
const PATIENCE: u32 = 10_000;
/// How long somebody waits for a console server, in nanoseconds, before looking again.
const PAUSE: u64 = 1_000_000;

/// Chooses the console.
#[cfg(target_os = "none")]
pub(crate) fn init(boot: &crate::BootContext) {
    if boot.is_initial_domain() {
        return;
    }
    // SAFETY: once, by the entry, before any output.
    USE_RING.store(unsafe { ring::map(boot) }.is_ok(), Release);
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
    in_turn(|| emergency(text));
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
    in_turn(|| put(bytes));
}

/// Bytes that can be written now without a wait. None: the console is the machine's, which does not say.
#[must_use]
pub fn room() -> Option<usize> {
    USE_RING.load(Acquire).then(ring::room)
}

/// Takes what was typed, without waiting, and returns how many bytes that was. None for a domain that may not read the
/// machine's console.
pub fn read(buffer: &mut [u8]) -> usize {
    events::without_upcalls(|| {
        let _one_at_a_time = INPUT.lock();
        if USE_RING.load(Acquire) { ring::read(buffer) } else { hypervisor::read(buffer).unwrap_or(0) }
    })
}

/// The channel that fires when something was typed. To be asked for once.
///
/// # Errors
///
/// Where the port cannot be bound: `EPERM` for a domain that may not read the machine's console.
pub fn channel() -> Result<Channel, Errno> {
    if USE_RING.load(Acquire) { Channel::from_port(ring::port()) } else { Channel::bind_virq(Virq::CONSOLE) }
}

/// Sleeps for a moment, without taking an event from anybody.
fn pause() {
    let _ = sched::poll(&[], Some(time::now() + PAUSE));
}

/// Runs `work` while no other CPU and no upcall prints.
fn in_turn(work: impl FnOnce()) {
    events::without_upcalls(|| {
        let me = smp::this_cpu().number() + 1;
        let mut mine = false;
        for _ in 0..PATIENCE {
            match PRINTER.compare_exchange(0, me, Acquire, Relaxed) {
                Ok(_) => mine = true,
                // This CPU prints already, and an exception interrupted that: the text goes between.
                Err(printer) if printer == me => {}
                Err(_) => {
                    sched::yield_now();
                    continue;
                }
            }
            break;
        }
        work();
        if mine {
            PRINTER.store(0, Release);
        }
    });
}

fn put(bytes: &[u8]) {
    if USE_RING.load(Acquire) {
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
        put(&self.bytes[..self.used]);
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
