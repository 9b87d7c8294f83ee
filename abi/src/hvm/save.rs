//! `hvm/save.h` and the first part of `arch-x86/hvm/save.h`: the container of a hardware guest's saved state and
//! the record of a CPU. The records of platform devices are in [`super::save_devices`].
//!
//! The state is a sequence of records, each an [`HvmSaveDescriptor`] and `length` bytes. The first is the header, the
//! last has code and length zero. All records have the same layout for 32-bit and 64-bit guests.

consts! {
    /// Magic of the header.
    HVM_FILE_MAGIC: u32 = 0x5438_1286;
    /// Version of the header.
    HVM_FILE_VERSION: u32 = 1;
    /// `flags`: `fpu_regs` is valid.
    XEN_X86_FPU_INITIALISED: u32 = 0x1;

    /// Record: end of the state.
    HVM_SAVE_CODE_END("HVM_SAVE_CODE(END)"): u16 = 0;
    /// Record: [`HvmSaveHeader`].
    HVM_SAVE_CODE_HEADER("HVM_SAVE_CODE(HEADER)"): u16 = 1;
    /// Record, per vCPU: [`HvmHwCpu`].
    HVM_SAVE_CODE_CPU("HVM_SAVE_CODE(CPU)"): u16 = 2;
    /// Record, instances 0 and 1: [`super::save_devices::HvmHwVpic`].
    HVM_SAVE_CODE_PIC("HVM_SAVE_CODE(PIC)"): u16 = 3;
    /// Record: [`super::save_devices::HvmHwVioapic`].
    HVM_SAVE_CODE_IOAPIC("HVM_SAVE_CODE(IOAPIC)"): u16 = 4;
    /// Record, per vCPU: [`super::save_devices::HvmHwLapic`].
    HVM_SAVE_CODE_LAPIC("HVM_SAVE_CODE(LAPIC)"): u16 = 5;
    /// Record, per vCPU: [`super::save_devices::HvmHwLapicRegs`].
    HVM_SAVE_CODE_LAPIC_REGS("HVM_SAVE_CODE(LAPIC_REGS)"): u16 = 6;
    /// Record: [`super::save_devices::HvmHwPciIrqs`].
    HVM_SAVE_CODE_PCI_IRQ("HVM_SAVE_CODE(PCI_IRQ)"): u16 = 7;
    /// Record: [`super::save_devices::HvmHwIsaIrqs`].
    HVM_SAVE_CODE_ISA_IRQ("HVM_SAVE_CODE(ISA_IRQ)"): u16 = 8;
    /// Record: [`super::save_devices::HvmHwPciLink`].
    HVM_SAVE_CODE_PCI_LINK("HVM_SAVE_CODE(PCI_LINK)"): u16 = 9;
    /// Record: [`super::save_devices::HvmHwPit`].
    HVM_SAVE_CODE_PIT("HVM_SAVE_CODE(PIT)"): u16 = 10;
    /// Record: [`super::save_devices::HvmHwRtc`].
    HVM_SAVE_CODE_RTC("HVM_SAVE_CODE(RTC)"): u16 = 11;
    /// Record: [`super::save_devices::HvmHwHpet`].
    HVM_SAVE_CODE_HPET("HVM_SAVE_CODE(HPET)"): u16 = 12;
    /// Record: [`super::save_devices::HvmHwPmtimer`].
    HVM_SAVE_CODE_PMTIMER("HVM_SAVE_CODE(PMTIMER)"): u16 = 13;
    /// Record, per vCPU: [`super::save_devices::HvmHwMtrr`].
    HVM_SAVE_CODE_MTRR("HVM_SAVE_CODE(MTRR)"): u16 = 14;
    /// Record: [`super::save_devices::HvmViridianDomainContext`].
    HVM_SAVE_CODE_VIRIDIAN_DOMAIN("HVM_SAVE_CODE(VIRIDIAN_DOMAIN)"): u16 = 15;
    /// Record, per vCPU: [`super::save_devices::HvmHwCpuXsave`] and the extended area.
    CPU_XSAVE_CODE: u16 = 16;
    /// Record, per vCPU: [`super::save_devices::HvmViridianVcpuContext`].
    HVM_SAVE_CODE_VIRIDIAN_VCPU("HVM_SAVE_CODE(VIRIDIAN_VCPU)"): u16 = 17;
    /// Record, per vCPU: [`super::save_devices::HvmVmceVcpu`].
    HVM_SAVE_CODE_VMCE_VCPU("HVM_SAVE_CODE(VMCE_VCPU)"): u16 = 18;
    /// Record, per vCPU: [`super::save_devices::HvmTscAdjust`].
    HVM_SAVE_CODE_TSC_ADJUST("HVM_SAVE_CODE(TSC_ADJUST)"): u16 = 19;
    /// Record, per vCPU: [`super::save_devices::HvmMsr`] and its entries.
    CPU_MSR_CODE: u16 = 20;
    /// Highest record code in use.
    HVM_SAVE_CODE_MAX: u16 = 20;
}

wire! {
    /// What precedes every record.
    pub struct HvmSaveDescriptor("struct hvm_save_descriptor", 8) {
        /// Which record (`HVM_SAVE_CODE_*`).
        @0 typecode: u16,
        /// Which of several: vCPU or chip number.
        @2 instance: u16,
        /// Bytes of the record, without this descriptor.
        @4 length: u32,
    }

    /// Record [`HVM_SAVE_CODE_HEADER`].
    pub struct HvmSaveHeader("struct hvm_save_header", 24) {
        /// [`HVM_FILE_MAGIC`].
        @0 magic: u32,
        /// [`HVM_FILE_VERSION`].
        @4 version: u32,
        /// Version of the hypervisor that saved the state.
        @8 changeset: u64,
        /// CPUID leaf 1 EAX of the machine that saved the state.
        @16 cpuid: u32,
        /// The guest's TSC frequency, kHz.
        @20 gtsc_khz: u32,
    }

    /// Record [`HVM_SAVE_CODE_CPU`]: a vCPU. Access rights are in the format of VMX without the unusable bit.
    pub struct HvmHwCpu("struct hvm_hw_cpu", 1032) {
        /// FXSAVE image; valid where [`XEN_X86_FPU_INITIALISED`] is set.
        @0 fpu_regs: [u8; 512],
        /// RAX.
        @512 rax: u64,
        /// RBX.
        @520 rbx: u64,
        /// RCX.
        @528 rcx: u64,
        /// RDX.
        @536 rdx: u64,
        /// RBP.
        @544 rbp: u64,
        /// RSI.
        @552 rsi: u64,
        /// RDI.
        @560 rdi: u64,
        /// RSP.
        @568 rsp: u64,
        /// R8.
        @576 r8: u64,
        /// R9.
        @584 r9: u64,
        /// R10.
        @592 r10: u64,
        /// R11.
        @600 r11: u64,
        /// R12.
        @608 r12: u64,
        /// R13.
        @616 r13: u64,
        /// R14.
        @624 r14: u64,
        /// R15.
        @632 r15: u64,
        /// RIP.
        @640 rip: u64,
        /// RFLAGS.
        @648 rflags: u64,
        /// CR0.
        @656 cr0: u64,
        /// CR2.
        @664 cr2: u64,
        /// CR3.
        @672 cr3: u64,
        /// CR4.
        @680 cr4: u64,
        /// DR0.
        @688 dr0: u64,
        /// DR1.
        @696 dr1: u64,
        /// DR2.
        @704 dr2: u64,
        /// DR3.
        @712 dr3: u64,
        /// DR6.
        @720 dr6: u64,
        /// DR7.
        @728 dr7: u64,
        /// Selector of CS.
        @736 cs_sel: u32,
        /// Selector of DS.
        @740 ds_sel: u32,
        /// Selector of ES.
        @744 es_sel: u32,
        /// Selector of FS.
        @748 fs_sel: u32,
        /// Selector of GS.
        @752 gs_sel: u32,
        /// Selector of SS.
        @756 ss_sel: u32,
        /// Selector of TR.
        @760 tr_sel: u32,
        /// Selector of LDTR.
        @764 ldtr_sel: u32,
        /// Limit of CS.
        @768 cs_limit: u32,
        /// Limit of DS.
        @772 ds_limit: u32,
        /// Limit of ES.
        @776 es_limit: u32,
        /// Limit of FS.
        @780 fs_limit: u32,
        /// Limit of GS.
        @784 gs_limit: u32,
        /// Limit of SS.
        @788 ss_limit: u32,
        /// Limit of TR.
        @792 tr_limit: u32,
        /// Limit of LDTR.
        @796 ldtr_limit: u32,
        /// Limit of IDTR.
        @800 idtr_limit: u32,
        /// Limit of GDTR.
        @804 gdtr_limit: u32,
        /// Base of CS.
        @808 cs_base: u64,
        /// Base of DS.
        @816 ds_base: u64,
        /// Base of ES.
        @824 es_base: u64,
        /// Base of FS.
        @832 fs_base: u64,
        /// Base of GS.
        @840 gs_base: u64,
        /// Base of SS.
        @848 ss_base: u64,
        /// Base of TR.
        @856 tr_base: u64,
        /// Base of LDTR.
        @864 ldtr_base: u64,
        /// Base of IDTR.
        @872 idtr_base: u64,
        /// Base of GDTR.
        @880 gdtr_base: u64,
        /// Access rights of CS.
        @888 cs_arbytes: u32,
        /// Access rights of DS.
        @892 ds_arbytes: u32,
        /// Access rights of ES.
        @896 es_arbytes: u32,
        /// Access rights of FS.
        @900 fs_arbytes: u32,
        /// Access rights of GS.
        @904 gs_arbytes: u32,
        /// Access rights of SS.
        @908 ss_arbytes: u32,
        /// Access rights of TR.
        @912 tr_arbytes: u32,
        /// Access rights of LDTR.
        @916 ldtr_arbytes: u32,
        /// MSR_SYSENTER_CS.
        @920 sysenter_cs: u64,
        /// MSR_SYSENTER_ESP.
        @928 sysenter_esp: u64,
        /// MSR_SYSENTER_EIP.
        @936 sysenter_eip: u64,
        /// MSR_KERNEL_GS_BASE.
        @944 shadow_gs: u64,
        /// Obsolete; ignored.
        @952 msr_flags: u64,
        /// MSR_LSTAR.
        @960 msr_lstar: u64,
        /// MSR_STAR.
        @968 msr_star: u64,
        /// MSR_CSTAR.
        @976 msr_cstar: u64,
        /// MSR_FMASK.
        @984 msr_syscall_mask: u64,
        /// MSR_EFER.
        @992 msr_efer: u64,
        /// MSR_TSC_AUX.
        @1000 msr_tsc_aux: u64,
        /// The guest's TSC.
        @1008 tsc: u64,
        /// Event to inject: vector in bits 7:0, type in 10:8, error code valid in 11, valid in 31.
        @1016 pending_event: u32,
        /// Error code of that event.
        @1020 error_code: u32,
        /// [`XEN_X86_FPU_INITIALISED`].
        @1024 flags: u32,
        /// Zero.
        @1028 pad0: u32,
    }
}

abi_module! { "hvm/save.h": consts, wire }
