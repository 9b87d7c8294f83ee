//! The system calls: number in `rax`, arguments in `rdi` and `rsi`, results in `rax` and `rdx`. An error is
//! [`FAILED`].

use alloc::boxed::Box;

use guest_pv_lib::{print, time};

use crate::kernel::{Kernel, Next, end};
use crate::process::{Pid, Process, State};

/// What a call returns that could not be done.
const FAILED: u64 = u64::MAX;
/// The longest text of one call.
const MAX_TEXT: usize = 256;

/// The calls, by number.
pub mod number {
    /// Ends the process with a status.
    pub const EXIT: u64 = 0;
    /// Prints a text: address and length.
    pub const PRINT: u64 = 1;
    /// Makes a child; 0 in the child, its number in the parent.
    pub const FORK: u64 = 2;
    /// Waits for a child to end; its number, and its status in `rdx`.
    pub const WAIT: u64 = 3;
    /// Lets others run.
    pub const YIELD: u64 = 4;
    /// Sleeps for a number of microseconds.
    pub const SLEEP: u64 = 5;
    /// Makes a new page at an address, which children have in common with the process if the second argument is 1.
    pub const MAP: u64 = 6;
    /// Sets the handler of signals. It gets the signal in `rdi`, its argument in `rsi` and the place of the interrupted
    /// registers in `rdx`.
    pub const ON_SIGNAL: u64 = 7;
    /// Goes on where a signal came, with the registers at an address.
    pub const RESUME: u64 = 8;
    /// Asks for a signal after a number of microseconds.
    pub const ALARM: u64 = 9;
    /// Sets the FS base.
    pub const SET_FS: u64 = 10;
    /// The process' number.
    pub const PID: u64 = 11;
}

/// Does what the registers of `process` ask for.
pub fn call(kernel: &mut Kernel, process: &mut Process) -> Next {
    let (call, first, second) = (process.registers.rax, process.registers.rdi, process.registers.rsi);
    let done = |ok: bool| if ok { 0 } else { FAILED };
    process.registers.rax = match call {
        number::EXIT => return end(process, first & 0xff),
        number::PRINT => done(text(process, first, second)),
        number::FORK => fork(kernel, process),
        number::WAIT => return wait(kernel, process),
        number::YIELD => {
            process.registers.rax = 0;
            return Next::Switch;
        }
        number::SLEEP => {
            process.registers.rax = 0;
            process.state = State::Sleeping(after(first));
            return Next::Switch;
        }
        number::MAP => done(process.add_page(first, second == 1).is_ok()),
        number::ON_SIGNAL => {
            process.handler = Some(first);
            0
        }
        // The registers are those that were interrupted, `rax` with them.
        number::RESUME => match process.resume(first) {
            Ok(()) => return Next::Continue,
            Err(_) => FAILED,
        },
        number::ALARM => {
            process.alarm = Some(after(first));
            0
        }
        number::SET_FS => {
            process.registers.fs_base = first;
            0
        }
        number::PID => process.pid,
        _ => FAILED,
    };
    Next::Continue
}

/// The system time in so many microseconds.
fn after(microseconds: u64) -> u64 {
    time::now().saturating_add(microseconds.saturating_mul(1000))
}

fn text(process: &Process, at: u64, len: u64) -> bool {
    let mut bytes = [0; MAX_TEXT];
    let Some(part) = usize::try_from(len).ok().and_then(|len| bytes.get_mut(..len)) else { return false };
    if process.space.read(at, part).is_err() {
        return false;
    }
    let Ok(text) = core::str::from_utf8(part) else { return false };
    print!("{text}");
    true
}

fn fork(kernel: &mut Kernel, process: &mut Process) -> u64 {
    let pid = kernel.next_pid();
    // The child gets the registers of now.
    process.fpu.save();
    let Ok(mut child) = process.fork(pid) else { return FAILED };
    child.registers.rax = 0;
    kernel.processes.insert(pid, Box::new(child));
    kernel.ready.push_back(pid);
    kernel.stats.forks += 1;
    pid
}

fn wait(kernel: &mut Kernel, process: &mut Process) -> Next {
    let parent = process.pid;
    let mut children = kernel.processes.values().filter(|child| child.parent == parent).peekable();
    if children.peek().is_none() {
        process.registers.rax = FAILED;
        return Next::Continue;
    }
    let ended = children.find_map(|child| match child.state {
        State::Ended(status) => Some((child.pid, status)),
        _ => None,
    });
    match ended {
        Some((pid, status)) => {
            give_status(process, pid, status);
            kernel.processes.remove(&pid);
            Next::Continue
        }
        None => {
            process.state = State::Waiting;
            Next::Switch
        }
    }
}

/// Answers the call `WAIT` of `parent`.
pub fn give_status(parent: &mut Process, pid: Pid, status: u64) {
    parent.registers.rax = pid;
    parent.registers.rdx = status;
}
