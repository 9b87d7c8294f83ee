//! `hvm/hvm_vcpu.h`: initial registers of a vCPU of a hardware guest (argument of `VCPUOP_initialise`).

consts! {
    /// `mode`: `cpu_regs` is a [`VcpuHvmX8632`].
    VCPU_HVM_MODE_32B: u32 = 0;
    /// `mode`: `cpu_regs` is a [`VcpuHvmX8664`].
    VCPU_HVM_MODE_64B: u32 = 1;
}

wire! {
    /// Registers of a vCPU that starts in 32-bit or compatibility mode. Access rights (`*_ar`): bits 3:0
    /// type, 4 not system, 6:5 DPL, 7 present, 8 available, 9 long, 10 default size, 11 granularity (Intel
    /// SDM volume 3, 3.4.5).
    pub struct VcpuHvmX8632("struct vcpu_hvm_x86_32", 120) {
        /// EAX.
        @0 eax: u32,
        /// ECX.
        @4 ecx: u32,
        /// EDX.
        @8 edx: u32,
        /// EBX.
        @12 ebx: u32,
        /// ESP.
        @16 esp: u32,
        /// EBP.
        @20 ebp: u32,
        /// ESI.
        @24 esi: u32,
        /// EDI.
        @28 edi: u32,
        /// EIP.
        @32 eip: u32,
        /// EFLAGS.
        @36 eflags: u32,
        /// CR0.
        @40 cr0: u32,
        /// CR3.
        @44 cr3: u32,
        /// CR4.
        @48 cr4: u32,
        /// Zero.
        @52 pad1: u32,
        /// EFER: only for NXE, or LME and LMA to start in compatibility mode.
        @56 efer: u64,
        /// Base of CS.
        @64 cs_base: u32,
        /// Base of DS.
        @68 ds_base: u32,
        /// Base of SS.
        @72 ss_base: u32,
        /// Base of ES.
        @76 es_base: u32,
        /// Base of TR.
        @80 tr_base: u32,
        /// Limit of CS.
        @84 cs_limit: u32,
        /// Limit of DS.
        @88 ds_limit: u32,
        /// Limit of SS.
        @92 ss_limit: u32,
        /// Limit of ES.
        @96 es_limit: u32,
        /// Limit of TR.
        @100 tr_limit: u32,
        /// Access rights of CS.
        @104 cs_ar: u16,
        /// Access rights of DS.
        @106 ds_ar: u16,
        /// Access rights of SS.
        @108 ss_ar: u16,
        /// Access rights of ES.
        @110 es_ar: u16,
        /// Access rights of TR.
        @112 tr_ar: u16,
        /// Zero.
        @114 pad2: [u16; 3],
    }

    /// Registers of a vCPU that starts in 64-bit mode, with flat segments.
    pub struct VcpuHvmX8664("struct vcpu_hvm_x86_64", 112) {
        /// RAX.
        @0 rax: u64,
        /// RCX.
        @8 rcx: u64,
        /// RDX.
        @16 rdx: u64,
        /// RBX.
        @24 rbx: u64,
        /// RSP.
        @32 rsp: u64,
        /// RBP.
        @40 rbp: u64,
        /// RSI.
        @48 rsi: u64,
        /// RDI.
        @56 rdi: u64,
        /// RIP.
        @64 rip: u64,
        /// RFLAGS.
        @72 rflags: u64,
        /// CR0.
        @80 cr0: u64,
        /// CR3.
        @88 cr3: u64,
        /// CR4.
        @96 cr4: u64,
        /// EFER.
        @104 efer: u64,
    }

    /// Argument of `VCPUOP_initialise` for a hardware guest.
    #[repr(align(8))]
    pub struct VcpuHvmContext("struct vcpu_hvm_context", 128) {
        /// `VCPU_HVM_MODE_*`.
        @0 mode: u32,
        /// Zero.
        @4 pad: u32,
        /// [`VcpuHvmX8632`] or [`VcpuHvmX8664`].
        @8 cpu_regs: [u8; 120],
    }
}

abi_module! { "hvm/hvm_vcpu.h": consts, wire }
