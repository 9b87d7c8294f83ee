//! A disk that several back ends share.

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

/// Each has one job at a time, and always another one behind it: as many as there are wait as long.
#[test]
fn of_many_back_ends_each_has_its_turn_whoever_polls_first() {
    const USERS: usize = 20;
    let staging = Machine::new().domain(1).memory(8).unwrap();
    let disk = disk();
    let mut users: Vec<_> = (0..USERS).map(|_| disk.open()).collect();
    for user in &mut users {
        submit(user, job(1, Operation::Write, 5), &staging).unwrap();
    }
    let mut ended = [0; USERS];
    for round in 0..40 * USERS {
        for (number, user) in users.iter_mut().enumerate() {
            // A job ends when one of the first few is about to look.
            if number == round % 3 {
                disk.0.lock().queue.may_end = 1;
            }
            for (tag, good) in poll(user, &staging) {
                assert!(good);
                ended[number] += 1;
                submit(user, job(tag, Operation::Write, 5), &staging).unwrap();
            }
        }
    }
    assert!(ended.iter().all(|count| (38..=41).contains(count)), "{ended:?}");
}

#[test]
fn what_a_domain_wrote_last_does_not_overtake_the_one_after_it() {
    let staging = Machine::new().domain(1).memory(8).unwrap();
    let disk = disk();
    let (mut one, mut other) = (disk.open(), disk.open());
    submit(&mut one, job(1, Operation::Write, 5), &staging).unwrap();
    drop(one);
    let mut next = disk.open();
    submit(&mut next, job(2, Operation::Write, 5), &staging).unwrap();
    assert_eq!((poll(&mut next, &staging), disk.0.lock().begun.len()), (vec![], 1));
    // One that was there before is not concerned.
    submit(&mut other, job(3, Operation::Read, 6), &staging).unwrap();
    assert_eq!((poll(&mut other, &staging), poll(&mut next, &staging)), (vec![], vec![]));
    disk.0.lock().queue.may_end = 9;
    let mut ended = [poll(&mut next, &staging), poll(&mut other, &staging)].concat();
    assert!(disk.0.lock().begun.len() <= 1);
    disk.0.lock().queue.may_end = 9;
    ended.extend(poll(&mut next, &staging));
    ended.extend(poll(&mut other, &staging));
    ended.sort_unstable();
    assert_eq!(ended, [(2, true), (3, true)]);
}
