//! The block device's ends.

use pv_drivers::blk::{Back, BackOptions, Data, Front, FrontOptions, Operation, RamDisk, Request};
use pv_drivers::transport::Transport;
use pv_drivers::transport::host::HostTransport;
use pv_drivers::xenbus::{Bus, End};
use xen_abi::io::blkif::{BlkifRequest, BlkifRequestIndirect, BlkifResponse};
use zerocopy::FromZeros;

use crate::input::Input;
use crate::liar::{Honest, Liar, settle};

/// What a front end writes, and some that it need not.
const FRONT_NODES: &[&str] = &[
    "ring-ref",
    "ring-ref0",
    "ring-ref1",
    "ring-page-order",
    "event-channel",
    "protocol",
    "state",
    "multi-queue-num-queues",
    "queue-0/ring-ref",
    "queue-0/event-channel",
    "feature-persistent",
];
/// What a back end writes.
const BACK_NODES: &[&str] = &[
    "sectors",
    "sector-size",
    "physical-sector-size",
    "info",
    "feature-barrier",
    "feature-flush-cache",
    "feature-discard",
    "discard-granularity",
    "feature-persistent",
    "feature-max-indirect-segments",
    "max-ring-page-order",
    "multi-queue-max-queues",
    "state",
];
/// Sectors of the disk.
const SECTORS: u64 = 64;
/// Bytes of a slot.
const SLOT: usize = size_of::<BlkifRequest>();

struct Served {
    bus: Bus<HostTransport>,
    back: Back<HostTransport, RamDisk<HostTransport>>,
}

impl Honest for Served {
    fn poll(&mut self) -> bool {
        self.bus.poll() | self.back.poll()
    }

    fn is_connected(&self) -> bool {
        self.back.is_connected()
    }
}

/// A back end with a RAM disk, and a front end that lies.
pub fn back(data: &[u8]) {
    let mut input = Input(data);
    let (mut liar, bus, path) = Liar::new("vbd", true);
    let Ok(disk) = RamDisk::new(bus.transport(), SECTORS) else { return };
    let Ok(end) = End::back(&bus, &path) else { return };
    let persistent_grants = usize::from(input.byte()) % 3;
    let options = BackOptions { persistent_grants, ..BackOptions::default() };
    let mut served = Served { back: Back::new(end, disk, options), bus };
    connect(&mut liar, &mut served, input.byte());
    assert!(served.is_connected());
    while !input.is_empty() {
        match input.below(8) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(FRONT_NODES, &mut input),
            2 => liar.revoke(&mut input),
            3 => connect(&mut liar, &mut served, input.byte()),
            4 => indirect(&liar, &mut input),
            5 | 6 => direct(&liar, &mut input),
            _ => drop(served.poll()),
        }
    }
    settle(&mut served);
    // The domain ends with all that it had.
    liar.machine.destroy(crate::liar::LIAR);
    settle(&mut served);
    assert!(!served.is_connected(), "there is no front end any more");
}

/// Connects as a front end does that means it.
fn connect(liar: &mut Liar, served: &mut Served, features: u8) {
    liar.set("state", 6);
    settle(served);
    liar.set("state", 1);
    settle(served);
    liar.lend();
    for node in FRONT_NODES {
        let path = format!("{}/{node}", liar.own);
        let _ = pv_drivers::store::Store::remove(
            liar.transport.store(),
            pv_drivers::store::Transaction::NONE,
            &path,
        );
    }
    liar.set("ring-ref", liar.grant(0));
    liar.set("event-channel", liar.port_number());
    liar.set("feature-persistent", features & 1);
    liar.set("state", 3);
    settle(served);
}

fn direct(liar: &Liar, input: &mut Input<'_>) {
    let mut request = BlkifRequest::new_zeroed();
    (request.operation, request.id) = (input.byte() % 8, input.long());
    request.nr_segments = if input.below(4) == 0 { input.byte() } else { input.byte() % 12 };
    request.sector_number = input.long();
    for at in 0..usize::from(request.nr_segments).min(3) {
        let segment = &mut request.seg[at];
        segment.gref = liar.reference(input);
        (segment.first_sect, segment.last_sect) = (input.byte() % 10, input.byte() % 10);
    }
    liar.push(0, SLOT, &request);
}

fn indirect(liar: &Liar, input: &mut Input<'_>) {
    let mut request = BlkifRequestIndirect::new_zeroed();
    (request.operation, request.indirect_op) = (6, input.byte() % 4);
    request.nr_segments = if input.below(4) == 0 { input.u16() } else { u16::from(input.byte()) % 40 };
    (request.id, request.sector_number) = (input.long(), input.byte().into());
    for at in 0..2 {
        request.indirect_grefs[at] = liar.reference(input);
    }
    liar.push(0, SLOT, &request);
}

struct Using {
    bus: Bus<HostTransport>,
    front: Front<HostTransport>,
    asked: u64,
    answered: u64,
}

impl Honest for Using {
    fn poll(&mut self) -> bool {
        let moved = self.bus.poll() | self.front.poll();
        while let Some(done) = self.front.completed() {
            assert!(done.tag < self.asked, "an answer to nothing");
            self.answered += 1;
        }
        moved
    }

    fn is_connected(&self) -> bool {
        self.front.is_connected()
    }
}

impl Using {
    fn ask(&mut self, input: &mut Input<'_>) {
        let operation =
            input.one_of(&[Operation::Read, Operation::Write, Operation::Flush, Operation::Discard]);
        let moves = matches!(operation, Operation::Read | Operation::Write);
        let pages = input.below(4) + 1;
        let Ok(buffer) = self.bus.transport().buffer(pages) else { return };
        let granted = moves && (self.front.is_persistent() || input.below(4) == 0);
        let data = match moves {
            false => Data::None,
            true if granted => match self.front.lend(buffer) {
                Ok(granted) => Data::Granted(granted),
                Err(_) => return,
            },
            true => Data::Buffer(buffer),
        };
        let sectors = if operation == Operation::Flush { 0 } else { input.below(8 * pages) as u64 };
        let sector = input.byte().into();
        let request = Request { tag: self.asked, operation, sector, sectors, data, offset: 0 };
        self.asked += u64::from(self.front.submit(request).is_ok());
    }
}

/// A front end, and a back end that lies.
pub fn front(data: &[u8]) {
    let mut input = Input(data);
    let (mut liar, bus, path) = Liar::new("vbd", false);
    let options = FrontOptions { persistent: input.byte() & 1 != 0, ..FrontOptions::default() };
    let Ok(end) = End::front(&bus, &path) else { return };
    let mut using = Using { front: Front::new(end, options), bus, asked: 0, answered: 0 };
    offer(&mut liar, &mut using, input.byte());
    assert!(using.is_connected());
    while !input.is_empty() {
        match input.below(8) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(BACK_NODES, &mut input),
            2 => offer(&mut liar, &mut using, input.byte()),
            3 => {
                let mut response = BlkifResponse::new_zeroed();
                response.id = if input.below(4) == 0 { input.long() } else { input.below(32) as u64 };
                (response.operation, response.status) = (input.byte() % 8, -i16::from(input.byte() % 4));
                liar.answer(0, SLOT, &response);
            }
            4 | 5 => using.ask(&mut input),
            6 => liar.mapped.clear(),
            _ => drop(using.poll()),
        }
    }
    settle(&mut using);
    // Whatever became of them, all requests are over when both have left.
    using.front.close();
    settle(&mut using);
    liar.mapped.clear();
    liar.set("state", 6);
    settle(&mut using);
    assert!(using.front.is_closed());
    assert_eq!(using.asked, using.answered);
}

/// Offers a disk as a back end does that means it.
fn offer(liar: &mut Liar, using: &mut Using, features: u8) {
    liar.mapped.clear();
    liar.set("state", 6);
    settle(using);
    liar.set("sectors", SECTORS);
    liar.set("sector-size", 512);
    for (bit, name) in ["feature-flush-cache", "feature-discard", "feature-persistent"].iter().enumerate() {
        liar.set(name, features >> bit & 1);
    }
    for (node, value) in [("max-ring-page-order", 0), ("multi-queue-max-queues", 1)] {
        liar.set(node, value);
    }
    liar.set("feature-max-indirect-segments", features & 0x38);
    using.front.reopen();
    liar.set("state", 2);
    settle(using);
    liar.map(&["ring-ref"], "event-channel");
    liar.set("state", 4);
    settle(using);
}
