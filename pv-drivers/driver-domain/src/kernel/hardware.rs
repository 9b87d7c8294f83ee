//! The machine's own virtio devices: a network card as the bridge's uplink, and disks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use driver_domain::card::Card;
use driver_domain::disk::{self, Disk};
use driver_domain::virtio;
use guest_pv_lib::memory::free_pages;
use guest_pv_lib::println;
use guest_pv_lib::virtio::{Interrupt, PciPorts, PvHal};
use virtio_drivers::PAGE_SIZE;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use super::card_queue::CardQueue;
use super::disk_queue::DiskQueue;

/// Where firmware notes a device's interrupt line.
const INTERRUPT_LINE: u8 = 0x3c;

/// A network card of the machine.
pub type Uplink = Card<CardQueue>;

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
        let is_polled = kind == DeviceType::Block;
        let interrupt = if is_polled { None } else { interrupt(&lines, place) };
        if !is_polled && interrupt.is_none() {
            continue;
        }
        root.set_command(place, Command::from_bits_retain(virtio::command(is_polled)));
        let transport = match PciTransport::new::<PvHal, _>(&mut root, place) {
            Ok(transport) => transport,
            Err(why) => {
                println!("driver-domain: the virtio device {place} cannot be used: {why}");
                continue;
            }
        };
        let started = match interrupt {
            Some(interrupt) => CardQueue::new(transport, interrupt)
                .map(|queue| hardware.cards.push(Box::new(Card::new(queue)))),
            None => DiskQueue::new(transport).map(|queue| queues.push(queue)),
        };
        if let Err(why) = started {
            println!("driver-domain: the virtio device {place} cannot be used: {why}");
        }
    }
    let room = disk::room(free_pages() * PAGE_SIZE, queues.len());
    hardware.disks.extend(queues.into_iter().map(|queue| Disk::new(queue, room)));
    let (cards, disks) = (hardware.cards.len(), hardware.disks.len());
    println!("driver-domain: the machine has {cards} network cards and {disks} disks");
    hardware
}

/// The interrupt line of a card.
fn interrupt(lines: &[u8], place: DeviceFunction) -> Option<Interrupt> {
    let line = lines.get(usize::from(place.device)).copied().unwrap_or(0);
    Interrupt::new(line)
        .inspect_err(|why| println!("driver-domain: the network card's interrupt {line}: {why}"))
        .ok()
}
