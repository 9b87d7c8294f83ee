//! `hvm/hvm_xs_strings.h`: xenstore keys that the firmware of a hardware guest reads.

consts! {
    /// Folder of the firmware.
    HVM_XS_HVMLOADER: &str = "hvmloader";
    /// Which BIOS to start.
    HVM_XS_BIOS: &str = "hvmloader/bios";
    /// Where the firmware put the VM generation id.
    HVM_XS_GENERATION_ID_ADDRESS: &str = "hvmloader/generation-id-address";
    /// Whether RAM may be moved to make room for devices.
    HVM_XS_ALLOW_MEMORY_RELOCATE: &str = "hvmloader/allow-memory-relocate";
    /// Guest-physical address of extra ACPI tables.
    HVM_XS_ACPI_PT_ADDRESS: &str = "hvmloader/acpi/address";
    /// Bytes of extra ACPI tables.
    HVM_XS_ACPI_PT_LENGTH: &str = "hvmloader/acpi/length";
    /// Guest-physical address of extra SMBIOS structures, each after its 32-bit length.
    HVM_XS_SMBIOS_PT_ADDRESS: &str = "hvmloader/smbios/address";
    /// Bytes of extra SMBIOS structures.
    HVM_XS_SMBIOS_PT_LENGTH: &str = "hvmloader/smbios/length";
    /// 1 for a default portable battery.
    HVM_XS_SMBIOS_DEFAULT_BATTERY: &str = "hvmloader/smbios/default_battery";
    /// Folder of the strings below.
    HVM_XS_BIOS_STRINGS: &str = "bios-strings";
    /// SMBIOS string: BIOS vendor.
    HVM_XS_BIOS_VENDOR: &str = "bios-strings/bios-vendor";
    /// SMBIOS string: BIOS version.
    HVM_XS_BIOS_VERSION: &str = "bios-strings/bios-version";
    /// SMBIOS string: system manufacturer.
    HVM_XS_SYSTEM_MANUFACTURER: &str = "bios-strings/system-manufacturer";
    /// SMBIOS string: system product.
    HVM_XS_SYSTEM_PRODUCT_NAME: &str = "bios-strings/system-product-name";
    /// SMBIOS string: system version.
    HVM_XS_SYSTEM_VERSION: &str = "bios-strings/system-version";
    /// SMBIOS string: system serial number.
    HVM_XS_SYSTEM_SERIAL_NUMBER: &str = "bios-strings/system-serial-number";
    /// SMBIOS string: board manufacturer.
    HVM_XS_BASEBOARD_MANUFACTURER: &str = "bios-strings/baseboard-manufacturer";
    /// SMBIOS string: board product.
    HVM_XS_BASEBOARD_PRODUCT_NAME: &str = "bios-strings/baseboard-product-name";
    /// SMBIOS string: board version.
    HVM_XS_BASEBOARD_VERSION: &str = "bios-strings/baseboard-version";
    /// SMBIOS string: board serial number.
    HVM_XS_BASEBOARD_SERIAL_NUMBER: &str = "bios-strings/baseboard-serial-number";
    /// SMBIOS string: board asset tag.
    HVM_XS_BASEBOARD_ASSET_TAG: &str = "bios-strings/baseboard-asset-tag";
    /// SMBIOS string: board location.
    HVM_XS_BASEBOARD_LOCATION_IN_CHASSIS: &str = "bios-strings/baseboard-location-in-chassis";
    /// SMBIOS string: enclosure manufacturer.
    HVM_XS_ENCLOSURE_MANUFACTURER: &str = "bios-strings/enclosure-manufacturer";
    /// SMBIOS string: enclosure serial number.
    HVM_XS_ENCLOSURE_SERIAL_NUMBER: &str = "bios-strings/enclosure-serial-number";
    /// SMBIOS string: enclosure asset tag.
    HVM_XS_ENCLOSURE_ASSET_TAG: &str = "bios-strings/enclosure-asset-tag";
    /// SMBIOS string: battery manufacturer.
    HVM_XS_BATTERY_MANUFACTURER: &str = "bios-strings/battery-manufacturer";
    /// SMBIOS string: battery name.
    HVM_XS_BATTERY_DEVICE_NAME: &str = "bios-strings/battery-device-name";
    /// SMBIOS OEM strings; `%d` counts from 1 to 99.
    HVM_XS_OEM_STRINGS: &str = "bios-strings/oem-%d";
}

abi_module! { "hvm/hvm_xs_strings.h": consts }
