//! `physdev_op` and its predecessor: device interrupts, I/O privilege, and what dom0 tells about PCI devices.

use super::{Cx, Failure, Outcome, done_or_again};
use crate::event::{PirqTable, WantedPirq};
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, GuestVirt, Mfn};
use crate::page::is_guests;
use crate::platform::{Line, MsiRequest, PciAddress, Platform};
use crate::regs::Regs;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use xen_abi::errno::Errno;
use xen_abi::physdev::*;

/// Ports that an I/O bitmap may cover.
const IO_PORTS: u32 = 0x1_0000;

/// `physdev_op(cmd, arg)`.
pub fn physdev_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    serve(cx, super::event::command(args[0]), args[1], args)
}

/// `physdev_op_compat(op)`: the command stands in front of its argument.
pub fn physdev_op_compat<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let op = GuestPtr::<PhysdevOp>::new(args[0]);
    let command = || -> Result<(u32, u64), Errno> {
        Ok((op.read(cx.hv)?.cmd, op.field::<u8>(offset_of!(PhysdevOp, u))?.address().0))
    };
    match command() {
        Ok((cmd, arg)) => serve(cx, cmd, arg, args),
        Err(error) => error.into(),
    }
}

/// Serves a command; `args` are those of the hypercall, in case that it is to be made again.
fn serve<P: Platform>(cx: Cx<'_, P>, cmd: u32, arg: u64, args: &[u64; 6]) -> Outcome {
    match cmd {
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 | PHYSDEVOP_PIRQ_EOI_GMFN_V2 => {
            done_or_again(set_eoi_page(cx, cmd, GuestPtr::new(arg)).map(|()| 0), args)
        }
        _ => run(cx, cmd, arg).into(),
    }
}

fn set_eoi_page<P: Platform>(
    cx: Cx<'_, P>,
    cmd: u32,
    arg: GuestPtr<PhysdevPirqEoiGmfn>,
) -> Result<(), Failure> {
    let page = Mfn(arg.read(cx.hv)?.gmfn);
    Ok(cx.hv.set_eoi_page(cx.domain, page, cmd == PHYSDEVOP_PIRQ_EOI_GMFN_V1)?)
}

fn run<P: Platform>(cx: Cx<'_, P>, cmd: u32, arg: u64) -> Result<(), Errno> {
    match cmd {
        PHYSDEVOP_EOI => eoi(cx, GuestPtr::new(arg)),
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => {
            cx.hv.acknowledge_unmasked_pirqs(cx.domain);
            Ok(())
        }
        PHYSDEVOP_IRQ_STATUS_QUERY => irq_status_query(cx, GuestPtr::new(arg)),
        PHYSDEVOP_MAP_PIRQ => map_pirq(cx, GuestPtr::new(arg)),
        PHYSDEVOP_UNMAP_PIRQ => {
            let unmap = GuestPtr::<PhysdevUnmapPirq>::new(arg).read(cx.hv)?;
            Ok(cx.hv.unmap_pirq(cx.domain, DomId(unmap.domid), unmap.pirq)?)
        }
        PHYSDEVOP_SETUP_GSI => setup_gsi(cx, GuestPtr::new(arg)),
        PHYSDEVOP_GET_FREE_PIRQ => get_free_pirq(cx, GuestPtr::new(arg)),
        PHYSDEVOP_APIC_READ => apic_read(cx, GuestPtr::new(arg)),
        PHYSDEVOP_APIC_WRITE => {
            let apic = GuestPtr::<PhysdevApic>::new(arg).read(cx.hv)?;
            privileged(cx)?;
            cx.hv.platform.ioapic_write(apic.apic_physbase, apic.reg, apic.value)
        }
        PHYSDEVOP_ALLOC_IRQ_VECTOR => alloc_irq_vector(cx, GuestPtr::new(arg)),
        PHYSDEVOP_SET_IOPL => set_iopl(cx, GuestPtr::new(arg)),
        PHYSDEVOP_SET_IOBITMAP => set_iobitmap(cx, GuestPtr::new(arg)),
        _ => run_pci(cx, cmd, arg),
    }
}

/// What dom0 says about PCI devices.
fn run_pci<P: Platform>(cx: Cx<'_, P>, cmd: u32, arg: u64) -> Result<(), Errno> {
    match cmd {
        PHYSDEVOP_MANAGE_PCI_ADD | PHYSDEVOP_MANAGE_PCI_REMOVE => {
            let device = GuestPtr::<PhysdevManagePci>::new(arg).read(cx.hv)?;
            let device = PciAddress { segment: 0, bus: device.bus, devfn: device.devfn };
            report_device(cx, device, cmd == PHYSDEVOP_MANAGE_PCI_ADD)
        }
        PHYSDEVOP_MANAGE_PCI_ADD_EXT => {
            let device = GuestPtr::<PhysdevManagePciExt>::new(arg).read(cx.hv)?;
            if device.is_extfn > 1 || device.is_virtfn > 1 {
                return Err(Errno::EINVAL);
            }
            report_device(cx, PciAddress { segment: 0, bus: device.bus, devfn: device.devfn }, true)
        }
        PHYSDEVOP_PCI_DEVICE_ADD => {
            let add = GuestPtr::<PhysdevPciDeviceAdd>::new(arg).read(cx.hv)?;
            report_device(cx, PciAddress { segment: add.seg, bus: add.bus, devfn: add.devfn }, true)
        }
        PHYSDEVOP_PCI_DEVICE_REMOVE => report_device(cx, pci_device(cx, arg)?, false),
        PHYSDEVOP_PREPARE_MSIX | PHYSDEVOP_RELEASE_MSIX => {
            let device = pci_device(cx, arg)?;
            privileged(cx)?;
            known(cx, device)?;
            cx.hv.platform.msix_reserve(device, cmd == PHYSDEVOP_PREPARE_MSIX)
        }
        PHYSDEVOP_RESTORE_MSI => {
            let PhysdevRestoreMsi { bus, devfn } = GuestPtr::new(arg).read(cx.hv)?;
            restore_msi(cx, PciAddress { segment: 0, bus, devfn })
        }
        PHYSDEVOP_RESTORE_MSI_EXT => restore_msi(cx, pci_device(cx, arg)?),
        PHYSDEVOP_PCI_MMCFG_RESERVED => {
            privileged(cx)?;
            mmconfig_reserved(cx, &GuestPtr::new(arg).read(cx.hv)?)
        }
        // The console is no USB debug port: its resets need no care.
        PHYSDEVOP_DBGP_OP => {
            privileged(cx)?;
            Ok(GuestPtr::<PhysdevDbgpOp>::new(arg).read(cx.hv).map(|_| ())?)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn privileged<P: Platform>(cx: Cx<'_, P>) -> Result<(), Errno> {
    if cx.domain.privileged { Ok(()) } else { Err(Errno::EPERM) }
}

fn eoi<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevEoi>) -> Result<(), Errno> {
    cx.hv.acknowledge_pirq(cx.domain, arg.read(cx.hv)?.irq)
}

fn irq_status_query<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevIrqStatusQuery>) -> Result<(), Errno> {
    let mut query = arg.read(cx.hv)?;
    if query.irq >= PirqTable::limit(&cx.hv.platform, cx.domain) {
        return Err(Errno::EINVAL);
    }
    // A guest that asks here does not use the bitmap page: as in Xen it acknowledges every interrupt.
    query.flags = XENIRQSTAT_NEEDS_EOI;
    if cx.hv.pirq_is_shared(cx.domain, query.irq) {
        query.flags |= XENIRQSTAT_SHARED;
    }
    Ok(arg.write(cx.hv, &query)?)
}

fn map_pirq<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevMapPirq>) -> Result<(), Errno> {
    let mut map = arg.read(cx.hv)?;
    if map.type_ == MAP_PIRQ_TYPE_MULTI_MSI && map.table_base != 0 {
        return Err(Errno::EINVAL);
    }
    let mapped = try_map(cx, &map);
    if let Ok(pirq) = mapped {
        map.pirq = i32::try_from(pirq).map_err(|_| Errno::ERANGE)?;
        if map.type_ == MAP_PIRQ_TYPE_MULTI_MSI {
            map.entry_nr = vectors_made(map.entry_nr);
        }
    }
    if map.type_ == MAP_PIRQ_TYPE_MSI_SEG {
        map.type_ = MAP_PIRQ_TYPE_MSI;
    }
    arg.write(cx.hv, &map)?;
    mapped.map(|_| ())
}

fn try_map<P: Platform>(cx: Cx<'_, P>, map: &PhysdevMapPirq) -> Result<u32, Errno> {
    let dom = DomId(map.domid);
    let wanted = u32::try_from(map.pirq).map_or(WantedPirq::Any, WantedPirq::Exactly);
    // Who may not map learns nothing about what could be mapped.
    cx.hv.named_domain(cx.domain, dom).ok_or(Errno::ESRCH)?;
    privileged(cx)?;
    match map.type_ {
        MAP_PIRQ_TYPE_GSI => Ok(cx.hv.map_gsi(cx.domain, dom, map.index, wanted)?),
        MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG | MAP_PIRQ_TYPE_MULTI_MSI => {
            // The machine numbers its messages itself: a guest cannot ask for one it has not got.
            if map.index != -1 && map.type_ != MAP_PIRQ_TYPE_MULTI_MSI {
                return Err(Errno::EINVAL);
            }
            Ok(cx.hv.map_msi(cx.domain, dom, &msi_request(map)?, wanted)?)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// MSI has vectors in powers of two: the answer says how many there are.
fn vectors_made(wanted: i32) -> i32 {
    let made = u32::try_from(wanted).ok().and_then(u32::checked_next_power_of_two);
    made.and_then(|n| i32::try_from(n).ok()).unwrap_or(wanted)
}

/// Bus in bits 7..0; with the types that know segments, the segment in bits 31..16.
fn msi_request(map: &PhysdevMapPirq) -> Result<MsiRequest, Errno> {
    let [bus, _, segment_low, segment_high] = map.bus.to_le_bytes();
    let segment = match map.type_ {
        MAP_PIRQ_TYPE_MSI => 0,
        _ => u16::from_le_bytes([segment_low, segment_high]),
    };
    let [devfn, ..] = map.devfn.to_le_bytes();
    let device = PciAddress { segment, bus, devfn };
    let number = u32::try_from(map.entry_nr);
    let (entry, count) = match map.type_ {
        MAP_PIRQ_TYPE_MULTI_MSI => (0, number.map_err(|_| Errno::EDOM)?),
        _ if map.table_base != 0 => (number.map_err(|_| Errno::EINVAL)?, 1),
        _ => (0, 1),
    };
    Ok(MsiRequest { device, entry, count, table_base: map.table_base })
}

fn setup_gsi<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevSetupGsi>) -> Result<(), Errno> {
    let setup = arg.read(cx.hv)?;
    let gsi = u32::try_from(setup.gsi).map_err(|_| Errno::EINVAL)?;
    let line = Line { level: setup.triggering != 0, active_low: setup.polarity != 0 };
    cx.hv.setup_gsi(cx.domain, gsi, line)
}

fn get_free_pirq<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevGetFreePirq>) -> Result<(), Errno> {
    let mut free = arg.read(cx.hv)?;
    free.pirq = cx.hv.reserve_pirq(cx.domain, free.type_ == MAP_PIRQ_TYPE_GSI)?;
    Ok(arg.write(cx.hv, &free)?)
}

fn apic_read<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevApic>) -> Result<(), Errno> {
    let mut apic = arg.read(cx.hv)?;
    privileged(cx)?;
    let value = cx.hv.platform.ioapic_read(apic.apic_physbase, apic.reg);
    apic.value = value.unwrap_or(apic.value);
    arg.write(cx.hv, &apic)?;
    value.map(|_| ())
}

/// Vectors are the hypervisor's business: the guest is told its own number back, as Xen does.
fn alloc_irq_vector<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevIrq>) -> Result<(), Errno> {
    let mut irq = arg.read(cx.hv)?;
    privileged(cx)?;
    irq.vector = irq.irq;
    Ok(arg.write(cx.hv, &irq)?)
}

fn set_iopl<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevSetIopl>) -> Result<(), Errno> {
    let set = arg.read(cx.hv)?;
    let iopl = u8::try_from(set.iopl).ok().filter(|iopl| *iopl <= 3).ok_or(Errno::EINVAL)?;
    cx.vcpu.pv.iopl.store(iopl, Ordering::Relaxed);
    cx.hv.platform.io_permission_changed(cx.domain, cx.vcpu);
    Ok(())
}

fn set_iobitmap<P: Platform>(cx: Cx<'_, P>, arg: GuestPtr<PhysdevSetIobitmap>) -> Result<(), Errno> {
    let set = arg.read(cx.hv)?;
    let bitmap = GuestVirt(set.bitmap.addr());
    if !is_guests(bitmap) || set.nr_ports > IO_PORTS {
        return Err(Errno::EINVAL);
    }
    cx.vcpu.pv.iobmp.store(bitmap.0, Ordering::Relaxed);
    cx.vcpu.pv.iobmp_ports.store(set.nr_ports, Ordering::Relaxed);
    cx.hv.platform.io_permission_changed(cx.domain, cx.vcpu);
    Ok(())
}

fn pci_device<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<PciAddress, Errno> {
    let device = GuestPtr::<PhysdevPciDevice>::new(arg).read(cx.hv)?;
    Ok(PciAddress { segment: device.seg, bus: device.bus, devfn: device.devfn })
}

fn known<P: Platform>(cx: Cx<'_, P>, device: PciAddress) -> Result<(), Errno> {
    if cx.hv.platform.pci_device_known(device) { Ok(()) } else { Err(Errno::ENODEV) }
}

/// As in Xen, a function that is added need not answer (yet), but one that is removed must have been there.
fn report_device<P: Platform>(cx: Cx<'_, P>, device: PciAddress, added: bool) -> Result<(), Errno> {
    privileged(cx)?;
    if !added {
        known(cx, device)?;
    }
    cx.hv.platform.pci_device_changed(device, added);
    Ok(())
}

fn restore_msi<P: Platform>(cx: Cx<'_, P>, device: PciAddress) -> Result<(), Errno> {
    known(cx, device)?;
    privileged(cx)?;
    cx.hv.platform.msi_restore(device);
    Ok(())
}

/// Memory-mapped configuration space: what dom0 says is compared with ACPI's own list. The hypervisor reads configuration space through the
/// ports, and domains map what ACPI lists for reading only in any case, so that nothing else comes of it.
fn mmconfig_reserved<P: Platform>(cx: Cx<'_, P>, said: &PhysdevPciMmcfgReserved) -> Result<(), Errno> {
    if said.flags & !XEN_PCI_MMCFG_RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let buses = (said.start_bus, said.end_bus);
    let mut list = cx.hv.machine.mmconfig.iter();
    let region = list.find(|r| (r.segment, r.buses) == (said.segment, buses)).ok_or(Errno::ENODEV)?;
    if region.address == said.address { Ok(()) } else { Err(Errno::EIO) }
}
