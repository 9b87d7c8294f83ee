//! Payloads of live patching: upload a patch, wait until it is checked, apply it, ask for its state.

use crate::GuestHandle;

consts! {
    /// Version of the payload format.
    LIVEPATCH_PAYLOAD_VERSION: u32 = 2;
    /// `cmd`: upload a patch.
    XEN_SYSCTL_LIVEPATCH_UPLOAD: u32 = 0;
    /// `cmd`: state of a patch.
    XEN_SYSCTL_LIVEPATCH_GET: u32 = 1;
    /// `cmd`: list the patches.
    XEN_SYSCTL_LIVEPATCH_LIST: u32 = 2;
    /// `cmd`: do something with a patch.
    XEN_SYSCTL_LIVEPATCH_ACTION: u32 = 3;
    /// `state`: loaded, not applied.
    LIVEPATCH_STATE_CHECKED: u32 = 1;
    /// `state`: applied.
    LIVEPATCH_STATE_APPLIED: u32 = 2;
    /// `cmd` of an action: unload.
    LIVEPATCH_ACTION_UNLOAD: u32 = 1;
    /// `cmd` of an action: revert.
    LIVEPATCH_ACTION_REVERT: u32 = 2;
    /// `cmd` of an action: apply.
    LIVEPATCH_ACTION_APPLY: u32 = 3;
    /// `cmd` of an action: revert all others and apply.
    LIVEPATCH_ACTION_REPLACE: u32 = 4;
    /// `flags` of an action: check the hypervisor's build id only, not the chain of patches.
    LIVEPATCH_ACTION_APPLY_NODEPS: u32 = 0x1;

    /// Longest name, with NUL.
    XEN_LIVEPATCH_NAME_SIZE: usize = 128;
}

wire! {
    /// Name of a patch.
    pub struct XenLivepatchName("struct xen_livepatch_name", 16) {
        /// The characters, with NUL.
        @0 name: GuestHandle<u8>,
        /// How many.
        @8 size: u16,
        /// Zero.
        @10 pad: [u16; 3],
    }

    /// Payload of [`XEN_SYSCTL_LIVEPATCH_UPLOAD`].
    pub struct XenSysctlLivepatchUpload("struct xen_sysctl_livepatch_upload", 32) {
        /// Its name; must be new.
        @0 name: XenLivepatchName,
        /// Bytes of the ELF file.
        @16 size: u64,
        /// The ELF file.
        @24 payload: GuestHandle<u8>,
    }

    /// State of a patch.
    pub struct XenLivepatchStatus("struct xen_livepatch_status", 8) {
        /// Out: `LIVEPATCH_STATE_*`.
        @0 state: u32,
        /// Out: 0, or a negative errno; `-EAGAIN` while an action runs.
        @4 rc: i32,
    }

    /// Payload of [`XEN_SYSCTL_LIVEPATCH_GET`].
    pub struct XenSysctlLivepatchGet("struct xen_sysctl_livepatch_get", 24) {
        /// Which patch.
        @0 name: XenLivepatchName,
        /// Out: its state.
        @16 status: XenLivepatchStatus,
    }

    /// Payload of [`XEN_SYSCTL_LIVEPATCH_LIST`]. Where `version` changes between calls, start again.
    pub struct XenSysctlLivepatchList("struct xen_sysctl_livepatch_list", 64) {
        /// Out: changes with the list.
        @0 version: u32,
        /// First patch wanted.
        @4 idx: u32,
        /// Entries of the arrays; out: patches left.
        @8 nr: u32,
        /// Zero.
        @12 pad: u32,
        /// Out: bytes of all names.
        @16 name_total_size: u32,
        /// Out: bytes of all metadata.
        @20 metadata_total_size: u32,
        /// Out: states.
        @24 status: GuestHandle<XenLivepatchStatus>,
        /// Out: names, one after the other.
        @32 name: GuestHandle<u8>,
        /// Out: bytes of each name.
        @40 len: GuestHandle<u32>,
        /// Out: metadata, one after the other.
        @48 metadata: GuestHandle<u8>,
        /// Out: bytes of each metadata.
        @56 metadata_len: GuestHandle<u32>,
    }

    /// Payload of [`XEN_SYSCTL_LIVEPATCH_ACTION`].
    pub struct XenSysctlLivepatchAction("struct xen_sysctl_livepatch_action", 32) {
        /// Which patch.
        @0 name: XenLivepatchName,
        /// `LIVEPATCH_ACTION_*`.
        @16 cmd: u32,
        /// Longest time, nanoseconds; 0 for the default.
        @20 timeout: u32,
        /// [`LIVEPATCH_ACTION_APPLY_NODEPS`].
        @24 flags: u32,
        /// Zero.
        @28 pad: u32,
    }

    /// Payload of `XEN_SYSCTL_livepatch_op`.
    #[repr(align(8))]
    pub struct XenSysctlLivepatchOp("struct xen_sysctl_livepatch_op", 72) {
        /// `XEN_SYSCTL_LIVEPATCH_*`.
        @0 cmd: u32,
        /// Zero.
        @4 pad: u32,
        /// The command's payload.
        @8 u: [u8; 64],
    }
}

abi_module! { "sysctl.h": consts, wire }
