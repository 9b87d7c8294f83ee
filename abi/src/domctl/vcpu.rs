//! Payloads that concern one vCPU: registers, affinity, CPU policy, debugging.

use crate::GuestHandle;
use crate::arch_x86::{VcpuGuestContext, XenCpuidLeaf, XenMsrEntry};
use crate::hvm::save_devices::HvmVmceVcpu;
use crate::xen::XenctlBitmap;

consts! {
    /// `flags`: the CPUs the vCPU may use.
    XEN_VCPUAFFINITY_HARD: u32 = 0x1;
    /// `flags`: the CPUs it should prefer.
    XEN_VCPUAFFINITY_SOFT: u32 = 0x2;
    /// `flags`: undo `SCHEDOP_pin_override`.
    XEN_VCPUAFFINITY_FORCE: u32 = 0x4;
    /// Subleaf of a CPUID leaf without subleaves.
    XEN_CPUID_INPUT_UNUSED: u32 = 0xffff_ffff;
    /// `op`: stop single-stepping.
    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF: u32 = 0;
    /// `op`: single-step.
    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON: u32 = 1;
}

wire! {
    /// Payload of `XEN_DOMCTL_setvcpucontext` and `XEN_DOMCTL_getvcpucontext`.
    pub struct XenDomctlVcpucontext("struct xen_domctl_vcpucontext", 16) {
        /// Which vCPU.
        @0 vcpu: u32,
        @4 _pad0(): u32,
        /// Its registers.
        @8 ctxt: GuestHandle<VcpuGuestContext>,
    }

    /// Payload of `XEN_DOMCTL_getvcpuinfo`.
    pub struct XenDomctlGetvcpuinfo("struct xen_domctl_getvcpuinfo", 24) {
        /// Which vCPU.
        @0 vcpu: u32,
        /// Out: whether it is online.
        @4 online: u8,
        /// Out: whether it waits for an event.
        @5 blocked: u8,
        /// Out: whether it runs.
        @6 running: u8,
        @7 _pad0(): u8,
        /// Out: CPU time used, nanoseconds.
        @8 cpu_time: u64,
        /// Out: the CPU it is on.
        @16 cpu: u32,
        @20 _pad1(): u32,
    }

    /// Payload of `XEN_DOMCTL_setvcpuaffinity` (out: the effective sets) and `XEN_DOMCTL_getvcpuaffinity`
    /// (out: the sets as given).
    pub struct XenDomctlVcpuaffinity("struct xen_domctl_vcpuaffinity", 40) {
        /// Which vCPU.
        @0 vcpu: u32,
        /// Which sets (`XEN_VCPUAFFINITY_*`).
        @4 flags: u32,
        /// CPUs it may use.
        @8 cpumap_hard: XenctlBitmap,
        /// CPUs it prefers.
        @24 cpumap_soft: XenctlBitmap,
    }

    /// Payload of `XEN_DOMCTL_set_ext_vcpucontext` and `XEN_DOMCTL_get_ext_vcpucontext`.
    pub struct XenDomctlExtVcpucontext("struct xen_domctl_ext_vcpucontext", 64) {
        /// Which vCPU.
        @0 vcpu: u32,
        /// Bytes of this structure that are valid; a caller of older versions passes fewer.
        @4 size: u32,
        /// Where SYSCALL from 32-bit code enters the kernel.
        @8 syscall32_callback_eip: u64,
        /// Where SYSENTER enters the kernel.
        @16 sysenter_callback_eip: u64,
        /// Code segment of the former.
        @24 syscall32_callback_cs: u16,
        /// Code segment of the latter.
        @26 sysenter_callback_cs: u16,
        /// Whether the former masks event delivery.
        @28 syscall32_disables_events: u8,
        /// Whether the latter masks event delivery.
        @29 sysenter_disables_events: u8,
        @30 _pad0(): [u8; 2],
        /// Machine-check state. (C names its first word `mcg_cap` too.)
        @32 vmce: HvmVmceVcpu,
    }

    /// Payload of `XEN_DOMCTL_get_cpu_policy` and `XEN_DOMCTL_set_cpu_policy`.
    pub struct XenDomctlCpuPolicy("struct xen_domctl_cpu_policy", 40) {
        /// Entries of `leaves`; out: entries filled in.
        @0 nr_leaves: u32,
        /// Entries of `msrs`; out: entries filled in.
        @4 nr_msrs: u32,
        /// CPUID leaves.
        @8 leaves: GuestHandle<XenCpuidLeaf>,
        /// MSRs.
        @16 msrs: GuestHandle<XenMsrEntry>,
        /// Out where setting fails: the CPUID leaf at fault, or all ones.
        @24 err_leaf: u32,
        /// Out where setting fails: its subleaf, or all ones.
        @28 err_subleaf: u32,
        /// Out where setting fails: the MSR at fault, or all ones.
        @32 err_msr: u32,
        @36 _pad0(): u32,
    }

    /// Payload of `XEN_DOMCTL_debug_op`.
    pub struct XenDomctlDebugOp("struct xen_domctl_debug_op", 8) {
        /// `XEN_DOMCTL_DEBUG_OP_*`.
        @0 op: u32,
        /// Which vCPU.
        @4 vcpu: u32,
    }

    /// Payload of `XEN_DOMCTL_setvcpuextstate` and `XEN_DOMCTL_getvcpuextstate`.
    pub struct XenDomctlVcpuextstate("struct xen_domctl_vcpuextstate", 32) {
        /// Which vCPU.
        @0 vcpu: u32,
        @4 _pad0(): u32,
        /// Out when reading: components that the state may hold.
        @8 xfeature_mask: u64,
        /// Bytes of the buffer; reading with 0 asks for the size.
        @16 size: u64,
        /// XCR0, all bits XCR0 ever had, then the XSAVE area.
        @24 buffer: GuestHandle<u64>,
    }

    /// An MSR of a PV vCPU.
    pub struct XenDomctlVcpuMsr("struct xen_domctl_vcpu_msr", 16) {
        /// Which MSR.
        @0 index: u32,
        /// Zero.
        @4 reserved: u32,
        /// Its value.
        @8 value: u64,
    }

    /// Payload of `XEN_DOMCTL_get_vcpu_msrs` and `XEN_DOMCTL_set_vcpu_msrs`.
    pub struct XenDomctlVcpuMsrs("struct xen_domctl_vcpu_msrs", 16) {
        /// Which vCPU.
        @0 vcpu: u32,
        /// Entries of `msrs`; out when reading: entries filled in (or needed, with `-ENOBUFS`); out when
        /// setting fails: index of the entry at fault.
        @4 msr_count: u32,
        /// The MSRs; null when reading asks for the number.
        @8 msrs: GuestHandle<XenDomctlVcpuMsr>,
    }

    /// Payload of `XEN_DOMCTL_gdbsx_guestmemio`.
    pub struct XenDomctlGdbsxMemio("struct xen_domctl_gdbsx_memio", 40) {
        /// Page-table entry to start from; 0 for the vCPU's own table.
        @0 pgd3val: u64,
        /// Guest virtual address.
        @8 gva: u64,
        /// Address of the caller's buffer.
        @16 uva: u64,
        /// Bytes to copy.
        @24 len: u32,
        /// 1 writes to the guest, 0 reads.
        @28 gwr: u8,
        @29 _pad0(): [u8; 3],
        /// Out: bytes not copied.
        @32 remain: u32,
        @36 _pad1(): u32,
    }

    /// Payload of `XEN_DOMCTL_gdbsx_pausevcpu` and `XEN_DOMCTL_gdbsx_unpausevcpu`.
    pub struct XenDomctlGdbsxPauseunpVcpu("struct xen_domctl_gdbsx_pauseunp_vcpu", 4) {
        /// Which vCPU.
        @0 vcpu: u32,
    }

    /// Payload of `XEN_DOMCTL_gdbsx_domstatus`.
    pub struct XenDomctlGdbsxDomstatus("struct xen_domctl_gdbsx_domstatus", 12) {
        /// Out: whether the domain is paused by the debugger.
        @0 paused: u8,
        @1 _pad0(): [u8; 3],
        /// Out: the vCPU that stopped, or all ones.
        @4 vcpu_id: u32,
        /// Out: why it stopped.
        @8 vcpu_ev: u32,
    }
}

abi_module! { "domctl.h": consts, wire }
