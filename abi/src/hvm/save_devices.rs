//! `arch-x86/hvm/save.h`: the records of a hardware guest's platform devices. The container and the CPU's record are
//! in [`super::save`].

consts! {
    /// Pins of the I/O APIC: 16 ISA interrupts and 32 of PCI.
    VIOAPIC_NUM_PINS: usize = 48;
    /// Saved bytes of CMOS memory.
    RTC_CMOS_SIZE: usize = 14;
    /// Timers of the HPET.
    HPET_TIMER_NUM: usize = 3;
    /// Variable MTRRs.
    MTRR_VCNT: usize = 8;
    /// Fixed MTRRs.
    NUM_FIXED_MSR: usize = 11;
}

wire! {
    /// An i8259 interrupt controller. C packs `init` and `mode` into bit fields.
    pub struct HvmHwVpic("struct hvm_hw_vpic", 8) {
        /// Requested lines.
        @0 irr: u8,
        /// Masked lines.
        @1 imr: u8,
        /// Lines in service.
        @2 isr: u8,
        /// Vector of line 0.
        @3 irq_base: u8,
        /// Bits 3:0 step of the initialisation (0 for none), bits 7:4 line of highest priority.
        @4 init(!"bit fields have no offset"): u8,
        /// Bit 0 read ISR, 1 poll, 2 automatic EOI, 3 rotate on it, 4 special fully nested, 5 special mask, 6
        /// master.
        @5 mode(!"bit fields have no offset"): u8,
        /// Level-triggered lines.
        @6 elcr: u8,
        /// State of the output.
        @7 int_output: u8,
    }

    /// The I/O APIC.
    pub struct HvmHwVioapic("struct hvm_hw_vioapic", 400) {
        /// Guest-physical address.
        @0 base_address: u64,
        /// Index register.
        @8 ioregsel: u32,
        /// APIC id.
        @12 id: u32,
        /// Redirection entries as in hardware.
        @16 redirtbl: [u64; VIOAPIC_NUM_PINS],
    }

    /// A local APIC.
    pub struct HvmHwLapic("struct hvm_hw_lapic", 24) {
        /// MSR_APIC_BASE.
        @0 apic_base_msr: u64,
        /// Why it is off: bit 0 by the MSR, bit 1 by software.
        @8 disabled: u32,
        /// Divisor of the timer.
        @12 timer_divisor: u32,
        /// MSR_TSC_DEADLINE.
        @16 tdt_msr: u64,
    }

    /// The registers of a local APIC.
    pub struct HvmHwLapicRegs("struct hvm_hw_lapic_regs", 1024) {
        /// Start of the register page.
        @0 data: [u8; 1024],
    }

    /// The PCI interrupt lines.
    pub struct HvmHwPciIrqs("struct hvm_hw_pci_irqs", 16) {
        /// Bitmap: line `device * 4 + INTx`.
        @0 i: [u64; 2],
    }

    /// The ISA interrupt lines.
    pub struct HvmHwIsaIrqs("struct hvm_hw_isa_irqs", 8) {
        /// Bitmap of 16 lines.
        @0 i: [u64; 1],
    }

    /// The router from PCI links to interrupts.
    pub struct HvmHwPciLink("struct hvm_hw_pci_link", 8) {
        /// ISA interrupt of each link; 0 for none.
        @0 route: [u8; 4],
        /// Zero.
        @4 pad0: [u8; 4],
    }

    /// A channel of the i8254 timer.
    pub struct HvmHwPitChannel("struct hvm_hw_pit_channel", 16) {
        /// Reload value: 1..=65536.
        @0 count: u32,
        /// Latched count.
        @4 latched_count: u16,
        /// Which bytes of it are still to be read.
        @6 count_latched: u8,
        /// Whether the status is latched.
        @7 status_latched: u8,
        /// Latched status.
        @8 status: u8,
        /// Which byte is read next.
        @9 read_state: u8,
        /// Which byte is written next.
        @10 write_state: u8,
        /// Low byte already written.
        @11 write_latch: u8,
        /// Access mode.
        @12 rw_mode: u8,
        /// Operating mode.
        @13 mode: u8,
        /// Decimal counting (not emulated).
        @14 bcd: u8,
        /// State of the gate.
        @15 gate: u8,
    }

    /// The i8254 timer.
    pub struct HvmHwPit("struct hvm_hw_pit", 56) {
        /// Its channels.
        @0 channels: [HvmHwPitChannel; 3],
        /// Whether the speaker's data bit is on.
        @48 speaker_data_on: u32,
        /// Zero.
        @52 pad0: u32,
    }

    /// The real-time clock.
    pub struct HvmHwRtc("struct hvm_hw_rtc", 24) {
        /// Clock registers.
        @0 cmos_data: [u8; RTC_CMOS_SIZE],
        /// Selected register.
        @14 cmos_index: u8,
        /// Zero.
        @15 pad0: u8,
        /// Offset to the host's time, seconds.
        @16 rtc_offset: i64,
    }

    /// A timer of the HPET.
    pub struct HvmHwHpetTimer("__typeof__(((struct hvm_hw_hpet *)0)->timers[0])", 32) {
        /// Configuration and capabilities.
        @0 config: u64,
        /// Comparator.
        @8 cmp: u64,
        /// Message route (not emulated).
        @16 fsb: u64,
        /// Reserved.
        @24 res4: u64,
    }

    /// The high-precision event timer: its registers and hidden state.
    pub struct HvmHwHpet("struct hvm_hw_hpet", 1048) {
        /// Capabilities.
        @0 capability: u64,
        /// Reserved.
        @8 res0: u64,
        /// Configuration.
        @16 config: u64,
        /// Reserved.
        @24 res1: u64,
        /// Interrupt status.
        @32 isr: u64,
        /// Reserved.
        @40 res2: [u64; 25],
        /// Main counter.
        @240 mc64: u64,
        /// Reserved.
        @248 res3: u64,
        /// Timers.
        @256 timers: [HvmHwHpetTimer; HPET_TIMER_NUM],
        /// Reserved.
        @352 res5: [u64; 84],
        /// Period of each timer.
        @1024 period: [u64; HPET_TIMER_NUM],
    }

    /// The ACPI timer and PM1a event block.
    pub struct HvmHwPmtimer("struct hvm_hw_pmtimer", 8) {
        /// Counter.
        @0 tmr_val: u32,
        /// Status register.
        @4 pm1a_sts: u16,
        /// Enable register.
        @6 pm1a_en: u16,
    }

    /// The memory-type registers of a vCPU.
    pub struct HvmHwMtrr("struct hvm_hw_mtrr", 240) {
        /// MSR_PAT.
        @0 msr_pat_cr: u64,
        /// Pairs of base and mask.
        @8 msr_mtrr_var: [u64; 16],
        /// Fixed ranges.
        @136 msr_mtrr_fixed: [u64; NUM_FIXED_MSR],
        /// MSR_MTRRCAP.
        @224 msr_mtrr_cap: u64,
        /// MSR_MTRRdefType.
        @232 msr_mtrr_def_type: u64,
    }

    /// Start of the extended state of a vCPU; the components that the header names follow.
    pub struct HvmHwCpuXsave("struct hvm_hw_cpu_xsave", 600) {
        /// Ignored.
        @0 xfeature_mask: u64,
        /// XCR0.
        @8 xcr0: u64,
        /// All bits that XCR0 ever had.
        @16 xcr0_accum: u64,
        /// FXSAVE image.
        @24 fpu_sse("save_area.fpu_sse"): [u8; 512],
        /// Components that are not in their initial state.
        @536 xstate_bv("save_area.xsave_hdr.xstate_bv"): u64,
        /// Compacted format, where bit 63 is set.
        @544 xcomp_bv("save_area.xsave_hdr.xcomp_bv"): u64,
        /// Zero.
        @552 reserved("save_area.xsave_hdr.reserved"): [u64; 6],
    }

    /// The Hyper-V state of a domain.
    pub struct HvmViridianDomainContext("struct hvm_viridian_domain_context", 32) {
        /// HV_X64_MSR_HYPERCALL.
        @0 hypercall_gpa: u64,
        /// HV_X64_MSR_GUEST_OS_ID.
        @8 guest_os_id: u64,
        /// Reference counter offset.
        @16 time_ref_count: u64,
        /// HV_X64_MSR_REFERENCE_TSC.
        @24 reference_tsc: u64,
    }

    /// The Hyper-V state of a vCPU.
    pub struct HvmViridianVcpuContext("struct hvm_viridian_vcpu_context", 216) {
        /// HV_X64_MSR_VP_ASSIST_PAGE.
        @0 vp_assist_msr: u64,
        /// Whether an assisted EOI is pending.
        @8 apic_assist_pending: u8,
        /// Padding; zero.
        @9 _pad("_pad"): [u8; 7],
        /// HV_X64_MSR_SIMP.
        @16 simp_msr: u64,
        /// HV_X64_MSR_SINT0..15.
        @24 sint_msr: [u64; 16],
        /// HV_X64_MSR_STIMER0..3_CONFIG.
        @152 stimer_config_msr: [u64; 4],
        /// HV_X64_MSR_STIMER0..3_COUNT.
        @184 stimer_count_msr: [u64; 4],
    }

    /// The virtual machine-check state of a vCPU.
    pub struct HvmVmceVcpu("struct hvm_vmce_vcpu", 32) {
        /// MSR_MCG_CAP.
        @0 caps: u64,
        /// MSR_MCi_CTL2 of bank 0.
        @8 mci_ctl2_bank0: u64,
        /// MSR_MCi_CTL2 of bank 1.
        @16 mci_ctl2_bank1: u64,
        /// MSR_MCG_EXT_CTL.
        @24 mcg_ext_ctl: u64,
    }

    /// The TSC adjustment of a vCPU.
    pub struct HvmTscAdjust("struct hvm_tsc_adjust", 8) {
        /// MSR_TSC_ADJUST.
        @0 tsc_adjust: u64,
    }

    /// An MSR of a vCPU.
    pub struct HvmOneMsr("struct hvm_one_msr", 16) {
        /// Which MSR.
        @0 index: u32,
        /// Zero.
        @4 _rsvd("_rsvd"): u32,
        /// Its value.
        @8 val: u64,
    }

    /// Start of the list of MSRs of a vCPU; `count` [`HvmOneMsr`]s follow.
    #[repr(align(8))]
    pub struct HvmMsr("struct hvm_msr", 8) {
        /// How many.
        @0 count: u32,
        @4 _pad0(): u32,
    }
}

abi_module! { "hvm/save.h": consts, wire }
