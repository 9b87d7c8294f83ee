//! Payloads that observe a domain: VM events, monitoring, processor trace, cache monitoring and allocation.

consts! {
    /// `op`: set up the ring.
    XEN_VM_EVENT_ENABLE: u32 = 0;
    /// `op`: tear down the ring.
    XEN_VM_EVENT_DISABLE: u32 = 1;
    /// `op`: there are responses in the ring.
    XEN_VM_EVENT_RESUME: u32 = 2;
    /// `op`: ask for the interface version.
    XEN_VM_EVENT_GET_VERSION: u32 = 3;
    /// `mode`: the ring of paging.
    XEN_DOMCTL_VM_EVENT_OP_PAGING: u32 = 1;
    /// `mode`: the ring of monitoring.
    XEN_DOMCTL_VM_EVENT_OP_MONITOR: u32 = 2;
    /// `mode`: the ring of memory sharing.
    XEN_DOMCTL_VM_EVENT_OP_SHARING: u32 = 3;

    /// `op`: report an event.
    XEN_DOMCTL_MONITOR_OP_ENABLE: u32 = 0;
    /// `op`: stop reporting it.
    XEN_DOMCTL_MONITOR_OP_DISABLE: u32 = 1;
    /// `op`: which events can be reported.
    XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES: u32 = 2;
    /// `op`: report each repetition of string instructions.
    XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP: u32 = 3;
    /// `op`: let responses write control registers.
    XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS: u32 = 4;
    /// Event: write to a control register.
    XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG: u32 = 0;
    /// Event: write to an MSR.
    XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR: u32 = 1;
    /// Event: single step.
    XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP: u32 = 2;
    /// Event: breakpoint.
    XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT: u32 = 3;
    /// Event: `HVMOP_guest_request_vm_event`.
    XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST: u32 = 4;
    /// Event: debug exception.
    XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION: u32 = 5;
    /// Event: CPUID.
    XEN_DOMCTL_MONITOR_EVENT_CPUID: u32 = 6;
    /// Event: privileged call (Arm).
    XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL: u32 = 7;
    /// Event: interrupt.
    XEN_DOMCTL_MONITOR_EVENT_INTERRUPT: u32 = 8;
    /// Event: access to a descriptor-table register.
    XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS: u32 = 9;
    /// Event: instruction that cannot be emulated.
    XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED: u32 = 10;
    /// Event: page fault inside the guest (on by default).
    XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT: u32 = 11;
    /// Event: any exit.
    XEN_DOMCTL_MONITOR_EVENT_VMEXIT: u32 = 12;

    /// `cmd`: stop cache monitoring.
    XEN_DOMCTL_PSR_CMT_OP_DETACH: u32 = 0;
    /// `cmd`: start cache monitoring.
    XEN_DOMCTL_PSR_CMT_OP_ATTACH: u32 = 1;
    /// `cmd`: ask for the monitoring id.
    XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID: u32 = 2;
    /// `cmd`: set the L3 mask.
    XEN_DOMCTL_PSR_SET_L3_CBM: u32 = 0;
    /// `cmd`: read the L3 mask.
    XEN_DOMCTL_PSR_GET_L3_CBM: u32 = 1;
    /// `cmd`: set the L3 mask of code.
    XEN_DOMCTL_PSR_SET_L3_CODE: u32 = 2;
    /// `cmd`: set the L3 mask of data.
    XEN_DOMCTL_PSR_SET_L3_DATA: u32 = 3;
    /// `cmd`: read the L3 mask of code.
    XEN_DOMCTL_PSR_GET_L3_CODE: u32 = 4;
    /// `cmd`: read the L3 mask of data.
    XEN_DOMCTL_PSR_GET_L3_DATA: u32 = 5;
    /// `cmd`: set the L2 mask.
    XEN_DOMCTL_PSR_SET_L2_CBM: u32 = 6;
    /// `cmd`: read the L2 mask.
    XEN_DOMCTL_PSR_GET_L2_CBM: u32 = 7;
    /// `cmd`: set the bandwidth throttle.
    XEN_DOMCTL_PSR_SET_MBA_THRTL: u32 = 8;
    /// `cmd`: read the bandwidth throttle.
    XEN_DOMCTL_PSR_GET_MBA_THRTL: u32 = 9;

    /// `cmd`: trace.
    XEN_DOMCTL_VMTRACE_ENABLE("XEN_DOMCTL_vmtrace_enable"): u32 = 1;
    /// `cmd`: stop tracing.
    XEN_DOMCTL_VMTRACE_DISABLE("XEN_DOMCTL_vmtrace_disable"): u32 = 2;
    /// `cmd`: trace into an empty buffer.
    XEN_DOMCTL_VMTRACE_RESET_AND_ENABLE("XEN_DOMCTL_vmtrace_reset_and_enable"): u32 = 3;
    /// `cmd`: bytes in the buffer, into `value`.
    XEN_DOMCTL_VMTRACE_OUTPUT_POSITION("XEN_DOMCTL_vmtrace_output_position"): u32 = 4;
    /// `cmd`: read the option `key` (Intel: an MSR_RTIT_* number).
    XEN_DOMCTL_VMTRACE_GET_OPTION("XEN_DOMCTL_vmtrace_get_option"): u32 = 5;
    /// `cmd`: set the option `key`.
    XEN_DOMCTL_VMTRACE_SET_OPTION("XEN_DOMCTL_vmtrace_set_option"): u32 = 6;
}

wire! {
    /// Payload of `XEN_DOMCTL_vm_event_op`.
    pub struct XenDomctlVmEventOp("struct xen_domctl_vm_event_op", 12) {
        /// `XEN_VM_EVENT_*`.
        @0 op: u32,
        /// Which ring (`XEN_DOMCTL_VM_EVENT_OP_*`).
        @4 mode: u32,
        /// Out: event channel port of the ring, or the interface version.
        @8 u: u32,
    }

    /// Options of `XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG`.
    pub struct XenDomctlMonitorMovToCr("__typeof__(((struct xen_domctl_monitor_op *)0)->u.mov_to_cr)", 16) {
        /// Which control register.
        @0 index: u8,
        /// Stop the vCPU until the response.
        @1 sync: u8,
        /// Only where the value changes.
        @2 onchangeonly: u8,
        /// Zero.
        @3 pad1: u8,
        /// Zero.
        @4 pad2: u32,
        /// Changes of these bits are not reported.
        @8 bitmask: u64,
    }

    /// Options of `XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR`.
    pub struct XenDomctlMonitorMovToMsr("__typeof__(((struct xen_domctl_monitor_op *)0)->u.mov_to_msr)", 8) {
        /// Which MSR.
        @0 msr: u32,
        /// Only where the value changes.
        @4 onchangeonly: u8,
        @5 _pad0(): [u8; 3],
    }

    /// Options of `XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST`.
    pub struct XenDomctlMonitorGuestRequest("__typeof__(((struct xen_domctl_monitor_op *)0)->u.guest_request)", 2) {
        /// Stop the vCPU until the response.
        @0 sync: u8,
        /// User mode may ask too.
        @1 allow_userspace: u8,
    }

    /// Options of `XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION` and `XEN_DOMCTL_MONITOR_EVENT_VMEXIT`.
    pub struct XenDomctlMonitorSync("__typeof__(((struct xen_domctl_monitor_op *)0)->u.debug_exception)", 1) {
        /// Stop the vCPU until the response.
        @0 sync: u8,
    }

    /// Payload of `XEN_DOMCTL_monitor_op`.
    #[repr(align(8))]
    pub struct XenDomctlMonitorOp("struct xen_domctl_monitor_op", 24) {
        /// `XEN_DOMCTL_MONITOR_OP_*`.
        @0 op: u32,
        /// `XEN_DOMCTL_MONITOR_EVENT_*`; out: mask of `1 << event` for the capabilities.
        @4 event: u32,
        /// Options of the event.
        @8 u: [u8; 16],
    }

    /// Payload of `XEN_DOMCTL_vmtrace_op`.
    pub struct XenDomctlVmtraceOp("struct xen_domctl_vmtrace_op", 24) {
        /// `XEN_DOMCTL_VMTRACE_*`.
        @0 cmd: u32,
        /// Which vCPU.
        @4 vcpu: u32,
        /// Which option.
        @8 key: u64,
        /// In or out, by command.
        @16 value: u64,
    }

    /// Payload of `XEN_DOMCTL_psr_cmt_op`.
    pub struct XenDomctlPsrCmtOp("struct xen_domctl_psr_cmt_op", 8) {
        /// `XEN_DOMCTL_PSR_CMT_OP_*`.
        @0 cmd: u32,
        /// Out: monitoring id.
        @4 data: u32,
    }

    /// Payload of `XEN_DOMCTL_psr_alloc`.
    pub struct XenDomctlPsrAlloc("struct xen_domctl_psr_alloc", 16) {
        /// `XEN_DOMCTL_PSR_SET_*`, `XEN_DOMCTL_PSR_GET_*`.
        @0 cmd: u32,
        /// Which socket.
        @4 target: u32,
        /// Mask or throttle.
        @8 data: u64,
    }
}

abi_module! { "domctl.h": consts, wire }
