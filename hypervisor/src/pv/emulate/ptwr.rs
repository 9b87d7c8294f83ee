//! Guests that write their page tables by plain instructions.
//!
//! Level-1 tables are mapped read-only, so such a store faults, and is done here as if it were an `mmu_update`. Any instruction that
//! stores up to 8 bytes, aligned to their size, is done; all others, and stores to anything else, are the guest's fault. The
//! stores of the first domain to device memory that it may only look at are dropped, but for those to memory-mapped PCI configuration space.

use super::decode::{address, decode, get, set, source};
use super::{BUFFER, Emulated, alu, fetch, step_over};
use crate::cpu::descriptors::GUEST_CS64;
use crate::dev::pci;
use crate::mm::uaccess::copy_from_guest;
use crate::pv::Guest;
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::page::{PtWrite, ReadOnlyPage};
use hypervisor_core::regs::Regs;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;

/// A store to a present read-only page faulted at `va`.
#[inline(never)]
pub fn page_table_write(guest: &Guest<'_>, regs: &mut Regs, va: GuestVirt) -> Emulated {
    let Some(page) = guest.hv.read_only_page(guest.cx(), va) else { return Emulated::No };
    let mut bytes = [0; BUFFER];
    let len = fetch(regs, &mut bytes);
    let bytes = &bytes[..len];
    if let (ReadOnlyPage::Table(table), Some((value, length))) = (page, register_store(regs, bytes, va)) {
        let ended = guest.hv.emulate_pt_write(guest.cx(), table, va, None, value, 8);
        let next = regs.rip.wrapping_add(length);
        return finish(regs, next, ended);
    }
    let Some(i) = decode(regs, bytes) else { return Emulated::No };
    let Some((at, size)) = destination(regs, &i) else { return Emulated::No };
    if at != va.0 {
        return Emulated::No;
    }
    let store = Store { guest, page, va, size };
    match store.apply(regs, &i) {
        Ok(ended) => finish(regs, i.next_ip(), ended),
        Err(other) => other,
    }
}

/// Steps over an instruction that was done.
fn finish(regs: &mut Regs, next: u64, ended: PtWrite) -> Emulated {
    match ended {
        PtWrite::Done | PtWrite::Differs(_) => {
            let length = next.wrapping_sub(regs.rip);
            step_over(regs, length);
            Emulated::Done
        }
        PtWrite::Retry => Emulated::Done,
        PtWrite::NotATable | PtWrite::Refused => Emulated::No,
    }
}

/// The store that kernels use most, `mov [address], register` of 8 bytes, recognised by its bytes: what it stores at `va`, and
/// its length. (SDM Vol. 2, 2.1.5 and 2.2.1: ModR/M, SIB and REX.)
fn register_store(regs: &Regs, bytes: &[u8], va: GuestVirt) -> Option<(u64, u64)> {
    let &[rex, 0x89, modrm, ref rest @ ..] = bytes else { return None };
    let (mode, mut base) = (modrm >> 6, modrm & 7);
    if rex & 0xf8 != 0x48 || mode == 3 || regs.cs != u64::from(GUEST_CS64) {
        return None;
    }
    let (mut rest, mut length, mut at) = (rest, 3, 0u64);
    let with_sib = base == 4;
    if with_sib {
        let &[sib, ref behind @ ..] = rest else { return None };
        let index = sib >> 3 & 7 | (rex & 2) << 2;
        // `rsp` cannot be an index: its number stands for none.
        if index != 4 {
            at = register(regs, index) << (sib >> 6);
        }
        (base, rest, length) = (sib & 7, behind, 4);
    }
    let displacement = match mode {
        0 if base != 5 => 0,
        1 => {
            length += 1;
            i64::from(rest.first()?.cast_signed())
        }
        _ => {
            length += 4;
            i64::from(i32::from_le_bytes(*rest.first_chunk()?))
        }
    };
    // Number 5 without displacement stands for none, with a displacement that is not part of it.
    if mode != 0 || base != 5 {
        at = at.wrapping_add(register(regs, base | (rex & 1) << 3));
    } else if !with_sib {
        at = regs.rip.wrapping_add(length);
    }
    at = at.wrapping_add_signed(displacement);
    let value = register(regs, modrm >> 3 & 7 | (rex & 4) << 1);
    (at == va.0).then_some((value, length))
}

/// A general register by the number that instructions give it.
fn register(regs: &Regs, number: u8) -> u64 {
    match number & 15 {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        4 => regs.rsp,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        _ => regs.r15,
    }
}

/// Whether an instruction has an operand of this number, from 0 to 4: the decoder leaves those that are missing at "no register". Its
/// own count comes from a table of 5 KiB.
fn has_operand(i: &Instruction, number: u32) -> bool {
    i.op_kind(number) != OpKind::Register || i.op_register(number) != Register::None
}

/// Where an instruction stores, and how many bytes.
fn destination(regs: &Regs, i: &Instruction) -> Option<(u64, u32)> {
    if i.mnemonic() == Mnemonic::Push {
        let size = i.stack_pointer_increment().unsigned_abs();
        return Some((regs.rsp.wrapping_sub(u64::from(size)), size));
    }
    let size = u32::try_from(i.memory_size().size()).ok().filter(|size| matches!(size, 1 | 2 | 4 | 8))?;
    let mut at = address(regs, i, 0)?;
    let bits = matches!(i.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if bits && i.op1_kind() == OpKind::Register {
        // A bit's number in a register may lie beyond the operand, on either side: it is in another word then.
        let unused = 64 - size * 8;
        let number = (get(regs, i.op1_register())? << unused).cast_signed() >> unused;
        at = at.wrapping_add_signed((number >> (3 + size.ilog2())) * i64::from(size));
    }
    Some((at, size))
}

/// A store that is to be done.
struct Store<'a> {
    guest: &'a Guest<'a>,
    page: ReadOnlyPage,
    va: GuestVirt,
    /// Bytes: 1, 2, 4 or 8.
    size: u32,
}

impl Store<'_> {
    /// Writes, if what is there is `old`.
    fn write(&self, old: Option<u64>, new: u64) -> PtWrite {
        match self.page {
            ReadOnlyPage::Table(table) => {
                self.guest.hv.emulate_pt_write(self.guest.cx(), table, self.va, old, new, self.size)
            }
            ReadOnlyPage::Device(frame) => {
                let aligned = self.va.0.is_multiple_of(u64::from(self.size));
                let offset = (self.va.0 & 0xfff) as u16;
                let done =
                    aligned && old.is_none() && pci::write_device_page(frame, offset, self.size as u8, new);
                if done { PtWrite::Done } else { PtWrite::Refused }
            }
        }
    }

    fn read(&self) -> Result<u64, Emulated> {
        match self.page {
            ReadOnlyPage::Table(_) => read(self.va, self.size),
            ReadOnlyPage::Device(_) => Err(Emulated::No),
        }
    }

    /// Replaces what is there by what `compute` makes of it. Where something else gets there first the guest executes the
    /// instruction again.
    fn update(&self, compute: impl FnOnce(u64) -> Option<u64>) -> Result<PtWrite, Emulated> {
        let old = self.read()?;
        let new = compute(old).ok_or(Emulated::No)?;
        match self.write(Some(old), new) {
            PtWrite::Differs(_) => Ok(PtWrite::Retry),
            other => Ok(other),
        }
    }

    /// Does the store of an instruction, and what else it does to registers and flags.
    fn apply(&self, regs: &mut Regs, i: &Instruction) -> Result<PtWrite, Emulated> {
        let operand = |regs: &Regs, n| source(regs, i, n).ok_or(Emulated::No);
        match i.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movnti => Ok(self.write(None, operand(regs, 1)?)),
            Mnemonic::Movbe => Ok(self.write(None, operand(regs, 1)?.swap_bytes() >> (64 - self.size * 8))),
            Mnemonic::Push => {
                let ended = self.write(None, operand(regs, 0)?);
                if ended == PtWrite::Done {
                    regs.rsp = self.va.0;
                }
                Ok(ended)
            }
            Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
                self.string(regs, i, regs.rax, false)
            }
            Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
                let from = GuestVirt(address(regs, i, 1).ok_or(Emulated::No)?);
                self.string(regs, i, read(from, self.size)?, true)
            }
            Mnemonic::Cmpxchg => self.compare_exchange(regs, i),
            Mnemonic::Cmpxchg8b => Ok(self.compare_exchange_pair(regs)),
            Mnemonic::Xchg | Mnemonic::Xadd => self.exchange(regs, i),
            _ if !has_operand(i, 1) && i.condition_code() != ConditionCode::None => {
                Ok(self.write(None, u64::from(holds(i.condition_code(), regs.rflags))))
            }
            _ => self.arithmetic(regs, i),
        }
    }

    fn arithmetic(&self, regs: &mut Regs, i: &Instruction) -> Result<PtWrite, Emulated> {
        let operand = |n: u32| if has_operand(i, n) { source(regs, i, n) } else { Some(0) };
        let (second, third) = (operand(1).ok_or(Emulated::No)?, operand(2).ok_or(Emulated::No)?);
        let count = if has_operand(i, 2) { third } else { second };
        let operands = alu::Operands { size: self.size, second, count: (count & 0xff) as u8 };
        let mut flags = regs.rflags;
        let ended = self.update(|old| {
            let (new, after) = alu::compute(i.mnemonic(), old, operands, regs.rflags)?;
            flags = after;
            Some(new)
        })?;
        if ended == PtWrite::Done {
            regs.rflags = flags;
        }
        Ok(ended)
    }

    /// `xchg` and `xadd`: the register gets what was there.
    fn exchange(&self, regs: &mut Regs, i: &Instruction) -> Result<PtWrite, Emulated> {
        let register = i.op1_register();
        let second = get(regs, register).ok_or(Emulated::No)?;
        let (mut before, mut flags) = (0, regs.rflags);
        let ended = self.update(|old| {
            before = old;
            if i.mnemonic() == Mnemonic::Xchg {
                return Some(second);
            }
            let operands = alu::Operands { size: self.size, second, count: 0 };
            let (sum, after) = alu::compute(Mnemonic::Xadd, old, operands, regs.rflags)?;
            flags = after;
            Some(sum)
        })?;
        if ended == PtWrite::Done {
            regs.rflags = flags;
            set(regs, register, before);
        }
        Ok(ended)
    }

    fn compare_exchange(&self, regs: &mut Regs, i: &Instruction) -> Result<PtWrite, Emulated> {
        let accumulator = match self.size {
            1 => Register::AL,
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        };
        let (Some(old), Some(new)) = (get(regs, accumulator), get(regs, i.op1_register())) else {
            return Err(Emulated::No);
        };
        let ended = self.write(Some(old), new);
        let seen = match ended {
            PtWrite::Done => old,
            PtWrite::Differs(now) => {
                set(regs, accumulator, now);
                now
            }
            _ => return Ok(ended),
        };
        regs.rflags = alu::compare(old, seen, self.size, regs.rflags);
        Ok(ended)
    }

    /// `cmpxchg8b`: edx:eax against ecx:ebx.
    fn compare_exchange_pair(&self, regs: &mut Regs) -> PtWrite {
        let pair = |high: u64, low: u64| high << 32 | low & 0xffff_ffff;
        let ended = self.write(Some(pair(regs.rdx, regs.rax)), pair(regs.rcx, regs.rbx));
        match ended {
            PtWrite::Done => regs.rflags |= ZERO,
            PtWrite::Differs(now) => {
                regs.rflags &= !ZERO;
                (regs.rax, regs.rdx) = (now & 0xffff_ffff, now >> 32);
            }
            _ => {}
        }
        ended
    }

    /// One step of a string instruction, which goes on in the guest where there are more.
    fn string(&self, regs: &mut Regs, i: &Instruction, value: u64, moves: bool) -> Result<PtWrite, Emulated> {
        if i.op0_kind() != OpKind::MemoryESRDI || moves && i.op1_kind() != OpKind::MemorySegRSI {
            return Err(Emulated::No);
        }
        let ended = self.write(None, value);
        if ended != PtWrite::Done {
            return Ok(ended);
        }
        let size = u64::from(self.size);
        let step = if regs.rflags & DIRECTION != 0 { size.wrapping_neg() } else { size };
        regs.rdi = regs.rdi.wrapping_add(step);
        if moves {
            regs.rsi = regs.rsi.wrapping_add(step);
        }
        if i.has_rep_prefix() || i.has_repne_prefix() {
            regs.rcx = regs.rcx.wrapping_sub(1);
            if regs.rcx != 0 {
                return Ok(PtWrite::Retry);
            }
        }
        Ok(ended)
    }
}

/// Reads an operand of the guest's; where that is not possible it is a page fault of its own.
fn read(at: GuestVirt, size: u32) -> Result<u64, Emulated> {
    let mut bytes = [0u8; 8];
    let part = bytes.get_mut(..size as usize).ok_or(Emulated::No)?;
    copy_from_guest(part, at).map_err(|_| Emulated::PageFault(at, 0))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Whether a condition holds (SDM Vol. 1, appendix B).
fn holds(condition: ConditionCode, rflags: u64) -> bool {
    let set = |flags: u64| rflags & flags != 0;
    let less = set(SIGN) != set(OVERFLOW);
    match condition {
        ConditionCode::o => set(OVERFLOW),
        ConditionCode::no => !set(OVERFLOW),
        ConditionCode::b => set(CARRY),
        ConditionCode::ae => !set(CARRY),
        ConditionCode::e => set(ZERO),
        ConditionCode::ne => !set(ZERO),
        ConditionCode::be => set(CARRY | ZERO),
        ConditionCode::a => !set(CARRY | ZERO),
        ConditionCode::s => set(SIGN),
        ConditionCode::ns => !set(SIGN),
        ConditionCode::p => set(PARITY),
        ConditionCode::np => !set(PARITY),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => less || set(ZERO),
        ConditionCode::g => !less && !set(ZERO),
        ConditionCode::None => false,
    }
}
