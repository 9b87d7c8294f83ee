//! `sched_op` (sched.h).

use guest_pv_lib::events::{self, Port};
use guest_pv_lib::{Errno, time};
use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::sched::*;

use crate::call::{FAULTS, Ret, all_fault, hc2, op};
use crate::harness::{Outcome, check, need, same};

fn sched(command: u32, at: u64) -> Ret {
    hc2(nr::SCHED_OP, u64::from(command), at)
}

fn watchdog(id: u32, timeout: u32) -> Ret {
    op(nr::SCHED_OP, SCHEDOP_WATCHDOG, &mut SchedWatchdog { id, timeout })
}

returns! {
    /// Yielding succeeds.
    yields(env): sched(SCHEDOP_YIELD, 0) => Ok(0);
    /// A command that does not exist.
    unknown_command(env): sched(99, 0) => Err(Errno::ENOSYS);
    /// Bad pointers, poll.
    poll_fault(env): all_fault(|at| sched(SCHEDOP_POLL, at)) => FAULTS;
    /// Bad pointers, shutdown: the domain goes on.
    shutdown_fault(env): all_fault(|at| sched(SCHEDOP_SHUTDOWN, at)) => FAULTS;
    /// Bad pointers, watchdog.
    watchdog_fault(env): all_fault(|at| sched(SCHEDOP_WATCHDOG, at)) => FAULTS;
    /// Bad pointers, announcing why the domain will end.
    announce_fault(env): all_fault(|at| sched(SCHEDOP_SHUTDOWN_CODE, at)) => FAULTS;
    /// Why the domain will end can be announced, and be announced otherwise; it goes on.
    #[alone]
    announce(env): [SHUTDOWN_CRASH, SHUTDOWN_POWEROFF].map(|reason| {
        op(nr::SCHED_OP, SCHEDOP_SHUTDOWN_CODE, &mut SchedShutdown { reason })
    }) => [Ok(0); 2];
    /// More ports than the limit of 128.
    poll_too_many(env): op(nr::SCHED_OP, SCHEDOP_POLL, &mut SchedPoll {
        ports: GuestHandle::from(env.page(0).virt()), nr_ports: 129, ..SchedPoll::default()
    }) => Err(Errno::EINVAL);
    /// A port beyond what the layout has.
    poll_bad_port(env): {
        let mut port = 1u32 << 30;
        op(nr::SCHED_OP, SCHEDOP_POLL, &mut SchedPoll {
            ports: GuestHandle::from(&raw mut port as u64), nr_ports: 1, ..SchedPoll::default()
        })
    } => Err(Errno::EINVAL);
    /// Stopping a watchdog that does not exist.
    watchdog_bad_id(env): watchdog(77, 0) => Err(Errno::EINVAL);
    /// Poking a watchdog that was never set.
    watchdog_not_set(env): watchdog(2, 1) => Err(Errno::EINVAL);
}

case! {
    /// A poll ends at once where a port is pending, masked or not, and leaves it so.
    fn poll_of_masked_port(env) {
        let _ = env;
        let mut port = need("bind", events::bind_ipi(0))?.0;
        need("send", events::notify(Port(port)))?;
        let before = time::now();
        let mut arg = SchedPoll {
            ports: GuestHandle::from(&raw mut port as u64), nr_ports: 1, timeout: before + 2_000_000_000, ..SchedPoll::default()
        };
        let ret = op(nr::SCHED_OP, SCHEDOP_POLL, &mut arg);
        let took = time::now() - before;
        let pending = events::take(Port(port));
        need("close", events::close(Port(port)))?;
        same("poll", ret, Ok(0))?;
        check("at once", took < 1_000_000_000)?;
        check("still pending", pending)
    }
}

case! {
    /// The calling vCPU can be bound to its CPU and be freed again; a CPU that does not exist, and one that is not the domain's to
    /// run on.
    fn pin_override(env) {
        let _ = env;
        let pin = |pcpu| op(nr::SCHED_OP, SCHEDOP_PIN_OVERRIDE, &mut SchedPinOverride { pcpu });
        same("no such CPU", pin(5000), Err(Errno::EINVAL))?;
        same("pin", pin(0), Ok(0))?;
        same("pin again", pin(0), Err(Errno::EBUSY))?;
        same("free", pin(-1), Ok(0))?;
        same("free again", pin(-1), Err(Errno::EINVAL))
    }
}

case! {
    /// A poll with a timeout ends not before it, and soon after.
    fn poll_times_out(env) {
        let _ = env;
        let due = time::now() + 2_000_000;
        let mut arg = SchedPoll { timeout: due, ..SchedPoll::default() };
        same("poll", op(nr::SCHED_OP, SCHEDOP_POLL, &mut arg), Ok(0))?;
        check("not early", time::now() >= due)
    }
}

case! {
    /// Setting returns a number by which the watchdog is poked and stopped.
    fn watchdog_set_and_stop(env) {
        let _ = env;
        let id = need("set", watchdog(0, 100))?;
        check("numbers start at one", (1..=2).contains(&id))?;
        same("poke", watchdog(id as u32, 100), Ok(0))?;
        same("stop", watchdog(id as u32, 0), Ok(0))?;
        same("stop again", watchdog(id as u32, 0), Err(Errno::EINVAL))
    }
}

case! {
    /// A first domain that says it crashed ends, and the machine says so.
    #[ends(crash)]
    fn shutdown_crash(env) {
        let _ = env;
        end(SHUTDOWN_CRASH)
    }
}

case! {
    /// A first domain that asks to be switched off ends in good order.
    #[ends(poweroff)]
    fn shutdown_poweroff(env) {
        let _ = env;
        end(SHUTDOWN_POWEROFF)
    }
}

case! {
    /// A first domain that asks to be started anew resets the machine.
    #[ends(reboot)]
    fn shutdown_reboot(env) {
        let _ = env;
        end(SHUTDOWN_REBOOT)
    }
}

fn end(reason: u32) -> Outcome {
    same("shutdown", op(nr::SCHED_OP, SCHEDOP_SHUTDOWN, &mut SchedShutdown { reason }), Ok(0))
}
