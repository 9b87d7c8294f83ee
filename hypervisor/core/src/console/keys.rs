//! What the hypervisor does for whoever types at it.

use crate::Hypervisor;
use crate::domain::{Domain, Vcpu};
use crate::ids::DomId;
use crate::platform::{MachineEnd, Platform};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

/// Most lines about one domain that the answer to a key has: the CPU waits for the line meanwhile.
const MOST_LINES: usize = 64;

/// A key that wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// No key does.
    None,
    /// The number of the domain to end, as far as it was typed.
    Kill(Option<u16>),
}

/// A key, what it does, and the doing.
struct Key<P: Platform>(u8, &'static str, fn(&Hypervisor<P>));

impl<P: Platform> Hypervisor<P> {
    const KEYS: &'static [Key<P>] = &[
        Key(b'b', "barriers against side channels", Self::show_barriers),
        Key(b'd', "registers of all vCPUs that do not run", Self::show_registers),
        Key(b'e', "event channels", Self::show_events),
        Key(b'g', "grants", Self::show_grants),
        Key(b'h', "this list", Self::show_help),
        Key(b'K', "end a domain: K, its number, Enter", Self::ask_whom_to_kill),
        Key(b'm', "memory", Self::show_memory),
        Key(b'q', "domains and their vCPUs", Self::show_domains),
        Key(b'R', "reboot the machine", Self::reboot_machine),
    ];

    /// Does what a key stands for (also `XEN_SYSCTL_debug_keys`); what no key stands for is ignored.
    pub fn console_key(&self, key: u8) {
        self.console.patient.store(true, Ordering::Relaxed);
        self.do_key(key);
        self.console.patient.store(false, Ordering::Relaxed);
    }

    fn do_key(&self, key: u8) {
        let pending = core::mem::replace(&mut self.console.input.lock().key, Pending::None);
        match pending {
            Pending::Kill(number) => self.killing(number, key),
            Pending::None => {
                if let Some(Key(_, _, run)) = Self::KEYS.iter().find(|known| known.0 == key) {
                    run(self);
                }
            }
        }
    }

    fn show_help(&self) {
        for Key(key, what, _) in Self::KEYS {
            self.log(format_args!("{}: {what}\n", char::from(*key)));
        }
    }

    fn ask_whom_to_kill(&self) {
        self.console.input.lock().key = Pending::Kill(None);
    }

    fn killing(&self, number: Option<u16>, key: u8) {
        let next = match key {
            b'0'..=b'9' => {
                number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u16::from(key - b'0')))
            }
            b'\r' | b'\n' => return self.kill_by_key(number),
            _ => None,
        };
        match next {
            Some(number) => self.console.input.lock().key = Pending::Kill(Some(number)),
            None => self.log(format_args!("Not a domain's number: nothing is ended\n")),
        }
    }

    fn kill_by_key(&self, number: Option<u16>) {
        match number.map(|number| self.kill_domain(DomId(number))) {
            Some(Ok(())) => {}
            _ => self.log(format_args!("There is no such domain to end\n")),
        }
    }

    fn reboot_machine(&self) {
        self.log(format_args!("Rebooting by key\n"));
        self.platform.end_machine(MachineEnd::Reboot)
    }

    fn show_barriers(&self) {
        self.log(format_args!("Barriers: {}\n", self.platform.barriers()));
    }

    fn show_memory(&self) {
        let frames = self.platform.frame_table().len();
        self.log(format_args!("{} of {frames} frames are free\n", self.frames.free_count()));
        for domain in self.domains.all() {
            let pages = &domain.pages;
            self.log(format_args!(
                "Domain {}: {} pages, may have {}\n",
                domain.id.0,
                pages.current(),
                pages.max()
            ));
        }
    }

    fn show_events(&self) {
        for domain in self.domains.all() {
            self.log(format_args!(
                "Domain {}: {} ports are bound\n",
                domain.id.0,
                domain.events.active_ports()
            ));
            let mut bindings = domain.events.bindings();
            for (port, binding) in bindings.by_ref().take(MOST_LINES) {
                self.log(format_args!("  {:4} {binding:?}\n", port.0));
            }
            self.say_there_is_more(bindings.next().is_some());
        }
    }

    fn show_grants(&self) {
        for domain in self.domains.all() {
            self.log(format_args!("Domain {}: {} grants mapped\n", domain.id.0, domain.grants.mappings()));
        }
    }

    fn show_domains(&self) {
        for domain in self.domains.all() {
            let state = *domain.lifecycle.lock();
            let (weight, cap) = self.domain_sched(&domain);
            self.log(format_args!(
                "Domain {}: {state:?}, {} pages, weight {weight}, cap {cap}%\n",
                domain.id.0,
                domain.pages.current()
            ));
            let shown = domain.vcpus.iter().take(MOST_LINES);
            shown.for_each(|vcpu| self.log(format_args!("  {}\n", VcpuLine(vcpu))));
            self.say_there_is_more(domain.vcpus.len() > MOST_LINES);
        }
    }

    fn show_registers(&self) {
        for domain in self.domains.all() {
            self.show_domain_registers(&domain);
        }
    }

    fn show_domain_registers(&self, domain: &Arc<Domain<P>>) {
        self.log(format_args!("Domain {}: {} vCPUs\n", domain.id.0, domain.vcpus.len()));
        let mut off = domain.vcpus.iter().filter(|vcpu| vcpu.sched.is_up() && !self.sched.is_on_cpu(vcpu));
        for vcpu in off.by_ref().take(MOST_LINES / 2) {
            let regs = *vcpu.saved.lock();
            self.log(format_args!("{}{}: rip {:016x} rsp {:016x}\n", domain.id, vcpu.id, regs.rip, regs.rsp));
            self.log(format_args!("  rax {:016x} rdi {:016x} rsi {:016x}\n", regs.rax, regs.rdi, regs.rsi));
        }
        self.say_there_is_more(off.next().is_some());
    }

    fn say_there_is_more(&self, there_is: bool) {
        if there_is {
            self.log(format_args!("  ... and more\n"));
        }
    }
}

/// A vCPU in a line.
struct VcpuLine<'a, P: Platform>(&'a Vcpu<P>);

impl<P: Platform> fmt::Display for VcpuLine<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sched, cpu) = (&self.0.sched, self.0.cpu.load(core::sync::atomic::Ordering::Relaxed));
        write!(f, "{} on CPU {cpu}: ", self.0.id)?;
        if sched.runnable() { write!(f, "runnable") } else { write!(f, "{:?}", sched.reasons()) }
    }
}
