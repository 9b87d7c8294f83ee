//! The commands of `__HYPERVISOR_domctl` and its argument.

consts! {
    /// The interface version of 4.17; any other in [`XenDomctl::interface_version`] is refused with
    /// `-EACCES`.
    XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

    /// Creates a domain: [`XenDomctlCreatedomain`](super::XenDomctlCreatedomain).
    XEN_DOMCTL_CREATEDOMAIN("XEN_DOMCTL_createdomain"): u32 = 1;
    /// Destroys a domain; the hypervisor continues the call by itself until all is freed. No payload.
    XEN_DOMCTL_DESTROYDOMAIN("XEN_DOMCTL_destroydomain"): u32 = 2;
    /// Pauses a domain; pauses count. No payload.
    XEN_DOMCTL_PAUSEDOMAIN("XEN_DOMCTL_pausedomain"): u32 = 3;
    /// Undoes one pause. No payload.
    XEN_DOMCTL_UNPAUSEDOMAIN("XEN_DOMCTL_unpausedomain"): u32 = 4;
    /// Describes the first domain whose id is at least the one given:
    /// [`XenDomctlGetdomaininfo`](super::XenDomctlGetdomaininfo).
    XEN_DOMCTL_GETDOMAININFO("XEN_DOMCTL_getdomaininfo"): u32 = 5;
    /// Where a vCPU may run: [`XenDomctlVcpuaffinity`](super::XenDomctlVcpuaffinity).
    XEN_DOMCTL_SETVCPUAFFINITY("XEN_DOMCTL_setvcpuaffinity"): u32 = 9;
    /// Shadow page tables and dirty logging: [`XenDomctlShadowOp`](super::XenDomctlShadowOp).
    XEN_DOMCTL_SHADOW_OP("XEN_DOMCTL_shadow_op"): u32 = 10;
    /// Memory limit: [`XenDomctlMaxMem`](super::XenDomctlMaxMem).
    XEN_DOMCTL_MAX_MEM("XEN_DOMCTL_max_mem"): u32 = 11;
    /// Registers of a vCPU: [`XenDomctlVcpucontext`](super::XenDomctlVcpucontext).
    XEN_DOMCTL_SETVCPUCONTEXT("XEN_DOMCTL_setvcpucontext"): u32 = 12;
    /// Reads the same: [`XenDomctlVcpucontext`](super::XenDomctlVcpucontext).
    XEN_DOMCTL_GETVCPUCONTEXT("XEN_DOMCTL_getvcpucontext"): u32 = 13;
    /// State of a vCPU: [`XenDomctlGetvcpuinfo`](super::XenDomctlGetvcpuinfo).
    XEN_DOMCTL_GETVCPUINFO("XEN_DOMCTL_getvcpuinfo"): u32 = 14;
    /// Creates the vCPUs: [`XenDomctlMaxVcpus`](super::XenDomctlMaxVcpus).
    XEN_DOMCTL_MAX_VCPUS("XEN_DOMCTL_max_vcpus"): u32 = 15;
    /// Scheduling parameters: [`XenDomctlSchedulerOp`](super::XenDomctlSchedulerOp).
    XEN_DOMCTL_SCHEDULER_OP("XEN_DOMCTL_scheduler_op"): u32 = 16;
    /// UUID: [`XenDomctlSetdomainhandle`](super::XenDomctlSetdomainhandle).
    XEN_DOMCTL_SETDOMAINHANDLE("XEN_DOMCTL_setdomainhandle"): u32 = 17;
    /// Whether a debugger is attached: [`XenDomctlSetdebugging`](super::XenDomctlSetdebugging).
    XEN_DOMCTL_SETDEBUGGING("XEN_DOMCTL_setdebugging"): u32 = 18;
    /// Access to a pirq: [`XenDomctlIrqPermission`](super::XenDomctlIrqPermission).
    XEN_DOMCTL_IRQ_PERMISSION("XEN_DOMCTL_irq_permission"): u32 = 19;
    /// Access to device memory: [`XenDomctlIomemPermission`](super::XenDomctlIomemPermission).
    XEN_DOMCTL_IOMEM_PERMISSION("XEN_DOMCTL_iomem_permission"): u32 = 20;
    /// Access to I/O ports: [`XenDomctlIoportPermission`](super::XenDomctlIoportPermission).
    XEN_DOMCTL_IOPORT_PERMISSION("XEN_DOMCTL_ioport_permission"): u32 = 21;
    /// Fills in a hypercall page: [`XenDomctlHypercallInit`](super::XenDomctlHypercallInit).
    XEN_DOMCTL_HYPERCALL_INIT("XEN_DOMCTL_hypercall_init"): u32 = 22;
    /// Continuation of [`XEN_DOMCTL_SOFT_RESET`]; never from a guest.
    XEN_DOMCTL_SOFT_RESET_CONT(!"only for continuations inside the hypervisor"): u32 = 23;
    /// Offset of the wall clock: [`XenDomctlSettimeoffset`](super::XenDomctlSettimeoffset).
    XEN_DOMCTL_SETTIMEOFFSET("XEN_DOMCTL_settimeoffset"): u32 = 24;
    /// Reads where a vCPU may run: [`XenDomctlVcpuaffinity`](super::XenDomctlVcpuaffinity).
    XEN_DOMCTL_GETVCPUAFFINITY("XEN_DOMCTL_getvcpuaffinity"): u32 = 25;
    /// Obsolete.
    XEN_DOMCTL_REAL_MODE_AREA("XEN_DOMCTL_real_mode_area"): u32 = 26;
    /// Resumes a domain that has shut down. No payload.
    XEN_DOMCTL_RESUMEDOMAIN("XEN_DOMCTL_resumedomain"): u32 = 27;
    /// NMI, reset, power button...: [`XenDomctlSendtrigger`](super::XenDomctlSendtrigger).
    XEN_DOMCTL_SENDTRIGGER("XEN_DOMCTL_sendtrigger"): u32 = 28;
    /// Port to notify when the domain suspends: [`XenDomctlSubscribe`](super::XenDomctlSubscribe).
    XEN_DOMCTL_SUBSCRIBE("XEN_DOMCTL_subscribe"): u32 = 29;
    /// Saves a hardware guest: [`XenDomctlHvmcontext`](super::XenDomctlHvmcontext).
    XEN_DOMCTL_GETHVMCONTEXT("XEN_DOMCTL_gethvmcontext"): u32 = 33;
    /// Restores a hardware guest: [`XenDomctlHvmcontext`](super::XenDomctlHvmcontext).
    XEN_DOMCTL_SETHVMCONTEXT("XEN_DOMCTL_sethvmcontext"): u32 = 34;
    /// 32-bit or 64-bit PV guest: [`XenDomctlAddressSize`](super::XenDomctlAddressSize).
    XEN_DOMCTL_SET_ADDRESS_SIZE("XEN_DOMCTL_set_address_size"): u32 = 35;
    /// Reads the same: [`XenDomctlAddressSize`](super::XenDomctlAddressSize).
    XEN_DOMCTL_GET_ADDRESS_SIZE("XEN_DOMCTL_get_address_size"): u32 = 36;
    /// Gives a device to a domain: [`XenDomctlAssignDevice`](super::XenDomctlAssignDevice).
    XEN_DOMCTL_ASSIGN_DEVICE("XEN_DOMCTL_assign_device"): u32 = 37;
    /// Passes an interrupt through: [`XenDomctlBindPtIrq`](super::XenDomctlBindPtIrq).
    XEN_DOMCTL_BIND_PT_IRQ("XEN_DOMCTL_bind_pt_irq"): u32 = 38;
    /// Passes device memory through: [`XenDomctlMemoryMapping`](super::XenDomctlMemoryMapping).
    XEN_DOMCTL_MEMORY_MAPPING("XEN_DOMCTL_memory_mapping"): u32 = 39;
    /// Passes I/O ports through: [`XenDomctlIoportMapping`](super::XenDomctlIoportMapping).
    XEN_DOMCTL_IOPORT_MAPPING("XEN_DOMCTL_ioport_mapping"): u32 = 40;
    /// More registers of a PV vCPU: [`XenDomctlExtVcpucontext`](super::XenDomctlExtVcpucontext).
    XEN_DOMCTL_SET_EXT_VCPUCONTEXT("XEN_DOMCTL_set_ext_vcpucontext"): u32 = 42;
    /// Reads the same: [`XenDomctlExtVcpucontext`](super::XenDomctlExtVcpucontext).
    XEN_DOMCTL_GET_EXT_VCPUCONTEXT("XEN_DOMCTL_get_ext_vcpucontext"): u32 = 43;
    /// Obsolete.
    XEN_DOMCTL_SET_OPT_FEATURE("XEN_DOMCTL_set_opt_feature"): u32 = 44;
    /// Whether a device could be given: [`XenDomctlAssignDevice`](super::XenDomctlAssignDevice).
    XEN_DOMCTL_TEST_ASSIGN_DEVICE("XEN_DOMCTL_test_assign_device"): u32 = 45;
    /// Which domain this device model serves: [`XenDomctlSetTarget`](super::XenDomctlSetTarget).
    XEN_DOMCTL_SET_TARGET("XEN_DOMCTL_set_target"): u32 = 46;
    /// Takes a device back: [`XenDomctlAssignDevice`](super::XenDomctlAssignDevice).
    XEN_DOMCTL_DEASSIGN_DEVICE("XEN_DOMCTL_deassign_device"): u32 = 47;
    /// Stops passing an interrupt through: [`XenDomctlBindPtIrq`](super::XenDomctlBindPtIrq).
    XEN_DOMCTL_UNBIND_PT_IRQ("XEN_DOMCTL_unbind_pt_irq"): u32 = 48;
    /// Devices that must be given together: [`XenDomctlGetDeviceGroup`](super::XenDomctlGetDeviceGroup).
    XEN_DOMCTL_GET_DEVICE_GROUP("XEN_DOMCTL_get_device_group"): u32 = 50;
    /// Single-stepping: [`XenDomctlDebugOp`](super::XenDomctlDebugOp).
    XEN_DOMCTL_DEBUG_OP("XEN_DOMCTL_debug_op"): u32 = 54;
    /// One record of a hardware guest: [`XenDomctlHvmcontextPartial`](super::XenDomctlHvmcontextPartial).
    XEN_DOMCTL_GETHVMCONTEXT_PARTIAL("XEN_DOMCTL_gethvmcontext_partial"): u32 = 55;
    /// Rings of VM events: [`XenDomctlVmEventOp`](super::XenDomctlVmEventOp).
    XEN_DOMCTL_VM_EVENT_OP("XEN_DOMCTL_vm_event_op"): u32 = 56;
    /// Memory sharing: [`XenDomctlMemSharingOp`](super::XenDomctlMemSharingOp).
    XEN_DOMCTL_MEM_SHARING_OP("XEN_DOMCTL_mem_sharing_op"): u32 = 57;
    /// Reads how the TSC behaves: [`XenDomctlTscInfo`](super::XenDomctlTscInfo).
    XEN_DOMCTL_GETTSCINFO("XEN_DOMCTL_gettscinfo"): u32 = 59;
    /// How the TSC behaves: [`XenDomctlTscInfo`](super::XenDomctlTscInfo).
    XEN_DOMCTL_SETTSCINFO("XEN_DOMCTL_settscinfo"): u32 = 60;
    /// Types of pages: [`XenDomctlGetpageframeinfo3`](super::XenDomctlGetpageframeinfo3).
    XEN_DOMCTL_GETPAGEFRAMEINFO3("XEN_DOMCTL_getpageframeinfo3"): u32 = 61;
    /// Extended state of a PV vCPU: [`XenDomctlVcpuextstate`](super::XenDomctlVcpuextstate).
    XEN_DOMCTL_SETVCPUEXTSTATE("XEN_DOMCTL_setvcpuextstate"): u32 = 62;
    /// Reads the same: [`XenDomctlVcpuextstate`](super::XenDomctlVcpuextstate).
    XEN_DOMCTL_GETVCPUEXTSTATE("XEN_DOMCTL_getvcpuextstate"): u32 = 63;
    /// Whether access events need a listener:
    /// [`XenDomctlSetAccessRequired`](super::XenDomctlSetAccessRequired).
    XEN_DOMCTL_SET_ACCESS_REQUIRED("XEN_DOMCTL_set_access_required"): u32 = 64;
    /// Checks the physical map: [`XenDomctlAuditP2m`](super::XenDomctlAuditP2m).
    XEN_DOMCTL_AUDIT_P2M("XEN_DOMCTL_audit_p2m"): u32 = 65;
    /// Which domain gets a global VIRQ: [`XenDomctlSetVirqHandler`](super::XenDomctlSetVirqHandler).
    XEN_DOMCTL_SET_VIRQ_HANDLER("XEN_DOMCTL_set_virq_handler"): u32 = 66;
    /// Marks a page as broken: [`XenDomctlSetBrokenPageP2m`](super::XenDomctlSetBrokenPageP2m).
    XEN_DOMCTL_SET_BROKEN_PAGE_P2M("XEN_DOMCTL_set_broken_page_p2m"): u32 = 67;
    /// NUMA nodes to take memory from: [`XenDomctlNodeaffinity`](super::XenDomctlNodeaffinity).
    XEN_DOMCTL_SETNODEAFFINITY("XEN_DOMCTL_setnodeaffinity"): u32 = 68;
    /// Reads the same: [`XenDomctlNodeaffinity`](super::XenDomctlNodeaffinity).
    XEN_DOMCTL_GETNODEAFFINITY("XEN_DOMCTL_getnodeaffinity"): u32 = 69;
    /// Flushes caches (Arm): [`XenDomctlCacheflush`](super::XenDomctlCacheflush).
    XEN_DOMCTL_CACHEFLUSH("XEN_DOMCTL_cacheflush"): u32 = 71;
    /// Reads the MSRs of a PV vCPU: [`XenDomctlVcpuMsrs`](super::XenDomctlVcpuMsrs).
    XEN_DOMCTL_GET_VCPU_MSRS("XEN_DOMCTL_get_vcpu_msrs"): u32 = 72;
    /// MSRs of a PV vCPU: [`XenDomctlVcpuMsrs`](super::XenDomctlVcpuMsrs).
    XEN_DOMCTL_SET_VCPU_MSRS("XEN_DOMCTL_set_vcpu_msrs"): u32 = 73;
    /// Virtual NUMA: [`XenDomctlVnuma`](super::XenDomctlVnuma).
    XEN_DOMCTL_SETVNUMAINFO("XEN_DOMCTL_setvnumainfo"): u32 = 74;
    /// Cache monitoring: [`XenDomctlPsrCmtOp`](super::XenDomctlPsrCmtOp).
    XEN_DOMCTL_PSR_CMT_OP("XEN_DOMCTL_psr_cmt_op"): u32 = 75;
    /// Which events are monitored: [`XenDomctlMonitorOp`](super::XenDomctlMonitorOp).
    XEN_DOMCTL_MONITOR_OP("XEN_DOMCTL_monitor_op"): u32 = 77;
    /// Cache and bandwidth allocation: [`XenDomctlPsrAlloc`](super::XenDomctlPsrAlloc).
    XEN_DOMCTL_PSR_ALLOC("XEN_DOMCTL_psr_alloc"): u32 = 78;
    /// Drops all Xen state of a domain, so that a new kernel can start. No payload.
    XEN_DOMCTL_SOFT_RESET("XEN_DOMCTL_soft_reset"): u32 = 79;
    /// Virtual UART (Arm): [`XenDomctlVuartOp`](super::XenDomctlVuartOp).
    XEN_DOMCTL_VUART_OP("XEN_DOMCTL_vuart_op"): u32 = 81;
    /// Reads CPUID and MSR policy: [`XenDomctlCpuPolicy`](super::XenDomctlCpuPolicy).
    XEN_DOMCTL_GET_CPU_POLICY("XEN_DOMCTL_get_cpu_policy"): u32 = 82;
    /// CPUID and MSR policy: [`XenDomctlCpuPolicy`](super::XenDomctlCpuPolicy).
    XEN_DOMCTL_SET_CPU_POLICY("XEN_DOMCTL_set_cpu_policy"): u32 = 83;
    /// Processor trace: [`XenDomctlVmtraceOp`](super::XenDomctlVmtraceOp).
    XEN_DOMCTL_VMTRACE_OP("XEN_DOMCTL_vmtrace_op"): u32 = 84;
    /// Reads the paging pool's size: [`XenDomctlPagingMempool`](super::XenDomctlPagingMempool).
    XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE("XEN_DOMCTL_get_paging_mempool_size"): u32 = 85;
    /// The paging pool's size: [`XenDomctlPagingMempool`](super::XenDomctlPagingMempool).
    XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE("XEN_DOMCTL_set_paging_mempool_size"): u32 = 86;
    /// Reads or writes guest memory: [`XenDomctlGdbsxMemio`](super::XenDomctlGdbsxMemio).
    XEN_DOMCTL_GDBSX_GUESTMEMIO("XEN_DOMCTL_gdbsx_guestmemio"): u32 = 1000;
    /// Pauses a vCPU: [`XenDomctlGdbsxPauseunpVcpu`](super::XenDomctlGdbsxPauseunpVcpu).
    XEN_DOMCTL_GDBSX_PAUSEVCPU("XEN_DOMCTL_gdbsx_pausevcpu"): u32 = 1001;
    /// Undoes a pause of a vCPU: [`XenDomctlGdbsxPauseunpVcpu`](super::XenDomctlGdbsxPauseunpVcpu).
    XEN_DOMCTL_GDBSX_UNPAUSEVCPU("XEN_DOMCTL_gdbsx_unpausevcpu"): u32 = 1002;
    /// What the debugged domain does: [`XenDomctlGdbsxDomstatus`](super::XenDomctlGdbsxDomstatus).
    XEN_DOMCTL_GDBSX_DOMSTATUS("XEN_DOMCTL_gdbsx_domstatus"): u32 = 1003;
}

wire! {
    /// Argument of `__HYPERVISOR_domctl`. The structure is copied in, and copied back where the command has
    /// results.
    #[repr(align(8))]
    pub struct XenDomctl("struct xen_domctl", 144) {
        /// Which command (`XEN_DOMCTL_*`).
        @0 cmd: u32,
        /// [`XEN_DOMCTL_INTERFACE_VERSION`].
        @4 interface_version: u32,
        /// Which domain; in and out for [`XEN_DOMCTL_CREATEDOMAIN`] and [`XEN_DOMCTL_GETDOMAININFO`].
        @8 domain: u16,
        /// Ignored.
        @10 _pad("_pad"): [u16; 3],
        /// The command's payload.
        @16 u: [u8; 128],
    }
}

abi_module! { "domctl.h": consts, wire }
