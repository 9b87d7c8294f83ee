//! Making, filling and starting the domains that the keeper keeps.

use super::{End, KEEPING_CPU, Keeping, Kept, Link, Plan, Service, State, Unpacked};
use crate::Hypervisor;
use crate::builder::{BuildError, DomainSource, Filling, Served, unpack_kernel};
use crate::description::{Channel, Description, When};
use crate::domain::{Domain, DomainConfig};
use crate::event::slot::Binding;
use crate::ids::{DomId, Nanos};
use crate::order::sort_few;
use crate::permissions::Permissions;
use crate::platform::{Platform, Work};
use crate::sched::DEFAULT_WEIGHT;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::xen::DOMID_SELF;

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
        keeping.services = services(&plans);
        let kept = |(plan, id)| Kept {
            plan,
            id,
            kernel: None,
            state: State::Over,
            since: Nanos(0),
            restarts: 0,
            claim: Arc::default(),
            waits_until: None,
            last: false,
        };
        let ids = identifiers(&plans);
        keeping.kept = plans.into_iter().zip(ids).map(kept).collect();
        let first = self.make_all(keeping, dom0.is_some())?;
        (0..keeping.kept.len()).for_each(|index| self.link(keeping, index));
        (0..keeping.kept.len()).for_each(|index| self.offer(keeping, index));
        self.fill_all(keeping);
        if let Some(domain) = first {
            self.start_dom0(keeping, &domain, dom0)?;
        }
        self.start_others(keeping);
        Ok(())
    }

    /// Makes all domains, without memory; answers the first one, if there is to be one.
    fn make_all(
        &self,
        keeping: &mut Keeping<P>,
        with_dom0: bool,
    ) -> Result<Option<Arc<Domain<P>>>, BuildError> {
        let mut first = if with_dom0 { Some(self.empty_dom0()?) } else { None };
        for kept in &mut keeping.kept {
            match self.make_kept(kept, &keeping.denied) {
                Ok(domain) => kept.state = State::Runs(domain),
                Err(error) if kept.id == DomId(0) => return Err(error),
                Err(error) => self.left_out(kept, &error),
            }
            first = first.or_else(|| kept.running().filter(|domain| domain.id == DomId(0)));
        }
        // It is not complete, but what is typed is for it.
        first.iter().for_each(|domain| self.console_appeared(domain));
        Ok(first)
    }

    /// Starts all domains but the first.
    fn start_others(&self, keeping: &mut Keeping<P>) {
        let now = self.platform.now();
        for kept in keeping.kept.iter_mut().filter(|kept| kept.id != DomId(0)) {
            if let State::Runs(domain) = &kept.state {
                kept.since = now;
                self.start(domain);
            }
            // The modules of those that are never built again may go.
            if kept.plan.description.restart.when == When::Never {
                (kept.plan.image, kept.plan.initrd) = (&[], None);
            }
        }
        self.platform.raise_work(KEEPING_CPU, Work::TIMER);
    }

    /// Fills all domains but the first. Those with the same kernel are filled one after the other, so that it is unpacked once. It is
    /// kept for domains that may be started again: unpacking cannot be done in steps.
    fn fill_all(&self, keeping: &mut Keeping<P>) {
        let mut order: Vec<usize> =
            (0..keeping.kept.len()).filter(|n| keeping.kept[*n].id != DomId(0)).collect();
        sort_few(&mut order, |n| keeping.kept[*n].plan.image.as_ptr() as usize);
        let mut unpacked: Option<(&'static [u8], Unpacked)> = None;
        for index in order {
            let State::Runs(domain) = &keeping.kept[index].state else { continue };
            let domain = domain.clone();
            let image = keeping.kept[index].plan.image;
            if unpacked.as_ref().is_none_or(|(packed, _)| !core::ptr::eq(*packed, image)) {
                // Two unpacked kernels at a time may be too many.
                drop(unpacked.take());
                unpacked = unpack_kernel(image).ok().map(|kernel| (image, Arc::new(kernel)));
            }
            let kernel = unpacked.as_ref().map(|(_, kernel)| kernel.clone());
            let filled = self.fill_at_once(keeping, index, &domain, kernel.as_deref());
            let kept = &mut keeping.kept[index];
            if self.filled(kept, filled) && kept.plan.description.restart.when != When::Never {
                kept.kernel = kernel;
                self.frames.keep_claim(&kept.claim);
                self.frames.owe(&kept.claim, kept.promised());
            }
        }
    }

    fn fill_at_once(
        &self,
        keeping: &Keeping<P>,
        index: usize,
        domain: &Arc<Domain<P>>,
        kernel: Option<&Cow<'static, [u8]>>,
    ) -> Result<(), BuildError> {
        let image: &[u8] = kernel.map_or(keeping.kept[index].plan.image, |kernel| kernel);
        let mut filling = self.begin_kept(keeping, index, image)?;
        self.fill_some(domain, &mut filling, image, || false).map(|_| ())
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
    pub(super) fn filled(&self, kept: &mut Kept<P>, result: Result<(), BuildError>) -> bool {
        let Err(error) = result else { return true };
        self.left_out(kept, &error);
        if let State::Runs(domain) | State::Builds(domain, _) = &kept.state {
            // Whatever its description says: it would go the same way again.
            kept.plan.description.restart.when = When::Never;
            kept.state = State::Ends(domain.clone(), End::Killed, domain.pages.current());
            self.keep_from(self.platform.now());
        }
        false
    }

    pub(super) fn left_out(&self, kept: &Kept<P>, error: &BuildError) {
        let name = &kept.plan.description.name;
        self.log(format_args!("Domain {} ({name}) cannot be built and is left out: {error}\n", kept.id.0));
    }

    /// The domain itself, still without memory.
    fn make_kept(&self, kept: &Kept<P>, denied: &Permissions) -> Result<Arc<Domain<P>>, BuildError> {
        let about = &kept.plan.description;
        if kept.id != DomId(0) {
            let domain = self.create_with(&described(kept.id, about), kept.claim.clone())?;
            self.equip(&domain, about, denied)?;
            return Ok(domain);
        }
        let domain = self.empty_dom0()?;
        self.set_domain_sched(&domain, about.weight.unwrap_or(DEFAULT_WEIGHT), about.cap)?;
        for vcpu in domain.vcpu_refs() {
            if let Some(cpus) = &about.cpus {
                self.set_affinity(&vcpu, cpus)?;
            }
        }
        Ok(domain)
    }

    /// Gives a described domain, which is not the first one, its rights and its share of the CPUs.
    pub(super) fn equip(
        &self,
        domain: &Arc<Domain<P>>,
        about: &Description,
        denied: &Permissions,
    ) -> Result<(), Errno> {
        {
            let mut permissions = domain.permissions.write();
            about.iomem.iter().for_each(|(first, last)| permissions.iomem.insert(*first, *last));
            about.ioports.iter().for_each(|(first, last)| permissions.ioports.insert(*first, *last));
            about.irqs.iter().for_each(|irq| permissions.irqs.insert(*irq, *irq));
            permissions.take_away(denied);
        }
        self.set_domain_sched(domain, about.weight.unwrap_or(DEFAULT_WEIGHT), about.cap)
    }

    /// Begins to fill a kept domain from its kernel.
    pub(super) fn begin_kept(
        &self,
        keeping: &Keeping<P>,
        index: usize,
        image: &[u8],
    ) -> Result<Filling, BuildError> {
        let Kept { plan, claim, .. } = &keeping.kept[index];
        let cmdline = command_line(keeping, index);
        let source = DomainSource { image, initrd: None, cmdline: &cmdline, video: None };
        let service = keeping.services.iter().find(|service| service.domain == index);
        let served = service.and_then(|service| {
            let by = keeping.kept[service.by].id;
            service.store.map(|store| Served { by, store, console: service.console })
        });
        self.begin_filling(&source, plan.initrd, (plan.description.pages, claim), served)
    }

    /// Lets a domain that is complete run.
    pub(super) fn start(&self, domain: &Arc<Domain<P>>) {
        domain.vcpu_refs().take(1).for_each(|vcpu| {
            self.bring_up(&vcpu);
        });
        // The first domain is not paused any more.
        let _ = self.unpause_domain(domain);
        let (pages, vcpus) = (domain.pages.current() >> 8, domain.vcpus.len());
        self.log(format_args!("Domain {} ({}): {pages} MiB, {vcpus} vCPUs\n", domain.id.0, domain.name));
    }

    /// Makes a domain's ends of its channels, bound where the other end waits for it.
    pub(super) fn link(&self, keeping: &mut Keeping<P>, index: usize) {
        let Keeping { kept, links, .. } = keeping;
        let State::Runs(domain) = &kept[index].state else { return };
        for link in links {
            let Some(end) = link.domains.iter().position(|n| *n == index) else { continue };
            let peer = &kept[link.domains[1 - end]];
            let far = link.ports[1 - end].filter(|port| match &peer.state {
                State::Runs(peer) | State::Builds(peer, _) => {
                    peer.events.binding(*port) == Some(Binding::Unbound(domain.id))
                }
                _ => false,
            });
            let bound = far.and_then(|far| self.bind_interdomain(domain, peer.id, far).ok());
            let port = bound.or_else(|| self.alloc_unbound(domain, DomId(DOMID_SELF), peer.id).ok());
            link.ports[end] = port;
        }
    }

    /// Makes the ports by which a domain and the one that serves it tell each other of the domain's rings. They are the same after
    /// each start of the domain, so that the server finds them again.
    pub(super) fn offer(&self, keeping: &mut Keeping<P>, index: usize) {
        let Keeping { kept, services, .. } = keeping;
        let State::Runs(domain) = &kept[index].state else { return };
        for service in services.iter_mut().filter(|service| service.domain == index) {
            let port = || self.alloc_unbound(domain, DomId(DOMID_SELF), kept[service.by].id).ok();
            service.store = port();
            service.console = if kept[index].plan.description.devices.console { port() } else { None };
            if service.console.is_some() {
                self.console_served(domain.id, kept[service.by].id);
            }
        }
    }
}

/// What a described domain that is not the first one is made with.
pub(super) fn described(id: DomId, about: &Description) -> DomainConfig {
    DomainConfig {
        privileged: about.privileged,
        max_vcpus: about.vcpus,
        affinity: about.cpus,
        max_pages: about.pages,
        name: about.name.clone(),
        console_io: about.console_io,
        max_evtchn_port: Some(about.max_port),
        ..DomainConfig::new(id)
    }
}

/// Who serves whom.
fn services(plans: &[Plan]) -> Vec<Service> {
    let server = |plan: &Plan| {
        let name = plan.description.devices.served_by.as_ref()?;
        plans.iter().position(|other| other.description.name == *name)
    };
    let service = |(domain, plan)| server(plan).map(|by| Service { domain, by, store: None, console: None });
    plans.iter().enumerate().filter_map(service).collect()
}

/// An identifier for each domain: its own, or the lowest from 1 on that nobody else wants.
fn identifiers(plans: &[Plan]) -> Vec<DomId> {
    let wanted: Vec<u16> = plans.iter().filter_map(|plan| plan.description.id).collect();
    let mut free = (1..).filter(|id| !wanted.contains(id));
    plans.iter().map(|plan| DomId(plan.description.id.or_else(|| free.next()).unwrap_or(0))).collect()
}

/// The command line, with the ports of the channels behind, and for each domain that this one serves, behind
/// `paravane.domain=<its own identifier>`, `paravane.serve=<name>:<identifier>:<port of its xenstore>:<port of its console, or 0>`.
fn command_line<P: Platform>(keeping: &Keeping<P>, index: usize) -> String {
    let mut line = keeping.kept[index].plan.description.cmdline.clone();
    for link in &keeping.links {
        let Some(end) = link.domains.iter().position(|n| *n == index) else { continue };
        let peer = &keeping.kept[link.domains[1 - end]].plan.description.name;
        if let Some(port) = link.ports[end] {
            line += &format!(" paravane.channel.{peer}={}", port.0);
        }
    }
    if keeping.services.iter().any(|service| service.by == index) {
        line += &format!(" paravane.domain={}", keeping.kept[index].id.0);
    }
    for service in keeping.services.iter().filter(|service| service.by == index) {
        let served = &keeping.kept[service.domain];
        if let Some(store) = service.store {
            let (name, console) = (&served.plan.description.name, service.console.map_or(0, |port| port.0));
            line += &format!(" paravane.serve={name}:{}:{}:{console}", served.id.0, store.0);
        }
    }
    line.trim_start().into()
}
