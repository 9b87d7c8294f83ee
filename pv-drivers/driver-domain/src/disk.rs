//! A disk of the machine as the block back end takes it: jobs begin in the device's queue and end there at their own time, so
//! that nobody waits for a medium.
//!
//! Several back ends may share a disk. What belongs to one that is gone ends all the same, and is forgotten.

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

    /// Begins to read or write `bytes` at a sector, or to flush, and answers the job's number, which no other one has until it
    /// ended. The bytes are the queue's until then.
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

/// A disk that back ends share.
struct Shared<Q> {
    queue: Q,
    begun: BTreeMap<u16, Begun>,
    ended: BTreeMap<u64, VecDeque<Ended>>,
    last_user: u64,
}

impl<Q: Queue> Shared<Q> {
    /// Takes what ended, for whomever it is.
    fn collect(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((number, bytes, result)) = self.queue.ended() else { break };
            let Some(Begun { user, job }) = self.begun.remove(&number) else { continue };
            let read = (job.operation == Operation::Read).then_some(bytes);
            if let Some(ended) = self.ended.get_mut(&user) {
                ended.push_back((job.tag, job.offset, result.map(|()| read)));
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
        let (begun, ended) = (BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(Shared { queue, begun, ended, last_user: 0 })))
    }

    /// Whether it works on something: nothing tells when that ends, so it must be polled.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.lock().begun.is_empty()
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
        let mut shared = self.disk.0.lock();
        match shared.queue.begin(job.operation, job.sector, bytes) {
            Ok(number) => {
                shared.begun.insert(number, Begun { user: self.user, job });
                Ok(())
            }
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
        Disk::new(Slow { bytes: vec![0; 100 * SECTOR], begun: VecDeque::new(), may_end: 0 })
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
