//! `sched_op`: giving up the CPU, and the domain.

mod wait;

use xen_abi::GuestHandle;
use xen_abi::domctl::{
    XEN_DOMCTL_GETDOMAININFO, XEN_DOMCTL_INTERFACE_VERSION, XenDomctl, XenDomctlGetdomaininfo,
};
use xen_abi::hypercall::nr;
use xen_abi::sched::{self as abi, SchedPoll, SchedShutdown};
use zerocopy::FromBytes;

#[cfg_attr(not(feature = "alloc"), allow(unused_imports))]
pub(crate) use wait::note_event;
pub use wait::wait;

use crate::events::Port;
use crate::hypercall::{Errno, check, raw};

/// Why a domain ends; what the toolstack does next depends on it.
#[doc(alias = "enum sched_shutdown_reason")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// In good order: destroy the domain, or switch the machine off where it was the first one.
    #[doc(alias = "SHUTDOWN_poweroff")]
    PowerOff,
    /// In good order: start it again.
    #[doc(alias = "SHUTDOWN_reboot")]
    Reboot,
    /// The kernel could not go on.
    #[doc(alias = "SHUTDOWN_crash")]
    Crash,
}

/// One `sched_op`.
///
/// # Safety
///
/// `arg` must be null where the command takes nothing, or the address of its structure.
unsafe fn op(command: u32, arg: u64) -> i64 {
    // SAFETY: the caller's promise; none of the commands that this module gives changes memory of the kernel.
    unsafe { raw::call2(nr::SCHED_OP, u64::from(command), arg) }
}

/// Lets other CPUs' work run; returns when this one is chosen again.
#[doc(alias = "SCHEDOP_yield")]
pub fn yield_now() {
    // SAFETY: without an argument. So it cannot fail either.
    let _ = unsafe { op(abi::SCHEDOP_YIELD, 0) };
}

/// Unmasks upcalls and sleeps until an event is pending, in one step. The equivalent of `sti; hlt`.
///
/// To wait for a condition that an event handler makes true without missing it, mask upcalls, look, and block while
/// it is false:
///
/// ```no_run
/// # use guest_pv_lib::{events, sched};
/// # fn condition() -> bool { true }
/// events::mask_upcalls();
/// while !condition() {
///     sched::block();
///     events::mask_upcalls();
/// }
/// events::unmask_upcalls();
/// ```
#[doc(alias = "SCHEDOP_block")]
pub fn block() {
    // SAFETY: without an argument.
    let _ = unsafe { op(abi::SCHEDOP_BLOCK, 0) };
}

/// Sleeps until one of `ports` is pending or system time reaches `until` (none: no limit). Upcalls stay as they are, so
/// the ports may be masked: the caller looks at them itself ([`events::take`](crate::events::take)).
///
/// # Errors
///
/// `EINVAL` for more than 128 ports, or for one that does not exist.
#[doc(alias = "SCHEDOP_poll")]
pub fn poll(ports: &[Port], until: Option<u64>) -> Result<(), Errno> {
    let arg = SchedPoll {
        ports: GuestHandle::from(ports.as_ptr() as u64),
        nr_ports: u32::try_from(ports.len()).map_err(|_| Errno::EINVAL)?,
        timeout: until.unwrap_or(0),
        ..SchedPoll::default()
    };
    // SAFETY: the structure and the list that it names live across the call.
    check(unsafe { op(abi::SCHEDOP_POLL, &raw const arg as u64) }).map(drop)
}

/// Ends the domain.
#[doc(alias = "SCHEDOP_shutdown")]
pub fn shutdown(reason: Shutdown) -> ! {
    let reason = match reason {
        Shutdown::PowerOff => abi::SHUTDOWN_POWEROFF,
        Shutdown::Reboot => abi::SHUTDOWN_REBOOT,
        Shutdown::Crash => abi::SHUTDOWN_CRASH,
    };
    let arg = SchedShutdown { reason };
    loop {
        // Returns at most where the hypervisor is still stopping the domain's other CPUs: ask again.
        // SAFETY: the structure lives across the call.
        let _ = unsafe { op(abi::SCHEDOP_SHUTDOWN, &raw const arg as u64) };
        yield_now();
    }
}

/// How long the CPUs of a domain have run since it began, in nanoseconds. Only a privileged domain learns that, not even of
/// itself.
///
/// # Errors
///
/// `EPERM` without privilege, `ESRCH` where there is no such domain, `EACCES` from a hypervisor of another version: this hypercall
/// is not stable.
#[doc(alias = "XEN_DOMCTL_getdomaininfo")]
pub fn cpu_time(domain: u16) -> Result<u64, Errno> {
    let mut arg = XenDomctl {
        cmd: XEN_DOMCTL_GETDOMAININFO,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        ..XenDomctl::default()
    };
    // SAFETY: the command writes `arg` and no other memory.
    check(unsafe { raw::call1(nr::DOMCTL, &raw mut arg as u64) })?;
    // The hypercall answers for the next domain where there is none with this identifier.
    let (info, _) = XenDomctlGetdomaininfo::read_from_prefix(&arg.u).map_err(|_| Errno::EINVAL)?;
    if arg.domain == domain { Ok(info.cpu_time) } else { Err(Errno::ESRCH) }
}
