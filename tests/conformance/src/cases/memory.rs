//! `memory_op` (memory.h).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte, m2p};
use xen_abi::GuestHandle;
use xen_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::DOMID_SELF;

use crate::call::{FAULTS, NO_DOMAIN, NO_FRAME, Ret, all_fault, hc2, op};
use crate::harness::{check, need, same};

fn memory(command: u32, at: u64) -> Ret {
    hc2(nr::MEMORY_OP, u64::from(command), at)
}

fn of_domain(command: u32, mut domain: u16) -> Ret {
    op(nr::MEMORY_OP, command, &mut domain)
}

/// A reservation of one page whose frame number is at `extent`.
fn one_page(extent: &mut u64) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: GuestHandle::from(extent as *mut u64 as u64),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

returns! {
    /// The domain has what start_info says.
    current_reservation(env): of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF) => Ok(env.boot.pages());
    /// A domain that does not exist has no reservation.
    reservation_of_nobody(env): of_domain(XENMEM_CURRENT_RESERVATION, NO_DOMAIN) => Err(Errno::ESRCH);
    /// Bad pointers, current reservation.
    reservation_fault(env): all_fault(|at| memory(XENMEM_CURRENT_RESERVATION, at)) => FAULTS;
    /// A command that does not exist.
    unknown_command(env): memory(60, env.page(0).virt()) => Err(Errno::ENOSYS);
    /// A reservation that cannot be read: the answer is the number of extents done, none.
    decrease_fault(env): all_fault(|at| memory(XENMEM_DECREASE_RESERVATION, at)) => [Ok(0); 4];
    /// A reservation that cannot be read: the answer is the number of extents done, none.
    populate_fault(env): all_fault(|at| memory(XENMEM_POPULATE_PHYSMAP, at)) => [Ok(0); 4];
    /// Bad pointers, the machine's map.
    machine_map_fault(env): all_fault(|at| memory(XENMEM_MACHINE_MEMORY_MAP, at)) => FAULTS;
}

case! {
    /// The maximum is not below the current reservation.
    fn maximum_reservation(env) {
        let maximum = need("maximum", of_domain(XENMEM_MAXIMUM_RESERVATION, DOMID_SELF))?;
        check("at least what there is", maximum >= env.boot.pages())
    }
}

case! {
    /// The machine's highest frame is not below the domain's own.
    fn maximum_ram_page(env) {
        let highest = need("maximum_ram_page", memory(XENMEM_MAXIMUM_RAM_PAGE, 0))?;
        check("beyond this page", highest >= env.page(0).mfn().0)
    }
}

case! {
    /// The M2P lies where every 64-bit kernel expects it.
    fn machphys_mapping(env) {
        let _ = env;
        let mut mapping = XenMachphysMapping::default();
        need("machphys_mapping", op(nr::MEMORY_OP, XENMEM_MACHPHYS_MAPPING, &mut mapping))?;
        same("v_start", mapping.v_start, MACH2PHYS_VIRT_START)?;
        same("v_end", mapping.v_end, MACH2PHYS_VIRT_END)?;
        check("max_mfn within it", mapping.max_mfn < (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8)
    }
}

case! {
    /// A page given back leaves the reservation, and a page asked for comes with its M2P entry set.
    fn decrease_and_populate(env) {
        let page = env.page(0);
        let before = need("current", of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF))?;
        need("unmap", page.map(Pte::EMPTY))?;
        let mut extent = page.mfn().0;
        let mut arg = one_page(&mut extent);
        same("decrease_reservation", op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut arg), Ok(1))?;
        same("one page less", of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF), Ok(before - 1))?;

        let mut extent = page.pfn().0;
        let mut arg = one_page(&mut extent);
        same("populate_physmap", op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg), Ok(1))?;
        let frame = Mfn(extent);
        same("m2p", m2p(frame), Some(page.pfn()))?;
        need("map", page.map(Pte::data(frame)))?;
        page.adopt(frame);
        same("the same number again", of_domain(XENMEM_CURRENT_RESERVATION, DOMID_SELF), Ok(before))
    }
}

case! {
    /// A frame that is not the domain's cannot be given back: nothing is done.
    fn decrease_foreign_frame(env) {
        let _ = env;
        let mut extent = NO_FRAME;
        let mut arg = one_page(&mut extent);
        same("decrease_reservation", op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut arg), Ok(0))
    }
}

case! {
    /// The machine's map needs room for all of its entries.
    fn machine_map_without_room(env) {
        let mut arg = XenMemoryMap {
            nr_entries: 1,
            buffer: GuestHandle::from(env.page(0).virt()),
            ..XenMemoryMap::default()
        };
        same("machine_memory_map", op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut arg), Err(Errno::EINVAL))
    }
}

case! {
    /// Entries come back with their number.
    fn machine_map(env) {
        let mut arg = XenMemoryMap {
            nr_entries: 200,
            buffer: GuestHandle::from(env.page(0).virt()),
            ..XenMemoryMap::default()
        };
        need("machine_memory_map", op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut arg))?;
        check("some entries", (1..200).contains(&arg.nr_entries))
    }
}
