//! Registers of vCPUs, and everything else that a vCPU starts with.
//!
//! The FPU's state and the debug registers belong to the platform: a context that is set has them, one that is read has
//! neither.

use super::{Answer, Reply, Request, vcpu_of};
use crate::domain::{Domain, PvState, Vcpu, VcpuFlags, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::callback::guest_selector;
use crate::hypercall::{Failure, vcpu_init};
use crate::ids::GuestVirt;
use crate::platform::Platform;
use crate::regs::Regs;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::arch_x86::*;
use xen_abi::domctl::{XenDomctlExtVcpucontext, XenDomctlVcpucontext};
use xen_abi::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// Position of the I/O privilege level in RFLAGS.
const RFLAGS_IOPL_SHIFT: u32 = 12;
/// Bits of `TrapInfo::flags`.
const TRAP_MASKS_EVENTS: u8 = 0b100;

/// `XEN_DOMCTL_setvcpucontext`. A vCPU that has a context gets another one only on the same tables.
///
/// # Errors
/// `EINVAL` for the caller's own domain, an unknown vCPU, or a context that no vCPU can have; `EOPNOTSUPP`, `EFAULT`, `ENOMEM`,
/// and what the frames of the tables are refused for.
pub(super) fn set<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let payload = request.payload::<XenDomctlVcpucontext>()?;
    if request.is_self(domain) {
        return Err(Errno::EINVAL);
    }
    let target = vcpu_of(domain, payload.vcpu, Errno::EINVAL)?;
    if payload.ctxt.is_null() {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut words = vcpu_init::context_words()?;
    GuestPtr::<u64>::from(payload.ctxt.cast()).read_slice(request.cx.hv, &mut words)?;
    let context = VcpuGuestContext::ref_from_bytes(words.as_bytes()).map_err(|_| Errno::EINVAL)?;
    match while_off(request, &target, || vcpu_init::replace(request.cx, &target, context)) {
        Some(Ok(())) => Ok(Reply::Done),
        Some(Err(Failure::Errno(errno))) => Err(errno),
        Some(Err(Failure::Restart)) | None => Ok(Reply::Again),
    }
}

/// `XEN_DOMCTL_getvcpucontext`.
///
/// # Errors
/// `EINVAL` for an unknown vCPU and for the calling one, `ENODATA` for one without a context, `EFAULT`, `ENOMEM`.
pub(super) fn get<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let payload = request.payload::<XenDomctlVcpucontext>()?;
    let target = vcpu_of(domain, payload.vcpu, Errno::EINVAL)?;
    if core::ptr::eq(target.vcpu(), request.cx.vcpu) {
        return Err(Errno::EINVAL);
    }
    if !target.vcpu().pv.has_flags(VcpuFlags::INITIALISED) {
        return Err(Errno::ENODATA);
    }
    let mut words = vcpu_init::context_words()?;
    let context = VcpuGuestContext::mut_from_bytes(words.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
    if while_off(request, &target, || describe(domain, target.vcpu(), context)).is_none() {
        return Ok(Reply::Again);
    }
    GuestPtr::<u64>::from(payload.ctxt.cast()).write_slice(request.cx.hv, &words)?;
    Ok(Reply::Copy)
}

/// Runs `work` while the vCPU is on no CPU; `None` where it does not leave its CPU soon.
fn while_off<P: Platform, R>(
    request: &Request<'_, P>,
    target: &VcpuRef<P>,
    work: impl FnOnce() -> R,
) -> Option<R> {
    let hv = request.cx.hv;
    hv.pause(target.vcpu());
    let result = hv.await_off(target.vcpu()).then(work);
    hv.unpause(target);
    result
}

fn describe<P: Platform>(domain: &Domain<P>, vcpu: &Vcpu<P>, context: &mut VcpuGuestContext) {
    let pv = &vcpu.pv;
    // First: the lock is the one under which a context changes.
    let saved = *vcpu.saved.lock();
    let flags = [
        (vcpu.sched.is_up(), VGCF_ONLINE),
        (pv.kernel_mode.load(Relaxed) != 0, VGCF_IN_KERNEL),
        (pv.has_flags(VcpuFlags::FAILSAFE_MASKS_EVENTS), VGCF_FAILSAFE_DISABLES_EVENTS),
        (pv.has_flags(VcpuFlags::SYSCALL_MASKS_EVENTS), VGCF_SYSCALL_DISABLES_EVENTS),
    ];
    context.flags = flags.iter().filter(|(holds, _)| *holds).fold(0, |all, (_, flag)| all | flag);
    context.user_regs = registers(&saved, pv);
    for (vector, (trap, slot)) in (0..=u8::MAX).zip(context.trap_ctxt.iter_mut().zip(&pv.traps)) {
        let masks = if slot.masks_events() { TRAP_MASKS_EVENTS } else { 0 };
        *trap = TrapInfo {
            vector,
            flags: slot.dpl() | masks,
            cs: slot.selector(),
            address: slot.address.load(Relaxed),
            ..TrapInfo::default()
        };
    }
    context.ldt_base = pv.ldt_base.load(Relaxed);
    context.ldt_ents = pv.ldt_entries.load(Relaxed).into();
    context.gdt_ents = pv.gdt_entries.load(Relaxed).into();
    for (frame, slot) in context.gdt_frames.iter_mut().zip(&pv.gdt_frames) {
        *frame = slot.load(Relaxed);
    }
    context.kernel_ss = pv.kernel_ss.load(Relaxed);
    context.kernel_sp = pv.kernel_sp.load(Relaxed);
    context.ctrlreg[0] = if pv.has_flags(VcpuFlags::TASK_SWITCHED) { CR0_TS } else { 0 };
    context.ctrlreg[1] = pv.guest_table_user.get().map_or(0, |root| root.addr().0);
    context.ctrlreg[3] = pv.guest_table.get().map_or(0, |root| root.addr().0);
    context.ctrlreg[4] = pv.cr4.load(Relaxed);
    context.event_callback_eip = pv.event_callback.load(Relaxed);
    context.failsafe_callback_eip = pv.failsafe_callback.load(Relaxed);
    context.syscall_callback_eip = pv.syscall_callback.load(Relaxed);
    context.vm_assist = domain.vm_assist.load(Relaxed);
    context.fs_base = pv.fs_base.load(Relaxed);
    context.gs_base_kernel = pv.gs_base_kernel.load(Relaxed);
    context.gs_base_user = pv.gs_base_user.load(Relaxed);
}

fn registers(saved: &Regs, pv: &PvState) -> CpuUserRegs {
    let selector = |value: u64| (value & 0xffff) as u16;
    CpuUserRegs {
        r15: saved.r15,
        r14: saved.r14,
        r13: saved.r13,
        r12: saved.r12,
        rbp: saved.rbp,
        rbx: saved.rbx,
        r11: saved.r11,
        r10: saved.r10,
        r9: saved.r9,
        r8: saved.r8,
        rax: saved.rax,
        rcx: saved.rcx,
        rdx: saved.rdx,
        rsi: saved.rsi,
        rdi: saved.rdi,
        rip: saved.rip,
        cs: selector(saved.cs),
        rflags: saved.rflags | u64::from(pv.iopl.load(Relaxed)) << RFLAGS_IOPL_SHIFT,
        rsp: saved.rsp,
        ss: selector(saved.ss),
        ..CpuUserRegs::default()
    }
}

/// `XEN_DOMCTL_get_ext_vcpucontext`: the entries that are not part of the context. There is no machine-check state.
pub(super) fn get_entries<P: Platform>(request: &mut Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let wanted = request.payload::<XenDomctlExtVcpucontext>()?;
    let target = vcpu_of(domain, wanted.vcpu, Errno::ESRCH)?;
    if core::ptr::eq(target.vcpu(), request.cx.vcpu) {
        return Err(Errno::ESRCH);
    }
    let pv = &target.vcpu().pv;
    let selector = |value: u32| (value & 0xffff) as u16;
    request.answer(&XenDomctlExtVcpucontext {
        vcpu: wanted.vcpu,
        size: size_of::<XenDomctlExtVcpucontext>() as u32,
        syscall32_callback_eip: pv.syscall32_callback.load(Relaxed),
        sysenter_callback_eip: pv.sysenter_callback.load(Relaxed),
        syscall32_callback_cs: selector(pv.syscall32_cs.load(Relaxed)),
        sysenter_callback_cs: selector(pv.sysenter_cs.load(Relaxed)),
        syscall32_disables_events: pv.has_flags(VcpuFlags::SYSCALL32_MASKS_EVENTS).into(),
        sysenter_disables_events: pv.has_flags(VcpuFlags::SYSENTER_MASKS_EVENTS).into(),
        ..XenDomctlExtVcpucontext::default()
    })
}

/// `XEN_DOMCTL_set_ext_vcpucontext`.
///
/// # Errors
/// `ESRCH` for an unknown vCPU or the caller's own domain, `EINVAL` for a structure cut short or a non-canonical address.
pub(super) fn set_entries<P: Platform>(request: &Request<'_, P>, domain: &Arc<Domain<P>>) -> Answer {
    let wanted = request.payload::<XenDomctlExtVcpucontext>()?;
    let target = vcpu_of(domain, wanted.vcpu, Errno::ESRCH)?;
    if request.is_self(domain) {
        return Err(Errno::ESRCH);
    }
    let canonical = [wanted.syscall32_callback_eip, wanted.sysenter_callback_eip]
        .iter()
        .all(|address| GuestVirt(*address).is_canonical());
    if (wanted.size as usize) < offset_of!(XenDomctlExtVcpucontext, vmce) || !canonical {
        return Err(Errno::EINVAL);
    }
    let set = || {
        let pv = &target.vcpu().pv;
        pv.syscall32_callback.store(wanted.syscall32_callback_eip, Relaxed);
        pv.sysenter_callback.store(wanted.sysenter_callback_eip, Relaxed);
        pv.syscall32_cs.store(guest_selector(wanted.syscall32_callback_cs).into(), Relaxed);
        pv.sysenter_cs.store(guest_selector(wanted.sysenter_callback_cs).into(), Relaxed);
        pv.set_flags(VcpuFlags::SYSCALL32_MASKS_EVENTS, wanted.syscall32_disables_events != 0);
        pv.set_flags(VcpuFlags::SYSENTER_MASKS_EVENTS, wanted.sysenter_disables_events != 0);
    };
    Ok(while_off(request, &target, set).map_or(Reply::Again, |()| Reply::Done))
}
