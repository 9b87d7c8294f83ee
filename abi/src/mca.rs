//! `arch-x86/xen-mca.h`: machine checks: telemetry for dom0, and injection for tests, by `mca(op)`.
//!
//! A report ([`McInfo`]) is a sequence of records, each of which begins with [`McinfoCommon`]: a global one, one for
//! each bank, perhaps extended and recovery ones. Corrected errors raise [`VIRQ_MCA`].

use crate::GuestHandle;
use crate::xen::XenctlBitmap;

consts! {
    /// The version that every [`XenMc`] carries; another one is answered with `-EACCES`.
    XEN_MCA_INTERFACE_VERSION: u32 = 0x01ec_c003;
    /// Global, dom0: a machine check was recorded.
    VIRQ_MCA: u32 = crate::xen::VIRQ_ARCH_0;

    /// Takes a report. Argument: [`XenMcFetch`].
    XEN_MC_FETCH("XEN_MC_fetch"): u32 = 1;
    /// Passes one on to a domain. Argument: [`XenMcNotifydomain`].
    XEN_MC_NOTIFYDOMAIN("XEN_MC_notifydomain"): u32 = 2;
    /// Lists the CPUs. Argument: [`XenMcPhyscpuinfo`].
    XEN_MC_PHYSCPUINFO("XEN_MC_physcpuinfo"): u32 = 3;
    /// Fakes bank registers. Argument: [`XenMcMsrinject`].
    XEN_MC_MSRINJECT("XEN_MC_msrinject"): u32 = 4;
    /// Raises a machine check. Argument: [`XenMcMceinject`].
    XEN_MC_MCEINJECT("XEN_MC_mceinject"): u32 = 5;
    /// Raises machine checks on several CPUs. Argument: [`XenMcInjectV2`].
    XEN_MC_INJECT_V2("XEN_MC_inject_v2"): u32 = 6;

    /// Fetch: corrected errors.
    XEN_MC_NONURGENT: u32 = 1;
    /// Fetch: uncorrected ones.
    XEN_MC_URGENT: u32 = 2;
    /// Fetch: the report with the given id was handled.
    XEN_MC_ACK: u32 = 4;
    /// Answer: done.
    XEN_MC_OK: u32 = 0;
    /// Answer: the report could not be read.
    XEN_MC_FETCHFAILED: u32 = 1;
    /// Answer: there is none.
    XEN_MC_NODATA: u32 = 2;
    /// Answer: another error came in between.
    XEN_MC_NOMATCH: u32 = 4;
    /// Answer: the domain has no handler.
    XEN_MC_CANNOTHANDLE: u32 = 8;
    /// Answer: the domain was not reached.
    XEN_MC_NOTDELIVERED: u32 = 0x10;
    /// No vCPU.
    XEN_MC_VCPUID_INVALID: u16 = 0xffff;

    /// Record: the CPU and its domain ([`McinfoGlobal`]).
    MC_TYPE_GLOBAL: u16 = 0;
    /// Record: a bank ([`McinfoBank`]).
    MC_TYPE_BANK: u16 = 1;
    /// Record: further MSRs ([`McinfoExtended`]).
    MC_TYPE_EXTENDED: u16 = 2;
    /// Record: what was done about it ([`McinfoRecovery`]).
    MC_TYPE_RECOVERY: u16 = 3;
    /// The error was corrected.
    MC_FLAG_CORRECTABLE: u32 = 1 << 0;
    /// It was not.
    MC_FLAG_UNCORRECTABLE: u32 = 1 << 1;
    /// Software can recover.
    MC_FLAG_RECOVERABLE: u32 = 1 << 2;
    /// Found by polling.
    MC_FLAG_POLLED: u32 = 1 << 3;
    /// Found after a reset.
    MC_FLAG_RESET: u32 = 1 << 4;
    /// Found by the corrected-error interrupt.
    MC_FLAG_CMCI: u32 = 1 << 5;
    /// Found by the exception.
    MC_FLAG_MCE: u32 = 1 << 6;

    /// Recovery: it worked.
    REC_ACTION_RECOVERED: u8 = 1 << 0;
    /// Recovery: nothing was done.
    REC_ACTION_NONE: u8 = 1 << 1;
    /// Recovery: the machine must be reset.
    REC_ACTION_NEED_RESET: u8 = 1 << 2;
    /// Recovery: a page was taken out of use.
    MC_ACTION_PAGE_OFFLINE: u8 = 1 << 0;
    /// Recovery: a CPU was.
    MC_ACTION_CPU_OFFLINE: u8 = 1 << 1;
    /// Recovery: a part of a cache was.
    MC_ACTION_CACHE_SHRINK: u8 = 1 << 2;

    /// Room that a caller provides for a report.
    MCINFO_HYPERCALLSIZE: usize = 1024;
    /// Size of [`McInfo`].
    MCINFO_MAXSIZE: usize = 768;
    /// The report did not fit.
    MCINFO_FLAGS_UNCOMPLETE: u32 = 1;
    /// MSRs of a CPU that are listed.
    MC_MSR_ARRAYSIZE("__MC_MSR_ARRAYSIZE"): usize = 8;
    /// Words of CPU features.
    MC_NCAPS: usize = 7;
    /// Word: CPUID 1, EDX.
    MC_CAPS_STD_EDX: usize = 0;
    /// Word: CPUID 0x8000_0001, EDX.
    MC_CAPS_AMD_EDX: usize = 1;
    /// Word: CPUID 0x8086_0001.
    MC_CAPS_TM: usize = 2;
    /// Word: defined by Linux.
    MC_CAPS_LINUX: usize = 3;
    /// Word: CPUID 1, ECX.
    MC_CAPS_STD_ECX: usize = 4;
    /// Word: CPUID 0xc000_0001.
    MC_CAPS_VIA: usize = 5;
    /// Word: CPUID 0x8000_0001, ECX.
    MC_CAPS_AMD_ECX: usize = 6;
    /// MSRs of one injection.
    MC_MSRINJ_MAXMSRS: usize = 8;
    /// Injection: keep the values in software, do not write the hardware.
    MC_MSRINJ_F_INTERPOSE: u32 = 1;
    /// Injection: addresses are guest-physical.
    MC_MSRINJ_F_GPADDR: u32 = 2;
    /// Injection: bits of the type.
    XEN_MC_INJECT_TYPE_MASK: u32 = 7;
    /// Injection: a machine check.
    XEN_MC_INJECT_TYPE_MCE: u32 = 0;
    /// Injection: a corrected-error interrupt.
    XEN_MC_INJECT_TYPE_CMCI: u32 = 1;
    /// Injection: a local machine check.
    XEN_MC_INJECT_TYPE_LMCE: u32 = 2;
    /// Injection: on all CPUs.
    XEN_MC_INJECT_CPU_BROADCAST: u32 = 8;
}

wire! {
    /// Argument of `mca`.
    pub struct XenMc("struct xen_mc", 152) {
        /// One of the commands.
        @0 cmd: u32,
        /// [`XEN_MCA_INTERFACE_VERSION`].
        @4 interface_version: u32,
        /// The command's argument, in its first bytes.
        @8 u: [u64; 18],
    }

    /// Argument of [`XEN_MC_FETCH`].
    pub struct XenMcFetch("struct xen_mc_fetch", 24) {
        /// In: what to fetch; out: how it went.
        @0 flags: u32,
        @4 _pad0("_pad0"): u32,
        /// Out: the report's id; in, to acknowledge: the id.
        @8 fetch_id: u64,
        /// Out: the report.
        @16 data: GuestHandle<McInfo>,
    }

    /// Argument of [`XEN_MC_NOTIFYDOMAIN`].
    pub struct XenMcNotifydomain("struct xen_mc_notifydomain", 8) {
        /// In: the domain.
        @0 mc_domid: u16,
        /// In: its vCPU.
        @2 mc_vcpuid: u16,
        /// In: which kind; out: how it went.
        @4 flags: u32,
    }

    /// Argument of [`XEN_MC_PHYSCPUINFO`].
    pub struct XenMcPhyscpuinfo("struct xen_mc_physcpuinfo", 16) {
        /// In: entries that fit; out: CPUs.
        @0 ncpus: u32,
        @4 _pad0("_pad0"): u32,
        /// Out: the CPUs; null asks for the number.
        @8 info: GuestHandle<McinfoLogicalCpu>,
    }

    /// Argument of [`XEN_MC_MSRINJECT`].
    pub struct XenMcMsrinject("struct xen_mc_msrinject", 144) {
        /// In: the CPU.
        @0 mcinj_cpunr: u32,
        /// In: `MC_MSRINJ_F_*`.
        @4 mcinj_flags: u32,
        /// In: valid entries.
        @8 mcinj_count: u32,
        /// In: the domain of guest-physical addresses.
        @12 mcinj_domid: u16,
        @14 _pad0("_pad0"): u16,
        /// In: the MSRs.
        @16 mcinj_msr: [McinfoMsr; MC_MSRINJ_MAXMSRS],
    }

    /// Argument of [`XEN_MC_MCEINJECT`].
    pub struct XenMcMceinject("struct xen_mc_mceinject", 4) {
        /// In: the CPU.
        @0 mceinj_cpunr: u32,
    }

    /// Argument of [`XEN_MC_INJECT_V2`].
    pub struct XenMcInjectV2("struct xen_mc_inject_v2", 24) {
        /// In: `XEN_MC_INJECT_*`.
        @0 flags: u32,
        @4 _pad0(): u32,
        /// In: the CPUs.
        @8 cpumap: XenctlBitmap,
    }

    /// A report.
    pub struct McInfo("struct mc_info", 768) {
        /// Records.
        @0 mi_nentries: u32,
        /// `MCINFO_FLAGS_*`.
        @4 flags: u32,
        /// The records, one after the other.
        @8 mi_data: [u64; (MCINFO_MAXSIZE - 1) / 8],
    }

    /// What each record begins with.
    pub struct McinfoCommon("struct mcinfo_common", 4) {
        /// `MC_TYPE_*`.
        @0 type_("type"): u16,
        /// Bytes of the record.
        @2 size: u16,
    }

    /// Where an error happened.
    pub struct McinfoGlobal("struct mcinfo_global", 32) {
        /// The beginning.
        @0 common: McinfoCommon,
        /// Domain that ran.
        @4 mc_domid: u16,
        /// Its vCPU.
        @6 mc_vcpuid: u16,
        /// Socket.
        @8 mc_socketid: u32,
        /// Core.
        @12 mc_coreid: u16,
        /// Thread.
        @14 mc_core_threadid: u16,
        /// APIC id.
        @16 mc_apicid: u32,
        /// `MC_FLAG_*`.
        @20 mc_flags: u32,
        /// `IA32_MCG_STATUS`.
        @24 mc_gstatus: u64,
    }

    /// A bank.
    pub struct McinfoBank("struct mcinfo_bank", 48) {
        /// The beginning.
        @0 common: McinfoCommon,
        /// The bank.
        @4 mc_bank: u16,
        /// Owner of the address.
        @6 mc_domid: u16,
        /// `IA32_MCi_STATUS`.
        @8 mc_status: u64,
        /// `IA32_MCi_ADDR`.
        @16 mc_addr: u64,
        /// `IA32_MCi_MISC`.
        @24 mc_misc: u64,
        /// `IA32_MCi_CTL2`.
        @32 mc_ctrl2: u64,
        /// TSC.
        @40 mc_tsc: u64,
    }

    /// An MSR and its value.
    pub struct McinfoMsr("struct mcinfo_msr", 16) {
        /// The MSR.
        @0 reg: u64,
        /// Its value.
        @8 value: u64,
    }

    /// Further MSRs.
    pub struct McinfoExtended("struct mcinfo_extended", 520) {
        /// The beginning.
        @0 common: McinfoCommon,
        /// Valid entries.
        @4 mc_msrs: u32,
        /// The MSRs.
        @8 mc_msr: [McinfoMsr; 32],
    }

    /// A page that was taken out of use.
    pub struct PageOfflineAction("struct page_offline_action", 16) {
        /// The frame.
        @0 mfn: u64,
        /// How it went.
        @8 status: u64,
    }

    /// A CPU that was taken out of use.
    pub struct CpuOfflineAction("struct cpu_offline_action", 8) {
        /// Socket.
        @0 mc_socketid: u32,
        /// Core.
        @4 mc_coreid: u16,
        /// Thread.
        @6 mc_core_threadid: u16,
    }

    /// What was done about an error.
    pub struct McinfoRecovery("struct mcinfo_recovery", 24) {
        /// The beginning.
        @0 common: McinfoCommon,
        /// The bank.
        @4 mc_bank: u16,
        /// `REC_ACTION_*`.
        @6 action_flags: u8,
        /// `MC_ACTION_*`.
        @7 action_types: u8,
        /// [`PageOfflineAction`] or [`CpuOfflineAction`].
        @8 action_info: [u64; 2],
    }

    /// A CPU.
    pub struct McinfoLogicalCpu("struct mcinfo_logical_cpu", 304) {
        /// Its number.
        @0 mc_cpunr: u32,
        /// Socket.
        @4 mc_chipid: u32,
        /// Core.
        @8 mc_coreid: u16,
        /// Thread.
        @10 mc_threadid: u16,
        /// APIC id.
        @12 mc_apicid: u32,
        /// Cluster.
        @16 mc_clusterid: u32,
        /// Cores of the socket.
        @20 mc_ncores: u32,
        /// Of these in use.
        @24 mc_ncores_active: u32,
        /// Threads of the core.
        @28 mc_nthreads: u32,
        /// Highest CPUID leaf.
        @32 mc_cpuid_level: i32,
        /// Family.
        @36 mc_family: u32,
        /// Vendor, as the hypervisor numbers them.
        @40 mc_vendor: u32,
        /// Model.
        @44 mc_model: u32,
        /// Stepping.
        @48 mc_step: u32,
        /// Vendor, text.
        @52 mc_vendorid: [u8; 16],
        /// Brand, text.
        @68 mc_brandid: [u8; 64],
        /// Features, by `MC_CAPS_*`.
        @132 mc_cpu_caps: [u32; MC_NCAPS],
        /// Cache size in KiB.
        @160 mc_cache_size: u32,
        /// Cache line in bytes.
        @164 mc_cache_alignment: u32,
        /// Valid MSRs.
        @168 mc_nmsrvals: i32,
        @172 _pad0(): u32,
        /// The MSRs.
        @176 mc_msrvalues: [McinfoMsr; MC_MSR_ARRAYSIZE],
    }
}

abi_module! { "arch-x86/xen-mca.h": consts, wire }
