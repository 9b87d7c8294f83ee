//! One process: its registers, its memory, and what it waits for.
//!
//! A process has code at [`CODE`], data at [`DATA`] and a stack below [`STACK_END`] whose pages appear when they are used. A
//! fork shares all of it until one of the two writes, except for the pages that were made common before.

use alloc::vec::Vec;

use guest_pv_lib::cpu::fpu;
use guest_pv_lib::memory::Page;
use guest_pv_lib::mmu::{Access, MapError, PAGE_SIZE, Space};
use guest_pv_lib::user::Registers;

/// Where the code begins.
pub const CODE: u64 = 0x40_0000;
/// The data: one page to start with.
pub const DATA: u64 = 0x60_0000;
/// The end of the stack.
pub const STACK_END: u64 = 0x7fff_0000;
/// How far the stack may grow.
const STACK_SIZE: u64 = 64 << 10;
/// What user code may use below its stack pointer without moving it (System V ABI).
const RED_ZONE: u64 = 128;

/// The number of a process.
pub type Pid = u64;

/// What keeps a process from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Ready,
    /// It sleeps until this system time.
    Sleeping(u64),
    /// It waits for a child to end.
    Waiting,
    /// It has ended, with this status, and waits to be waited for.
    Ended(u64),
}

/// Why a signal interrupts a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Signal {
    /// It accessed memory that it does not have; the argument is the address.
    BadAccess = 1,
    /// The time that it asked for has come.
    Alarm = 2,
}

/// A process.
pub struct Process {
    pub pid: Pid,
    pub parent: Pid,
    pub state: State,
    pub registers: Registers,
    pub fpu: fpu::State,
    pub space: Space,
    /// Where signals go.
    pub handler: Option<u64>,
    /// The system time at which an alarm is due.
    pub alarm: Option<u64>,
    /// Pages that children have in common with it.
    common: Vec<u64>,
}

/// The registers as a signal's handler finds them on its stack: general ones, `rip`, `rsp`, flags.
const SAVED: usize = 18;

impl Process {
    /// A process that runs `program`.
    pub fn new(pid: Pid, program: &[u8]) -> Result<Self, MapError> {
        let mut space = Space::new()?;
        for (at, part) in (CODE..).step_by(PAGE_SIZE).zip(program.chunks(PAGE_SIZE)) {
            let page = Page::new()?;
            page.write(0, part);
            space.map(at, page, Access::READ_EXECUTE)?;
        }
        space.map(DATA, Page::new()?, Access::READ_WRITE)?;
        Ok(Self {
            pid,
            parent: 0,
            state: State::Ready,
            registers: Registers::new(CODE, STACK_END),
            fpu: fpu::State::new(),
            space,
            handler: None,
            alarm: None,
            common: Vec::new(),
        })
    }

    /// A child that goes on where this process is.
    pub fn fork(&mut self, pid: Pid) -> Result<Self, MapError> {
        let mut space = self.space.fork()?;
        for &at in &self.common {
            let page = space.unmap(at)?;
            self.space.unmap(at)?;
            self.space.map(at, page.clone(), Access::READ_WRITE)?;
            space.map(at, page, Access::READ_WRITE)?;
        }
        Ok(Self {
            pid,
            parent: self.pid,
            state: State::Ready,
            registers: self.registers.clone(),
            fpu: self.fpu.clone(),
            space,
            handler: self.handler,
            alarm: None,
            common: self.common.clone(),
        })
    }

    /// Gives it a new page at `at`; one that its children will have in common with it, if so wanted.
    pub fn add_page(&mut self, at: u64, common: bool) -> Result<(), MapError> {
        self.space.map(at, Page::new()?, Access::READ_WRITE)?;
        if common {
            self.common.push(at);
        }
        Ok(())
    }

    /// Repairs a page fault at `address`: copies a page that is shared, or lets the stack grow. False where the access
    /// was a mistake.
    pub fn repair(&mut self, address: u64, write: bool) -> bool {
        let page = address & !(PAGE_SIZE as u64 - 1);
        if self.space.lookup(page).is_some() {
            return write && self.space.copy_for_write(page) == Ok(true);
        }
        (STACK_END - STACK_SIZE..STACK_END).contains(&page) && self.add_page(page, false).is_ok()
    }

    /// Has the process run its handler with the signal and its argument, on its own stack, and later go on where it is. False
    /// where it has no handler, or no stack for it.
    pub fn signal(&mut self, signal: Signal, argument: u64) -> bool {
        let Some(handler) = self.handler else { return false };
        let at = (self.registers.rsp.wrapping_sub(RED_ZONE + 8 * SAVED as u64)) & !15;
        let mut bytes = [0; 8 * SAVED];
        for (place, value) in bytes.chunks_exact_mut(8).zip(fields(&mut self.registers)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        // The stack may not have grown that far.
        self.repair(at, true);
        if self.space.write(at, &bytes).is_err() {
            return false;
        }
        let registers = &mut self.registers;
        (registers.rip, registers.rsp) = (handler, at - 8);
        (registers.rdi, registers.rsi, registers.rdx) = (signal as u64, argument, at);
        registers.rflags = 0;
        true
    }

    /// Goes on where a signal interrupted it, with the registers that the handler left at `at`.
    pub fn resume(&mut self, at: u64) -> Result<(), MapError> {
        let mut bytes = [0; 8 * SAVED];
        self.space.read(at, &mut bytes)?;
        for (place, value) in bytes.as_chunks::<8>().0.iter().zip(fields(&mut self.registers)) {
            *value = u64::from_le_bytes(*place);
        }
        Ok(())
    }
}

/// The registers that a handler finds, in their order.
fn fields(registers: &mut Registers) -> [&mut u64; SAVED] {
    [
        &mut registers.rax,
        &mut registers.rbx,
        &mut registers.rcx,
        &mut registers.rdx,
        &mut registers.rsi,
        &mut registers.rdi,
        &mut registers.rbp,
        &mut registers.r8,
        &mut registers.r9,
        &mut registers.r10,
        &mut registers.r11,
        &mut registers.r12,
        &mut registers.r13,
        &mut registers.r14,
        &mut registers.r15,
        &mut registers.rip,
        &mut registers.rsp,
        &mut registers.rflags,
    ]
}
