//! `sched_op(cmd, arg)` and its first form, `sched_op_compat`.

use super::{Cx, Outcome, low32};
use crate::guest_ptr::GuestPtr;
use crate::ids::{CpuId, DomId};
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::errno::Errno;
use xen_abi::sched::{
    SCHEDOP_BLOCK, SCHEDOP_PIN_OVERRIDE, SCHEDOP_POLL, SCHEDOP_REMOTE_SHUTDOWN, SCHEDOP_SHUTDOWN,
    SCHEDOP_SHUTDOWN_CODE, SCHEDOP_WATCHDOG, SCHEDOP_YIELD, SchedPinOverride, SchedPoll, SchedRemoteShutdown,
    SchedShutdown, SchedWatchdog,
};

/// A domain's reason to end is kept in eight bits.
const REASON_BITS: u32 = 0xff;

/// `sched_op(cmd, arg)`.
///
/// # Errors
/// `EFAULT`; `ENOSYS` for an unknown command; `EPERM`, `ESRCH`, `EINVAL`, `EBUSY`, `ENOSPC` as the command has it.
pub fn sched_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let arg = args[1];
    let result = match low32(args[0]) {
        SCHEDOP_YIELD => {
            cx.hv.yield_cpu(cx.vcpu);
            Ok(0)
        }
        SCHEDOP_BLOCK => {
            cx.hv.block(cx);
            Ok(0)
        }
        SCHEDOP_SHUTDOWN => shutdown(cx, arg),
        SCHEDOP_SHUTDOWN_CODE => announce(cx, arg),
        SCHEDOP_POLL => poll(cx, arg),
        SCHEDOP_REMOTE_SHUTDOWN => remote_shutdown(cx, arg),
        SCHEDOP_WATCHDOG => watchdog(cx, arg),
        SCHEDOP_PIN_OVERRIDE => pin_override(cx, arg),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
}

/// `sched_op_compat(cmd, arg)`: `arg` is the reason of a shutdown itself, not its address.
///
/// # Errors
/// `ENOSYS` for what is not yield, block or shutdown.
pub fn sched_op_compat<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    match low32(args[0]) {
        SCHEDOP_YIELD => cx.hv.yield_cpu(cx.vcpu),
        SCHEDOP_BLOCK => cx.hv.block(cx),
        SCHEDOP_SHUTDOWN => cx.hv.shutdown_domain(cx.domain, low32(args[1]) & REASON_BITS),
        _ => return Errno::ENOSYS.into(),
    }
    Outcome::Done(0)
}

fn shutdown<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let shutdown = GuestPtr::<SchedShutdown>::new(arg).read(cx.hv)?;
    cx.hv.shutdown_domain(cx.domain, shutdown.reason & REASON_BITS);
    Ok(0)
}

fn announce<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let shutdown = GuestPtr::<SchedShutdown>::new(arg).read(cx.hv)?;
    cx.hv.announce_shutdown(cx.domain, shutdown.reason & REASON_BITS);
    Ok(0)
}

fn poll<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let poll = GuestPtr::<SchedPoll>::new(arg).read(cx.hv)?;
    cx.hv.poll(cx, poll.ports, poll.nr_ports, poll.timeout).map(|()| 0)
}

fn remote_shutdown<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let request = GuestPtr::<SchedRemoteShutdown>::new(arg).read(cx.hv)?;
    let target = cx.hv.domains.get(DomId(request.domain_id)).ok_or(Errno::ESRCH)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    cx.hv.shutdown_domain(&target, request.reason & REASON_BITS);
    Ok(0)
}

fn watchdog<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let watchdog = GuestPtr::<SchedWatchdog>::new(arg).read(cx.hv)?;
    cx.hv.watchdog(cx.domain, watchdog.id, watchdog.timeout).map(i64::from)
}

fn pin_override<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    let request = GuestPtr::<SchedPinOverride>::new(arg).read(cx.hv)?;
    let cpu = u32::try_from(request.pcpu).ok().map(CpuId);
    cx.hv.pin_override(&cx.vcpu_ref(), cpu).map(|()| 0)
}
