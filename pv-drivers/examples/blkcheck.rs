//! A kernel that verifies a disk through the block front end: it reads all of it, writes and reads back where it may, and
//! says what a request costs. Each line starts with `blkcheck:`; the domain ends as crashed where something is wrong.
//!
//! On the command line:
//!
//! - `self`: needs no other domain: xenstore, disk and back end are in this very kernel, whose two ends then use real
//!   grants and events with one another.
//! - `disk=N`: the disk's number in `device/vbd`, else the first one.
//! - `write`: overwrites the disk with a pattern and reads it back. Without it nothing is changed.
//! - `seconds=N`: does that again and again, each time with another pattern, until so many seconds have passed.
//! - `patience=N`: fails where a step takes longer than so many seconds, 20 unless given.
//! - `rings=N`, `order=N`, `persistent`: how the front end connects.
//! - `cost=N`: then N single reads of 4 KiB one after the other, and N with as many under way as the rings hold, in ticks
//!   of the time stamp counter: instructions of the whole machine under an emulator that counts them.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;
use core::time::Duration;

use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, println, time, xenstore};
use pv_drivers::blk::{
    Back, BackOptions, Completion, Data, Front, FrontOptions, Operation, RamDisk, Request, SECTOR,
};
use pv_drivers::store::server::{Local, Server};
use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::guest::Guest;
use pv_drivers::transport::{PAGE_SIZE, Transport};
use pv_drivers::xenbus::{Bus, End};

guest_pv_lib::entry!(kernel, name = "blkcheck", version = "1");

/// How long a step may take, in seconds.
const PATIENCE: u64 = 20;
/// Sectors of the disk that this kernel has itself.
const OWN_SECTORS: u64 = 2048;
/// Sectors of the requests by which the disk is read and written.
const CHUNK: u64 = 64;

/// Why the check failed.
type Wrong = &'static str;

fn kernel(boot: BootContext) -> ! {
    let result = if boot.has_option("self") { alone(&boot) } else { guest(&boot) };
    match result {
        Ok(()) => println!("blkcheck: passed"),
        Err(why) => println!("blkcheck: FAILED: {why}"),
    }
    sched::shutdown(if result.is_ok() { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// The value of `name=value` on the command line.
fn option<V: FromStr>(boot: &BootContext, name: &str) -> Option<V> {
    let line = core::str::from_utf8(boot.command_line()).ok()?;
    let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    line.split_ascii_whitespace().find_map(value)
}

fn options(boot: &BootContext) -> FrontOptions {
    FrontOptions {
        ring_page_order: option(boot, "order").unwrap_or(0),
        queues: option(boot, "rings").unwrap_or(1),
        persistent: boot.has_option("persistent"),
        ..FrontOptions::default()
    }
}

fn patience(boot: &BootContext) -> Duration {
    Duration::from_secs(option(boot, "patience").unwrap_or(PATIENCE))
}

/// A disk of another domain.
fn guest(boot: &BootContext) -> Result<(), Wrong> {
    let client = xenstore::connect(boot).map_err(|_| "no connection to xenstore")?;
    let bus = Bus::new(Guest::new(client));
    let found = bus.front_ends("vbd");
    let path = match option::<u32>(boot, "disk") {
        Some(number) => alloc::format!("device/vbd/{number}"),
        None => found.into_iter().next().ok_or("this domain has no disk")?,
    };
    println!("blkcheck: {path}");
    let end = End::front(&bus, &path).map_err(|_| "the disk's directory is incomplete")?;
    let patience = patience(boot);
    check(boot, &mut Disk { front: Front::new(end, options(boot)), bus, serve: || false, patience })
}

/// A disk of this kernel.
fn alone(boot: &BootContext) -> Result<(), Wrong> {
    let server = Arc::new(spin::Mutex::new(Server::default()));
    let bus = Bus::new(Guest::new(Local::new(&server, 0, true, None)));
    plug(bus.store()).map_err(|_| "the own xenstore refused")?;
    let disk = RamDisk::new(bus.transport(), OWN_SECTORS).map_err(|_| "no memory for a disk")?;
    let incomplete = |_| "the disk's directory is incomplete";
    let front = End::front(&bus, "/local/domain/0/device/vbd/51712").map_err(incomplete)?;
    let end = End::back(&bus, "/local/domain/0/backend/vbd/0/51712").map_err(incomplete)?;
    let mut back = Back::new(end, disk, BackOptions::default());
    let front = Front::new(front, options(boot));
    check(boot, &mut Disk { front, bus, serve: move || back.poll(), patience: patience(boot) })
}

/// What a toolstack writes.
fn plug(store: &impl Store) -> Result<(), pv_drivers::store::Error> {
    const FRONT: &str = "/local/domain/0/device/vbd/51712";
    const BACK: &str = "/local/domain/0/backend/vbd/0/51712";
    for (path, name, value) in [
        (FRONT, "backend", BACK),
        (FRONT, "backend-id", "0"),
        (FRONT, "state", "1"),
        (BACK, "frontend", FRONT),
        (BACK, "frontend-id", "0"),
        (BACK, "state", "1"),
        (BACK, "mode", "w"),
    ] {
        store.write(Transaction::NONE, &alloc::format!("{path}/{name}"), value.as_bytes())?;
    }
    Ok(())
}

/// The disk under test, and what else this kernel serves.
struct Disk<T: Transport, F> {
    front: Front<T>,
    bus: Bus<T>,
    serve: F,
    patience: Duration,
}

impl<T: Transport, F: FnMut() -> bool> Disk<T, F> {
    /// Serves all until `done` answers.
    fn until<R>(&mut self, mut done: impl FnMut(&mut Front<T>) -> Option<R>) -> Result<R, Wrong> {
        let end = self.bus.transport().now() + self.patience;
        loop {
            if let Some(result) = done(&mut self.front) {
                return Ok(result);
            }
            if self.front.is_closed() {
                return Err("the disk is gone");
            }
            let busy = self.bus.poll() | self.front.poll() | (self.serve)();
            if !busy {
                self.bus.transport().wait(Some(Duration::from_millis(100)));
                if self.bus.transport().now() > end {
                    return Err("nothing happens any more");
                }
            }
        }
    }

    fn submit(
        &mut self,
        operation: Operation,
        sector: u64,
        sectors: u64,
        data: Data<T>,
    ) -> Result<(), Wrong> {
        let request = Request { tag: sector, operation, sector, sectors, data, offset: 0 };
        self.front.submit(request).map_err(|_| "a request was not taken")
    }

    /// One request, and its memory.
    fn run(
        &mut self,
        operation: Operation,
        sector: u64,
        sectors: u64,
        data: Data<T>,
    ) -> Result<Data<T>, Wrong> {
        self.submit(operation, sector, sectors, data)?;
        let done = self.until(Front::completed)?;
        if done.result.is_err() || done.tag != sector {
            println!("blkcheck: {operation:?} of sector {sector}: {:?}", done.result);
            return Err("a request failed");
        }
        Ok(done.data)
    }

    /// Memory for so many sectors.
    fn memory(&self, sectors: u64) -> Result<Data<T>, Wrong> {
        let buffer = self.bus.transport().buffer((sectors as usize * SECTOR).div_ceil(PAGE_SIZE));
        let buffer = buffer.map_err(|_| "no memory")?;
        if self.front.is_persistent() {
            self.front.lend(buffer).map(Data::Granted).map_err(|_| "no grants")
        } else {
            Ok(Data::Buffer(buffer))
        }
    }
}

fn check<T: Transport, F: FnMut() -> bool>(boot: &BootContext, disk: &mut Disk<T, F>) -> Result<(), Wrong> {
    disk.until(|front| front.is_connected().then_some(()))?;
    let geometry = disk.front.geometry().ok_or("a disk without a size")?;
    println!("blkcheck: {geometry:?}");
    println!(
        "blkcheck: {} rings, {} requests, {} sectors each, persistent: {}",
        disk.front.queues(),
        disk.front.free(),
        disk.front.max_sectors(),
        disk.front.is_persistent()
    );
    let chunk = CHUNK.min(disk.front.max_sectors());
    let end = disk.bus.transport().now() + Duration::from_secs(option(boot, "seconds").unwrap_or(0));
    for round in 0.. {
        if boot.has_option("write") {
            write(disk, geometry.sectors, chunk, round)?;
            if geometry.flush {
                disk.run(Operation::Flush, 0, 0, Data::None)?;
            }
            println!("blkcheck: written");
        }
        let expected = boot.has_option("write").then_some(round);
        let sum = read(disk, geometry.sectors, chunk, expected)?;
        println!("blkcheck: {} sectors, crc32 {sum:08x}", geometry.sectors);
        if disk.bus.transport().now() >= end {
            break;
        }
    }
    if boot.has_option("write") && geometry.discard {
        disk.run(Operation::Discard, 0, chunk, Data::None)?;
        println!("blkcheck: discarded");
    }
    if let Some(rounds) = option(boot, "cost") {
        cost(disk, geometry.sectors, rounds)?;
    }
    disk.front.close();
    disk.until(|front| front.is_closed().then_some(()))
}

/// The byte at `at` of the pattern of a round: differs from sector to sector and within one.
fn pattern(at: u64, round: u64) -> u8 {
    let mixed = (at / SECTOR as u64).wrapping_add(round << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed ^ at) as u8
}

/// Calls `work` with the bytes of a chunk.
fn bytes<T: Transport>(
    data: &mut Data<T>,
    length: usize,
    write: bool,
    mut work: impl FnMut(&mut [u8]),
) -> Result<(), Wrong> {
    match data {
        Data::None => Err("the memory did not come back"),
        Data::Buffer(buffer) => {
            work(&mut buffer.as_mut()[..length]);
            Ok(())
        }
        Data::Granted(granted) => {
            let mut bytes = alloc::vec![0; length];
            pv_drivers::transport::words::load(granted, 0, &mut bytes);
            work(&mut bytes);
            if write {
                pv_drivers::transport::words::store(granted, 0, &bytes);
            }
            Ok(())
        }
    }
}

fn write<T: Transport, F: FnMut() -> bool>(
    disk: &mut Disk<T, F>,
    sectors: u64,
    chunk: u64,
    round: u64,
) -> Result<(), Wrong> {
    let mut data = disk.memory(chunk)?;
    for sector in (0..sectors).step_by(chunk as usize) {
        let count = chunk.min(sectors - sector);
        bytes(&mut data, count as usize * SECTOR, true, |bytes| {
            for (at, byte) in (sector * SECTOR as u64..).zip(bytes) {
                *byte = pattern(at, round);
            }
        })?;
        data = disk.run(Operation::Write, sector, count, data)?;
    }
    Ok(())
}

fn read<T: Transport, F: FnMut() -> bool>(
    disk: &mut Disk<T, F>,
    sectors: u64,
    chunk: u64,
    expected: Option<u64>,
) -> Result<u32, Wrong> {
    let mut sum = crc32fast::Hasher::new();
    let mut data = disk.memory(chunk)?;
    for sector in (0..sectors).step_by(chunk as usize) {
        let count = chunk.min(sectors - sector);
        data = disk.run(Operation::Read, sector, count, data)?;
        let mut right = true;
        bytes(&mut data, count as usize * SECTOR, false, |bytes| {
            sum.update(bytes);
            let start = sector * SECTOR as u64;
            let as_in = |round| (start..).zip(bytes.iter()).all(|(at, byte)| *byte == pattern(at, round));
            right = expected.is_none_or(as_in);
        })?;
        if !right {
            println!("blkcheck: at sector {sector}");
            return Err("what was read is not what was written");
        }
    }
    Ok(sum.finalize())
}

/// What a read of 4 KiB costs, alone and in company.
fn cost<T: Transport, F: FnMut() -> bool>(
    disk: &mut Disk<T, F>,
    sectors: u64,
    rounds: u64,
) -> Result<(), Wrong> {
    let page = (PAGE_SIZE / SECTOR) as u64;
    let last = (sectors / page).max(1);
    for depth in [1, disk.front.free()] {
        let mut memory: Vec<_> = (0..depth).map(|_| disk.memory(page)).collect::<Result<_, _>>()?;
        let (mut asked, mut answered) = (0, 0);
        let start = time::tsc();
        while answered < rounds {
            while asked < rounds {
                let Some(data) = memory.pop() else { break };
                disk.submit(Operation::Read, asked % last * page, page, data)?;
                asked += 1;
            }
            let Completion { data, result, .. } = disk.until(Front::completed)?;
            if result.is_err() {
                return Err("a request failed");
            }
            memory.push(data);
            answered += 1;
            while let Some(done) = disk.front.completed() {
                memory.push(done.data);
                answered += 1;
            }
        }
        let ticks = time::tsc() - start;
        println!("blkcheck: {depth} under way: {} ticks for 4 KiB", ticks / rounds.max(1));
    }
    Ok(())
}
