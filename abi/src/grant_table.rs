//! `grant_table.h`: grant entries and the commands of `grant_table_op(cmd, args, count)`.
//!
//! A domain lets others use its pages by entries in a table that it shares with the hypervisor; an index into the
//! table is a grant reference. To publish an entry the granter writes domain and frame, then (after a store
//! barrier) the flags. To take it back it swaps the flags for 0, provided that neither [`GTF_READING`] nor
//! [`GTF_WRITING`] is set. Version 1 entries hold 32-bit frames; version 2 has larger entries and moves the
//! "in use" flags to status words of their own.

use crate::GuestHandle;

/// An index into a grant table (`grant_ref_t`).
pub type GrantRef = u32;
/// The number of a mapping (`grant_handle_t`).
pub type GrantHandle = u32;
/// A status word of a version 2 table (`grant_status_t`): [`GTF_READING`] and [`GTF_WRITING`].
pub type GrantStatus = u16;

consts! {
    /// Entries that survive changes of the version and that a toolstack may fill in.
    GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
    /// The console ring's entry.
    GNTTAB_RESERVED_CONSOLE: u32 = 0;
    /// The xenstore ring's entry.
    GNTTAB_RESERVED_XENSTORE: u32 = 1;

    /// Entry type: none.
    GTF_INVALID("GTF_invalid"): u16 = 0;
    /// Entry type: the domain may use the frame.
    GTF_PERMIT_ACCESS("GTF_permit_access"): u16 = 1;
    /// Entry type: the domain may give us a frame.
    GTF_ACCEPT_TRANSFER("GTF_accept_transfer"): u16 = 2;
    /// Entry type: the domain may use a grant that a third one gave us (version 2; only to copy).
    GTF_TRANSITIVE("GTF_transitive"): u16 = 3;
    /// The bits of the type.
    GTF_TYPE_MASK("GTF_type_mask"): u16 = 3;
    /// Only reading is granted.
    GTF_READONLY("GTF_readonly"): u16 = 1 << 2;
    /// Set by the hypervisor: in use for reading.
    GTF_READING("GTF_reading"): u16 = 1 << 3;
    /// Set by the hypervisor: in use for writing.
    GTF_WRITING("GTF_writing"): u16 = 1 << 4;
    /// Cache attribute of mappings: write-through.
    GTF_PWT: u16 = 1 << 5;
    /// Cache attribute of mappings: uncached.
    GTF_PCD: u16 = 1 << 6;
    /// Cache attribute of mappings: the PAT bit.
    GTF_PAT: u16 = 1 << 7;
    /// Only a part of the page is granted (version 2; only to copy).
    GTF_SUB_PAGE("GTF_sub_page"): u16 = 1 << 8;
    /// Set by the hypervisor: a transfer has begun; hands off.
    GTF_TRANSFER_COMMITTED("GTF_transfer_committed"): u16 = 1 << 2;
    /// Set by the hypervisor: it is done; the frame is in the entry.
    GTF_TRANSFER_COMPLETED("GTF_transfer_completed"): u16 = 1 << 3;

    /// Maps grants. Argument: [`GnttabMapGrantRef`].
    GNTTABOP_MAP_GRANT_REF("GNTTABOP_map_grant_ref"): u32 = 0;
    /// Unmaps them. Argument: [`GnttabUnmapGrantRef`].
    GNTTABOP_UNMAP_GRANT_REF("GNTTABOP_unmap_grant_ref"): u32 = 1;
    /// Sizes the table and lists its frames. Argument: [`GnttabSetupTable`].
    GNTTABOP_SETUP_TABLE("GNTTABOP_setup_table"): u32 = 2;
    /// Prints the table. Argument: [`GnttabDumpTable`].
    GNTTABOP_DUMP_TABLE("GNTTABOP_dump_table"): u32 = 3;
    /// Gives pages away (PV). Argument: [`GnttabTransfer`].
    GNTTABOP_TRANSFER("GNTTABOP_transfer"): u32 = 4;
    /// Copies between frames and grants. Argument: [`GnttabCopy`].
    GNTTABOP_COPY("GNTTABOP_copy"): u32 = 5;
    /// Asks for the table's sizes. Argument: [`GnttabQuerySize`].
    GNTTABOP_QUERY_SIZE("GNTTABOP_query_size"): u32 = 6;
    /// Unmaps and moves another mapping to the place, atomically. Argument: [`GnttabUnmapAndReplace`].
    GNTTABOP_UNMAP_AND_REPLACE("GNTTABOP_unmap_and_replace"): u32 = 7;
    /// Changes the version. Argument: [`GnttabSetVersion`].
    GNTTABOP_SET_VERSION("GNTTABOP_set_version"): u32 = 8;
    /// Lists the frames of the status words. Argument: [`GnttabGetStatusFrames`].
    GNTTABOP_GET_STATUS_FRAMES("GNTTABOP_get_status_frames"): u32 = 9;
    /// Asks for the version. Argument: [`GnttabGetVersion`].
    GNTTABOP_GET_VERSION("GNTTABOP_get_version"): u32 = 10;
    /// Swaps two entries. Argument: [`GnttabSwapGrantRef`].
    GNTTABOP_SWAP_GRANT_REF("GNTTABOP_swap_grant_ref"): u32 = 11;
    /// Cleans or invalidates caches (Arm). Argument: [`GnttabCacheFlush`].
    GNTTABOP_CACHE_FLUSH("GNTTABOP_cache_flush"): u32 = 12;

    /// Copy: the source is a grant.
    GNTCOPY_SOURCE_GREF("GNTCOPY_source_gref"): u16 = 1 << 0;
    /// Copy: the destination is a grant.
    GNTCOPY_DEST_GREF("GNTCOPY_dest_gref"): u16 = 1 << 1;

    /// Cache flush: write back.
    GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
    /// Cache flush: invalidate.
    GNTTAB_CACHE_INVAL: u32 = 1 << 1;
    /// Cache flush: a grant reference is given instead of an address.
    GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

    /// Map for devices.
    GNTMAP_DEVICE_MAP("GNTMAP_device_map"): u32 = 1 << 0;
    /// Map for CPUs.
    GNTMAP_HOST_MAP("GNTMAP_host_map"): u32 = 1 << 1;
    /// Map read-only.
    GNTMAP_READONLY("GNTMAP_readonly"): u32 = 1 << 2;
    /// User mode may use the mapping too.
    GNTMAP_APPLICATION_MAP("GNTMAP_application_map"): u32 = 1 << 3;
    /// `host_addr` is the machine address of a page-table entry, not a virtual address.
    GNTMAP_CONTAINS_PTE("GNTMAP_contains_pte"): u32 = 1 << 4;
    /// Bits that go to the software bits of the page-table entry, from bit 16 on.
    GNTMAP_GUEST_AVAIL_MASK("GNTMAP_guest_avail_mask"): u32 = 0xffff_0000;

    /// Success.
    GNTST_OKAY("GNTST_okay"): i16 = 0;
    /// Failure of no particular kind.
    GNTST_GENERAL_ERROR("GNTST_general_error"): i16 = -1;
    /// No such domain.
    GNTST_BAD_DOMAIN("GNTST_bad_domain"): i16 = -2;
    /// No such grant, or not for this.
    GNTST_BAD_GNTREF("GNTST_bad_gntref"): i16 = -3;
    /// No such mapping.
    GNTST_BAD_HANDLE("GNTST_bad_handle"): i16 = -4;
    /// Nothing can be mapped at that address.
    GNTST_BAD_VIRT_ADDR("GNTST_bad_virt_addr"): i16 = -5;
    /// That device address is not mapped.
    GNTST_BAD_DEV_ADDR("GNTST_bad_dev_addr"): i16 = -6;
    /// The IOMMU has no room.
    GNTST_NO_DEVICE_SPACE("GNTST_no_device_space"): i16 = -7;
    /// Not allowed.
    GNTST_PERMISSION_DENIED("GNTST_permission_denied"): i16 = -8;
    /// The page cannot be used for this.
    GNTST_BAD_PAGE("GNTST_bad_page"): i16 = -9;
    /// A copy crosses the end of a page.
    GNTST_BAD_COPY_ARG("GNTST_bad_copy_arg"): i16 = -10;
    /// The frame number is too large.
    GNTST_ADDRESS_TOO_BIG("GNTST_address_too_big"): i16 = -11;
    /// Not done: try again.
    GNTST_EAGAIN("GNTST_eagain"): i16 = -12;
    /// No room (handles, ...).
    GNTST_NO_SPACE("GNTST_no_space"): i16 = -13;
}

wire! {
    /// A version 1 entry. Before interface version 3.2.10 it was the only one and had no version in its name.
    pub struct GrantEntryV1("struct grant_entry_v1", 8) [shared] {
        /// `GTF_*`; written by the granter, the "in use" bits by the hypervisor.
        @0 flags: u16,
        /// The domain that is granted something.
        @2 domid: u16,
        /// The frame that it may use; of a completed transfer the machine frame we got.
        @4 frame: u32,
    }

    /// What both versions begin with.
    pub struct GrantEntryHeader("struct grant_entry_header", 4) [shared] {
        /// `GTF_*`.
        @0 flags: u16,
        /// The domain that is granted something.
        @2 domid: u16,
    }

    /// A version 2 entry: one of the three forms that follow, by type and [`GTF_SUB_PAGE`].
    #[repr(align(8))]
    pub struct GrantEntryV2("union grant_entry_v2", 16) [shared] {
        /// The common part.
        @0 hdr: GrantEntryHeader,
        /// The form's own words.
        @4 body(!"the union's members overlap the header"): [u32; 3],
    }

    /// [`GrantEntryV2`] for a whole page.
    pub struct GrantEntryV2FullPage("__typeof__(((union grant_entry_v2 *)0)->full_page)", 16) [shared] {
        /// The common part.
        @0 hdr: GrantEntryHeader,
        @4 pad0("pad0"): u32,
        /// As in version 1.
        @8 frame: u64,
    }

    /// [`GrantEntryV2`] for a part of a page.
    pub struct GrantEntryV2SubPage("__typeof__(((union grant_entry_v2 *)0)->sub_page)", 16) [shared] {
        /// The common part.
        @0 hdr: GrantEntryHeader,
        /// First byte.
        @4 page_off: u16,
        /// Bytes.
        @6 length: u16,
        /// The frame.
        @8 frame: u64,
    }

    /// [`GrantEntryV2`] that passes a grant on.
    pub struct GrantEntryV2Transitive("__typeof__(((union grant_entry_v2 *)0)->transitive)", 12) [shared] {
        /// The common part.
        @0 hdr: GrantEntryHeader,
        /// The domain that granted it to us.
        @4 trans_domid: u16,
        @6 pad0("pad0"): u16,
        /// Its grant.
        @8 gref: u32,
    }

    /// Argument of [`GNTTABOP_MAP_GRANT_REF`].
    pub struct GnttabMapGrantRef("struct gnttab_map_grant_ref", 32) {
        /// In: where to map it: a virtual address, or by flag that of a page-table entry.
        @0 host_addr: u64,
        /// In: `GNTMAP_*`.
        @8 flags: u32,
        /// In: the grant.
        @12 ref_("ref"): u32,
        /// In: the granter.
        @16 dom: u16,
        /// Out: `GNTST_*`.
        @18 status: i16,
        /// Out: the mapping's number.
        @20 handle: u32,
        /// Out: the address for devices.
        @24 dev_bus_addr: u64,
    }

    /// Argument of [`GNTTABOP_UNMAP_GRANT_REF`].
    pub struct GnttabUnmapGrantRef("struct gnttab_unmap_grant_ref", 24) {
        /// In: where it was mapped for CPUs; 0 leaves that alone.
        @0 host_addr: u64,
        /// In: its address for devices; 0 leaves that alone.
        @8 dev_bus_addr: u64,
        /// In: the mapping.
        @16 handle: u32,
        /// Out: `GNTST_*`.
        @20 status: i16,
        @22 _pad0(): u16,
    }

    /// Argument of [`GNTTABOP_SETUP_TABLE`].
    pub struct GnttabSetupTable("struct gnttab_setup_table", 24) {
        /// In: the domain; `DOMID_SELF` unless privileged.
        @0 dom: u16,
        @2 _pad0(): u16,
        /// In: frames that the table is to have at least, and the length of the list.
        @4 nr_frames: u32,
        /// Out: `GNTST_*`.
        @8 status: i16,
        @10 _pad1(): [u16; 3],
        /// In: where the frames are written.
        @16 frame_list: GuestHandle<u64>,
    }

    /// Argument of [`GNTTABOP_DUMP_TABLE`].
    pub struct GnttabDumpTable("struct gnttab_dump_table", 4) {
        /// In: the domain.
        @0 dom: u16,
        /// Out: `GNTST_*`.
        @2 status: i16,
    }

    /// Argument of [`GNTTABOP_TRANSFER`]. Unless the answer is [`GNTST_BAD_PAGE`] the page is gone.
    pub struct GnttabTransfer("struct gnttab_transfer", 24) {
        /// In: the machine frame.
        @0 mfn: u64,
        /// In: the domain that gets it.
        @8 domid: u16,
        @10 _pad0(): u16,
        /// In: its entry that accepts a transfer.
        @12 ref_("ref"): u32,
        /// Out: `GNTST_*`.
        @16 status: i16,
        @18 _pad1(): [u16; 3],
    }

    /// One end of a copy.
    pub struct GnttabCopyPtr("struct gnttab_copy_ptr", 16) {
        /// A frame, or a grant reference in the low half.
        @0 u: u64,
        /// Whose.
        @8 domid: u16,
        /// First byte in the page.
        @10 offset: u16,
        @12 _pad0(): u32,
    }

    /// Argument of [`GNTTABOP_COPY`].
    pub struct GnttabCopy("struct gnttab_copy", 40) {
        /// In: from.
        @0 source: GnttabCopyPtr,
        /// In: to.
        @16 dest: GnttabCopyPtr,
        /// In: bytes.
        @32 len: u16,
        /// In: `GNTCOPY_*`.
        @34 flags: u16,
        /// Out: `GNTST_*`.
        @36 status: i16,
        @38 _pad0(): u16,
    }

    /// Argument of [`GNTTABOP_QUERY_SIZE`].
    pub struct GnttabQuerySize("struct gnttab_query_size", 16) {
        /// In: the domain; `DOMID_SELF` unless privileged.
        @0 dom: u16,
        @2 _pad0(): u16,
        /// Out: frames that it has.
        @4 nr_frames: u32,
        /// Out: frames that it may have.
        @8 max_nr_frames: u32,
        /// Out: `GNTST_*`.
        @12 status: i16,
        @14 _pad1(): u16,
    }

    /// Argument of [`GNTTABOP_UNMAP_AND_REPLACE`].
    pub struct GnttabUnmapAndReplace("struct gnttab_unmap_and_replace", 24) {
        /// In: where it was mapped.
        @0 host_addr: u64,
        /// In: the address whose mapping moves here.
        @8 new_addr: u64,
        /// In: the mapping.
        @16 handle: u32,
        /// Out: `GNTST_*`.
        @20 status: i16,
        @22 _pad0(): u16,
    }

    /// Argument of [`GNTTABOP_SET_VERSION`].
    pub struct GnttabSetVersion("struct gnttab_set_version", 4) {
        /// In: 1 or 2; out: the version in force.
        @0 version: u32,
    }

    /// Argument of [`GNTTABOP_GET_STATUS_FRAMES`].
    pub struct GnttabGetStatusFrames("struct gnttab_get_status_frames", 16) {
        /// In: length of the list.
        @0 nr_frames: u32,
        /// In: the domain; `DOMID_SELF` unless privileged.
        @4 dom: u16,
        /// Out: `GNTST_*`.
        @6 status: i16,
        /// In: where the frames are written.
        @8 frame_list: GuestHandle<u64>,
    }

    /// Argument of [`GNTTABOP_GET_VERSION`].
    pub struct GnttabGetVersion("struct gnttab_get_version", 8) {
        /// In: the domain.
        @0 dom: u16,
        @2 pad("pad"): u16,
        /// Out: 1 or 2.
        @4 version: u32,
    }

    /// Argument of [`GNTTABOP_SWAP_GRANT_REF`].
    pub struct GnttabSwapGrantRef("struct gnttab_swap_grant_ref", 12) {
        /// In: one.
        @0 ref_a: u32,
        /// In: the other.
        @4 ref_b: u32,
        /// Out: `GNTST_*`.
        @8 status: i16,
        @10 _pad0(): u16,
    }

    /// Argument of [`GNTTABOP_CACHE_FLUSH`].
    pub struct GnttabCacheFlush("struct gnttab_cache_flush", 16) {
        /// In: the address for devices, or the grant reference in the low half.
        @0 a: u64,
        /// In: first byte.
        @8 offset: u16,
        /// In: bytes.
        @10 length: u16,
        /// In: `GNTTAB_CACHE_*`.
        @12 op: u32,
    }
}

abi_module! { "grant_table.h": consts, wire }
