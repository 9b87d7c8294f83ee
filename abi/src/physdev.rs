//! `physdev.h`: the commands of `physdev_op(cmd, arg)`: interrupts, I/O privilege, PCI devices.

use crate::GuestHandle;

consts! {
    /// Obsolete (before interface version 3.2.2): event channels of interrupts were unmasked.
    PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 4;
    /// Asks whether an interrupt needs an EOI. Argument: [`PhysdevIrqStatusQuery`].
    PHYSDEVOP_IRQ_STATUS_QUERY("PHYSDEVOP_irq_status_query"): u32 = 5;
    /// Sets the vCPU's I/O privilege level. Argument: [`PhysdevSetIopl`].
    PHYSDEVOP_SET_IOPL("PHYSDEVOP_set_iopl"): u32 = 6;
    /// Sets the vCPU's I/O permission bitmap. Argument: [`PhysdevSetIobitmap`].
    PHYSDEVOP_SET_IOBITMAP("PHYSDEVOP_set_iobitmap"): u32 = 7;
    /// Reads an I/O APIC register. Argument: [`PhysdevApic`].
    PHYSDEVOP_APIC_READ("PHYSDEVOP_apic_read"): u32 = 8;
    /// Writes an I/O APIC register. Argument: [`PhysdevApic`].
    PHYSDEVOP_APIC_WRITE("PHYSDEVOP_apic_write"): u32 = 9;
    /// Prepares an interrupt. Argument: [`PhysdevIrq`].
    PHYSDEVOP_ALLOC_IRQ_VECTOR("PHYSDEVOP_alloc_irq_vector"): u32 = 10;
    /// Undoes it. Argument: [`PhysdevIrq`].
    PHYSDEVOP_FREE_IRQ_VECTOR("PHYSDEVOP_free_irq_vector"): u32 = 11;
    /// End of interrupt. Argument: [`PhysdevEoi`].
    PHYSDEVOP_EOI("PHYSDEVOP_eoi"): u32 = 12;
    /// Creates a physical interrupt of a domain for a GSI or an MSI. Argument: [`PhysdevMapPirq`].
    PHYSDEVOP_MAP_PIRQ("PHYSDEVOP_map_pirq"): u32 = 13;
    /// Removes one. Argument: [`PhysdevUnmapPirq`].
    PHYSDEVOP_UNMAP_PIRQ("PHYSDEVOP_unmap_pirq"): u32 = 14;
    /// Tells of a PCI device in segment 0. Argument: [`PhysdevManagePci`].
    PHYSDEVOP_MANAGE_PCI_ADD("PHYSDEVOP_manage_pci_add"): u32 = 15;
    /// Tells that it is gone. Argument: [`PhysdevManagePci`].
    PHYSDEVOP_MANAGE_PCI_REMOVE("PHYSDEVOP_manage_pci_remove"): u32 = 16;
    /// Registers a page of bits that say which interrupts need an EOI; an EOI then unmasks too.
    /// Argument: [`PhysdevPirqEoiGmfn`].
    PHYSDEVOP_PIRQ_EOI_GMFN_V1("PHYSDEVOP_pirq_eoi_gmfn_v1"): u32 = 17;
    /// Writes a device's MSI registers again, segment 0. Argument: [`PhysdevRestoreMsi`].
    PHYSDEVOP_RESTORE_MSI("PHYSDEVOP_restore_msi"): u32 = 19;
    /// Tells of a PCI device in segment 0 that may be a function of another. Argument: [`PhysdevManagePciExt`].
    PHYSDEVOP_MANAGE_PCI_ADD_EXT("PHYSDEVOP_manage_pci_add_ext"): u32 = 20;
    /// Sets trigger and polarity of a GSI. Argument: [`PhysdevSetupGsi`].
    PHYSDEVOP_SETUP_GSI("PHYSDEVOP_setup_gsi"): u32 = 21;
    /// Reserves a free interrupt number. Argument: [`PhysdevGetFreePirq`].
    PHYSDEVOP_GET_FREE_PIRQ("PHYSDEVOP_get_free_pirq"): u32 = 23;
    /// Tells that a range of memory-mapped configuration space is reserved. Argument: [`PhysdevPciMmcfgReserved`].
    PHYSDEVOP_PCI_MMCFG_RESERVED("PHYSDEVOP_pci_mmcfg_reserved"): u32 = 24;
    /// Tells of a PCI device. Argument: [`PhysdevPciDeviceAdd`].
    PHYSDEVOP_PCI_DEVICE_ADD("PHYSDEVOP_pci_device_add"): u32 = 25;
    /// Tells that one is gone. Argument: [`PhysdevPciDevice`].
    PHYSDEVOP_PCI_DEVICE_REMOVE("PHYSDEVOP_pci_device_remove"): u32 = 26;
    /// Writes a device's MSI registers again. Argument: [`PhysdevPciDevice`].
    PHYSDEVOP_RESTORE_MSI_EXT("PHYSDEVOP_restore_msi_ext"): u32 = 27;
    /// Like version 1, but an EOI does not unmask. Argument: [`PhysdevPirqEoiGmfn`].
    PHYSDEVOP_PIRQ_EOI_GMFN_V2("PHYSDEVOP_pirq_eoi_gmfn_v2"): u32 = 28;
    /// A USB debug port is about to be reset, or was. Argument: [`PhysdevDbgpOp`].
    PHYSDEVOP_DBGP_OP("PHYSDEVOP_dbgp_op"): u32 = 29;
    /// An MSI-X device's memory may move from now on. Argument: [`PhysdevPciDevice`].
    PHYSDEVOP_PREPARE_MSIX("PHYSDEVOP_prepare_msix"): u32 = 30;
    /// It stays where it is. Argument: [`PhysdevPciDevice`].
    PHYSDEVOP_RELEASE_MSIX("PHYSDEVOP_release_msix"): u32 = 31;

    /// Status bit: the interrupt needs an EOI.
    XENIRQSTAT_NEEDS_EOI("XENIRQSTAT_needs_eoi"): u32 = 1 << 0;
    /// Status bit: other domains have bound it too.
    XENIRQSTAT_SHARED("XENIRQSTAT_shared"): u32 = 1 << 1;

    /// An MSI of segment 0.
    MAP_PIRQ_TYPE_MSI: i32 = 0;
    /// A global system interrupt.
    MAP_PIRQ_TYPE_GSI: i32 = 1;
    /// To be found out (old callers).
    MAP_PIRQ_TYPE_UNKNOWN: i32 = 2;
    /// An MSI; the segment is in bits 31:16 of `bus`.
    MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;
    /// A block of MSIs; the segment is in bits 31:16 of `bus`.
    MAP_PIRQ_TYPE_MULTI_MSI: i32 = 4;

    /// The range is reserved in the firmware's tables.
    XEN_PCI_MMCFG_RESERVED: u32 = 1;
    /// The device is an extended function (ARI).
    XEN_PCI_DEV_EXTFN: u32 = 1;
    /// The device is a virtual function of `physfn`.
    XEN_PCI_DEV_VIRTFN: u32 = 2;
    /// The first optional word is the proximity domain.
    XEN_PCI_DEV_PXM: u32 = 4;

    /// Debug port: about to be reset.
    PHYSDEVOP_DBGP_RESET_PREPARE: u8 = 1;
    /// Debug port: was reset.
    PHYSDEVOP_DBGP_RESET_DONE: u8 = 2;
    /// Debug port: on no known bus.
    PHYSDEVOP_DBGP_BUS_UNKNOWN: u8 = 0;
    /// Debug port: a PCI device.
    PHYSDEVOP_DBGP_BUS_PCI: u8 = 1;
}

wire! {
    /// Argument of [`PHYSDEVOP_EOI`].
    pub struct PhysdevEoi("struct physdev_eoi", 4) {
        /// In: the interrupt (pirq).
        @0 irq: u32,
    }

    /// Argument of [`PHYSDEVOP_PIRQ_EOI_GMFN_V2`] and of version 1.
    pub struct PhysdevPirqEoiGmfn("struct physdev_pirq_eoi_gmfn", 8) {
        /// In: the frame of the bitmap.
        @0 gmfn: u64,
    }

    /// Argument of [`PHYSDEVOP_IRQ_STATUS_QUERY`].
    pub struct PhysdevIrqStatusQuery("struct physdev_irq_status_query", 8) {
        /// In: the interrupt (pirq).
        @0 irq: u32,
        /// Out: `XENIRQSTAT_*`.
        @4 flags: u32,
    }

    /// Argument of [`PHYSDEVOP_SET_IOPL`].
    pub struct PhysdevSetIopl("struct physdev_set_iopl", 4) {
        /// In: 0 to 3.
        @0 iopl: u32,
    }

    /// Argument of [`PHYSDEVOP_SET_IOBITMAP`].
    pub struct PhysdevSetIobitmap("struct physdev_set_iobitmap", 16) {
        /// In: one bit a port, set where it is forbidden; null forbids all.
        @0 bitmap: GuestHandle<u8>,
        /// In: bits of it; at most 65536.
        @8 nr_ports: u32,
        @12 _pad0(): u32,
    }

    /// Argument of [`PHYSDEVOP_APIC_READ`] and [`PHYSDEVOP_APIC_WRITE`].
    pub struct PhysdevApic("struct physdev_apic", 16) {
        /// In: physical address of the I/O APIC.
        @0 apic_physbase: u64,
        /// In: the register.
        @8 reg: u32,
        /// In or out: its value.
        @12 value: u32,
    }

    /// Argument of [`PHYSDEVOP_ALLOC_IRQ_VECTOR`] and [`PHYSDEVOP_FREE_IRQ_VECTOR`].
    pub struct PhysdevIrq("struct physdev_irq", 8) {
        /// In: the interrupt.
        @0 irq: u32,
        /// In or out: the vector as the I/O APIC entry is to name it.
        @4 vector: u32,
    }

    /// Argument of [`PHYSDEVOP_MAP_PIRQ`].
    pub struct PhysdevMapPirq("struct physdev_map_pirq", 40) {
        /// In: the domain that gets the interrupt.
        @0 domid: u16,
        @2 _pad0(): u16,
        /// In: one of `MAP_PIRQ_TYPE_*`.
        @4 type_("type"): i32,
        /// In: the GSI; ignored for blocks of MSIs.
        @8 index: i32,
        /// In: the number wanted, or negative; out: the number.
        @12 pirq: i32,
        /// In: PCI bus; see the type for the segment.
        @16 bus: i32,
        /// In: PCI device and function.
        @20 devfn: i32,
        /// In: which MSI-X entry, or how many MSIs; out: how many would have been possible.
        @24 entry_nr: i32,
        @28 _pad1(): u32,
        /// In: physical address of the MSI-X table; 0 for MSI.
        @32 table_base: u64,
    }

    /// Argument of [`PHYSDEVOP_UNMAP_PIRQ`].
    pub struct PhysdevUnmapPirq("struct physdev_unmap_pirq", 8) {
        /// In: the domain.
        @0 domid: u16,
        @2 _pad0(): u16,
        /// In: its interrupt.
        @4 pirq: i32,
    }

    /// Argument of [`PHYSDEVOP_MANAGE_PCI_ADD`] and [`PHYSDEVOP_MANAGE_PCI_REMOVE`].
    pub struct PhysdevManagePci("struct physdev_manage_pci", 2) {
        /// In: PCI bus.
        @0 bus: u8,
        /// In: device and function.
        @1 devfn: u8,
    }

    /// Argument of [`PHYSDEVOP_RESTORE_MSI`].
    pub struct PhysdevRestoreMsi("struct physdev_restore_msi", 2) {
        /// In: PCI bus.
        @0 bus: u8,
        /// In: device and function.
        @1 devfn: u8,
    }

    /// Argument of [`PHYSDEVOP_MANAGE_PCI_ADD_EXT`].
    pub struct PhysdevManagePciExt("struct physdev_manage_pci_ext", 16) {
        /// In: PCI bus.
        @0 bus: u8,
        /// In: device and function.
        @1 devfn: u8,
        @2 _pad0(): u16,
        /// In: non-zero for an extended function.
        @4 is_extfn: u32,
        /// In: non-zero for a virtual function.
        @8 is_virtfn: u32,
        /// In: bus of the physical function.
        @12 physfn_bus("physfn.bus"): u8,
        /// In: device and function of it.
        @13 physfn_devfn("physfn.devfn"): u8,
        @14 _pad1(): u16,
    }

    /// Argument of the old hypercall `physdev_op_compat` (before interface version 3.2.2), which has the command
    /// inside.
    pub struct PhysdevOp("struct physdev_op", 24) {
        /// One of the commands up to [`PHYSDEVOP_FREE_IRQ_VECTOR`].
        @0 cmd: u32,
        @4 _pad0(): u32,
        /// The command's argument.
        @8 u: [u64; 2],
    }

    /// Argument of [`PHYSDEVOP_SETUP_GSI`].
    pub struct PhysdevSetupGsi("struct physdev_setup_gsi", 8) {
        /// In: the interrupt.
        @0 gsi: i32,
        /// In: 0 edge, 1 level.
        @4 triggering: u8,
        /// In: 0 active high, 1 active low.
        @5 polarity: u8,
        @6 _pad0(): u16,
    }

    /// Argument of [`PHYSDEVOP_GET_FREE_PIRQ`].
    pub struct PhysdevGetFreePirq("struct physdev_get_free_pirq", 8) {
        /// In: `MAP_PIRQ_TYPE_GSI` or `MAP_PIRQ_TYPE_MSI`.
        @0 type_("type"): i32,
        /// Out: the number.
        @4 pirq: u32,
    }

    /// Argument of [`PHYSDEVOP_PCI_MMCFG_RESERVED`].
    pub struct PhysdevPciMmcfgReserved("struct physdev_pci_mmcfg_reserved", 16) {
        /// In: physical address of bus 0.
        @0 address: u64,
        /// In: PCI segment.
        @8 segment: u16,
        /// In: first bus.
        @10 start_bus: u8,
        /// In: last bus.
        @11 end_bus: u8,
        /// In: `XEN_PCI_MMCFG_RESERVED` or 0.
        @12 flags: u32,
    }

    /// Argument of [`PHYSDEVOP_PCI_DEVICE_ADD`]; optional 32-bit words follow.
    pub struct PhysdevPciDeviceAdd("struct physdev_pci_device_add", 12) {
        /// In: PCI segment.
        @0 seg: u16,
        /// In: bus.
        @2 bus: u8,
        /// In: device and function.
        @3 devfn: u8,
        /// In: `XEN_PCI_DEV_*`.
        @4 flags: u32,
        /// In: bus of the physical function.
        @8 physfn_bus("physfn.bus"): u8,
        /// In: device and function of it.
        @9 physfn_devfn("physfn.devfn"): u8,
        @10 _pad0(): u16,
    }

    /// A PCI device's address.
    pub struct PhysdevPciDevice("struct physdev_pci_device", 4) {
        /// Segment.
        @0 seg: u16,
        /// Bus.
        @2 bus: u8,
        /// Device and function.
        @3 devfn: u8,
    }

    /// Argument of [`PHYSDEVOP_DBGP_OP`].
    pub struct PhysdevDbgpOp("struct physdev_dbgp_op", 6) {
        /// In: `PHYSDEVOP_DBGP_RESET_*`.
        @0 op: u8,
        /// In: `PHYSDEVOP_DBGP_BUS_*`.
        @1 bus: u8,
        /// In: the device.
        @2 pci("u.pci"): PhysdevPciDevice,
    }
}

abi_module! { "physdev.h": consts, wire }
