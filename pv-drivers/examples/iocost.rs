//! A kernel that counts what a block request and a packet cost its own domain and the one that serves it. `cargo xtask
//! bench io` runs it where a nanosecond is an instruction.
//!
//! It reads 4 KiB of its first disk again and again, and sends frames of 1,514 bytes (packets of 1,500) from its first network
//! interface to its second, one and 32 at a time. For each it prints `io NAME ROUNDS FRONT BACK`: nanoseconds of CPU time of this
//! domain and of the back end's. Only a privileged domain learns those.
//!
//! Command line: `back=0` (the domain that serves), `counts=640,3200` (how many rounds).
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, println, xenstore};
use pv_drivers::blk::{Data, Front, FrontOptions, Operation, Request, SECTOR};
use pv_drivers::net::front::{Net, Part};
use pv_drivers::net::{Mac, Offload};
use pv_drivers::transport::guest::Guest;
use pv_drivers::transport::{PAGE_SIZE, Transport};
use pv_drivers::xenbus::{Bus, Device, End};

guest_pv_lib::entry!(kernel, name = "iocost", version = "1");

/// How many requests or packets are under way at once.
const DEPTHS: [u64; 2] = [1, 32];
/// A packet of 1,500 bytes and its Ethernet header.
const FRAME: u16 = 1514;
/// IEEE 802's number for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// How long the slowest step may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why it cannot be counted.
type Wrong = &'static str;
/// A network device.
type Interface<T> = Device<T, Net<T>>;

fn kernel(boot: BootContext) -> ! {
    match count(&boot) {
        Ok(()) => {
            println!("io: finished");
            sched::shutdown(Shutdown::PowerOff)
        }
        Err(why) => {
            println!("io: FAILED: {why}");
            sched::shutdown(Shutdown::Crash)
        }
    }
}

/// The value of `name=value` on the command line.
fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn count(boot: &BootContext) -> Result<(), Wrong> {
    let line = core::str::from_utf8(boot.command_line()).map_err(|_| "the command line is no text")?;
    let back =
        option(line, "back").and_then(|back| back.parse().ok()).ok_or("no back= on the command line")?;
    let counts: Vec<u64> = option(line, "counts")
        .unwrap_or("640,3200")
        .split(',')
        .filter_map(|count| count.parse().ok())
        .collect();
    let store = xenstore::connect(boot).map_err(|_| "no connection to xenstore")?;
    let bus = Bus::new(Guest::new(store));
    let own = own_domain(&bus)?;
    let clock = Clock { own, back };
    blocks(&bus, &clock, &counts)?;
    packets(&bus, &clock, &counts)
}

/// The identifier of this domain: what a toolstack writes into its own directory.
fn own_domain<T: Transport>(bus: &Bus<T>) -> Result<u16, Wrong> {
    use pv_drivers::store::{Store, Transaction};
    let read = bus.store().read(Transaction::NONE, "domid").map_err(|_| "no domid in xenstore")?;
    let text = String::from_utf8(read).map_err(|_| "domid is no text")?;
    text.trim().parse().map_err(|_| "domid is no number")
}

/// The CPU time of both domains.
struct Clock {
    own: u16,
    back: u16,
}

impl Clock {
    fn now(&self) -> Result<[u64; 2], Wrong> {
        let time = |domain| sched::cpu_time(domain).map_err(|_| "this domain may not ask for CPU time");
        Ok([time(self.own)?, time(self.back)?])
    }

    /// Does `work` and prints what it cost.
    fn count(
        &self,
        name: &str,
        depth: u64,
        rounds: u64,
        work: impl FnOnce() -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let before = self.now()?;
        work()?;
        let after = self.now()?;
        println!("io {name}-{depth} {rounds} {} {}", after[0] - before[0], after[1] - before[1]);
        Ok(())
    }
}

/// Sleeps until something happens, unless `end` is over.
fn sleep<T: Transport>(bus: &Bus<T>, end: Duration) -> Result<(), Wrong> {
    bus.transport().wait(Some(Duration::from_millis(100)));
    if bus.transport().now() < end { Ok(()) } else { Err("nothing happens any more") }
}

fn blocks<T: Transport>(bus: &Bus<T>, clock: &Clock, counts: &[u64]) -> Result<(), Wrong> {
    let path = bus.front_ends("vbd").into_iter().next().ok_or("this domain has no disk")?;
    let end = End::front(bus, &path).map_err(|_| "the disk's directory is incomplete")?;
    let mut disk = Front::new(end, FrontOptions::default());
    let patience = bus.transport().now() + PATIENCE;
    while !disk.is_connected() {
        if !(bus.poll() | disk.poll()) {
            sleep(bus, patience)?;
        }
    }
    let page = (PAGE_SIZE / SECTOR) as u64;
    let pages = (disk.geometry().ok_or("a disk without a size")?.sectors / page).max(1);
    for &rounds in counts {
        for depth in DEPTHS {
            let buffer = |_| bus.transport().buffer(1).map(Data::Buffer).map_err(|_| "no memory");
            let memory = (0..depth).map(buffer).collect::<Result<Vec<_>, _>>()?;
            clock.count("block", depth, rounds, || read(bus, &mut disk, memory, pages, rounds))?;
        }
    }
    Ok(())
}

/// Reads so many pages of the disk, with as many requests under way as there is memory.
fn read<T: Transport>(
    bus: &Bus<T>,
    disk: &mut Front<T>,
    mut memory: Vec<Data<T>>,
    pages: u64,
    rounds: u64,
) -> Result<(), Wrong> {
    let page = (PAGE_SIZE / SECTOR) as u64;
    let patience = bus.transport().now() + PATIENCE;
    let (mut asked, mut answered) = (0, 0);
    while answered < rounds {
        while asked < rounds {
            let Some(data) = memory.pop() else { break };
            let (operation, sector) = (Operation::Read, asked % pages * page);
            let request = Request { tag: asked, operation, sector, sectors: page, data, offset: 0 };
            disk.submit(request).map_err(|_| "a request was not taken")?;
            asked += 1;
        }
        let busy = disk.poll();
        let before = answered;
        while let Some(done) = disk.completed() {
            done.result.map_err(|_| "a request failed")?;
            memory.push(done.data);
            answered += 1;
        }
        if !busy && answered == before && !bus.poll() {
            sleep(bus, patience)?;
        }
    }
    Ok(())
}

fn packets<T: Transport>(bus: &Bus<T>, clock: &Clock, counts: &[u64]) -> Result<(), Wrong> {
    let mut ends = bus.front_ends("vif").into_iter().map(|path| {
        let end = End::front(bus, &path).map_err(|_| "a network device names no back end")?;
        Ok(Device::new(end, Net::new(1)))
    });
    let mut next = || ends.next().unwrap_or(Err("this domain has no two network devices"));
    let (mut from, mut to) = (next()?, next()?);
    let patience = bus.transport().now() + PATIENCE;
    while !(from.is_connected() && to.is_connected()) {
        if !(bus.poll() | from.poll() | to.poll()) {
            sleep(bus, patience)?;
        }
    }
    let address = |device: &Interface<T>| device.driver().mac().ok_or("a network device has no address");
    let (here, there) = (address(&from)?, address(&to)?);
    // The bridge shall know where everybody is.
    send(bus, (&mut to, &mut from), (there, here), 1, 1)?;
    for &rounds in counts {
        for depth in DEPTHS {
            let work = || send(bus, (&mut from, &mut to), (here, there), depth, rounds);
            clock.count("packet", depth, rounds, work)?;
        }
    }
    Ok(())
}

/// Sends so many frames from one device to the other, `depth` of them, then the next when all have come.
fn send<T: Transport>(
    bus: &Bus<T>,
    (from, to): (&mut Interface<T>, &mut Interface<T>),
    (own, other): (Mac, Mac),
    depth: u64,
    rounds: u64,
) -> Result<(), Wrong> {
    let from = from.driver_mut().queues().first_mut().ok_or("a network device is gone")?;
    let to = to.driver_mut().queues().first_mut().ok_or("a network device is gone")?;
    let patience = bus.transport().now() + PATIENCE;
    let broken = |_| "a ring is broken";
    let mut parts = Vec::new();
    let (mut sent, mut received) = (0, 0);
    while received < rounds {
        let _ = (from.take_event(), to.take_event());
        while sent == received || sent % depth != 0 {
            if !from.tx.ready(1).map_err(broken)? {
                break;
            }
            let mut page = from.tx.page().ok_or("no memory")?;
            let bytes = page.as_mut();
            bytes[..6].copy_from_slice(&other.0);
            bytes[6..12].copy_from_slice(&own.0);
            bytes[12..14].copy_from_slice(&ETHERTYPE);
            parts.push(Part { page, offset: 0, length: FRAME });
            from.tx.send(&mut parts, &Offload::default()).map_err(|_| "a frame was not taken")?;
            sent += 1;
        }
        let before = received;
        while let Some(frame) = to.rx.receive().map_err(broken)? {
            received += u64::from(frame.len() == usize::from(FRAME));
            to.rx.recycle(frame);
        }
        if received == before && !(from.sleep() | to.sleep()) && !bus.poll() {
            sleep(bus, patience)?;
        }
    }
    Ok(())
}
