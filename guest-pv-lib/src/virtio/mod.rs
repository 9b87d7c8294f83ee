//! What drivers of the crate `virtio-drivers` need of a PV domain that has devices of the machine (feature `virtio`).
//!
//! - [`PvHal`]: memory for a device's DMA, and its registers, mapped.
//! - [`PciPorts`]: the configuration space of the PCI bus, by I/O ports.
//! - [`Interrupt`]: a PCI device's interrupt line as an event channel.
//!
//! Only a domain with the right to the machine's ports, device memory and interrupts can use it: the first one.
//!
//! # Memory
//!
//! A device sees machine addresses. Queues lie in runs that are contiguous for the machine too; a buffer of a driver
//! need not be, so each one that is shared goes by way of such a run, into which it is copied, and back. Nothing of
//! the domain but those runs is ever told to a device. Whoever controls a device without an IOMMU controls the machine
//! all the same.

mod hal;
mod interrupt;
mod pci;

pub use hal::PvHal;
pub use interrupt::Interrupt;
pub use pci::PciPorts;
