//! The machine's own virtio devices: a network card as the bridge's uplink, and disks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use driver_domain::disk::{self, Disk};
use guest_pv_lib::memory::free_pages;
use guest_pv_lib::println;
use guest_pv_lib::virtio::{Interrupt, PciPorts, PvHal};
use pv_drivers::net::bridge::Wire;
use virtio_drivers::PAGE_SIZE;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use super::disk_queue::DiskQueue;

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
    let mut queues = Vec::new();
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
            match DiskQueue::new(transport) {
                Ok(queue) => queues.push(queue),
                Err(why) => println!("driver-domain: the virtio disk {place} cannot be used: {why}"),
            }
        }
    }
    let room = disk::room(free_pages() * PAGE_SIZE, queues.len());
    hardware.disks.extend(queues.into_iter().map(|queue| Disk::new(queue, room)));
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
