//! Pausing, resuming and ending domains.
//!
//! # One lock for what a domain may do
//! Whether vCPUs of a domain may run is said by [`Domain::lifecycle`], and again by [`Domain::stopped`] and the pauses. They change
//! in one critical section of the lifecycle's lock, so a decision that was made by the first is still right when the others follow
//! from it: a domain that is resumed while its teardown begins is either stopped again by the teardown or not resumed at all.
//! [`Reasons::STOPPED`] and [`Reasons::PAUSED`] of each vCPU follow in steps ([`crate::sched::walk`]), and as the domain says when each has its
//! turn. A domain counts as ended, and others hear of its end, when all its vCPUs have stopped. The teardown waits for that; no vCPU of
//! a domain in teardown loses [`Reasons::STOPPED`] then, and the domain's right to memory stays 0.
//!
//! # The end of a domain
//! Nothing tells by itself who still uses a domain, so the teardown first makes sure that nobody does, and only then takes
//! things away. Each step depends on the ones before it:
//!
//! 1. It is [`Lifecycle::Dying`]: no vCPU becomes runnable, no page can be allocated, and the domain table does not name it any
//!    more, so no new operation on it begins.
//! 2. Its vCPUs leave their CPUs and queues.
//! 3. A grace period passes (see [`Platform::begin_grace`]): operations of other CPUs that had looked it up before are over, and
//!    no CPU has its page tables, descriptor tables or FPU state loaded any more, not even an idle one.
//! 4. Timers, watchdogs, the console's ring and event channels go; its peers' ends wait for a domain of its number again, as in Xen.
//! 5. The grants that it mapped are unpinned; the references go with its page tables.
//! 6. Its frames are given up: `vcpu_info` pages, page tables, memory, grant table, `shared_info`.
//!
//! A frame that another domain still maps stays, accounted to the dead domain, until that domain lets go of it. Until then the
//! identifier is not given to a new domain: the page accounting tells owners apart by nothing else.

use super::{Domain, Lifecycle, Vcpu, VcpuRef};
use crate::Hypervisor;
use crate::event::Progress;
use crate::ids::{DomId, MachineAddr, Mfn, VcpuId};
use crate::page::PageError;
use crate::platform::Platform;
use crate::sched::Reasons;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::xen::VIRQ_DOM_EXC;

/// Most pauses of a domain by its controller at a time, as in Xen.
const MAX_PAUSES: u32 = 255;
/// How often to look whether a vCPU has left its CPU: some microseconds, in which an interrupt is taken.
const PATIENCE: u32 = 10_000;
/// vCPUs that the teardown takes out of queues, each of which is looked through, between two looks for other work.
const LEAVING_STEP: usize = 8;
/// vCPUs whose timers or `vcpu_info` pages it takes away between two looks.
const TEARDOWN_STEP: usize = 64;
/// The CPU has other work first, or waits for other CPUs: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart;

/// How far the teardown of a domain got: see the head of the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Alive,
    /// Its vCPUs are told to stop.
    Stopping,
    /// vCPUs from this one on leave their CPUs.
    Leaving(usize),
    Grace(u64),
    /// The timers of vCPUs from this one on.
    Timers(usize),
    Services,
    Events,
    Mappings,
    /// The `vcpu_info` pages of vCPUs from this one on.
    Infos(usize),
    Pages,
    GrantFrames,
    Burial,
    Done,
}

/// What the hypervisor has given out, as one number for each kind. What a domain had is back when the numbers are those from before
/// it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Frames that are free.
    pub free_frames: u64,
    /// Frames of the hypervisor's own heap, which grows and does not shrink: free for new domains, in a way.
    pub heap_frames: u64,
    /// Frames that domains own, dead ones too.
    pub domain_frames: u64,
    /// Domains in the table.
    pub domains: u64,
    /// Domains that were taken out of the table and still own frames.
    pub dying_domains: u64,
    /// Bound ports of all domains.
    pub event_channels: u64,
    /// Grants that are mapped.
    pub grant_maps: u64,
}

impl Accounts {
    /// Whether everything that was free at `before` is free again.
    pub fn same_as(&self, before: &Accounts) -> bool {
        let frames = |a: &Accounts| a.free_frames + a.heap_frames;
        let rest = |a: &Accounts| Accounts { free_frames: 0, heap_frames: 0, ..*a };
        frames(self) == frames(before) && rest(self) == rest(before)
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free_frames, heap_frames, domain_frames, domains, dying_domains, .. } = self;
        write!(f, "{free_frames} frames free, {heap_frames} in the heap, {domain_frames} of domains; ")?;
        write!(f, "{domains} domains, {dying_domains} dying; ")?;
        write!(f, "{} event channels, {} grants mapped", self.event_channels, self.grant_maps)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// An identifier that no domain has, the one after the last given out if possible.
    pub fn free_domid(&self) -> Option<DomId> {
        self.domains.free_id()
    }

    /// Keeps all vCPUs of a domain from running until [`Hypervisor::unpause_domain`]; pauses nest. A vCPU may still run for a
    /// moment on another CPU: see [`Hypervisor::domain_is_still`].
    ///
    /// # Errors
    /// `EOVERFLOW` for more than 255 pauses.
    pub fn pause_domain(&self, domain: &Arc<Domain<P>>) -> Result<(), Errno> {
        {
            let _lifecycle = domain.lifecycle.lock();
            let pauses = domain.controller_pauses.load(Ordering::Relaxed);
            if pauses == MAX_PAUSES {
                return Err(Errno::EOVERFLOW);
            }
            domain.controller_pauses.store(pauses + 1, Ordering::SeqCst);
            if pauses == 0 {
                self.ask_to_settle(domain, false);
            }
        }
        self.settle(domain);
        Ok(())
    }

    /// [`Hypervisor::pause_domain`] for a caller that waits until no vCPU of the domain is on a CPU. Answers whether that is so; if not,
    /// the caller calls again, from a point where raised work was done. Its pause counts from the first call on.
    ///
    /// # Errors
    /// `EOVERFLOW` for more than 255 pauses.
    pub fn pause_domain_and_wait(
        &self,
        domain: &Arc<Domain<P>>,
        caller: (DomId, VcpuId),
    ) -> Result<bool, Errno> {
        if !self.waits_for_stillness(domain, caller) {
            self.pause_domain(domain)?;
            self.begin_to_wait(domain, caller);
        }
        Ok(self.await_stillness(domain, caller))
    }

    /// Undoes one [`Hypervisor::pause_domain`]. The first time that nothing pauses a domain, it is made: it runs.
    ///
    /// # Errors
    /// `EINVAL` for a domain that is not paused.
    pub fn unpause_domain(&self, domain: &Arc<Domain<P>>) -> Result<(), Errno> {
        {
            let mut lifecycle = domain.lifecycle.lock();
            let pauses = domain.controller_pauses.load(Ordering::Relaxed);
            let pauses = pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
            domain.controller_pauses.store(pauses, Ordering::SeqCst);
            if pauses == 0 {
                if *lifecycle == Lifecycle::Building {
                    *lifecycle = Lifecycle::Running;
                }
                self.ask_to_settle(domain, false);
            }
        }
        self.settle(domain);
        Ok(())
    }

    /// Ends a domain that has not ended yet: its vCPUs stop, and its memory stays.
    pub(crate) fn stop_domain(&self, domain: &Arc<Domain<P>>, reason: u32) {
        {
            let mut lifecycle = domain.lifecycle.lock();
            if !matches!(*lifecycle, Lifecycle::Building | Lifecycle::Running) {
                return;
            }
            *lifecycle = Lifecycle::Shutdown(reason);
            self.stop_vcpus(domain, true);
        }
        self.settle(domain);
    }

    /// Lets a domain that has ended go on where it stopped; its next end has a reason of its own. One that has not ended is left
    /// alone, and so is one that is not to live any longer.
    pub fn resume_domain(&self, domain: &Arc<Domain<P>>) {
        {
            let mut lifecycle = domain.lifecycle.lock();
            if !matches!(*lifecycle, Lifecycle::Shutdown(_)) {
                return;
            }
            *lifecycle = Lifecycle::Running;
            self.forget_shutdown_reason(domain.id);
            domain.stopped.store(false, Ordering::SeqCst);
            self.ask_to_settle(domain, false);
        }
        self.settle(domain);
    }

    /// Stops a domain for good: it is not resumed any more. Its teardown is to follow.
    pub(super) fn condemn_domain(&self, domain: &Arc<Domain<P>>) {
        {
            let mut lifecycle = domain.lifecycle.lock();
            if matches!(*lifecycle, Lifecycle::Dying | Lifecycle::Dead) {
                return;
            }
            *lifecycle = Lifecycle::Condemned;
            self.stop_vcpus(domain, false);
        }
        self.settle(domain);
    }

    /// The lifecycle is locked, and says that nothing of this domain runs any more; `ended`: it ended by itself, which others are to hear.
    fn stop_vcpus(&self, domain: &Domain<P>, ended: bool) {
        domain.stopped.store(true, Ordering::SeqCst);
        self.ask_to_settle(domain, ended);
    }

    /// Limits the memory of a domain, unless its teardown began.
    pub fn limit_domain(&self, domain: &Domain<P>, pages: u64) {
        let lifecycle = domain.lifecycle.lock();
        if !matches!(*lifecycle, Lifecycle::Dying | Lifecycle::Dead) {
            domain.pages.set_max(pages);
        }
    }

    /// Waits a moment for a vCPU that was told to stop to leave its CPU; answers whether it has. Until it is let go again no CPU
    /// takes it then.
    pub fn await_off(&self, vcpu: &Vcpu<P>) -> bool {
        let mut patience = 0..PATIENCE;
        while self.sched.is_on_cpu(vcpu) && patience.next().is_some() && !self.platform.work_pending() {
            core::hint::spin_loop();
        }
        let seen_off = !self.sched.is_on_cpu(vcpu);
        // A CPU that found it runnable just before may be about to take it.
        seen_off && self.sched.is_off(vcpu)
    }

    /// Whether none of a domain's vCPUs is on a CPU.
    pub fn domain_is_still(&self, domain: &Domain<P>) -> bool {
        !domain.vcpus.iter().any(|vcpu| self.sched.is_on_cpu(vcpu))
    }

    /// Takes everything away from a domain, in the order that the head of the module gives. What the caller and others hold of it is
    /// an empty shell afterwards. Not for a vCPU of the domain itself, which would wait for itself.
    ///
    /// # Errors
    /// [`Restart`] when this CPU has other work first or has to wait for another CPU: call again, from a point where
    /// raised work was done.
    pub fn destroy_domain(&self, domain: &Arc<Domain<P>>) -> Result<(), Restart> {
        // Whoever else is at it goes on.
        let mut stage = domain.teardown.try_lock().ok_or(Restart)?;
        loop {
            *stage = match *stage {
                Stage::Alive => self.begin_end(domain),
                Stage::Stopping if self.settle_some(domain) => Stage::Leaving(0),
                Stage::Stopping => Stage::Stopping,
                Stage::Leaving(from) => self.leave_cpus(domain, from)?,
                Stage::Grace(grace) if !self.platform.grace_is_over(grace) => return Err(Restart),
                Stage::Grace(_) => Stage::Timers(0),
                Stage::Timers(from) => {
                    let vcpus = vcpus_from(domain, from, TEARDOWN_STEP);
                    vcpus.iter().for_each(|vcpu| self.stop_vcpu(vcpu));
                    after_vcpus(domain, from + vcpus.len(), Stage::Timers, Stage::Services)
                }
                Stage::Services => self.end_services(domain)?,
                Stage::Events => finished(self.destroy_events(domain), Stage::Mappings)?,
                Stage::Mappings => finished(self.release_grant_mappings(domain), Stage::Infos(0))?,
                Stage::Infos(from) => {
                    let vcpus = vcpus_from(domain, from, TEARDOWN_STEP);
                    vcpus.iter().for_each(|vcpu| self.release_info(domain, vcpu));
                    after_vcpus(domain, from + vcpus.len(), Stage::Infos, Stage::Pages)
                }
                Stage::Pages => self.release_memory(domain)?,
                Stage::GrantFrames => finished(self.release_grant_frames(domain), Stage::Burial)?,
                Stage::Burial => self.bury(domain),
                Stage::Done => return Ok(()),
            };
            if *stage != Stage::Done && self.platform.work_pending() {
                return Err(Restart);
            }
        }
    }

    fn begin_end(&self, domain: &Arc<Domain<P>>) -> Stage {
        {
            let mut lifecycle = domain.lifecycle.lock();
            *lifecycle = Lifecycle::Dying;
            domain.dying.store(true, Ordering::SeqCst);
            domain.pages.set_max(0);
            self.stop_vcpus(domain, false);
        }
        self.domains.begin_dying(domain);
        self.domain_is_destroyed(domain);
        Stage::Stopping
    }

    fn leave_cpus(&self, domain: &Domain<P>, from: usize) -> Result<Stage, Restart> {
        let now = self.platform.now();
        let vcpus = vcpus_from(domain, from, LEAVING_STEP);
        let running = vcpus.iter().filter(|vcpu| !self.sched.retire(vcpu, now));
        // One that was being chosen while it was told to stop has not noticed.
        let told = running.map(|vcpu| self.suspend(vcpu, Reasons::STOPPED)).count();
        if told != 0 {
            return Err(Restart);
        }
        let end = from + vcpus.len();
        Ok(if end < domain.vcpus.len() {
            Stage::Leaving(end)
        } else {
            Stage::Grace(self.platform.begin_grace())
        })
    }

    fn stop_vcpu(&self, vcpu: &Vcpu<P>) {
        self.stop_timers(vcpu);
        self.stop_polling(vcpu);
    }

    fn end_services(&self, domain: &Arc<Domain<P>>) -> Result<Stage, Restart> {
        self.abandon_domains_of(domain.id);
        self.forget_watchdogs(domain.id);
        self.forget_virq_handler(domain.id);
        self.detach_console(domain)?;
        Ok(Stage::Events)
    }

    fn release_info(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        let info = MachineAddr(vcpu.pv.vcpu_info.swap(0, Ordering::AcqRel));
        if info.0 != 0 && info.mfn() != domain.shared_info {
            self.put_page_and_type(info.mfn());
        }
    }

    fn release_memory(&self, domain: &Arc<Domain<P>>) -> Result<Stage, Restart> {
        self.release_domain_pages(domain).map_err(|_: PageError| Restart)?;
        Ok(Stage::GrantFrames)
    }

    fn bury(&self, domain: &Arc<Domain<P>>) -> Stage {
        self.surrender_xen_page(domain, domain.shared_info);
        *domain.lifecycle.lock() = Lifecycle::Dead;
        domain.dead.store(true, Ordering::SeqCst);
        self.bury_domain(domain);
        self.send_global_virq(VIRQ_DOM_EXC);
        Stage::Done
    }

    /// Gives a frame of the hypervisor's, shared with a domain in teardown, to the domain for good and drops the hypervisor's
    /// reference: whoever maps it last frees it.
    pub(crate) fn surrender_xen_page(&self, domain: &Domain<P>, mfn: Mfn) {
        domain.pages.grow(1);
        self.known_frame(mfn).clear_shared();
        self.put_page_and_type(mfn);
    }

    /// What is given out now. Other CPUs may change it while it is counted.
    pub fn accounts(&self) -> Accounts {
        let alive: Vec<_> = self.domains.all().collect();
        let dying: Vec<_> = self.domains.dying().collect();
        let each = || alive.iter().chain(&dying);
        Accounts {
            free_frames: self.frames.free_count(),
            heap_frames: self.platform.heap_frames(),
            domain_frames: each().map(|domain| domain.pages.current()).sum(),
            domains: alive.len() as u64,
            dying_domains: dying.len() as u64,
            event_channels: each().map(|domain| u64::from(domain.events.active_ports())).sum(),
            grant_maps: each().map(|domain| domain.grants.mappings() as u64).sum(),
        }
    }
}

/// At most `count` vCPUs from number `from` on.
fn vcpus_from<P: Platform>(domain: &Domain<P>, from: usize, count: usize) -> &[Vcpu<P>] {
    let rest = domain.vcpus.get(from..).unwrap_or_default();
    rest.get(..count).unwrap_or(rest)
}

/// What comes after vCPUs below `end`.
fn after_vcpus<P: Platform>(domain: &Domain<P>, end: usize, more: fn(usize) -> Stage, next: Stage) -> Stage {
    if end < domain.vcpus.len() { more(end) } else { next }
}

fn finished(progress: Progress, next: Stage) -> Result<Stage, Restart> {
    match progress {
        Progress::Finished => Ok(next),
        Progress::Preempted => Err(Restart),
    }
}

impl<P: Platform> Domain<P> {
    /// Its vCPUs, as something that may be kept.
    pub fn vcpu_refs(self: &Arc<Self>) -> impl Iterator<Item = VcpuRef<P>> + '_ {
        self.vcpus.iter().map(|vcpu| VcpuRef { domain: self.clone(), id: vcpu.id })
    }

    /// Whether its controller pauses it.
    pub fn is_paused(&self) -> bool {
        self.controller_pauses.load(Ordering::Relaxed) != 0
    }

    /// Whether its teardown began.
    pub fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// Whether its teardown is over.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}
