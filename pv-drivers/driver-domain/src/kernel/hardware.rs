//! The machine's own virtio devices: a network card as the bridge's uplink, and disks.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use driver_domain::disk::{Disk, Queue, Refused};
use guest_pv_lib::println;
use guest_pv_lib::virtio::{Interrupt, PciPorts, PvHal};
use pv_drivers::blk::{Failed, Geometry, Operation};
use pv_drivers::net::bridge::Wire;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

/// Buffers that the card can put packets into.
const QUEUE: usize = 64;
/// Bytes of one: a frame with its headers.
const BUFFER: usize = 2048;
/// Bytes of a packet's header at most (`struct virtio_net_hdr_mrg_rxbuf`).
const HEADER: usize = 12;
/// Where firmware notes a device's interrupt line.
const INTERRUPT_LINE: u8 = 0x3c;

type NetworkCard = VirtIONet<PvHal, PciTransport, QUEUE>;

/// A disk of the machine.
pub type MachineDisk = Disk<DiskQueue>;

/// What was found.
#[derive(Default)]
pub struct Hardware {
    /// Network cards.
    pub cards: Vec<Box<Uplink>>,
    /// Disks, in the order of the bus.
    pub disks: Vec<MachineDisk>,
}

/// Looks for virtio devices on the machine's first bus.
///
/// `ports` is none where this domain has no right to the machine's devices: it serves others without.
pub fn find(ports: Option<PciPorts>) -> Hardware {
    let mut hardware = Hardware::default();
    let Some(ports) = ports else { return hardware };
    let places = (0..32).map(|device| DeviceFunction { bus: 0, device, function: 0 });
    let lines: Vec<_> = places.map(|place| ports.read_word(place, INTERRUPT_LINE).to_le_bytes()[0]).collect();
    let mut root = PciRoot::new(ports);
    let all: Vec<_> = root.enumerate_bus(0).filter(|(place, _)| place.function == 0).collect();
    for (place, about) in all {
        let Some(kind) = virtio_device_type(&about) else { continue };
        if !matches!(kind, DeviceType::Network | DeviceType::Block) {
            continue;
        }
        root.set_command(place, Command::MEMORY_SPACE | Command::BUS_MASTER);
        let transport = match PciTransport::new::<PvHal, _>(&mut root, place) {
            Ok(transport) => transport,
            Err(why) => {
                println!("driver-domain: the virtio device {place} cannot be used: {why}");
                continue;
            }
        };
        if kind == DeviceType::Network {
            let line = lines.get(usize::from(place.device)).copied().unwrap_or(0);
            hardware.cards.extend(Uplink::new(transport, line).map(Box::new));
        } else {
            let disk = VirtIOBlk::new(transport).ok();
            hardware.disks.extend(disk.map(|disk| Disk::new(DiskQueue::new(disk))));
        }
    }
    let (cards, disks) = (hardware.cards.len(), hardware.disks.len());
    println!("driver-domain: the machine has {cards} network cards and {disks} disks");
    hardware
}

/// A network card as a port of the bridge.
pub struct Uplink {
    card: NetworkCard,
    interrupt: Interrupt,
}

impl Uplink {
    fn new(transport: PciTransport, line: u8) -> Option<Self> {
        PvHal::prepare(&[BUFFER; QUEUE]).ok()?;
        let card = NetworkCard::new(transport, BUFFER).ok()?;
        match Interrupt::new(line) {
            Ok(interrupt) => Some(Self { card, interrupt }),
            Err(why) => {
                println!("driver-domain: the network card's interrupt {line}: {why}");
                None
            }
        }
    }
}

impl Wire for Uplink {
    fn transmit(&mut self, frame: &[u8]) -> bool {
        if PvHal::prepare(&[HEADER, frame.len().max(1), PvHal::LIST]).is_err() {
            return false;
        }
        let mut buffer = self.card.new_tx_buffer(frame.len());
        buffer.packet_mut().copy_from_slice(frame);
        self.card.can_send() && self.card.send(buffer).is_ok()
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Ok(buffer) = self.card.receive() else { return false };
        take(buffer.packet());
        // The card has a buffer less where this fails.
        if PvHal::prepare(&[BUFFER]).is_ok() {
            let _ = self.card.recycle_rx_buffer(buffer);
        }
        true
    }

    fn sleep(&mut self) -> bool {
        if self.interrupt.take() {
            let _ = self.card.ack_interrupt();
            self.interrupt.done();
        }
        self.card.can_recv()
    }
}

/// A job that the device works on, and what it was told of. Each box stays where it is until the device is done.
struct Begun {
    operation: Operation,
    request: Box<BlkReq>,
    response: Box<BlkResp>,
    bytes: Vec<u8>,
}

/// The memory that a flush takes.
const FLUSH: [usize; 3] = [size_of::<BlkReq>(), size_of::<BlkResp>(), PvHal::LIST];

/// The queue of a virtio disk.
pub struct DiskQueue {
    device: VirtIOBlk<PvHal, PciTransport>,
    begun: BTreeMap<u16, Begun>,
}

impl DiskQueue {
    fn new(device: VirtIOBlk<PvHal, PciTransport>) -> Self {
        Self { device, begun: BTreeMap::new() }
    }

    /// Ends what the device is done with; none: nothing.
    fn complete(&mut self) -> Option<(u16, Vec<u8>, Result<(), Failed>)> {
        let token = self.device.peek_used()?;
        let mut begun = self.begun.remove(&token)?;
        let Begun { operation, request, response, bytes } = &mut begun;
        let done = match operation {
            // SAFETY: these are the buffers that `begin` gave the device under this token: they were kept in `begun`, where
            // nothing touched them, and neither the boxes nor the vector's memory moved.
            Operation::Read => unsafe { self.device.complete_read_blocks(token, request, bytes, response) },
            // SAFETY: as above.
            _ => unsafe { self.device.complete_write_blocks(token, request, bytes, response) },
        };
        Some((token, begun.bytes, done.map_err(|_| Failed)))
    }
}

impl Queue for DiskQueue {
    fn geometry(&self) -> Geometry {
        let (sectors, read_only) = (self.device.capacity(), self.device.readonly());
        Geometry { read_only, flush: true, ..Geometry::new(sectors) }
    }

    fn begin(
        &mut self,
        operation: Operation,
        sector: u64,
        mut bytes: Vec<u8>,
    ) -> Result<u16, (Refused, Vec<u8>)> {
        let request = [size_of::<BlkReq>(), bytes.len().max(1), size_of::<BlkResp>(), PvHal::LIST];
        if PvHal::prepare(&request).is_err() {
            // Memory comes back when a job ends, if there is one.
            let refused = if self.begun.is_empty() { Refused::Failed } else { Refused::Full };
            return Err((refused, bytes));
        }
        let Ok(first) = usize::try_from(sector) else { return Err((Refused::Failed, bytes)) };
        if bytes.is_empty() {
            return Err((Refused::Failed, bytes));
        }
        let (mut request, mut response) = (Box::new(BlkReq::default()), Box::new(BlkResp::default()));
        let begun = match operation {
            // SAFETY: all three live on the heap and are kept in `begun`, untouched, until the device is done with this token.
            Operation::Read => unsafe {
                self.device.read_blocks_nb(first, &mut request, &mut bytes, &mut response)
            },
            // SAFETY: as above.
            Operation::Write => unsafe {
                self.device.write_blocks_nb(first, &mut request, &bytes, &mut response)
            },
            Operation::Flush | Operation::Discard => return Err((Refused::Failed, bytes)),
        };
        match begun {
            Ok(token) => {
                self.begun.insert(token, Begun { operation, request, response, bytes });
                Ok(token)
            }
            Err(Error::QueueFull) => Err((Refused::Full, bytes)),
            Err(_) => Err((Refused::Failed, bytes)),
        }
    }

    fn flush(&mut self) -> Result<(), Failed> {
        // The driver waits for the end of its request, and must find nothing else at the end of the queue.
        if !self.begun.is_empty() || PvHal::prepare(&FLUSH).is_err() {
            return Err(Failed);
        }
        self.device.flush().map_err(|_| Failed)
    }

    fn ended(&mut self) -> Option<(u16, Vec<u8>, Result<(), Failed>)> {
        self.complete()
    }
}
