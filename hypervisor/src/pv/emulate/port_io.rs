//! `in`, `out`, and their string forms.

use super::decode::{get, set, source};
use super::{Emulated, step_over};
use crate::cpu::percpu::this_cpu;
use crate::mm::uaccess::{copy_from_guest, copy_to_guest};
use crate::pv::segments::{active_base, active_selector, data_segment};
use crate::pv::{Guest, debug, ports};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use hypervisor_core::segment::Segment;
use iced_x86::{CodeSize, Instruction, Mnemonic, OpKind, Register};

const DIRECTION: u64 = 1 << 10;
const PF_WRITE: u32 = 1 << 1;
const GENERAL_PROTECTION: u8 = 13;

fn port_of(regs: &Regs, i: &Instruction, operand: u32) -> Option<u16> {
    u16::try_from(source(regs, i, operand)? & 0xffff).ok()
}

/// What becomes of an instruction that accessed ports: a breakpoint on them is hit behind it.
fn done(guest: &Guest<'_>, port: u16, size: u8) -> Emulated {
    match debug::io_hits(guest.vcpu, port, size.into()) {
        0 => Emulated::Done,
        hits => Emulated::DebugHit(hits),
    }
}

/// `in`, any form.
pub fn input(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> Emulated {
    let target = i.op0_register();
    let size = target.size() as u8;
    let Some(port) = port_of(regs, i, 1).filter(|p| ports::may_access(guest, *p, u16::from(size))) else {
        return Emulated::No;
    };
    if set(regs, target, u64::from(ports::read(guest, port, size))).is_none() {
        return Emulated::No;
    }
    step_over(regs, i.len() as u64);
    done(guest, port, size)
}

/// `out`, any form.
pub fn output(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> Emulated {
    let from = i.op1_register();
    let size = from.size() as u8;
    let Some(port) = port_of(regs, i, 0).filter(|p| ports::may_access(guest, *p, u16::from(size))) else {
        return Emulated::No;
    };
    let Some(value) = get(regs, from) else { return Emulated::No };
    ports::write(guest, port, size, value as u32);
    step_over(regs, i.len() as u64);
    done(guest, port, size)
}

/// `ins` and `outs`. Stops, to go on later, when this CPU has other work or a breakpoint is hit; registers and `rip` say how far
/// it came. Addresses are of the instruction's width, and so is the count.
pub fn string(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction, input: bool) -> Emulated {
    let size: u8 = match i.mnemonic() {
        Mnemonic::Insb | Mnemonic::Outsb => 1,
        Mnemonic::Insw | Mnemonic::Outsw => 2,
        _ => 4,
    };
    let port = regs.rdx as u16;
    if !ports::may_access(guest, port, u16::from(size)) {
        return Emulated::No;
    }
    let Some(segment) = segment(regs, i, input) else {
        return Emulated::Exception(GENERAL_PROTECTION, Some(0));
    };
    let (index, count) = registers(i, input);
    let repeat = i.has_rep_prefix() || i.has_repne_prefix();
    let step = if regs.rflags & DIRECTION != 0 { u64::from(size).wrapping_neg() } else { u64::from(size) };
    let mut outcome = Emulated::Done;
    while !repeat || get(regs, count) != Some(0) {
        let Some(offset) = get(regs, index) else { return Emulated::No };
        let Some(at) = segment.place(offset, size) else {
            return Emulated::Exception(GENERAL_PROTECTION, Some(0));
        };
        if let Err(fault) = one(guest, port, size, at, input) {
            return fault;
        }
        outcome = done(guest, port, size);
        set(regs, index, offset.wrapping_add(step));
        if !repeat {
            break;
        }
        let left = get(regs, count).unwrap_or(0).wrapping_sub(1);
        set(regs, count, left);
        let interrupted = outcome != Emulated::Done || this_cpu().work.any();
        if left != 0 && interrupted {
            return outcome;
        }
    }
    step_over(regs, i.len() as u64);
    outcome
}

/// The segment of the memory operand; `None` where its descriptor is not there (any more) or does not allow the access.
fn segment(regs: &Regs, i: &Instruction, input: bool) -> Option<Segment> {
    // `ins` always writes through ES.
    let register = if input { Register::ES } else { i.memory_segment() };
    match register {
        Register::FS => Some(Segment::flat(active_base(true))),
        Register::GS => Some(Segment::flat(active_base(false))),
        _ if i.code_size() == CodeSize::Code64 => Some(Segment::flat(0)),
        Register::CS => data_segment(regs.cs, input),
        Register::SS => data_segment(regs.ss, input),
        Register::ES => data_segment(active_selector(true), input),
        _ => data_segment(active_selector(false), input),
    }
}

/// The registers that index memory and count repetitions, by the width of addresses.
fn registers(i: &Instruction, input: bool) -> (Register, Register) {
    let kind = if input { i.op0_kind() } else { i.op1_kind() };
    match kind {
        OpKind::MemoryESEDI => (Register::EDI, Register::ECX),
        OpKind::MemorySegESI => (Register::ESI, Register::ECX),
        _ if input => (Register::RDI, Register::RCX),
        _ => (Register::RSI, Register::RCX),
    }
}

fn one(guest: &Guest<'_>, port: u16, size: u8, at: GuestVirt, input: bool) -> Result<(), Emulated> {
    let mut bytes = [0u8; 4];
    let part = usize::from(size);
    if !at.is_canonical() || !at.add(u64::from(size) - 1).is_canonical() {
        return Err(Emulated::Exception(GENERAL_PROTECTION, Some(0)));
    }
    if input {
        // The memory is probed first: a device must not be read for a value that is then lost.
        if copy_from_guest(&mut bytes[..part], at).is_err() || copy_to_guest(at, &bytes[..part]).is_err() {
            return Err(Emulated::PageFault(first_fault(at, part, true), PF_WRITE));
        }
        bytes = ports::read(guest, port, size).to_le_bytes();
        copy_to_guest(at, &bytes[..part]).map_err(|_| Emulated::PageFault(at, PF_WRITE))
    } else {
        copy_from_guest(&mut bytes[..part], at)
            .map_err(|_| Emulated::PageFault(first_fault(at, part, false), 0))?;
        ports::write(guest, port, size, u32::from_le_bytes(bytes));
        Ok(())
    }
}

/// The first of `len` bytes that cannot be accessed.
pub fn first_fault(at: GuestVirt, len: usize, write: bool) -> GuestVirt {
    let reachable = |at: &GuestVirt| {
        let mut byte = [0];
        copy_from_guest(&mut byte, *at).is_ok() && (!write || copy_to_guest(*at, &byte).is_ok())
    };
    (0..len as u64).map(|n| at.add(n)).find(|at| !reachable(at)).unwrap_or(at)
}
