//! Payloads that give devices, interrupts, ports and device memory to a domain.

use crate::GuestHandle;

consts! {
    /// `dev`: a PCI function.
    XEN_DOMCTL_DEV_PCI: u32 = 0;
    /// `dev`: a node of the device tree (Arm).
    XEN_DOMCTL_DEV_DT: u32 = 1;
    /// `flags`: reserved regions that cannot be mapped are no error.
    XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;
    /// `irq_type`: a PCI line.
    PT_IRQ_TYPE_PCI: u32 = 0;
    /// `irq_type`: an ISA line.
    PT_IRQ_TYPE_ISA: u32 = 1;
    /// `irq_type`: MSI or MSI-X.
    PT_IRQ_TYPE_MSI: u32 = 2;
    /// `irq_type`: obsolete.
    PT_IRQ_TYPE_MSI_TRANSLATE: u32 = 3;
    /// `irq_type`: a shared interrupt (Arm).
    PT_IRQ_TYPE_SPI: u32 = 4;
    /// `gflags`: destination.
    XEN_DOMCTL_VMSI_X86_DEST_ID_MASK: u32 = 0x0000ff;
    /// `gflags`: redirection hint.
    XEN_DOMCTL_VMSI_X86_RH_MASK: u32 = 0x000100;
    /// `gflags`: logical destination.
    XEN_DOMCTL_VMSI_X86_DM_MASK: u32 = 0x000200;
    /// `gflags`: delivery mode.
    XEN_DOMCTL_VMSI_X86_DELIV_MASK: u32 = 0x007000;
    /// `gflags`: level-triggered.
    XEN_DOMCTL_VMSI_X86_TRIG_MASK: u32 = 0x008000;
    /// `gflags`: unmask at once.
    XEN_DOMCTL_VMSI_X86_UNMASKED: u32 = 0x010000;
    /// `add_mapping`: add.
    DPCI_ADD_MAPPING: u32 = 1;
    /// `add_mapping`: remove.
    DPCI_REMOVE_MAPPING: u32 = 0;

    /// Uncacheable.
    XEN_DOMCTL_MEM_CACHEATTR_UC: u32 = 0;
    /// Write-combining.
    XEN_DOMCTL_MEM_CACHEATTR_WC: u32 = 1;
    /// Write-through.
    XEN_DOMCTL_MEM_CACHEATTR_WT: u32 = 4;
    /// Write-protected.
    XEN_DOMCTL_MEM_CACHEATTR_WP: u32 = 5;
    /// Write-back.
    XEN_DOMCTL_MEM_CACHEATTR_WB: u32 = 6;
    /// Uncacheable unless the MTRRs say write-combining.
    XEN_DOMCTL_MEM_CACHEATTR_UCM: u32 = 7;
    /// Removes the range instead.
    XEN_DOMCTL_DELETE_MEM_CACHEATTR: u32 = 0xffff_ffff;
}

wire! {
    /// Payload of `XEN_DOMCTL_irq_permission`.
    pub struct XenDomctlIrqPermission("struct xen_domctl_irq_permission", 8) {
        /// Which pirq of the caller.
        @0 pirq: u32,
        /// 1 allows, 0 denies.
        @4 allow_access: u8,
        /// Zero.
        @5 pad: [u8; 3],
    }

    /// Payload of `XEN_DOMCTL_iomem_permission`.
    pub struct XenDomctlIomemPermission("struct xen_domctl_iomem_permission", 24) {
        /// First machine frame.
        @0 first_mfn: u64,
        /// Number of frames, at least 1.
        @8 nr_mfns: u64,
        /// 1 allows, 0 denies.
        @16 allow_access: u8,
        @17 _pad0(): [u8; 7],
    }

    /// Payload of `XEN_DOMCTL_ioport_permission`.
    pub struct XenDomctlIoportPermission("struct xen_domctl_ioport_permission", 12) {
        /// First port.
        @0 first_port: u32,
        /// Number of ports.
        @4 nr_ports: u32,
        /// 1 allows, 0 denies.
        @8 allow_access: u8,
        @9 _pad0(): [u8; 3],
    }

    /// A PCI function.
    pub struct XenDomctlAssignDevicePci("__typeof__(((struct xen_domctl_assign_device *)0)->u.pci)", 4) {
        /// Segment in bits 31:16, bus in 15:8, device in 7:3, function in 2:0.
        @0 machine_sbdf: u32,
    }

    /// A node of the device tree.
    pub struct XenDomctlAssignDeviceDt("__typeof__(((struct xen_domctl_assign_device *)0)->u.dt)", 16) {
        /// Bytes of the path.
        @0 size: u32,
        @4 _pad0(): u32,
        /// The path.
        @8 path: GuestHandle<u8>,
    }

    /// Payload of `XEN_DOMCTL_assign_device`, `XEN_DOMCTL_test_assign_device` and
    /// `XEN_DOMCTL_deassign_device`.
    #[repr(align(8))]
    pub struct XenDomctlAssignDevice("struct xen_domctl_assign_device", 24) {
        /// Kind of device (`XEN_DOMCTL_DEV_*`).
        @0 dev: u32,
        /// [`XEN_DOMCTL_DEV_RDM_RELAXED`], when assigning.
        @4 flags: u32,
        /// [`XenDomctlAssignDevicePci`] or [`XenDomctlAssignDeviceDt`].
        @8 u: [u8; 16],
    }

    /// Payload of `XEN_DOMCTL_get_device_group`.
    pub struct XenDomctlGetDeviceGroup("struct xen_domctl_get_device_group", 24) {
        /// A PCI function.
        @0 machine_sbdf: u32,
        /// Entries of `sdev_array`.
        @4 max_sdevs: u32,
        /// Out: entries filled in.
        @8 num_sdevs: u32,
        @12 _pad0(): u32,
        /// Out: the functions of its group.
        @16 sdev_array: GuestHandle<u32>,
    }

    /// Guest side of an interrupt: ISA.
    pub struct XenDomctlBindPtIrqIsa("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.isa)", 1) {
        /// ISA interrupt.
        @0 isa_irq: u8,
    }

    /// Guest side of an interrupt: PCI.
    pub struct XenDomctlBindPtIrqPci("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.pci)", 3) {
        /// PCI bus.
        @0 bus: u8,
        /// PCI device.
        @1 device: u8,
        /// Line: 0..=3.
        @2 intx: u8,
    }

    /// Guest side of an interrupt: MSI.
    pub struct XenDomctlBindPtIrqMsi("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.msi)", 16) {
        /// Vector.
        @0 gvec: u8,
        @1 _pad0(): [u8; 3],
        /// `XEN_DOMCTL_VMSI_X86_*`.
        @4 gflags: u32,
        /// Guest-physical address of the MSI-X table; 0 for MSI.
        @8 gtable: u64,
    }

    /// Guest side of an interrupt: shared interrupt of Arm.
    pub struct XenDomctlBindPtIrqSpi("__typeof__(((struct xen_domctl_bind_pt_irq *)0)->u.spi)", 2) {
        /// Which one.
        @0 spi: u16,
    }

    /// Payload of `XEN_DOMCTL_bind_pt_irq` and `XEN_DOMCTL_unbind_pt_irq`.
    #[repr(align(8))]
    pub struct XenDomctlBindPtIrq("struct xen_domctl_bind_pt_irq", 24) {
        /// pirq of the domain.
        @0 machine_irq: u32,
        /// Kind of interrupt in the guest (`PT_IRQ_TYPE_*`).
        @4 irq_type: u32,
        /// [`XenDomctlBindPtIrqIsa`], [`XenDomctlBindPtIrqPci`], [`XenDomctlBindPtIrqMsi`] or
        /// [`XenDomctlBindPtIrqSpi`].
        @8 u: [u8; 16],
    }

    /// Payload of `XEN_DOMCTL_memory_mapping`. A positive answer is the number of frames done; `-E2BIG` asks
    /// for smaller pieces.
    pub struct XenDomctlMemoryMapping("struct xen_domctl_memory_mapping", 32) {
        /// First guest frame.
        @0 first_gfn: u64,
        /// First machine frame.
        @8 first_mfn: u64,
        /// Number of frames, at least 1.
        @16 nr_mfns: u64,
        /// `DPCI_*`.
        @24 add_mapping: u32,
        /// Zero.
        @28 padding: u32,
    }

    /// Payload of `XEN_DOMCTL_ioport_mapping`.
    pub struct XenDomctlIoportMapping("struct xen_domctl_ioport_mapping", 16) {
        /// First port in the guest.
        @0 first_gport: u32,
        /// First port of the machine.
        @4 first_mport: u32,
        /// Number of ports.
        @8 nr_ports: u32,
        /// `DPCI_*`.
        @12 add_mapping: u32,
    }
}

abi_module! { "domctl.h": consts, wire }
