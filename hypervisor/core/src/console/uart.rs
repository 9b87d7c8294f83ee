//! A 16550 UART that nobody waits for: the protocol between those who write, those who read, and its interrupt.
//!
//! Registers are reached through [`Registers`], so that the same code drives the machine's UART and a model of one in host tests. The
//! caller has a [`Uart`] under a lock that is taken with interrupts off.

use super::transmit::Transmit;

/// Bytes that the transmitter takes when it is ready.
const FIFO: usize = 16;
/// Received bytes that may wait; further ones stay in the UART.
const RECEIVED: usize = 256;
/// How often to look whether the transmitter is ready: some seconds at a microsecond each, in which even 16 bytes at 110 baud are gone.
pub const PATIENCE: u32 = 5_000_000;
/// How often an interrupt looks for further reasons before it comes back for them.
const ROUNDS: usize = 4;
/// Room for guests' text at which those who wait for it are told, in bytes.
const WAKE_ROOM: usize = 1024;

/// Received and sent bytes; the divisor's low byte while it can be set.
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const RECEIVE_INTERRUPT: u8 = 1;
const TRANSMIT_INTERRUPT: u8 = 1 << 1;
const NO_INTERRUPT: u8 = 1;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Line control: the first two registers are the divisor.
const DIVISOR: u8 = 1 << 7;

/// The registers of a UART, 0 to 7.
pub trait Registers {
    /// Reads one.
    fn read(&mut self, register: u16) -> u8;
    /// Writes one.
    fn write(&mut self, register: u16, value: u8);
}

/// A UART, and at most `N` bytes that wait for its transmitter.
pub struct Uart<R, const N: usize> {
    registers: R,
    queue: Transmit<N>,
    received: [u8; RECEIVED],
    received_count: usize,
    /// What its register of enabled interrupts holds.
    enabled: u8,
    /// It interrupts, so nothing waits for it.
    asynchronous: bool,
    /// It was not ready within [`PATIENCE`], and was not seen ready since.
    stuck: bool,
    /// A guest's text waits for room.
    awaited: bool,
}

impl<R: Registers, const N: usize> Uart<R, N> {
    /// One whose transmitter is waited for, and that never interrupts.
    pub const fn new(registers: R) -> Self {
        Self {
            registers,
            queue: Transmit::new(),
            received: [0; RECEIVED],
            received_count: 0,
            enabled: 0,
            asynchronous: false,
            stuck: false,
            awaited: false,
        }
    }

    /// Its registers are these from now on.
    pub fn set_registers(&mut self, registers: R) {
        self.registers = registers;
    }

    /// Programs it: `format` is what line control holds, without a divisor the speed stays. Answers whether there is a UART.
    pub fn program(&mut self, format: u8, divisor: Option<u16>) -> bool {
        self.registers.write(INTERRUPT_ENABLE, 0);
        self.enabled = 0;
        self.stuck = false;
        if let Some(divisor) = divisor {
            let [low, high] = divisor.to_le_bytes();
            self.registers.write(LINE_CONTROL, DIVISOR);
            self.registers.write(DATA, low);
            self.registers.write(INTERRUPT_ENABLE, high);
        }
        self.registers.write(LINE_CONTROL, format);
        // FIFOs on and empty; DTR, RTS, and the way of its interrupt open.
        self.registers.write(FIFO_CONTROL, 0x07);
        self.registers.write(MODEM_CONTROL, 0x0b);
        self.registers.read(LINE_STATUS) != 0xff
    }

    /// Lets received bytes interrupt.
    pub fn enable_receiver(&mut self) {
        self.enable(self.enabled | RECEIVE_INTERRUPT);
    }

    /// From now on its interrupt does the waiting.
    pub fn stop_waiting(&mut self) {
        self.asynchronous = true;
    }

    /// Sends what waits, and everything from now on before it comes back: the machine ends.
    pub fn wait_for_ever(&mut self) {
        self.asynchronous = false;
        self.enable(0);
        let mut chunk = [0; FIFO];
        loop {
            let count = self.queue.pop(&mut chunk);
            if count == 0 {
                return;
            }
            self.send(&chunk[..count]);
        }
    }

    /// Writes bytes: now if the transmitter is waited for. Else what finds no room is lost.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.asynchronous {
            self.queue.push(bytes);
            // A line that takes bytes at once gets all of them here, in the time of the one who writes.
            self.pump(1 + bytes.len() / FIFO);
        } else {
            self.send(bytes);
        }
    }

    /// Whether `bytes` bytes of guests' text find room. Where not, [`Uart::interrupt`] says when some do.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let room = !self.asynchronous || self.queue.guest_room() >= bytes;
        if !room {
            self.awaited = true;
            self.await_transmitter();
        }
        room
    }

    /// Sends some of what waits. Answers whether there is room for `bytes` bytes, or no hope for any.
    pub fn make_room(&mut self, bytes: usize) -> bool {
        self.pump(1);
        self.stuck || !self.asynchronous || self.queue.guest_room() >= bytes.min(N / 2)
    }

    /// It did not take anything for long: nothing waits for it until it does.
    pub fn give_up(&mut self) {
        self.stuck = true;
    }

    /// Takes received bytes; answers how many.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        self.receive();
        let count = self.received_count.min(buffer.len());
        buffer[..count].copy_from_slice(&self.received[..count]);
        self.received.copy_within(count.., 0);
        self.received_count -= count;
        if self.received_count < RECEIVED {
            self.enable_receiver();
        }
        count
    }

    /// Serves all its reasons for an interrupt; answers whether the console has work: bytes were received, or there is room that was
    /// waited for.
    pub fn interrupt(&mut self) -> bool {
        let mut work = false;
        let done = (0..ROUNDS).any(|_| {
            // Reading it takes back the transmitter's reason.
            if self.registers.read(INTERRUPT_ID) & NO_INTERRUPT != 0 {
                return true;
            }
            work |= self.receive();
            self.pump(1);
            false
        });
        if self.awaited && self.queue.guest_room() >= WAKE_ROOM.min(N / 2) {
            self.awaited = false;
            work = true;
            self.await_transmitter();
        }
        if !done {
            // The ISA bus signals by edges: what is still there must make a new one.
            let enabled = self.enabled;
            self.enable(0);
            self.enable(enabled);
        }
        work
    }

    fn is_ready(&mut self) -> bool {
        self.registers.read(LINE_STATUS) & TRANSMITTER_EMPTY != 0
    }

    fn enable(&mut self, interrupts: u8) {
        if self.enabled != interrupts {
            self.enabled = interrupts;
            self.registers.write(INTERRUPT_ENABLE, interrupts);
        }
    }

    /// Sends bytes, waiting for the transmitter. What a broken one does not take is lost.
    fn send(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO) {
            let patience = if self.stuck { 1 } else { PATIENCE };
            let ready = (0..patience).any(|_| {
                core::hint::spin_loop();
                self.is_ready()
            });
            self.stuck = !ready;
            if ready {
                chunk.iter().for_each(|byte| self.registers.write(DATA, *byte));
            }
        }
    }

    /// Fills the FIFO from the queue as often as the transmitter is ready, `most` times at most, and has it interrupt for the rest.
    fn pump(&mut self, most: usize) {
        let mut chunk = [0; FIFO];
        for _ in 0..most {
            if self.queue.is_empty() || !self.is_ready() {
                break;
            }
            self.stuck = false;
            let count = self.queue.pop(&mut chunk);
            chunk[..count].iter().for_each(|byte| self.registers.write(DATA, *byte));
        }
        self.await_transmitter();
    }

    /// Has the transmitter interrupt when it is ready, as long as there is something to send or a wait to end.
    fn await_transmitter(&mut self) {
        let wanted = !self.queue.is_empty() || self.awaited;
        let others = self.enabled & !TRANSMIT_INTERRUPT;
        self.enable(others | if wanted { TRANSMIT_INTERRUPT } else { 0 });
    }

    /// Takes received bytes as far as there is room; where there is none, they wait in the UART without an interrupt.
    fn receive(&mut self) -> bool {
        let before = self.received_count;
        while self.received_count < RECEIVED && self.registers.read(LINE_STATUS) & DATA_READY != 0 {
            self.received[self.received_count] = self.registers.read(DATA);
            self.received_count += 1;
        }
        if self.received_count == RECEIVED {
            self.enable(self.enabled & !RECEIVE_INTERRUPT);
        }
        self.received_count != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;

    /// A 16550 whose line takes a byte at each tick, behind a bus that signals by edges.
    #[derive(Default)]
    struct Model {
        enabled: u8,
        sending: VecDeque<u8>,
        line: Vec<u8>,
        typed: VecDeque<u8>,
        transmitter_reason: bool,
        was_high: bool,
        edges: u32,
        divisor: bool,
        broken: bool,
    }

    impl Model {
        fn update(&mut self) {
            let receive = self.enabled & RECEIVE_INTERRUPT != 0 && !self.typed.is_empty();
            let transmit = self.enabled & TRANSMIT_INTERRUPT != 0 && self.transmitter_reason;
            let high = receive || transmit;
            self.edges += u32::from(high && !self.was_high);
            self.was_high = high;
        }

        fn tick(&mut self) {
            if self.broken {
                return;
            }
            if let Some(byte) = self.sending.pop_front() {
                self.line.push(byte);
                self.transmitter_reason |= self.sending.is_empty();
            }
            self.update();
        }
    }

    impl Registers for Model {
        fn read(&mut self, register: u16) -> u8 {
            let value = match register {
                DATA => self.typed.pop_front().unwrap_or(0),
                INTERRUPT_ID if self.enabled & RECEIVE_INTERRUPT != 0 && !self.typed.is_empty() => 0b100,
                INTERRUPT_ID if self.enabled & TRANSMIT_INTERRUPT != 0 && self.transmitter_reason => {
                    self.transmitter_reason = false;
                    0b010
                }
                INTERRUPT_ID => NO_INTERRUPT,
                LINE_STATUS => {
                    let ready = if self.sending.is_empty() { TRANSMITTER_EMPTY } else { 0 };
                    ready | if self.typed.is_empty() { 0 } else { DATA_READY }
                }
                _ => 0,
            };
            self.update();
            value
        }

        fn write(&mut self, register: u16, value: u8) {
            match register {
                LINE_CONTROL => self.divisor = value & DIVISOR != 0,
                DATA | INTERRUPT_ENABLE if self.divisor => {}
                DATA => {
                    assert!(self.sending.len() < FIFO, "the FIFO overflows");
                    self.sending.push_back(value);
                    self.transmitter_reason = false;
                }
                INTERRUPT_ENABLE => {
                    let more = value & !self.enabled;
                    self.transmitter_reason |= more & TRANSMIT_INTERRUPT != 0 && self.sending.is_empty();
                    self.enabled = value;
                }
                _ => {}
            }
            self.update();
        }
    }

    const SIZE: usize = 4096;

    fn uart() -> Uart<Model, SIZE> {
        let mut uart = Uart::new(Model::default());
        assert!(uart.program(3, Some(1)));
        uart.enable_receiver();
        uart.stop_waiting();
        uart
    }

    /// One tick of the line, and the interrupt if there was an edge; answers whether there is work.
    fn tick(uart: &mut Uart<Model, SIZE>) -> bool {
        uart.registers.tick();
        let mut work = false;
        while core::mem::take(&mut uart.registers.edges) != 0 {
            work |= uart.interrupt();
        }
        work
    }

    /// Nothing waits, and all is sent in the end, without anything being asked of those who wrote.
    #[test]
    fn the_interrupt_sends_what_was_written() {
        let mut uart = uart();
        let text: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        uart.write(&text);
        assert!(uart.registers.line.is_empty() && uart.registers.sending.len() == FIFO);
        for _ in 0..1000 {
            tick(&mut uart);
        }
        assert_eq!(uart.registers.line, text);
        assert_eq!(uart.enabled, RECEIVE_INTERRUPT, "there is nothing more to interrupt for");
    }

    /// The end of the machine: what waits comes first, and all of it.
    #[test]
    fn the_end_waits() {
        struct Impatient(Model);
        impl Registers for Impatient {
            fn read(&mut self, register: u16) -> u8 {
                self.0.tick();
                self.0.read(register)
            }
            fn write(&mut self, register: u16, value: u8) {
                self.0.write(register, value);
            }
        }
        let mut uart = Uart::<_, SIZE>::new(Impatient(Model::default()));
        uart.stop_waiting();
        uart.write(&[b'a'; 500]);
        uart.wait_for_ever();
        uart.write(b"the end");
        (0..16).for_each(|_| uart.registers.0.tick());
        let line = String::from_utf8(uart.registers.0.line.clone()).unwrap();
        assert_eq!(line, "a".repeat(500) + "the end");
    }

    /// A transmitter that never is ready delays the end, once, and not for ever.
    #[test]
    fn a_broken_line_is_given_up() {
        let mut uart = uart();
        uart.registers.broken = true;
        uart.write(&[b'a'; 1000]);
        assert!(!uart.make_room(SIZE), "not ready, but not given up");
        uart.give_up();
        assert!(uart.make_room(SIZE));
        uart.wait_for_ever();
        uart.write(b"x");
        // It is seen ready again.
        uart.registers.broken = false;
        (0..16).for_each(|_| uart.registers.tick());
        uart.write(b"back");
        (0..16).for_each(|_| uart.registers.tick());
        assert_eq!(uart.registers.line, *b"aaaaaaaaaaaaaaaaback");
    }

    proptest! {
        /// Whatever is written, typed, read and awaited when, with interrupts by edges: all that was written goes out in order, all that was
        /// typed comes in in order, and who waits for room is told.
        #[test]
        fn no_edge_is_missed(steps in prop::collection::vec((0u8..6, 1usize..400), 1..120)) {
            let mut uart = uart();
            let (mut written, mut typed, mut got) = (Vec::new(), Vec::new(), Vec::new());
            let (mut number, mut waits) = (0u8, false);
            for (what, size) in steps {
                let mut text = || (0..size).map(|_| { number = number.wrapping_add(1); number }).collect::<Vec<u8>>();
                match what {
                    0 | 1 if uart.has_room(size) => {
                        let text = text();
                        uart.write(&text);
                        written.extend(text);
                    }
                    0 | 1 => waits = true,
                    2 => {
                        // Flow control: the sender waits while the FIFO is full.
                        let text = text();
                        let more = &text[..size.min(FIFO - uart.registers.typed.len())];
                        uart.registers.typed.extend(more);
                        typed.extend(more);
                        uart.registers.update();
                    }
                    3 => {
                        let mut buffer = vec![0; size];
                        let count = uart.read(&mut buffer);
                        got.extend_from_slice(&buffer[..count]);
                    }
                    _ => for _ in 0..size {
                        if tick(&mut uart) && uart.queue.guest_room() >= WAKE_ROOM {
                            waits = false;
                        }
                    },
                }
            }
            let mut told = false;
            for _ in 0..2 * SIZE {
                told |= tick(&mut uart);
            }
            prop_assert_eq!(&uart.registers.line, &written);
            prop_assert!(!waits || told);
            let mut buffer = [0; 64];
            loop {
                let count = uart.read(&mut buffer);
                if count == 0 { break; }
                got.extend_from_slice(&buffer[..count]);
            }
            prop_assert_eq!(got, typed);
        }
    }
}
