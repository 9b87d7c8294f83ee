//! Devices that the hypervisor drives itself.

pub mod acpi;
pub mod clock;
pub mod ioapic;
pub mod irq;
pub mod pci;
pub mod port;
pub mod power;
pub mod serial;
