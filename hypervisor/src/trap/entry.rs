//! Assembles `entry.S` with the offsets of the Rust types it uses.

use crate::cpu::descriptors::{GUEST_CS32, GUEST_CS64, GUEST_SS};
use crate::cpu::percpu::{PERCPU_PV, PERCPU_SIZE, PERCPU_SYSCALL_RSP, PERCPU_VCPU_INFO, PERCPU_WORK};
use crate::mm::layout::CPU_AREA;
use core::arch::global_asm;
use core::mem::{offset_of, size_of};
use hypervisor_core::domain::PvState;
use hypervisor_core::regs::{Regs, VECTOR_SYSCALL};

global_asm!(
    include_str!("entry.S"),
    cs = const offset_of!(Regs, cs),
    rip = const offset_of!(Regs, rip),
    vector = const offset_of!(Regs, vector),
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
    cpu_area = const CPU_AREA,
    pv_kernel_mode = const offset_of!(PvState, kernel_mode),
    options(att_syntax)
);

unsafe extern "C" {
    /// Leaves to the guest whose registers are at `frame`, which is [`crate::cpu::percpu::guest_regs`].
    pub fn enter_guest(frame: *mut Regs) -> !;
}
