//! The PV PCI configuration-space protocol (`io/pciif.h`).
//!
//! Front and back end share one page with an [`XenPciSharedinfo`]: the front end fills `op`, sets the active flag and
//! notifies; the back end answers in place and clears the flag. Error-recovery events go the other way in `aer_op`.
//! The page is shared memory: use it through atomics at the documented offsets.

consts! {
    /// Protocol magic written to xenstore by both ends.
    XEN_PCI_MAGIC: &str = "7";

    /// `flags`: the front end has posted a request in `op`.
    XEN_PCIF_ACTIVE("XEN_PCIF_active"): u32 = 0x1;
    /// `flags`: the back end has an error-recovery handler waiting.
    XEN_PCIB_AERHANDLER: u32 = 0x2;
    /// `flags`: the back end has posted an event in `aer_op`.
    XEN_PCIB_ACTIVE("XEN_PCIB_active"): u32 = 0x4;

    /// Read configuration space.
    XEN_PCI_OP_CONF_READ("XEN_PCI_OP_conf_read"): u32 = 0;
    /// Write configuration space.
    XEN_PCI_OP_CONF_WRITE("XEN_PCI_OP_conf_write"): u32 = 1;
    /// Enable MSI; `value` returns the pirq.
    XEN_PCI_OP_ENABLE_MSI("XEN_PCI_OP_enable_msi"): u32 = 2;
    /// Disable MSI.
    XEN_PCI_OP_DISABLE_MSI("XEN_PCI_OP_disable_msi"): u32 = 3;
    /// Enable MSI-X for the entries of `msix_entries`.
    XEN_PCI_OP_ENABLE_MSIX("XEN_PCI_OP_enable_msix"): u32 = 4;
    /// Disable MSI-X.
    XEN_PCI_OP_DISABLE_MSIX("XEN_PCI_OP_disable_msix"): u32 = 5;
    /// To the front end: an error was detected.
    XEN_PCI_OP_AER_DETECTED("XEN_PCI_OP_aer_detected"): u32 = 6;
    /// To the front end: normal operation may resume.
    XEN_PCI_OP_AER_RESUME("XEN_PCI_OP_aer_resume"): u32 = 7;
    /// To the front end: memory-mapped I/O works again.
    XEN_PCI_OP_AER_MMIO("XEN_PCI_OP_aer_mmio"): u32 = 8;
    /// To the front end: the slot was reset.
    XEN_PCI_OP_AER_SLOTRESET("XEN_PCI_OP_aer_slotreset"): u32 = 9;
    /// Enable several MSI vectors.
    XEN_PCI_OP_ENABLE_MULTI_MSI("XEN_PCI_OP_enable_multi_msi"): u32 = 10;

    /// `err`: done.
    XEN_PCI_ERR_SUCCESS("XEN_PCI_ERR_success"): i32 = 0;
    /// `err`: no such device.
    XEN_PCI_ERR_DEV_NOT_FOUND("XEN_PCI_ERR_dev_not_found"): i32 = -1;
    /// `err`: bad register offset.
    XEN_PCI_ERR_INVALID_OFFSET("XEN_PCI_ERR_invalid_offset"): i32 = -2;
    /// `err`: not allowed.
    XEN_PCI_ERR_ACCESS_DENIED("XEN_PCI_ERR_access_denied"): i32 = -3;
    /// `err`: unknown command.
    XEN_PCI_ERR_NOT_IMPLEMENTED("XEN_PCI_ERR_not_implemented"): i32 = -4;
    /// `err`: the back end could not complete the operation.
    XEN_PCI_ERR_OP_FAILED("XEN_PCI_ERR_op_failed"): i32 = -5;

    /// Most MSI-X entries in one request.
    SH_INFO_MAX_VEC: usize = 128;
}

wire! {
    /// One MSI-X entry of a request.
    pub struct XenMsixEntry("struct xen_msix_entry", 4) {
        /// Out: the pirq given to this entry.
        @0 vector: u16,
        /// In: index in the device's MSI-X table.
        @2 entry: u16,
    }

    /// A configuration-space or interrupt request of the front end.
    pub struct XenPciOp("struct xen_pci_op", 548) {
        /// What to do (`XEN_PCI_OP_*`).
        @0 cmd: u32,
        /// Out: result (`XEN_PCI_ERR_*` or a negative errno).
        @4 err: i32,
        /// PCI segment as the front end sees it.
        @8 domain: u32,
        /// PCI bus as the front end sees it.
        @12 bus: u32,
        /// Device (bits 7:3) and function (bits 2:0).
        @16 devfn: u32,
        /// Register offset in configuration space, bytes.
        @20 offset: i32,
        /// Access width in bytes: 1, 2 or 4.
        @24 size: i32,
        /// In: value to write; out: value read, or result of enabling interrupts.
        @28 value: u32,
        /// Operation-dependent argument (number of MSI vectors or MSI-X entries).
        @32 info: u32,
        /// MSI-X entries to enable.
        @36 msix_entries: [XenMsixEntry; SH_INFO_MAX_VEC],
    }

    /// An error-recovery event of the back end.
    pub struct XenPcieAerOp("struct xen_pcie_aer_op", 20) {
        /// Which step (`XEN_PCI_OP_AER_*`).
        @0 cmd: u32,
        /// In: channel state for the detected step; out: the driver's verdict.
        @4 err: i32,
        /// PCI segment as the front end sees it.
        @8 domain: u32,
        /// PCI bus as the front end sees it.
        @12 bus: u32,
        /// Device (bits 7:3) and function (bits 2:0).
        @16 devfn: u32,
    }

    /// Layout of the page shared by both ends.
    pub struct XenPciSharedinfo("struct xen_pci_sharedinfo", 572) [shared] {
        /// Handshake bits (`XEN_PCIF_*`, `XEN_PCIB_*`).
        @0 flags: u32,
        /// Request of the front end.
        @4 op: XenPciOp,
        /// Event of the back end.
        @552 aer_op: XenPcieAerOp,
    }
}

abi_module! { "io/pciif.h": consts, wire }
