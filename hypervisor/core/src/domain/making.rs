//! Domains on their way into being, and out of it: in steps, for a domain may have thousands of vCPUs, and each of them has some KiB of
//! its own.
//!
//! A [`Making`] is known to its maker only until it is complete. What a toolstack makes waits for the hypercall that goes on
//! with it, one for each calling vCPU. A domain that is gone for good waits here until no CPU has it in its hands; then its vCPUs
//! go, by the CPU that keeps the domains.

use super::keeper::{BREATH, RETRY};
use super::{Domain, DomainConfig, MAX_VCPUS, Vcpu};
use crate::Hypervisor;
use crate::builder::Extents;
use crate::event::DomainEvents;
use crate::ids::{DomId, Mfn, Nanos, VcpuId};
use crate::mem::{Claim, Taker};
use crate::platform::{GuestFrame, Platform};
use crate::sched::DomainSched;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;
use xen_abi::arch_x86::XEN_LEGACY_MAX_VCPUS;
use xen_abi::errno::Errno;
use xen_abi::xen::{DOMID_FIRST_RESERVED, VcpuInfo};

/// vCPUs that are made, or taken away, between two looks for other work.
const STEP: usize = 16;

/// Frames that are set aside for each vCPU that is to be made: more than what is kept for one, extended state included.
const VCPU_FRAMES: u64 = 16;
/// Frames that are set aside for the rest of what is kept for a domain: `shared_info`, its first ports, a first frame of its grant table.
const DOMAIN_FRAMES: u64 = 16;

/// Frames that are set aside for what the hypervisor keeps for a domain with so many vCPUs.
pub(super) fn promised_frames(vcpus: u32) -> u64 {
    u64::from(vcpus) * VCPU_FRAMES + DOMAIN_FRAMES
}

/// A domain of which some vCPUs may be missing. Frames are set aside for those, and for the domain itself
/// ([`crate::mem::FrameAllocator::promise`]).
pub struct Making<P: Platform> {
    config: DomainConfig,
    claim: Arc<Claim>,
    sched: Arc<DomainSched>,
    vcpus: Vec<Vcpu<P>>,
}

/// What waits for a next step.
pub(super) struct Unfinished<P: Platform> {
    /// Domains that toolstacks make, by the calling vCPU.
    begun: Mutex<Vec<Begun<P>>>,
    /// Domains that are gone, and what was made of others that are not to be.
    gone: Mutex<Vec<Gone<P>>>,
    /// vCPUs that there are, of all domains, these included.
    vcpus: AtomicUsize,
}

struct Begun<P: Platform> {
    by: (DomId, VcpuId),
    making: Box<Making<P>>,
}

enum Gone<P: Platform> {
    Domain(Arc<Domain<P>>),
    Vcpus(Vec<Vcpu<P>>),
    Extents(Extents),
}

impl<P: Platform> Unfinished<P> {
    pub const fn new() -> Self {
        Self { begun: Mutex::new(Vec::new()), gone: Mutex::new(Vec::new()), vcpus: AtomicUsize::new(0) }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Makes a domain without memory: in the domain table, [`super::Lifecycle::Building`], its vCPUs down, paused once by its
    /// controller.
    ///
    /// # Errors
    /// `EINVAL` for an identifier that is reserved, a number of vCPUs that no domain has, or an affinity to no CPU that is up;
    /// `EEXIST` for an identifier that is in use; `ENOMEM`.
    pub fn create_domain(&self, config: &DomainConfig) -> Result<Arc<Domain<P>>, Errno> {
        self.create_with(config, Arc::default())
    }

    /// [`Hypervisor::create_domain`], with what may be set aside for it.
    pub(super) fn create_with(
        &self,
        config: &DomainConfig,
        claim: Arc<Claim>,
    ) -> Result<Arc<Domain<P>>, Errno> {
        // On a machine that has not as many there are no guests yet that could take what there is.
        let frames = promised_frames(config.max_vcpus).min(self.frames.available(&claim));
        self.frames.owe(&claim, frames);
        let mut making = self.begin_domain(config.clone(), claim)?;
        loop {
            match self.make_some(&mut making) {
                Ok(true) => return self.complete_domain(*making),
                Ok(false) => {}
                Err(errno) => {
                    self.abandon_domain(*making);
                    return Err(errno);
                }
            }
        }
    }

    /// Begins with that. [`promised_frames`] are promised by `claim`, and given up by it after an error.
    ///
    /// # Errors
    /// As [`Hypervisor::create_domain`].
    pub(super) fn begin_domain(
        &self,
        config: DomainConfig,
        claim: Arc<Claim>,
    ) -> Result<Box<Making<P>>, Errno> {
        let nowhere = |cpus| self.platform.online_cpus().intersect(cpus).is_empty();
        let refused = |errno| {
            self.give_promise_up(&claim);
            Err(errno)
        };
        if config.id.0 >= DOMID_FIRST_RESERVED
            || config.max_vcpus == 0
            || config.max_vcpus > MAX_VCPUS
            || config.affinity.as_ref().is_some_and(nowhere)
        {
            return refused(Errno::EINVAL);
        }
        if self.domains.is_taken(config.id) {
            return refused(Errno::EEXIST);
        }
        let mut vcpus = Vec::new();
        if vcpus.try_reserve_exact(config.max_vcpus as usize).is_err() {
            return refused(Errno::ENOMEM);
        }
        let Some(sched) = self.sched.new_share() else { return refused(Errno::ENOMEM) };
        Ok(Box::new(Making { config, claim, sched: Arc::new(sched), vcpus }))
    }

    /// What was promised for a domain is not needed any more, unless it is for its next life as well.
    fn give_promise_up(&self, claim: &Claim) {
        if !claim.is_kept() {
            self.frames.redeem(claim, u64::MAX);
        }
    }

    /// Makes some of its vCPUs; answers whether it has all.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn make_some(&self, making: &mut Making<P>) -> Result<bool, Errno> {
        let first = making.vcpus.len() as u32;
        let end = making.config.max_vcpus.min(first + STEP as u32);
        let all = self.keeper.unfinished.vcpus.fetch_add((end - first) as usize, Ordering::Relaxed);
        let all = all + (end - first) as usize;
        let room = self.timers.reserve(all) && self.sched.reserve(all);
        let made = if room { self.make_vcpus(making, first..end) } else { Err(Errno::ENOMEM) };
        // What was made is counted until it goes.
        let missing = end as usize - making.vcpus.len();
        self.keeper.unfinished.vcpus.fetch_sub(missing, Ordering::Relaxed);
        made.map(|()| end == making.config.max_vcpus)
    }

    fn make_vcpus(&self, making: &mut Making<P>, numbers: Range<u32>) -> Result<(), Errno> {
        for n in numbers {
            making.vcpus.push(Vcpu::new(&self.platform, VcpuId(n), &making.config, &making.sched)?);
            self.frames.redeem(&making.claim, VCPU_FRAMES);
        }
        Ok(())
    }

    /// A domain that has all its vCPUs comes into being.
    ///
    /// # Errors
    /// `EEXIST` for an identifier that is in use by now; `ENOMEM`.
    pub(super) fn complete_domain(&self, making: Making<P>) -> Result<Arc<Domain<P>>, Errno> {
        let Some(shared_info) = self.take_frames(Taker::Growth(&making.claim), 0, 0) else {
            self.abandon_domain(making);
            return Err(Errno::ENOMEM);
        };
        let Ok(events) = DomainEvents::new(making.config.max_vcpus) else {
            self.give_back_taken(shared_info, 0);
            self.abandon_domain(making);
            return Err(Errno::ENOMEM);
        };
        self.write_shared_info(shared_info);
        let Making { config, claim, sched, vcpus } = making;
        self.give_promise_up(&claim);
        let domain =
            Arc::new(Domain::new(&self.platform, &config, sched, vcpus, (shared_info, events, claim)));
        self.known_frame(shared_info).set_xen();
        // Not before the identifier is its own: the other domain of that name could map the frame.
        let share = |domain: &Domain<P>| self.share_xen_page(domain, shared_info);
        if let Err(errno) = self.domains.insert(domain.clone(), share) {
            self.frames.free(shared_info, 0);
            self.let_go(Gone::Domain(domain));
            return Err(errno);
        }
        if domain.uses_console_io() {
            self.console_appeared(&domain);
        }
        Ok(domain)
    }

    /// A domain that was begun is not to be.
    #[cold]
    #[inline(never)]
    pub(super) fn abandon_domain(&self, making: Making<P>) {
        self.give_promise_up(&making.claim);
        self.let_go(Gone::Vcpus(making.vcpus));
    }

    /// [`Hypervisor::create_domain`] for a toolstack's vCPU. `None`: this CPU has other work first, and the caller asks for the same
    /// again.
    ///
    /// # Errors
    /// As [`Hypervisor::create_domain`].
    pub(crate) fn create_domain_for(
        &self,
        caller: (DomId, VcpuId),
        config: DomainConfig,
    ) -> Result<Option<Arc<Domain<P>>>, Errno> {
        let known = {
            let mut begun = self.keeper.unfinished.begun.lock();
            begun.iter().position(|begun| begun.by == caller).map(|n| begun.swap_remove(n).making)
        };
        let mut making = match known {
            // What else it is to be matters at the end.
            Some(mut making) if making.config.max_vcpus == config.max_vcpus => {
                making.config = config;
                making
            }
            other => {
                if let Some(other) = other {
                    self.abandon_domain(*other);
                }
                let claim = Arc::default();
                if !self.frames.promise(&claim, promised_frames(config.max_vcpus)) {
                    return Err(Errno::ENOMEM);
                }
                self.begin_domain(config, claim)?
            }
        };
        loop {
            match self.make_some(&mut making) {
                Ok(true) => return self.complete_domain(*making).map(Some),
                Ok(false) if self.platform.work_pending() => {
                    self.keeper.unfinished.begun.lock().push(Begun { by: caller, making });
                    return Ok(None);
                }
                Ok(false) => {}
                Err(errno) => {
                    self.abandon_domain(*making);
                    return Err(errno);
                }
            }
        }
    }

    /// In teardown: what a domain's vCPUs have begun to make is not to be.
    pub(super) fn abandon_domains_of(&self, domain: DomId) {
        let mut begun = self.keeper.unfinished.begun.lock();
        let theirs: Vec<_> = begun.extract_if(.., |begun| begun.by.0 == domain).collect();
        drop(begun);
        theirs.into_iter().for_each(|begun| self.abandon_domain(*begun.making));
    }

    /// Forgets a domain whose teardown is over and that owns nothing, if both are so.
    pub(crate) fn bury_domain(&self, domain: &Arc<Domain<P>>) {
        if let Some(buried) = self.domains.bury(domain) {
            self.let_go(Gone::Domain(buried));
        }
    }

    #[inline(never)]
    fn let_go(&self, gone: Gone<P>) {
        self.keeper.unfinished.gone.lock().push(gone);
        self.keep_from(self.platform.now());
    }

    /// What was kept while a domain was built is not needed any more.
    pub(super) fn let_go_of_extents(&self, extents: Extents) {
        self.let_go(Gone::Extents(extents));
    }

    /// Takes vCPUs and extents away that are gone. Answers when to go on.
    #[inline(never)]
    pub(super) fn take_away_gone(&self) -> Option<Nanos> {
        let now = self.platform.now().0;
        let mut held = Vec::new();
        let next = loop {
            let Some(mut gone) = self.keeper.unfinished.gone.lock().pop() else {
                break (!held.is_empty()).then(|| Nanos(now.saturating_add(RETRY)));
            };
            let vcpus = match &mut gone {
                Gone::Extents(extents) => {
                    if !extents.shrink() {
                        self.keeper.unfinished.gone.lock().push(gone);
                    }
                    if self.platform.work_pending() {
                        break Some(Nanos(now.saturating_add(BREATH)));
                    }
                    continue;
                }
                Gone::Vcpus(vcpus) => Some(vcpus),
                Gone::Domain(domain) => Arc::get_mut(domain).map(|domain| &mut domain.vcpus),
            };
            match vcpus {
                // A CPU still has it in its hands.
                None => held.push(gone),
                Some(vcpus) if vcpus.len() > STEP => {
                    vcpus.truncate(vcpus.len() - STEP);
                    self.keeper.unfinished.vcpus.fetch_sub(STEP, Ordering::Relaxed);
                    self.keeper.unfinished.gone.lock().push(gone);
                }
                Some(vcpus) => {
                    self.keeper.unfinished.vcpus.fetch_sub(vcpus.len(), Ordering::Relaxed);
                    drop(gone);
                }
            }
            if self.platform.work_pending() {
                break Some(Nanos(now.saturating_add(BREATH)));
            }
        };
        self.keeper.unfinished.gone.lock().append(&mut held);
        next
    }

    /// vCPUs of domains that are gone, as far as they still take memory.
    #[cfg(test)]
    pub(super) fn gone_vcpus(&self) -> usize {
        let count = |gone: &Gone<P>| match gone {
            Gone::Domain(domain) => domain.vcpus.len(),
            Gone::Vcpus(vcpus) => vcpus.len(),
            Gone::Extents(_) => 0,
        };
        self.keeper.unfinished.gone.lock().iter().map(count).sum()
    }

    /// Sets `shared_info` to what a domain starts with: all vCPUs have upcalls masked.
    fn write_shared_info(&self, mfn: Mfn) {
        let words = self.platform.words(GuestFrame::held(mfn));
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let masked = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));
        for n in 0..XEN_LEGACY_MAX_VCPUS {
            words[n * size_of::<VcpuInfo>() / 8].store(masked, Ordering::Relaxed);
        }
    }
}
