//! The machine's own virtio devices: a network card as the bridge's uplink, and disks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use guest_pv_lib::println;
use guest_pv_lib::virtio::{Interrupt, PciPorts, PvHal};
use pv_drivers::blk::{BlockDevice, Failed, Geometry, Job, Operation, Progress, SECTOR};
use pv_drivers::net::bridge::Wire;
use pv_drivers::transport::{Transport, words};
use spin::Mutex;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

/// Buffers that the card can put packets into.
const QUEUE: usize = 64;
/// Bytes of one: a frame with its headers.
const BUFFER: usize = 2048;
/// Where firmware notes a device's interrupt line.
const INTERRUPT_LINE: u8 = 0x3c;

type NetworkCard = VirtIONet<PvHal, PciTransport, QUEUE>;

/// A disk of the machine.
pub type Disk = Arc<Mutex<VirtIOBlk<PvHal, PciTransport>>>;

/// What was found.
#[derive(Default)]
pub struct Hardware {
    /// Network cards.
    pub cards: Vec<Box<Uplink>>,
    /// Disks, in the order of the bus.
    pub disks: Vec<Disk>,
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
            hardware.disks.extend(disk.map(|disk| Arc::new(Mutex::new(disk))));
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
        let mut buffer = self.card.new_tx_buffer(frame.len());
        buffer.packet_mut().copy_from_slice(frame);
        self.card.can_send() && self.card.send(buffer).is_ok()
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Ok(buffer) = self.card.receive() else { return false };
        take(buffer.packet());
        // The card has a buffer less where this fails.
        let _ = self.card.recycle_rx_buffer(buffer);
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

/// A disk of the machine, as the block back end takes it. It works on one request at a time.
pub struct MachineDisk {
    disk: Disk,
    geometry: Geometry,
}

impl MachineDisk {
    /// The disk as it is.
    pub fn new(disk: Disk) -> Self {
        let (sectors, read_only) = {
            let disk = disk.lock();
            (disk.capacity(), disk.readonly())
        };
        Self { disk, geometry: Geometry { read_only, flush: true, ..Geometry::new(sectors) } }
    }
}

impl<T: Transport> BlockDevice<T> for MachineDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, job: Job, staging: &T::Memory) -> Result<Progress, Failed> {
        let first = usize::try_from(job.sector).map_err(|_| Failed)?;
        let length = usize::try_from(job.sectors).map_err(|_| Failed)? * SECTOR;
        let mut disk = self.disk.lock();
        let mut bytes = vec![0; length];
        let done = match job.operation {
            Operation::Read => disk.read_blocks(first, &mut bytes),
            Operation::Write => {
                words::load(staging, job.offset, &mut bytes);
                disk.write_blocks(first, &bytes)
            }
            Operation::Flush => disk.flush(),
            Operation::Discard => return Err(Failed),
        };
        done.map_err(|_| Failed)?;
        if job.operation == Operation::Read {
            words::store(staging, job.offset, &bytes);
        }
        Ok(Progress::Done)
    }
}
