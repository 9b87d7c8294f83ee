//! What is common to the virtio devices of the machine (virtio 1.1), apart from their registers.

/// The device was found (`VIRTIO_CONFIG_S_ACKNOWLEDGE`).
pub const ACKNOWLEDGE: u32 = 1;
/// There is a driver for it (`VIRTIO_CONFIG_S_DRIVER`).
pub const DRIVER: u32 = 2;
/// Both ends agree on the features (`VIRTIO_CONFIG_S_FEATURES_OK`).
pub const FEATURES_OK: u32 = 8;
/// The driver gave up (`VIRTIO_CONFIG_S_FAILED`).
pub const FAILED: u32 = 128;

/// The device is as version 1 of the specification says (`VIRTIO_F_VERSION_1`).
pub const VERSION_1: u64 = 1 << 32;

/// Bits of a PCI device's command register: its registers are in memory, it may write to memory, and it pulls no interrupt line.
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;

/// The command register of a device that is used. One that is polled must not pull its interrupt line: it would stay pulled, as
/// none reads the device's interrupt status, and the line, which others may share, would fire without end.
#[must_use]
pub const fn command(is_polled: bool) -> u16 {
    MEMORY_SPACE | BUS_MASTER | if is_polled { INTERRUPT_DISABLE } else { 0 }
}

/// The registers by which a driver and a device agree on what both know.
pub trait Registers {
    /// The status.
    fn status(&mut self) -> u32;
    /// Sets it.
    fn set_status(&mut self, status: u32);
    /// Features that the device has.
    fn offered(&mut self) -> u64;
    /// Features that the driver takes.
    fn accept(&mut self, features: u64);
}

/// The device does not do what is needed: it is none of version 1, or does not go with the features that it offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement;

/// Resets a device and agrees on those of `known` features that it has; the driver goes on with its queues.
///
/// # Errors
///
/// [`Disagreement`].
pub fn negotiate(device: &mut impl Registers, known: u64) -> Result<u64, Disagreement> {
    device.set_status(0);
    device.set_status(ACKNOWLEDGE | DRIVER);
    let features = device.offered() & (known | VERSION_1);
    if features & VERSION_1 != 0 {
        device.accept(features);
        device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        // The device takes the bit back where it does not agree (3.1.1, step 6).
        if device.status() & FEATURES_OK != 0 {
            return Ok(features);
        }
    }
    device.set_status(ACKNOWLEDGE | DRIVER | FAILED);
    Err(Disagreement)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that needs some of what it offers.
    #[derive(Default)]
    struct Device {
        status: u32,
        offers: u64,
        needs: u64,
        accepted: u64,
    }

    impl Registers for Device {
        fn status(&mut self) -> u32 {
            self.status
        }

        fn set_status(&mut self, status: u32) {
            let agrees = self.accepted & self.needs == self.needs;
            self.status = if agrees { status } else { status & !FEATURES_OK };
        }

        fn offered(&mut self) -> u64 {
            self.offers
        }

        fn accept(&mut self, features: u64) {
            assert_eq!(features & !self.offers, 0);
            self.accepted = features;
        }
    }

    #[test]
    fn a_device_that_does_not_agree_is_not_used() {
        for (offers, needs, agreed) in [
            (VERSION_1 | 0b111, 0, Ok(VERSION_1 | 0b11)),
            (VERSION_1 | 0b111, VERSION_1 | 0b10, Ok(VERSION_1 | 0b11)),
            (VERSION_1 | 0b111, 0b100, Err(Disagreement)),
            (0b111, 0, Err(Disagreement)),
        ] {
            let mut device = Device { offers, needs, ..Device::default() };
            assert_eq!(negotiate(&mut device, 0b11), agreed, "{offers:#x} {needs:#x}");
            assert_eq!(device.status & FAILED != 0, agreed.is_err());
        }
    }

    #[test]
    fn a_polled_device_pulls_no_line() {
        assert_eq!((command(false), command(true)), (0x6, 0x406));
    }
}
