//! The domains that the hypervisor itself starts, by their descriptions, and what becomes of them when they end.
//!
//! All of it happens on one CPU, in [`Hypervisor::run_timers`]: whoever ends a domain only leaves a report and has that CPU look.
//! It then takes the domain apart, piece by piece between its other work, prints what was given out before and after, and starts
//! it again if its description says so. Without a control domain the machine ends with the last domain.
//!
//! A domain is restarted with its old identifier, so that its peers know it; while somebody still maps frames of the old one
//! it waits. Its ends of event channels are bound to its peers' old ends where those still wait for it.
//!
//! Locks: the keeper's state is taken before every other lock, by one CPU at a time, and reports are a leaf.

use super::{Accounts, Domain, DomainConfig};
use crate::Hypervisor;
use crate::builder::{BuildError, DomainSource, unpack_kernel};
use crate::description::{Channel, Description, When};
use crate::event::slot::Binding;
use crate::ids::{CpuId, DomId, Mfn, Nanos, PAGE_SIZE, Port};
use crate::permissions::Permissions;
use crate::platform::{MachineEnd, Platform, Work};
use crate::sched::Reasons;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::errno::Errno;
use xen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use xen_abi::xen::DOMID_SELF;

/// The CPU that keeps the domains.
const KEEPING_CPU: CpuId = CpuId(0);
/// There is nothing to do.
const NEVER: u64 = u64::MAX;
/// How long a teardown lets the CPU do other work, in nanoseconds.
const BREATH: u64 = 200_000;
/// How often a restart looks whether the old identifier is free, in nanoseconds.
const RETRY: u64 = 1_000_000_000;
/// A domain that lived that long starts its count of restarts anew, in nanoseconds.
const LONG_LIFE: u64 = 60_000_000_000;

/// A domain to be started, with the boot modules that its description names.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is to be.
    pub description: Description,
    /// Its kernel: an ELF file or a bzImage.
    pub image: &'static [u8],
    /// Its initial RAM disk.
    pub initrd: Option<&'static [u8]>,
}

/// Why a domain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By its own doing, with the reason of `SHUTDOWN_*` (sched.h).
    Shutdown(u32),
    /// By somebody else's.
    Killed,
    /// By a toolstack that takes it apart.
    Destroyed,
}

/// Where a kept domain is.
enum State<P: Platform> {
    /// It runs.
    Runs(Arc<Domain<P>>),
    /// It is being taken apart; the accounts are those from before.
    Ends(Arc<Domain<P>>, End, Accounts),
    /// It will be started again.
    Waits(Nanos),
    /// It is over.
    Over,
}

struct Kept<P: Platform> {
    plan: Plan,
    id: DomId,
    state: State<P>,
    /// When it was started.
    since: Nanos,
    /// Restarts in a row.
    restarts: u32,
    /// Its end is final, and with it this record of it.
    last: bool,
}

impl<P: Platform> Kept<P> {
    fn running(&self) -> Option<Arc<Domain<P>>> {
        match &self.state {
            State::Runs(domain) => Some(domain.clone()),
            _ => None,
        }
    }
}

/// A channel and the ports of its ends, as far as they were made.
struct Link {
    domains: [usize; 2],
    ports: [Option<Port>; 2],
}

struct Keeping<P: Platform> {
    kept: Vec<Kept<P>>,
    links: Vec<Link>,
    /// What no kept domain may use, whatever its description says.
    denied: Permissions,
}

/// See the head of the module.
pub struct Keeper<P: Platform> {
    keeping: Mutex<Keeping<P>>,
    reports: Mutex<Vec<(Arc<Domain<P>>, End)>>,
    /// When there is something to do next.
    next: AtomicU64,
}

impl<P: Platform> Keeper<P> {
    /// Nobody to keep.
    pub const fn new() -> Self {
        let keeping = Keeping { kept: Vec::new(), links: Vec::new(), denied: Permissions::none() };
        Self { keeping: Mutex::new(keeping), reports: Mutex::new(Vec::new()), next: AtomicU64::new(NEVER) }
    }

    /// When there is something to do next, as far as `cpu` has to see to it.
    pub(crate) fn next_deadline(&self, cpu: CpuId) -> Option<Nanos> {
        match self.next.load(Ordering::SeqCst) {
            next if next != NEVER && cpu == KEEPING_CPU => Some(Nanos(next)),
            _ => None,
        }
    }
}

impl<P: Platform> Default for Keeper<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Builds all described domains, and the first one, and starts them. `dom0` is a first domain without a description;
    /// `denied` is what the hypervisor needs for itself. A domain that cannot be built is named in the log and left out.
    ///
    /// # Errors
    /// Why the first domain cannot be built.
    pub fn start_domains(
        &self,
        plans: Vec<Plan>,
        channels: &[Channel],
        dom0: Option<DomainSource<'_>>,
        denied: Permissions,
    ) -> Result<(), BuildError> {
        let keeping = &mut *self.keeper.keeping.lock();
        keeping.denied = denied;
        keeping.links = channels.iter().map(|c| Link { domains: c.domains, ports: [None; 2] }).collect();
        let ids = identifiers(&plans);
        keeping.kept = plans
            .into_iter()
            .zip(ids)
            .map(|(plan, id)| Kept {
                plan,
                id,
                state: State::Over,
                since: Nanos(0),
                restarts: 0,
                last: false,
            })
            .collect();
        for index in 0..keeping.kept.len() {
            match self.make_kept(&keeping.kept[index], &keeping.denied) {
                Ok(domain) => keeping.kept[index].state = State::Runs(domain),
                Err(error) if keeping.kept[index].id == DomId(0) => return Err(error),
                Err(error) => self.left_out(&keeping.kept[index], &error),
            }
        }
        let described = keeping.kept.iter().find(|kept| kept.id == DomId(0)).map(Kept::running);
        let first = match described {
            Some(domain) => domain,
            None => dom0.as_ref().map(|_| self.empty_dom0()).transpose()?,
        };
        // It is not complete, but what is typed is for it.
        first.iter().for_each(|domain| self.console_appeared(domain));
        (0..keeping.kept.len()).for_each(|index| self.link(keeping, index));
        let room = self.hold_back(self.fill_all(keeping));
        if let Some(domain) = first {
            self.start_dom0(keeping, &domain, dom0)?;
        }
        room.into_iter().for_each(|(first, order)| self.frames.free(first, order));
        let now = self.platform.now();
        for kept in keeping.kept.iter_mut().filter(|kept| kept.id != DomId(0)) {
            if let State::Runs(domain) = &kept.state {
                kept.since = now;
                self.start(domain);
            }
        }
        // The modules of those that are never built again may go.
        for kept in keeping.kept.iter_mut().filter(|kept| kept.plan.description.restart.when == When::Never) {
            (kept.plan.image, kept.plan.initrd) = (&[], None);
        }
        self.platform.raise_work(KEEPING_CPU, Work::TIMER);
        Ok(())
    }

    /// Fills all domains but the first. Those with the same kernel are filled one after the other, so that it is unpacked once.
    /// Answers how large the largest kernel is that may have to be unpacked again.
    fn fill_all(&self, keeping: &mut Keeping<P>) -> usize {
        let mut largest = 0;
        let mut order: Vec<usize> =
            (0..keeping.kept.len()).filter(|n| keeping.kept[*n].id != DomId(0)).collect();
        order.sort_by_key(|n| keeping.kept[*n].plan.image.as_ptr() as usize);
        let mut unpacked: Option<(&'static [u8], alloc::borrow::Cow<'static, [u8]>)> = None;
        for index in order {
            let State::Runs(domain) = &keeping.kept[index].state else { continue };
            let domain = domain.clone();
            let image = keeping.kept[index].plan.image;
            if unpacked.as_ref().is_none_or(|(packed, _)| !core::ptr::eq(*packed, image)) {
                // Two unpacked kernels at a time may be too many.
                drop(unpacked.take());
                unpacked = unpack_kernel(image).ok().map(|kernel| (image, kernel));
            }
            let kernel = unpacked.as_ref().map_or(image, |(_, kernel)| kernel);
            let filled = self.fill_kept(keeping, index, &domain, kernel);
            self.filled(&mut keeping.kept[index], filled);
            let again = keeping.kept[index].plan.description.restart.when != When::Never;
            if again && !core::ptr::eq(kernel, image) {
                largest = largest.max(kernel.len());
            }
        }
        largest
    }

    /// Keeps memory from the first domain that unpacking a kernel takes when its domain is started again.
    fn hold_back(&self, bytes: usize) -> Option<(Mfn, u32)> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let order = pages.next_power_of_two().ilog2();
        (pages != 0).then(|| self.frames.alloc(order).map(|first| (first, order))).flatten()
    }

    /// Builds and starts the first domain, from `source` or from its description. It gets the memory that is left.
    fn start_dom0(
        &self,
        keeping: &Keeping<P>,
        domain: &Arc<Domain<P>>,
        source: Option<DomainSource<'_>>,
    ) -> Result<(), BuildError> {
        match (keeping.kept.iter().position(|kept| kept.id == DomId(0)), source) {
            (Some(index), _) => {
                let Plan { image, initrd, .. } = keeping.kept[index].plan;
                let cmdline = command_line(keeping, index);
                self.fill_dom0(domain, &DomainSource { image, initrd, cmdline: &cmdline, video: None })?;
            }
            (None, Some(source)) => self.fill_dom0(domain, &source)?,
            (None, None) => {}
        }
        domain.permissions.write().take_away(&keeping.denied);
        self.start(domain);
        Ok(())
    }

    /// Says how the building of a domain went, and has what there is of it taken apart if it failed.
    fn filled(&self, kept: &mut Kept<P>, result: Result<(), BuildError>) -> bool {
        let Err(error) = result else { return true };
        self.left_out(kept, &error);
        if let State::Runs(domain) = &kept.state {
            // Whatever its description says: it would go the same way again.
            kept.plan.description.restart.when = When::Never;
            kept.state = State::Ends(domain.clone(), End::Killed, self.accounts());
            self.keep_from(self.platform.now());
        }
        false
    }

    fn left_out(&self, kept: &Kept<P>, error: &BuildError) {
        let name = &kept.plan.description.name;
        self.log(format_args!("Domain {} ({name}) cannot be built and is left out: {error}\n", kept.id.0));
    }

    /// The domain itself, still without memory.
    fn make_kept(&self, kept: &Kept<P>, denied: &Permissions) -> Result<Arc<Domain<P>>, BuildError> {
        let about = &kept.plan.description;
        let domain =
            if kept.id == DomId(0) { self.empty_dom0()? } else { self.make_described(kept.id, about)? };
        if kept.id != DomId(0) {
            let mut permissions = domain.permissions.write();
            about.iomem.iter().for_each(|(first, last)| permissions.iomem.insert(*first, *last));
            about.ioports.iter().for_each(|(first, last)| permissions.ioports.insert(*first, *last));
            about.irqs.iter().for_each(|irq| permissions.irqs.insert(*irq, *irq));
            permissions.take_away(denied);
        }
        for vcpu in domain.vcpu_refs() {
            about.weight.into_iter().for_each(|weight| vcpu.vcpu().sched.set_weight(weight));
            if let Some(cpus) = &about.cpus {
                self.set_affinity(&vcpu, cpus)?;
            }
        }
        Ok(domain)
    }

    fn make_described(&self, id: DomId, about: &Description) -> Result<Arc<Domain<P>>, Errno> {
        self.create_domain(&DomainConfig {
            privileged: about.privileged,
            max_vcpus: about.vcpus,
            max_pages: about.pages,
            name: about.name.clone(),
            console_io: about.console_io,
            ..DomainConfig::new(id)
        })
    }

    fn fill_kept(
        &self,
        keeping: &Keeping<P>,
        index: usize,
        domain: &Arc<Domain<P>>,
        kernel: &[u8],
    ) -> Result<(), BuildError> {
        let plan = &keeping.kept[index].plan;
        let cmdline = command_line(keeping, index);
        let source = DomainSource { image: kernel, initrd: plan.initrd, cmdline: &cmdline, video: None };
        self.fill_domain(domain, &source, plan.description.pages)
    }

    /// Lets a domain that is complete run.
    fn start(&self, domain: &Arc<Domain<P>>) {
        domain.vcpu_refs().take(1).for_each(|vcpu| {
            self.bring_up(&vcpu);
        });
        // The first domain is not paused any more.
        let _ = self.unpause_domain(domain);
        let (pages, vcpus) = (domain.pages.current() >> 8, domain.vcpus.len());
        self.log(format_args!("Domain {} ({}): {pages} MiB, {vcpus} vCPUs\n", domain.id.0, domain.name));
    }

    /// Makes a domain's ends of its channels, bound where the other end waits for it.
    fn link(&self, keeping: &mut Keeping<P>, index: usize) {
        let Keeping { kept, links, .. } = keeping;
        let State::Runs(domain) = &kept[index].state else { return };
        for link in links {
            let Some(end) = link.domains.iter().position(|n| *n == index) else { continue };
            let peer = &kept[link.domains[1 - end]];
            let far = link.ports[1 - end].filter(|port| match &peer.state {
                State::Runs(peer) => peer.events.binding(*port) == Some(Binding::Unbound(domain.id)),
                _ => false,
            });
            let bound = far.and_then(|far| self.bind_interdomain(domain, peer.id, far).ok());
            let port = bound.or_else(|| self.alloc_unbound(domain, DomId(DOMID_SELF), peer.id).ok());
            link.ports[end] = port;
        }
    }

    /// Ends a domain for good, whatever it does, and takes it apart; a kept one is started again if its description says
    /// `restart = "always"`. It stops now; the rest happens later.
    ///
    /// # Errors
    /// `ESRCH`; `EINVAL` for the control domain, whose end is the machine's.
    pub fn kill_domain(&self, id: DomId) -> Result<(), Errno> {
        if id == DomId(0) {
            return Err(Errno::EINVAL);
        }
        let domain = self.domains.get(id).ok_or(Errno::ESRCH)?;
        domain.stopped.store(true, Ordering::SeqCst);
        domain.vcpus.iter().for_each(|vcpu| self.suspend(vcpu, Reasons::STOPPED));
        self.report(&domain, End::Killed);
        Ok(())
    }

    /// A domain was shut down, and has the keeper look if it is the keeper's.
    pub(crate) fn domain_was_shut_down(&self, domain: &Arc<Domain<P>>, reason: u32) {
        self.report(domain, End::Shutdown(reason));
    }

    /// A domain is being taken apart by somebody who need not be the keeper.
    pub(super) fn domain_is_destroyed(&self, domain: &Arc<Domain<P>>) {
        self.report(domain, End::Destroyed);
    }

    fn report(&self, domain: &Arc<Domain<P>>, end: End) {
        self.keeper.reports.lock().push((domain.clone(), end));
        self.keep_from(self.platform.now());
    }

    fn keep_from(&self, time: Nanos) {
        self.keeper.next.fetch_min(time.0, Ordering::SeqCst);
        self.platform.raise_work(KEEPING_CPU, Work::TIMER);
    }

    /// Does what is due. Called by [`Hypervisor::run_timers`] on the keeping CPU.
    pub(crate) fn keep_domains(&self) {
        let Some(mut keeping) = self.keeper.keeping.try_lock() else { return };
        self.keeper.next.store(NEVER, Ordering::SeqCst);
        for (domain, end) in core::mem::take(&mut *self.keeper.reports.lock()) {
            self.take_report(&mut keeping, domain, end);
        }
        for index in 0..keeping.kept.len() {
            if let Some(next) = self.keep(&mut keeping, index) {
                self.keeper.next.fetch_min(next.0, Ordering::SeqCst);
            }
        }
        let over = |kept: &Kept<P>| matches!(kept.state, State::Over);
        keeping.kept.retain(|kept| !kept.last || !over(kept));
        if !keeping.kept.is_empty() && keeping.kept.iter().all(over) && self.domains.all().is_empty() {
            drop(keeping);
            self.log(format_args!("All domains have ended: halting machine\n"));
            self.platform.end_machine(MachineEnd::PowerOff);
        }
    }

    fn take_report(&self, keeping: &mut Keeping<P>, domain: Arc<Domain<P>>, end: End) {
        let same = |kept: &&mut Kept<P>| match &kept.state {
            State::Runs(other) | State::Ends(other, ..) => Arc::ptr_eq(other, &domain),
            _ => false,
        };
        match keeping.kept.iter_mut().find(same) {
            Some(kept) => {
                if matches!(kept.state, State::Runs(_)) {
                    let accounts = self.accounts();
                    self.log(format_args!(
                        "Domain {} ({}) {}: {accounts}\n",
                        kept.id.0,
                        domain.name,
                        verb(end)
                    ));
                    kept.state = State::Ends(domain, end, accounts);
                }
            }
            // A toolstack's domain waits for its toolstack, unless somebody else ends it.
            None if end == End::Killed => {
                let description = Description::of_unkept(&domain.name);
                let plan = Plan { description, image: &[], initrd: None };
                let state = State::Ends(domain.clone(), end, self.accounts());
                keeping.kept.push(Kept {
                    plan,
                    id: domain.id,
                    state,
                    since: Nanos(0),
                    restarts: 0,
                    last: true,
                });
            }
            None => {}
        }
    }

    /// Does what one domain needs; answers when it needs more.
    fn keep(&self, keeping: &mut Keeping<P>, index: usize) -> Option<Nanos> {
        let now = self.platform.now();
        let kept = &mut keeping.kept[index];
        match &kept.state {
            State::Runs(_) | State::Over => None,
            State::Ends(domain, end, before) => {
                let (domain, end, before) = (domain.clone(), *end, *before);
                if self.destroy_domain(&domain).is_err() {
                    return Some(Nanos(now.0 + BREATH));
                }
                self.say_what_is_left(&domain, &before);
                self.decide(kept, end, now)
            }
            State::Waits(at) if *at > now => Some(*at),
            State::Waits(_) => self.start_again(keeping, index, now),
        }
    }

    fn say_what_is_left(&self, domain: &Domain<P>, before: &Accounts) {
        let after = self.accounts();
        let (id, name) = (domain.id.0, &domain.name);
        self.log(format_args!("Domain {id} ({name}) is gone: {after}\n"));
        let back =
            (after.free_frames + after.heap_frames).saturating_sub(before.free_frames + before.heap_frames);
        let [frames, ports, maps] = [
            domain.pages.current(),
            u64::from(domain.events.active_ports()),
            domain.grants.mappings() as u64,
        ];
        self.log(format_args!(
            "Domain {id} ({name}): {back} frames came back; left of it: {frames} frames that others map, {ports} \
             event channels, {maps} grants mapped\n"
        ));
    }

    fn decide(&self, kept: &mut Kept<P>, end: End, now: Nanos) -> Option<Nanos> {
        let policy = &kept.plan.description.restart;
        if now.0.saturating_sub(kept.since.0) > LONG_LIFE {
            kept.restarts = 0;
        }
        kept.state = State::Over;
        if !wants_restart(policy.when, end) {
            return None;
        }
        let (id, name) = (kept.id.0, &kept.plan.description.name);
        if kept.restarts >= policy.limit {
            self.log(format_args!(
                "Domain {id} ({name}) was started {} times again: enough\n",
                kept.restarts
            ));
            return None;
        }
        let at = Nanos(now.0.saturating_add(policy.delay.saturating_mul(1 << kept.restarts.min(16))));
        kept.restarts += 1;
        let (ms, count, limit) = ((at.0 - now.0) / 1_000_000, kept.restarts, policy.limit);
        self.log(format_args!("Domain {id} ({name}) starts again in {ms} ms (restart {count} of {limit})\n"));
        kept.state = State::Waits(at);
        Some(at)
    }

    fn start_again(&self, keeping: &mut Keeping<P>, index: usize, now: Nanos) -> Option<Nanos> {
        let kept = &keeping.kept[index];
        match self.make_kept(kept, &keeping.denied) {
            Ok(domain) => {
                let image = kept.plan.image;
                keeping.kept[index].state = State::Runs(domain.clone());
                self.link(keeping, index);
                let filled = self.fill_kept(keeping, index, &domain, image);
                keeping.kept[index].since = self.platform.now();
                if self.filled(&mut keeping.kept[index], filled) {
                    self.start(&domain);
                }
                None
            }
            // Frames of its last life are still mapped by others, or its CPUs are not there.
            Err(BuildError::Refused(Errno::EEXIST)) => Some(Nanos(now.0 + RETRY)),
            Err(error) => {
                self.left_out(kept, &error);
                keeping.kept[index].state = State::Over;
                None
            }
        }
    }
}

/// An identifier for each domain: its own, or the lowest from 1 on that nobody else wants.
fn identifiers(plans: &[Plan]) -> Vec<DomId> {
    let wanted: Vec<u16> = plans.iter().filter_map(|plan| plan.description.id).collect();
    let mut free = (1..).filter(|id| !wanted.contains(id));
    plans.iter().map(|plan| DomId(plan.description.id.or_else(|| free.next()).unwrap_or(0))).collect()
}

/// The command line, with the ports of the channels behind.
fn command_line<P: Platform>(keeping: &Keeping<P>, index: usize) -> String {
    let mut line = keeping.kept[index].plan.description.cmdline.clone();
    for link in &keeping.links {
        let Some(end) = link.domains.iter().position(|n| *n == index) else { continue };
        let peer = &keeping.kept[link.domains[1 - end]].plan.description.name;
        if let Some(port) = link.ports[end] {
            line += &format!(" paravane.channel.{peer}={}", port.0);
        }
    }
    line.trim_start().into()
}

fn wants_restart(when: When, end: End) -> bool {
    match end {
        End::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG | SHUTDOWN_REBOOT) => when != When::Never,
        _ => when == When::Always,
    }
}

fn verb(end: End) -> &'static str {
    match end {
        End::Killed | End::Destroyed => "is ended",
        End::Shutdown(SHUTDOWN_CRASH) => "has crashed",
        End::Shutdown(SHUTDOWN_WATCHDOG) => "let its watchdog bite",
        End::Shutdown(SHUTDOWN_REBOOT) => "asks for a reboot",
        End::Shutdown(SHUTDOWN_POWEROFF) => "has switched itself off",
        End::Shutdown(_) => "has shut down",
    }
}
