//! Both ends in one process, on disks of every kind; and ends that lie.

extern crate std;
mod hostile;
mod model;

use std::collections::VecDeque;
use std::vec::Vec;
use std::{format, vec};

use super::*;
use crate::store::{Store as _, Transaction};
use crate::transport::host::{Buffer, HostTransport, Machine};
use crate::transport::{Access, words};
use crate::xenbus::{Bus, End};

type Host = HostTransport;

/// A disk that answers when it is told to, in the opposite order.
#[derive(Debug)]
struct SlowDisk {
    bytes: Vec<u8>,
    waiting: Vec<Job>,
    may_end: bool,
    fails: bool,
}

impl SlowDisk {
    fn new(sectors: usize) -> Self {
        Self { bytes: vec![0; sectors * SECTOR], waiting: Vec::new(), may_end: true, fails: false }
    }
}

impl BlockDevice<Host> for SlowDisk {
    fn geometry(&self) -> Geometry {
        Geometry { flush: true, ..Geometry::new((self.bytes.len() / SECTOR) as u64) }
    }

    fn submit(&mut self, job: Job, _staging: &<Host as Transport>::Memory) -> Result<Progress, Failed> {
        self.waiting.push(job);
        Ok(Progress::Pending)
    }

    fn poll(&mut self, staging: &<Host as Transport>::Memory, done: &mut dyn FnMut(u16, Result<(), Failed>)) {
        while let Some(job) = self.may_end.then(|| self.waiting.pop()).flatten() {
            let start = job.sector as usize * SECTOR;
            let bytes = &mut self.bytes[start..start + job.sectors as usize * SECTOR];
            match job.operation {
                Operation::Read => words::store(staging, job.offset, bytes),
                Operation::Write => words::load(staging, job.offset, bytes),
                Operation::Flush | Operation::Discard => {}
            }
            done(job.tag, if self.fails { Err(Failed) } else { Ok(()) });
        }
    }
}

/// A front end and a back end.
struct Pair<D: BlockDevice<Host>> {
    machine: Machine,
    buses: [Bus<Host>; 2],
    front: Front<Host>,
    back: Back<Host, D>,
}

const FRONT: u16 = 1;
const BACK: u16 = 2;

impl<D: BlockDevice<Host>> Pair<D> {
    fn new(disk: impl FnOnce(&Host) -> D, front: FrontOptions, back: BackOptions) -> Self {
        let machine = Machine::new();
        let buses = [FRONT, BACK].map(|id| Bus::new(machine.domain(id)));
        let (at_front, at_back) = machine.plug("vbd", 51712, FRONT, BACK);
        let disk = disk(buses[1].transport());
        let front = Front::new(End::front(&buses[0], &at_front).unwrap(), front);
        let back = Back::new(End::back(&buses[1], &at_back).unwrap(), disk, back);
        let mut pair = Self { machine, buses, front, back };
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let woken = self.buses.each_ref().map(Bus::poll).contains(&true);
            if !(self.front.poll() | self.back.poll() | woken) {
                return;
            }
        }
        panic!("the ends do not come to rest: {:?} {:?}", self.front, self.back);
    }

    fn buffer(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.buses[0].transport().buffer(bytes.len().div_ceil(4096)).unwrap();
        buffer.as_mut()[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    fn submit(&mut self, operation: Operation, sector: u64, data: Data<Host>) {
        let sectors = (data_len(&data) / SECTOR) as u64;
        let request = Request { tag: sector, operation, sector, sectors, data, offset: 0 };
        self.front.submit(request).unwrap();
    }

    /// Does one request, and gives its result and memory.
    fn run(&mut self, operation: Operation, sector: u64, data: Data<Host>) -> Completion<Host> {
        self.submit(operation, sector, data);
        self.settle();
        let done = self.front.completed().expect("an answer");
        assert_eq!((done.tag, done.operation), (sector, operation));
        assert!(self.front.completed().is_none());
        done
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Failure> {
        let data = Data::Buffer(self.buffer(bytes));
        self.run(Operation::Write, sector, data).result
    }

    fn read(&mut self, sector: u64, length: usize) -> Vec<u8> {
        let data = Data::Buffer(self.buffer(&vec![0xaa; length]));
        let done = self.run(Operation::Read, sector, data);
        assert_eq!(done.result, Ok(()));
        let Data::Buffer(buffer) = done.data else { panic!("the buffer comes back") };
        buffer.as_ref()[..length].to_vec()
    }
}

fn data_len(data: &Data<Host>) -> usize {
    match data {
        Data::None => 0,
        Data::Buffer(buffer) => buffer.as_ref().len(),
        Data::Granted(granted) => granted.len() * 4,
    }
}

fn ram(sectors: u64) -> impl FnOnce(&Host) -> RamDisk<Host> {
    move |transport| RamDisk::new(transport, sectors).unwrap()
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ (at as u8).wrapping_mul(seed | 1)).collect()
}

#[test]
fn what_is_written_is_read() {
    let mut pair = Pair::new(ram(1000), FrontOptions::default(), BackOptions::default());
    let bytes = pattern(3 * 4096, 5);
    assert_eq!(pair.write(16, &bytes), Ok(()));
    assert_eq!(pair.read(16, bytes.len()), bytes);
    assert_eq!(pair.read(24, 4096), bytes[4096..8192]);
    assert_eq!(pair.read(0, 4096), [0; 4096]);
    let geometry = pair.front.geometry().unwrap();
    assert_eq!((geometry.sectors, geometry.block_size, geometry.physical_block_size), (1000, 512, 4096));
    assert!(geometry.flush && geometry.discard && !geometry.read_only);
    assert_eq!(pair.back.answered(), 4);
}

#[test]
fn a_disk_may_answer_later_and_in_any_order() {
    let mut pair = Pair::new(|_| SlowDisk::new(1000), FrontOptions::default(), BackOptions::default());
    let blocks: Vec<_> = (0..20).map(|n| pattern(4096, n)).collect();
    for (n, block) in (0..).zip(&blocks) {
        let data = Data::Buffer(pair.buffer(block));
        pair.submit(Operation::Write, n * 8, data);
    }
    pair.settle();
    assert_eq!(std::iter::from_fn(|| pair.front.completed()).filter(|done| done.result.is_ok()).count(), 20);
    pair.back.disk_mut().may_end = false;
    for n in 0..20 {
        let data = Data::Buffer(pair.buffer(&[0; 4096]));
        pair.submit(Operation::Read, n * 8, data);
    }
    pair.settle();
    assert!(pair.front.completed().is_none());
    pair.back.disk_mut().may_end = true;
    pair.settle();
    for done in std::iter::from_fn(|| pair.front.completed()) {
        let Data::Buffer(buffer) = done.data else { panic!() };
        assert_eq!(buffer.as_ref(), blocks[done.tag as usize / 8]);
    }
    assert_eq!(pair.run(Operation::Flush, 0, Data::None).result, Ok(()));
    pair.back.disk_mut().fails = true;
    assert_eq!(pair.write(0, &[1; 512]), Err(Failure::Failed));
    assert_eq!(pair.run(Operation::Flush, 0, Data::None).result, Err(Failure::Failed));
}

#[test]
fn a_file_is_a_disk_that_ends_with_zeros() {
    let bytes = pattern(5000, 3);
    let image = bytes.clone();
    let mut pair = Pair::new(move |_| ImageDisk::new(image), FrontOptions::default(), BackOptions::default());
    let geometry = pair.front.geometry().unwrap();
    assert!(geometry.read_only && geometry.sectors == 10 && !geometry.discard);
    let read = pair.read(0, 4096);
    assert_eq!(read, bytes[..4096]);
    let request = Request {
        tag: 1,
        operation: Operation::Read,
        sector: 8,
        sectors: 2,
        data: Data::Buffer(pair.buffer(&[9; 4096])),
        offset: 512,
    };
    pair.front.submit(request).unwrap();
    pair.settle();
    let Data::Buffer(buffer) = pair.front.completed().unwrap().data else { panic!() };
    let mut expected = vec![9; 512];
    expected.extend(&bytes[4096..]);
    expected.resize(1536, 0);
    assert_eq!(buffer.as_ref()[..1536], expected);
    assert_eq!(buffer.as_ref()[1536..], [9; 4096 - 1536]);
}

#[test]
fn long_requests_are_indirect() {
    for staged in [false, true] {
        let options = BackOptions { max_indirect_segments: 64, ..Default::default() };
        let front = FrontOptions { max_segments: 512, ..Default::default() };
        let bytes = pattern(60 * 4096, 9);
        if staged {
            let mut pair = Pair::new(|_| SlowDisk::new(1000), front, options);
            assert_eq!(pair.front.max_sectors(), 512);
            assert_eq!(pair.write(7, &bytes), Ok(()));
            assert_eq!(pair.read(7, bytes.len()), bytes);
        } else {
            let mut pair = Pair::new(ram(1000), front, options);
            assert_eq!(pair.write(7, &bytes), Ok(()));
            assert_eq!(pair.read(7, bytes.len()), bytes);
            assert_eq!(pair.read(8, 4096), bytes[512..4608]);
        }
    }
}

#[test]
fn discarded_sectors_are_zero() {
    let mut pair = Pair::new(ram(100), FrontOptions::default(), BackOptions::default());
    pair.write(0, &[7; 8192]).unwrap();
    let request =
        Request { tag: 3, operation: Operation::Discard, sector: 3, sectors: 2, data: Data::None, offset: 0 };
    pair.front.submit(request).unwrap();
    pair.settle();
    assert_eq!(pair.front.completed().unwrap().result, Ok(()));
    let read = pair.read(0, 4096);
    assert_eq!(
        (&read[..1536], &read[1536..2560], &read[2560..]),
        (&[7; 1536][..], &[0; 1024][..], &[7; 1536][..])
    );
}

#[test]
fn several_large_rings_carry_more_requests() {
    let options = FrontOptions { ring_page_order: 1, queues: 3, ..Default::default() };
    let mut pair = Pair::new(ram(10_000), options, BackOptions::default());
    assert_eq!((pair.front.queues(), pair.front.free()), (3, 3 * 64));
    let blocks: Vec<_> = (0..192).map(|n| pattern(4096, n)).collect();
    for (n, block) in (0..).zip(&blocks) {
        let data = Data::Buffer(pair.buffer(block));
        pair.submit(Operation::Write, n * 8, data);
    }
    let full =
        Request { tag: 0, operation: Operation::Flush, sector: 0, sectors: 0, data: Data::None, offset: 0 };
    assert_eq!(pair.front.submit(full).unwrap_err().0, SubmitError::Full);
    pair.settle();
    let done: VecDeque<_> = std::iter::from_fn(|| pair.front.completed()).collect();
    assert!(done.len() == 192 && done.iter().all(|done| done.result.is_ok()));
    for (n, block) in (0..).zip(&blocks) {
        assert_eq!(&pair.read(n * 8, 4096), block);
    }
}

#[test]
fn what_the_disk_cannot_do_is_not_asked() {
    let mut pair =
        Pair::new(|t: &Host| ram(100)(t).read_only(), FrontOptions::default(), BackOptions::default());
    let memory = pair.buffer(&[0; 4096]);
    let mut data = Data::Buffer(memory);
    for (operation, sector, sectors, offset, error) in [
        (Operation::Write, 0, 8, 0, SubmitError::Unsupported),
        (Operation::Discard, 0, 8, 0, SubmitError::Unsupported),
        (Operation::Read, 93, 8, 0, SubmitError::OutOfRange),
        (Operation::Read, u64::MAX, 8, 0, SubmitError::OutOfRange),
        (Operation::Read, 0, 0, 0, SubmitError::OutOfRange),
        (Operation::Read, 0, 8, 512, SubmitError::OutOfRange),
        (Operation::Read, 0, 1, 7, SubmitError::OutOfRange),
        (Operation::Read, 0, 9, 0, SubmitError::OutOfRange),
    ] {
        let request = Request { tag: 1, operation, sector, sectors, data, offset };
        let (refused, request) = pair.front.submit(request).unwrap_err();
        assert_eq!(refused, error, "{request:?}");
        data = request.data;
    }
    let Data::Buffer(_) = data else { panic!("the memory is still there") };
}

#[test]
fn granted_memory_is_used_again_and_again() {
    let mut pair = Pair::new(ram(100), FrontOptions::default(), BackOptions::default());
    let mut granted = pair.front.lend(pair.buffer(&[5; 4096])).unwrap();
    for sector in [0, 8, 16] {
        words::store(&granted, 0, &[sector as u8; 512]);
        let Data::Granted(back) = pair.run(Operation::Write, sector, Data::Granted(granted)).data else {
            panic!()
        };
        granted = back;
    }
    for sector in [0, 8, 16] {
        assert_eq!(pair.read(sector, 512), [sector as u8; 512]);
    }
}

/// Three granted pages where two stay mapped; on a disk that is memory, and on one that is not.
fn keep_grants<D: BlockDevice<Host>>(disk: impl FnOnce(&Host) -> D) {
    let back = BackOptions { persistent_grants: 2, ..Default::default() };
    let mut pair = Pair::new(disk, FrontOptions { persistent: true, ..Default::default() }, back);
    assert!(pair.front.is_persistent());
    let lend = |pair: &Pair<D>| pair.front.lend(pair.buffer(&[0; 4096])).unwrap();
    let mut memory: VecDeque<_> = (0..3).map(|_| lend(&pair)).collect();
    for (sector, operation) in [(5, Operation::Write), (13, Operation::Write), (5, Operation::Read)] {
        for at in 0..3 {
            let granted = memory.pop_front().unwrap();
            let bytes = pattern(4096, 40 + sector as u8 + at);
            if operation == Operation::Write {
                words::store(&granted, 0, &bytes);
            }
            let done = pair.run(operation, sector + 30 * u64::from(at), Data::Granted(granted));
            let Data::Granted(granted) = done.data else { panic!("the memory comes back") };
            let mut read = vec![0; 4096];
            words::load(&granted, 0, &mut read);
            assert_eq!((done.result, read), (Ok(()), bytes));
            memory.push_back(granted);
        }
    }
    assert_eq!(pair.back.mapped_pages(), 2);
    let transport = pair.buses[0].transport().clone();
    let in_use = memory.into_iter().filter_map(|granted| transport.take_back(granted).err());
    let in_use: Vec<_> = in_use.collect();
    assert_eq!(in_use.len(), 2);
    pair.front.close();
    pair.settle();
    assert_eq!(pair.back.mapped_pages(), 0);
    assert!(in_use.into_iter().all(|granted| transport.take_back(granted).is_ok()));
}

#[test]
fn grants_for_good_stay_mapped_as_many_as_there_is_room_for() {
    keep_grants(ram(200));
    keep_grants(|_| SlowDisk::new(200));
}

#[test]
fn a_page_that_cannot_be_mapped_fails_its_request() {
    let back = BackOptions { persistent_grants: 9, ..Default::default() };
    let mut pair = Pair::new(ram(100), FrontOptions { persistent: true, ..Default::default() }, back);
    let other = pair.machine.domain(7);
    let granted = pair.buses[0].transport().lend(pair.buffer(&[1; 4096]), 7, Access::ReadWrite);
    let granted = granted.map_err(|(error, _)| error).unwrap();
    let done = pair.run(Operation::Write, 0, Data::Granted(granted));
    assert_eq!((done.result, pair.back.mapped_pages()), (Err(Failure::Failed), 0));
    drop(other);
}

#[test]
fn both_ends_part_and_meet_again() {
    let mut pair = Pair::new(|_| SlowDisk::new(100), FrontOptions::default(), BackOptions::default());
    pair.write(0, &[3; 4096]).unwrap();
    pair.back.disk_mut().may_end = false;
    let data = Data::Buffer(pair.buffer(&[4; 4096]));
    pair.submit(Operation::Read, 0, data);
    pair.settle();
    pair.front.close();
    pair.settle();
    assert!(pair.front.is_closed() && pair.back.is_closed());
    let done = pair.front.completed().unwrap();
    assert_eq!(done.result, Err(Failure::Disconnected));
    assert!(matches!(done.data, Data::Buffer(_)));
    pair.front.reopen();
    pair.settle();
    assert!(pair.front.is_connected());
    // The disk ends what the old connection asked for: nobody hears of it.
    pair.back.disk_mut().may_end = true;
    pair.settle();
    assert!(pair.front.completed().is_none());
    assert_eq!(pair.read(0, 4096), [3; 4096]);
}

/// The front end, or the domain after it, believes that nothing changes the disk any more once the back end has closed.
#[test]
fn a_back_end_has_closed_when_its_writes_have_ended() {
    for operation in [Operation::Write, Operation::Flush] {
        let mut pair = Pair::new(|_| SlowDisk::new(100), FrontOptions::default(), BackOptions::default());
        pair.back.disk_mut().may_end = false;
        let data = match operation {
            Operation::Write => Data::Buffer(pair.buffer(&[4; 4096])),
            _ => Data::None,
        };
        pair.submit(operation, 0, data);
        pair.settle();
        pair.front.close();
        pair.settle();
        assert!(
            !pair.front.is_closed() && !pair.back.is_closed(),
            "the front end keeps its pages until then"
        );
        assert_eq!(pair.back.end().state(), crate::xenbus::State::Closing, "{operation:?}");
        // A front end that comes back meanwhile waits for it.
        pair.front.reopen();
        pair.settle();
        assert!(!pair.front.is_connected());
        pair.back.disk_mut().may_end = true;
        pair.settle();
        assert!(pair.front.is_connected());
        assert_eq!(pair.front.completed().unwrap().result, Err(Failure::Disconnected));
        let there = if operation == Operation::Write { 4 } else { 0 };
        assert_eq!(pair.read(0, 4096), [there; 4096]);
        pair.front.close();
        pair.settle();
        assert!(pair.back.is_closed());
    }
}

#[test]
fn a_restored_domain_has_its_disk_again() {
    let mut pair = Pair::new(|_| SlowDisk::new(100), FrontOptions::default(), BackOptions::default());
    pair.back.disk_mut().may_end = false;
    let data = Data::Buffer(pair.buffer(&[4; 4096]));
    pair.submit(Operation::Write, 0, data);
    pair.settle();
    // The toolstack has made the device anew, and its back end knows nothing of the old connection.
    let (_, at_back) = pair.machine.plug("vbd", 51712, FRONT, BACK);
    let end = End::back(&pair.buses[1], &at_back).unwrap();
    pair.back = Back::new(end, SlowDisk::new(200), BackOptions::default());
    pair.front.resume().unwrap();
    let done = pair.front.completed().unwrap();
    assert_eq!((done.operation, done.result), (Operation::Write, Err(Failure::Disconnected)));
    let Data::Buffer(buffer) = done.data else { panic!("the buffer comes back") };
    assert_eq!(buffer.as_ref()[..4096], [4; 4096]);
    pair.settle();
    assert_eq!(pair.front.geometry().unwrap().sectors, 200);
    assert_eq!(pair.run(Operation::Write, 0, Data::Buffer(buffer)).result, Ok(()));
    assert_eq!(pair.read(0, 4096), [4; 4096]);
}

#[test]
fn a_discard_of_a_whole_disk_is_done_in_steps() {
    let sectors = 16 << 11;
    let mut pair = Pair::new(ram(sectors), FrontOptions::default(), BackOptions::default());
    pair.back.disk_mut().fill(0, &vec![0xff; sectors as usize * SECTOR]);
    let left = |pair: &Pair<RamDisk<Host>>| {
        let mut bytes = vec![0; sectors as usize * SECTOR];
        words::load(pair.back.disk().memory().unwrap(), 0, &mut bytes);
        bytes.iter().filter(|byte| **byte != 0).count()
    };
    let (operation, data) = (Operation::Discard, Data::None);
    pair.front.submit(Request { tag: 1, operation, sector: 0, sectors, data, offset: 0 }).unwrap();
    pair.front.poll();
    let mut before = left(&pair);
    let mut rounds = 0;
    while pair.front.completed().is_none() {
        pair.back.poll();
        pair.front.poll();
        let after = left(&pair);
        assert!(before - after <= 256 << 10, "{} bytes at once", before - after);
        (before, rounds) = (after, rounds + 1);
        assert!(rounds < 1000, "it ends");
    }
    assert_eq!(before, 0);

    // A connection that ends in the middle takes the rest of its discard with it.
    pair.back.disk_mut().fill(0, &vec![0xff; sectors as usize * SECTOR]);
    let (operation, data) = (Operation::Discard, Data::None);
    pair.front.submit(Request { tag: 2, operation, sector: 0, sectors, data, offset: 0 }).unwrap();
    pair.front.poll();
    pair.back.poll();
    pair.front.close();
    for _ in 0..20 {
        let _ = (pair.buses.each_ref().map(Bus::poll), pair.front.poll(), pair.back.poll());
    }
    let before = left(&pair);
    assert!(before > 0 && pair.back.is_closed());
    for _ in 0..20 {
        pair.back.poll();
    }
    assert_eq!(left(&pair), before);
}

/// However many requests of whatever kind are under way, nothing is allocated for them once the ends are connected.
#[test]
fn a_connection_asks_for_no_more_memory() {
    let front = FrontOptions { ring_page_order: 2, queues: 4, max_segments: 64, ..Default::default() };
    let mut pair = Pair::new(|_| SlowDisk::new(10_000), front, BackOptions::default());
    let before = pair.back.capacities();
    pair.back.disk_mut().may_end = false;
    for n in 0..120 {
        let segments = if n % 3 == 0 { 32 } else { 11 };
        // They begin and end within a page of the disk.
        let data = Data::Buffer(pair.buffer(&vec![n as u8; segments * 4096]));
        let operation = if n % 2 == 0 { Operation::Write } else { Operation::Read };
        pair.submit(operation, n * 3, data);
    }
    for _ in 0..40 {
        pair.back.disk_mut().may_end = !pair.back.disk().may_end;
        pair.settle();
    }
    assert_eq!(std::iter::from_fn(|| pair.front.completed()).filter(|done| done.result.is_ok()).count(), 120);
    assert_eq!(pair.back.capacities(), before);
    assert!(before.iter().all(|room| *room > 0), "{before:?}");
}

/// A disk may be written to where its directory says so; where that cannot be read, or says anything else, it is read-only.
#[test]
fn a_disk_of_unknown_mode_is_read_only() {
    for (mode, read_only) in
        [(Some("w"), false), (Some("w!"), false), (Some("r"), true), (Some(""), true), (None, true)]
    {
        let mut pair = Pair::new(|_| SlowDisk::new(8), FrontOptions::default(), BackOptions::default());
        // The toolstack makes the device anew.
        let (_, at_back) = pair.machine.plug("vbd", 51712, FRONT, BACK);
        let (path, store) = (format!("{at_back}/mode"), pair.buses[1].transport().store());
        match mode {
            Some(mode) => store.write(Transaction::NONE, &path, mode.as_bytes()).unwrap(),
            None => store.remove(Transaction::NONE, &path).unwrap(),
        }
        let end = End::back(&pair.buses[1], &at_back).unwrap();
        pair.back = Back::new(end, SlowDisk::new(8), BackOptions::default());
        pair.front.resume().unwrap();
        pair.settle();
        assert_eq!(pair.front.geometry().unwrap().read_only, read_only, "{mode:?}");
    }
}
