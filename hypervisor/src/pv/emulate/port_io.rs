//! `in`, `out`, and their string forms.

use super::Emulated;
use super::decode::{get, set, source};
use crate::cpu::percpu::this_cpu;
use crate::mm::uaccess::{copy_from_guest, copy_to_guest};
use crate::pv::{Guest, ports};
use core::sync::atomic::Ordering;
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use iced_x86::{Instruction, Mnemonic, Register};

const DIRECTION: u64 = 1 << 10;
const PF_WRITE: u32 = 1 << 1;

/// `in al/eax, dx`.
pub fn in_dx(guest: &Guest<'_>, regs: &mut Regs, size: u8) -> bool {
    let port = regs.rdx as u16;
    if !ports::may_access(guest, port, u16::from(size)) {
        return false;
    }
    let value = u64::from(ports::read(guest, port, size));
    regs.rax = if size == 1 { regs.rax & !0xff | value } else { value };
    true
}

/// `out dx, al/eax`.
pub fn out_dx(guest: &Guest<'_>, regs: &mut Regs, size: u8) -> bool {
    let port = regs.rdx as u16;
    if !ports::may_access(guest, port, u16::from(size)) {
        return false;
    }
    ports::write(guest, port, size, (regs.rax & (u64::MAX >> (64 - 8 * u32::from(size)))) as u32);
    true
}

fn port_of(regs: &Regs, i: &Instruction, operand: u32) -> Option<u16> {
    u16::try_from(source(regs, i, operand)? & 0xffff).ok()
}

/// `in`, any form.
pub fn input(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> bool {
    let target = i.op0_register();
    let size = target.size() as u8;
    let Some(port) = port_of(regs, i, 1).filter(|p| ports::may_access(guest, *p, u16::from(size))) else {
        return false;
    };
    set(regs, target, u64::from(ports::read(guest, port, size))).is_some()
}

/// `out`, any form.
pub fn output(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> bool {
    let from = i.op1_register();
    let size = from.size() as u8;
    let Some(port) = port_of(regs, i, 0).filter(|p| ports::may_access(guest, *p, u16::from(size))) else {
        return false;
    };
    let Some(value) = get(regs, from) else { return false };
    ports::write(guest, port, size, value as u32);
    true
}

/// `ins` and `outs`. Stops, to go on later, when this CPU has other work; registers and `rip` say how far it came.
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
    let base = match i.memory_segment() {
        Register::FS if !input => crate::pv::segments::active_base(true),
        Register::GS if !input => crate::pv::segments::active_base(false),
        _ => 0,
    };
    let repeat = i.has_rep_prefix() || i.has_repne_prefix();
    let step = if regs.rflags & DIRECTION != 0 { u64::from(size).wrapping_neg() } else { u64::from(size) };
    while !repeat || regs.rcx != 0 {
        let at = GuestVirt(base.wrapping_add(if input { regs.rdi } else { regs.rsi }));
        if let Err(fault) = one(guest, port, size, at, input) {
            return fault;
        }
        let index = if input { &mut regs.rdi } else { &mut regs.rsi };
        *index = index.wrapping_add(step);
        if !repeat {
            break;
        }
        regs.rcx -= 1;
        if regs.rcx != 0 && this_cpu().work.load(Ordering::Relaxed) != 0 {
            return Emulated::Done;
        }
    }
    regs.rip = i.next_ip();
    Emulated::Done
}

fn one(guest: &Guest<'_>, port: u16, size: u8, at: GuestVirt, input: bool) -> Result<(), Emulated> {
    let mut bytes = [0u8; 4];
    let part = usize::from(size);
    if input {
        // The memory is probed first: a device must not be read for a value that is then lost.
        if copy_from_guest(&mut bytes[..part], at).is_err() || copy_to_guest(at, &bytes[..part]).is_err() {
            return Err(Emulated::PageFault(at, PF_WRITE));
        }
        bytes = ports::read(guest, port, size).to_le_bytes();
        copy_to_guest(at, &bytes[..part]).map_err(|_| Emulated::PageFault(at, PF_WRITE))
    } else {
        copy_from_guest(&mut bytes[..part], at).map_err(|_| Emulated::PageFault(at, 0))?;
        ports::write(guest, port, size, u32::from_le_bytes(bytes));
        Ok(())
    }
}
