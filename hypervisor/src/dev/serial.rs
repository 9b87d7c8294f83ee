//! The serial console: an 16550 at the standard ports, and the log on it.
//!
//! One lock, always taken with interrupts off, orders whole writes of all CPUs. At 115,200 baud a byte takes as long as 87,000
//! instructions, so a CPU that writes only fills a queue and as much of the FIFO as is free; the transmitter's interrupt sends the
//! rest, 16 bytes at a time. Received bytes are taken by the same interrupt and wait for `Work::CONSOLE`.
//!
//! Three times a CPU waits for the transmitter instead: until [`stop_waiting`], with `sync_console` or a port without an
//! interrupt line for ever, and from [`break_lock`] on, when the machine ends. It does not wait for ever for one that is broken.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use hypervisor_core::console::{PATIENCE, Registers, Uart};
use hypervisor_core::options::{LogLevel, Parity, Serial};
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

/// Bytes that may wait for the transmitter: 2.8 s of a line at 115,200 baud.
const QUEUE: usize = 32 * 1024;

/// The eight I/O ports of a UART.
struct Ports {
    base: u16,
}

impl Registers for Ports {
    fn read(&mut self, register: u16) -> u8 {
        // SAFETY: the UART's ports are the hypervisor's; no register of it reaches memory.
        unsafe { Port::new(self.base + register).read() }
    }

    fn write(&mut self, register: u16, value: u8) {
        // SAFETY: as above.
        unsafe { Port::new(self.base + register).write(value) }
    }
}

// All zeros, so that the queue takes no room in the image; nothing is reached before `init`.
static UART: Mutex<Uart<Ports, QUEUE>> = Mutex::new(Uart::new(Ports { base: 0 }));
static PRESENT: AtomicBool = AtomicBool::new(false);

/// Does something with the UART, if there is one.
fn with<T>(run: impl FnOnce(&mut Uart<Ports, QUEUE>) -> T) -> Option<T> {
    let present = PRESENT.load(Ordering::Relaxed);
    present.then(|| without_interrupts(|| run(&mut UART.lock())))
}

/// Makes a UART at I/O ports the console and programs it. Without a UART there nothing is ever printed.
pub fn init(serial: &Serial) {
    let Ok(base) = u16::try_from(serial.io_base) else { return };
    let parity = match serial.parity {
        Parity::None => 0,
        Parity::Odd => 1,
        Parity::Even => 3,
        Parity::Mark => 5,
        Parity::Space => 7,
    };
    let format =
        (serial.data_bits.clamp(5, 8) - 5) | ((serial.stop_bits.clamp(1, 2) - 1) << 2) | (parity << 3);
    let divisor = |baud: u32| {
        let divisor = (serial.clock_hz.unwrap_or(1_843_200) / 16 / baud.max(1)).clamp(1, 0xffff);
        u16::try_from(divisor).unwrap_or(u16::MAX)
    };
    let mut uart = UART.lock();
    uart.set_registers(Ports { base });
    PRESENT.store(uart.program(format, serial.baud.map(divisor)), Ordering::Relaxed);
}

/// Lets received bytes interrupt.
pub fn enable_interrupt() {
    with(Uart::enable_receiver);
}

/// From now on its interrupt, which is routed, does the waiting.
pub fn stop_waiting() {
    with(Uart::stop_waiting);
}

/// It interrupts; answers whether [`Work::CONSOLE`](hypervisor_core::platform::Work::CONSOLE) is to be raised.
pub fn interrupt() -> bool {
    with(Uart::interrupt).unwrap_or(false)
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    with(|uart| uart.write(bytes));
}

/// Waits until what waits for the transmitter leaves room for `bytes` bytes. Interrupts are served meanwhile if they are on.
pub fn wait_for_room(bytes: usize) {
    for _ in 0..PATIENCE {
        if with(|uart| uart.make_room(bytes)).unwrap_or(true) {
            return;
        }
        core::hint::spin_loop();
    }
    with(Uart::give_up);
}

/// Whether `bytes` bytes of guests' text find room now. Where not, `Work::CONSOLE` is raised when some do.
pub fn has_room(bytes: usize) -> bool {
    with(|uart| uart.has_room(bytes)).unwrap_or(true)
}

/// Takes received bytes; answers how many.
pub fn read(buffer: &mut [u8]) -> usize {
    with(|uart| uart.read(buffer)).unwrap_or(0)
}

/// Takes the console for the CPU that ends the machine, whoever had it, and writes out what waits for the transmitter. Everything
/// that is written from now on waits.
///
/// # Safety
/// No other CPU will write any more.
pub unsafe fn break_lock() {
    ALONE.store(true, Ordering::Relaxed);
    // SAFETY: as the caller promises.
    unsafe { UART.force_unlock() };
    with(Uart::wait_for_ever);
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
