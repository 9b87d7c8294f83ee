//! A disk of the machine as the block back end takes it: jobs begin in the device's queue and end there at their own time, so
//! that nobody waits for a medium.
//!
//! Several back ends may share a disk. What belongs to one that is gone ends all the same, and is forgotten.
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
//! under way begins the next.

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
    /// Jobs of it that are under way.
    begun: usize,
    /// A job of it waits.
    waits: bool,
}

/// A disk that back ends share.
struct Shared<Q> {
    queue: Q,
    /// Bytes that jobs may take in all, and those that they take.
    room: usize,
    taken: usize,
    begun: BTreeMap<u16, Begun>,
    users: BTreeMap<u64, User>,
    /// Flushes that were asked for, and by whom.
    flushes: Vec<(u64, Job)>,
    /// The flush that is under way, and those for whom it is.
    flushing: Option<(u16, Vec<(u64, Job)>)>,
    last_user: u64,
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
            self.flushes.push((user, job));
            return Ok(());
        }
        let length = length(job).map_err(|_| Refused::Failed)?;
        if !self.may_begin(user, cost(length)) {
            return Err(Refused::Full);
        }
        let without_memory = if self.begun.is_empty() { Refused::Failed } else { Refused::Full };
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| without_memory)?;
        bytes.resize(length, 0);
        if job.operation == Operation::Write {
            words::load(staging, job.offset, &mut bytes);
        }
        let number = self.queue.begin(job.operation, job.sector, bytes).map_err(|(refused, _)| refused)?;
        self.begun.insert(number, Begun { user, job });
        self.taken += cost(length);
        if let Some(user) = self.users.get_mut(&user) {
            user.begun += 1;
        }
        Ok(())
    }

    /// Whether a job of that cost can begin, and no flush nor job of another back end comes first.
    fn may_begin(&self, user: u64, cost: usize) -> bool {
        let flush_waits = self.flushing.is_none() && !self.flushes.is_empty();
        let own = self.users.get(&user).map_or(0, |user| user.begun);
        let is_first = self.users.values().all(|other| !other.waits || other.begun >= own);
        let fits = self.taken == 0 || self.taken + cost <= self.room;
        fits && is_first && !flush_waits && !self.queue.is_full()
    }

    /// Takes what ended, for whomever it is, and begins the next flush.
    fn collect(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((number, bytes, result)) = self.queue.ended() else { break };
            if let Some((_, asked)) = self.flushing.take_if(|(flush, _)| *flush == number) {
                self.end_flushes(asked, result);
                continue;
            }
            let Some(Begun { user, job }) = self.begun.remove(&number) else { continue };
            self.taken -= cost(bytes.len());
            let read = (job.operation == Operation::Read).then_some(bytes);
            if let Some(user) = self.users.get_mut(&user) {
                user.begun -= 1;
                user.ended.push_back((job.tag, job.offset, result.map(|()| read)));
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
                user.ended.push_back((job.tag, job.offset, result.map(|()| None)));
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
            begun: BTreeMap::new(),
            users: BTreeMap::new(),
            flushes: Vec::new(),
            flushing: None,
            last_user: 0,
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
        let has_more = |user: &User| !user.ended.is_empty() || user.waits;
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
        let begun =
            if self.waiting.is_empty() { shared.begin(self.user, job, staging) } else { Err(Refused::Full) };
        match begun {
            Ok(()) => {}
            Err(Refused::Full) => {
                self.waiting.push_back(job);
                if let Some(user) = shared.users.get_mut(&self.user) {
                    user.waits = true;
                }
            }
            Err(Refused::Failed) => return Err(Failed),
        }
        Ok(Progress::Pending)
    }

    fn poll(&mut self, staging: &T::Memory, done: &mut dyn FnMut(u16, Result<(), Failed>)) {
        let mut shared = self.disk.0.lock();
        shared.collect();
        let mut ended =
            shared.users.get_mut(&self.user).map(|user| core::mem::take(&mut user.ended)).unwrap_or_default();
        drop(shared);
        for (tag, offset, result) in ended.drain(..) {
            if let Ok(Some(bytes)) = &result {
                words::store(staging, offset, bytes);
            }
            done(tag, result.map(drop));
        }
        let mut shared = self.disk.0.lock();
        while let Some(job) = self.waiting.front() {
            match shared.begin(self.user, *job, staging) {
                Ok(()) => {}
                Err(Refused::Full) => break,
                Err(Refused::Failed) => done(job.tag, Err(Failed)),
            }
            self.waiting.pop_front();
        }
        if let Some(user) = shared.users.get_mut(&self.user) {
            user.waits = !self.waiting.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use pv_drivers::transport::host::{HostTransport, Machine};

    /// A device that works on two jobs at most, and ends one when it is told to.
    struct Slow {
        bytes: Vec<u8>,
        begun: VecDeque<(u16, Operation, usize, Vec<u8>)>,
        may_end: usize,
        flushes: usize,
    }

    impl Queue for Slow {
        fn geometry(&self) -> Geometry {
            Geometry::new((self.bytes.len() / SECTOR) as u64)
        }

        fn is_full(&self) -> bool {
            self.begun.len() == 2
        }

        fn begin(
            &mut self,
            operation: Operation,
            sector: u64,
            bytes: Vec<u8>,
        ) -> Result<u16, (Refused, Vec<u8>)> {
            if self.is_full() {
                return Err((Refused::Full, bytes));
            }
            self.flushes += usize::from(operation == Operation::Flush);
            if sector == 99 {
                return Err((Refused::Failed, bytes));
            }
            let number = (0..).find(|number| self.begun.iter().all(|(other, ..)| other != number)).unwrap();
            self.begun.push_back((number, operation, sector as usize * SECTOR, bytes));
            Ok(number)
        }

        fn ended(&mut self) -> Option<(u16, Vec<u8>, Result<(), Failed>)> {
            self.may_end = self.may_end.checked_sub(1)?;
            let (number, operation, start, mut bytes) = self.begun.pop_front()?;
            let place = &mut self.bytes[start..start + bytes.len()];
            match operation {
                Operation::Read => bytes.copy_from_slice(place),
                _ => place.copy_from_slice(&bytes),
            }
            Some((number, bytes, Ok(())))
        }
    }

    type Staging = <HostTransport as Transport>::Memory;

    fn disk() -> Disk<Slow> {
        disk_with_room(usize::MAX)
    }

    fn disk_with_room(room: usize) -> Disk<Slow> {
        let slow = Slow { bytes: vec![0; 100 * SECTOR], begun: VecDeque::new(), may_end: 0, flushes: 0 };
        Disk::new(slow, room)
    }

    fn job(tag: u16, operation: Operation, sector: u64) -> Job {
        Job { tag, operation, sector, sectors: 1, offset: usize::from(tag) * 4096 }
    }

    fn submit(disk: &mut Opened<Slow>, job: Job, staging: &Staging) -> Result<Progress, Failed> {
        BlockDevice::<HostTransport>::submit(disk, job, staging)
    }

    fn poll(disk: &mut Opened<Slow>, staging: &Staging) -> Vec<(u16, bool)> {
        let mut done = vec![];
        let take = &mut |tag, result: Result<(), Failed>| done.push((tag, result.is_ok()));
        BlockDevice::<HostTransport>::poll(disk, staging, take);
        done
    }

    #[test]
    fn what_ended_for_another_back_end_is_not_forgotten() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        submit(&mut one, job(1, Operation::Read, 5), &staging).unwrap();
        submit(&mut one, job(2, Operation::Flush, 0), &staging).unwrap();
        assert_eq!(poll(&mut one, &staging), []);
        disk.0.lock().queue.may_end = 2;
        assert_eq!(poll(&mut two, &staging), []);
        assert!(disk.is_busy(), "the first has to be asked again");
        let mut done = poll(&mut one, &staging);
        disk.0.lock().queue.may_end = 2;
        done.extend(poll(&mut one, &staging));
        assert_eq!(done, [(1, true), (2, true)]);
        assert!(!disk.is_busy());
    }

    #[test]
    fn a_disk_whose_last_user_is_gone_comes_to_rest() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let mut one = disk.open();
        submit(&mut one, job(1, Operation::Write, 5), &staging).unwrap();
        submit(&mut one, job(2, Operation::Flush, 0), &staging).unwrap();
        drop(one);
        assert!(disk.is_busy(), "the device has the job's memory");
        disk.0.lock().queue.may_end = 1;
        assert!(!disk.is_busy());
    }

    #[test]
    fn nobody_waits_for_the_medium_and_each_gets_what_it_asked_for() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        words::store(&staging, 4096, &[7; SECTOR]);
        assert_eq!(submit(&mut one, job(1, Operation::Write, 5), &staging), Ok(Progress::Pending));
        assert_eq!(submit(&mut two, job(2, Operation::Read, 5), &staging), Ok(Progress::Pending));
        // The queue is full: these two wait, in order.
        assert_eq!(submit(&mut one, job(3, Operation::Read, 5), &staging), Ok(Progress::Pending));
        assert_eq!(submit(&mut one, job(4, Operation::Read, 99), &staging), Ok(Progress::Pending));
        assert_eq!((poll(&mut one, &staging), poll(&mut two, &staging)), (vec![], vec![]));
        assert!(disk.is_busy());
        disk.0.lock().queue.may_end = 2;
        // Whoever asks first collects for all.
        assert_eq!(poll(&mut two, &staging), [(2, true)]);
        let mut bytes = [0; SECTOR];
        words::load(&staging, 2 * 4096, &mut bytes);
        assert_eq!(bytes, [7; SECTOR]);
        assert_eq!(poll(&mut one, &staging), [(1, true), (4, false)]);
        disk.0.lock().queue.may_end = 9;
        assert_eq!(poll(&mut one, &staging), [(3, true)]);
        words::load(&staging, 3 * 4096, &mut bytes);
        assert_eq!((bytes, disk.is_busy()), ([7; SECTOR], false));
        assert_eq!(submit(&mut one, job(5, Operation::Read, 99), &staging), Err(Failed));
        assert_eq!(submit(&mut one, job(6, Operation::Discard, 1), &staging), Err(Failed));
    }

    fn flush(tag: u16) -> Job {
        Job { sectors: 0, ..job(tag, Operation::Flush, 0) }
    }

    #[test]
    fn flushes_are_one_of_the_device_in_a_round() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        for tag in 0..32 {
            submit(&mut one, flush(tag), &staging).unwrap();
        }
        submit(&mut two, flush(1), &staging).unwrap();
        assert!(disk.is_busy());
        assert_eq!(poll(&mut one, &staging), []);
        disk.0.lock().queue.may_end = 9;
        assert_eq!(poll(&mut two, &staging), [(1, true)]);
        assert_eq!(poll(&mut one, &staging), (0..32).map(|tag| (tag, true)).collect::<Vec<_>>());
        assert!(!disk.is_busy());
        assert_eq!(disk.0.lock().queue.flushes, 1);
    }

    #[test]
    fn flushes_and_jobs_without_end_leave_each_their_turn() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        let (mut flushed, mut written) = (0, 0);
        for tag in 0..7 {
            submit(&mut two, job(tag, Operation::Write, 5), &staging).unwrap();
        }
        for _ in 0..100 {
            // The device always has a job of the second one, if it may.
            disk.0.lock().queue.may_end = 2;
            submit(&mut one, flush(1), &staging).unwrap();
            flushed += poll(&mut one, &staging).len();
            let ended = poll(&mut two, &staging);
            written += ended.len();
            for (tag, good) in ended {
                assert!(good);
                submit(&mut two, job(tag, Operation::Write, 5), &staging).unwrap();
            }
        }
        assert!(flushed >= 90 && written >= 50, "{flushed} flushes, {written} writes");
        assert!(disk.0.lock().queue.flushes >= 20);
    }

    #[test]
    fn what_belongs_to_one_that_is_gone_ends_and_is_forgotten() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        for tag in 1..4 {
            submit(&mut one, job(tag, Operation::Write, 5), &staging).unwrap();
        }
        drop(one);
        disk.0.lock().queue.may_end = 9;
        assert_eq!(poll(&mut two, &staging), []);
        assert!(!disk.is_busy());
        submit(&mut two, job(1, Operation::Read, 5), &staging).unwrap();
        assert_eq!(poll(&mut two, &staging), [(1, true)]);
    }

    #[test]
    fn others_read_and_write_during_a_flush() {
        let staging = Machine::new().domain(1).memory(8).unwrap();
        let disk = disk();
        let (mut one, mut two) = (disk.open(), disk.open());
        submit(&mut one, flush(1), &staging).unwrap();
        assert_eq!(poll(&mut one, &staging), []);
        // The medium takes its time.
        submit(&mut one, flush(2), &staging).unwrap();
        submit(&mut two, job(3, Operation::Write, 5), &staging).unwrap();
        assert_eq!((poll(&mut two, &staging), disk.0.lock().begun.len()), (vec![], 1));
        // What is asked for during a flush is the next one: it says more was written.
        disk.0.lock().queue.may_end = 1;
        assert_eq!(poll(&mut one, &staging), [(1, true)]);
        disk.0.lock().queue.may_end = 2;
        assert_eq!((poll(&mut two, &staging), poll(&mut one, &staging)), (vec![(3, true)], vec![(2, true)]));
        assert!(!disk.is_busy());
        assert_eq!(disk.0.lock().queue.flushes, 2);
    }

    #[test]
    fn a_back_end_that_asks_for_more_and_first_does_not_keep_another_from_its_turn() {
        let staging = Machine::new().domain(1).memory(40).unwrap();
        let disk = disk();
        let (mut greedy, mut modest) = (disk.open(), disk.open());
        for tag in 0..32 {
            submit(&mut greedy, job(tag, Operation::Write, 5), &staging).unwrap();
        }
        submit(&mut modest, job(33, Operation::Write, 6), &staging).unwrap();
        let mut ended = [0, 0];
        for _ in 0..40 {
            // A job ends whenever the first one is about to look.
            disk.0.lock().queue.may_end = 1;
            for (tag, _) in poll(&mut greedy, &staging) {
                ended[0] += 1;
                submit(&mut greedy, job(tag, Operation::Write, 5), &staging).unwrap();
            }
            for (tag, _) in poll(&mut modest, &staging) {
                ended[1] += 1;
                submit(&mut modest, job(tag, Operation::Write, 6), &staging).unwrap();
            }
        }
        assert!(ended[0] >= 12 && ended[1] >= 12, "{ended:?}");
    }

    #[test]
    fn a_disks_jobs_keep_to_its_room_and_those_without_wait() {
        let staging = Machine::new().domain(1).memory(40).unwrap();
        // Less than a job takes: one at a time.
        for (room, at_once) in [(SECTOR, 1), (cost(SECTOR), 1), (2 * cost(SECTOR), 2)] {
            let disk = disk_with_room(room);
            let mut one = disk.open();
            for tag in 0..32 {
                submit(&mut one, job(tag, Operation::Write, 5), &staging).unwrap();
            }
            let mut ended = vec![];
            while ended.len() < 32 {
                let most = disk.0.lock().begun.len();
                assert!((1..=at_once).contains(&most), "{most} jobs in {room} bytes");
                disk.0.lock().queue.may_end = 1;
                ended.extend(poll(&mut one, &staging));
            }
            assert_eq!(ended, (0..32).map(|tag| (tag, true)).collect::<Vec<_>>());
            assert_eq!(disk.0.lock().taken, 0);
        }
    }

    /// Five disks of the machine, each with a back end, in the memory that a driver domain has as a rule.
    #[test]
    fn all_disks_together_leave_memory_for_the_rest() {
        let usual = BackOptions::default();
        for (free, disks) in [(48 << 20, 1), (48 << 20, 5), (48 << 20, 20), (200 << 20, 5)] {
            let each = usize::from(requests(free, disks)) * (usual.max_indirect_segments + 1) * PAGE_SIZE;
            let largest = cost(usual.max_indirect_segments * PAGE_SIZE);
            let all = disks * (each + room(free, disks).max(largest));
            assert!(all <= free / 2, "{disks} disks take {all} of {free} bytes");
        }
        assert_eq!((requests(48 << 20, 1), requests(48 << 20, 5), requests(1 << 20, 50)), (32, 18, 2));
        assert_eq!(requests(usize::MAX, 1), 32);
    }
}
