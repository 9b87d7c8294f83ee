//! `physdev_op` (physdev.h): interrupts of devices, I/O privilege, PCI devices.
//!
//! The machine of these cases is a PC: line 0 is the timer's, 1 to 15 are the ISA bus's, and lines above those exist up to
//! at least 23. Line 9 has no user here; the host bridge at 00:00.0 has no message-signalled interrupts.

use guest_pv_lib::Errno;
use xen_abi::GuestHandle;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::physdev::*;
use xen_abi::xen::{DOMID_IO, DOMID_SELF};

use super::event::{close, event, send, status, with_port};
use crate::call::{FAULTS, HYPERVISOR, NO_DOMAIN, NO_FRAME, NON_CANONICAL, Ret, all_fault, hc1, hc2, op};
use crate::harness::{Verdict, check, need, same};

/// An ISA line without a device.
const LINE: u32 = 9;
/// A line above the ISA bus's.
const HIGH_LINE: u32 = 21;
/// No pirq of any domain.
const NO_PIRQ: u32 = 1 << 20;
/// A PCI bus without devices.
const NO_BUS: u8 = 0x77;

fn physdev<T>(command: u32, arg: &mut T) -> Ret {
    op(nr::PHYSDEV_OP, command, arg)
}

fn at(command: u32) -> impl Fn(u64) -> Ret {
    move |address| hc2(nr::PHYSDEV_OP, u64::from(command), address)
}

fn bind(pirq: u32, flags: u32) -> Result<u32, Errno> {
    let mut arg = EvtchnBindPirq { pirq, flags, ..EvtchnBindPirq::default() };
    event(EVTCHNOP_BIND_PIRQ, &mut arg).map(|_| arg.port)
}

fn map_as(arg: PhysdevMapPirq) -> Result<i32, Errno> {
    let mut arg = arg;
    physdev(PHYSDEVOP_MAP_PIRQ, &mut arg).map(|_| arg.pirq)
}

pub(super) fn map_line(domid: u16, index: i32, pirq: i32) -> Result<i32, Errno> {
    map_as(PhysdevMapPirq { domid, type_: MAP_PIRQ_TYPE_GSI, index, pirq, ..PhysdevMapPirq::default() })
}

/// Messages of the device at `bus`, slot 0.
pub(super) fn map_message(type_: i32, bus: i32, entry_nr: i32, table_base: u64) -> Result<i32, Errno> {
    map_as(PhysdevMapPirq {
        domid: DOMID_SELF,
        type_,
        index: -1,
        pirq: -1,
        bus,
        entry_nr,
        table_base,
        ..PhysdevMapPirq::default()
    })
}

fn unmap(domid: u16, pirq: i32) -> Ret {
    physdev(PHYSDEVOP_UNMAP_PIRQ, &mut PhysdevUnmapPirq { domid, pirq, ..PhysdevUnmapPirq::default() })
}

fn iopl(iopl: u32) -> Ret {
    physdev(PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl })
}

fn iobitmap(bitmap: u64, nr_ports: u32) -> Ret {
    let bitmap = GuestHandle::from(bitmap);
    physdev(
        PHYSDEVOP_SET_IOBITMAP,
        &mut PhysdevSetIobitmap { bitmap, nr_ports, ..PhysdevSetIobitmap::default() },
    )
}

fn eoi(irq: u32) -> Ret {
    physdev(PHYSDEVOP_EOI, &mut PhysdevEoi { irq })
}

fn query(irq: u32) -> Result<u32, Errno> {
    let mut arg = PhysdevIrqStatusQuery { irq, ..PhysdevIrqStatusQuery::default() };
    physdev(PHYSDEVOP_IRQ_STATUS_QUERY, &mut arg).map(|_| arg.flags)
}

fn device(command: u32, seg: u16, bus: u8, devfn: u8) -> Ret {
    physdev(command, &mut PhysdevPciDevice { seg, bus, devfn })
}

fn setup_gsi(gsi: i32) -> Ret {
    physdev(
        PHYSDEVOP_SETUP_GSI,
        &mut PhysdevSetupGsi { gsi, triggering: 1, polarity: 1, ..PhysdevSetupGsi::default() },
    )
}

returns! {
    /// A command that does not exist.
    unknown_command(env): physdev(99, &mut 0u64) => Err(Errno::ENOSYS);
    /// Vectors are not the domain's to free.
    free_irq_vector(env): physdev(PHYSDEVOP_FREE_IRQ_VECTOR, &mut PhysdevIrq { irq: LINE, vector: 0 })
        => Err(Errno::ENOSYS);
    /// Bad pointers, eoi.
    eoi_fault(env): all_fault(at(PHYSDEVOP_EOI)) => FAULTS;
    /// Bad pointers, irq_status_query.
    query_fault(env): all_fault(at(PHYSDEVOP_IRQ_STATUS_QUERY)) => FAULTS;
    /// Bad pointers, map_pirq.
    map_fault(env): all_fault(at(PHYSDEVOP_MAP_PIRQ)) => FAULTS;
    /// Bad pointers, unmap_pirq.
    unmap_fault(env): all_fault(at(PHYSDEVOP_UNMAP_PIRQ)) => FAULTS;
    /// Bad pointers, set_iopl.
    iopl_fault(env): all_fault(at(PHYSDEVOP_SET_IOPL)) => FAULTS;
    /// Bad pointers, set_iobitmap.
    iobitmap_fault(env): all_fault(at(PHYSDEVOP_SET_IOBITMAP)) => FAULTS;
    /// Bad pointers, apic_read.
    apic_read_fault(env): all_fault(at(PHYSDEVOP_APIC_READ)) => FAULTS;
    /// Bad pointers, apic_write.
    apic_write_fault(env): all_fault(at(PHYSDEVOP_APIC_WRITE)) => FAULTS;
    /// Bad pointers, setup_gsi.
    setup_gsi_fault(env): all_fault(at(PHYSDEVOP_SETUP_GSI)) => FAULTS;
    /// Bad pointers, get_free_pirq.
    free_pirq_fault(env): all_fault(at(PHYSDEVOP_GET_FREE_PIRQ)) => FAULTS;
    /// Bad pointers, the PCI commands.
    pci_fault(env): [
        PHYSDEVOP_MANAGE_PCI_ADD, PHYSDEVOP_MANAGE_PCI_REMOVE, PHYSDEVOP_MANAGE_PCI_ADD_EXT, PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_DEVICE_REMOVE, PHYSDEVOP_RESTORE_MSI, PHYSDEVOP_RESTORE_MSI_EXT, PHYSDEVOP_PREPARE_MSIX,
        PHYSDEVOP_RELEASE_MSIX, PHYSDEVOP_PCI_MMCFG_RESERVED, PHYSDEVOP_DBGP_OP, PHYSDEVOP_PIRQ_EOI_GMFN_V1,
        PHYSDEVOP_PIRQ_EOI_GMFN_V2,
    ].map(|command| all_fault(at(command))) => [FAULTS; 13];
    /// Privilege levels are 0 to 3.
    iopl_beyond(env): [iopl(4), iopl(u32::MAX)] => [Err(Errno::EINVAL); 2];
    /// A bitmap covers at most 65536 ports.
    iobitmap_too_long(env): iobitmap(0, 65537) => Err(Errno::EINVAL);
    /// A bitmap lies where the kernel may point to; it is read later, where it need not be there.
    iobitmap_places(env): [
        iobitmap(NON_CANONICAL, 8), iobitmap(HYPERVISOR, 8), iobitmap(env.page(0).virt(), 65536), iobitmap(0, 0),
    ] => [Err(Errno::EINVAL), Err(Errno::EINVAL), Ok(0), Ok(0)];
    /// A pirq beyond the domain's.
    eoi_beyond(env): [eoi(NO_PIRQ), eoi(u32::MAX)] => [Err(Errno::EINVAL); 2];
    /// A pirq beyond the domain's.
    query_beyond(env): [query(NO_PIRQ), query(u32::MAX)] => [Err(Errno::EINVAL); 2];
    /// A kernel that asks must acknowledge, whether the pirq is bound or not.
    query_unbound(env): [query(LINE), query(HIGH_LINE)] => [Ok(XENIRQSTAT_NEEDS_EOI); 2];
    /// What is not mapped cannot be acknowledged.
    eoi_unmapped(env): eoi(HIGH_LINE + 1) => Err(Errno::EINVAL);
    /// An interrupt is mapped for a domain that exists.
    map_for_nobody(env): [NO_DOMAIN, DOMID_IO].map(|domid| map_line(domid, 9, -1)) => [Err(Errno::ESRCH); 2];
    /// The type is looked at after the domain.
    map_type_unknown(env): [
        map_as(PhysdevMapPirq { domid: DOMID_SELF, type_: MAP_PIRQ_TYPE_UNKNOWN, ..PhysdevMapPirq::default() }),
        map_as(PhysdevMapPirq { domid: DOMID_SELF, type_: 77, ..PhysdevMapPirq::default() }),
        map_as(PhysdevMapPirq { domid: NO_DOMAIN, type_: 77, ..PhysdevMapPirq::default() }),
    ] => [Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::ESRCH)];
    /// An interrupt is taken from a domain that exists.
    unmap_for_nobody(env): unmap(NO_DOMAIN, 9) => Err(Errno::ESRCH);
    /// What was never mapped cannot be unmapped.
    unmap_unmapped(env): [unmap(DOMID_SELF, 200), unmap(DOMID_SELF, -1), unmap(DOMID_SELF, 1 << 20)]
        => [Err(Errno::EINVAL); 3];
    /// Lines that do not exist.
    setup_gsi_beyond(env): [setup_gsi(-1), setup_gsi(1 << 20)] => [Err(Errno::EINVAL); 2];
    /// An IOAPIC that does not exist has no registers.
    apic_read_nowhere(env): physdev(PHYSDEVOP_APIC_READ, &mut PhysdevApic { apic_physbase: 0x1000, reg: 1, value: 0 })
        => Err(Errno::EINVAL);
    /// An IOAPIC that does not exist cannot be written.
    apic_write_nowhere(env): physdev(PHYSDEVOP_APIC_WRITE, &mut PhysdevApic { apic_physbase: 0x1000, reg: 1, value: 0 })
        => Err(Errno::EINVAL);
    /// The old way to get a vector answers the number of the line.
    alloc_irq_vector(env): {
        let mut arg = PhysdevIrq { irq: LINE, vector: 0 };
        physdev(PHYSDEVOP_ALLOC_IRQ_VECTOR, &mut arg).map(|_| arg.vector)
    } => Ok(LINE);
    /// Nothing masked waits: nothing to do.
    unmask_notify(env): physdev(PHYSDEVOP_IRQ_UNMASK_NOTIFY, &mut 0u64) => Ok(0);
    /// A page of acknowledgements must be the domain's, and writable.
    eoi_page_refused(env): [NO_FRAME, env.boot.root_table().0].map(|gmfn| [
        physdev(PHYSDEVOP_PIRQ_EOI_GMFN_V1, &mut PhysdevPirqEoiGmfn { gmfn }),
        physdev(PHYSDEVOP_PIRQ_EOI_GMFN_V2, &mut PhysdevPirqEoiGmfn { gmfn }),
    ]) => [[Err(Errno::EINVAL); 2]; 2];
    /// A device that is not there has no messages to restore.
    restore_nobody(env): [
        physdev(PHYSDEVOP_RESTORE_MSI, &mut PhysdevRestoreMsi { bus: NO_BUS, devfn: 0 }),
        device(PHYSDEVOP_RESTORE_MSI_EXT, 0, NO_BUS, 0),
        device(PHYSDEVOP_RESTORE_MSI_EXT, 7, 0, 0),
    ] => [Err(Errno::ENODEV); 3];
    /// A device without messages has nothing to restore, which is no error.
    restore_nothing(env): [
        physdev(PHYSDEVOP_PCI_DEVICE_ADD, &mut PhysdevPciDeviceAdd::default()),
        physdev(PHYSDEVOP_RESTORE_MSI, &mut PhysdevRestoreMsi { bus: 0, devfn: 0 }),
        device(PHYSDEVOP_RESTORE_MSI_EXT, 0, 0, 0),
    ] => [Ok(0); 3];
    /// A device that is not there is not prepared for MSI-X.
    prepare_nobody(env): [
        device(PHYSDEVOP_PREPARE_MSIX, 0, NO_BUS, 0), device(PHYSDEVOP_RELEASE_MSIX, 0, NO_BUS, 0),
    ] => [Err(Errno::ENODEV); 2];
    /// A device that is not there cannot go.
    remove_nobody(env): [
        device(PHYSDEVOP_PCI_DEVICE_REMOVE, 0, NO_BUS, 0), device(PHYSDEVOP_PCI_DEVICE_REMOVE, 7, 0, 0),
        physdev(PHYSDEVOP_MANAGE_PCI_REMOVE, &mut PhysdevManagePci { bus: NO_BUS, devfn: 0 }),
    ] => [Err(Errno::ENODEV); 3];
    /// A device that the hypervisor knows may be reported.
    add_known(env): [
        physdev(PHYSDEVOP_PCI_DEVICE_ADD, &mut PhysdevPciDeviceAdd::default()),
        physdev(PHYSDEVOP_MANAGE_PCI_ADD, &mut PhysdevManagePci::default()),
        physdev(PHYSDEVOP_MANAGE_PCI_ADD_EXT, &mut PhysdevManagePciExt::default()),
    ] => [Ok(0), Ok(0), Ok(0)];
    /// The words that say what kind of function it is are truth values.
    add_ext_flags(env): [
        physdev(PHYSDEVOP_MANAGE_PCI_ADD_EXT, &mut PhysdevManagePciExt { is_extfn: 2, ..PhysdevManagePciExt::default() }),
        physdev(PHYSDEVOP_MANAGE_PCI_ADD_EXT, &mut PhysdevManagePciExt { is_virtfn: 2, ..PhysdevManagePciExt::default() }),
    ] => [Err(Errno::EINVAL); 2];
    /// Memory-mapped configuration space that this machine does not have, and flags that nothing has.
    mmcfg_unknown(env): [
        physdev(PHYSDEVOP_PCI_MMCFG_RESERVED, &mut PhysdevPciMmcfgReserved { address: 0xb000_0000, end_bus: 255,
            flags: XEN_PCI_MMCFG_RESERVED, ..PhysdevPciMmcfgReserved::default() }),
        physdev(PHYSDEVOP_PCI_MMCFG_RESERVED, &mut PhysdevPciMmcfgReserved { flags: 2, ..PhysdevPciMmcfgReserved::default() }),
    ] => [Err(Errno::ENODEV), Err(Errno::EINVAL)];
    /// The console is no debug port: its resets are nobody's business.
    debug_port(env): [PHYSDEVOP_DBGP_RESET_PREPARE, PHYSDEVOP_DBGP_RESET_DONE, 77].map(|op| {
        physdev(PHYSDEVOP_DBGP_OP, &mut PhysdevDbgpOp { op, ..PhysdevDbgpOp::default() })
    }) => [Ok(0); 3];
    /// Messages of a device that is not there, or not known.
    message_of_nobody(env): [
        map_message(MAP_PIRQ_TYPE_MSI, i32::from(NO_BUS), 0, 0),
        map_message(MAP_PIRQ_TYPE_MSI_SEG, 7 << 16, 0, 0),
        map_message(MAP_PIRQ_TYPE_MULTI_MSI, i32::from(NO_BUS), 1, 0),
    ] => [Err(Errno::ENODEV); 3];
    /// Messages of a device that has none.
    message_of_bridge(env): [
        map_message(MAP_PIRQ_TYPE_MSI, 0, 0, 0), map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, 1, 0),
    ] => [Err(Errno::ENODEV); 2];
    /// MSI has 1 to 32 messages, no table, and more than one of them only where interrupts are remapped.
    message_counts(env): [
        map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, 0, 0), map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, -1, 0),
        map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, 33, 0), map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, 1, 0xfee0_0000),
        map_message(MAP_PIRQ_TYPE_MULTI_MSI, 0, 2, 0),
    ] => [Err(Errno::EDOM), Err(Errno::EDOM), Err(Errno::EDOM), Err(Errno::EINVAL), Err(Errno::EOPNOTSUPP)];
    /// The machine's number of a message cannot be chosen.
    message_number(env): [0, 9, i32::MAX].map(|index| map_as(PhysdevMapPirq {
        domid: DOMID_SELF, type_: MAP_PIRQ_TYPE_MSI, index, pirq: -1, ..PhysdevMapPirq::default()
    })) => [Err(Errno::EINVAL); 3];
    /// A privileged command of old, whose argument stands behind its number.
    compat(env): {
        let mut arg = PhysdevOp { cmd: PHYSDEVOP_IRQ_STATUS_QUERY, u: [u64::from(LINE), 0], ..PhysdevOp::default() };
        hc1(nr::PHYSDEV_OP_COMPAT, &raw mut arg as u64).map(|_| arg.u[0] >> 32)
    } => Ok(u64::from(XENIRQSTAT_NEEDS_EOI));
    /// The old form knows the old commands only.
    compat_unknown(env): {
        let mut arg = PhysdevOp { cmd: 99, ..PhysdevOp::default() };
        hc1(nr::PHYSDEV_OP_COMPAT, &raw mut arg as u64)
    } => Err(Errno::ENOSYS);
}

case! {
    /// The version register of the IOAPIC tells how many lines there are.
    fn apic_read(env) {
        let _ = env;
        let mut arg = PhysdevApic { apic_physbase: 0xfec0_0000, reg: 1, value: 0 };
        need("apic_read", physdev(PHYSDEVOP_APIC_READ, &mut arg))?;
        check("lines", arg.value >> 16 & 0xff >= HIGH_LINE)
    }
}

case! {
    /// Line 0 is the hypervisor's timer.
    fn timer_line(env) {
        let _ = env;
        check("map", map_line(DOMID_SELF, 0, 0).is_err())?;
        check("bind", bind(0, 0).is_err())
    }
}

case! {
    #[alone]
    /// A line gets the pirq that was asked for, or the lowest free one of a line above the ISA bus's; it has one only.
    fn map_numbers(env) {
        let _ = env;
        let line = LINE as i32;
        same("any", map_line(DOMID_SELF, line, -1), Ok(16))?;
        same("any, again", map_line(0, line, -1), Ok(16))?;
        same("another", map_line(DOMID_SELF, line, 30), Err(Errno::EEXIST))?;
        same("this one", map_line(DOMID_SELF, 10, 10), Ok(10))?;
        same("taken by another line", map_line(DOMID_SELF, 11, 10), Ok(10))?;
        same("a number beyond", map_line(DOMID_SELF, 11, 1 << 20), Err(Errno::EINVAL))
    }
}

case! {
    #[alone]
    /// A line is mapped on demand, as often as the domain likes, until it unmaps it: then the right to use it is gone.
    fn map_and_unmap(env) {
        let _ = env;
        let line = HIGH_LINE as i32;
        same("map", map_line(DOMID_SELF, line, line), Ok(line))?;
        same("again", map_line(DOMID_SELF, line, line), Ok(line))?;
        same("any", map_line(DOMID_SELF, line, -1), Ok(line))?;
        same("eoi", eoi(HIGH_LINE), Ok(0))?;
        same("unmap", unmap(DOMID_SELF, line), Ok(0))?;
        same("once", unmap(DOMID_SELF, line), Err(Errno::EINVAL))?;
        same("eoi", eoi(HIGH_LINE), Err(Errno::EINVAL))?;
        same("map again", map_line(DOMID_SELF, line, line), Err(Errno::EPERM))
    }
}

case! {
    #[alone]
    /// A bound interrupt is bound once, cannot be sent to, tells its number, and may be moved.
    fn bound(env) {
        let _ = env;
        need("map", map_line(DOMID_SELF, LINE as i32, LINE as i32))?;
        with_port(bind(LINE, 0), |port| {
            same("again", bind(LINE, BIND_PIRQ_WILL_SHARE), Err(Errno::EEXIST))?;
            same("send", send(port), Err(Errno::EINVAL))?;
            let is = need("status", status(port))?;
            same("kind", (is.status, is.vcpu), (EVTCHNSTAT_PIRQ, 0))?;
            same("which", u32::from_le_bytes([is.u[0], is.u[1], is.u[2], is.u[3]]), LINE)?;
            same("rebind", event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu: 0 }), Ok(0))?;
            same("query", query(LINE), Ok(XENIRQSTAT_NEEDS_EOI))?;
            same("eoi", eoi(LINE), Ok(0))
        })?;
        with_port(bind(LINE, BIND_PIRQ_WILL_SHARE), |_| Ok(()))
    }
}

case! {
    #[alone]
    #[vcpus(2)]
    #[cpus(2)]
    /// A bound interrupt may be moved to another CPU of the domain and back.
    fn moved(env) {
        let _ = env;
        need("map", map_line(DOMID_SELF, LINE as i32, LINE as i32))?;
        with_port(bind(LINE, 0), |port| {
            for vcpu in [1, 1, 0] {
                same("rebind", event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu }), Ok(0))?;
                same("status", status(port).map(|is| is.vcpu), Ok(vcpu))?;
            }
            Ok(())
        })
    }
}

case! {
    /// What no pirq is mapped to cannot be bound.
    fn bind_refused(env) {
        let _ = env;
        same("beyond", bind(NO_PIRQ, 0), Err(Errno::EINVAL))?;
        same("huge", bind(u32::MAX, 0), Err(Errno::EINVAL))?;
        same("not mapped", bind(200, 0), Err(Errno::EPERM))
    }
}

case! {
    #[alone]
    /// An interrupt that is unmapped leaves its port, which stays silent and can be closed.
    fn unmap_bound(env) {
        let _ = env;
        let line = HIGH_LINE as i32;
        need("map", map_line(DOMID_SELF, line, line))?;
        let port = need("bind", bind(HIGH_LINE, 0))?;
        let answer = unmap(DOMID_SELF, line);
        let kind = status(port).map(|is| is.status);
        same("close", close(port), Ok(0))?;
        same("unmap", answer, Ok(0))?;
        same("port", kind, Ok(EVTCHNSTAT_PIRQ))
    }
}

case! {
    #[alone]
    /// A free pirq is one beyond the lines, or a line's number if that was asked for; each is given once.
    fn free_pirqs(env) {
        let _ = env;
        let get = |type_| {
            let mut arg = PhysdevGetFreePirq { type_, ..PhysdevGetFreePirq::default() };
            physdev(PHYSDEVOP_GET_FREE_PIRQ, &mut arg).map(|_| arg.pirq)
        };
        let messages = [get(MAP_PIRQ_TYPE_MSI), get(MAP_PIRQ_TYPE_MSI)];
        let [Ok(first), Ok(second)] = messages else { return Err(Verdict::Failure("get_free_pirq")) };
        check("the highest first", first > 23 && second == first - 1)?;
        same("a line", get(MAP_PIRQ_TYPE_GSI), Ok(16))?;
        same("the next line", get(MAP_PIRQ_TYPE_GSI), Ok(17))?;
        same("reserved, not mapped", unmap(DOMID_SELF, 16), Err(Errno::EINVAL))?;
        same("not to be bound", bind(first, 0), Err(Errno::EPERM))
    }
}

case! {
    #[alone]
    /// A function that does not answer may be reported, and removed once. Without an IOMMU only reported ones are known.
    fn report_and_remove(env) {
        let _ = env;
        let mut add = PhysdevPciDeviceAdd { bus: NO_BUS, ..PhysdevPciDeviceAdd::default() };
        same("add", physdev(PHYSDEVOP_PCI_DEVICE_ADD, &mut add), Ok(0))?;
        same("restore", device(PHYSDEVOP_RESTORE_MSI_EXT, 0, NO_BUS, 0), Ok(0))?;
        same("messages", map_message(MAP_PIRQ_TYPE_MSI, i32::from(NO_BUS), 0, 0), Err(Errno::ENODEV))?;
        same("remove", device(PHYSDEVOP_PCI_DEVICE_REMOVE, 0, NO_BUS, 0), Ok(0))?;
        same("once", device(PHYSDEVOP_PCI_DEVICE_REMOVE, 0, NO_BUS, 0), Err(Errno::ENODEV))?;
        same("one that nobody reported", device(PHYSDEVOP_PCI_DEVICE_REMOVE, 0, 0, 0), Err(Errno::ENODEV))
    }
}

case! {
    #[alone]
    /// A domain has one page of acknowledgements; it keeps it.
    fn eoi_page(env) {
        let gmfn = env.page(0).mfn().0;
        same("first", physdev(PHYSDEVOP_PIRQ_EOI_GMFN_V2, &mut PhysdevPirqEoiGmfn { gmfn }), Ok(0))?;
        same("second", physdev(PHYSDEVOP_PIRQ_EOI_GMFN_V1, &mut PhysdevPirqEoiGmfn { gmfn }), Err(Errno::EBUSY))?;
        // ACPI says that line 9 is level-triggered on this machine, and nothing of line 3.
        for (line, want) in [(9, 1), (3, 0)] {
            need("map", map_line(DOMID_SELF, line, line))?;
            let port = need("bind", bind(line as u32, 0))?;
            let set = env.page(0).get(0) >> line & 1;
            same("close", close(port), Ok(0))?;
            same("needs an acknowledgement", (line, set), (line, want))?;
        }
        Ok(())
    }
}
