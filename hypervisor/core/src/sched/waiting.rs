//! The vCPUs that wait for a CPU, in the order in which they are due.
//!
//! Those of one domain are a *group*. They stand together, least virtual runtime first, and the group is due when its first one is, but near what
//! the domain got on this CPU ([`super::standing`]): vCPUs that all wait with the same virtual runtime would run one after the other before any
//! vCPU of another domain, and the more of them there are the longer. Those that sleep now and then would lose most of their
//! part by that, for what they wait for such a round is not made up for beyond what sleeping earns.
//!
//! # Invariants
//! - `key` and `waits` of a domain's [`Group`] on a CPU change with that CPU's queue locked, here only. As many of its vCPUs as `waits` says are
//!   in this queue, in a row, and all of them have `key`.
//! - Keys do not grow towards the end, from which vCPUs are taken. A group's key is what it should be ([`Waiting::regroup`]) when a vCPU of
//!   its domain that ran here was charged, and when one came or went; `least` is the least virtual runtime in it.
//! - Virtual runtimes stay what they are: a domain's vCPUs share its time by them. Those of different domains are compared by when they are
//!   due ([`super::VcpuSched::due_on`]), whether they wait or run.

use super::queue::{CpuQueue, NEVER, SLICE, Scheduler};
use super::share::DomainSched;
use super::words::Place;
use crate::domain::{Vcpu, VcpuRef};
use crate::ids::{CpuId, Nanos};
use crate::platform::Platform;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How far what a domain got may be ahead of the virtual runtime of its vCPUs before these wait for others, in nanoseconds: it is a mean, of
/// vCPUs that take turns.
pub(super) const AHEAD: u64 = 2 * SLICE;

/// Most vCPUs that one choice drops from a queue because they are not runnable any more.
const DROPS: u32 = 128;

/// The vCPUs of a domain that wait for one CPU.
pub(super) struct Group {
    /// When they are due, as a virtual runtime; of no meaning where there are none.
    key: AtomicU64,
    /// The least virtual runtime among them.
    least: AtomicU64,
    /// How many there are.
    waits: AtomicU32,
}

impl Group {
    pub const fn new() -> Self {
        Self { key: AtomicU64::new(0), least: AtomicU64::new(0), waits: AtomicU32::new(0) }
    }

    /// When they are due.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        self.key.load(Ordering::Relaxed)
    }

    /// How many of the domain's vCPUs wait for this CPU.
    #[inline(always)]
    pub fn waits(&self) -> usize {
        self.waits.load(Ordering::Relaxed) as usize
    }

    /// The least virtual runtime among them.
    #[inline(always)]
    pub fn least(&self) -> u64 {
        self.least.load(Ordering::Relaxed)
    }

    fn set(&self, key: u64, least: u64, waits: usize) {
        self.key.store(key, Ordering::Relaxed);
        self.least.store(least, Ordering::Relaxed);
        self.set_waits(waits);
    }

    fn set_waits(&self, waits: usize) {
        self.waits.store(waits as u32, Ordering::Relaxed);
    }
}

/// The vCPUs that wait for a CPU. The last one is due first.
pub(super) struct Waiting<P: Platform> {
    cpu: CpuId,
    vcpus: Vec<VcpuRef<P>>,
}

impl<P: Platform> Waiting<P> {
    pub const fn new(cpu: CpuId) -> Self {
        Self { cpu, vcpus: Vec::new() }
    }

    /// Makes room for so many in all; answers whether there is the memory.
    pub fn reserve(&mut self, vcpus: usize) -> bool {
        self.vcpus.try_reserve(vcpus.saturating_sub(self.vcpus.len())).is_ok()
    }

    /// All of them.
    pub fn vcpus(&self) -> &[VcpuRef<P>] {
        &self.vcpus
    }

    /// The one that is due first, and when.
    #[inline(always)]
    pub fn first(&self) -> Option<(&VcpuRef<P>, u64)> {
        self.vcpus.last().map(|first| (first, self.key(first)))
    }

    /// When a vCPU that waits here is due, were it alone.
    pub fn due(&self, vcpu: &VcpuRef<P>) -> u64 {
        vcpu.vcpu().sched.due_on(self.cpu)
    }

    #[inline(always)]
    fn key(&self, vcpu: &VcpuRef<P>) -> u64 {
        self.group(vcpu).key()
    }

    #[inline(always)]
    fn group<'a>(&self, vcpu: &'a VcpuRef<P>) -> &'a Group {
        vcpu.domain.sched.group(self.cpu)
    }

    /// What the key of a domain is whose first vCPU has this virtual runtime.
    #[inline(always)]
    fn key_for(&self, share: &DomainSched, vruntime: u64) -> u64 {
        share.due(self.cpu, vruntime)
    }

    /// Where the first group begins that is due at `key` or before.
    fn find_key(&self, key: u64) -> usize {
        self.vcpus.partition_point(|other| self.key(other) > key)
    }

    /// Where a domain's group begins; it has vCPUs here.
    fn find(&self, share: &DomainSched) -> usize {
        let mut start = self.find_key(share.group(self.cpu).key());
        // Other groups may be due at the same time.
        while let Some(other) = self.vcpus.get(start)
            && !core::ptr::eq(&*other.domain.sched, share)
        {
            start += self.group(other).waits().max(1);
        }
        start
    }

    /// Adds one, behind those that are due at the same time. There is room for it. Answers when it is due, and when the first one is.
    pub fn insert(&mut self, vcpu: VcpuRef<P>) -> (u64, u64) {
        let vruntime = vcpu.vcpu().sched.vruntime();
        let group = self.group(&vcpu);
        let waits = group.waits();
        if waits == 0 {
            let key = self.key_for(&vcpu.domain.sched, vruntime);
            group.set(key, vruntime, 1);
            // Mostly none waits.
            if self.vcpus.is_empty() {
                self.vcpus.push(vcpu);
                return (key, key);
            }
            self.vcpus.insert(self.find_key(key), vcpu);
            return (key, self.first_due());
        }
        let due = self.insert_beside(vcpu, vruntime, waits);
        (due, self.first_due())
    }

    /// When the one is due that is due first, [`NEVER`] without one.
    pub fn first_due(&self) -> u64 {
        self.first().map_or(NEVER, |(_, due)| due)
    }

    #[inline(never)]
    fn insert_beside(&mut self, vcpu: VcpuRef<P>, vruntime: u64, waits: usize) -> u64 {
        let share = vcpu.domain.sched.clone();
        let start = self.find(&share);
        let siblings = &self.vcpus[start..start + waits];
        let index = siblings.partition_point(|other| other.vcpu().sched.vruntime() > vruntime);
        let group = self.group(&vcpu);
        group.set_waits(waits + 1);
        self.vcpus.insert(start + index, vcpu);
        self.regroup_at(start, &share);
        share.due(self.cpu, vruntime)
    }

    /// Takes the one that is due first.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<VcpuRef<P>> {
        let first = self.vcpus.pop()?;
        let group = self.group(&first);
        let left = group.waits().saturating_sub(1);
        group.set_waits(left);
        if left != 0 {
            self.regroup_at(self.vcpus.len() - left, &first.domain.sched);
        }
        Some(first)
    }

    /// Takes the one with this index.
    pub fn remove(&mut self, index: usize) -> VcpuRef<P> {
        let vcpu = self.vcpus.remove(index);
        let group = self.group(&vcpu);
        let left = group.waits().saturating_sub(1);
        group.set_waits(left);
        if left != 0 {
            self.regroup_at(self.find(&vcpu.domain.sched), &vcpu.domain.sched);
        }
        vcpu
    }

    /// Puts a domain's group, if it has one here, where it should be by now.
    #[inline(never)]
    pub fn regroup(&mut self, share: &DomainSched) {
        if share.group(self.cpu).waits() != 0 {
            self.regroup_at(self.find(share), share);
        }
    }

    /// Puts the group that begins at `start` where it should be.
    #[inline(never)]
    fn regroup_at(&mut self, start: usize, share: &DomainSched) {
        let group = share.group(self.cpu);
        let (old, waits) = (group.key(), group.waits());
        let end = start + waits;
        let first = self.vcpus[end - 1].vcpu().sched.vruntime();
        let key = self.key_for(share, first);
        let cpu = self.cpu;
        let behind = |other: &VcpuRef<P>| other.domain.sched.group(cpu).key() > key;
        if key > old {
            let to = self.vcpus[..start].partition_point(behind);
            self.vcpus[to..end].rotate_right(waits);
        } else if key < old {
            let passed = self.vcpus[end..].partition_point(behind);
            self.vcpus[start..end + passed].rotate_left(waits);
        }
        group.set(key, first, waits);
    }
}

impl<P: Platform> Scheduler<P> {
    /// The domain of a vCPU that runs here, and was charged, may be due later than before.
    #[inline(never)]
    pub(super) fn regroup(&self, queue: &CpuQueue<P>, vcpu: &Vcpu<P>) {
        let mut waiting = queue.waiting.lock();
        waiting.regroup(&vcpu.sched.share);
        queue.publish_head(&waiting);
    }

    /// Takes the first runnable vCPU out of a queue if `wanted` says so of its virtual runtime; drops those that are not runnable any more,
    /// up to [`DROPS`] with those that were `dropped` before, and notes it where that is all.
    pub(super) fn pop_if(
        &self,
        queue: &CpuQueue<P>,
        waiting: &mut Waiting<P>,
        now: Nanos,
        dropped: &mut u32,
        wanted: impl Fn(u64) -> bool,
    ) -> Option<VcpuRef<P>> {
        let (mut chosen, before) = (None, *dropped);
        while let Some((first, due)) = waiting.first().filter(|_| *dropped < DROPS) {
            let sched = &first.vcpu().sched;
            let runnable = sched.runnable();
            if runnable && !wanted(due) {
                break;
            }
            if runnable {
                sched.set_place(Place::Running);
            } else {
                self.leave(queue, sched, now);
            }
            let first = waiting.pop();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if runnable {
                chosen = first;
                break;
            }
            *dropped += 1;
        }
        if *dropped != before && chosen.is_none() {
            queue.vain.store(now.0, Ordering::Relaxed);
        }
        queue.publish_head(waiting);
        chosen
    }
}
