//! `VCPUOP_initialise`: the first context of a vCPU.
//!
//! Everything is checked before anything is changed, except for what only page accounting can tell: a vCPU whose tables are
//! refused stays uninitialised and gives up what it had got. Validating its page tables may be preempted; the hypercall
//! is then made again and finds what it already has.
//!
//! Two CPUs may do this to the same vCPU, and a vCPU that is initialised may be brought up by a third at any moment. So a CPU takes
//! the vCPU's *turn* ([`Vcpu::context_turn`]) from the question whether it is initialised until the answer has changed:
//! the tables of a vCPU that may run are never touched here. Validation may take long, so no CPU ever waits for a turn. One that
//! finds it taken has its hypercall made again. The context itself and the flag that says that the vCPU has one change
//! together under the lock of its registers, under which a CPU that is to run it loads them.
//!
//! Debug registers that the guest could not set are left as after reset. The data segment registers start as null, whatever the context says: a 64-bit kernel does not depend on them.

use super::callback::guest_selector;
use super::cpu::checked_debugreg;
use super::version::VALID_ASSISTS;
use super::{Cx, Failure, Outcome, done_or_again};
use crate::domain::{PvState, Vcpu, VcpuFlags, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::ids::{GuestVirt, MachineAddr, Mfn, PAGE_SIZE, VcpuId};
use crate::page::{PageError, is_hypervisors};
use crate::platform::Platform;
use crate::regs::Regs;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use spin::MutexGuard;
use xen_abi::arch_x86::{
    CpuUserRegs, VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE,
    VGCF_SYSCALL_DISABLES_EVENTS, VcpuGuestContext,
};
use xen_abi::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// Frames of a guest's GDT, descriptors in each.
const GDT_FRAMES: u64 = 14;
const GDT_PER_FRAME: u64 = 512;
/// Most entries of an LDT.
const LDT_ENTRIES: u64 = 8192;
/// Bits of `TrapInfo::flags`.
const TRAP_DPL: u8 = 0b011;
const TRAP_MASKS_EVENTS: u8 = 0b100;
/// DR6 and DR7 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// CR4 bits that a guest chooses for itself: TSD, DE, FSGSBASE, OSXSAVE.
const CR4_GUEST: u64 = 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18;
/// RFLAGS bits that a guest may start with: CF PF AF ZF SF TF DF OF NT RF AC ID.
const RFLAGS_GUEST: u64 = 0x25_4dd5;
/// RFLAGS.IF and the bit that is always one.
const RFLAGS_ALWAYS: u64 = 0x202;
const RFLAGS_IOPL_SHIFT: u32 = 12;

/// # Errors
/// `EINVAL` for a vCPU without `vcpu_info` or a context that no vCPU can have, `EEXIST` for one that has its context,
/// `EFAULT`, `EOPNOTSUPP`, `ENOMEM`, and what the frames of its tables are refused for.
pub(super) fn initialise<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, args: &[u64; 6]) -> Outcome {
    if target.vcpu().pv.vcpu_info.load(Ordering::Acquire) == 0 {
        return Errno::EINVAL.into();
    }
    let Ok(mut words) = context_words() else { return Errno::ENOMEM.into() };
    if let Err(fault) = GuestPtr::<u64>::new(args[2]).read_slice(cx.hv, &mut words) {
        return Errno::from(fault).into();
    }
    let Ok(context) = VcpuGuestContext::ref_from_bytes(words.as_bytes()) else {
        return Errno::EINVAL.into();
    };
    done_or_again(apply(cx, target, context).map(|()| 0), args)
}

/// Room for a context, on the heap: it would take a good part of the hypervisor's stack.
///
/// # Errors
/// `ENOMEM`: it takes two pages in a row.
#[inline(never)]
pub(super) fn context_words() -> Result<Vec<u64>, Errno> {
    const WORDS: usize = size_of::<VcpuGuestContext>() / 8;
    let mut words = Vec::new();
    words.try_reserve_exact(WORDS).map_err(|_| Errno::ENOMEM)?;
    words.resize(WORDS, 0);
    Ok(words)
}

/// Gives a vCPU of any domain a context, the first or another one on the same tables (`XEN_DOMCTL_setvcpucontext`). It is up
/// afterwards exactly if the context says so. It is paused, and on no CPU.
pub(super) fn replace<P: Platform>(
    cx: Cx<'_, P>,
    target: &VcpuRef<P>,
    context: &VcpuGuestContext,
) -> Result<(), Failure> {
    let vcpu = target.vcpu();
    let turn = vcpu.context_turn.try_lock().ok_or(Failure::Restart)?;
    if !vcpu.pv.has_flags(VcpuFlags::INITIALISED) {
        return first(cx, target, context, turn);
    }
    check(target.id, context)?;
    if !has_tables(&vcpu.pv, context) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    put(cx, vcpu, context, &|_| {});
    drop(turn);
    if context.flags & VGCF_ONLINE != 0 {
        cx.hv.bring_up(target);
    } else {
        cx.hv.take_down(vcpu);
    }
    Ok(())
}

/// Whether a vCPU has the very tables that a context names.
fn has_tables(pv: &PvState, context: &VcpuGuestContext) -> bool {
    let root_ok = pv.guest_table.get().is_some_and(|root| context.ctrlreg[3] == root.addr().0);
    let user_ok = match pv.guest_table_user.get() {
        Some(user) => context.ctrlreg[1] == user.addr().0,
        None => context.ctrlreg[1] == 0 && context.flags & VGCF_IN_KERNEL != 0,
    };
    let frames = pv.gdt_frames.iter().zip(&context.gdt_frames);
    let used = usize::try_from(context.gdt_ents.div_ceil(GDT_PER_FRAME)).unwrap_or(usize::MAX);
    let mut gdt = frames.take(used);
    let ldt_entries = u64::from(pv.ldt_entries.load(Ordering::Relaxed));
    root_ok
        && user_ok
        && u64::from(pv.gdt_entries.load(Ordering::Relaxed)) == context.gdt_ents
        && gdt.all(|(mine, named)| mine.load(Ordering::Relaxed) == *named)
        && ldt_entries == context.ldt_ents
        && (ldt_entries == 0 || pv.ldt_base.load(Ordering::Relaxed) == context.ldt_base)
}

fn apply<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, context: &VcpuGuestContext) -> Result<(), Failure> {
    let vcpu = target.vcpu();
    let turn = vcpu.context_turn.try_lock().ok_or(Failure::Restart)?;
    if vcpu.pv.has_flags(VcpuFlags::INITIALISED) {
        return Err(Errno::EEXIST.into());
    }
    first(cx, target, context, turn)
}

/// Gives a vCPU its first context. The caller took its turn and found that it has none.
#[inline(never)]
fn first<P: Platform>(
    cx: Cx<'_, P>,
    target: &VcpuRef<P>,
    context: &VcpuGuestContext,
    turn: MutexGuard<'_, ()>,
) -> Result<(), Failure> {
    let (domain, vcpu) = (&target.domain, target.vcpu());
    check(target.id, context)?;
    if context.flags & VGCF_IN_KERNEL == 0 && context.ctrlreg[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    if let Err(error) = take_tables(cx, target, context) {
        if error != PageError::Restart {
            cx.hv.drop_vcpu_tables(domain, vcpu);
        }
        return Err(error.into());
    }
    put(cx, vcpu, context, &|pv| {
        if target.id == VcpuId(0) {
            domain.vm_assist.store(context.vm_assist, Ordering::Relaxed);
            cx.hv.publish_wallclock(domain);
        }
        pv.set_flags(VcpuFlags::INITIALISED, true);
    });
    drop(turn);
    if context.flags & VGCF_ONLINE != 0 {
        cx.hv.bring_up(target);
    }
    Ok(())
}

/// Puts a context into a vCPU that is on no CPU, but for its tables, and does `last` before any CPU can load it.
#[inline(never)]
fn put<P: Platform>(cx: Cx<'_, P>, vcpu: &Vcpu<P>, context: &VcpuGuestContext, last: &dyn Fn(&PvState)) {
    let mut saved = vcpu.saved.lock();
    *saved = registers(&context.user_regs);
    fill(cx, &vcpu.pv, context);
    load_rest(cx, vcpu, context);
    last(&vcpu.pv);
}

/// FPU state and debug registers.
fn load_rest<P: Platform>(cx: Cx<'_, P>, vcpu: &Vcpu<P>, context: &VcpuGuestContext) {
    let image = (context.flags & VGCF_I387_VALID != 0).then_some(&context.fpu_ctxt);
    cx.hv.platform.registers_replaced(vcpu, image);
    let cr4 = vcpu.pv.cr4.load(Ordering::Relaxed);
    let reset = [(7, DR7_RESET), (0, 0), (1, 0), (2, 0), (3, 0), (6, DR6_RESET)];
    for (reg, value) in reset {
        // There for every vCPU, and good values.
        let _ = cx.hv.platform.set_debugreg(vcpu, reg, value);
    }
    // Addresses before the register that enables them.
    for reg in [0u32, 1, 2, 3, 6, 7] {
        if let Ok((reg, value)) = checked_debugreg(cr4, reg, context.debugreg[reg as usize]) {
            let _ = cx.hv.platform.set_debugreg(vcpu, reg, value);
        }
    }
}

/// What can be told from the context alone.
#[inline(never)]
fn check(id: VcpuId, context: &VcpuGuestContext) -> Result<(), Errno> {
    let addresses = [
        context.user_regs.rip,
        context.user_regs.rsp,
        context.kernel_sp,
        context.ldt_base,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.event_callback_eip,
        context.syscall_callback_eip,
        context.failsafe_callback_eip,
    ];
    let handlers = context.trap_ctxt.iter().map(|trap| trap.address);
    let canonical = addresses.into_iter().chain(handlers).all(|address| GuestVirt(address).is_canonical());
    let ldt = GuestVirt(context.ldt_base);
    let ldt_ok =
        !is_hypervisors(ldt) && ldt.0.is_multiple_of(PAGE_SIZE as u64) && context.ldt_ents <= LDT_ENTRIES;
    let assists_ok = id != VcpuId(0) || context.vm_assist & !VALID_ASSISTS == 0;
    let gdt_ok = context.gdt_ents.div_ceil(GDT_PER_FRAME) <= GDT_FRAMES;
    if !(canonical && ldt_ok && assists_ok && gdt_ok) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Gets the frames of the GDT and of the page tables, or finds them from the time before it was preempted.
fn take_tables<P: Platform>(
    cx: Cx<'_, P>,
    target: &VcpuRef<P>,
    context: &VcpuGuestContext,
) -> Result<(), PageError> {
    let (domain, vcpu) = (&target.domain, target.vcpu());
    let frames = context.gdt_frames.map(Mfn);
    let used = usize::try_from(context.gdt_ents.div_ceil(GDT_PER_FRAME)).map_err(|_| PageError::BadEntry)?;
    let entries = u32::try_from(context.gdt_ents).map_err(|_| PageError::BadEntry)?;
    cx.hv.set_gdt(domain, vcpu, frames.get(..used).ok_or(PageError::BadEntry)?, entries)?;
    let kernel = MachineAddr(context.ctrlreg[3]).mfn();
    if vcpu.pv.guest_table.get() != Some(kernel) {
        cx.hv.set_first_baseptr(domain, vcpu, kernel)?;
    }
    // A register of 0 means no table; one that is not 0 and names frame 0 is refused as any frame of others is.
    let user = (context.ctrlreg[1] != 0).then(|| MachineAddr(context.ctrlreg[1]).mfn());
    cx.hv.new_user_baseptr(domain, vcpu, user)?;
    let entries = u32::try_from(context.ldt_ents).map_err(|_| PageError::BadEntry)?;
    cx.hv.set_ldt(domain, vcpu, GuestVirt(context.ldt_base), entries)
}

fn fill<P: Platform>(cx: Cx<'_, P>, pv: &PvState, context: &VcpuGuestContext) {
    let callers_cr4 = cx.vcpu.pv.cr4.load(Ordering::Relaxed);
    let cr4 = context.ctrlreg[4] & CR4_GUEST | callers_cr4 & !CR4_GUEST;
    pv.cr4.store(cr4, Ordering::Relaxed);
    for (slot, trap) in pv.traps.iter().zip(&context.trap_ctxt) {
        let masks = trap.flags & TRAP_MASKS_EVENTS != 0;
        slot.set(trap.address, guest_selector(trap.cs), trap.flags & TRAP_DPL, masks);
    }
    let words = [
        (&pv.kernel_sp, context.kernel_sp),
        (&pv.kernel_ss, u64::from(guest_selector((context.kernel_ss & 0xffff) as u16))),
        (&pv.event_callback, context.event_callback_eip),
        (&pv.failsafe_callback, context.failsafe_callback_eip),
        (&pv.syscall_callback, context.syscall_callback_eip),
        (&pv.fs_base, context.fs_base),
        (&pv.gs_base_kernel, context.gs_base_kernel),
        (&pv.gs_base_user, context.gs_base_user),
    ];
    for (field, value) in words {
        field.store(value, Ordering::Relaxed);
    }
    let in_kernel = context.flags & VGCF_IN_KERNEL != 0;
    pv.kernel_mode.store(in_kernel.into(), Ordering::Relaxed);
    let iopl = (context.user_regs.rflags >> RFLAGS_IOPL_SHIFT & 0b11) as u8;
    pv.iopl.store(iopl, Ordering::Relaxed);
    pv.set_flags(VcpuFlags::FAILSAFE_MASKS_EVENTS, context.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0);
    pv.set_flags(VcpuFlags::SYSCALL_MASKS_EVENTS, context.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0);
    pv.set_flags(VcpuFlags::TASK_SWITCHED, context.ctrlreg[0] & CR0_TS != 0);
}

fn registers(user: &CpuUserRegs) -> Regs {
    Regs {
        r15: user.r15,
        r14: user.r14,
        r13: user.r13,
        r12: user.r12,
        rbp: user.rbp,
        rbx: user.rbx,
        r11: user.r11,
        r10: user.r10,
        r9: user.r9,
        r8: user.r8,
        rax: user.rax,
        rcx: user.rcx,
        rdx: user.rdx,
        rsi: user.rsi,
        rdi: user.rdi,
        error_code: 0,
        vector: 0,
        rip: user.rip,
        cs: guest_selector(user.cs).into(),
        rflags: user.rflags & RFLAGS_GUEST | RFLAGS_ALWAYS,
        rsp: user.rsp,
        ss: guest_selector(user.ss).into(),
    }
}
