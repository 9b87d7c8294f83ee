//! The console: a 16550 at the ports of COM1, polled.

use core::slice;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::instructions::port::Port;
use xen_abi::errno::Errno;
use xen_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use super::error;

const BASE: u16 = 0x3f8;
const LINE_STATUS: u16 = 5;
const RECEIVED: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// 115,200 baud.
const DIVISOR: u8 = 1;

static PRESENT: AtomicBool = AtomicBool::new(false);

fn output(register: u16, value: u8) {
    // SAFETY: the UART's ports; no register of it reaches memory.
    unsafe { Port::new(BASE + register).write(value) }
}

fn input(register: u16) -> u8 {
    // SAFETY: as in `output`.
    unsafe { Port::new(BASE + register).read() }
}

/// Programs it: 115,200 baud, 8 bits, no parity, no interrupts.
pub fn init() {
    output(1, 0);
    output(3, 0x80);
    output(0, DIVISOR);
    output(1, 0);
    output(3, 3);
    output(2, 7);
    output(4, 3);
    PRESENT.store(input(LINE_STATUS) != 0xff, Relaxed);
}

fn send(byte: u8) {
    while input(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
    output(0, byte);
}

/// `console_io`.
///
/// # Safety
///
/// `count` bytes at `buffer` must be the caller's.
pub unsafe fn console_io(command: u64, count: u64, buffer: u64) -> i64 {
    let (at, count) = (buffer as usize, count as usize);
    if !PRESENT.load(Relaxed) {
        return error(Errno::ENODEV);
    }
    match u32::try_from(command) {
        Ok(CONSOLEIO_WRITE) => {
            // SAFETY: the caller's promise.
            for &byte in unsafe { slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(at), count) }
            {
                if byte == b'\n' {
                    send(b'\r');
                }
                send(byte);
            }
            0
        }
        Ok(CONSOLEIO_READ) => {
            // SAFETY: the caller's promise.
            let buffer =
                unsafe { slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut::<u8>(at), count) };
            let mut read = 0;
            while read < count && input(LINE_STATUS) & RECEIVED != 0 {
                buffer[read] = input(0);
                read += 1;
            }
            read as i64
        }
        _ => error(Errno::ENOSYS),
    }
}
