//! I/O ports of PV guests: every `in` and `out` of a guest faults and is done here, as far as its permissions go.
//!
//! The kernel needs IOPL 1 or more (`PHYSDEVOP_set_iopl`, or its architectural flags), user code IOPL 3 or a clear bit in the map of
//! `PHYSDEVOP_set_iobitmap`. A port that the domain may not use reads as all ones and ignores writes, as if
//! nothing were there. PCI configuration addresses are kept per domain, so that two users of ports 0xcf8 and 0xcfc
//! do not disturb each other.

use super::{Guest, switch};
use crate::dev::{pci, port};
use crate::mm::uaccess::copy_from_guest;
use core::sync::atomic::{AtomicU32, Ordering};
use hypervisor_core::ids::GuestVirt;
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: core::ops::RangeInclusive<u16> = 0xcfc..=0xcff;

/// What the first domain wrote to port 0xcf8 last: only it has configuration space.
static PCI_ADDRESS_LATCH: AtomicU32 = AtomicU32::new(0);

/// Whether the I/O privilege level lets the code that runs use ports, `cli` and `sti`. A kernel has level 1, or 0 where it
/// asked for the architectural way.
pub fn iopl_suffices(guest: &Guest<'_>) -> bool {
    let needed = match guest.in_kernel() {
        true if guest.domain.has_vm_assist(VMASST_TYPE_ARCHITECTURAL_IOPL) => 0,
        true => 1,
        false => 3,
    };
    guest.vcpu.pv.iopl.load(Ordering::Relaxed) >= needed
}

/// Whether the code that runs may use `len` ports from `port` on at all (the check of the CPU, SDM Vol. 1, 19.5).
pub fn may_access(guest: &Guest<'_>, port: u16, len: u16) -> bool {
    let pv = &guest.vcpu.pv;
    if iopl_suffices(guest) {
        return true;
    }
    let (map, ports) = (pv.iobmp.load(Ordering::Relaxed), pv.iobmp_ports.load(Ordering::Relaxed));
    if u32::from(port) + u32::from(len) > ports {
        return false;
    }
    let at = map.wrapping_add(u64::from(port / 8));
    // The map lies in the kernel's memory. Two bytes that cannot be read both permit nothing.
    let user = !guest.in_kernel();
    if user {
        switch::toggle_tables(pv);
    }
    let mut bits = [0xff; 2];
    let readable = copy_from_guest(&mut bits, GuestVirt(at)).is_ok();
    if user {
        switch::toggle_tables(pv);
    }
    let wanted = ((1u16 << len) - 1) << (port % 8);
    readable && u16::from_le_bytes(bits) & wanted == 0
}

fn all_ones(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size))
}

/// Reads `size` bytes (1, 2 or 4) from a port.
pub fn read(guest: &Guest<'_>, number: u16, size: u8) -> u32 {
    if guest.domain.privileged && PCI_DATA.contains(&number) {
        let address = PCI_ADDRESS_LATCH.load(Ordering::Relaxed);
        return if address >> 31 == 0 { all_ones(size) } else { pci::guest_read(address, number & 3, size) };
    }
    if guest.domain.privileged && number == PCI_ADDRESS && size == 4 {
        return PCI_ADDRESS_LATCH.load(Ordering::Relaxed);
    }
    if !guest.domain.permissions.read().allows_port(number, u16::from(size)) {
        return all_ones(size);
    }
    // SAFETY: the domain was given this port.
    unsafe { port::read(number, size) }
}

/// Writes `size` bytes (1, 2 or 4) to a port.
pub fn write(guest: &Guest<'_>, number: u16, size: u8, value: u32) {
    if guest.domain.privileged && PCI_DATA.contains(&number) {
        let address = PCI_ADDRESS_LATCH.load(Ordering::Relaxed);
        if address >> 31 != 0 {
            pci::guest_write(address, number & 3, size, value);
        }
        return;
    }
    if guest.domain.privileged && number == PCI_ADDRESS && size == 4 {
        PCI_ADDRESS_LATCH.store(value, Ordering::Relaxed);
        return;
    }
    if !guest.domain.permissions.read().allows_port(number, u16::from(size)) {
        return;
    }
    // SAFETY: the domain was given this port.
    unsafe { port::write(number, size, value) };
}
