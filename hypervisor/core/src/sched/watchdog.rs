//! Watchdogs of domains (`SCHEDOP_watchdog`) and the reasons for ending that they announced (`SCHEDOP_shutdown_code`).

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{CpuId, DomId, Nanos};
use crate::platform::{Platform, Work};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use xen_abi::errno::Errno;
use xen_abi::sched::SHUTDOWN_WATCHDOG;

/// Watchdogs of each domain.
const PER_DOMAIN: usize = 2;
/// The CPU whose timer serves the watchdogs.
const WATCHDOG_CPU: CpuId = CpuId(0);
/// No watchdog is set.
const NEVER: u64 = u64::MAX;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The watchdogs and announcements of all domains.
pub struct Watchdogs<P: Platform> {
    table: Mutex<BTreeMap<DomId, Entry<P>>>,
    /// Earliest deadline of all watchdogs.
    next: AtomicU64,
}

struct Entry<P: Platform> {
    domain: Arc<Domain<P>>,
    deadlines: [Option<Nanos>; PER_DOMAIN],
    /// The reason that the domain announced for its ending.
    announced: Option<u32>,
}

impl<P: Platform> Entry<P> {
    fn new(domain: &Arc<Domain<P>>) -> Self {
        Self { domain: domain.clone(), deadlines: [None; PER_DOMAIN], announced: None }
    }
}

impl<P: Platform> Watchdogs<P> {
    pub(super) const fn new() -> Self {
        Self { table: Mutex::new(BTreeMap::new()), next: AtomicU64::new(NEVER) }
    }

    /// When the first watchdog bites, as far as `cpu` has to see to it.
    pub(crate) fn next_deadline(&self, cpu: CpuId) -> Option<Nanos> {
        match self.next.load(Ordering::SeqCst) {
            next if next != NEVER && cpu == WATCHDOG_CPU => Some(Nanos(next)),
            _ => None,
        }
    }

    fn publish_next(&self, table: &BTreeMap<DomId, Entry<P>>) {
        let next = table.values().flat_map(|entry| entry.deadlines).flatten().min();
        self.next.store(next.map_or(NEVER, |next| next.0), Ordering::SeqCst);
    }

    /// The domains whose watchdog has bitten; it is set no more.
    fn take_expired(&self, now: Nanos) -> Vec<Arc<Domain<P>>> {
        let mut expired = Vec::new();
        if self.next.load(Ordering::SeqCst) > now.0 {
            return expired;
        }
        let mut table = self.table.lock();
        for entry in table.values_mut() {
            let due = |deadline: &Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
            if entry.deadlines.iter().any(due) {
                entry.deadlines.iter_mut().filter(|d| due(d)).for_each(|d| *d = Some(Nanos(NEVER)));
                expired.push(entry.domain.clone());
            }
        }
        self.publish_next(&table);
        expired
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Sets a new watchdog (`id` 0), winds up a set one, or stops it (`seconds` 0). Answers the number of a new one.
    ///
    /// # Errors
    /// `EINVAL` for a watchdog that is not set, `ENOSPC` when all are.
    pub fn watchdog(&self, domain: &Arc<Domain<P>>, id: u32, seconds: u32) -> Result<u32, Errno> {
        let deadline = Nanos(self.platform.now().0.saturating_add(u64::from(seconds) * NANOS_PER_SECOND));
        let watchdogs = &self.sched.watchdogs;
        let mut table = watchdogs.table.lock();
        let entry = table.entry(domain.id).or_insert_with(|| Entry::new(domain));
        let answer = match usize::try_from(id).ok().and_then(|id| id.checked_sub(1)) {
            None => {
                let free = entry.deadlines.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
                entry.deadlines[free] = Some(deadline);
                u32::try_from(free + 1).map_err(|_| Errno::ENOSPC)?
            }
            Some(index) => {
                let slot = entry.deadlines.get_mut(index).filter(|slot| slot.is_some());
                *slot.ok_or(Errno::EINVAL)? = (seconds != 0).then_some(deadline);
                0
            }
        };
        watchdogs.publish_next(&table);
        drop(table);
        self.platform.raise_work(WATCHDOG_CPU, Work::TIMER);
        Ok(answer)
    }

    /// Ends the domains whose watchdog has bitten.
    pub(crate) fn run_watchdogs(&self, now: Nanos) {
        for domain in self.sched.watchdogs.take_expired(now) {
            self.log(format_args!("Watchdog timer fired for domain {}\n", domain.id.0));
            self.shutdown_domain(&domain, SHUTDOWN_WATCHDOG);
        }
    }

    /// Remembers the reason that a domain gives for its coming end; the first one counts.
    pub fn announce_shutdown(&self, domain: &Arc<Domain<P>>, reason: u32) {
        let mut table = self.sched.watchdogs.table.lock();
        table.entry(domain.id).or_insert_with(|| Entry::new(domain)).announced.get_or_insert(reason);
    }

    /// The reason that a domain gave before, or else this one, which counts from now on.
    pub(super) fn settle_shutdown_reason(&self, domain: &Arc<Domain<P>>, reason: u32) -> u32 {
        let mut table = self.sched.watchdogs.table.lock();
        *table.entry(domain.id).or_insert_with(|| Entry::new(domain)).announced.get_or_insert(reason)
    }

    /// Forgets the reason that a domain gave for an end which was not its last.
    pub(crate) fn forget_shutdown_reason(&self, domain: DomId) {
        if let Some(entry) = self.sched.watchdogs.table.lock().get_mut(&domain) {
            entry.announced = None;
        }
    }

    /// Forgets the watchdogs and announcements of a domain that ends or begins anew.
    pub fn forget_watchdogs(&self, domain: DomId) {
        let mut table = self.sched.watchdogs.table.lock();
        table.remove(&domain);
        self.sched.watchdogs.publish_next(&table);
    }
}
