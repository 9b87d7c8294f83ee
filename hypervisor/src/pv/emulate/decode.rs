//! From `iced-x86`'s instruction to the guest's registers and memory.

use super::{Emulated, cpuid, finish, msr, port_io, system};
use crate::pv::{Guest, ports};
use hypervisor_core::regs::Regs;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Has the decoder make its tables, which takes 800,000 instructions: no guest is to wait for it.
pub fn prepare() {
    const NOP: [u8; 1] = [0x90];
    let decoder = Decoder::try_new(64, &NOP, DecoderOptions::NONE);
    core::hint::black_box(decoder.map(|mut decoder| decoder.decode()).ok());
}

/// Decodes one instruction of the code that runs.
pub fn decode(regs: &Regs, bytes: &[u8]) -> Option<Instruction> {
    let bits = crate::pv::segments::code(regs.cs)?.bits;
    // `with_ip` would bring its error's words, and all of `str`'s, into the image.
    let mut decoder = Decoder::try_with_ip(bits, bytes, regs.rip, DecoderOptions::NONE).ok()?;
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Emulates a privileged instruction that is not one of the most frequent.
pub fn privileged(guest: &Guest<'_>, regs: &mut Regs, bytes: &[u8], kernel: bool) -> Emulated {
    let Some(i) = decode(regs, bytes) else { return Emulated::No };
    let length = i.len() as u64;
    match i.mnemonic() {
        Mnemonic::In => port_io::input(guest, regs, &i),
        Mnemonic::Out => port_io::output(guest, regs, &i),
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => port_io::string(guest, regs, &i, true),
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => port_io::string(guest, regs, &i, false),
        // Allowed, and without effect: `popf` cannot be caught, so an event mask that `cli` set would stay.
        Mnemonic::Cli | Mnemonic::Sti => finish(regs, length, |_| ports::iopl_suffices(guest)),
        Mnemonic::Cpuid => cpuid::faulted(guest, regs, length),
        Mnemonic::Xsetbv => system::xsetbv(guest, regs, length),
        _ if !kernel => Emulated::No,
        Mnemonic::Mov => system::move_register(guest, regs, &i),
        Mnemonic::Rdmsr => finish(regs, length, |regs| msr::read(guest, regs)),
        Mnemonic::Wrmsr => finish(regs, length, |regs| msr::write(guest, regs)),
        Mnemonic::Clts => finish(regs, length, |_| system::clts(guest)),
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => finish(regs, length, |_| system::wbinvd(guest)),
        Mnemonic::Rdtsc => finish(regs, length, system::rdtsc),
        Mnemonic::Rdtscp => finish(regs, length, |regs| system::rdtscp(guest, regs)),
        _ => Emulated::No,
    }
}

fn slot(regs: &mut Regs, full: Register) -> Option<&mut u64> {
    Some(match full {
        Register::RAX => &mut regs.rax,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RBX => &mut regs.rbx,
        Register::RSP => &mut regs.rsp,
        Register::RBP => &mut regs.rbp,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        _ => return None,
    })
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

fn mask_of(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// The value of a general register, of its own size.
pub fn get(regs: &Regs, register: Register) -> Option<u64> {
    let mut copy = *regs;
    let full = *slot(&mut copy, register.full_register())?;
    let value = if is_high_byte(register) { full >> 8 } else { full };
    Some(value & mask_of(register.size()))
}

/// Writes a general register; a write of 32 bits clears the upper half, smaller ones keep the rest.
pub fn set(regs: &mut Regs, register: Register, value: u64) -> Option<()> {
    let full = slot(regs, register.full_register())?;
    let shift = if is_high_byte(register) { 8 } else { 0 };
    let mask = if register.size() >= 4 { u64::MAX } else { mask_of(register.size()) << shift };
    *full = *full & !mask | (value & mask_of(register.size())) << shift;
    Some(())
}

/// Address of the memory operand `operand`. FS and GS add the bases of the code that runs.
pub fn address(regs: &Regs, i: &Instruction, operand: u32) -> Option<u64> {
    i.virtual_address(operand, 0, |register, _, _| match register {
        Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
        Register::FS => Some(crate::pv::segments::active_base(true)),
        Register::GS => Some(crate::pv::segments::active_base(false)),
        _ => get(regs, register),
    })
}

/// An immediate or register source operand.
pub fn source(regs: &Regs, i: &Instruction, operand: u32) -> Option<u64> {
    match i.op_kind(operand) {
        OpKind::Register => get(regs, i.op_register(operand)),
        OpKind::Memory => None,
        _ => i.try_immediate(operand).ok(),
    }
}
