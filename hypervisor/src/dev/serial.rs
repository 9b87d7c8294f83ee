//! The serial console: an 16550 at the standard ports, and the log on it.
//!
//! One lock orders whole writes of all CPUs. Output waits for the transmitter (no interrupt), 16 bytes at a time where
//! the FIFO takes them; input arrives by interrupt and is kept in the UART until `Work::CONSOLE` drains it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use hypervisor_core::options::{LogLevel, Parity, Serial};
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

const FIFO: usize = 16;
const LINE_STATUS: u16 = 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

struct Uart {
    base: u16,
}

static UART: Mutex<Uart> = Mutex::new(Uart { base: 0x3f8 });
static PRESENT: AtomicBool = AtomicBool::new(false);

impl Uart {
    fn out(&mut self, register: u16, value: u8) {
        // SAFETY: the UART's ports are the hypervisor's; no register of it reaches memory.
        unsafe { Port::new(self.base + register).write(value) }
    }

    fn input(&mut self, register: u16) -> u8 {
        // SAFETY: as above.
        unsafe { Port::new(self.base + register).read() }
    }

    fn send(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO) {
            while self.input(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            for byte in chunk {
                self.out(0, *byte);
            }
        }
    }
}

/// Makes a UART at I/O ports the console and programs it. Without a UART there nothing is ever printed.
pub fn init(serial: &Serial) {
    let Ok(base) = u16::try_from(serial.io_base) else { return };
    let mut uart = UART.lock();
    uart.base = base;
    let parity = match serial.parity {
        Parity::None => 0,
        Parity::Odd => 1,
        Parity::Even => 3,
        Parity::Mark => 5,
        Parity::Space => 7,
    };
    let format =
        (serial.data_bits.clamp(5, 8) - 5) | ((serial.stop_bits.clamp(1, 2) - 1) << 2) | (parity << 3);
    uart.out(1, 0);
    if let Some(baud) = serial.baud {
        let divisor = (serial.clock_hz.unwrap_or(1_843_200) / 16 / baud.max(1)).clamp(1, 0xffff);
        uart.out(3, 0x80);
        uart.out(0, (divisor & 0xff) as u8);
        uart.out(1, (divisor >> 8) as u8);
    }
    uart.out(3, format);
    uart.out(2, 0x07);
    uart.out(4, 0x0b);
    PRESENT.store(uart.input(LINE_STATUS) != 0xff, Ordering::Relaxed);
}

/// Lets received bytes interrupt.
pub fn enable_interrupt() {
    without_interrupts(|| UART.lock().out(1, 1));
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    if PRESENT.load(Ordering::Relaxed) {
        without_interrupts(|| UART.lock().send(bytes));
    }
}

/// Takes received bytes; answers how many.
pub fn read(buffer: &mut [u8]) -> usize {
    without_interrupts(|| {
        let mut uart = UART.lock();
        let mut count = 0;
        while count < buffer.len()
            && PRESENT.load(Ordering::Relaxed)
            && uart.input(LINE_STATUS) & DATA_READY != 0
        {
            buffer[count] = uart.input(0);
            count += 1;
        }
        count
    })
}

/// Frees the console for a CPU that panics, whoever held it.
///
/// # Safety
/// No other CPU will write any more.
pub unsafe fn break_lock() {
    ALONE.store(true, Ordering::Relaxed);
    // SAFETY: as the caller promises.
    unsafe { UART.force_unlock() }
}

/// A line on its way out while there is no hypervisor yet, or none any more, whose console orders the lines of all CPUs.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.push(b'\r');
            }
            self.push(byte);
        }
        Ok(())
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if self.len == self.bytes.len() {
            self.flush();
        }
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn flush(&mut self) {
        write(&self.bytes[..self.len]);
        self.len = 0;
    }
}

static THRESHOLD: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(LogLevel::Info as u8);

/// Whether the log is all that may still be written: a CPU panics, and may have had the console's locks.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Sets which messages are printed: those at least as grave as `level`.
pub fn set_level(level: LogLevel) {
    THRESHOLD.store(level as u8, Ordering::Relaxed);
}

/// Prints one line of the log if its level is wanted.
pub fn log(level: LogLevel, args: fmt::Arguments<'_>) {
    if level as u8 > THRESHOLD.load(Ordering::Relaxed) {
        return;
    }
    if let Some(hv) = crate::machine::try_hv().filter(|_| !ALONE.load(Ordering::Relaxed)) {
        hv.log(format_args!("{args}\n"));
        return;
    }
    let mut line = Line { bytes: [0; 256], len: 0 };
    // Writing to `line` cannot fail.
    let _ = writeln!(line, "(HV) {args}");
    line.flush();
}

/// Prints a line that tells how boot goes.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::dev::serial::log(hypervisor_core::options::LogLevel::Info, format_args!($($arg)*)) };
}

/// Prints a line that someone should act on.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::dev::serial::log(hypervisor_core::options::LogLevel::Error, format_args!($($arg)*)) };
}

/// Prints a line about something that looks wrong.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::dev::serial::log(hypervisor_core::options::LogLevel::Warning, format_args!($($arg)*)) };
}
