//! The registers of a virtio device on PCI, and its notifications.

use core::sync::atomic::{Ordering, fence};

use driver_domain::virtio::Registers;
use guest_pv_lib::virtio::PvHal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};

/// A device's registers.
pub struct Device<'a>(pub &'a mut PciTransport);

impl Registers for Device<'_> {
    fn status(&mut self) -> u32 {
        self.0.get_status().bits()
    }

    fn set_status(&mut self, status: u32) {
        self.0.set_status(DeviceStatus::from_bits_retain(status));
    }

    fn offered(&mut self) -> u64 {
        self.0.read_device_features()
    }

    fn accept(&mut self, features: u64) {
        self.0.write_driver_features(features);
    }
}

/// Tells a device of what was added to its queue number `number`, where it asked for that.
pub fn notify<const SIZE: usize>(transport: &mut PciTransport, queue: &VirtQueue<PvHal, SIZE>, number: u16) {
    // Between the write of the index of what is available and the read of what the device asked for: it writes that and reads
    // the index in the opposite order, so that one of both sees the other's word.
    fence(Ordering::SeqCst);
    if queue.should_notify() {
        transport.notify(number);
    }
}
