//! Guests that write their page tables by plain instructions.

use super::decode::{address, decode, get, set, source};
use super::{MAX_LENGTH, fetch};
use crate::pv::Guest;
use core::sync::atomic::Ordering;
use hypervisor_core::ids::{GuestVirt, MachineAddr, Mfn};
use hypervisor_core::page::{PageType, PtWrite, Walk};
use hypervisor_core::regs::Regs;
use iced_x86::{Instruction, Mnemonic};

/// Frame number and offset 0 in a page-table entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ZERO_FLAG: u64 = 1 << 6;

/// A write to a present read-only page faulted at `va`. Answers whether it was one to a page table, and done.
pub fn page_table_write(guest: &Guest<'_>, regs: &mut Regs, va: GuestVirt) -> bool {
    let Some(walk) = walk_to_table(guest, va) else { return false };
    let mut bytes = [0; MAX_LENGTH];
    let len = fetch(regs, &mut bytes);
    let Some(i) = decode(regs, &bytes[..len]) else { return false };
    if address(regs, &i, 0) != Some(va.0) {
        return false;
    }
    match apply(guest, regs, &i, va, &walk) {
        Some(PtWrite::Done | PtWrite::Differs(_)) => {
            regs.rip = i.next_ip();
            true
        }
        Some(PtWrite::Retry) => true,
        _ => false,
    }
}

/// How the guest maps one of its level-1 tables here; only their entries may be written so. A quick look, which spares
/// decoding for copy-on-write.
fn walk_to_table(guest: &Guest<'_>, va: GuestVirt) -> Option<Walk> {
    let root = Mfn(guest.vcpu.pv.guest_table.load(Ordering::Relaxed));
    let walk = guest.hv.walk(root, va)?;
    let info = guest.hv.frame(MachineAddr(walk.entry & ADDRESS).mfn())?;
    (info.type_word().page_type() == PageType::L1).then_some(walk)
}

/// Does the write of one instruction. `None`: not one that is known to write page tables.
fn apply(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction, va: GuestVirt, walk: &Walk) -> Option<PtWrite> {
    let size = u32::try_from(i.memory_size().size()).ok()?;
    let write = |old, new| guest.hv.emulate_pt_write(guest.cx(), va, walk, old, new, size);
    match i.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => Some(write(None, source(regs, i, 1)?)),
        Mnemonic::Stosq | Mnemonic::Stosd => stos(regs, i, write),
        Mnemonic::Xchg => {
            let (register, new) = (i.op1_register(), source(regs, i, 1)?);
            exchange(va, size, |old| write(Some(old), new), |old| set(regs, register, old))
        }
        Mnemonic::Cmpxchg => {
            let accumulator = if size == 8 { regs.rax } else { regs.rax & 0xffff_ffff };
            let result = write(Some(accumulator), get(regs, i.op1_register())?);
            match result {
                PtWrite::Done => regs.rflags |= ZERO_FLAG,
                PtWrite::Differs(now) => {
                    regs.rflags &= !ZERO_FLAG;
                    regs.rax = now;
                }
                _ => {}
            }
            Some(result)
        }
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => {
            let operand = source(regs, i, 1)?;
            let compute = |old: u64| match i.mnemonic() {
                Mnemonic::And => old & operand,
                Mnemonic::Or => old | operand,
                _ => old ^ operand,
            };
            let mut result = 0;
            let done = exchange(
                va,
                size,
                |old| write(Some(old), compute(old)),
                |old| {
                    result = compute(old);
                    Some(())
                },
            );
            set_logic_flags(regs, result, size);
            done
        }
        Mnemonic::Btr | Mnemonic::Bts => {
            let bit = source(regs, i, 1)? & u64::from(size * 8 - 1);
            let set_bit = i.mnemonic() == Mnemonic::Bts;
            let compute = |old: u64| if set_bit { old | 1 << bit } else { old & !(1 << bit) };
            let mut was = 0;
            let done = exchange(
                va,
                size,
                |old| write(Some(old), compute(old)),
                |old| {
                    was = old >> bit & 1;
                    Some(())
                },
            );
            regs.rflags = regs.rflags & !1 | was;
            done
        }
        _ => None,
    }
}

/// `stos` without a repeat count, or one step of it.
fn stos(regs: &mut Regs, i: &Instruction, write: impl Fn(Option<u64>, u64) -> PtWrite) -> Option<PtWrite> {
    let result = write(None, regs.rax);
    if result != PtWrite::Done {
        return Some(result);
    }
    let size = i.memory_size().size() as u64;
    regs.rdi = regs.rdi.wrapping_add(if regs.rflags & 1 << 10 != 0 { size.wrapping_neg() } else { size });
    if i.has_rep_prefix() {
        regs.rcx = regs.rcx.wrapping_sub(1);
        if regs.rcx != 0 {
            return Some(PtWrite::Retry);
        }
    }
    Some(PtWrite::Done)
}

/// Reads, computes and writes as one step: another CPU may change the entry meanwhile, then it starts anew.
fn exchange(
    va: GuestVirt,
    size: u32,
    write: impl Fn(u64) -> PtWrite,
    done: impl FnOnce(u64) -> Option<()>,
) -> Option<PtWrite> {
    let mut bytes = [0u8; 8];
    crate::mm::uaccess::copy_from_guest(bytes.get_mut(..size as usize)?, va).ok()?;
    let mut old = u64::from_le_bytes(bytes);
    loop {
        match write(old) {
            PtWrite::Differs(now) if now != old => old = now,
            PtWrite::Done => {
                done(old)?;
                return Some(PtWrite::Done);
            }
            other => return Some(other),
        }
    }
}

/// Flags of a logical operation (SDM Vol. 1, 7.3.4): CF and OF clear, ZF, SF and PF by the result.
fn set_logic_flags(regs: &mut Regs, result: u64, size: u32) {
    let sign = result >> (size * 8 - 1) & 1;
    let parity = u64::from((result & 0xff).count_ones().is_multiple_of(2));
    let zero = u64::from(result == 0);
    regs.rflags =
        regs.rflags & !(1 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 11) | parity << 2 | zero << 6 | sign << 7;
}
