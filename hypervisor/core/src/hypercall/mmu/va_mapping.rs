//! `update_va_mapping` and `update_va_mapping_otherdomain`: one L1 entry of the calling kernel's own address space, by the address that
//! it translates, and the flush that follows.

use super::mmuext::vcpu_cpus;
use super::{Stop, Target};
use crate::cpumask::CpuMask;
use crate::hypercall::{Cx, Outcome};
use crate::ids::GuestVirt;
use crate::page::{PageError, PageType, Pages, Write};
use crate::platform::{Flush, GuestFrame, Platform};
use crate::regs::Regs;
use xen_abi::errno::Errno;
use xen_abi::xen::{UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH};

/// `update_va_mapping(va, entry, flags)`.
pub fn update_va_mapping<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    change_mapping(cx, args, &Pages::Of(cx.domain))
}

/// [`update_va_mapping`] by its arguments; `None` where it is to be made again.
pub fn change_own_mapping<P: Platform>(cx: Cx<'_, P>, va: u64, entry: u64, flags: u64) -> Option<i64> {
    match change_mapping(cx, &[va, entry, flags, 0, 0, 0], &Pages::Of(cx.domain)) {
        Outcome::Done(value) => Some(value),
        Outcome::Again(_) | Outcome::RegsReplaced => None,
    }
}

/// `update_va_mapping_otherdomain(va, entry, flags, domid)`.
pub fn update_va_mapping_otherdomain<P: Platform>(
    cx: Cx<'_, P>,
    args: &[u64; 6],
    _regs: &mut Regs,
) -> Outcome {
    match Target::find(cx, (args[3] & 0xffff) as u16) {
        Ok(Target::Xen) => Errno::EPERM.into(),
        // Unlike `mmu_update`, this takes the privilege for device memory, too.
        Ok(target) if target.is_controlled_by(cx) => change_mapping(cx, args, &target.pages(cx)),
        Ok(_) => Errno::EPERM.into(),
        Err(errno) => errno.into(),
    }
}

fn change_mapping<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], pages: &Pages<'_, P>) -> Outcome {
    let [va, entry, flags, ..] = *args;
    match change_l1(cx, GuestVirt(va), entry, pages) {
        Ok(()) => {}
        Err(Stop::Refused(errno)) => return errno.into(),
        Err(Stop::Preempted) => {
            // Something is waiting to be given up; whether that gets done now or later, the guest asks again.
            let _ = cx.hv.work_off_doomed(cx.domain);
            if let Pages::Of(owner) = pages {
                let _ = cx.hv.work_off_doomed(owner);
            }
            return Outcome::Again(*args);
        }
    }
    if flags & UVMF_FLUSHTYPE_MASK == 0 {
        return Outcome::Done(0);
    }
    flush_mapping(cx, GuestVirt(va), flags).into()
}

/// Changes the L1 entry that translates `va` in the calling kernel's address space.
#[inline]
fn change_l1<P: Platform>(
    cx: Cx<'_, P>,
    va: GuestVirt,
    entry: u64,
    pages: &Pages<'_, P>,
) -> Result<(), Stop> {
    let hv = cx.hv;
    let cr3 = cx.vcpu.pv.guest_table.get().ok_or(PageError::BadEntry)?;
    let walk = hv.walk(cr3, va).ok_or(PageError::BadEntry)?;
    let t = hv.lock_table_of(cx.domain, walk.table)?.ok_or(PageError::WrongType)?;
    let answer = if t == PageType::L1 {
        let slot = &hv.platform.words(GuestFrame::held(walk.table))[walk.index & 511];
        hv.update_l1(cx.domain, pages, slot, entry, Write::Plain)
    } else {
        Err(PageError::WrongType.into())
    };
    hv.unlock_table(walk.table);
    Ok(answer?)
}

/// Does what the `UVMF_*` flags ask for.
#[inline(never)]
fn flush_mapping<P: Platform>(cx: Cx<'_, P>, va: GuestVirt, flags: u64) -> Result<(), Errno> {
    let kind = flags & UVMF_FLUSHTYPE_MASK;
    if kind != UVMF_TLB_FLUSH && kind != UVMF_INVLPG {
        return Ok(());
    }
    let cpus = match flags & !UVMF_FLUSHTYPE_MASK {
        UVMF_LOCAL => CpuMask::of(cx.hv.platform.this_cpu()),
        UVMF_ALL => cx.domain.dirty_cpus.load(),
        bitmap => vcpu_cpus(cx, bitmap)?,
    };
    if kind == UVMF_TLB_FLUSH {
        cx.hv.flush_tlb_all(&cpus);
    } else {
        cx.hv.platform.flush_tlb(&cpus, Flush::Page(va));
    }
    Ok(())
}
