//! `mmuext_op`: pins, base pointers, flushes, LDT, and whole pages.

use super::super::{Cx, Outcome, low32};
use super::{Batch, Stop, Target};
use crate::cpumask::CpuMask;
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::ids::{CpuId, GuestVirt, Mfn};
use crate::page::{PageError, PageType, is_guests};
use crate::platform::{Flush, Platform};
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::errno::Errno;
use xen_abi::xen::*;

/// `mmuext_op(requests, count, pdone, foreigndom)`.
pub fn mmuext_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let batch = match Batch::begin(cx, args) {
        Ok(batch) => batch,
        Err(answer) => return answer,
    };
    let target = match Target::find(cx, (batch.foreign() & 0xffff) as u16) {
        Ok(target) if target.is_controlled_by(cx) => target,
        Ok(_) => return Errno::EPERM.into(),
        Err(errno) => return errno.into(),
    };
    let requests: GuestPtr<MmuextOp> = GuestPtr::new(batch.requests);
    let (mut done, mut stop) = (0, None);
    while done < batch.count {
        if done != 0 && (cx.hv.platform.work_pending() || cx.hv.work_off_doomed(cx.domain).is_err()) {
            stop = Some(Stop::Preempted);
            break;
        }
        let served = match requests.read_at(cx.hv, u64::from(done)) {
            Ok(request) => serve(cx, &target, &request),
            Err(_) => Err(Stop::Refused(Errno::EFAULT)),
        };
        if let Err(why) = served {
            stop = Some(why);
            break;
        }
        done += 1;
    }
    let size = size_of::<MmuextOp>() as u64;
    match &target {
        Target::Other(other) => batch.end_foreign(cx, [Some(other), None], done, size, stop),
        _ => batch.end(cx, done, size, stop),
    }
}

/// Serves one request.
fn serve<P: Platform>(cx: Cx<'_, P>, target: &Target<P>, op: &MmuextOp) -> Result<(), Stop> {
    let pinned_as = match op.cmd {
        MMUEXT_PIN_L1_TABLE => PageType::L1,
        MMUEXT_PIN_L2_TABLE => PageType::L2,
        MMUEXT_PIN_L3_TABLE => PageType::L3,
        MMUEXT_PIN_L4_TABLE => PageType::L4,
        MMUEXT_UNPIN_TABLE | MMUEXT_CLEAR_PAGE | MMUEXT_COPY_PAGE => PageType::None,
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => return Err(Stop::Refused(Errno::EOPNOTSUPP)),
        // A hole in the numbering.
        14 => return Err(Stop::Refused(Errno::ENOSYS)),
        MMUEXT_NEW_BASEPTR..=MMUEXT_FLUSH_CACHE_GLOBAL => {
            return match target {
                Target::Own => serve_own(cx, op),
                _ => Err(Stop::Refused(Errno::EPERM)),
            };
        }
        _ => return Err(Stop::Refused(Errno::ENOSYS)),
    };
    let (hv, mfn) = (cx.hv, Mfn(op.arg1));
    let domain = target.domain(cx).ok_or(PageError::BadFrame)?;
    match op.cmd {
        MMUEXT_UNPIN_TABLE => hv.unpin_table(domain, mfn)?,
        MMUEXT_CLEAR_PAGE => with_writable(cx, domain, mfn, |index, words| words[index].store(0, Relaxed))?,
        MMUEXT_COPY_PAGE => copy_page(cx, domain, mfn, Mfn(op.arg2))?,
        _ => hv.pin_table(domain, mfn, pinned_as)?,
    }
    Ok(())
}

/// The requests that are about the calling vCPU or its domain as a whole.
fn serve_own<P: Platform>(cx: Cx<'_, P>, op: &MmuextOp) -> Result<(), Stop> {
    let (hv, domain, vcpu) = (cx.hv, &**cx.domain, cx.vcpu);
    match op.cmd {
        MMUEXT_NEW_BASEPTR => hv.new_baseptr(domain, vcpu, Mfn(op.arg1))?,
        // Of all frame numbers, 0 alone means here that there is to be no table.
        MMUEXT_NEW_USER_BASEPTR => {
            hv.new_user_baseptr(domain, vcpu, (op.arg1 != 0).then_some(Mfn(op.arg1)))?;
        }
        MMUEXT_TLB_FLUSH_LOCAL => hv.flush_tlb_all(&here(cx)),
        MMUEXT_INVLPG_LOCAL => flush_page(cx, &here(cx), op.arg1),
        MMUEXT_TLB_FLUSH_MULTI => hv.flush_tlb_all(&vcpu_cpus(cx, op.arg2).map_err(bad_bitmap)?),
        MMUEXT_INVLPG_MULTI => flush_page(cx, &vcpu_cpus(cx, op.arg2).map_err(bad_bitmap)?, op.arg1),
        MMUEXT_TLB_FLUSH_ALL => hv.flush_tlb_all(&domain.dirty_cpus.load()),
        MMUEXT_INVLPG_ALL => flush_page(cx, &domain.dirty_cpus.load(), op.arg1),
        MMUEXT_FLUSH_CACHE if !hv.may_flush_caches(domain) => return Err(Stop::Refused(Errno::EACCES)),
        MMUEXT_FLUSH_CACHE_GLOBAL if !hv.may_flush_caches(domain) => {
            return Err(Stop::Refused(Errno::EINVAL));
        }
        MMUEXT_FLUSH_CACHE => hv.platform.flush_caches(&here(cx)),
        MMUEXT_FLUSH_CACHE_GLOBAL => hv.platform.flush_caches(&hv.platform.online_cpus()),
        MMUEXT_SET_LDT => {
            let (base, entries) = (GuestVirt(op.arg1), low32(op.arg2));
            let unchanged = vcpu.pv.ldt_entries.load(Relaxed) == entries
                && (entries == 0 || vcpu.pv.ldt_base.load(Relaxed) == base.0);
            if !unchanged {
                hv.set_ldt(domain, vcpu, base, entries)?;
                hv.platform.load_descriptor_tables(vcpu);
            }
        }
        _ => return Err(Stop::Refused(Errno::ENOSYS)),
    }
    Ok(())
}

fn here<P: Platform>(cx: Cx<'_, P>) -> CpuMask {
    CpuMask::of(cx.hv.platform.this_cpu())
}

/// Flushes one page; an address that no guest can map needs none.
fn flush_page<P: Platform>(cx: Cx<'_, P>, cpus: &CpuMask, va: u64) {
    let va = GuestVirt(va);
    if is_guests(va) {
        cx.hv.platform.flush_tlb(cpus, Flush::Page(va));
    }
}

fn bad_bitmap(_: Errno) -> Stop {
    Stop::Refused(Errno::EINVAL)
}

/// The CPUs on which the vCPUs of the bitmap at `bitmap` may have left TLB entries.
///
/// # Errors
/// `EFAULT` when the bitmap cannot be read.
pub(super) fn vcpu_cpus<P: Platform>(cx: Cx<'_, P>, bitmap: u64) -> Result<CpuMask, Errno> {
    let words: GuestPtr<u64> = GuestPtr::new(bitmap);
    let mut cpus = CpuMask::EMPTY;
    for (n, vcpus) in cx.domain.vcpus.chunks(64).enumerate() {
        let word = words.read_at(cx.hv, n as u64)?;
        for (bit, vcpu) in vcpus.iter().enumerate() {
            if word & 1 << bit != 0 {
                cpus.insert(CpuId(vcpu.cpu.load(Relaxed)));
            }
        }
    }
    let mut dirty = cx.domain.dirty_cpus.load();
    dirty.insert(cx.hv.platform.this_cpu());
    Ok(cpus.intersect(&dirty))
}

/// Calls `change` for each word of a page that the domain may write.
fn with_writable<P: Platform>(
    cx: Cx<'_, P>,
    domain: &Domain<P>,
    mfn: Mfn,
    change: impl Fn(usize, &crate::platform::FrameWords),
) -> Result<(), PageError> {
    cx.hv.get_typed(domain, mfn, PageType::Writable)?;
    let words = cx.hv.platform.frame_words(mfn);
    (0..words.len()).for_each(|index| change(index, words));
    cx.hv.put_page_and_type(mfn);
    Ok(())
}

fn copy_page<P: Platform>(cx: Cx<'_, P>, domain: &Domain<P>, to: Mfn, from: Mfn) -> Result<(), PageError> {
    cx.hv.get_page(domain.id, from)?;
    let source = cx.hv.platform.frame_words(from);
    let result = with_writable(cx, domain, to, |index, words| {
        words[index].store(source[index].load(Relaxed), Relaxed)
    });
    cx.hv.put_page(from);
    result
}
