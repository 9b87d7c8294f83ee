//! `sched.h`: giving up the CPU, stopping domains, watchdogs ([`SCHEDOP_YIELD`] and its companions).
//!
//! All of them are commands of `__HYPERVISOR_sched_op(cmd, arg)`, where `arg` is the guest address of the
//! structure that the command names. A PV guest enters [`SCHEDOP_BLOCK`] with event delivery masked or not: the
//! hypervisor unmasks it and blocks in one step, so that no event is lost.

use crate::GuestHandle;

consts! {
    /// Gives up the rest of the time slice. No argument.
    SCHEDOP_YIELD("SCHEDOP_yield"): u32 = 0;
    /// Unmasks event delivery and sleeps until an event is pending. No argument.
    SCHEDOP_BLOCK("SCHEDOP_block"): u32 = 1;
    /// Ends this domain. Argument: [`SchedShutdown`].
    SCHEDOP_SHUTDOWN("SCHEDOP_shutdown"): u32 = 2;
    /// Sleeps until one of a set of ports is pending or a time has come. Argument: [`SchedPoll`].
    SCHEDOP_POLL("SCHEDOP_poll"): u32 = 3;
    /// Declares another domain dead (device model to hypervisor). Argument: [`SchedRemoteShutdown`].
    SCHEDOP_REMOTE_SHUTDOWN("SCHEDOP_remote_shutdown"): u32 = 4;
    /// Records why the domain is about to shut down without stopping it yet. Argument: [`SchedShutdown`].
    SCHEDOP_SHUTDOWN_CODE("SCHEDOP_shutdown_code"): u32 = 5;
    /// Sets, pokes or stops a watchdog. Argument: [`SchedWatchdog`].
    SCHEDOP_WATCHDOG("SCHEDOP_watchdog"): u32 = 6;
    /// Binds the calling vCPU to a physical CPU, or undoes it (dom0 only). Argument: [`SchedPinOverride`].
    SCHEDOP_PIN_OVERRIDE("SCHEDOP_pin_override"): u32 = 7;

    /// The domain ended in good order: destroy it.
    SHUTDOWN_POWEROFF("SHUTDOWN_poweroff"): u32 = 0;
    /// The domain ended in good order: start it again.
    SHUTDOWN_REBOOT("SHUTDOWN_reboot"): u32 = 1;
    /// The domain is ready to be saved; the hypercall returns 1 where the suspend was cancelled.
    SHUTDOWN_SUSPEND("SHUTDOWN_suspend"): u32 = 2;
    /// The domain died of its own fault.
    SHUTDOWN_CRASH("SHUTDOWN_crash"): u32 = 3;
    /// A watchdog expired.
    SHUTDOWN_WATCHDOG("SHUTDOWN_watchdog"): u32 = 4;
    /// Reset all of the domain's own Xen state and go on (`XENFEAT_*` permitting).
    SHUTDOWN_SOFT_RESET("SHUTDOWN_soft_reset"): u32 = 5;
    /// The highest reason of this version.
    SHUTDOWN_MAX: u32 = 5;
}

wire! {
    /// Argument of [`SCHEDOP_SHUTDOWN`] and [`SCHEDOP_SHUTDOWN_CODE`].
    pub struct SchedShutdown("struct sched_shutdown", 4) {
        /// One of `SHUTDOWN_*`; an unknown value is treated as a crash by a toolstack, not refused.
        @0 reason: u32,
    }

    /// Argument of [`SCHEDOP_POLL`].
    pub struct SchedPoll("struct sched_poll", 24) {
        /// The ports, `u32` each.
        @0 ports: GuestHandle<u32>,
        /// How many ports; at most 128.
        @8 nr_ports: u32,
        @12 _pad0(): u32,
        /// System time in ns at which to give up; 0 waits for ever.
        @16 timeout: u64,
    }

    /// Argument of [`SCHEDOP_REMOTE_SHUTDOWN`].
    pub struct SchedRemoteShutdown("struct sched_remote_shutdown", 8) {
        /// The domain that is to be stopped.
        @0 domain_id: u16,
        @2 _pad0(): u16,
        /// One of `SHUTDOWN_*`.
        @4 reason: u32,
    }

    /// Argument of [`SCHEDOP_WATCHDOG`].
    pub struct SchedWatchdog("struct sched_watchdog", 8) {
        /// 0 asks for a new watchdog, whose number is returned; otherwise the one to poke.
        @0 id: u32,
        /// Seconds until it fires; 0 stops it.
        @4 timeout: u32,
    }

    /// Argument of [`SCHEDOP_PIN_OVERRIDE`].
    pub struct SchedPinOverride("struct sched_pin_override", 4) {
        /// The physical CPU; negative undoes the binding.
        @0 pcpu: i32,
    }
}

abi_module! { "sched.h": consts, wire }
