//! `vcpu_op(cmd, vcpu, arg)` and `set_timer_op(time)`.

use super::vcpu_init::initialise;
use super::{Cx, Failure, Outcome, done_or_again, low32};
use crate::domain::{VcpuFlags, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, GuestVirt, MachineAddr, Mfn, Nanos, PAGE_SIZE, VcpuId};
use crate::page::{PageType, is_guests};
use crate::platform::Platform;
use crate::regs::Regs;
use crate::time::publish::Through;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use xen_abi::GuestHandle;
use xen_abi::errno::Errno;
use xen_abi::sched::SHUTDOWN_POWEROFF;
use xen_abi::vcpu::*;
use xen_abi::xen::VcpuInfo;

/// Shortest and longest period of a periodic timer, in nanoseconds.
const PERIODS: core::ops::RangeInclusive<u64> = 1_000_000..=u64::MAX >> 2;
/// A `set_timer_op` further ahead than this is taken for a mistake of the guest, in nanoseconds.
const FAR_AHEAD: u64 = 1 << 50;
/// When such a timer expires instead, in nanoseconds from now.
const INSTEAD: u64 = 100_000_000;
/// Words of a `vcpu_info`.
const INFO_WORDS: usize = size_of::<VcpuInfo>() / 8;
/// First word of a `vcpu_info` with `evtchn_upcall_pending` set.
const PENDING: u64 = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_pending));
/// First word of a `vcpu_info` with `evtchn_upcall_mask` set.
const MASKED: u64 = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));
/// Word of a `vcpu_info` with `evtchn_pending_sel`.
const SELECTOR_WORD: usize = offset_of!(VcpuInfo, evtchn_pending_sel) / 8;

/// `vcpu_op(cmd, vcpu, arg)`.
///
/// # Errors
/// `ENOENT` for a vCPU that the domain does not have, `ENOSYS` for an unknown command, `EFAULT`, and as the command has it.
pub fn vcpu_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let id = VcpuId(low32(args[1]));
    if cx.domain.vcpu(id).is_none() {
        return Errno::ENOENT.into();
    }
    let target = VcpuRef { domain: cx.domain.clone(), id };
    let arg = args[2];
    let result = match low32(args[0]) {
        VCPUOP_INITIALISE => return initialise(cx, &target, args),
        VCPUOP_UP => up(cx, &target),
        VCPUOP_DOWN => down(cx, &target),
        VCPUOP_IS_UP => Ok(target.vcpu().sched.is_up().into()),
        VCPUOP_GET_RUNSTATE_INFO => get_runstate(cx, &target, arg),
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => register_runstate(cx, &target, arg),
        VCPUOP_SET_PERIODIC_TIMER => set_periodic(cx, &target, arg),
        VCPUOP_STOP_PERIODIC_TIMER => {
            cx.hv.set_periodic(&target, 0);
            Ok(0)
        }
        VCPUOP_SET_SINGLESHOT_TIMER => set_singleshot(cx, &target, arg),
        VCPUOP_STOP_SINGLESHOT_TIMER => own(cx, &target).map(|()| {
            cx.hv.stop_singleshot(cx.vcpu);
            0
        }),
        VCPUOP_REGISTER_VCPU_INFO => return done_or_again(register_info(cx, &target, arg), args),
        VCPUOP_SEND_NMI => send_nmi(cx, &target, arg),
        VCPUOP_GET_PHYSID => get_physid(cx, &target, arg),
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => register_time(cx, &target, arg),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
}

/// `set_timer_op(time)`: the one-shot timer of the calling vCPU; 0 stops it.
///
/// A time that does not fit a signed number, or that is further ahead than [`FAR_AHEAD`], comes from a guest whose clock
/// arithmetic wrapped: it gets its interrupt soon, but not at once, for some guests mean "never".
pub fn set_timer_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    set_timer(cx, args[0]);
    Outcome::Done(0)
}

/// [`set_timer_op`] by its argument.
pub fn set_timer<P: Platform>(cx: Cx<'_, P>, time: u64) {
    if time == 0 {
        cx.hv.stop_singleshot(cx.vcpu);
        return;
    }
    let now = cx.hv.platform.now().0;
    let mistaken = time > i64::MAX as u64 || time.saturating_sub(now) >= FAR_AHEAD;
    let deadline = if mistaken { now.saturating_add(INSTEAD) } else { time };
    cx.hv.arm_singleshot(cx, Nanos(deadline));
}

/// Some commands concern nobody but the caller.
fn own<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>) -> Result<(), Errno> {
    if target.id == cx.vcpu.id { Ok(()) } else { Err(Errno::EINVAL) }
}

fn up<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>) -> Result<i64, Errno> {
    if !target.vcpu().pv.has_flags(VcpuFlags::INITIALISED) {
        return Err(Errno::EINVAL);
    }
    cx.hv.bring_up(target);
    Ok(0)
}

/// The last vCPU that goes down takes the domain with it.
fn down<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>) -> Result<i64, Errno> {
    let others_up = cx.domain.vcpus.iter().any(|vcpu| vcpu.sched.is_up() && vcpu.id != target.id);
    if others_up {
        cx.hv.take_down(target.vcpu());
    } else {
        cx.hv.shutdown_domain(cx.domain, SHUTDOWN_POWEROFF);
    }
    Ok(0)
}

fn get_runstate<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    let info = target.vcpu().time.runstate_at(cx.hv.platform.now());
    GuestPtr::new(arg).write(cx.hv, &info)?;
    Ok(0)
}

/// The address is remembered even if nothing is mapped there: the guest may map it later.
fn register_runstate<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    let area = GuestPtr::<VcpuRegisterRunstateMemoryArea>::new(arg).read(cx.hv)?;
    check_guest_range(area.addr)?;
    target.vcpu().time.set_runstate_area(area.addr.addr());
    cx.hv.update_runstate_area(target, Through::Loaded);
    Ok(0)
}

fn register_time<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    let area = GuestPtr::<VcpuRegisterTimeMemoryArea>::new(arg).read(cx.hv)?;
    check_guest_range(area.addr)?;
    cx.hv.set_time_area(target, area.addr.addr());
    Ok(0)
}

/// `EFAULT` for an object that touches the hypervisor's part of the address space or the hole in the middle.
fn check_guest_range<T>(handle: GuestHandle<T>) -> Result<(), Errno> {
    let first = GuestVirt(handle.addr());
    let last = GuestPtr::<u8>::new(first.0).at(size_of::<T>() as u64 - 1)?.address();
    if is_guests(first) && is_guests(last) { Ok(()) } else { Err(Errno::EFAULT) }
}

fn set_periodic<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    let set = GuestPtr::<VcpuSetPeriodicTimer>::new(arg).read(cx.hv)?;
    if !PERIODS.contains(&set.period_ns) {
        return Err(Errno::EINVAL);
    }
    cx.hv.set_periodic(target, set.period_ns);
    Ok(0)
}

/// A time in the past raises the interrupt at once; `VCPU_SSHOTTMR_future` would allow an error instead, which the ABI
/// leaves to the hypervisor.
fn set_singleshot<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    own(cx, target)?;
    let set = GuestPtr::<VcpuSetSingleshotTimer>::new(arg).read(cx.hv)?;
    if set.timeout_abs_ns < cx.hv.platform.now().0 {
        cx.hv.stop_singleshot(cx.vcpu);
        cx.hv.tick(target);
    } else {
        cx.hv.arm_singleshot(cx, Nanos(set.timeout_abs_ns));
    }
    Ok(0)
}

fn send_nmi<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    if arg != 0 {
        return Err(Errno::EINVAL);
    }
    cx.hv.raise_nmi(target);
    Ok(0)
}

/// Only the control domain may know, and only for a vCPU that stays where it is.
fn get_physid<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Errno> {
    let pinned = target.vcpu().sched.affinity().iter().count() == 1;
    if cx.domain.id != DomId(0) || !pinned {
        return Err(Errno::EINVAL);
    }
    let index = usize::try_from(target.id.0).map_err(|_| Errno::EINVAL)?;
    let number = |ids: &[u32]| ids.get(index).copied().ok_or(Errno::EINVAL).map(u64::from);
    let (apic, acpi) = (number(&cx.hv.machine.apic_ids)?, number(&cx.hv.machine.acpi_ids)?);
    GuestPtr::new(arg).write(cx.hv, &VcpuGetPhysid { phys_id: apic | acpi << 32 })?;
    Ok(0)
}

/// Moves a vCPU's `vcpu_info` to a page of the guest's, once.
fn register_info<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, arg: u64) -> Result<i64, Failure> {
    let request = GuestPtr::<VcpuRegisterVcpuInfo>::new(arg).read(cx.hv)?;
    let moved = move_info(cx, target, Mfn(request.mfn), request.offset);
    cx.hv.publish_time_anew(target);
    moved.map(|()| 0)
}

fn move_info<P: Platform>(cx: Cx<'_, P>, target: &VcpuRef<P>, mfn: Mfn, offset: u32) -> Result<(), Failure> {
    let offset = usize::try_from(offset).map_err(|_| Errno::ENXIO)?;
    if offset > PAGE_SIZE - size_of::<VcpuInfo>() || !offset.is_multiple_of(align_of::<VcpuInfo>()) {
        return Err(Errno::ENXIO.into());
    }
    let pv = &target.vcpu().pv;
    let registered = pv.has_flags(VcpuFlags::INFO_REGISTERED);
    let running_elsewhere = target.id != cx.vcpu.id && target.vcpu().sched.is_up();
    if registered || running_elsewhere {
        return Err(Errno::EINVAL.into());
    }
    cx.hv.get_page_and_type(cx.domain, mfn, PageType::Writable)?;
    if !pv.claim_flag(VcpuFlags::INFO_REGISTERED) {
        // Another vCPU did the same for it at this very moment.
        cx.hv.put_page_and_type(mfn);
        return Err(Errno::EINVAL.into());
    }
    copy_info(cx, MachineAddr(pv.vcpu_info.load(Ordering::Acquire)), mfn, offset);
    pv.vcpu_info.store(mfn.addr().0 + offset as u64, Ordering::Release);
    if mfn == cx.domain.shared_info {
        // The hypervisor holds this frame for as long as the domain has it: its teardown gives back nothing for a place in there.
        cx.hv.put_page_and_type(mfn);
    }
    cx.hv.platform.vcpu_info_moved(target.vcpu());
    // An event may have gone to the old place after it was copied: let the guest look at every port.
    let words = cx.hv.platform.frame_words(mfn);
    words[offset / 8 + SELECTOR_WORD].store(u64::MAX, Ordering::SeqCst);
    if words[offset / 8].fetch_or(PENDING, Ordering::SeqCst) & PENDING == 0 {
        cx.hv.kick(target);
    }
    Ok(())
}

/// Fills a new `vcpu_info` from the old one, or as one that masks upcalls if there is none.
fn copy_info<P: Platform>(cx: Cx<'_, P>, old: MachineAddr, mfn: Mfn, offset: usize) {
    let to = &cx.hv.platform.frame_words(mfn)[offset / 8..];
    let from = (old.0 != 0).then(|| &cx.hv.platform.frame_words(old.mfn())[old.page_offset() / 8..]);
    for index in 0..INFO_WORDS {
        let initial = if index == 0 { MASKED } else { 0 };
        let value = from.map_or(initial, |from| from[index].load(Ordering::Relaxed));
        to[index].store(value, Ordering::Relaxed);
    }
}
