//! The interrupt line of a PCI device.

use xen_abi::hypercall::nr;
use xen_abi::physdev::{
    MAP_PIRQ_TYPE_GSI, PHYSDEVOP_EOI, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_SETUP_GSI, PhysdevEoi, PhysdevMapPirq,
    PhysdevSetupGsi,
};
use xen_abi::xen::DOMID_SELF;

use crate::events::{Channel, Sharing};
use crate::hypercall::{Errno, check, raw};

/// A line that devices pull until they are served.
#[derive(Debug)]
pub struct Interrupt {
    pirq: u32,
    channel: Channel,
}

impl Interrupt {
    /// The line with number `line`, which is what firmware left in the device's configuration space. On a PC's
    /// I/O APIC the first lines have the numbers that they had on its predecessor, and PCI devices pull them high.
    ///
    /// # Errors
    ///
    /// What the hypervisor says, e.g. `EPERM`.
    #[doc(alias("PHYSDEVOP_setup_gsi", "PHYSDEVOP_map_pirq"))]
    pub fn new(line: u8) -> Result<Self, Errno> {
        let gsi = i32::from(line);
        let mut setup = PhysdevSetupGsi { gsi, triggering: 1, polarity: 0, ..PhysdevSetupGsi::default() };
        match operate(PHYSDEVOP_SETUP_GSI, &mut setup) {
            // Somebody set it up before.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        let mut map = PhysdevMapPirq {
            domid: DOMID_SELF,
            type_: MAP_PIRQ_TYPE_GSI,
            index: gsi,
            pirq: gsi,
            ..PhysdevMapPirq::default()
        };
        operate(PHYSDEVOP_MAP_PIRQ, &mut map)?;
        let pirq = u32::try_from(map.pirq).map_err(|_| Errno::EINVAL)?;
        Ok(Self { pirq, channel: Channel::bind_pirq(pirq, Sharing::Shared)? })
    }

    /// Whether the line was pulled since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        self.channel.take()
    }

    /// Every device of the line has been served: lets it fire again.
    #[doc(alias = "PHYSDEVOP_eoi")]
    pub fn done(&self) {
        // Refused only for an interrupt that is not the domain's, and this one is.
        let _ = operate(PHYSDEVOP_EOI, &mut PhysdevEoi { irq: self.pirq });
    }
}

fn operate<T>(command: u32, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: the structure is the command's, and exclusively borrowed; interrupts do nothing to the domain's memory.
    check(unsafe { raw::call2(nr::PHYSDEV_OP, u64::from(command), argument as *mut T as u64) }).map(drop)
}
