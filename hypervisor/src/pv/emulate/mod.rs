//! Instructions that fault in ring 3 and that the PV interface promises to guests all the same: control and debug
//! registers, MSRs, port I/O, CPUID, and writes to page tables that are mapped read-only.
//!
//! Instructions are fetched through the guest's own mappings and decoded by `iced-x86`; the few two-byte ones that
//! guests use often are recognised by their bytes. An instruction that is not promised stays a #GP.

mod alu;
mod cpuid;
mod decode;
mod msr;
mod port_io;
mod ptwr;
mod system;

pub use cpuid::forced as forced_cpuid;
pub use decode::prepare;
pub use ptwr::page_table_write;

use super::{Guest, segments};
use crate::cpu::descriptors::GUEST_CS64;
use crate::mm::uaccess::{copy_from_guest, copy_words_from_guest};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use hypervisor_core::segment::Segment;

/// Longest instruction (SDM Vol. 2, 2.3.11).
const MAX_LENGTH: usize = 15;
/// Bytes that are read for one: whole words.
const BUFFER: usize = 16;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulated {
    /// Done; `rip` stands behind it (or on it, when more of a string operation is to come).
    Done,
    /// Done, and it hit these breakpoints on I/O (as in DR6).
    DebugHit(u64),
    /// Its memory operand faults at this address, with these bits of the error code.
    PageFault(GuestVirt, u32),
    /// It raises this exception.
    Exception(u8, Option<u32>),
    /// Not one that is emulated, or not allowed: the guest gets its fault.
    No,
}

/// Where the instruction at `rip` is; `None` where its code segment is not there any more, or ends before it.
#[inline]
pub fn instruction_at(regs: &Regs) -> Option<GuestVirt> {
    segments::code(regs.cs)?.segment.place(regs.rip, 1)
}

/// The bytes of the instruction at `rip`, as many as there are; what is behind them in the buffer has no meaning.
#[inline]
fn fetch(regs: &Regs, buffer: &mut [u8; BUFFER]) -> usize {
    // Mostly all are in one page of flat code.
    let flat = regs.cs == u64::from(GUEST_CS64);
    if flat
        && regs.rip & 0xfff <= 0xff0
        && let Ok(bytes) = copy_words_from_guest(GuestVirt(regs.rip))
    {
        *buffer = bytes;
        return MAX_LENGTH;
    }
    fetch_slowly(regs, buffer)
}

/// All cases of [`fetch`].
#[cold]
#[inline(never)]
fn fetch_slowly(regs: &Regs, buffer: &mut [u8; BUFFER]) -> usize {
    let buffer = &mut buffer[..MAX_LENGTH];
    let Some(code) = segments::code(regs.cs) else { return 0 };
    let most = if code.bits == 64 { MAX_LENGTH } else { within(code.segment, regs.rip) };
    let Some(at) = code.segment.place(regs.rip, 1).filter(|_| most != 0) else { return 0 };
    if copy_from_guest(buffer, at).is_ok() {
        return most;
    }
    // The instruction may be the last of a mapped page.
    let rest = (0x1000 - (at.0 & 0xfff) as usize).min(most);
    if copy_from_guest(&mut buffer[..rest], at).is_ok() { rest } else { 0 }
}

/// How many bytes of an instruction are within a segment.
fn within(segment: Segment, offset: u64) -> usize {
    (1..=MAX_LENGTH as u8).take_while(|size| segment.place(offset, *size).is_some()).count()
}

/// Emulates a privileged instruction at `rip`.
pub fn privileged(guest: &Guest<'_>, regs: &mut Regs) -> Emulated {
    let mut bytes = [0; BUFFER];
    let len = fetch(regs, &mut bytes);
    let bytes = &bytes[..len];
    let kernel = guest.in_kernel();
    match bytes {
        [0x0f, 0x32, ..] if kernel => finish(regs, 2, |regs| msr::read(guest, regs)),
        [0x0f, 0x30, ..] if kernel => finish(regs, 2, |regs| msr::write(guest, regs)),
        _ => decode::privileged(guest, regs, bytes, kernel),
    }
}

/// Runs an instruction of known length, and steps over it if it is allowed.
fn finish(regs: &mut Regs, length: u64, run: impl FnOnce(&mut Regs) -> bool) -> Emulated {
    if !run(regs) {
        return Emulated::No;
    }
    step_over(regs, length);
    Emulated::Done
}

/// Goes on behind an instruction that was emulated.
fn step_over(regs: &mut Regs, length: u64) {
    regs.rip = regs.rip.wrapping_add(length);
    // An instruction boundary was crossed by software: the resume flag has done its work.
    regs.rflags &= !(1 << 16);
}
