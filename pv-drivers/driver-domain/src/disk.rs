//! A disk of the machine as the block back end takes it: jobs begin in the device's queue and end there at their own time, so
//! that nobody waits for a medium.
//!
//! Several back ends may share a disk. What belongs to one that is gone ends all the same, and is forgotten; no job of a back end
//! that came later begins before. So what a domain wrote last does not overtake what the one after it reads and writes.
//!
//! # Flushes
//!
//! All flushes that were asked for while none was under way are one of the device; what is asked for meanwhile is the next one.
//! From the moment when one finds no room in the device's queue, no job begins before it.
//!
//! # Memory
//!
//! A job has memory of its own only while the device works on it. Before, what it writes is where the back end put it, and
//! behind, what it read is there. A disk's jobs have [`room`] in all; one alone may have more than that, so that each disk always gets
//! on. A job that finds no room waits, as the front end does for it. Of back ends that wait, the one that has the fewest jobs
//! under way begins the next; of those with as many, the one that has waited longest since it began one or asked for one. Who
//! polls first has nothing of it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use pv_drivers::blk::{BackOptions, BlockDevice, Failed, Geometry, Job, Operation, Progress, SECTOR};
use pv_drivers::transport::{PAGE_SIZE, Transport, words};
use spin::Mutex;

/// Jobs that are ended in one round.
const AT_ONCE: usize = 16;

/// The part of the memory that the jobs of all disks may have: an eighth. See [`room`].
const JOB_SHARE: usize = 8;
/// The part that the back ends of all disks may have for requests: a quarter. See [`requests`].
const BACK_SHARE: usize = 4;
/// Requests that a back end works on in any case.
const REQUESTS_LEAST: usize = 2;

/// Bytes of memory that the jobs of each of so many disks may have, where this domain has `free` bytes.
#[must_use]
pub fn room(free: usize, disks: usize) -> usize {
    free / JOB_SHARE / disks.max(1)
}

/// How many requests each of so many back ends works on at once, where this domain has `free` bytes.
#[must_use]
pub fn requests(free: usize, backs: usize) -> u16 {
    let usual = BackOptions::default();
    // The pages of the largest request, and one for what describes them.
    let each = (usual.max_indirect_segments + 1) * PAGE_SIZE;
    let share = free / BACK_SHARE / backs.max(1) / each;
    u16::try_from(share.max(REQUESTS_LEAST)).map_or(usual.requests, |share| share.min(usual.requests))
}

/// What a job takes of a disk's room: its bytes, and as many that the device sees.
const fn cost(bytes: usize) -> usize {
    bytes * 2
}

/// Why a job did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The device has as many as it can take: again later.
    Full,
    /// It cannot do it.
    Failed,
}

/// The queue of a device.
pub trait Queue: Send {
    /// What the disk is like.
    fn geometry(&self) -> Geometry;

    /// Whether no more job can begin now.
    fn is_full(&self) -> bool;

    /// Begins to read or write `bytes` at a sector, or a flush of all that was written, which has no bytes. Answers the job's
    /// number, which no other one has until it ended. The bytes are the queue's until then.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the bytes.
    fn begin(&mut self, operation: Operation, sector: u64, bytes: Vec<u8>)
    -> Result<u16, (Refused, Vec<u8>)>;

    /// A job that ended, and its bytes.
    fn ended(&mut self) -> Option<(u16, Vec<u8>, Result<(), Failed>)>;
}

/// A job that ended: its tag and offset, and what was read.
type Ended = (u16, usize, Result<Option<Vec<u8>>, Failed>);

/// Whose a job under way is, and what was asked for.
struct Begun {
    user: u64,
    job: Job,
}

/// A back end that uses a disk.
#[derive(Default)]
struct User {
    ended: VecDeque<Ended>,
    /// Jobs that were asked for and have not ended. `ended` has room for all of them.
    asked: usize,
    /// Jobs of it that are under way.
    begun: usize,
    /// Since when a job of it waits: a number of [`Shared::tickets`]. A new one is drawn for each job that waits first.
    ticket: Option<u64>,
}

impl User {
    /// Whether there is memory for one more job's end, when that comes.
    fn expects_one_more(&mut self) -> bool {
        let has_room = self.ended.try_reserve(self.asked + 1).is_ok();
        self.asked += usize::from(has_room);
        has_room
    }

    /// A job ended.
    fn end(&mut self, job: Job, result: Result<Option<Vec<u8>>, Failed>) {
        self.asked -= 1;
        self.ended.push_back((job.tag, job.offset, result));
    }

    /// The least of those that wait begins the next job. One that does not wait is behind all that have as many under way.
    fn place(&self) -> (usize, u64) {
        (self.begun, self.ticket.unwrap_or(u64::MAX))
    }
}

/// A disk that back ends share.
struct Shared<Q> {
    queue: Q,
    /// Bytes that jobs may take in all, and those that they take.
    room: usize,
    taken: usize,
    /// Jobs under way, by number: no more than the queue holds.
    begun: Vec<(u16, Begun)>,
    users: BTreeMap<u64, User>,
    /// Flushes that were asked for, and by whom.
    flushes: Vec<(u64, Job)>,
    /// The flush that is under way, and those for whom it is.
    flushing: Option<(u16, Vec<(u64, Job)>)>,
    last_user: u64,
    /// Tickets that were drawn.
    tickets: u64,
}

impl<Q: Queue> Shared<Q> {
    /// Begins a job on the bytes of `staging`, or notes a flush.
    fn begin(
        &mut self,
        user: u64,
        job: Job,
        staging: &[core::sync::atomic::AtomicU32],
    ) -> Result<(), Refused> {
        if job.operation == Operation::Flush {
            self.flushes.try_reserve(1).map_err(|_| Refused::Failed)?;
            self.flushes.push((user, job));
            return Ok(());
        }
        let length = length(job).map_err(|_| Refused::Failed)?;
        if !self.may_begin(user, cost(length)) {
            return Err(Refused::Full);
        }
        let without_memory = if self.begun.is_empty() { Refused::Failed } else { Refused::Full };
        let mut bytes = Vec::new();
        self.begun.try_reserve(1).map_err(|_| without_memory)?;
        bytes.try_reserve_exact(length).map_err(|_| without_memory)?;
        bytes.resize(length, 0);
        if job.operation == Operation::Write {
            words::load(staging, job.offset, &mut bytes);
        }
        let number = self.queue.begin(job.operation, job.sector, bytes).map_err(|(refused, _)| refused)?;
        self.begun.push((number, Begun { user, job }));
        self.taken += cost(length);
        if let Some(user) = self.users.get_mut(&user) {
            user.begun += 1;
            // What waits behind it has its turn after those that wait now.
            user.ticket = None;
        }
        Ok(())
    }

    /// Whether a job of that cost can begin, and no flush nor job of another back end comes first.
    fn may_begin(&self, user: u64, cost: usize) -> bool {
        let flush_waits = self.flushing.is_none() && !self.flushes.is_empty();
        let own = self.users.get(&user).map_or((0, u64::MAX), User::place);
        let mut waiting = self.users.values().filter(|other| other.ticket.is_some());
        let is_first = waiting.all(|other| other.place() >= own);
        let fits = self.taken == 0 || self.taken + cost <= self.room;
        // They are no more than the device's queue holds.
        let left = |(_, job): &(u16, Begun)| job.user < user && !self.users.contains_key(&job.user);
        fits && is_first && !flush_waits && !self.queue.is_full() && !self.begun.iter().any(left)
    }

    /// A job of this back end did not begin, and will not.
    fn failed(&mut self, user: u64) {
        if let Some(user) = self.users.get_mut(&user) {
            user.asked -= 1;
        }
    }

    /// A job of this back end waits, or none does any more.
    fn set_waiting(&mut self, user: u64, waits: bool) {
        let Some(user) = self.users.get_mut(&user) else { return };
        if !waits {
            user.ticket = None;
        } else if user.ticket.is_none() {
            self.tickets += 1;
            user.ticket = Some(self.tickets);
        }
    }

    /// Takes what ended, for whomever it is, and begins the next flush.
    fn collect(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((number, bytes, result)) = self.queue.ended() else { break };
            if let Some((_, asked)) = self.flushing.take_if(|(flush, _)| *flush == number) {
                self.end_flushes(asked, result);
                continue;
            }
            let Some(at) = self.begun.iter().position(|(begun, _)| *begun == number) else { continue };
            let (_, Begun { user, job }) = self.begun.swap_remove(at);
            self.taken -= cost(bytes.len());
            let read = (job.operation == Operation::Read).then_some(bytes);
            if let Some(user) = self.users.get_mut(&user) {
                user.begun -= 1;
                user.end(job, result.map(|()| read));
            }
        }
        if self.flushing.is_some() || self.flushes.is_empty() {
            return;
        }
        match self.queue.begin(Operation::Flush, 0, Vec::new()) {
            Ok(number) => self.flushing = Some((number, core::mem::take(&mut self.flushes))),
            Err((Refused::Full, _)) => {}
            Err((Refused::Failed, _)) => {
                let asked = core::mem::take(&mut self.flushes);
                self.end_flushes(asked, Err(Failed));
            }
        }
    }

    fn end_flushes(&mut self, asked: Vec<(u64, Job)>, result: Result<(), Failed>) {
        for (user, job) in asked {
            if let Some(user) = self.users.get_mut(&user) {
                user.end(job, result.map(|()| None));
            }
        }
    }
}

/// Bytes of a job.
fn length(job: Job) -> Result<usize, Failed> {
    usize::try_from(job.sectors).ok().and_then(|sectors| sectors.checked_mul(SECTOR)).ok_or(Failed)
}

/// A disk of the machine.
pub struct Disk<Q>(Arc<Mutex<Shared<Q>>>);

impl<Q> Clone for Disk<Q> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Q> fmt::Debug for Disk<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl<Q: Queue> Disk<Q> {
    /// The disk behind a queue, whose jobs have [`room`] bytes of memory.
    pub fn new(queue: Q, room: usize) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            queue,
            room,
            taken: 0,
            begun: Vec::new(),
            users: BTreeMap::new(),
            flushes: Vec::new(),
            flushing: None,
            last_user: 0,
            tickets: 0,
        })))
    }

    /// Whether it works on something: nothing tells when that ends, so it must be polled. Where those for whom it works are all gone,
    /// this takes what ended.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let mut shared = self.0.lock();
        if shared.users.is_empty() {
            shared.collect();
        }
        // What ended may have been taken for a back end that was asked before, or that waits for the room.
        let has_more = |user: &User| !user.ended.is_empty() || user.ticket.is_some();
        let works = !shared.begun.is_empty() || shared.flushing.is_some() || !shared.flushes.is_empty();
        works || shared.users.values().any(has_more)
    }

    /// One use of it.
    #[must_use]
    pub fn open(&self) -> Opened<Q> {
        let mut shared = self.0.lock();
        shared.last_user += 1;
        let user = shared.last_user;
        shared.users.insert(user, User::default());
        let geometry = shared.queue.geometry();
        Opened { disk: self.clone(), user, geometry, waiting: VecDeque::new() }
    }
}

/// A disk of the machine as one back end uses it.
pub struct Opened<Q: Queue> {
    disk: Disk<Q>,
    user: u64,
    geometry: Geometry,
    /// Jobs that could not begin yet.
    waiting: VecDeque<Job>,
}

impl<Q: Queue> fmt::Debug for Opened<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<Q: Queue> Drop for Opened<Q> {
    fn drop(&mut self) {
        let mut shared = self.disk.0.lock();
        shared.users.remove(&self.user);
        shared.flushes.retain(|(user, _)| *user != self.user);
    }
}

impl<T: Transport, Q: Queue> BlockDevice<T> for Opened<Q> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, job: Job, staging: &T::Memory) -> Result<Progress, Failed> {
        if job.operation == Operation::Discard {
            return Err(Failed);
        }
        let mut shared = self.disk.0.lock();
        // Without memory the request fails, and no more than that.
        self.waiting.try_reserve(1).map_err(|_| Failed)?;
        if !shared.users.get_mut(&self.user).is_some_and(User::expects_one_more) {
            return Err(Failed);
        }
        let begun =
            if self.waiting.is_empty() { shared.begin(self.user, job, staging) } else { Err(Refused::Full) };
        match begun {
            Ok(()) => {}
            Err(Refused::Full) => {
                self.waiting.push_back(job);
                shared.set_waiting(self.user, true);
            }
            Err(Refused::Failed) => {
                shared.failed(self.user);
                return Err(Failed);
            }
        }
        Ok(Progress::Pending)
    }

    fn poll(&mut self, staging: &T::Memory, done: &mut dyn FnMut(u16, Result<(), Failed>)) {
        let mut shared = self.disk.0.lock();
        shared.collect();
        drop(shared);
        loop {
            let ended = self.disk.0.lock().users.get_mut(&self.user).and_then(|user| user.ended.pop_front());
            let Some((tag, offset, result)) = ended else { break };
            if let Ok(Some(bytes)) = &result {
                words::store(staging, offset, bytes);
            }
            done(tag, result.map(drop));
        }
        let mut shared = self.disk.0.lock();
        while let Some(job) = self.waiting.front() {
            shared.set_waiting(self.user, true);
            match shared.begin(self.user, *job, staging) {
                Ok(()) => {}
                Err(Refused::Full) => break,
                Err(Refused::Failed) => {
                    shared.failed(self.user);
                    done(job.tag, Err(Failed));
                }
            }
            self.waiting.pop_front();
        }
        shared.set_waiting(self.user, !self.waiting.is_empty());
    }
}

#[cfg(test)]
mod tests;
