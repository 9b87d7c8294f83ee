//! The end of a domain: by its own wish, by a crash, by a watchdog. The first domain's end is the machine's.

use crate::Hypervisor;
use crate::domain::{Domain, Lifecycle};
use crate::ids::DomId;
use crate::platform::{MachineEnd, Platform};
use alloc::sync::Arc;
use xen_abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SOFT_RESET, SHUTDOWN_WATCHDOG,
};
use xen_abi::xen::VIRQ_DOM_EXC;

/// The domain that controls the machine.
const CONTROL_DOMAIN: DomId = DomId(0);

impl<P: Platform> Hypervisor<P> {
    /// Stops all vCPUs of a domain for good and tells the control domain why (`SHUTDOWN_*` of sched.h). When the control
    /// domain itself ends, so does the machine.
    pub fn shutdown_domain(&self, domain: &Arc<Domain<P>>, reason: u32) {
        if reason == SHUTDOWN_CRASH {
            self.log(format_args!("Domain {} ({}) says that it crashed\n", domain.id.0, domain.name));
            self.platform.show_guest(domain);
        }
        self.end_domain(domain, reason);
    }

    fn end_domain(&self, domain: &Arc<Domain<P>>, reason: u32) {
        let reason = self.settle_shutdown_reason(domain, reason);
        if domain.id == CONTROL_DOMAIN {
            self.end_machine(reason);
        }
        self.stop_domain(domain, reason);
    }

    /// All vCPUs of a domain that ended have stopped: its controller hears of it, and the keeper.
    pub(super) fn tell_of_end(&self, domain: &Arc<Domain<P>>) {
        // A toolstack may have it resumed by now, or taken apart.
        let Lifecycle::Shutdown(reason) = *domain.lifecycle.lock() else { return };
        self.send_global_virq(VIRQ_DOM_EXC);
        self.domain_was_shut_down(domain, reason);
    }

    /// Ends a domain that cannot go on, saying why on the console. What its registers are the caller has said.
    pub fn crash_domain(&self, domain: &Arc<Domain<P>>, reason: &str) {
        self.log(format_args!("Domain {} crashed: {reason}\n", domain.id.0));
        // What it announced before was not this.
        self.forget_watchdogs(domain.id);
        self.end_domain(domain, SHUTDOWN_CRASH);
    }

    fn end_machine(&self, reason: u32) -> ! {
        let end = match reason {
            SHUTDOWN_POWEROFF => {
                self.log(format_args!("Hardware Dom0 halted: halting machine\n"));
                MachineEnd::PowerOff
            }
            SHUTDOWN_REBOOT => {
                self.log(format_args!("Hardware Dom0 shutdown: rebooting machine\n"));
                MachineEnd::Reboot
            }
            SHUTDOWN_WATCHDOG => {
                self.log(format_args!("Hardware Dom0 shutdown: watchdog rebooting machine\n"));
                MachineEnd::Reboot
            }
            SHUTDOWN_SOFT_RESET => {
                self.log(format_args!("Hardware domain 0 did unsupported soft reset, rebooting.\n"));
                MachineEnd::Reboot
            }
            SHUTDOWN_CRASH => self.end_after_failure(format_args!("Hardware Dom0 crashed")),
            other => self.end_after_failure(format_args!("Hardware Dom0 shutdown (unknown reason {other})")),
        };
        self.platform.end_machine(end)
    }

    /// A failure is to be read before the machine starts anew: `noreboot` keeps it from doing so.
    fn end_after_failure(&self, what: core::fmt::Arguments<'_>) -> MachineEnd {
        if self.options.noreboot {
            self.log(format_args!("{what}: 'noreboot' set - not rebooting.\n"));
            MachineEnd::Halt
        } else {
            self.log(format_args!("{what}: rebooting machine.\n"));
            MachineEnd::Reboot
        }
    }
}
