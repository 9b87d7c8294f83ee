//! Physical interrupts: which domains serve them, and when a line may signal again.
//!
//! A domain knows an interrupt by a *pirq*, its own number, which `pirq_map` maps to the machine's number. Several
//! domains may share one level-triggered line if all of them said so.
//!
//! # Invariants
//!
//! - A line is unmasked exactly while a guest is bound to it and no bound guest owes an acknowledgement. The platform
//!   hands level-triggered interrupts over masked; the last acknowledgement unmasks.
//! - A guest of a line that may be shared owes its acknowledgement for [`ACKNOWLEDGEMENT_TIME`] only, as in Xen: then the line may
//!   signal again, whether the guest has served it or not. The CPU that took the interrupt sees to that.
//! - A level-triggered line signals [`MOST_IN_BURST`] times in [`BURST_TIME`] at most: a guest may acknowledge without having its device
//!   fall silent, and the line would signal at once for ever, on a CPU that others have a share of. It stays masked for the rest of the
//!   time then, as an overdue one does, and as Xen does it (`irq_ratelimit=`).
//! - A domain's `DomainEvents::pirqs` has exactly its numbers of `mappings`, so that a free number is found without a look at each
//!   mapping. It changes with the table's lock held.
//! - The table's lock is the innermost one of the event channels; no event is sent while it is held.

use super::slot::{Binding, MAX_NUMBER};
use super::{EventError, Progress};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{CpuId, DomId, Mfn, Nanos, Pirq, Port, VcpuId};
use crate::platform::{GuestFrame, Line, Platform, Work};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use spin::Mutex;
use xen_abi::errno::Errno;

/// Most domains that share one line.
const MAX_SHARERS: usize = 8;
/// Interrupts that one call of [`Hypervisor::deliver_pirqs`] delivers before it lets the CPU look at other work.
const DELIVERY_BATCH: u32 = 256;
/// Pirqs beyond the IOAPIC lines, for MSIs.
const MSI_PIRQS: u32 = 1024;
/// The same for a domain that does not control the machine (Xen's default of `extra_guest_irqs=`).
const GUEST_MSI_PIRQS: u32 = 32;
/// How long the guests of a shared line are waited for, in nanoseconds.
const ACKNOWLEDGEMENT_TIME: u64 = 1_000_000;
/// Most interrupts of a level-triggered line in [`BURST_TIME`].
const MOST_IN_BURST: u32 = 64;
/// See [`MOST_IN_BURST`]; in nanoseconds.
const BURST_TIME: u64 = 1_000_000;
/// Pirqs that a teardown takes away before it looks for other work.
const RELEASE_STEP: usize = 32;
/// IOAPIC lines below this are the ISA bus's: edge-triggered and active high unless ACPI or a guest says otherwise.
const ISA_LINES: u32 = 16;

/// The interrupts of the machine's devices and the guests bound to them.
pub struct PirqTable<P: Platform> {
    pub(super) state: Mutex<PirqState>,
    platform: PhantomData<fn() -> P>,
}

/// What the lock of [`PirqTable`] guards.
pub(super) struct PirqState {
    /// What each pirq of each domain is.
    pub mappings: BTreeMap<(DomId, u32), Mapping>,
    /// The guests of each interrupt of the machine that has any.
    lines: BTreeMap<Pirq, Sharers>,
    /// Lines that wait, those that may be shared for an acknowledgement, others because they came too often; and when they signal again
    /// in any case.
    waiting: Vec<(Pirq, Nanos)>,
    /// How often level-triggered lines came, and since when that is counted.
    bursts: Vec<(Pirq, Nanos, u32)>,
    /// IOAPIC lines whose trigger mode was set.
    pub routed: BTreeSet<u32>,
    /// Pages in which domains look up which of their pirqs need an acknowledgement.
    eoi_maps: BTreeMap<DomId, EoiMap>,
}

/// A pirq of a domain.
pub(super) struct Mapping {
    pub source: Source,
    /// The port bound to it.
    pub port: Option<Port>,
    /// The guest was told of an interrupt and must acknowledge it.
    unacknowledged: bool,
}

/// Where a pirq comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The number is taken (`PHYSDEVOP_get_free_pirq`), nothing more.
    Reserved,
    /// An IOAPIC line.
    Gsi(Pirq),
    /// A message-signalled interrupt; `first` is the first of `count` that were made together.
    Msi { irq: Pirq, first: Pirq, count: u32 },
}

impl Source {
    /// The machine's number.
    pub fn irq(self) -> Option<Pirq> {
        match self {
            Source::Reserved => None,
            Source::Gsi(irq) | Source::Msi { irq, .. } => Some(irq),
        }
    }
}

impl Mapping {
    pub fn new(source: Source) -> Self {
        Self { source, port: None, unacknowledged: false }
    }
}

/// The guests bound to one interrupt.
struct Sharers {
    shared: bool,
    guests: Vec<(DomId, u32)>,
    /// Guests that must acknowledge before the line may signal again.
    owing: u32,
}

/// A domain's page with a bit per pirq, set when the pirq needs `PHYSDEVOP_eoi`.
struct EoiMap {
    page: Mfn,
    /// Acknowledging unmasks the port too (version 1 of the interface).
    unmasks: bool,
}

/// One event that an interrupt causes.
struct Target {
    domain: DomId,
    port: Port,
    pirq: u32,
}

impl<P: Platform> PirqTable<P> {
    /// No interrupt is mapped.
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(PirqState {
                mappings: BTreeMap::new(),
                lines: BTreeMap::new(),
                waiting: Vec::new(),
                bursts: Vec::new(),
                routed: BTreeSet::new(),
                eoi_maps: BTreeMap::new(),
            }),
            platform: PhantomData,
        }
    }

    /// One more than the highest pirq that a domain may have.
    pub fn limit(platform: &P, domain: &Domain<P>) -> u32 {
        let messages = if domain.privileged { MSI_PIRQS } else { GUEST_MSI_PIRQS };
        platform.gsi_count().saturating_add(messages).min(MAX_NUMBER)
    }

    /// The machine's number of the interrupt that is mapped as a domain's pirq.
    pub fn irq_of(&self, domain: DomId, pirq: u32) -> Option<Pirq> {
        self.state.lock().mappings.get(&(domain, pirq))?.source.irq()
    }

    /// The port that a domain bound to its pirq.
    pub(super) fn port(&self, domain: DomId, pirq: u32) -> Option<Port> {
        self.state.lock().mappings.get(&(domain, pirq))?.port
    }
}

impl<P: Platform> Default for PirqTable<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl PirqState {
    /// Notes that an interrupt arrived, a level-triggered one when its guests are to be waited for until `wait_until`. Answers the
    /// events it causes, and whether the wait has that end.
    fn arrived(&mut self, irq: Pirq, wait_until: Option<Nanos>) -> ([Option<Target>; MAX_SHARERS], bool) {
        let mut targets = [const { None }; MAX_SHARERS];
        let Some(line) = self.lines.get_mut(&irq) else { return (targets, false) };
        for (target, guest) in targets.iter_mut().zip(&line.guests) {
            let Some(mapping) = self.mappings.get_mut(guest) else { continue };
            if wait_until.is_some() && !mapping.unacknowledged {
                mapping.unacknowledged = true;
                line.owing += 1;
            }
            *target = mapping.port.map(|port| Target { domain: guest.0, port, pirq: guest.1 });
        }
        let Some(until) = wait_until.filter(|_| line.shared && line.owing != 0) else {
            return (targets, false);
        };
        self.wait(irq, until);
        (targets, true)
    }

    fn wait(&mut self, irq: Pirq, until: Nanos) {
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == irq) {
            Some((_, at)) => *at = until,
            None => self.waiting.push((irq, until)),
        }
    }

    /// Counts an interrupt of a level-triggered line.
    fn note_burst(&mut self, irq: Pirq, now: Nanos) {
        match self.bursts.iter_mut().find(|(counted, ..)| *counted == irq) {
            Some((_, since, count)) if now.0 < since.0.saturating_add(BURST_TIME) => *count += 1,
            Some(burst) => *burst = (irq, now, 1),
            None => self.bursts.push((irq, now, 1)),
        }
    }

    /// A line may signal again, as far as its guests are concerned. Answers when, if it came too often to do so now.
    fn unmask<P: Platform>(&mut self, platform: &P, irq: Pirq) -> Option<Nanos> {
        let burst = self.bursts.iter().find(|(counted, _, count)| *counted == irq && *count >= MOST_IN_BURST);
        let end = burst.map(|(_, since, _)| Nanos(since.0.saturating_add(BURST_TIME)));
        let later = end.filter(|end| platform.now() < *end);
        match later {
            Some(end) => self.wait(irq, end),
            None => platform.irq_unmask(irq),
        }
        later
    }

    /// Lines whose guests had their time by `now` may signal again. Answers when the next line is overdue.
    fn end_waits<P: Platform>(&mut self, platform: &P, now: Nanos) -> Option<Nanos> {
        let mut next: Option<Nanos> = None;
        let mut index = 0;
        while let Some((irq, at)) = self.waiting.get(index).copied() {
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
                index += 1;
                continue;
            }
            self.waiting.swap_remove(index);
            let Some(line) = self.lines.get_mut(&irq) else { continue };
            for guest in &line.guests {
                if let Some(mapping) = self.mappings.get_mut(guest) {
                    mapping.unacknowledged = false;
                }
            }
            line.owing = 0;
            platform.irq_unmask(irq);
        }
        next
    }

    /// A guest owes nothing any more; answers the line that may signal again because of that.
    fn acknowledge(&mut self, guest: (DomId, u32)) -> Option<Pirq> {
        let mapping = self.mappings.get_mut(&guest)?;
        if !core::mem::take(&mut mapping.unacknowledged) {
            return None;
        }
        let irq = mapping.source.irq()?;
        let line = self.lines.get_mut(&irq)?;
        line.owing = line.owing.saturating_sub(1);
        if line.owing != 0 {
            return None;
        }
        if let Some(index) = self.waiting.iter().position(|(waiting, _)| *waiting == irq) {
            self.waiting.swap_remove(index);
        }
        Some(irq)
    }

    /// Adds a guest to the sharers of a line; answers whether it is the first.
    fn join(&mut self, irq: Pirq, guest: (DomId, u32), share: bool) -> Result<bool, EventError> {
        match self.lines.get_mut(&irq) {
            None => {
                self.lines.insert(irq, Sharers { shared: share, guests: alloc::vec![guest], owing: 0 });
                Ok(true)
            }
            Some(line) if share && line.shared && line.guests.len() < MAX_SHARERS => {
                line.guests.push(guest);
                Ok(false)
            }
            Some(_) => Err(EventError::Busy),
        }
    }

    /// Takes a guest out of the sharers of a line and changes the line's mask to what that calls for.
    pub fn leave<P: Platform>(&mut self, platform: &P, guest: (DomId, u32)) {
        let ready = self.acknowledge(guest);
        let Some(mapping) = self.mappings.get_mut(&guest) else { return };
        mapping.port = None;
        let Some(irq) = mapping.source.irq() else { return };
        let Some(line) = self.lines.get_mut(&irq) else { return };
        line.guests.retain(|other| *other != guest);
        if line.guests.is_empty() {
            self.lines.remove(&irq);
            self.waiting.retain(|(waiting, _)| *waiting != irq);
            platform.irq_mask(irq);
        } else if let Some(irq) = ready {
            platform.irq_unmask(irq);
        }
    }

    /// Writes a pirq's bit in the domain's page, if it has one.
    fn publish_eoi<P: Platform>(&self, platform: &P, guest: (DomId, u32), needs_eoi: bool) {
        let Some(map) = self.eoi_maps.get(&guest.0) else { return };
        let Some(word) = platform.words(GuestFrame::held(map.page)).get(guest.1 as usize / 64) else {
            return;
        };
        let bit = 1 << (guest.1 % 64);
        if needs_eoi {
            word.fetch_or(bit, Ordering::SeqCst);
        } else {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether somebody is bound to this interrupt.
    pub fn in_use(&self, irq: Pirq) -> bool {
        self.lines.contains_key(&irq)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Sends the events of all interrupts that arrived on this CPU. To be called when [`Work::IRQ`] was raised.
    pub fn deliver_pirqs(&self) {
        let cpu = self.platform.this_cpu();
        let (mut rearm, mut more) = (false, true);
        for _ in 0..DELIVERY_BATCH {
            let Some(irq) = self.platform.irq_take() else {
                more = false;
                break;
            };
            let level = self.platform.irq_needs_eoi(irq);
            let wait_until = level.then(|| Nanos(self.platform.now().0.saturating_add(ACKNOWLEDGEMENT_TIME)));
            let (targets, waits) = {
                let mut state = self.pirqs.state.lock();
                if level {
                    state.note_burst(irq, self.platform.now());
                }
                state.arrived(irq, wait_until)
            };
            rearm |= wait_until.is_some_and(|at| waits && self.timers.expect_line(cpu, at));
            for target in targets.iter().flatten() {
                // A domain that is not found is being torn down, which acknowledges for it.
                if let Some(domain) = self.domains.get(target.domain) {
                    self.send_bound(&domain, target.port, Binding::Pirq(target.pirq));
                }
            }
        }
        if rearm {
            self.rearm_timer();
        }
        if more {
            self.platform.raise_work(cpu, Work::IRQ);
        }
    }

    /// Lets lines signal again that waited long enough. Answers when the next line is due.
    pub(crate) fn end_waits_for_guests(&self, now: Nanos) -> Option<Nanos> {
        self.pirqs.state.lock().end_waits(&self.platform, now)
    }

    /// Whether a domain may bind its pirq to a port.
    pub(super) fn may_bind_pirq(&self, domain: &Domain<P>, pirq: u32) -> Result<(), EventError> {
        if pirq >= PirqTable::limit(&self.platform, domain) {
            return Err(EventError::Invalid);
        }
        let state = self.pirqs.state.lock();
        let source = state.mappings.get(&(domain.id, pirq)).map(|m| m.source);
        match source.ok_or(EventError::NotPermitted)? {
            Source::Msi { .. } => Ok(()),
            Source::Gsi(irq) if domain.permissions.read().allows_irq(irq) => Ok(()),
            _ => Err(EventError::NotPermitted),
        }
    }

    /// Lets an interrupt signal at a port from now on. The caller holds the domain's mutex.
    pub(super) fn attach_pirq(
        &self,
        domain: &Domain<P>,
        pirq: u32,
        port: Port,
        share: bool,
    ) -> Result<(), EventError> {
        let guest = (domain.id, pirq);
        let mut state = self.pirqs.state.lock();
        let source = state.mappings.get(&guest).ok_or(EventError::Invalid)?.source;
        let irq = source.irq().ok_or(EventError::Invalid)?;
        if let Source::Gsi(line) = source
            && !state.routed.contains(&line.0)
        {
            self.platform.irq_route_gsi(line.0, self.line_at_boot(line.0)).map_err(EventError::Platform)?;
            state.routed.insert(line.0);
        }
        let first = state.join(irq, guest, share)?;
        if let Some(mapping) = state.mappings.get_mut(&guest) {
            mapping.port = Some(port);
        }
        state.publish_eoi(&self.platform, guest, self.platform.irq_needs_eoi(irq));
        let later = if first { state.unmask(&self.platform, irq) } else { None };
        drop(state);
        self.expect_line(later);
        Ok(())
    }

    /// How a line signals that no guest has set up.
    fn line_at_boot(&self, gsi: u32) -> Line {
        let pci = gsi >= ISA_LINES;
        let overridden = self.machine.isa_overrides.iter().find(|o| o.gsi == gsi);
        overridden.map_or(Line { level: pci, active_low: pci }, |o| o.line)
    }

    /// Lets the interrupt behind a pirq arrive where the vCPU runs that its events notify.
    pub(super) fn steer_pirq(&self, domain: &Domain<P>, pirq: u32, vcpu: VcpuId) {
        let Some(vcpu) = domain.vcpu(vcpu) else { return };
        let irq = self.pirqs.state.lock().mappings.get(&(domain.id, pirq)).and_then(|m| m.source.irq());
        if let Some(irq) = irq {
            self.platform.irq_set_cpu(irq, CpuId(vcpu.cpu.load(Ordering::Relaxed)));
        }
    }

    /// Undoes [`Self::attach_pirq`].
    pub(super) fn detach_pirq(&self, domain: &Domain<P>, pirq: u32) {
        self.pirqs.state.lock().leave(&self.platform, (domain.id, pirq));
    }

    /// The guest has served an interrupt (`PHYSDEVOP_eoi`).
    ///
    /// # Errors
    /// `EINVAL` for a pirq that is not mapped.
    pub fn acknowledge_pirq(&self, domain: &Arc<Domain<P>>, pirq: u32) -> Result<(), Errno> {
        let guest = (domain.id, pirq);
        let (port, unmasks) = {
            let state = self.pirqs.state.lock();
            let mapping = state.mappings.get(&guest).ok_or(Errno::EINVAL)?;
            (mapping.port, state.eoi_maps.get(&domain.id).is_some_and(|map| map.unmasks))
        };
        if let Some(port) = port.filter(|_| unmasks) {
            // The port was bound a moment ago: nothing to report if it is not any more.
            let _ = self.unmask_event(domain, port);
        }
        let mut state = self.pirqs.state.lock();
        let later = state.acknowledge(guest).and_then(|irq| state.unmask(&self.platform, irq));
        drop(state);
        self.expect_line(later);
        Ok(())
    }

    /// This CPU is to let a line signal again at this time, if there is one.
    fn expect_line(&self, at: Option<Nanos>) {
        if at.is_some_and(|at| self.timers.expect_line(self.platform.this_cpu(), at)) {
            self.rearm_timer();
        }
    }

    /// Takes every pirq as served whose port the guest has unmasked (`PHYSDEVOP_IRQ_UNMASK_NOTIFY`).
    pub fn acknowledge_unmasked_pirqs(&self, domain: &Arc<Domain<P>>) {
        let range = (domain.id, 0)..=(domain.id, u32::MAX);
        let owed: Vec<(u32, Port)> = {
            let state = self.pirqs.state.lock();
            let owing = state.mappings.range(range).filter(|(_, mapping)| mapping.unacknowledged);
            owing.filter_map(|(guest, mapping)| Some((guest.1, mapping.port?))).collect()
        };
        for (pirq, port) in owed {
            if !self.event_is_masked(domain, port) {
                // It was mapped a moment ago: nothing to acknowledge if it is not any more.
                let _ = self.acknowledge_pirq(domain, pirq);
            }
        }
    }

    /// Whether other guests are bound to the interrupt behind a pirq (`PHYSDEVOP_irq_status_query`).
    pub fn pirq_is_shared(&self, domain: &Domain<P>, pirq: u32) -> bool {
        let state = self.pirqs.state.lock();
        let irq = state.mappings.get(&(domain.id, pirq)).and_then(|mapping| mapping.source.irq());
        irq.and_then(|irq| state.lines.get(&irq)).is_some_and(|line| line.guests.len() > 1)
    }

    /// Gives a domain a page with a bit per pirq, set while that pirq needs `PHYSDEVOP_eoi`
    /// (`PHYSDEVOP_pirq_eoi_gmfn_v1` and `_v2`). `unmasks`: acknowledging shall unmask the port too (version 1).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a frame that the domain cannot write, [`EventError::Busy`] when it has such a page already;
    /// [`EventError::Restart`].
    pub fn set_eoi_page(&self, domain: &Domain<P>, page: Mfn, unmasks: bool) -> Result<(), EventError> {
        self.get_event_page(domain, page)?;
        let mut state = self.pirqs.state.lock();
        if state.eoi_maps.contains_key(&domain.id) {
            drop(state);
            self.put_page_and_type(page);
            return Err(EventError::Busy);
        }
        state.eoi_maps.insert(domain.id, EoiMap { page, unmasks });
        let range = (domain.id, 0)..=(domain.id, u32::MAX);
        for (guest, mapping) in state.mappings.range(range).filter(|(_, m)| m.port.is_some()) {
            let needs_eoi = mapping.source.irq().is_some_and(|irq| self.platform.irq_needs_eoi(irq));
            state.publish_eoi(&self.platform, *guest, needs_eoi);
        }
        Ok(())
    }

    /// Gives back everything that a domain in teardown has of interrupts; its ports are closed. In steps, for a domain may have many
    /// numbers, and all others need the lock.
    pub(super) fn release_pirqs(&self, domain: &Domain<P>) -> Progress {
        let range = (domain.id, 0)..=(domain.id, u32::MAX);
        loop {
            let mut state = self.pirqs.state.lock();
            let numbers = state.mappings.range(range.clone()).map(|(guest, _)| guest.1);
            let step: Vec<u32> = numbers.take(RELEASE_STEP).collect();
            if step.is_empty() {
                let map = state.eoi_maps.remove(&domain.id);
                drop(state);
                if let Some(map) = map {
                    self.put_page_and_type(map.page);
                }
                return Progress::Finished;
            }
            step.iter().for_each(|pirq| state.unmap(&self.platform, domain, *pirq));
            drop(state);
            if self.platform.work_pending() {
                return Progress::Preempted;
            }
        }
    }
}
