//! A disk of the machine as the block back end takes it: jobs begin in the device's queue and end there at their own time, so
//! that nobody waits for a medium.
//!
//! Several back ends may share a disk. What belongs to one that is gone ends all the same, and is forgotten.
//!
//! A flush is the exception: the device's driver can only wait for it, and nothing else may be under way. All flushes that
//! were asked for are one of the device, at most one in a round of all back ends. From the moment when one is due, no job begins
//! before it; behind it, every back end may begin jobs before the next one is due. Neither flushes nor jobs without end keep
//! the other back ends from their turn.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use pv_drivers::blk::{BlockDevice, Failed, Geometry, Job, Operation, Progress, SECTOR};
use pv_drivers::transport::{Transport, words};
use spin::Mutex;

/// Jobs that are ended in one round.
const AT_ONCE: usize = 16;

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

    /// Begins to read or write `bytes` at a sector, and answers the job's number, which no other one has until it
    /// ended. The bytes are the queue's until then.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the bytes.
    fn begin(&mut self, operation: Operation, sector: u64, bytes: Vec<u8>)
    -> Result<u16, (Refused, Vec<u8>)>;

    /// Waits until all that was written is on the medium. Nothing is under way meanwhile.
    ///
    /// # Errors
    ///
    /// The device failed, or there is no memory for the request.
    fn flush(&mut self) -> Result<(), Failed>;

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

/// A disk that back ends share.
struct Shared<Q> {
    queue: Q,
    begun: BTreeMap<u16, Begun>,
    ended: BTreeMap<u64, VecDeque<Ended>>,
    /// Flushes that were asked for, and by whom.
    flushes: Vec<(u64, Job)>,
    /// How often a back end has taken what ended since the last flush.
    turns: usize,
    last_user: u64,
}

impl<Q: Queue> Shared<Q> {
    /// Begins a job, or notes a flush.
    fn begin(&mut self, user: u64, job: Job, bytes: Vec<u8>) -> Result<(), (Refused, Vec<u8>)> {
        if job.operation == Operation::Flush {
            self.flushes.push((user, job));
            return Ok(());
        }
        if self.is_flush_due() {
            return Err((Refused::Full, bytes));
        }
        let number = self.queue.begin(job.operation, job.sector, bytes)?;
        self.begun.insert(number, Begun { user, job });
        Ok(())
    }

    /// Whether jobs wait for a flush: every back end had its turn since the last one.
    fn is_flush_due(&self) -> bool {
        !self.flushes.is_empty() && self.turns >= self.ended.len()
    }

    /// Takes what ended, for whomever it is, and flushes where that is due.
    fn collect(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((number, bytes, result)) = self.queue.ended() else { break };
            let Some(Begun { user, job }) = self.begun.remove(&number) else { continue };
            let read = (job.operation == Operation::Read).then_some(bytes);
            if let Some(ended) = self.ended.get_mut(&user) {
                ended.push_back((job.tag, job.offset, result.map(|()| read)));
            }
        }
        self.turns = self.turns.saturating_add(1);
        if !self.is_flush_due() || !self.begun.is_empty() {
            return;
        }
        self.turns = 0;
        let result = self.queue.flush();
        for (user, job) in self.flushes.drain(..) {
            if let Some(ended) = self.ended.get_mut(&user) {
                ended.push_back((job.tag, job.offset, result.map(|()| None)));
            }
        }
    }
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
    /// The disk behind a queue.
    pub fn new(queue: Q) -> Self {
        let (begun, ended, flushes) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self(Arc::new(Mutex::new(Shared { queue, begun, ended, flushes, turns: 0, last_user: 0 })))
    }

    /// Whether it works on something: nothing tells when that ends, so it must be polled. Where those for whom it works are all gone,
    /// this takes what ended.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let mut shared = self.0.lock();
        if shared.ended.is_empty() {
            shared.collect();
        }
        !shared.begun.is_empty() || !shared.flushes.is_empty()
    }

    /// One use of it.
    #[must_use]
    pub fn open(&self) -> Opened<Q> {
        let mut shared = self.0.lock();
        shared.last_user += 1;
        let user = shared.last_user;
        shared.ended.insert(user, VecDeque::new());
        let geometry = shared.queue.geometry();
        Opened { disk: self.clone(), user, geometry, waiting: VecDeque::new() }
    }
}

/// A disk of the machine as one back end uses it.
pub struct Opened<Q: Queue> {
    disk: Disk<Q>,
    user: u64,
    geometry: Geometry,
    /// Jobs that found the queue full, and what they write.
    waiting: VecDeque<(Job, Vec<u8>)>,
}

impl<Q: Queue> fmt::Debug for Opened<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<Q: Queue> Opened<Q> {
    /// Gives a job to the queue, or lets it wait.
    fn begin(&mut self, job: Job, bytes: Vec<u8>) -> Result<(), Failed> {
        match self.disk.0.lock().begin(self.user, job, bytes) {
            Ok(()) => Ok(()),
            Err((Refused::Full, bytes)) => {
                self.waiting.push_front((job, bytes));
                Ok(())
            }
            Err((Refused::Failed, _)) => Err(Failed),
        }
    }
}

impl<Q: Queue> Drop for Opened<Q> {
    fn drop(&mut self) {
        self.disk.0.lock().ended.remove(&self.user);
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
        let length = usize::try_from(job.sectors).map_err(|_| Failed)? * SECTOR;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| Failed)?;
        bytes.resize(length, 0);
        if job.operation == Operation::Write {
            words::load(staging, job.offset, &mut bytes);
        }
        if self.waiting.is_empty() {
            self.begin(job, bytes)?;
        } else {
            self.waiting.push_back((job, bytes));
        }
        Ok(Progress::Pending)
    }

    fn poll(&mut self, staging: &T::Memory, done: &mut dyn FnMut(u16, Result<(), Failed>)) {
        let mut shared = self.disk.0.lock();
        shared.collect();
        let mut ended = shared.ended.get_mut(&self.user).map(core::mem::take).unwrap_or_default();
        drop(shared);
        for (tag, offset, result) in ended.drain(..) {
            if let Ok(Some(bytes)) = &result {
                words::store(staging, offset, bytes);
            }
            done(tag, result.map(drop));
        }
        while let Some((job, bytes)) = self.waiting.pop_front() {
            let before = self.waiting.len();
            if self.begin(job, bytes).is_err() {
                done(job.tag, Err(Failed));
            } else if self.waiting.len() > before {
                break;
            }
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

        fn begin(
            &mut self,
            operation: Operation,
            sector: u64,
            bytes: Vec<u8>,
        ) -> Result<u16, (Refused, Vec<u8>)> {
            if self.begun.len() == 2 {
                return Err((Refused::Full, bytes));
            }
            if sector == 99 {
                return Err((Refused::Failed, bytes));
            }
            let number = (0..).find(|number| self.begun.iter().all(|(other, ..)| other != number)).unwrap();
            self.begun.push_back((number, operation, sector as usize * SECTOR, bytes));
            Ok(number)
        }

        fn flush(&mut self) -> Result<(), Failed> {
            assert!(self.begun.is_empty());
            self.flushes += 1;
            Ok(())
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
        Disk::new(Slow { bytes: vec![0; 100 * SECTOR], begun: VecDeque::new(), may_end: 0, flushes: 0 })
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
        assert_eq!(poll(&mut one, &staging), [], "the other one may have jobs");
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
            disk.0.lock().queue.may_end = 1;
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
}
