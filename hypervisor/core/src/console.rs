//! The machine's console: output of the hypervisor itself, and input on its way to the domain that reads it.
//!
//! Output of the control domain goes to the platform unchanged, for it may be interactive. Input is taken from the platform
//! when [`crate::platform::Work::CONSOLE`] was raised, waits here, and is announced by `VIRQ_CONSOLE`.

use crate::Hypervisor;
use crate::ids::{DomId, VcpuId};
use crate::platform::Platform;
use alloc::collections::VecDeque;
use core::fmt::{self, Write};
use spin::Mutex;
use xen_abi::xen::VIRQ_CONSOLE;

/// Input that waits at most; what comes when this is full is lost, as on any line without flow control.
const CAPACITY: usize = 4096;

/// Console input on its way to its reader.
pub struct Console {
    input: Mutex<VecDeque<u8>>,
}

impl Console {
    /// No input yet.
    pub const fn new() -> Self {
        Self { input: Mutex::new(VecDeque::new()) }
    }

    /// Copies the oldest input without taking it; answers how many bytes.
    pub fn peek(&self, bytes: &mut [u8]) -> usize {
        let input = self.input.lock();
        let (front, back) = input.as_slices();
        let mut copied = 0;
        for (byte, slot) in front.iter().chain(back).zip(bytes) {
            *slot = *byte;
            copied += 1;
        }
        copied
    }

    /// Takes the oldest `count` bytes of input.
    pub fn consume(&self, count: usize) {
        let mut input = self.input.lock();
        let count = count.min(input.len());
        input.drain(..count);
    }

    /// Adds input; answers whether any of it found room.
    fn add(&self, bytes: &[u8]) -> bool {
        let mut input = self.input.lock();
        let room = CAPACITY.saturating_sub(input.len()).min(bytes.len());
        input.extend(&bytes[..room]);
        room != 0
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

/// Formats straight to the platform's console.
struct Output<'a, P: Platform>(&'a P);

impl<P: Platform> Write for Output<'_, P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.console_write(text.as_bytes());
        Ok(())
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Takes all input from the platform and tells the control domain. Called when
    /// [`crate::platform::Work::CONSOLE`] was raised.
    pub fn console_input(&self) {
        let mut bytes = [0; 64];
        let mut news = false;
        loop {
            let count = self.platform.console_read(&mut bytes).min(bytes.len());
            if count == 0 {
                break;
            }
            news |= self.console.add(&bytes[..count]);
        }
        if let Some(control) = self.domains.get(DomId(0)).filter(|_| news) {
            self.send_virq(&control, VcpuId(0), VIRQ_CONSOLE);
        }
    }

    /// Writes a message of the hypervisor to the console. Guests must not be able to make it say much.
    pub fn log(&self, message: fmt::Arguments<'_>) {
        let _ = write!(Output(&self.platform), "(HV) {message}");
    }
}
