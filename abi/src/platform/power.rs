//! Sleep states, and what ACPI says of the C and P states of a CPU.

use crate::GuestHandle;

consts! {
    /// Enters an ACPI sleep state. Argument: [`XenpfEnterAcpiSleep`].
    XENPF_ENTER_ACPI_SLEEP("XENPF_enter_acpi_sleep"): u32 = 51;
    /// Dom0 changed a CPU's frequency. Argument: [`XenpfChangeFreq`].
    XENPF_CHANGE_FREQ("XENPF_change_freq"): u32 = 52;
    /// Passes ACPI's objects of a CPU on. Argument: [`XenpfSetProcessorPminfo`].
    XENPF_SET_PROCESSOR_PMINFO("XENPF_set_processor_pminfo"): u32 = 54;

    /// Hardware-reduced ACPI: the values are sleep types.
    XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;

    /// The hypervisor drives C states.
    XEN_PROCESSOR_PM_CX: u32 = 1;
    /// It drives P states.
    XEN_PROCESSOR_PM_PX: u32 = 2;
    /// It drives T states.
    XEN_PROCESSOR_PM_TX: u32 = 4;
    /// Type of information: C states ([`XenProcessorPower`]).
    XEN_PM_CX: u32 = 0;
    /// Type of information: P states ([`XenProcessorPerformance`]).
    XEN_PM_PX: u32 = 1;
    /// Type of information: T states (not used).
    XEN_PM_TX: u32 = 2;
    /// Type of information: the capabilities that `_PDC` is to report (a guest handle of words).
    XEN_PM_PDC: u32 = 3;
    /// P state information has `_PCT`.
    XEN_PX_PCT: u32 = 1;
    /// It has `_PSS`.
    XEN_PX_PSS: u32 = 2;
    /// It has `_PPC`.
    XEN_PX_PPC: u32 = 4;
    /// It has `_PSD`.
    XEN_PX_PSD: u32 = 8;
    /// Hardware coordinates the CPUs of a domain.
    XEN_CPUPERF_SHARED_TYPE_HW: u32 = 1;
    /// All CPUs of a domain must be set.
    XEN_CPUPERF_SHARED_TYPE_ALL: u32 = 2;
    /// Any CPU of a domain may be set.
    XEN_CPUPERF_SHARED_TYPE_ANY: u32 = 3;

    /// `flags` of [`XenProcessorPower`]: bus-master control.
    XEN_PROCESSOR_FLAG_BM_CONTROL(!"a bit-field member"): u32 = 1 << 0;
    /// Bus-master check.
    XEN_PROCESSOR_FLAG_BM_CHECK(!"a bit-field member"): u32 = 1 << 1;
    /// ACPI has `_CST`.
    XEN_PROCESSOR_FLAG_HAS_CST(!"a bit-field member"): u32 = 1 << 2;
    /// The power set-up is done.
    XEN_PROCESSOR_FLAG_POWER_SETUP_DONE(!"a bit-field member"): u32 = 1 << 3;
    /// Bus-master reload is set.
    XEN_PROCESSOR_FLAG_BM_RLD_SET(!"a bit-field member"): u32 = 1 << 4;
}

wire! {
    /// Argument of [`XENPF_ENTER_ACPI_SLEEP`]. Before interface version 4.3 the values were called
    /// `pm1a_cnt_val` and `pm1b_cnt_val`.
    pub struct XenpfEnterAcpiSleep("struct xenpf_enter_acpi_sleep", 12) {
        /// In: PM1a control, or sleep type A.
        @0 val_a: u16,
        /// In: PM1b control, or sleep type B.
        @2 val_b: u16,
        /// In: *n* of S*n*.
        @4 sleep_state: u32,
        /// In: `XENPF_ACPI_SLEEP_*`.
        @8 flags: u32,
    }

    /// Argument of [`XENPF_CHANGE_FREQ`].
    pub struct XenpfChangeFreq("struct xenpf_change_freq", 16) {
        /// In: zero.
        @0 flags: u32,
        /// In: the CPU.
        @4 cpu: u32,
        /// In: Hz.
        @8 freq: u64,
    }

    /// An ACPI generic address.
    pub struct XenPowerRegister("struct xen_power_register", 24) {
        /// Address space.
        @0 space_id: u32,
        /// Bits.
        @4 bit_width: u32,
        /// First bit.
        @8 bit_offset: u32,
        /// Access size.
        @12 access_size: u32,
        /// Address.
        @16 address: u64,
    }

    /// C states that CPUs share.
    pub struct XenProcessorCsd("struct xen_processor_csd", 12) {
        /// The group.
        @0 domain: u32,
        /// How it is coordinated.
        @4 coord_type: u32,
        /// CPUs in it.
        @8 num: u32,
    }

    /// One C state.
    pub struct XenProcessorCx("struct xen_processor_cx", 48) {
        /// The register that enters it.
        @0 reg: XenPowerRegister,
        /// *n* of C*n*.
        @24 type_("type"): u8,
        @25 _pad0(): [u8; 3],
        /// Worst latency.
        @28 latency: u32,
        /// Average power in mW.
        @32 power: u32,
        /// Dependencies.
        @36 dpcnt: u32,
        /// The dependencies, or null.
        @40 dp: GuestHandle<XenProcessorCsd>,
    }

    /// [`XenpfSetProcessorPminfo::u`] of C states.
    pub struct XenProcessorPower("struct xen_processor_power", 16) {
        /// States.
        @0 count: u32,
        /// `XEN_PROCESSOR_FLAG_*`.
        @4 flags: u32,
        /// The states.
        @8 states: GuestHandle<XenProcessorCx>,
    }

    /// An ACPI register as `_PCT` has it.
    pub struct XenPctRegister("struct xen_pct_register", 16) {
        /// Descriptor.
        @0 descriptor: u8,
        @1 _pad0(): u8,
        /// Length.
        @2 length: u16,
        /// Address space.
        @4 space_id: u8,
        /// Bits.
        @5 bit_width: u8,
        /// First bit.
        @6 bit_offset: u8,
        @7 reserved("reserved"): u8,
        /// Address.
        @8 address: u64,
    }

    /// One P state.
    pub struct XenProcessorPx("struct xen_processor_px", 48) {
        /// MHz.
        @0 core_frequency: u64,
        /// mW.
        @8 power: u64,
        /// Microseconds.
        @16 transition_latency: u64,
        /// Microseconds.
        @24 bus_master_latency: u64,
        /// What to write.
        @32 control: u64,
        /// What to read then.
        @40 status: u64,
    }

    /// ACPI's `_PSD`.
    pub struct XenPsdPackage("struct xen_psd_package", 40) {
        /// Entries.
        @0 num_entries: u64,
        /// Revision.
        @8 revision: u64,
        /// The group.
        @16 domain: u64,
        /// How it is coordinated.
        @24 coord_type: u64,
        /// CPUs in it.
        @32 num_processors: u64,
    }

    /// [`XenpfSetProcessorPminfo::u`] of P states.
    pub struct XenProcessorPerformance("struct xen_processor_performance", 104) {
        /// `XEN_PX_*`: what is filled in.
        @0 flags: u32,
        /// Highest state that the platform allows now.
        @4 platform_limit: u32,
        /// Where to write.
        @8 control_register: XenPctRegister,
        /// Where to read.
        @24 status_register: XenPctRegister,
        /// States.
        @40 state_count: u32,
        @44 _pad0(): u32,
        /// The states.
        @48 states: GuestHandle<XenProcessorPx>,
        /// The group.
        @56 domain_info: XenPsdPackage,
        /// `XEN_CPUPERF_SHARED_TYPE_*`.
        @96 shared_type: u32,
        @100 _pad1(): u32,
    }

    /// Argument of [`XENPF_SET_PROCESSOR_PMINFO`].
    pub struct XenpfSetProcessorPminfo("struct xenpf_set_processor_pminfo", 112) {
        /// In: ACPI processor id.
        @0 id: u32,
        /// In: `XEN_PM_*`.
        @4 type_("type"): u32,
        /// In: [`XenProcessorPower`], [`XenProcessorPerformance`] or a handle of words, by type.
        @8 u: [u64; 13],
    }
}

abi_module! { "platform.h": consts, wire }
