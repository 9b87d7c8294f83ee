//! `vcpu_op` and `set_timer_op` (vcpu.h, xen.h).

use guest_pv_lib::{Errno, time};
use xen_abi::hypercall::nr;
use xen_abi::vcpu::*;
use xen_abi::xen::VcpuTimeInfo;

use crate::call::{FAULTS, Ret, all_fault, hc1, hc3, vcpu};
use crate::harness::{check, need, same};

fn vcpu_at(command: u32, id: u32, at: u64) -> Ret {
    hc3(nr::VCPU_OP, u64::from(command), u64::from(id), at)
}

fn periodic(period_ns: u64) -> Ret {
    vcpu(VCPUOP_SET_PERIODIC_TIMER, 0, &mut VcpuSetPeriodicTimer { period_ns })
}

returns! {
    /// The boot CPU is up.
    boot_cpu_is_up(env): vcpu_at(VCPUOP_IS_UP, 0, 0) => Ok(1);
    /// A CPU that does not exist.
    unknown_cpu(env): vcpu_at(VCPUOP_IS_UP, 4000, 0) => Err(Errno::ENOENT);
    /// The number is checked before it is used as an index.
    huge_cpu(env): vcpu_at(VCPUOP_IS_UP, u32::MAX, 0) => Err(Errno::ENOENT);
    /// A command that does not exist.
    unknown_command(env): vcpu_at(99, 0, 0) => Err(Errno::ENOSYS);
    /// A CPU that is up cannot be initialised again; the context is read first.
    initialise_fault(env): all_fault(|at| vcpu_at(VCPUOP_INITIALISE, 0, at)) => FAULTS;
    /// Periods below one millisecond are refused.
    period_too_short(env): periodic(999_999) => Err(Errno::EINVAL);
    /// A period of no time is not a way to stop the timer.
    period_zero(env): periodic(0) => Err(Errno::EINVAL);
    /// A period beyond what a timer holds.
    period_too_long(env): periodic(u64::MAX) => Err(Errno::EINVAL);
    /// Bad pointers, periodic timer.
    periodic_fault(env): all_fault(|at| vcpu_at(VCPUOP_SET_PERIODIC_TIMER, 0, at)) => FAULTS;
    /// Bad pointers, one-shot timer.
    oneshot_fault(env): all_fault(|at| vcpu_at(VCPUOP_SET_SINGLESHOT_TIMER, 0, at)) => FAULTS;
    /// Bad pointers, run state.
    runstate_fault(env): all_fault(|at| vcpu_at(VCPUOP_GET_RUNSTATE_INFO, 0, at)) => FAULTS;
    /// Bad pointers, time record.
    time_area_fault(env): all_fault(|at| vcpu_at(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, at)) => FAULTS;
    /// A one-shot timer in the past fires at once, also where the caller asked for the future (vcpu.h: the flag
    /// may be ignored).
    oneshot_in_the_past(env): vcpu(VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut VcpuSetSingleshotTimer {
        timeout_abs_ns: 1, flags: VCPU_SSHOTTMR_FUTURE, ..VcpuSetSingleshotTimer::default()
    }) => Ok(0);
    /// Stopping what does not run succeeds.
    stop_timers(env): [vcpu_at(VCPUOP_STOP_PERIODIC_TIMER, 0, 0), vcpu_at(VCPUOP_STOP_SINGLESHOT_TIMER, 0, 0)]
        => [Ok(0), Ok(0)];
    /// Zero stops the one-shot timer.
    set_timer_zero(env): hc1(nr::SET_TIMER_OP, 0) => Ok(0);
    /// The vcpu_info must lie inside a page.
    vcpu_info_across_pages(env): vcpu(VCPUOP_REGISTER_VCPU_INFO, 0, &mut VcpuRegisterVcpuInfo {
        mfn: env.page(0).mfn().0, offset: 4096 - 32, ..VcpuRegisterVcpuInfo::default()
    }) => Err(Errno::ENXIO);
    /// The vcpu_info must be aligned to its size.
    vcpu_info_misaligned(env): vcpu(VCPUOP_REGISTER_VCPU_INFO, 0, &mut VcpuRegisterVcpuInfo {
        mfn: env.page(0).mfn().0, offset: 4, ..VcpuRegisterVcpuInfo::default()
    }) => Err(Errno::ENXIO);
    /// The vcpu_info must lie in the domain's memory.
    vcpu_info_without_frame(env): vcpu(VCPUOP_REGISTER_VCPU_INFO, 0, &mut VcpuRegisterVcpuInfo {
        mfn: crate::call::NO_FRAME, ..VcpuRegisterVcpuInfo::default()
    }) => Err(Errno::EINVAL);
}

case! {
    /// A running CPU says so, and the times of the four states add up to the time of its life.
    fn runstate(env) {
        let _ = env;
        let mut info = VcpuRunstateInfo::default();
        need("get_runstate_info", vcpu(VCPUOP_GET_RUNSTATE_INFO, 0, &mut info))?;
        same("state", info.state, RUNSTATE_RUNNING)?;
        check("entered in the past", info.state_entry_time <= time::now())?;
        check("has run", info.time[RUNSTATE_RUNNING as usize] > 0)?;
        check("no longer than the machine", info.time.iter().sum::<u64>() <= time::now())
    }
}

case! {
    /// A registered run-state area is filled in at once.
    fn runstate_area(env) {
        let page = env.page(0);
        let mut arg = VcpuRegisterRunstateMemoryArea { addr: page.virt().into() };
        need("register", vcpu(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut arg))?;
        let state = page.get(0);
        let entered = page.get(1);
        let mut none = VcpuRegisterRunstateMemoryArea::default();
        need("unregister", vcpu(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut none))?;
        same("state", state as u32, RUNSTATE_RUNNING as u32)?;
        check("entry time", entered != 0)
    }
}

case! {
    /// A registered time record is filled in at once, with the factors of the shared page.
    fn time_area(env) {
        let page = env.page(0);
        let mut arg = VcpuRegisterTimeMemoryArea { addr: page.virt().into() };
        need("register", vcpu(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut arg))?;
        let version = page.get(0) as u32;
        let multiplier = page.get(core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul) / 8) as u32;
        let mut none = VcpuRegisterTimeMemoryArea::default();
        need("unregister", vcpu(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut none))?;
        check("even version", version & 1 == 0)?;
        check("a factor", multiplier != 0)
    }
}
