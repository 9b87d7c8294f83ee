//! Naming interrupts: which number of a domain means which line or message of the machine.

use super::EventError;
use super::pirq::{Mapping, PirqState, PirqTable, Source};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Pirq};
use crate::platform::{Line, MsiRequest, Platform};
use alloc::sync::Arc;
use alloc::vec::Vec;
use xen_abi::errno::Errno;

/// Most vectors of one MSI capability (PCI 3.0, 6.8.1.3).
const MAX_MSI_VECTORS: u32 = 32;
/// Lines below this are never given to a domain that asks for any line.
const FIRST_FREE_GSI: u32 = 16;

/// Which number a guest wants an interrupt to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedPirq {
    /// Any.
    Any,
    /// This one.
    Exactly(u32),
}

/// A set of a domain's numbers: bit `n % 64` of word `n / 64` for number `n`.
#[derive(Default)]
pub(super) struct Numbers(Vec<u64>);

impl Numbers {
    fn word(&self, index: u32) -> u64 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }

    fn has(&self, number: u32) -> bool {
        self.word(number / 64) >> (number % 64) & 1 != 0
    }

    fn insert(&mut self, number: u32) {
        let index = (number / 64) as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        self.0[index] |= 1 << (number % 64);
    }

    fn remove(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut((number / 64) as usize) {
            *word &= !(1 << (number % 64));
        }
    }

    /// The highest number of `from..to` that is not in the set.
    fn highest_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut end = to;
        while from < end {
            let last = end - 1;
            let index = last / 64;
            let free = !self.word(index) & u64::MAX >> (63 - last % 64);
            if free != 0 {
                return Some(index * 64 + free.ilog2()).filter(|number| *number >= from);
            }
            end = index * 64;
        }
        None
    }

    /// The start of the highest `count` consecutive numbers of `from..to` that are not in the set.
    fn highest_free_run(&self, from: u32, to: u32, count: u32) -> Option<u32> {
        let mut found = 0;
        (from..to).rev().find(|number| {
            found = if self.has(*number) { 0 } else { found + 1 };
            found == count
        })
    }

    /// A free pirq: the lowest that is a line's number if a line is wanted and there is one, else the highest.
    fn free_pirq(&self, lines: u32, limit: u32, line: bool) -> Result<u32, EventError> {
        let free_line = (FIRST_FREE_GSI..lines).find(|pirq| line && !self.has(*pirq));
        free_line.or_else(|| self.highest_free(lines, limit)).ok_or(EventError::NoPort)
    }
}

impl PirqState {
    /// A number means something from now on.
    fn map<P: Platform>(&mut self, domain: &Domain<P>, pirq: u32, source: Source) {
        domain.events.pirqs.lock().insert(pirq);
        self.mappings.insert((domain.id, pirq), Mapping::new(source));
    }

    /// The domain's number for an interrupt of the machine.
    fn pirq_of(&self, domain: DomId, irq: Pirq) -> Option<u32> {
        let mut own = self.mappings.range((domain, 0)..=(domain, u32::MAX));
        own.find(|(_, mapping)| mapping.source.irq() == Some(irq)).map(|(guest, _)| guest.1)
    }

    /// Forgets a pirq, bound or not; the last one of a group of messages gives the group back.
    pub(super) fn unmap<P: Platform>(&mut self, platform: &P, domain: &Domain<P>, pirq: u32) {
        let guest = (domain.id, pirq);
        self.leave(platform, guest);
        let Some(mapping) = self.mappings.remove(&guest) else { return };
        domain.events.pirqs.lock().remove(pirq);
        if let Source::Msi { irq, first, count } = mapping.source {
            // The numbers of a group are consecutive, and one domain's.
            let base = pirq.saturating_sub(irq.0 - first.0);
            let is_member = |m: &Mapping| matches!(m.source, Source::Msi { first: f, .. } if f == first);
            let left = |number| self.mappings.get(&(domain.id, number)).is_some_and(is_member);
            if !(base..base + count).any(left) {
                // The platform made it and knows it: it cannot refuse.
                let _ = platform.irq_unmap(first);
            }
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Sets how an IOAPIC line signals (`PHYSDEVOP_setup_gsi`).
    ///
    /// # Errors
    /// `EINVAL` for a line that does not exist, `EPERM` for an unprivileged caller, `EEXIST` for a line in use.
    pub fn setup_gsi(&self, caller: &Domain<P>, gsi: u32, line: Line) -> Result<(), Errno> {
        if gsi >= self.platform.gsi_count() {
            return Err(Errno::EINVAL);
        }
        if !caller.privileged {
            return Err(Errno::EPERM);
        }
        let mut state = self.pirqs.state.lock();
        if state.in_use(Pirq(gsi)) {
            return Err(Errno::EEXIST);
        }
        let busy = |errno| if errno == Errno::EBUSY { Errno::EEXIST } else { errno };
        self.platform.irq_route_gsi(gsi, line).map_err(busy)?;
        state.routed.insert(gsi);
        Ok(())
    }

    /// Who may map interrupts for a domain: the domain that controls the machine.
    fn pirq_target(&self, caller: &Arc<Domain<P>>, dom: DomId) -> Result<Arc<Domain<P>>, EventError> {
        let domain = self.named_domain(caller, dom).ok_or(EventError::NoSuchDomain)?;
        if caller.privileged { Ok(domain) } else { Err(EventError::NotPermitted) }
    }

    /// Gives a domain an IOAPIC line (`PHYSDEVOP_map_pirq`, type GSI); answers the domain's number for it.
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`]; [`EventError::Invalid`] for a line or number that does
    /// not exist; [`EventError::AlreadyBound`] when the domain has the line by another number; [`EventError::NoPort`].
    pub fn map_gsi(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        gsi: i32,
        wanted: WantedPirq,
    ) -> Result<u32, EventError> {
        let domain = self.pirq_target(caller, dom)?;
        let lines = self.platform.gsi_count();
        let gsi = u32::try_from(gsi).ok().filter(|gsi| *gsi < lines).ok_or(EventError::Invalid)?;
        let limit = PirqTable::limit(&self.platform, &domain);
        let mut state = self.pirqs.state.lock();
        // The caller names a line by its own number for it.
        let own = state.mappings.get(&(caller.id, gsi)).and_then(|mapping| mapping.source.irq());
        let irq = own.unwrap_or(Pirq(gsi));
        let current = state.pirq_of(domain.id, irq);
        let pirq = match (wanted, current) {
            (WantedPirq::Any, Some(pirq)) => pirq,
            (WantedPirq::Any, None) => domain.events.pirqs.lock().free_pirq(lines, limit, true)?,
            (WantedPirq::Exactly(pirq), Some(other)) if pirq != other => {
                return Err(EventError::AlreadyBound);
            }
            (WantedPirq::Exactly(pirq), _) => pirq,
        };
        // Line 0 is the hypervisor's timer.
        if irq.0 == 0 || !caller.permissions.read().allows_irq(irq) {
            return Err(EventError::NotPermitted);
        }
        if pirq >= limit {
            return Err(EventError::Invalid);
        }
        // As in Xen, a number that means something else already is not an error, and nothing changes.
        let occupied = state.mappings.get(&(domain.id, pirq)).is_some_and(|m| m.source != Source::Reserved);
        if !occupied {
            domain.permissions.write().irqs.insert(u64::from(irq.0), u64::from(irq.0));
            state.map(&domain, pirq, Source::Gsi(irq));
        }
        Ok(pirq)
    }

    /// Programs a device's MSI or MSI-X entry and gives it to a domain (`PHYSDEVOP_map_pirq`, the MSI types); answers the
    /// domain's number for it, for several vectors the first of consecutive numbers.
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`]; [`EventError::Platform`] with `EDOM` for a number
    /// of vectors that MSI does not have, or with the machine's refusal; [`EventError::Invalid`] for a number that is not
    /// free; [`EventError::NoPort`].
    pub fn map_msi(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        request: &MsiRequest,
        wanted: WantedPirq,
    ) -> Result<u32, EventError> {
        let domain = self.pirq_target(caller, dom)?;
        if request.count == 0 || request.count > MAX_MSI_VECTORS {
            return Err(EventError::Platform(Errno::EDOM));
        }
        let count = request.count.next_power_of_two();
        let lines = self.platform.gsi_count();
        let limit = PirqTable::limit(&self.platform, &domain);
        let mut state = self.pirqs.state.lock();
        let request = MsiRequest { count, ..*request };
        let irq = self.platform.irq_map_msi(&request).map_err(EventError::Platform)?;
        let pirq = match wanted {
            WantedPirq::Any => {
                // The same number on both sides where possible: easier to follow in the logs.
                let numbers = domain.events.pirqs.lock();
                let same = (irq.0..irq.0 + count).all(|n| n < limit && !numbers.has(n));
                let run = || numbers.highest_free_run(lines, limit, count).ok_or(EventError::NoPort);
                if same { Ok(irq.0) } else { run() }
            }
            WantedPirq::Exactly(pirq) => {
                let usable = |n: u32| {
                    let old = state.mappings.get(&(domain.id, n));
                    n < limit && old.is_none_or(|m| m.source == Source::Reserved)
                };
                let end = pirq.saturating_add(count);
                if (pirq..end).all(usable) { Ok(pirq) } else { Err(EventError::Invalid) }
            }
        };
        let pirq = match pirq {
            Ok(pirq) => pirq,
            Err(error) => {
                // Made a moment ago, and nobody knows it yet.
                let _ = self.platform.irq_unmap(irq);
                return Err(error);
            }
        };
        for n in 0..count {
            let source = Source::Msi { irq: Pirq(irq.0 + n), first: irq, count };
            state.map(&domain, pirq + n, source);
        }
        Ok(pirq)
    }

    /// Takes an interrupt from a domain (`PHYSDEVOP_unmap_pirq`). A port bound to it stays, silent. As in Xen, the right to
    /// use a line goes with it, even where the domain does that to itself.
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`]; [`EventError::Invalid`] for a pirq that is not mapped;
    /// [`EventError::Busy`] for one of several vectors that is not the first.
    pub fn unmap_pirq(&self, caller: &Arc<Domain<P>>, dom: DomId, pirq: i32) -> Result<(), EventError> {
        let domain = self.pirq_target(caller, dom)?;
        let pirq = u32::try_from(pirq).map_err(|_| EventError::Invalid)?;
        let mut state = self.pirqs.state.lock();
        let source = state.mappings.get(&(domain.id, pirq)).ok_or(EventError::Invalid)?.source;
        match source {
            Source::Reserved => return Err(EventError::Invalid),
            Source::Msi { irq, first, .. } if irq != first => return Err(EventError::Busy),
            Source::Msi { count, .. } => {
                (0..count).for_each(|n| state.unmap(&self.platform, &domain, pirq + n));
            }
            Source::Gsi(irq) => {
                state.unmap(&self.platform, &domain, pirq);
                domain.permissions.write().irqs.remove(u64::from(irq.0), u64::from(irq.0));
            }
        }
        Ok(())
    }

    /// Reserves a number for an interrupt that the domain will map later (`PHYSDEVOP_get_free_pirq`). As in Xen any domain may, as often
    /// as it has numbers.
    ///
    /// # Errors
    /// [`EventError::NoPort`] when none is free.
    pub fn reserve_pirq(&self, domain: &Domain<P>, line: bool) -> Result<u32, EventError> {
        let lines = self.platform.gsi_count();
        let mut state = self.pirqs.state.lock();
        let limit = PirqTable::limit(&self.platform, domain);
        let pirq = domain.events.pirqs.lock().free_pirq(lines, limit, line)?;
        state.map(domain, pirq, Source::Reserved);
        Ok(pirq)
    }
}
