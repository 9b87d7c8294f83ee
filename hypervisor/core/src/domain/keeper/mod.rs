//! The domains that the hypervisor itself starts, by their descriptions, and what becomes of them when they end.
//!
//! All of it happens on one CPU, in [`Hypervisor::run_timers`]: whoever ends a domain only leaves a report and has that CPU look.
//! It then takes the domain apart, piece by piece between its other work and for a third of the CPU's time at most, prints what was
//! given out before and after, and starts it again if its description says so. Without a control domain the machine ends with the
//! last domain.
//!
//! Building it again is done piece by piece as well, for as long at a time as a short operation of a guest takes.
//!
//! A domain is restarted with its old identifier, so that its peers know it; while somebody still maps frames of the old one
//! it waits. Its ends of event channels are bound to its peers' old ends where those still wait for it.
//!
//! What a domain that is to be started again has of the machine's memory stays set aside for it from its end on
//! ([`Claim`]), and so does, while it lives, what the hypervisor needs to make it anew: other domains cannot keep it from starting.
//! What the domain drew out of that for its own growth is in the hypervisor's heap, and counts there. What it gave up itself before its
//! end may be gone; then it waits until there is enough again.
//!
//! Locks: the keeper's state is taken before every other lock, by one CPU at a time, and reports are a leaf.

mod start;
#[cfg(test)]
mod tests;

use start::described;

use super::Domain;
use super::making::{Making, Unfinished, promised_frames};
use crate::Hypervisor;
use crate::builder::frames_for_extents;
use crate::builder::{BuildError, Filling};
use crate::description::{Description, When};
use crate::ids::{CpuId, DomId, Nanos, Port};
use crate::mem::Claim;
use crate::permissions::Permissions;
use crate::platform::{MachineEnd, Platform, Work};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::errno::Errno;
use xen_abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND, SHUTDOWN_WATCHDOG,
};

/// The CPU that keeps the domains.
const KEEPING_CPU: CpuId = CpuId(0);
/// There is nothing to do.
const NEVER: u64 = u64::MAX;
/// How long a teardown or the building of a domain lets the CPU do other work, in nanoseconds.
pub(super) const BREATH: u64 = 200_000;
/// How long the keeper works before the CPU runs guests again, in nanoseconds: no guest asked for it, and whichever runs on this CPU
/// pays for it.
const TURN: u64 = 100_000;
/// How long the building of a domain goes on before the CPU runs guests again, in nanoseconds.
const BURST: u64 = 30_000;
/// How often a restart looks whether the old identifier is free, in nanoseconds.
pub(super) const RETRY: u64 = 1_000_000_000;
/// What a domain waits for that finds too little memory.
const MEMORY: &str = "there is memory for it";
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
    /// There was not the memory to build it again.
    Short,
}

/// Where a kept domain is.
enum State<P: Platform> {
    /// It runs.
    Runs(Arc<Domain<P>>),
    /// It is being taken apart; it had that many pages.
    Ends(Arc<Domain<P>>, End, u64),
    /// It will be started again.
    Waits(Nanos),
    /// It is being made again, without memory.
    Makes(Box<Making<P>>),
    /// It is being given its memory and kernel again.
    Builds(Arc<Domain<P>>, Box<Filling>),
    /// It is over.
    Over,
}

/// A kernel without compression, which several domains may have.
type Unpacked = Arc<Cow<'static, [u8]>>;

struct Kept<P: Platform> {
    plan: Plan,
    id: DomId,
    /// Its kernel, where the domain may be started again.
    kernel: Option<Unpacked>,
    state: State<P>,
    /// When it was started.
    since: Nanos,
    /// Restarts in a row.
    restarts: u32,
    /// What is set aside for it, from one life to the next.
    claim: Arc<Claim>,
    /// What its next start waits for, as the log says.
    waits_until: Option<&'static str>,
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

    /// Frames that are set aside for what the hypervisor keeps for it, while it is built and while it runs.
    fn promised(&self) -> u64 {
        let about = &self.plan.description;
        promised_frames(about.vcpus) + frames_for_extents(about.pages)
    }
}

/// A channel and the ports of its ends, as far as they were made.
struct Link {
    domains: [usize; 2],
    ports: [Option<Port>; 2],
}

/// A domain that another one serves, and its ports for that, as far as they were made.
struct Service {
    domain: usize,
    by: usize,
    store: Option<Port>,
    console: Option<Port>,
}

struct Keeping<P: Platform> {
    kept: Vec<Kept<P>>,
    links: Vec<Link>,
    services: Vec<Service>,
    /// What no kept domain may use, whatever its description says.
    denied: Permissions,
    /// Where the next look at all of them begins.
    turn: usize,
}

/// See the head of the module.
pub struct Keeper<P: Platform> {
    keeping: Mutex<Keeping<P>>,
    reports: Mutex<Vec<(Arc<Domain<P>>, End)>>,
    /// Domains that come and go in steps.
    pub(super) unfinished: Unfinished<P>,
    /// When there is something to do next.
    next: AtomicU64,
}

impl<P: Platform> Keeper<P> {
    /// Nobody to keep.
    pub const fn new() -> Self {
        let keeping = Keeping {
            kept: Vec::new(),
            links: Vec::new(),
            services: Vec::new(),
            denied: Permissions::none(),
            turn: 0,
        };
        Self {
            keeping: Mutex::new(keeping),
            reports: Mutex::new(Vec::new()),
            unfinished: Unfinished::new(),
            next: AtomicU64::new(NEVER),
        }
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
        self.condemn_domain(&domain);
        self.report(&domain, End::Killed);
        Ok(())
    }

    /// A domain was shut down, and has the keeper look if it is the keeper's.
    pub(crate) fn domain_was_shut_down(&self, domain: &Arc<Domain<P>>, reason: u32) {
        if reason == SHUTDOWN_SUSPEND {
            // It stopped for a toolstack, which resumes it or ends it.
            return;
        }
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

    pub(super) fn keep_from(&self, time: Nanos) {
        self.keeper.next.fetch_min(time.0, Ordering::SeqCst);
        self.platform.raise_work(KEEPING_CPU, Work::TIMER);
    }

    /// Does what is due. Called by [`Hypervisor::run_timers`] on the keeping CPU.
    pub(crate) fn keep_domains(&self) {
        let Some(mut keeping) = self.keeper.keeping.try_lock() else { return };
        self.keeper.next.store(NEVER, Ordering::SeqCst);
        // What is done here stops for other work, and a timer that is not armed would never be any.
        self.arm_timer_within(TURN);
        loop {
            let report = {
                let mut reports = self.keeper.reports.lock();
                (!reports.is_empty()).then(|| reports.remove(0))
            };
            let Some((domain, end)) = report else { break };
            self.take_report(&mut keeping, domain, end);
            if self.keeps_later() {
                return;
            }
        }
        // From where it stopped for other work, so that none waits for ever behind others that always have something to do.
        for _ in 0..keeping.kept.len() {
            let index = keeping.turn % keeping.kept.len();
            keeping.turn = index + 1;
            let idle = matches!(keeping.kept[index].state, State::Runs(_) | State::Over);
            if let Some(next) = self.keep(&mut keeping, index) {
                self.keeper.next.fetch_min(next.0, Ordering::SeqCst);
            }
            if !idle && self.keeps_later() {
                return;
            }
        }
        if let Some(next) = self.take_away_gone() {
            self.keeper.next.fetch_min(next.0, Ordering::SeqCst);
        }
        let over = |kept: &Kept<P>| matches!(kept.state, State::Over);
        keeping.kept.retain(|kept| !kept.last || !over(kept));
        if !keeping.kept.is_empty() && keeping.kept.iter().all(over) && self.domains.all().next().is_none() {
            drop(keeping);
            self.log(format_args!("All domains have ended: halting machine\n"));
            self.platform.end_machine(MachineEnd::PowerOff);
        }
    }

    /// Whether this CPU has other work first. Then it comes back to the domains soon: there may be many of them, and each takes a while.
    fn keeps_later(&self) -> bool {
        let later = self.platform.work_pending();
        if later {
            self.keeper.next.fetch_min(self.platform.now().0.saturating_add(BREATH), Ordering::SeqCst);
        }
        later
    }

    fn take_report(&self, keeping: &mut Keeping<P>, domain: Arc<Domain<P>>, end: End) {
        let same = |kept: &&mut Kept<P>| match &kept.state {
            State::Runs(other) | State::Builds(other, _) | State::Ends(other, ..) => {
                Arc::ptr_eq(other, &domain)
            }
            _ => false,
        };
        match keeping.kept.iter_mut().find(same) {
            Some(kept) => {
                if matches!(kept.state, State::Runs(_) | State::Builds(..)) {
                    let accounts = self.accounts();
                    self.log(format_args!(
                        "Domain {} ({}) {}: {accounts}\n",
                        kept.id.0,
                        domain.name,
                        verb(end)
                    ));
                    let pages = domain.pages.current();
                    self.stop_filling(kept);
                    kept.state = State::Ends(domain, end, pages);
                }
            }
            // A toolstack's domain waits for its toolstack, unless somebody else ends it.
            None if end == End::Killed => {
                let description = Description::of_unkept(&domain.name);
                let plan = Plan { description, image: &[], initrd: None };
                let state = State::Ends(domain.clone(), end, domain.pages.current());
                let claim = domain.pages.claim.clone();
                keeping.kept.push(Kept {
                    plan,
                    id: domain.id,
                    kernel: None,
                    state,
                    since: Nanos(0),
                    restarts: 0,
                    claim,
                    waits_until: None,
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
            State::Ends(domain, end, pages) => {
                let (domain, end, pages) = (domain.clone(), *end, *pages);
                if self.destroy_domain(&domain).is_err() {
                    return Some(Nanos(now.0 + BREATH));
                }
                self.say_what_is_left(&domain, pages);
                self.decide(kept, end, now)
            }
            State::Waits(at) if *at > now => Some(*at),
            State::Waits(_) => self.start_again(keeping, index, now),
            State::Makes(_) => self.go_on_making(keeping, index, now),
            State::Builds(..) => self.build_some(keeping, index, now),
        }
    }

    fn say_what_is_left(&self, domain: &Domain<P>, pages: u64) {
        let (id, name) = (domain.id.0, &domain.name);
        self.log(format_args!("Domain {id} ({name}) is gone: {}\n", self.accounts()));
        let (mapped, ports) = (domain.pages.current(), domain.events.active_ports());
        let grants = domain.grants.mappings();
        self.log(format_args!(
            "Domain {id} ({name}) had {pages} pages; left of it: {mapped} frames that others map, {ports} event \
             channels, {grants} grants mapped\n"
        ));
    }

    fn decide(&self, kept: &mut Kept<P>, end: End, now: Nanos) -> Option<Nanos> {
        let policy = &kept.plan.description.restart;
        if now.0.saturating_sub(kept.since.0) > LONG_LIFE {
            kept.restarts = 0;
        }
        if end == End::Short && policy.when != When::Never {
            return self.wait_for(kept, MEMORY, now);
        }
        kept.state = State::Over;
        if !wants_restart(policy.when, end) {
            self.frames.forget_claim(&kept.claim);
            return None;
        }
        let (id, name) = (kept.id.0, &kept.plan.description.name);
        if kept.restarts >= policy.limit {
            self.log(format_args!(
                "Domain {id} ({name}) was started {} times again: enough\n",
                kept.restarts
            ));
            self.frames.forget_claim(&kept.claim);
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
        let kept = &mut keeping.kept[index];
        let about = &kept.plan.description;
        // While frames of its last life are mapped they are not there to be counted.
        if !self.domains.is_taken(kept.id)
            && !self.frames.renew_claim(&kept.claim, about.pages, kept.promised())
        {
            return self.wait_for(kept, MEMORY, now);
        }
        match self.begin_domain(described(kept.id, about), kept.claim.clone()) {
            Ok(making) => {
                kept.state = State::Makes(making);
                self.go_on_making(keeping, index, now)
            }
            Err(errno) => self.cannot_start(kept, errno, now),
        }
    }

    /// A domain cannot be started again before something that `until` says. What is set aside for it stays so.
    #[cold]
    #[inline(never)]
    fn wait_for(&self, kept: &mut Kept<P>, until: &'static str, now: Nanos) -> Option<Nanos> {
        if kept.waits_until.replace(until) != Some(until) {
            let (id, name) = (kept.id.0, &kept.plan.description.name);
            self.log(format_args!("Domain {id} ({name}) starts again when {until}\n"));
        }
        let at = Nanos(now.0.saturating_add(RETRY));
        kept.state = State::Waits(at);
        Some(at)
    }

    /// Goes on with making a domain for a while, and begins to fill it when it is there.
    fn go_on_making(&self, keeping: &mut Keeping<P>, index: usize, now: Nanos) -> Option<Nanos> {
        let kept = &mut keeping.kept[index];
        let State::Makes(mut making) = core::mem::replace(&mut kept.state, State::Over) else { return None };
        let end = now.0.saturating_add(BURST);
        let made = loop {
            match self.make_some(&mut making) {
                Ok(false) if self.platform.work_pending() || self.platform.now().0 >= end => {
                    kept.state = State::Makes(making);
                    return Some(Nanos(self.platform.now().0.saturating_add(BREATH)));
                }
                Ok(false) => {}
                Ok(true) => break self.complete_domain(*making),
                Err(errno) => {
                    self.abandon_domain(*making);
                    break Err(errno);
                }
            }
        };
        match made
            .and_then(|domain| self.equip(&domain, &kept.plan.description, &keeping.denied).map(|()| domain))
        {
            Ok(domain) => self.begin_again(keeping, index, domain, now),
            Err(errno) => self.cannot_start(kept, errno, now),
        }
    }

    fn cannot_start(&self, kept: &mut Kept<P>, errno: Errno, now: Nanos) -> Option<Nanos> {
        match errno {
            Errno::EEXIST => {
                return self.wait_for(kept, "other domains let go of its former pages", now);
            }
            Errno::ENOMEM => return self.wait_for(kept, MEMORY, now),
            _ => {}
        }
        self.left_out(kept, &errno.into());
        self.frames.forget_claim(&kept.claim);
        kept.state = State::Over;
        None
    }

    fn begin_again(
        &self,
        keeping: &mut Keeping<P>,
        index: usize,
        domain: Arc<Domain<P>>,
        now: Nanos,
    ) -> Option<Nanos> {
        let kernel = keeping.kept[index].kernel.clone();
        keeping.kept[index].state = State::Runs(domain.clone());
        self.link(keeping, index);
        self.offer(keeping, index);
        let image: &[u8] = kernel.as_ref().map_or(keeping.kept[index].plan.image, |kernel| kernel);
        match self.begin_kept(keeping, index, image) {
            Ok(filling) => {
                keeping.kept[index].state = State::Builds(domain, Box::new(filling));
                self.build_some(keeping, index, now)
            }
            Err(error) => {
                self.filled_again(&mut keeping.kept[index], Err(error));
                None
            }
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Goes on with building a domain for a while; starts it when it is complete.
    fn build_some(&self, keeping: &mut Keeping<P>, index: usize, now: Nanos) -> Option<Nanos> {
        let kept = &mut keeping.kept[index];
        let State::Builds(domain, filling) = &mut kept.state else { return None };
        let domain = domain.clone();
        let image: &[u8] = kept.kernel.as_ref().map_or(kept.plan.image, |kernel| kernel);
        let end = now.0.saturating_add(BURST);
        let stop = || self.platform.work_pending() || self.platform.now().0 >= end;
        let filled = match self.fill_some(&domain, filling, image, stop) {
            Ok(false) => return Some(Nanos(self.platform.now().0.saturating_add(BREATH))),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        self.stop_filling(kept);
        kept.since = self.platform.now();
        if self.filled_again(kept, filled) {
            kept.waits_until = None;
            // For its next life.
            self.frames.owe_again(&kept.claim, kept.promised());
            self.start(&domain);
        }
        None
    }

    /// A domain that was being built is not any more.
    fn stop_filling(&self, kept: &mut Kept<P>) {
        match core::mem::replace(&mut kept.state, State::Over) {
            State::Builds(domain, filling) => {
                kept.state = State::Runs(domain);
                self.let_go_of_extents(filling.into_extents());
            }
            other => kept.state = other,
        }
    }

    /// [`Hypervisor::filled`] for a domain that was built before: where memory was short, it is taken apart to be built another time.
    fn filled_again(&self, kept: &mut Kept<P>, result: Result<(), BuildError>) -> bool {
        match (result, &kept.state) {
            (
                Err(
                    BuildError::TooLittleMemory { .. }
                    | BuildError::OutOfMemory
                    | BuildError::Refused(Errno::ENOMEM),
                ),
                State::Runs(domain) | State::Builds(domain, _),
            ) => {
                kept.state = State::Ends(domain.clone(), End::Short, domain.pages.current());
                self.keep_from(self.platform.now());
                false
            }
            (result, _) => self.filled(kept, result),
        }
    }
}

fn wants_restart(when: When, end: End) -> bool {
    match end {
        End::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG | SHUTDOWN_REBOOT) => when != When::Never,
        _ => when == When::Always,
    }
}

fn verb(end: End) -> &'static str {
    match end {
        End::Killed | End::Destroyed | End::Short => "is ended",
        End::Shutdown(SHUTDOWN_CRASH) => "has crashed",
        End::Shutdown(SHUTDOWN_WATCHDOG) => "let its watchdog bite",
        End::Shutdown(SHUTDOWN_REBOOT) => "asks for a reboot",
        End::Shutdown(SHUTDOWN_POWEROFF) => "has switched itself off",
        End::Shutdown(_) => "has shut down",
    }
}
