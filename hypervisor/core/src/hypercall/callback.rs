//! Where the guest kernel wants to be entered: `set_trap_table`, `set_callbacks`, `callback_op`, `nmi_op`.
//!
//! Code selectors get the privilege of ring 3, where a 64-bit PV kernel runs; nothing else about them is checked here,
//! for the descriptor they name may change: a bad one faults when it is used.

use super::{Cx, Outcome, low32};
use crate::Hypervisor;
use crate::domain::{Domain, PvState, VcpuFlags};
use crate::guest_ptr::GuestPtr;
use crate::ids::{GuestVirt, VcpuId};
use crate::platform::{Platform, Work};
use crate::regs::Regs;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::arch_x86::{ArchSharedInfo, FLAT_KERNEL_CS, TrapInfo};
use xen_abi::callback::{
    CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CALLBACKTYPE_EVENT,
    CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_NMI, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32,
    CALLBACKTYPE_SYSENTER, CallbackRegister, CallbackUnregister,
};
use xen_abi::errno::Errno;
use xen_abi::nmi::{XENNMI_REGISTER_CALLBACK, XENNMI_UNREGISTER_CALLBACK, XennmiCallback};
use xen_abi::xen::SharedInfo;

/// Vector of the non-maskable interrupt.
const NMI_VECTOR: usize = 2;
/// `TrapInfo::flags`: privilege that may raise the vector.
const TRAP_DPL: u8 = 0b011;
/// `TrapInfo::flags`: events are masked on entry.
const TRAP_MASKS_EVENTS: u8 = 0b100;
/// Word of `shared_info` with the reasons for an NMI.
const NMI_REASON_WORD: usize = (offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, nmi_reason)) / 8;

/// A selector with the privilege that a 64-bit guest kernel has.
pub(crate) fn guest_selector(selector: u16) -> u16 {
    selector | 3
}

/// Sets one handler as the guest describes it.
pub(crate) fn set_trap(pv: &PvState, trap: &TrapInfo) {
    let masks = trap.flags & TRAP_MASKS_EVENTS != 0;
    let slot = &pv.traps[usize::from(trap.vector)];
    slot.set(trap.address, guest_selector(trap.cs), trap.flags & TRAP_DPL, masks);
}

/// `set_trap_table(table)`: sets handlers until an entry with address 0; a null table removes all.
///
/// # Errors
/// `EFAULT`, `EINVAL` for a handler at a non-canonical address; entries before the bad one are in force.
pub fn set_trap_table<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let mut next = GuestPtr::<TrapInfo>::new(args[0]);
    if next.is_null() {
        cx.vcpu.pv.traps.iter().for_each(|slot| slot.set(0, 0, 0, false));
        return Outcome::Done(0);
    }
    loop {
        let trap = match next.read(cx.hv) {
            Ok(trap) => trap,
            Err(fault) => return Errno::from(fault).into(),
        };
        if trap.address == 0 {
            return Outcome::Done(0);
        }
        if !GuestVirt(trap.address).is_canonical() {
            return Errno::EINVAL.into();
        }
        set_trap(&cx.vcpu.pv, &trap);
        next = match next.at(1) {
            Ok(next) => next,
            Err(fault) => return Errno::from(fault).into(),
        };
        if cx.hv.platform.work_pending() {
            return Outcome::Again([next.address().0, args[1], args[2], args[3], args[4], args[5]]);
        }
    }
}

/// `set_callbacks(event, failsafe, syscall)`: the old way to register three callbacks. Addresses that are not canonical
/// are left out without an error, as they always were.
pub fn set_callbacks<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let types = [CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_SYSCALL];
    for (type_, address) in types.into_iter().zip(args) {
        let _ = register(cx, &CallbackRegister { type_, flags: 0, _pad0: 0, address: *address });
    }
    Outcome::Done(0)
}

/// `callback_op(cmd, arg)`.
///
/// # Errors
/// `EFAULT`, `EINVAL` for a non-canonical address or a callback that cannot be unregistered, `ENOSYS` for an unknown
/// command or type.
pub fn callback_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let result = match low32(args[0]) {
        CALLBACKOP_REGISTER => GuestPtr::<CallbackRegister>::new(args[1])
            .read(cx.hv)
            .map_err(Errno::from)
            .and_then(|callback| register(cx, &callback)),
        CALLBACKOP_UNREGISTER => GuestPtr::<CallbackUnregister>::new(args[1])
            .read(cx.hv)
            .map_err(Errno::from)
            .and_then(|callback| unregister(cx, callback.type_)),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
}

fn register<P: Platform>(cx: Cx<'_, P>, callback: &CallbackRegister) -> Result<(), Errno> {
    let address = callback.address;
    if !GuestVirt(address).is_canonical() {
        return Err(Errno::EINVAL);
    }
    let pv = &cx.vcpu.pv;
    let masks = callback.flags & CALLBACKF_MASK_EVENTS != 0;
    match callback.type_ {
        CALLBACKTYPE_EVENT => pv.event_callback.store(address, Ordering::Relaxed),
        CALLBACKTYPE_FAILSAFE => {
            pv.failsafe_callback.store(address, Ordering::Relaxed);
            pv.set_flags(VcpuFlags::FAILSAFE_MASKS_EVENTS, masks);
        }
        CALLBACKTYPE_SYSCALL => {
            pv.syscall_callback.store(address, Ordering::Relaxed);
            pv.set_flags(VcpuFlags::SYSCALL_MASKS_EVENTS, masks);
        }
        CALLBACKTYPE_SYSCALL32 => {
            pv.syscall32_callback.store(address, Ordering::Relaxed);
            pv.set_flags(VcpuFlags::SYSCALL32_MASKS_EVENTS, masks);
        }
        CALLBACKTYPE_SYSENTER => {
            pv.sysenter_callback.store(address, Ordering::Relaxed);
            pv.set_flags(VcpuFlags::SYSENTER_MASKS_EVENTS, masks);
        }
        CALLBACKTYPE_NMI => register_nmi(cx, address),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

fn unregister<P: Platform>(cx: Cx<'_, P>, type_: u16) -> Result<(), Errno> {
    match type_ {
        CALLBACKTYPE_NMI => {
            unregister_nmi(cx);
            Ok(())
        }
        CALLBACKTYPE_EVENT
        | CALLBACKTYPE_FAILSAFE
        | CALLBACKTYPE_SYSCALL
        | CALLBACKTYPE_SYSCALL32
        | CALLBACKTYPE_SYSENTER => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// `nmi_op(cmd, arg)`: the old way to register the NMI callback.
///
/// # Errors
/// `EFAULT`, `EINVAL` for a non-canonical address, `ENOSYS` for an unknown command.
pub fn nmi_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    match low32(args[0]) {
        XENNMI_REGISTER_CALLBACK => match GuestPtr::<XennmiCallback>::new(args[1]).read(cx.hv) {
            Ok(nmi) if !GuestVirt(nmi.handler_address).is_canonical() => Errno::EINVAL.into(),
            Ok(nmi) => {
                register_nmi(cx, nmi.handler_address);
                Outcome::Done(0)
            }
            Err(fault) => Errno::from(fault).into(),
        },
        XENNMI_UNREGISTER_CALLBACK => {
            unregister_nmi(cx);
            Outcome::Done(0)
        }
        _ => Errno::ENOSYS.into(),
    }
}

fn register_nmi<P: Platform>(cx: Cx<'_, P>, address: u64) {
    cx.vcpu.pv.traps[NMI_VECTOR].set(address, FLAT_KERNEL_CS, 0, true);
    // A reason that came up while nobody listened would be lost: it was signalled as an edge.
    if cx.vcpu.id == VcpuId(0) && nmi_reasons(cx.hv, cx.domain).load(Ordering::Relaxed) != 0 {
        cx.vcpu.pv.set_flags(VcpuFlags::NMI_PENDING, true);
        cx.hv.platform.raise_work(cx.hv.platform.this_cpu(), Work::NMI);
    }
}

/// The word of a domain's shared page with the reasons for its NMIs.
pub(crate) fn nmi_reasons<'a, P: Platform>(hv: &'a Hypervisor<P>, domain: &Domain<P>) -> &'a AtomicU64 {
    &hv.platform.frame_words(domain.shared_info)[NMI_REASON_WORD]
}

fn unregister_nmi<P: Platform>(cx: Cx<'_, P>) {
    cx.vcpu.pv.traps[NMI_VECTOR].set(0, 0, 0, false);
}
