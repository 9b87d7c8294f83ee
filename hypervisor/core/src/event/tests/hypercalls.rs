//! `event_channel_op` and `physdev_op` as a guest calls them.

use super::*;
use crate::acpi::MmConfig;
use crate::hypercall::{
    Cx, Outcome,
    event::{event_channel_op, event_channel_op_compat},
    physdev::{physdev_op, physdev_op_compat},
};
use crate::ids::GuestVirt;
use crate::mock::FLAT_BASE;
use crate::permissions::Permissions;
use crate::platform::PciAddress;
use crate::regs::Regs;
use xen_abi::GuestHandle;
use xen_abi::errno::Errno;
use xen_abi::event_channel::*;
use xen_abi::physdev::*;
use xen_abi::xen::{DOMID_SELF, VIRQ_TIMER};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const ARG: u64 = FLAT_BASE + 0x100;
type Op = fn(Cx<'_, MockPlatform>, &[u64; 6], &mut Regs) -> Outcome;

/// Writes an argument, calls, and reads the argument back.
fn call<T: FromBytes + IntoBytes + Immutable>(
    hv: &Mock,
    domain: &MockDomain,
    op: Op,
    cmd: u32,
    arg: &mut T,
) -> Outcome {
    hv.platform.copy_to_guest(GuestVirt(ARG), arg.as_bytes()).unwrap();
    let cx = Cx { hv, domain, vcpu: &domain.vcpus[0] };
    // The upper half of the command's register means nothing.
    let outcome = op(cx, &[u64::from(cmd) | 7 << 32, ARG, 0, 0, 0, 0], &mut Regs::default());
    hv.platform.copy_from_guest(arg.as_mut_bytes(), GuestVirt(ARG)).unwrap();
    outcome
}

const DONE: Outcome = Outcome::Done(0);

fn errno(error: Errno) -> Outcome {
    Outcome::Done(error.to_ret())
}

#[test]
fn channels_by_hypercall() {
    let (hv, [d0, d1]) = machine(2);
    let mut alloc = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: 0, port: 0 };
    assert_eq!(call(&hv, &d1, event_channel_op, EVTCHNOP_ALLOC_UNBOUND, &mut alloc), DONE);
    let mut bind = EvtchnBindInterdomain { remote_dom: 1, remote_port: alloc.port, ..Default::default() };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_INTERDOMAIN, &mut bind), DONE);
    let mut send = EvtchnSend { port: bind.local_port };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_SEND, &mut send), DONE);
    assert!(guest(&hv, &d1).pending(Port(alloc.port)));
    let mut status = EvtchnStatus { dom: DOMID_SELF, port: bind.local_port, ..Default::default() };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_STATUS, &mut status), DONE);
    assert_eq!(status.status, EVTCHNSTAT_INTERDOMAIN);
    let end = EvtchnStatusInterdomain::read_from_bytes(&status.u).unwrap();
    assert_eq!((end.dom, end.port), (1, alloc.port));
    let mut close = EvtchnClose { port: bind.local_port };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_CLOSE, &mut close), DONE);
    let mut status = EvtchnStatus { dom: DOMID_SELF, port: alloc.port, ..Default::default() };
    assert_eq!(call(&hv, &d1, event_channel_op, EVTCHNOP_STATUS, &mut status), DONE);
    assert_eq!((status.status, status.u[0]), (EVTCHNSTAT_UNBOUND, 0));
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_SEND, &mut send), errno(Errno::EINVAL));
    assert_eq!(call(&hv, &d0, event_channel_op, 99, &mut send), errno(Errno::ENOSYS));
    let cx = Cx { hv: &hv, domain: &d0, vcpu: &d0.vcpus[0] };
    let unreadable = event_channel_op(cx, &[u64::from(EVTCHNOP_SEND), 8, 0, 0, 0, 0], &mut Regs::default());
    assert_eq!(unreadable, errno(Errno::EFAULT));
}

#[test]
fn virqs_and_ipis_by_hypercall() {
    let (hv, [d0, _]) = machine(2);
    let mut virq = EvtchnBindVirq { virq: VIRQ_TIMER, vcpu: 1, port: 0 };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_VIRQ, &mut virq), DONE);
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_VIRQ, &mut virq), errno(Errno::EEXIST));
    let mut status = EvtchnStatus { dom: DOMID_SELF, port: virq.port, ..Default::default() };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_STATUS, &mut status), DONE);
    assert_eq!((status.status, status.vcpu, status.u[0]), (EVTCHNSTAT_VIRQ, 1, 0));
    let mut ipi = EvtchnBindIpi { vcpu: 2, port: 0 };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_IPI, &mut ipi), errno(Errno::ENOENT));
    ipi.vcpu = 1;
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_IPI, &mut ipi), DONE);
    let mut bind = EvtchnBindVcpu { port: ipi.port, vcpu: 0 };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_VCPU, &mut bind), errno(Errno::EINVAL));
    let mut unmask = EvtchnUnmask { port: ipi.port };
    guest(&hv, &d0).mask(Port(ipi.port));
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_UNMASK, &mut unmask), DONE);
    assert!(!guest(&hv, &d0).masked(Port(ipi.port)));
    let mut priority = EvtchnSetPriority { port: ipi.port, priority: 1 };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_SET_PRIORITY, &mut priority), errno(Errno::ENOSYS));
    hv.platform.preempt_every.store(1, Ordering::Relaxed);
    for _ in 0..100 {
        hv.bind_ipi(&d0, VcpuId(0)).unwrap();
    }
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    let again = call(&hv, &d0, event_channel_op, EVTCHNOP_RESET, &mut reset);
    let Outcome::Again(args) = again else { panic!("not preempted: {again:?}") };
    let cx = Cx { hv: &hv, domain: &d0, vcpu: &d0.vcpus[0] };
    assert_eq!(event_channel_op(cx, &args, &mut Regs::default()), DONE);
    assert_eq!(d0.events.active_ports(), 0);
}

#[test]
fn the_fifo_abi_by_hypercall() {
    let (hv, [d0, _]) = machine(1);
    let page = hv.alloc_domain_page(&d0, 0).unwrap();
    let mut expand = EvtchnExpandArray { array_gfn: page.0 };
    let op = event_channel_op;
    assert_eq!(call(&hv, &d0, op, EVTCHNOP_EXPAND_ARRAY, &mut expand), errno(Errno::EOPNOTSUPP));
    let mut init = EvtchnInitControl { control_gfn: page.0, offset: 2048, ..Default::default() };
    assert_eq!(call(&hv, &d0, op, EVTCHNOP_INIT_CONTROL, &mut init), DONE);
    assert_eq!(init.link_bits, 17);
    assert_eq!(call(&hv, &d0, op, EVTCHNOP_INIT_CONTROL, &mut init), errno(Errno::EINVAL));
    expand.array_gfn = hv.alloc_domain_page(&d0, 0).unwrap().0;
    assert_eq!(call(&hv, &d0, op, EVTCHNOP_EXPAND_ARRAY, &mut expand), DONE);
}

#[test]
fn the_old_forms_carry_the_command_in_the_argument() {
    let (hv, [d0, _]) = machine(1);
    let mut op = EvtchnOp { cmd: EVTCHNOP_BIND_IPI, u: [0; 24] };
    let compat = |hv: &Mock, op: &mut EvtchnOp| {
        hv.platform.copy_to_guest(GuestVirt(ARG), op.as_bytes()).unwrap();
        let cx = Cx { hv, domain: &d0, vcpu: &d0.vcpus[0] };
        let outcome = event_channel_op_compat(cx, &[ARG, 0, 0, 0, 0, 0], &mut Regs::default());
        hv.platform.copy_from_guest(op.as_mut_bytes(), GuestVirt(ARG)).unwrap();
        outcome
    };
    assert_eq!(compat(&hv, &mut op), DONE);
    assert_eq!(op.u[4], 1, "the port");
    let mut send = EvtchnOp { cmd: EVTCHNOP_SEND, u: [0; 24] };
    send.u[0] = 1;
    assert_eq!(compat(&hv, &mut send), DONE);
    assert!(guest(&hv, &d0).pending(Port(1)));
    let mut reset = EvtchnOp { cmd: EVTCHNOP_RESET, u: [0; 24] };
    assert_eq!(compat(&hv, &mut reset), errno(Errno::ENOSYS));

    let old = PhysdevOp { cmd: PHYSDEVOP_SET_IOPL, u: [1, 0], ..Default::default() };
    hv.platform.copy_to_guest(GuestVirt(ARG), old.as_bytes()).unwrap();
    let cx = Cx { hv: &hv, domain: &d0, vcpu: &d0.vcpus[0] };
    assert_eq!(physdev_op_compat(cx, &[ARG, 0, 0, 0, 0, 0], &mut Regs::default()), DONE);
    assert_eq!(d0.vcpus[0].pv.iopl.load(Ordering::Relaxed), 1);
}

/// What Linux as the first domain does for a device with a line and for one with MSI-X.
#[test]
fn linux_sets_interrupts_up() {
    let (hv, [d0, _]) = machine(1);
    *d0.permissions.write() = Permissions::all();
    let mut setup = PhysdevSetupGsi { gsi: 17, triggering: 1, polarity: 1, ..Default::default() };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_SETUP_GSI, &mut setup), DONE);
    let mut map = PhysdevMapPirq {
        domid: DOMID_SELF,
        type_: MAP_PIRQ_TYPE_GSI,
        index: 17,
        pirq: 17,
        ..Default::default()
    };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_MAP_PIRQ, &mut map), DONE);
    let mut query = PhysdevIrqStatusQuery { irq: 17, flags: 0 };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_IRQ_STATUS_QUERY, &mut query), DONE);
    assert_eq!(query.flags, XENIRQSTAT_NEEDS_EOI);
    let mut bind = EvtchnBindPirq { pirq: 17, flags: BIND_PIRQ_WILL_SHARE, port: 0 };
    assert_eq!(call(&hv, &d0, event_channel_op, EVTCHNOP_BIND_PIRQ, &mut bind), DONE);
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_EOI, &mut PhysdevEoi { irq: 17 }), DONE);
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_SETUP_GSI, &mut setup), errno(Errno::EEXIST));

    let mut device = PhysdevPciDeviceAdd { seg: 0, bus: 0, devfn: 0x18, ..Default::default() };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_PCI_DEVICE_ADD, &mut device), DONE);
    let mut map = PhysdevMapPirq {
        domid: DOMID_SELF,
        type_: MAP_PIRQ_TYPE_MSI_SEG,
        index: -1,
        pirq: -1,
        bus: 2 << 16 | 5,
        devfn: 0x18,
        entry_nr: 3,
        table_base: 0xfebf_0000,
        ..Default::default()
    };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_MAP_PIRQ, &mut map), DONE);
    assert!(map.pirq >= 24);
    let request = *hv.platform.record.lock().unwrap().msis.values().next().unwrap();
    assert_eq!((request.device.segment, request.device.bus, request.device.devfn), (2, 5, 0x18));
    assert_eq!((request.entry, request.count, request.table_base), (3, 1, 0xfebf_0000));
    let mut unmap = PhysdevUnmapPirq { domid: DOMID_SELF, pirq: map.pirq, ..Default::default() };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_UNMAP_PIRQ, &mut unmap), DONE);
    let mut several = PhysdevMapPirq { type_: MAP_PIRQ_TYPE_MULTI_MSI, table_base: 0, pirq: -1, ..map };
    assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_MAP_PIRQ, &mut several), DONE);
    assert_eq!(several.entry_nr, 4, "in powers of two");
    for (type_, index, answer) in [
        (MAP_PIRQ_TYPE_UNKNOWN, 0, Errno::EINVAL),
        (MAP_PIRQ_TYPE_MSI, 30, Errno::EINVAL),
        (MAP_PIRQ_TYPE_GSI, 0, Errno::EPERM),
    ] {
        let mut bad = PhysdevMapPirq { type_, index, pirq: index, ..map };
        assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_MAP_PIRQ, &mut bad), errno(answer), "{type_}");
    }
}

const ADDRESS: PciAddress = PciAddress { segment: 0, bus: 0, devfn: 8 };

#[test]
fn privileges_are_asked_for() {
    let (mut hv, [d0, d1]) = machine(1);
    hv.machine.mmconfig = std::vec![MmConfig { address: 0xb000_0000, segment: 0, buses: (0, 255) }];
    let mut iopl = PhysdevSetIopl { iopl: 4 };
    assert_eq!(call(&hv, &d1, physdev_op, PHYSDEVOP_SET_IOPL, &mut iopl), errno(Errno::EINVAL));
    iopl.iopl = 3;
    assert_eq!(call(&hv, &d1, physdev_op, PHYSDEVOP_SET_IOPL, &mut iopl), DONE);
    let mut bitmap = PhysdevSetIobitmap { bitmap: GuestHandle::new(0x1000), nr_ports: 65537, _pad0: 0 };
    assert_eq!(call(&hv, &d1, physdev_op, PHYSDEVOP_SET_IOBITMAP, &mut bitmap), errno(Errno::EINVAL));
    bitmap.nr_ports = 65536;
    assert_eq!(call(&hv, &d1, physdev_op, PHYSDEVOP_SET_IOBITMAP, &mut bitmap), DONE);
    let mut irq = PhysdevIrq { irq: 9, vector: 0 };
    let mut apic = PhysdevApic { apic_physbase: 0xfec0_0000, reg: 1, value: 5 };
    let mut device = PhysdevPciDevice { seg: 0, bus: 0, devfn: 8 };
    for (domain, answer) in [(&d1, errno(Errno::EPERM)), (&d0, DONE)] {
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_ALLOC_IRQ_VECTOR, &mut irq), answer);
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_APIC_READ, &mut apic), answer);
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_APIC_WRITE, &mut apic), answer);
        let mut manage = PhysdevManagePci { bus: 0, devfn: 8 };
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_MANAGE_PCI_ADD, &mut manage), answer);
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_PREPARE_MSIX, &mut device), answer);
        hv.platform.record.lock().unwrap().pci.push(ADDRESS);
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_RESTORE_MSI_EXT, &mut device), answer);
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_PCI_DEVICE_REMOVE, &mut device), answer);
        let mut mmcfg =
            PhysdevPciMmcfgReserved { address: 0xb000_0000, end_bus: 255, flags: 1, ..Default::default() };
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_PCI_MMCFG_RESERVED, &mut mmcfg), answer);
        let mut dbgp = PhysdevDbgpOp::default();
        assert_eq!(call(&hv, domain, physdev_op, PHYSDEVOP_DBGP_OP, &mut dbgp), answer);
    }
    assert_eq!(irq.vector, 9);
    assert_eq!(hv.platform.record.lock().unwrap().restored, [ADDRESS]);
    for (said, answer) in [
        (PhysdevPciMmcfgReserved { address: 0xc000_0000, end_bus: 255, ..Default::default() }, Errno::EIO),
        (PhysdevPciMmcfgReserved { address: 0xb000_0000, end_bus: 254, ..Default::default() }, Errno::ENODEV),
        (PhysdevPciMmcfgReserved { flags: 2, ..Default::default() }, Errno::EINVAL),
    ] {
        let mut said = said;
        assert_eq!(call(&hv, &d0, physdev_op, PHYSDEVOP_PCI_MMCFG_RESERVED, &mut said), errno(answer));
    }
    assert_eq!(call(&hv, &d0, physdev_op, 99, &mut irq), errno(Errno::ENOSYS));
}
