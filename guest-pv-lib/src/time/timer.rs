//! The timers of a CPU. All of them fire [`Virq::TIMER`](crate::events::Virq::TIMER).

use xen_abi::hypercall::nr;
use xen_abi::vcpu::{
    VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER,
    VCPUOP_STOP_SINGLESHOT_TIMER, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};

use crate::hypercall::{Errno, check, raw};
use crate::smp::this_cpu;

/// One `vcpu_op` for this CPU. `arg` is null or the address of the command's structure.
fn op(command: u32, arg: u64) -> Result<(), Errno> {
    // SAFETY: the timer commands of this module read `arg` and change nothing of the kernel's.
    check(unsafe { raw::call3(nr::VCPU_OP, u64::from(command), this_cpu().number().into(), arg) }).map(drop)
}

/// Fires every `period` nanoseconds from now on, while this CPU has something to run: the timer rests while the CPU
/// is blocked and makes up for it by one event when it goes on. To be woken, use [`set_oneshot`].
///
/// # Errors
///
/// `EINVAL` for a period below one millisecond or beyond what the hypervisor's timers hold.
#[doc(alias = "VCPUOP_set_periodic_timer")]
pub fn set_periodic(period: u64) -> Result<(), Errno> {
    let arg = VcpuSetPeriodicTimer { period_ns: period };
    op(VCPUOP_SET_PERIODIC_TIMER, &raw const arg as u64)
}

/// Stops the periodic timer. A domain may start with one running.
///
/// # Errors
///
/// None on any known hypervisor.
#[doc(alias = "VCPUOP_stop_periodic_timer")]
pub fn stop_periodic() -> Result<(), Errno> {
    op(VCPUOP_STOP_PERIODIC_TIMER, 0)
}

/// Fires once at system time `at` (see [`now`](super::now)), at once where that has passed.
///
/// # Errors
///
/// None on any known hypervisor.
#[doc(alias = "VCPUOP_set_singleshot_timer")]
pub fn set_oneshot(at: u64) -> Result<(), Errno> {
    let arg = VcpuSetSingleshotTimer { timeout_abs_ns: at, ..VcpuSetSingleshotTimer::default() };
    op(VCPUOP_SET_SINGLESHOT_TIMER, &raw const arg as u64)
}

/// Takes back the one-shot timer.
///
/// # Errors
///
/// None on any known hypervisor.
#[doc(alias = "VCPUOP_stop_singleshot_timer")]
pub fn stop_oneshot() -> Result<(), Errno> {
    op(VCPUOP_STOP_SINGLESHOT_TIMER, 0)
}

/// As [`set_oneshot`], by the older and shorter hypercall; the two share one timer. Zero takes it back.
///
/// # Errors
///
/// None on any known hypervisor.
#[doc(alias = "HYPERVISOR_set_timer_op")]
pub fn set_timer(at: u64) -> Result<(), Errno> {
    // SAFETY: the argument is a number; nothing of the kernel's changes.
    check(unsafe { raw::call1(nr::SET_TIMER_OP, at) }).map(drop)
}
