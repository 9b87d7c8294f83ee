//! `nmi.h`: the commands of `nmi_op(cmd, arg)` and the reasons of an NMI.

consts! {
    /// Sets the NMI entry of dom0's vCPU 0. Argument: [`XennmiCallback`].
    XENNMI_REGISTER_CALLBACK("XENNMI_register_callback"): u32 = 0;
    /// Removes it. No argument.
    XENNMI_UNREGISTER_CALLBACK("XENNMI_unregister_callback"): u32 = 1;

    /// Bit of `arch_shared_info.nmi_reason`: I/O check, port 0x61 bit 6.
    XEN_NMIREASON_IO_ERROR("XEN_NMIREASON_io_error"): u64 = 1 << 0;
    /// Bit: PCI system error, port 0x61 bit 7. (Called `parity_error` before interface version 4.3.)
    XEN_NMIREASON_PCI_SERR("XEN_NMIREASON_pci_serr"): u64 = 1 << 1;
    /// Bit: the hardware does not say.
    XEN_NMIREASON_UNKNOWN("XEN_NMIREASON_unknown"): u64 = 1 << 2;
}

wire! {
    /// Argument of [`XENNMI_REGISTER_CALLBACK`].
    pub struct XennmiCallback("struct xennmi_callback", 16) {
        /// The entry point.
        @0 handler_address: u64,
        @8 pad("pad"): u64,
    }
}

abi_module! { "nmi.h": consts, wire }
