//! Names of the message ABIs that ring protocols negotiate in xenstore (`io/protocols.h`).
//!
//! A front end writes one of them to its `protocol` node; without the node the native ABI of the back end holds.

consts! {
    /// Layout rules of 32-bit x86 (8-byte fields aligned to 4).
    XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
    /// Layout rules of 64-bit x86.
    XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
    /// Layout rules of Arm.
    XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
    /// The ABI that the types of this crate follow.
    XEN_IO_PROTO_ABI_NATIVE: &str = "x86_64-abi";
}

abi_module! { "io/protocols.h": consts }
