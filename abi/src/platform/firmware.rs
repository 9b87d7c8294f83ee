//! What the firmware said before the hypervisor took over, and calls of EFI's runtime services.

use crate::GuestHandle;

consts! {
    /// Calls an EFI runtime service. Argument: [`XenpfEfiRuntimeCall`].
    XENPF_EFI_RUNTIME_CALL("XENPF_efi_runtime_call"): u32 = 49;
    /// Asks for what the firmware said. Argument: [`XenpfFirmwareInfo`].
    XENPF_FIRMWARE_INFO("XENPF_firmware_info"): u32 = 50;

    /// Reads the clock ([`XenpfEfiGetTime`]).
    XEN_EFI_GET_TIME("XEN_EFI_get_time"): u32 = 1;
    /// Sets it ([`XenpfEfiTime`]).
    XEN_EFI_SET_TIME("XEN_EFI_set_time"): u32 = 2;
    /// Reads the alarm ([`XenpfEfiTime`]).
    XEN_EFI_GET_WAKEUP_TIME("XEN_EFI_get_wakeup_time"): u32 = 3;
    /// Sets it ([`XenpfEfiTime`]).
    XEN_EFI_SET_WAKEUP_TIME("XEN_EFI_set_wakeup_time"): u32 = 4;
    /// Counts up; the result is in `misc`.
    XEN_EFI_GET_NEXT_HIGH_MONOTONIC_COUNT("XEN_EFI_get_next_high_monotonic_count"): u32 = 5;
    /// Reads a variable ([`XenpfEfiVariable`]).
    XEN_EFI_GET_VARIABLE("XEN_EFI_get_variable"): u32 = 6;
    /// Writes one ([`XenpfEfiVariable`]).
    XEN_EFI_SET_VARIABLE("XEN_EFI_set_variable"): u32 = 7;
    /// Lists them ([`XenpfEfiNextVariableName`]).
    XEN_EFI_GET_NEXT_VARIABLE_NAME("XEN_EFI_get_next_variable_name"): u32 = 8;
    /// Asks how much room they have ([`XenpfEfiVariableInfo`]).
    XEN_EFI_QUERY_VARIABLE_INFO("XEN_EFI_query_variable_info"): u32 = 9;
    /// Asks what capsules are possible ([`XenpfEfiCapsuleCapabilities`]).
    XEN_EFI_QUERY_CAPSULE_CAPABILITIES("XEN_EFI_query_capsule_capabilities"): u32 = 10;
    /// Passes capsules on ([`XenpfEfiUpdateCapsule`]).
    XEN_EFI_UPDATE_CAPSULE("XEN_EFI_update_capsule"): u32 = 11;
    /// `misc` of get-time: setting the clock clears the nanoseconds.
    XEN_EFI_GET_TIME_SET_CLEARS_NS: u32 = 1;
    /// `misc` of get-wakeup-time: it is enabled.
    XEN_EFI_GET_WAKEUP_TIME_ENABLED: u32 = 1;
    /// `misc` of get-wakeup-time: it has fired.
    XEN_EFI_GET_WAKEUP_TIME_PENDING: u32 = 2;
    /// `misc` of set-wakeup-time: enable it.
    XEN_EFI_SET_WAKEUP_TIME_ENABLE: u32 = 1;
    /// `misc` of set-wakeup-time: keep the time.
    XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY: u32 = 2;
    /// `misc` of variables: survives power-off.
    XEN_EFI_VARIABLE_NON_VOLATILE: u32 = 1;
    /// `misc` of variables: visible to boot services.
    XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS: u32 = 2;
    /// `misc` of variables: visible at run time.
    XEN_EFI_VARIABLE_RUNTIME_ACCESS: u32 = 4;
    /// `misc` of query-variable-info: answer what was true at boot.
    XEN_EFI_VARINFO_BOOT_SNAPSHOT: u32 = 1;

    /// A BIOS disk ([`XenpfFwDiskInfo`]).
    XEN_FW_DISK_INFO: u32 = 1;
    /// Its MBR signature ([`XenpfFwDiskMbrSignature`]).
    XEN_FW_DISK_MBR_SIGNATURE: u32 = 2;
    /// The monitor ([`XenpfFwVbeddcInfo`]).
    XEN_FW_VBEDDC_INFO: u32 = 3;
    /// EFI; the index is one of `XEN_FW_EFI_*`.
    XEN_FW_EFI_INFO: u32 = 4;
    /// Keyboard shift state, one byte.
    XEN_FW_KBD_SHIFT_FLAGS: u32 = 5;
    /// EFI: its version, one word.
    XEN_FW_EFI_VERSION: u32 = 0;
    /// EFI: the configuration table ([`XenpfFwEfiConfig`]).
    XEN_FW_EFI_CONFIG_TABLE: u32 = 1;
    /// EFI: the vendor ([`XenpfFwEfiVendor`]).
    XEN_FW_EFI_VENDOR: u32 = 2;
    /// EFI: the memory range of an address ([`XenpfFwEfiMem`]).
    XEN_FW_EFI_MEM_INFO: u32 = 3;
    /// EFI: version of the runtime services, one word.
    XEN_FW_EFI_RT_VERSION: u32 = 4;
    /// EFI: a PCI option ROM ([`XenpfFwEfiPciRom`]).
    XEN_FW_EFI_PCI_ROM: u32 = 5;
    /// EFI: Apple's properties ([`XenpfFwEfiAppleProperties`]).
    XEN_FW_EFI_APPLE_PROPERTIES: u32 = 6;
}

wire! {
    /// EFI's time.
    pub struct XenpfEfiTime("struct xenpf_efi_time", 16) {
        /// Year.
        @0 year: u16,
        /// Month, 1 to 12.
        @2 month: u8,
        /// Day, 1 to 31.
        @3 day: u8,
        /// Hour.
        @4 hour: u8,
        /// Minute.
        @5 min: u8,
        /// Second.
        @6 sec: u8,
        @7 _pad0(): u8,
        /// Nanosecond.
        @8 ns: u32,
        /// Minutes from UTC; 0x7ff is local time.
        @12 tz: i16,
        /// Daylight saving flags.
        @14 daylight: u8,
        @15 _pad1(): u8,
    }

    /// EFI's GUID.
    pub struct XenpfEfiGuid("struct xenpf_efi_guid", 16) {
        /// First part.
        @0 data1: u32,
        /// Second part.
        @4 data2: u16,
        /// Third part.
        @6 data3: u16,
        /// The rest.
        @8 data4: [u8; 8],
    }

    /// Argument of [`XENPF_EFI_RUNTIME_CALL`].
    pub struct XenpfEfiRuntimeCall("struct xenpf_efi_runtime_call", 56) {
        /// In: the service.
        @0 function: u32,
        /// In and out: the service's flags; of the counter its value.
        @4 misc: u32,
        /// Out: EFI's status.
        @8 status: u64,
        /// The service's own, in its first bytes.
        @16 u: [u64; 5],
    }

    /// [`XenpfEfiRuntimeCall::u`] of get-time.
    pub struct XenpfEfiGetTime("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_time)", 24) {
        /// The time.
        @0 time: XenpfEfiTime,
        /// Ticks per second.
        @16 resolution: u32,
        /// Error in parts per million, times a million.
        @20 accuracy: u32,
    }

    /// [`XenpfEfiRuntimeCall::u`] of get-variable and set-variable.
    pub struct XenpfEfiVariable("__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_variable)", 40) {
        /// Name, UCS-2.
        @0 name: GuestHandle<u16>,
        /// Bytes of data.
        @8 size: u64,
        /// The data.
        @16 data: GuestHandle<u8>,
        /// Whose.
        @24 vendor_guid: XenpfEfiGuid,
    }

    /// [`XenpfEfiRuntimeCall::u`] of get-next-variable-name.
    pub struct XenpfEfiNextVariableName(
        "__typeof__(((struct xenpf_efi_runtime_call *)0)->u.get_next_variable_name)", 32
    ) {
        /// Bytes of the buffer.
        @0 size: u64,
        /// The last name, then the next.
        @8 name: GuestHandle<u16>,
        /// Whose.
        @16 vendor_guid: XenpfEfiGuid,
    }

    /// [`XenpfEfiRuntimeCall::u`] of query-variable-info.
    pub struct XenpfEfiVariableInfo(
        "__typeof__(((struct xenpf_efi_runtime_call *)0)->u.query_variable_info)", 32
    ) {
        /// `XEN_EFI_VARIABLE_*`.
        @0 attr: u32,
        @4 _pad0(): u32,
        /// Bytes of the store.
        @8 max_store_size: u64,
        /// Bytes left.
        @16 remain_store_size: u64,
        /// Bytes of the largest variable.
        @24 max_size: u64,
    }

    /// [`XenpfEfiRuntimeCall::u`] of query-capsule-capabilities.
    pub struct XenpfEfiCapsuleCapabilities(
        "__typeof__(((struct xenpf_efi_runtime_call *)0)->u.query_capsule_capabilities)", 32
    ) {
        /// Headers.
        @0 capsule_header_array: GuestHandle<u8>,
        /// Their number.
        @8 capsule_count: u64,
        /// Largest capsule.
        @16 max_capsule_size: u64,
        /// The reset that it takes.
        @24 reset_type: u32,
        @28 _pad0(): u32,
    }

    /// [`XenpfEfiRuntimeCall::u`] of update-capsule.
    pub struct XenpfEfiUpdateCapsule(
        "__typeof__(((struct xenpf_efi_runtime_call *)0)->u.update_capsule)", 24
    ) {
        /// Headers.
        @0 capsule_header_array: GuestHandle<u8>,
        /// Their number.
        @8 capsule_count: u64,
        /// Machine address of the scatter list.
        @16 sg_list: u64,
    }

    /// Argument of [`XENPF_FIRMWARE_INFO`].
    pub struct XenpfFirmwareInfo("struct xenpf_firmware_info", 40) {
        /// In: `XEN_FW_*`.
        @0 type_("type"): u32,
        /// In: which one; of EFI `XEN_FW_EFI_*`.
        @4 index: u32,
        /// Out: the type's own, in its first bytes.
        @8 u: [u64; 4],
    }

    /// [`XenpfFirmwareInfo::u`] of a disk.
    pub struct XenpfFwDiskInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.disk_info)", 16) {
        /// BIOS device number.
        @0 device: u8,
        /// Version of the extensions.
        @1 version: u8,
        /// What they support.
        @2 interface_support: u16,
        /// Geometry: highest cylinder.
        @4 legacy_max_cylinder: u16,
        /// Geometry: highest head.
        @6 legacy_max_head: u8,
        /// Geometry: sectors per track.
        @7 legacy_sectors_per_track: u8,
        /// In: where the parameters go; begins with its size, 16 bits.
        @8 edd_params: GuestHandle<u8>,
    }

    /// [`XenpfFirmwareInfo::u`] of an MBR signature.
    pub struct XenpfFwDiskMbrSignature(
        "__typeof__(((struct xenpf_firmware_info *)0)->u.disk_mbr_signature)", 8
    ) {
        /// BIOS device number.
        @0 device: u8,
        @1 _pad0(): [u8; 3],
        /// The signature.
        @4 mbr_signature: u32,
    }

    /// [`XenpfFirmwareInfo::u`] of the monitor.
    pub struct XenpfFwVbeddcInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.vbeddc_info)", 16) {
        /// What the display channel can do.
        @0 capabilities: u8,
        /// Seconds for a block.
        @1 edid_transfer_time: u8,
        @2 _pad0(): [u16; 3],
        /// In: where 128 bytes of EDID go.
        @8 edid: GuestHandle<u8>,
    }

    /// [`XenpfFirmwareInfo::u`] of EFI's configuration table.
    pub struct XenpfFwEfiConfig("__typeof__(((union xenpf_efi_info *)0)->cfg)", 16) {
        /// Its address.
        @0 addr: u64,
        /// Its entries.
        @8 nent: u32,
        @12 _pad0(): u32,
    }

    /// [`XenpfFirmwareInfo::u`] of EFI's vendor.
    pub struct XenpfFwEfiVendor("__typeof__(((union xenpf_efi_info *)0)->vendor)", 16) {
        /// Revision.
        @0 revision: u32,
        /// In: bytes of the buffer.
        @4 bufsz: u32,
        /// In: where the name goes, UCS-2.
        @8 name: GuestHandle<u16>,
    }

    /// [`XenpfFirmwareInfo::u`] of a memory range.
    pub struct XenpfFwEfiMem("__typeof__(((union xenpf_efi_info *)0)->mem)", 32) {
        /// In: an address; out: the range's start.
        @0 addr: u64,
        /// Bytes.
        @8 size: u64,
        /// EFI's attributes.
        @16 attr: u64,
        /// EFI's type.
        @24 type_("type"): u32,
        @28 _pad0(): u32,
    }

    /// [`XenpfFirmwareInfo::u`] of an option ROM.
    pub struct XenpfFwEfiPciRom("__typeof__(((union xenpf_efi_info *)0)->pci_rom)", 24) {
        /// In: PCI segment.
        @0 segment: u16,
        /// In: bus.
        @2 bus: u8,
        /// In: device and function.
        @3 devfn: u8,
        /// In: vendor id.
        @4 vendor: u16,
        /// In: device id.
        @6 devid: u16,
        /// Out: address.
        @8 address: u64,
        /// Out: bytes.
        @16 size: u64,
    }

    /// [`XenpfFirmwareInfo::u`] of Apple's properties.
    pub struct XenpfFwEfiAppleProperties("__typeof__(((union xenpf_efi_info *)0)->apple_properties)", 16) {
        /// Out: address.
        @0 address: u64,
        /// Out: bytes.
        @8 size: u64,
    }
}

abi_module! { "platform.h": consts, wire }
