//! Payloads that describe the machine: memory, CPUs, topology, CPUID policies.

use crate::GuestHandle;
use crate::arch_x86::{XenCpuidLeaf, XenMsrEntry};
use crate::domctl::XenDomctlGetdomaininfo;
use crate::physdev::PhysdevPciDevice;

consts! {
    /// `capabilities`: hardware guests.
    XEN_SYSCTL_PHYSCAP_HVM("XEN_SYSCTL_PHYSCAP_hvm"): u32 = 0x1;
    /// `capabilities`: PV guests.
    XEN_SYSCTL_PHYSCAP_PV("XEN_SYSCTL_PHYSCAP_pv"): u32 = 0x2;
    /// `capabilities`: devices can be passed through (IOMMU).
    XEN_SYSCTL_PHYSCAP_DIRECTIO("XEN_SYSCTL_PHYSCAP_directio"): u32 = 0x4;
    /// `capabilities`: nested paging.
    XEN_SYSCTL_PHYSCAP_HAP("XEN_SYSCTL_PHYSCAP_hap"): u32 = 0x8;
    /// `capabilities`: shadow page tables.
    XEN_SYSCTL_PHYSCAP_SHADOW("XEN_SYSCTL_PHYSCAP_shadow"): u32 = 0x10;
    /// `capabilities`: IOMMU and nested paging can share page tables.
    XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE("XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share"): u32 = 0x20;
    /// `capabilities`: processor trace.
    XEN_SYSCTL_PHYSCAP_VMTRACE("XEN_SYSCTL_PHYSCAP_vmtrace"): u32 = 0x40;
    /// `capabilities`: virtual performance counters.
    XEN_SYSCTL_PHYSCAP_VPMU("XEN_SYSCTL_PHYSCAP_vpmu"): u32 = 0x80;
    /// `capabilities`: grant tables of version 1.
    XEN_SYSCTL_PHYSCAP_GNTTAB_V1("XEN_SYSCTL_PHYSCAP_gnttab_v1"): u32 = 0x100;
    /// `capabilities`: grant tables of version 2.
    XEN_SYSCTL_PHYSCAP_GNTTAB_V2("XEN_SYSCTL_PHYSCAP_gnttab_v2"): u32 = 0x200;
    /// Highest capability.
    XEN_SYSCTL_PHYSCAP_MAX: u32 = 0x200;
    /// No such core (the CPU is absent).
    XEN_INVALID_CORE_ID: u32 = 0xffff_ffff;
    /// No such socket.
    XEN_INVALID_SOCKET_ID: u32 = 0xffff_ffff;
    /// No such node, or unknown.
    XEN_INVALID_NODE_ID: u32 = 0xffff_ffff;
    /// The node has no memory.
    XEN_INVALID_MEM_SZ: u32 = 0xffff_ffff;
    /// The distance is unknown.
    XEN_INVALID_NODE_DIST: u32 = 0xffff_ffff;
    /// The device is unknown.
    XEN_INVALID_DEV: u32 = 0xffff_fffe;
    /// `op`: bring a CPU online.
    XEN_SYSCTL_CPU_HOTPLUG_ONLINE: u32 = 0;
    /// `op`: take a CPU offline.
    XEN_SYSCTL_CPU_HOTPLUG_OFFLINE: u32 = 1;
    /// `op`: all secondary threads online.
    XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE: u32 = 2;
    /// `op`: all secondary threads offline.
    XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE: u32 = 3;

    /// CPUID can be made to fault.
    XEN_SYSCTL_CPU_LEVELCAP_FAULTING("XEN_SYSCTL_CPU_LEVELCAP_faulting"): u32 = 0x1;
    /// Leaf 1 ECX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_ECX("XEN_SYSCTL_CPU_LEVELCAP_ecx"): u32 = 0x2;
    /// Leaf 1 EDX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_EDX("XEN_SYSCTL_CPU_LEVELCAP_edx"): u32 = 0x4;
    /// Leaf 0x80000001 ECX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_EXTD_ECX("XEN_SYSCTL_CPU_LEVELCAP_extd_ecx"): u32 = 0x8;
    /// Leaf 0x80000001 EDX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_EXTD_EDX("XEN_SYSCTL_CPU_LEVELCAP_extd_edx"): u32 = 0x10;
    /// Leaf 0xd subleaf 1 EAX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_XSAVE_EAX("XEN_SYSCTL_CPU_LEVELCAP_xsave_eax"): u32 = 0x20;
    /// Leaf 6 ECX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_THERMAL_ECX("XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx"): u32 = 0x40;
    /// Leaf 7 EAX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_L7S0_EAX("XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax"): u32 = 0x80;
    /// Leaf 7 EBX can be masked.
    XEN_SYSCTL_CPU_LEVELCAP_L7S0_EBX("XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx"): u32 = 0x100;
    /// `index`: what the hardware says.
    XEN_SYSCTL_CPU_FEATURESET_RAW("XEN_SYSCTL_cpu_featureset_raw"): u32 = 0;
    /// `index`: what the hypervisor uses.
    XEN_SYSCTL_CPU_FEATURESET_HOST("XEN_SYSCTL_cpu_featureset_host"): u32 = 1;
    /// `index`: default of PV guests.
    XEN_SYSCTL_CPU_FEATURESET_PV("XEN_SYSCTL_cpu_featureset_pv"): u32 = 2;
    /// `index`: default of hardware guests.
    XEN_SYSCTL_CPU_FEATURESET_HVM("XEN_SYSCTL_cpu_featureset_hvm"): u32 = 3;
    /// `index`: most that a PV guest can have.
    XEN_SYSCTL_CPU_FEATURESET_PV_MAX("XEN_SYSCTL_cpu_featureset_pv_max"): u32 = 4;
    /// `index`: most that a hardware guest can have.
    XEN_SYSCTL_CPU_FEATURESET_HVM_MAX("XEN_SYSCTL_cpu_featureset_hvm_max"): u32 = 5;
    /// `index`: what the hardware says.
    XEN_SYSCTL_CPU_POLICY_RAW("XEN_SYSCTL_cpu_policy_raw"): u32 = 0;
    /// `index`: what the hypervisor uses.
    XEN_SYSCTL_CPU_POLICY_HOST("XEN_SYSCTL_cpu_policy_host"): u32 = 1;
    /// `index`: most that a PV guest can have.
    XEN_SYSCTL_CPU_POLICY_PV_MAX("XEN_SYSCTL_cpu_policy_pv_max"): u32 = 2;
    /// `index`: most that a hardware guest can have.
    XEN_SYSCTL_CPU_POLICY_HVM_MAX("XEN_SYSCTL_cpu_policy_hvm_max"): u32 = 3;
    /// `index`: default of PV guests.
    XEN_SYSCTL_CPU_POLICY_PV_DEFAULT("XEN_SYSCTL_cpu_policy_pv_default"): u32 = 4;
    /// `index`: default of hardware guests.
    XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT("XEN_SYSCTL_cpu_policy_hvm_default"): u32 = 5;
}

wire! {
    /// Payload of `XEN_SYSCTL_physinfo`. All fields are out.
    pub struct XenSysctlPhysinfo("struct xen_sysctl_physinfo", 112) {
        /// Threads per core.
        @0 threads_per_core: u32,
        /// Cores per socket.
        @4 cores_per_socket: u32,
        /// CPUs online.
        @8 nr_cpus: u32,
        /// Highest possible CPU id.
        @12 max_cpu_id: u32,
        /// NUMA nodes online.
        @16 nr_nodes: u32,
        /// Highest possible node id.
        @20 max_node_id: u32,
        /// CPU frequency, kHz.
        @24 cpu_khz: u32,
        /// `XEN_SYSCTL_PHYSCAP_*`.
        @28 capabilities: u32,
        /// Capabilities of the architecture; none on x86.
        @32 arch_capabilities: u32,
        /// Zero.
        @36 pad: u32,
        /// Pages of memory.
        @40 total_pages: u64,
        /// Free pages.
        @48 free_pages: u64,
        /// Free pages that are still to be cleared.
        @56 scrub_pages: u64,
        /// Pages claimed by domains but not yet allocated.
        @64 outstanding_pages: u64,
        /// Highest possible machine frame.
        @72 max_mfn: u64,
        /// First feature words of CPUID.
        @80 hw_cap: [u32; 8],
    }

    /// Payload of `XEN_SYSCTL_getdomaininfolist`.
    pub struct XenSysctlGetdomaininfolist("struct xen_sysctl_getdomaininfolist", 24) {
        /// Lowest domain id wanted.
        @0 first_domain: u16,
        @2 _pad0(): u16,
        /// Entries of `buffer`.
        @4 max_domains: u32,
        /// Out: descriptions.
        @8 buffer: GuestHandle<XenDomctlGetdomaininfo>,
        /// Out: how many.
        @16 num_domains: u32,
        @20 _pad1(): u32,
    }

    /// Idle time of a CPU.
    pub struct XenSysctlCpuinfo("struct xen_sysctl_cpuinfo", 8) {
        /// Nanoseconds.
        @0 idletime: u64,
    }

    /// Payload of `XEN_SYSCTL_getcpuinfo`.
    pub struct XenSysctlGetcpuinfo("struct xen_sysctl_getcpuinfo", 24) {
        /// Entries of `info`.
        @0 max_cpus: u32,
        @4 _pad0(): u32,
        /// Out: idle times.
        @8 info: GuestHandle<XenSysctlCpuinfo>,
        /// Out: how many.
        @16 nr_cpus: u32,
        @20 _pad1(): u32,
    }

    /// Payload of `XEN_SYSCTL_availheap`.
    pub struct XenSysctlAvailheap("struct xen_sysctl_availheap", 24) {
        /// Fewest address bits of interest; 0 for any.
        @0 min_bitwidth: u32,
        /// Most address bits of interest; 0 for any.
        @4 max_bitwidth: u32,
        /// NUMA node; -1 for all.
        @8 node: i32,
        @12 _pad0(): u32,
        /// Out: free bytes.
        @16 avail_bytes: u64,
    }

    /// Payload of `XEN_SYSCTL_cpu_hotplug`.
    pub struct XenSysctlCpuHotplug("struct xen_sysctl_cpu_hotplug", 8) {
        /// Which CPU; ignored for all threads.
        @0 cpu: u32,
        /// `XEN_SYSCTL_CPU_HOTPLUG_*`.
        @4 op: u32,
    }

    /// Where a CPU is.
    pub struct XenSysctlCputopo("struct xen_sysctl_cputopo", 12) {
        /// Core, or [`XEN_INVALID_CORE_ID`].
        @0 core: u32,
        /// Socket, or [`XEN_INVALID_SOCKET_ID`].
        @4 socket: u32,
        /// NUMA node, or [`XEN_INVALID_NODE_ID`].
        @8 node: u32,
    }

    /// Payload of `XEN_SYSCTL_cputopoinfo`.
    pub struct XenSysctlCputopoinfo("struct xen_sysctl_cputopoinfo", 16) {
        /// Entries of `cputopo`; out: entries filled in, or needed.
        @0 num_cpus: u32,
        @4 _pad0(): u32,
        /// Out: the CPUs; null to ask for the number.
        @8 cputopo: GuestHandle<XenSysctlCputopo>,
    }

    /// Memory of a NUMA node.
    pub struct XenSysctlMeminfo("struct xen_sysctl_meminfo", 16) {
        /// Bytes, or [`XEN_INVALID_MEM_SZ`].
        @0 memsize: u64,
        /// Free bytes.
        @8 memfree: u64,
    }

    /// Payload of `XEN_SYSCTL_numainfo`.
    pub struct XenSysctlNumainfo("struct xen_sysctl_numainfo", 24) {
        /// Entries of `meminfo`; out: entries filled in, or needed.
        @0 num_nodes: u32,
        @4 _pad0(): u32,
        /// Out: the nodes; null where not wanted.
        @8 meminfo: GuestHandle<XenSysctlMeminfo>,
        /// Out: distance of nodes i and j at `i * num_nodes + j` (the returned number); null where not
        /// wanted.
        @16 distance: GuestHandle<u32>,
    }

    /// Payload of `XEN_SYSCTL_pcitopoinfo`.
    pub struct XenSysctlPcitopoinfo("struct xen_sysctl_pcitopoinfo", 24) {
        /// Entries of both arrays; out: entries processed.
        @0 num_devs: u32,
        @4 _pad0(): u32,
        /// Which devices.
        @8 devs: GuestHandle<PhysdevPciDevice>,
        /// Out: their nodes, [`XEN_INVALID_NODE_ID`] or [`XEN_INVALID_DEV`].
        @16 nodes: GuestHandle<u32>,
    }

    /// Payload of `XEN_SYSCTL_get_cpu_levelling_caps`.
    pub struct XenSysctlCpuLevellingCaps("struct xen_sysctl_cpu_levelling_caps", 4) {
        /// Out: `XEN_SYSCTL_CPU_LEVELCAP_*`.
        @0 caps: u32,
    }

    /// Payload of `XEN_SYSCTL_get_cpu_featureset`.
    pub struct XenSysctlCpuFeatureset("struct xen_sysctl_cpu_featureset", 16) {
        /// Which set (`XEN_SYSCTL_CPU_FEATURESET_*`).
        @0 index: u32,
        /// Entries of `features`; out: entries filled in, or needed.
        @4 nr_features: u32,
        /// Out: the words; null to ask for the number.
        @8 features: GuestHandle<u32>,
    }

    /// Payload of `XEN_SYSCTL_get_cpu_policy`.
    pub struct XenSysctlCpuPolicy("struct xen_sysctl_cpu_policy", 32) {
        /// Which policy (`XEN_SYSCTL_CPU_POLICY_*`).
        @0 index: u32,
        /// Entries of `leaves`; out: entries filled in, or needed.
        @4 nr_leaves: u32,
        /// Entries of `msrs`; out: entries filled in, or needed.
        @8 nr_msrs: u32,
        /// Zero.
        @12 _rsvd("_rsvd"): u32,
        /// Out: CPUID leaves; null to ask for the number.
        @16 leaves: GuestHandle<XenCpuidLeaf>,
        /// Out: MSRs; null to ask for the number.
        @24 msrs: GuestHandle<XenMsrEntry>,
    }
}

abi_module! { "sysctl.h": consts, wire }
