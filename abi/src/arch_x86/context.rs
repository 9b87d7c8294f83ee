//! Registers, trap table, whole vCPU contexts and the x86 part of the shared page.

wire! {
    /// One entry of a virtual IDT; a table ends with an entry whose `address` is 0.
    pub struct TrapInfo("struct trap_info", 16) {
        /// The exception's or interrupt's vector.
        @0 vector: u8,
        /// Bits 1:0: lowest privilege that may raise it with `int`; bit 2: mask events on entry.
        @1 flags: u8,
        /// Code selector of the handler.
        @2 cs: u16,
        @4 _pad0(): u32,
        /// Address of the handler.
        @8 address: u64,
    }

    /// The registers of a 64-bit guest.
    pub struct CpuUserRegs("struct cpu_user_regs", 200) {
        /// R15.
        @0 r15: u64,
        /// R14.
        @8 r14: u64,
        /// R13.
        @16 r13: u64,
        /// R12.
        @24 r12: u64,
        /// RBP.
        @32 rbp: u64,
        /// RBX.
        @40 rbx: u64,
        /// R11.
        @48 r11: u64,
        /// R10.
        @56 r10: u64,
        /// R9.
        @64 r9: u64,
        /// R8.
        @72 r8: u64,
        /// RAX.
        @80 rax: u64,
        /// RCX.
        @88 rcx: u64,
        /// RDX.
        @96 rdx: u64,
        /// RSI.
        @104 rsi: u64,
        /// RDI.
        @112 rdi: u64,
        /// The hypervisor's own.
        @120 error_code: u32,
        /// The hypervisor's own.
        @124 entry_vector: u32,
        /// RIP.
        @128 rip: u64,
        /// CS.
        @136 cs: u16,
        @138 _pad0("_pad0"): [u16; 1],
        /// The event mask at the time; its inverse is RFLAGS.IF.
        @140 saved_upcall_mask: u8,
        @141 _pad1("_pad1"): [u8; 3],
        /// RFLAGS.
        @144 rflags: u64,
        /// RSP.
        @152 rsp: u64,
        /// SS.
        @160 ss: u16,
        @162 _pad2("_pad2"): [u16; 3],
        /// ES.
        @168 es: u16,
        @170 _pad3("_pad3"): [u16; 3],
        /// DS.
        @176 ds: u16,
        @178 _pad4("_pad4"): [u16; 3],
        /// FS.
        @184 fs: u16,
        @186 _pad5("_pad5"): [u16; 3],
        /// GS.
        @192 gs: u16,
        @194 _pad6("_pad6"): [u16; 3],
    }

    /// What `HYPERVISOR_iret` finds at the kernel's RSP.
    ///
    /// CS with RPL 3 returns to user mode, anything less to the kernel. With `VGCF_IN_SYSCALL` in `flags`, R11, RCX,
    /// CS and SS are not restored.
    pub struct IretContext("struct iret_context", 72) {
        /// RAX.
        @0 rax: u64,
        /// R11.
        @8 r11: u64,
        /// RCX.
        @16 rcx: u64,
        /// `VGCF_IN_SYSCALL` or 0.
        @24 flags: u64,
        /// RIP.
        @32 rip: u64,
        /// CS.
        @40 cs: u64,
        /// RFLAGS.
        @48 rflags: u64,
        /// RSP.
        @56 rsp: u64,
        /// SS.
        @64 ss: u64,
    }

    /// Everything that a vCPU starts with (`VCPUOP_initialise`, `XEN_DOMCTL_setvcpucontext`).
    pub struct VcpuGuestContext("struct vcpu_guest_context", 5168) {
        /// FPU state in FXSAVE form, where [`VGCF_I387_VALID`](super::VGCF_I387_VALID) is set.
        @0 fpu_ctxt: [u8; 512],
        /// `VGCF_*`.
        @512 flags: u64,
        /// The registers.
        @520 user_regs: CpuUserRegs,
        /// The virtual IDT.
        @720 trap_ctxt: [TrapInfo; 256],
        /// Linear address of the LDT.
        @4816 ldt_base: u64,
        /// Its entries.
        @4824 ldt_ents: u64,
        /// Machine frames of the GDT.
        @4832 gdt_frames: [u64; 16],
        /// Its entries.
        @4960 gdt_ents: u64,
        /// Kernel stack segment.
        @4968 kernel_ss: u64,
        /// Kernel stack pointer.
        @4976 kernel_sp: u64,
        /// CR0 to CR7; CR3 is the kernel's table, CR1 the user's.
        @4984 ctrlreg: [u64; 8],
        /// DR0 to DR7.
        @5048 debugreg: [u64; 8],
        /// Entry for events.
        @5112 event_callback_eip: u64,
        /// Entry for segment registers that could not be restored.
        @5120 failsafe_callback_eip: u64,
        /// Entry for SYSCALL from user mode.
        @5128 syscall_callback_eip: u64,
        /// Bitmap of `VMASST_TYPE_*`.
        @5136 vm_assist: u64,
        /// FS base.
        @5144 fs_base: u64,
        /// GS base while the kernel runs.
        @5152 gs_base_kernel: u64,
        /// GS base while the user runs.
        @5160 gs_base_user: u64,
    }

    /// x86 part of `vcpu_info`.
    pub struct ArchVcpuInfo("struct arch_vcpu_info", 16) [shared] {
        /// Fault address of the last #PF that was delivered.
        @0 cr2: u64,
        @8 pad("pad"): u64,
    }

    /// x86 part of `shared_info`: where the guest says its P2M is, so that a toolstack can save it.
    pub struct ArchSharedInfo("struct arch_shared_info", 48) [shared] {
        /// Valid entries of the P2M.
        @0 max_pfn: u64,
        /// Frame of a list of frames of lists of frames of the P2M; 0 not yet set, all ones: use `p2m_vaddr`.
        @8 pfn_to_mfn_frame_list_list: u64,
        /// Why an NMI was sent: bits of `XEN_NMIREASON_*`.
        @16 nmi_reason: u64,
        /// Non-zero: CR3 of the address space in which `p2m_vaddr` is valid.
        @24 p2m_cr3: u64,
        /// Virtual address of the linear P2M list.
        @32 p2m_vaddr: u64,
        /// Odd while the guest changes the list's mapping.
        @40 p2m_generation: u64,
    }

    /// x86 part of `XEN_DOMCTL_createdomain`.
    pub struct XenArchDomainconfig("struct xen_arch_domainconfig", 8) {
        /// `XEN_X86_EMU_*`.
        @0 emulation_flags: u32,
        /// `XEN_X86_MSR_RELAXED`.
        @4 misc_flags: u32,
    }

    /// One CPUID leaf of a CPU policy.
    pub struct XenCpuidLeaf("struct xen_cpuid_leaf", 24) {
        /// EAX on input.
        @0 leaf: u32,
        /// ECX on input, or [`XEN_CPUID_NO_SUBLEAF`](super::XEN_CPUID_NO_SUBLEAF).
        @4 subleaf: u32,
        /// EAX.
        @8 a: u32,
        /// EBX.
        @12 b: u32,
        /// ECX.
        @16 c: u32,
        /// EDX.
        @20 d: u32,
    }

    /// One MSR of a CPU policy.
    pub struct XenMsrEntry("struct xen_msr_entry", 16) {
        /// The MSR's index.
        @0 idx: u32,
        /// Zero.
        @4 flags: u32,
        /// Its value.
        @8 val: u64,
    }
}

abi_module! { "xen.h": wire }
