//! What concerns all vCPUs of a domain, done in steps.
//!
//! A domain may have thousands of vCPUs, and an event that many of them poll, the next budget of a domain with a cap, a pause or the
//! end of a domain concern every one. Nothing of that is done in one go. It is asked for, and a *walk* visits the vCPUs of the domain in
//! a circle and does for each what it is owed:
//!
//! - [`Task::Wake`]: it is woken if it polls the port, or any port where events at several ports were asked for meanwhile;
//! - [`Task::Uncap`]: it loses [`Reasons::CAPPED`];
//! - [`Task::Settle`]: [`Reasons::STOPPED`] and [`Reasons::PAUSED`] of it become what the domain says at the time of the visit. So it does
//!   not matter in which order the domain was stopped, resumed, paused: the last word counts, and nothing of an earlier walk is left.
//!
//! What is asked for is owed to all vCPUs, those included that the walk just visited. A walk that asks again and again starts nothing anew:
//! the next vCPU is always the one after the last visited, so that each has its turn.
//!
//! A step visits some vCPUs under the lock of the walk, which is taken after all locks but those of the scheduler and the timers. Who asks
//! makes one step, or all of them where it holds no lock and its CPU has no other work. What is left is done in
//! [`Hypervisor::run_timers`], a step at a time, by the CPU that asked last: a guest that sends events to many pollers in a loop does the work
//! itself, before it sends the next one, and keeps no other CPU at it. If other domains run on that CPU by then, the work is still charged
//! to the one that asked ([`super::foreign`]). Of a domain of few vCPUs nothing is left. A CPU that serves
//! several timers at a time, or raises saved events of several ports, sends an event for each: it only asks, for any domain, and makes
//! its steps after the next look for other work.

use super::Reasons;
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu, VcpuRef};
use crate::ids::{CpuId, DomId, Port, VcpuId};
use crate::platform::{Platform, Work};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use spin::Mutex;

/// vCPUs that a step looks at, where nothing is to be done for them.
const STEP: usize = 256;
/// vCPUs that a step wakes or stops: each costs some hundred instructions, and more where queues are long.
pub(crate) const CHANGES: usize = 16;

/// What is owed to vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Wake = 0,
    Uncap = 1,
    Settle = 2,
}

/// A caller whose pause of the domain was counted and who waits for its vCPUs to leave their CPUs.
struct Waiter {
    caller: (DomId, VcpuId),
    /// vCPUs below this one were seen off.
    off: usize,
}

/// The walk of a domain.
pub(crate) struct Walk {
    /// The vCPU that is visited next.
    next: usize,
    /// By [`Task`]: to how many vCPUs, from that one on, it is owed.
    owed: [usize; 3],
    /// The port whose pollers are to be woken; `None`: all pollers.
    port: Option<Port>,
    /// The domain ended, and its controller was not told: it is to be settled first.
    untold: bool,
    /// The domain that asked for it last, and is charged for what is done later.
    asked_by: DomId,
    /// The CPU that goes on with it. Others may have it in their lists still.
    goes_on: Option<CpuId>,
    waiters: Vec<Waiter>,
}

impl Walk {
    /// Nothing is owed.
    pub const fn new() -> Self {
        let asked_by = DomId(0);
        Self {
            next: 0,
            owed: [0; 3],
            port: None,
            untold: false,
            asked_by,
            goes_on: None,
            waiters: Vec::new(),
        }
    }

    fn owes(&self, task: Task) -> bool {
        self.owed[task as usize] != 0
    }

    fn is_over(&self) -> bool {
        self.owed == [0; 3] && !self.untold
    }

    /// The walk goes from one vCPU to the next, of `all`.
    fn advance(&mut self, all: usize) {
        self.next = if self.next + 1 < all { self.next + 1 } else { 0 };
        self.owed.iter_mut().for_each(|owed| *owed = owed.saturating_sub(1));
    }
}

/// The walks that a CPU goes on with.
pub(super) struct Walks<P: Platform> {
    list: Mutex<VecDeque<Arc<Domain<P>>>>,
    /// How many they are.
    count: AtomicU32,
    /// Whether the CPU only asks for walks.
    asks_only: AtomicBool,
}

impl<P: Platform> Walks<P> {
    pub fn new() -> Self {
        Self {
            list: Mutex::new(VecDeque::new()),
            count: AtomicU32::new(0),
            asks_only: AtomicBool::new(false),
        }
    }

    fn push(&self, domain: Arc<Domain<P>>) {
        let mut list = self.list.lock();
        list.push_back(domain);
        self.count.store(u32::try_from(list.len()).unwrap_or(u32::MAX), Ordering::SeqCst);
    }

    fn pop(&self) -> Option<Arc<Domain<P>>> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let first = list.pop_front();
        self.count.store(u32::try_from(list.len()).unwrap_or(u32::MAX), Ordering::SeqCst);
        first
    }
}

/// Who makes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A sender of an event, with ports locked.
    Sender,
    /// A CPU that holds no lock.
    Free,
}

impl<P: Platform> Hypervisor<P> {
    /// Wakes the vCPUs of a domain that poll this port, in one step; if there are more, this CPU goes on with it later.
    #[inline(never)]
    pub(super) fn wake_pollers_of(&self, domain: &Arc<Domain<P>>, port: Port) {
        let own = &self.sched.queue(self.platform.this_cpu()).walks;
        let asks_only = own.asks_only.load(Ordering::Relaxed);
        // Of few vCPUs one step is all of it, and leaves nothing to note.
        if domain.vcpus.len() <= CHANGES && !asks_only {
            for vcpu in domain.vcpus.iter().filter(|vcpu| vcpu.sched.words.polls(port)) {
                self.resume(&VcpuRef { domain: domain.clone(), id: vcpu.id }, Reasons::BLOCKED);
            }
            return;
        }
        {
            let mut walk = domain.walk.lock();
            // Two ports at a time are all ports: a poll may end early, but must not miss its event.
            let only = !walk.owes(Task::Wake) || walk.port == Some(port);
            walk.port = only.then_some(port);
            walk.owed[Task::Wake as usize] = domain.vcpus.len();
        }
        if asks_only || !self.walk_some(domain, By::Sender) {
            self.walk_later(domain);
        }
    }

    /// From now on this CPU only asks for the walks of the events that it sends, or makes a step for each again.
    #[cold]
    pub(crate) fn ask_only(&self, asks: bool) {
        self.sched.queue(self.platform.this_cpu()).walks.asks_only.store(asks, Ordering::Relaxed);
    }

    /// Lets the vCPUs of a domain go on that were found without a budget, from the next service of this CPU's timers on.
    pub(super) fn uncap(&self, domain: &Arc<Domain<P>>) {
        domain.walk.lock().owed[Task::Uncap as usize] = domain.vcpus.len();
        self.walk_later(domain);
    }

    /// Notes that what the domain says of its vCPUs has changed; `ended`: it was running, and others are to hear of its end. The
    /// domain's lifecycle is locked. [`Hypervisor::settle`] follows.
    pub(crate) fn ask_to_settle(&self, domain: &Domain<P>, ended: bool) {
        let mut walk = domain.walk.lock();
        walk.owed[Task::Settle as usize] = domain.vcpus.len();
        walk.untold |= ended;
    }

    /// Does for all vCPUs of a domain what they are owed: now, as far as this CPU has no other work. The caller holds no lock.
    pub(crate) fn settle(&self, domain: &Arc<Domain<P>>) {
        while !self.walk_some(domain, By::Free) {
            // Who sends events may ask for more and more.
            if self.is_settled(domain) || self.platform.work_pending() {
                return self.walk_later(domain);
            }
        }
    }

    /// Goes on with that for a step. Answers whether all vCPUs do as the domain says.
    pub(crate) fn settle_some(&self, domain: &Arc<Domain<P>>) -> bool {
        self.walk_some(domain, By::Free) || self.is_settled(domain)
    }

    /// Whether all vCPUs of a domain do as the domain says.
    pub(crate) fn is_settled(&self, domain: &Domain<P>) -> bool {
        !domain.walk.lock().owes(Task::Settle)
    }

    /// Whether this caller's pause of the domain was counted before, and is not complete.
    pub(crate) fn waits_for_stillness(&self, domain: &Domain<P>, caller: (DomId, VcpuId)) -> bool {
        domain.walk.lock().waiters.iter().any(|waiter| waiter.caller == caller)
    }

    /// This caller's pause of the domain was counted, and is not complete.
    pub(crate) fn begin_to_wait(&self, domain: &Domain<P>, caller: (DomId, VcpuId)) {
        domain.walk.lock().waiters.push(Waiter { caller, off: 0 });
    }

    /// Waits a moment for the vCPUs of a domain that the caller pauses to leave their CPUs; answers whether they have. If not, the
    /// caller's pause counts as incomplete ([`Hypervisor::waits_for_stillness`]), and it asks again when its CPU has done other work.
    pub(crate) fn await_stillness(&self, domain: &Arc<Domain<P>>, caller: (DomId, VcpuId)) -> bool {
        if !self.is_settled(domain) {
            self.settle(domain);
            if !self.is_settled(domain) {
                return false;
            }
        }
        let first = {
            let walk = domain.walk.lock();
            walk.waiters.iter().find(|waiter| waiter.caller == caller).map_or(0, |waiter| waiter.off)
        };
        let mut off = first;
        while let Some(vcpu) = domain.vcpus.get(off) {
            let other_work = off != first && off.is_multiple_of(STEP) && self.platform.work_pending();
            if other_work || !self.await_off(vcpu) {
                break;
            }
            off += 1;
        }
        let still = off == domain.vcpus.len();
        domain.walk.lock().waiters.retain_mut(|waiter| {
            if waiter.caller == caller {
                waiter.off = off;
            }
            waiter.caller != caller || !still
        });
        still
    }

    /// This CPU goes on with a walk when it serves its timers, whichever CPU did so far.
    fn walk_later(&self, domain: &Arc<Domain<P>>) {
        let cpu = self.platform.this_cpu();
        let asked_by = self.sched.works_for(cpu).unwrap_or(domain.id);
        let before = {
            let mut walk = domain.walk.lock();
            walk.asked_by = asked_by;
            walk.goes_on.replace(cpu)
        };
        if before != Some(cpu) {
            self.sched.queue(cpu).walks.push(domain.clone());
            self.platform.raise_work(cpu, Work::TIMER);
        }
    }

    /// Goes on with the walks of this CPU, for one step.
    #[inline(never)]
    pub(crate) fn walk_on(&self) {
        let cpu = self.platform.this_cpu();
        let walks = &self.sched.queue(cpu).walks;
        let Some(domain) = walks.pop() else { return };
        let is_ours = |walk: &Walk| walk.goes_on == Some(cpu);
        let asked_by = {
            let walk = domain.walk.lock();
            is_ours(&walk).then_some(walk.asked_by)
        };
        if let Some(asked_by) = asked_by {
            let asked_by =
                if asked_by == domain.id { Some(domain.clone()) } else { self.domains.get(asked_by) };
            self.work_for(cpu, asked_by.as_deref(), || {
                self.walk_some(&domain, By::Free);
            });
            let mut walk = domain.walk.lock();
            if is_ours(&walk) && walk.is_over() {
                walk.goes_on = None;
            }
            let goes_on = is_ours(&walk);
            drop(walk);
            if goes_on {
                walks.push(domain);
            }
        }
        if walks.count.load(Ordering::SeqCst) != 0 {
            self.platform.raise_work(cpu, Work::TIMER);
        }
    }

    /// Whether a CPU has walks to go on with ([`Hypervisor::walk_on`]).
    pub(crate) fn has_walks(&self, cpu: CpuId) -> bool {
        self.sched.queue(cpu).walks.count.load(Ordering::SeqCst) != 0
    }

    /// The walks of a CPU that is gone become those of this one.
    pub(super) fn adopt_walks(&self, cpu: CpuId) {
        while let Some(domain) = self.sched.queue(cpu).walks.pop() {
            if domain.walk.lock().goes_on == Some(cpu) {
                self.walk_later(&domain);
            }
        }
    }

    /// A step. Answers whether the walk is over.
    #[inline(never)]
    fn walk_some(&self, domain: &Arc<Domain<P>>, by: By) -> bool {
        let mut walk = domain.walk.lock();
        self.stop_next(domain, &walk);
        let mut effort = 0;
        while effort < STEP && walk.owed != [0; 3] {
            let Some(vcpu) = domain.vcpus.get(walk.next) else { break };
            effort += if self.visit(domain, &walk, vcpu) { STEP / CHANGES } else { 1 };
            walk.advance(domain.vcpus.len());
        }
        let ended = by == By::Free && !walk.owes(Task::Settle) && core::mem::take(&mut walk.untold);
        let over = walk.is_over();
        drop(walk);
        if ended {
            self.tell_of_end(domain);
        }
        over
    }

    /// Adds what keeps the vCPUs of the next step from running. Where one of them gives up its CPU for a vCPU that waits, it is not for
    /// another one of these.
    fn stop_next(&self, domain: &Domain<P>, walk: &Walk) {
        let wanted = domain.reasons();
        if walk.owes(Task::Settle) && !wanted.is_empty() {
            let count = walk.owed[Task::Settle as usize].min(CHANGES);
            let around = domain.vcpus.iter().cycle();
            around.skip(walk.next).take(count).for_each(|vcpu| vcpu.sched.add(wanted));
        }
    }

    /// Does for a vCPU what it is owed. Answers whether there was something to do.
    fn visit(&self, domain: &Arc<Domain<P>>, walk: &Walk, vcpu: &Vcpu<P>) -> bool {
        let sched = &vcpu.sched;
        let mut gone = Reasons::empty();
        let polls = || walk.port.map_or(sched.has(Reasons::POLLING), |port| sched.words.polls(port));
        if walk.owes(Task::Wake) && polls() {
            gone |= Reasons::BLOCKED;
        }
        if walk.owes(Task::Uncap) && sched.has(Reasons::CAPPED) {
            gone |= Reasons::CAPPED;
        }
        let mut wanted = Reasons::empty();
        if walk.owes(Task::Settle) {
            wanted = domain.reasons();
            gone |= sched.reasons() & (Reasons::STOPPED | Reasons::PAUSED) & !wanted;
        }
        if !wanted.is_empty() {
            self.suspend(vcpu, wanted);
        }
        if !gone.is_empty() {
            self.resume(&VcpuRef { domain: domain.clone(), id: vcpu.id }, gone);
        }
        !wanted.is_empty() || !gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::Cx;
    use crate::ids::Nanos;
    use crate::mock;
    use crate::time::timers::{MOST_AT_ONCE, MOST_WITH_WALK};
    use core::sync::atomic::Ordering::SeqCst;
    use xen_abi::xen::VIRQ_TIMER;

    /// Timers that expire at the same moment.
    const TIMERS: u32 = 32;

    /// The pollers of as many ports as timers expired were looked for, and woken, between two looks for other work.
    #[test]
    fn timers_that_expire_together_ask_for_one_walk() {
        for vcpus in [200, 512] {
            let (hv, _dom0) = mock::machine_with_domain(600);
            let domain = mock::domain(&hv, 1, vcpus, 16);
            for vcpu in &domain.vcpus {
                vcpu.time.disable_periodic();
                vcpu.sched.add(Reasons::BLOCKED);
                vcpu.sched.words.take(Reasons::DOWN);
            }
            let bind = |n| hv.bind_virq(&domain, VcpuId(n), VIRQ_TIMER).expect("a port");
            let ports: Vec<_> = (0..TIMERS).map(bind).collect();
            for (vcpu, port) in domain.vcpus.iter().zip(ports.iter().cycle()) {
                vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
                vcpu.sched.words.narrow_poll(*port);
            }
            for vcpu in &domain.vcpus[..TIMERS as usize] {
                hv.arm_singleshot(Cx { hv: &hv, domain: &domain, vcpu }, Nanos(1000));
            }
            hv.platform.time.store(1000, SeqCst);
            let polling = || domain.vcpus.iter().filter(|vcpu| vcpu.sched.has(Reasons::POLLING)).count();
            let mut last = polling();
            assert_eq!(last, vcpus as usize);
            for _ in 0..vcpus {
                hv.run_timers();
                let now = polling();
                // Those that the events are for, or a step with few of them.
                assert!(last - now <= CHANGES + MOST_WITH_WALK as usize, "{last}, {now} between two looks");
                last = now;
            }
            assert_eq!(last, 0);
        }
    }

    /// The same by many domains of few vCPUs: each timer's event woke all pollers of its domain.
    #[test]
    fn timers_of_small_domains_that_expire_together_ask_for_walks() {
        let (hv, _dom0) = mock::machine_with_domain(600);
        let domains: Vec<_> =
            (0..TIMERS).map(|n| mock::domain(&hv, 1 + n as u16, CHANGES as u32, 4)).collect();
        for domain in &domains {
            let port = hv.bind_virq(domain, VcpuId(0), VIRQ_TIMER).expect("a port");
            for vcpu in &domain.vcpus {
                vcpu.time.disable_periodic();
                vcpu.sched.add(Reasons::BLOCKED);
                vcpu.sched.words.take(Reasons::DOWN);
                vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
                vcpu.sched.words.narrow_poll(port);
            }
            hv.arm_singleshot(Cx { hv: &hv, domain, vcpu: &domain.vcpus[0] }, Nanos(1000));
        }
        hv.platform.time.store(1000, SeqCst);
        let polls = |vcpu: &&Vcpu<_>| vcpu.sched.has(Reasons::POLLING);
        let polling = || domains.iter().flat_map(|domain| &domain.vcpus).filter(polls).count();
        let mut last = polling();
        assert_eq!(last, domains.len() * CHANGES);
        for _ in 0..2 * TIMERS {
            hv.run_timers();
            let now = polling();
            assert!(last - now <= CHANGES + MOST_WITH_WALK as usize, "{last}, {now} between two looks");
            last = now;
        }
        assert_eq!(last, 0);
    }

    /// Saved events that are raised together woke all pollers of their domain between two looks for other work.
    #[test]
    fn saved_events_that_are_raised_together_ask_for_walks() {
        use crate::domain::Domain;
        use std::boxed::Box;
        const VCPUS: u32 = 512;
        let (hv, _dom0) = mock::machine_with_domain(2000);
        let domain = mock::domain(&hv, 1, VCPUS, 64);
        // FIFO ABI, no words yet; a control block for vCPU 0 only.
        let control = hv.alloc_domain_page(&domain, 0).unwrap();
        hv.fifo_init_control(&domain, VcpuId(0), control, 0).unwrap();
        let ports: Vec<_> = (0..1000).map(|_| hv.bind_ipi(&domain, VcpuId(0)).unwrap()).collect();
        for port in &ports {
            hv.send_event(&domain, *port).unwrap();
        }
        // All vCPUs but the first poll two ports or more each, and so any.
        for vcpu in &domain.vcpus {
            vcpu.time.disable_periodic();
            if vcpu.id.0 != 0 {
                vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
                vcpu.sched.words.take(Reasons::DOWN | Reasons::PAUSED);
            }
        }
        let polling =
            |d: &Domain<mock::MockPlatform>| d.vcpus.iter().filter(|v| v.sched.has(Reasons::POLLING)).count();
        let before = polling(&domain);
        let page = hv.alloc_domain_page(&domain, 0).unwrap();
        let seen = std::sync::Arc::new(std::sync::Mutex::new((before, 0usize)));
        let (hook, of) = (seen.clone(), domain.clone());
        *hv.platform.at_question.lock().unwrap() = Some(Box::new(move || {
            let now = polling(&of);
            let mut seen = hook.lock().unwrap();
            seen.1 = seen.1.max(seen.0.saturating_sub(now));
            seen.0 = now;
        }));
        hv.fifo_expand_array(&domain, page).unwrap();
        *hv.platform.at_question.lock().unwrap() = None;
        let most = seen.lock().unwrap().1;
        // What is left is woken by this CPU, in steps.
        let mut last = polling(&domain);
        for _ in 0..VCPUS {
            hv.run_timers();
            let now = polling(&domain);
            assert!(last - now <= CHANGES, "{last}, {now} between two looks");
            last = now;
        }
        assert_eq!((before, last), (VCPUS as usize - 1, 0));
        assert!(most <= CHANGES, "{most} vCPUs were woken between two looks for other work");
    }

    /// Timers that expire together woke their own vCPUs between two looks, and those of a step of the walk with them.
    #[test]
    fn timers_that_expire_together_wake_few_vcpus_at_a_time() {
        use super::super::words::Place;
        let (hv, _dom0) = mock::machine_with_domain(600);
        let domain = mock::domain(&hv, 1, 200, 16);
        for vcpu in &domain.vcpus {
            vcpu.time.disable_periodic();
            vcpu.sched.add(Reasons::BLOCKED);
            vcpu.sched.words.take(Reasons::DOWN | Reasons::PAUSED);
        }
        let _ports: Vec<_> =
            (0..TIMERS).map(|n| hv.bind_virq(&domain, VcpuId(n), VIRQ_TIMER).expect("a port")).collect();
        for vcpu in &domain.vcpus[TIMERS as usize..] {
            vcpu.sched.words.begin_poll(&vcpu.sched.share.pollers);
        }
        for vcpu in &domain.vcpus[..TIMERS as usize] {
            hv.arm_singleshot(Cx { hv: &hv, domain: &domain, vcpu }, Nanos(1000));
        }
        hv.platform.time.store(1000, SeqCst);
        let waiting = || domain.vcpus.iter().filter(|v| v.sched.place() == Place::Waiting).count();
        let mut last = waiting();
        for n in 0..60 {
            hv.run_timers();
            let now = waiting();
            let most = if n == 0 { MOST_AT_ONCE as usize } else { CHANGES + MOST_WITH_WALK as usize };
            assert!(now - last <= most, "{last}, {now} between two looks");
            last = now;
        }
        assert_eq!(last, domain.vcpus.len());
    }
}
