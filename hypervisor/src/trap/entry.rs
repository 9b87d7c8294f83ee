//! Assembles `entry.S` with the offsets of the Rust types it uses.

use crate::cpu::descriptors::{GUEST_CS32, GUEST_CS64, GUEST_SS, HV_SS};
use crate::cpu::isolation::{ISOLATED, VERW};
use crate::cpu::percpu::{
    ENTRY_SMAP, PERCPU_FULL_CR3, PERCPU_GUEST_CR3, PERCPU_ISOLATED, PERCPU_ON_ENTRY, PERCPU_PV, PERCPU_SIZE,
    PERCPU_SYSCALL_RSP, PERCPU_VCPU_INFO, PERCPU_VERWS, PERCPU_VM_ASSIST, PERCPU_WORK,
};
use crate::mm::layout::{CPU_AREA, CPU_AREAS, HYPERVISOR_END};
use crate::mm::uaccess::{GATE, GATE_SMAP};
use crate::pv::{bounce, iret, quick};
use core::arch::global_asm;
use core::mem::{offset_of, size_of};
use hypervisor_core::domain::{PvState, VcpuFlags};
use hypervisor_core::hypercall::HYPERCALLS;
use hypervisor_core::regs::{Regs, VECTOR_SYSCALL};
use xen_abi::hypercall::nr;
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

global_asm!(
    include_str!("entry.S"),
    r15 = const offset_of!(Regs, r15),
    r14 = const offset_of!(Regs, r14),
    r13 = const offset_of!(Regs, r13),
    r12 = const offset_of!(Regs, r12),
    rbp = const offset_of!(Regs, rbp),
    rbx = const offset_of!(Regs, rbx),
    r11 = const offset_of!(Regs, r11),
    r10 = const offset_of!(Regs, r10),
    r9 = const offset_of!(Regs, r9),
    r8 = const offset_of!(Regs, r8),
    rax = const offset_of!(Regs, rax),
    rcx = const offset_of!(Regs, rcx),
    rdx = const offset_of!(Regs, rdx),
    rsi = const offset_of!(Regs, rsi),
    rdi = const offset_of!(Regs, rdi),
    vector = const offset_of!(Regs, vector),
    error_code = const offset_of!(Regs, error_code),
    rip = const offset_of!(Regs, rip),
    cs = const offset_of!(Regs, cs),
    rflags = const offset_of!(Regs, rflags),
    rsp = const offset_of!(Regs, rsp),
    ss = const offset_of!(Regs, ss),
    regs_size = const size_of::<Regs>(),
    guest_ss = const GUEST_SS,
    guest_cs = const GUEST_CS64,
    guest_cs32 = const GUEST_CS32,
    vector_syscall = const VECTOR_SYSCALL,
    vector_syscall32 = const VECTOR_SYSCALL + 1,
    vector_sysenter = const VECTOR_SYSCALL + 2,
    percpu_syscall_rsp = const PERCPU_SYSCALL_RSP,
    percpu_pv = const PERCPU_PV,
    percpu_vcpu_info = const PERCPU_VCPU_INFO,
    percpu_work = const PERCPU_WORK,
    percpu_size = const PERCPU_SIZE,
    percpu_isolated = const PERCPU_ISOLATED,
    percpu_verws = const PERCPU_VERWS,
    percpu_on_entry = const PERCPU_ON_ENTRY,
    entry_smap = const ENTRY_SMAP,
    percpu_guest_cr3 = const PERCPU_GUEST_CR3,
    percpu_full_cr3 = const PERCPU_FULL_CR3,
    isolated = const ISOLATED,
    verw = const VERW,
    hv_ss = const HV_SS,
    cpu_area = const CPU_AREA,
    cpu_areas = const CPU_AREAS,
    percpu_vm_assist = const PERCPU_VM_ASSIST,
    pv_kernel_mode = const offset_of!(PvState, kernel_mode),
    pv_flags = const offset_of!(PvState, flags),
    pv_kernel_sp = const offset_of!(PvState, kernel_sp),
    pv_syscall_callback = const offset_of!(PvState, syscall_callback),
    pv_guest_table = const offset_of!(PvState, guest_table),
    pv_guest_table_user = const offset_of!(PvState, guest_table_user),
    syscall_masks_events = const VcpuFlags::SYSCALL_MASKS_EVENTS.bits(),
    iret_slowly = const VcpuFlags::NMI_ACTIVE.union(VcpuFlags::CHECKS_READS).bits(),
    assist_iopl = const 1_u32 << VMASST_TYPE_ARCHITECTURAL_IOPL,
    nr_iret = const nr::IRET,
    hypercalls = const HYPERCALLS,
    quick_hypercalls = sym quick::TABLE,
    hypervisor_end = const HYPERVISOR_END,
    syscall_clears = const bounce::SYSCALL_CLEARS,
    rflags_forbidden = const iret::RFLAGS_FORBIDDEN,
    rflags_always = const iret::RFLAGS_ALWAYS,
    gate = sym GATE,
    gate_smap = const GATE_SMAP,
    options(att_syntax)
);

unsafe extern "C" {
    /// Leaves to the guest whose registers are at `frame`, which is [`crate::cpu::percpu::guest_regs`].
    pub fn enter_guest(frame: *mut Regs) -> !;
}
