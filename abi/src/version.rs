//! `version.h`: the commands of `xen_version(cmd, arg)`.

consts! {
    /// Returns the version, major in bits 31:16, minor in 15:0. No argument.
    XENVER_VERSION("XENVER_version"): u32 = 0;
    /// The rest of the version as text. Argument: [`XenExtraversion`].
    XENVER_EXTRAVERSION("XENVER_extraversion"): u32 = 1;
    /// Who built it, when, with what. Argument: [`XenCompileInfo`].
    XENVER_COMPILE_INFO("XENVER_compile_info"): u32 = 2;
    /// The kinds of guests it can run, as text. Argument: [`XenCapabilitiesInfo`].
    XENVER_CAPABILITIES("XENVER_capabilities"): u32 = 3;
    /// The source revision, as text. Argument: [`XenChangesetInfo`].
    XENVER_CHANGESET("XENVER_changeset"): u32 = 4;
    /// Where the hypervisor begins. Argument: [`XenPlatformParameters`].
    XENVER_PLATFORM_PARAMETERS("XENVER_platform_parameters"): u32 = 5;
    /// The features of [`crate::features`]. Argument: [`XenFeatureInfo`].
    XENVER_GET_FEATURES("XENVER_get_features"): u32 = 6;
    /// Returns the page size. No argument.
    XENVER_PAGESIZE("XENVER_pagesize"): u32 = 7;
    /// The domain's UUID. Argument: [`crate::xen::XenDomainHandle`].
    XENVER_GUEST_HANDLE("XENVER_guest_handle"): u32 = 8;
    /// The hypervisor's command line. Argument: [`XenCommandline`].
    XENVER_COMMANDLINE("XENVER_commandline"): u32 = 9;
    /// The build id. Argument: [`XenBuildId`]; returns its length.
    XENVER_BUILD_ID("XENVER_build_id"): u32 = 10;

    /// Size of [`XenExtraversion`].
    XEN_EXTRAVERSION_LEN: usize = 16;
    /// Size of [`XenCapabilitiesInfo`].
    XEN_CAPABILITIES_INFO_LEN: usize = 1024;
    /// Size of [`XenChangesetInfo`].
    XEN_CHANGESET_INFO_LEN: usize = 64;
    /// Size of [`XenCommandline`].
    XEN_COMMANDLINE_LEN("sizeof(xen_commandline_t)"): usize = 1024;
}

/// Text, zero-terminated.
pub type XenExtraversion = [u8; XEN_EXTRAVERSION_LEN];
/// Text, zero-terminated.
pub type XenCapabilitiesInfo = [u8; XEN_CAPABILITIES_INFO_LEN];
/// Text, zero-terminated.
pub type XenChangesetInfo = [u8; XEN_CHANGESET_INFO_LEN];
/// Text, zero-terminated.
pub type XenCommandline = [u8; XEN_COMMANDLINE_LEN];

wire! {
    /// Argument of [`XENVER_COMPILE_INFO`]; each a zero-terminated text.
    pub struct XenCompileInfo("struct xen_compile_info", 144) {
        /// The compiler.
        @0 compiler: [u8; 64],
        /// The user.
        @64 compile_by: [u8; 16],
        /// The user's domain.
        @80 compile_domain: [u8; 32],
        /// The date.
        @112 compile_date: [u8; 32],
    }

    /// Argument of [`XENVER_PLATFORM_PARAMETERS`].
    pub struct XenPlatformParameters("struct xen_platform_parameters", 8) {
        /// First virtual address of the hypervisor.
        @0 virt_start: u64,
    }

    /// Argument of [`XENVER_GET_FEATURES`].
    pub struct XenFeatureInfo("struct xen_feature_info", 8) {
        /// In: which 32 features.
        @0 submap_idx: u32,
        /// Out: their bits.
        @4 submap: u32,
    }

    /// Argument of [`XENVER_BUILD_ID`]; `len` bytes follow.
    pub struct XenBuildId("struct xen_build_id", 4) {
        /// In: the size of the buffer that follows.
        @0 len: u32,
    }
}

abi_module! { "version.h": consts, wire }
