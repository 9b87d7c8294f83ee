//! Physical CPUs and memory: idle time, on-line and off-line, hot-add, parking.

use crate::GuestHandle;

consts! {
    /// Family, model and stepping of a CPU. Argument: [`XenpfPcpuVersion`].
    XENPF_GET_CPU_VERSION("XENPF_get_cpu_version"): u32 = 48;
    /// Idle times. Argument: [`XenpfGetidletime`].
    XENPF_GETIDLETIME("XENPF_getidletime"): u32 = 53;
    /// What a CPU is called and whether it runs. Argument: [`XenpfPcpuinfo`].
    XENPF_GET_CPUINFO("XENPF_get_cpuinfo"): u32 = 55;
    /// Brings a CPU on-line. Argument: [`XenpfCpuOl`].
    XENPF_CPU_ONLINE("XENPF_cpu_online"): u32 = 56;
    /// Takes a CPU off-line. Argument: [`XenpfCpuOl`].
    XENPF_CPU_OFFLINE("XENPF_cpu_offline"): u32 = 57;
    /// Tells of a CPU that was plugged in. Argument: [`XenpfCpuHotadd`].
    XENPF_CPU_HOTADD("XENPF_cpu_hotadd"): u32 = 58;
    /// Tells of memory that was plugged in. Argument: [`XenpfMemHotadd`].
    XENPF_MEM_HOTADD("XENPF_mem_hotadd"): u32 = 59;
    /// Parks CPUs to save power. Argument: [`XenpfCoreParking`].
    XENPF_CORE_PARKING("XENPF_core_parking"): u32 = 60;

    /// The CPU runs.
    XEN_PCPU_FLAGS_ONLINE: u32 = 1;
    /// There is no such CPU.
    XEN_PCPU_FLAGS_INVALID: u32 = 2;

    /// Park this many.
    XEN_CORE_PARKING_SET: u32 = 1;
    /// How many are parked?
    XEN_CORE_PARKING_GET: u32 = 2;
}

wire! {
    /// Argument of [`XENPF_GETIDLETIME`].
    pub struct XenpfGetidletime("struct xenpf_getidletime", 32) {
        /// In: the CPUs, a bit each; out: those that exist.
        @0 cpumap_bitmap: GuestHandle<u8>,
        /// In: bits.
        @8 cpumap_nr_cpus: u32,
        @12 _pad0(): u32,
        /// Out: by CPU number, nanoseconds idle since boot.
        @16 idletime: GuestHandle<u64>,
        /// Out: system time of the snapshot.
        @24 now: u64,
    }

    /// Argument of [`XENPF_GET_CPUINFO`].
    pub struct XenpfPcpuinfo("struct xenpf_pcpuinfo", 20) {
        /// In: the CPU.
        @0 xen_cpuid: u32,
        /// Out: the highest CPU that is present.
        @4 max_present: u32,
        /// Out: `XEN_PCPU_FLAGS_*`.
        @8 flags: u32,
        /// Out: its APIC id.
        @12 apic_id: u32,
        /// Out: its ACPI processor id.
        @16 acpi_id: u32,
    }

    /// Argument of [`XENPF_GET_CPU_VERSION`].
    pub struct XenpfPcpuVersion("struct xenpf_pcpu_version", 32) {
        /// In: the CPU.
        @0 xen_cpuid: u32,
        /// Out: the highest CPU that is present.
        @4 max_present: u32,
        /// Out: vendor, as CPUID leaf 0 has it.
        @8 vendor_id: [u8; 12],
        /// Out: family.
        @20 family: u32,
        /// Out: model.
        @24 model: u32,
        /// Out: stepping.
        @28 stepping: u32,
    }

    /// Argument of [`XENPF_CPU_ONLINE`] and [`XENPF_CPU_OFFLINE`].
    pub struct XenpfCpuOl("struct xenpf_cpu_ol", 4) {
        /// In: the CPU.
        @0 cpuid: u32,
    }

    /// Argument of [`XENPF_CPU_HOTADD`].
    pub struct XenpfCpuHotadd("struct xenpf_cpu_hotadd", 12) {
        /// In: APIC id.
        @0 apic_id: u32,
        /// In: ACPI processor id.
        @4 acpi_id: u32,
        /// In: proximity domain.
        @8 pxm: u32,
    }

    /// Argument of [`XENPF_MEM_HOTADD`].
    pub struct XenpfMemHotadd("struct xenpf_mem_hotadd", 24) {
        /// In: first frame.
        @0 spfn: u64,
        /// In: end.
        @8 epfn: u64,
        /// In: proximity domain.
        @16 pxm: u32,
        /// In: zero.
        @20 flags: u32,
    }

    /// Argument of [`XENPF_CORE_PARKING`].
    pub struct XenpfCoreParking("struct xenpf_core_parking", 8) {
        /// In: `XEN_CORE_PARKING_*`.
        @0 type_("type"): u32,
        /// In or out: how many.
        @4 idle_nums: u32,
    }
}

abi_module! { "platform.h": consts, wire }
