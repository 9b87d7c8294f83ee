//! `hvm/params.h`: the numbered parameters of a hardware guest, read and written by `HVMOP_get_param` and
//! `HVMOP_set_param` ([`super::hvm_op::XenHvmParam`]).
//!
//! A value is 64 bits whatever the parameter. Some are set once by the domain builder and read by the guest (store
//! and console), some belong to the guest ([`HVM_PARAM_CALLBACK_IRQ`]), the rest to the toolstack.

consts! {
    /// How event-channel notifications reach vCPU 0: 0 for not at all, else a type in bits 63:56
    /// (`HVM_PARAM_CALLBACK_TYPE_*`) and its argument below.
    HVM_PARAM_CALLBACK_IRQ: u32 = 0;
    /// Guest frame of the xenstore page.
    HVM_PARAM_STORE_PFN: u32 = 1;
    /// Event channel of xenstore.
    HVM_PARAM_STORE_EVTCHN: u32 = 2;
    /// Obsolete.
    HVM_PARAM_PAE_ENABLED: u32 = 4;
    /// Guest frame of the default I/O request page.
    HVM_PARAM_IOREQ_PFN: u32 = 5;
    /// Guest frame of the default buffered I/O request page.
    HVM_PARAM_BUFIOREQ_PFN: u32 = 6;
    /// Mask of Hyper-V enlightenments (`HVMPV_*`); 0 for none.
    HVM_PARAM_VIRIDIAN: u32 = 9;
    /// What becomes of missed timer ticks (`HVMPTM_*`).
    HVM_PARAM_TIMER_MODE: u32 = 10;
    /// Whether there is a virtual HPET (0/1).
    HVM_PARAM_HPET_ENABLED: u32 = 11;
    /// Guest-physical address of the identity page table used while paging is off (EPT without unrestricted
    /// guest).
    HVM_PARAM_IDENT_PT: u32 = 12;
    /// Obsolete.
    HVM_PARAM_DM_DOMAIN: u32 = 13;
    /// ACPI sleep state: 0 or 3.
    HVM_PARAM_ACPI_S_STATE: u32 = 14;
    /// Guest-physical address of the task-state segment used in real mode (EPT without unrestricted guest).
    HVM_PARAM_VM86_TSS: u32 = 15;
    /// Whether periodic timers are aligned to save interrupts (0/1).
    HVM_PARAM_VPT_ALIGN: u32 = 16;
    /// Guest frame of the console page.
    HVM_PARAM_CONSOLE_PFN: u32 = 17;
    /// Event channel of the console.
    HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
    /// Where the ACPI registers are: 0 or 1, see [`super::ioreq`].
    HVM_PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_CR0: u32 = 20;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_CR3: u32 = 21;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_CR4: u32 = 22;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_INT3: u32 = 23;
    /// Obsolete.
    HVM_PARAM_NESTEDHVM: u32 = 24;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_SINGLE_STEP: u32 = 25;
    /// Event channel of the default buffered I/O request page.
    HVM_PARAM_BUFIOREQ_EVTCHN: u32 = 26;
    /// Guest frame of the ring of paging events.
    HVM_PARAM_PAGING_RING_PFN: u32 = 27;
    /// Guest frame of the ring of monitor events.
    HVM_PARAM_MONITOR_RING_PFN: u32 = 28;
    /// Guest frame of the ring of sharing events.
    HVM_PARAM_SHARING_RING_PFN: u32 = 29;
    /// Obsolete.
    HVM_PARAM_MEMORY_EVENT_MSR: u32 = 30;
    /// What a triple fault does (`SHUTDOWN_*`).
    HVM_PARAM_TRIPLE_FAULT_REASON: u32 = 31;
    /// First guest frame for I/O request servers.
    HVM_PARAM_IOREQ_SERVER_PFN: u32 = 32;
    /// How many frames there are for I/O request servers.
    HVM_PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33;
    /// Guest-physical address of the VM generation id.
    HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
    /// Who may use alternate physical maps (`XEN_ALTP2M_*`).
    HVM_PARAM_ALTP2M: u32 = 35;
    /// Bytes of the x87 instruction and data pointers to save: 8, 4, or 0 to choose by their values.
    HVM_PARAM_X87_FIP_WIDTH: u32 = 36;
    /// Like [`HVM_PARAM_VM86_TSS`]: address in bits 31:0, size in bits 63:32.
    HVM_PARAM_VM86_TSS_SIZED: u32 = 37;
    /// Machine-check capabilities to show (`XEN_HVM_MCA_CAP_*`).
    HVM_PARAM_MCA_CAP: u32 = 38;
    /// One past the last parameter.
    HVM_NR_PARAMS: u32 = 39;

    /// The bits of [`HVM_PARAM_CALLBACK_IRQ`] that hold the type.
    HVM_PARAM_CALLBACK_IRQ_TYPE_MASK: u64 = 0xff00_0000_0000_0000;
    /// Type: the GSI in bits 55:0; GSI 0 would mean no delivery.
    HVM_PARAM_CALLBACK_TYPE_GSI: u64 = 0;
    /// Type: a PCI line: domain in bits 47:32, bus in 31:16, devfn in 15:8, INTx in 1:0.
    HVM_PARAM_CALLBACK_TYPE_PCI_INTX: u64 = 1;
    /// Type: the vector in bits 7:0; needs `XENFEAT_hvm_callback_vector`.
    HVM_PARAM_CALLBACK_TYPE_VECTOR: u64 = 2;

    /// Hypercall, APIC, VP index and timer frequency MSRs. Every valid mask has it.
    HVMPV_BASE_FREQ("HVMPV_base_freq"): u64 = 0x1;
    /// Without the timer frequency MSRs.
    HVMPV_NO_FREQ("HVMPV_no_freq"): u64 = 0x2;
    /// Partition reference counter.
    HVMPV_TIME_REF_COUNT("HVMPV_time_ref_count"): u64 = 0x4;
    /// Reference TSC page.
    HVMPV_REFERENCE_TSC("HVMPV_reference_tsc"): u64 = 0x8;
    /// Remote TLB flush by hypercall.
    HVMPV_HCALL_REMOTE_TLB_FLUSH("HVMPV_hcall_remote_tlb_flush"): u64 = 0x10;
    /// APIC assist page.
    HVMPV_APIC_ASSIST("HVMPV_apic_assist"): u64 = 0x20;
    /// Crash MSRs.
    HVMPV_CRASH_CTL("HVMPV_crash_ctl"): u64 = 0x40;
    /// Synthetic interrupt controller.
    HVMPV_SYNIC("HVMPV_synic"): u64 = 0x80;
    /// Synthetic timers.
    HVMPV_STIMER("HVMPV_stimer"): u64 = 0x100;
    /// Cluster IPI by hypercall.
    HVMPV_HCALL_IPI("HVMPV_hcall_ipi"): u64 = 0x200;
    /// Extended processor masks.
    HVMPV_EX_PROCESSOR_MASKS("HVMPV_ex_processor_masks"): u64 = 0x400;
    /// More than 64 virtual processors.
    HVMPV_NO_VP_LIMIT("HVMPV_no_vp_limit"): u64 = 0x800;
    /// vCPU hotplug.
    HVMPV_CPU_HOTPLUG("HVMPV_cpu_hotplug"): u64 = 0x1000;
    /// All of them.
    HVMPV_FEATURE_MASK("HVMPV_feature_mask"): u64 = 0x1fff;

    /// Guest time waits: missed ticks are delivered late, one by one.
    HVMPTM_DELAY_FOR_MISSED_TICKS("HVMPTM_delay_for_missed_ticks"): u64 = 0;
    /// Guest time follows real time; missed ticks are delivered.
    HVMPTM_NO_DELAY_FOR_MISSED_TICKS("HVMPTM_no_delay_for_missed_ticks"): u64 = 1;
    /// Missed ticks are dropped.
    HVMPTM_NO_MISSED_TICKS_PENDING("HVMPTM_no_missed_ticks_pending"): u64 = 2;
    /// Missed ticks become one; guest time follows real time.
    HVMPTM_ONE_MISSED_TICK_PENDING("HVMPTM_one_missed_tick_pending"): u64 = 3;

    /// Nobody.
    XEN_ALTP2M_DISABLED("XEN_ALTP2M_disabled"): u64 = 0;
    /// Guest and toolstack.
    XEN_ALTP2M_MIXED("XEN_ALTP2M_mixed"): u64 = 1;
    /// Toolstack only.
    XEN_ALTP2M_EXTERNAL("XEN_ALTP2M_external"): u64 = 2;
    /// Toolstack; the guest may only switch views and take #VE.
    XEN_ALTP2M_LIMITED("XEN_ALTP2M_limited"): u64 = 3;
    /// Local machine checks.
    XEN_HVM_MCA_CAP_LMCE: u64 = 0x1;
    /// All known capabilities.
    XEN_HVM_MCA_CAP_MASK: u64 = 0x1;
}

abi_module! { "hvm/params.h": consts }
