//! Old forms of hypercalls (before interface version 3.2.2): served beside the new ones.

use guest_pv_lib::Errno;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::sched::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::event::{close, status};
use crate::call::{FAULTS, Ret, all_fault, hc1, hc2, hc3};
use crate::harness::{Outcome, check, need, same};

/// The event channel hypercall with the command inside its argument.
fn event<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &mut T) -> Ret {
    let mut whole = EvtchnOp { cmd, ..EvtchnOp::default() };
    let bytes = payload.as_mut_bytes();
    whole.u[..bytes.len()].copy_from_slice(bytes);
    let ret = hc1(nr::EVENT_CHANNEL_OP_COMPAT, &raw mut whole as u64);
    bytes.copy_from_slice(&whole.u[..bytes.len()]);
    ret
}

returns! {
    /// Scheduling: yielding.
    yields(env): hc2(nr::SCHED_OP_COMPAT, u64::from(SCHEDOP_YIELD), 0) => Ok(0);
    /// Scheduling: what the old form never had.
    sched_unknown(env): [SCHEDOP_POLL, SCHEDOP_WATCHDOG, 99].map(|command| hc2(nr::SCHED_OP_COMPAT, u64::from(command), 0))
        => [Err(Errno::ENOSYS); 3];
    /// Events: bad pointers.
    event_fault(env): all_fault(|at| hc1(nr::EVENT_CHANNEL_OP_COMPAT, at)) => FAULTS;
    /// Events: a command that does not exist.
    event_unknown(env): event(99, &mut 0u64) => Err(Errno::ENOSYS);
    /// Callbacks at addresses that do not exist are not taken, silently.
    callbacks_non_canonical(env): hc3(nr::SET_CALLBACKS, 1 << 47, 1 << 47, 1 << 47) => Ok(0);
}

case! {
    /// Events: a port is opened, told of and closed.
    #[covers(EVENT_CHANNEL_OP_COMPAT)]
    fn events(env) {
        let _ = env;
        let mut bind = EvtchnBindIpi { vcpu: 0, ..EvtchnBindIpi::default() };
        same("bind", event(EVTCHNOP_BIND_IPI, &mut bind), Ok(0))?;
        same("status", status(bind.port).map(|is| is.status), Ok(EVTCHNSTAT_IPI))?;
        same("close", event(EVTCHNOP_CLOSE, &mut EvtchnClose { port: bind.port }), Ok(0))?;
        same("again", close(bind.port), Err(Errno::EINVAL))
    }
}

case! {
    /// Blocking ends with an event that is pending already, and unmasks upcalls.
    #[covers(SCHED_OP_COMPAT, SCHEDOP_BLOCK)]
    fn blocks(env) {
        let _ = env;
        let block = |call: u32| -> Outcome {
            let was = guest_pv_lib::events::mask_upcalls();
            let port = need("bind", guest_pv_lib::events::bind_ipi(0))?;
            guest_pv_lib::events::unmask(port);
            need("send", guest_pv_lib::events::notify(port))?;
            let ret = hc2(call, u64::from(SCHEDOP_BLOCK), 0);
            let masked = guest_pv_lib::events::upcalls_masked();
            let closed = guest_pv_lib::events::close(port);
            if !was { guest_pv_lib::events::unmask_upcalls(); }
            same("block", ret, Ok(0))?;
            need("close", closed)?;
            check("unmasked", !masked)
        };
        block(nr::SCHED_OP_COMPAT)?;
        block(nr::SCHED_OP)
    }
}

case! {
    /// A first domain that asks to be switched off by the old form.
    #[ends(poweroff)]
    #[covers(SCHED_OP_COMPAT)]
    fn shutdown(env) {
        let _ = env;
        same("shutdown", hc2(nr::SCHED_OP_COMPAT, u64::from(SCHEDOP_SHUTDOWN), u64::from(SHUTDOWN_POWEROFF)), Ok(0))
    }
}
