//! The configuration space of the PCI bus by the ports 0xcf8 and 0xcfc, which every PC has.
//!
//! The hypervisor emulates the accesses: `in` and `out` fault in a PV kernel, and it carries out what the domain may do.

use core::arch::asm;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use xen_abi::hypercall::nr;
use xen_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};

use crate::hypercall::{Errno, check, raw};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// The bit that makes the data port configuration space.
const ENABLE: u32 = 1 << 31;

/// Configuration space, one access at a time: there is one value of this type.
#[derive(Debug)]
pub struct PciPorts(());

impl PciPorts {
    /// The machine's configuration space.
    ///
    /// # Errors
    ///
    /// `EPERM` and the like where the domain has no right to I/O ports.
    ///
    /// # Safety
    ///
    /// Nobody else uses these ports in this domain. Through them devices can be told to write anywhere; who gets the
    /// value is trusted with that.
    #[doc(alias = "PHYSDEVOP_set_iopl")]
    pub unsafe fn new() -> Result<Self, Errno> {
        let mut level = PhysdevSetIopl { iopl: 1 };
        // SAFETY: the structure is the command's. It lets the kernel, and not its user code, use ports.
        check(unsafe { raw::call2(nr::PHYSDEV_OP, u64::from(PHYSDEVOP_SET_IOPL), &raw mut level as u64) })?;
        Ok(Self(()))
    }

    fn select(&self, device: DeviceFunction, register: u8) {
        let DeviceFunction { bus, device, function } = device;
        let place = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        write(ADDRESS, ENABLE | place | u32::from(register & !3));
    }
}

impl ConfigurationAccess for PciPorts {
    fn read_word(&self, device: DeviceFunction, register: u8) -> u32 {
        self.select(device, register);
        read(DATA)
    }

    fn write_word(&mut self, device: DeviceFunction, register: u8, data: u32) {
        self.select(device, register);
        write(DATA, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(())
    }
}

fn read(port: u16) -> u32 {
    let value;
    // SAFETY: only the ports of configuration space, whose reads change nothing; no memory is touched.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

fn write(port: u16, value: u32) {
    // SAFETY: only the ports of configuration space; what that does is what the maker of the `PciPorts` answers for.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}
