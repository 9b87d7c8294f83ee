//! Watchdogs of domains (`SCHEDOP_watchdog`) and the reasons for ending that they announced (`SCHEDOP_shutdown_code`).
//!
//! One CPU looks at all watchdogs, at the latest one second after its last look while any is set. A watchdog bites no earlier than
//! one second after it was set (but for a time of 0 seconds), so the CPU need not be told of new deadlines: domains cannot make it work
//! by moving theirs.

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{CpuId, DomId, Nanos};
use crate::platform::{Platform, Work};
use alloc::boxed::Box;
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
/// Longest time between two looks at watchdogs that are set: the shortest time that one can be set to.
const LOOK_PERIOD: u64 = NANOS_PER_SECOND;

/// The watchdogs and announcements of all domains.
pub struct Watchdogs<P: Platform> {
    table: Mutex<Table<P>>,
    /// When the CPU looks at the watchdogs next; no deadline is earlier. Changes with the table locked.
    next_look: AtomicU64,
}

/// By the numbers of their domains.
type Table<P> = Vec<Box<Entry<P>>>;

/// Where the entry of a domain is, or would be.
fn index<P: Platform>(table: &Table<P>, domain: DomId) -> Result<usize, usize> {
    table.binary_search_by_key(&domain, |entry| entry.domain.id)
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
        Self { table: Mutex::new(Vec::new()), next_look: AtomicU64::new(NEVER) }
    }

    /// When `cpu` has to look at the watchdogs.
    pub(crate) fn next_look(&self, cpu: CpuId) -> Option<Nanos> {
        match self.next_look.load(Ordering::SeqCst) {
            next if next != NEVER && cpu == WATCHDOG_CPU => Some(Nanos(next)),
            _ => None,
        }
    }

    /// The entry of a domain, made if there is none; `None` for a domain whose teardown began: it would never be removed.
    fn entry<'a>(table: &'a mut Table<P>, domain: &Arc<Domain<P>>) -> Option<&'a mut Entry<P>> {
        let index = match index(table, domain.id) {
            Ok(index) => index,
            Err(_) if domain.is_dying() => return None,
            Err(index) => {
                table.insert(index, Box::new(Entry::new(domain)));
                index
            }
        };
        table.get_mut(index).map(|entry| &mut **entry)
    }

    /// A watchdog was set to this deadline. Answers whether the CPU that looks is to be told, because it would look too late.
    fn expect(&self, deadline: Nanos, now: Nanos) -> bool {
        let look = deadline.0.min(now.0.saturating_add(LOOK_PERIOD));
        self.next_look.fetch_min(look, Ordering::SeqCst) > deadline.0
    }

    /// The domains whose watchdog has bitten; it is set no more.
    fn take_expired(&self, now: Nanos) -> Vec<Arc<Domain<P>>> {
        let mut expired = Vec::new();
        let mut table = self.table.lock();
        for entry in table.iter_mut() {
            let due = |deadline: &Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
            if entry.deadlines.iter().any(due) {
                entry.deadlines.iter_mut().filter(|d| due(d)).for_each(|d| *d = Some(Nanos(NEVER)));
                expired.push(entry.domain.clone());
            }
        }
        let deadlines = table.iter().flat_map(|entry| entry.deadlines).flatten();
        let first = deadlines.map(|deadline| deadline.0).min().unwrap_or(NEVER);
        let look = if first == NEVER { NEVER } else { first.min(now.0.saturating_add(LOOK_PERIOD)) };
        self.next_look.store(look, Ordering::SeqCst);
        expired
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Sets a new watchdog (`id` 0), winds up a set one, or stops it (`seconds` 0). Answers the number of a new one.
    ///
    /// # Errors
    /// `EINVAL` for a watchdog that is not set, or of a domain in teardown; `ENOSPC` when all are.
    pub fn watchdog(&self, domain: &Arc<Domain<P>>, id: u32, seconds: u32) -> Result<u32, Errno> {
        let now = self.platform.now();
        let deadline = Nanos(now.0.saturating_add(u64::from(seconds) * NANOS_PER_SECOND));
        let watchdogs = &self.sched.watchdogs;
        let mut table = watchdogs.table.lock();
        let entry = Watchdogs::entry(&mut table, domain).ok_or(Errno::EINVAL)?;
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
        // One that was stopped leaves the next look where it is: the CPU then finds nothing.
        let stopped = id != 0 && seconds == 0;
        let tell = !stopped && watchdogs.expect(deadline, now);
        drop(table);
        if tell {
            self.platform.raise_work(WATCHDOG_CPU, Work::TIMER);
        }
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
        if let Some(entry) = Watchdogs::entry(&mut table, domain) {
            entry.announced.get_or_insert(reason);
        }
    }

    /// The reason that a domain gave before, or else this one, which counts from now on.
    pub(super) fn settle_shutdown_reason(&self, domain: &Arc<Domain<P>>, reason: u32) -> u32 {
        let mut table = self.sched.watchdogs.table.lock();
        Watchdogs::entry(&mut table, domain).map_or(reason, |entry| *entry.announced.get_or_insert(reason))
    }

    /// Forgets the reason that a domain gave for an end which was not its last.
    pub(crate) fn forget_shutdown_reason(&self, domain: DomId) {
        let mut table = self.sched.watchdogs.table.lock();
        if let Ok(index) = index(&table, domain) {
            table[index].announced = None;
        }
    }

    /// Forgets the watchdogs and announcements of a domain that ends or begins anew.
    pub fn forget_watchdogs(&self, domain: DomId) {
        let mut table = self.sched.watchdogs.table.lock();
        let entry = index(&table, domain).ok().map(|index| table.remove(index));
        drop(table);
        // What it holds of the domain goes without the lock.
        drop(entry);
    }
}
