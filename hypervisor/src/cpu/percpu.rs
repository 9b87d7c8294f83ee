//! What each CPU keeps for itself, and how it finds it.
//!
//! A CPU area is 128 KiB, aligned to its size: guard page, four small stacks for exceptions that may come at any
//! instant (double fault, NMI, machine check, debug), another guard page, the main stack, and at the very end [`PerCpu`]. Every
//! stack of a CPU lies in its area, so the stack pointer alone tells where [`PerCpu`] is: no segment register
//! is needed, and the guest's GS base stays loaded while the hypervisor runs.
//!
//! The registers of the guest that entered are always right below [`PerCpu`], at [`guest_regs`].

use super::isolation::{Copy, ISOLATED};
use crate::machine::Machine;
use crate::mm::layout::{CPU_AREA, CPU_AREAS};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use hypervisor_core::cpumask::MAX_CPUS;
use hypervisor_core::domain::{PvState, VcpuRef};
use hypervisor_core::flush::FlushRequests;
use hypervisor_core::ids::CpuId;
use hypervisor_core::nmi::NmiNotes;
use hypervisor_core::regs::Regs;
use hypervisor_core::work::RaisedWork;

/// Offsets of the ends of the small stacks within a CPU area, by IST number less one.
pub const IST_STACK_ENDS: [u64; 4] = [0x2800, 0x4000, 0x5800, 0x7000];
/// Offsets of the unmapped pages.
pub const GUARD_PAGES: [u64; 2] = [0, 0x7000];

/// Per-CPU data. Only its own CPU touches the fields that are not atomic.
#[repr(C, align(16))]
pub struct PerCpu {
    /// Stack pointer of the guest between `syscall` and its place in the register frame.
    pub syscall_rsp: AtomicU64,
    /// PV state of the vCPU whose context is loaded; null before the first.
    pub pv: AtomicPtr<PvState>,
    /// First word of that vCPU's `vcpu_info`, in the direct map (or a word that is always 0).
    pub vcpu_info: AtomicPtr<AtomicU64>,
    /// Bits of the vCPU's domain's `VMASST_TYPE_*`; null before the first.
    pub vm_assist: AtomicPtr<AtomicU64>,
    /// To do before the next exit to a guest. The entry code knows it as a word that is 0 while there is nothing.
    pub work: RaisedWork,
    /// What the way to the loaded vCPU has to do beside the usual (`cpu::isolation`). Right behind `work`: the quick ways look at both
    /// in one comparison.
    isolated: AtomicU32,
    /// What entries by the IDT have to do before Rust runs: [`ISOLATED`] as above, and [`ENTRY_SMAP`].
    on_entry: AtomicU32,
    /// This CPU's number.
    pub id: AtomicU32,
    /// CR3 of the copy that an isolated vCPU runs on; 0 before the first.
    pub guest_cr3: AtomicU64,
    /// CR3 for the hypervisor's work on its behalf.
    pub full_cr3: AtomicU64,
    /// This CPU's copies of roots: of the user's and of the kernel's.
    pub copies: [Copy; 2],
    /// How often this CPU changed from one domain to another where IBPB is on, and executed VERW on the way to a guest.
    pub barriers: [AtomicU64; 2],
    /// Local APIC identifier.
    pub apic_id: AtomicU32,
    /// TLB flushes that others ask of this CPU (`cpu::smp`).
    pub flushes: FlushRequests,
    /// The last grace period during which this CPU was quiescent (`cpu::smp`).
    pub quiescent: AtomicU64,
    /// NMIs of the platform that arrived here and wait to be judged (`trap::nmi`).
    pub nmis: NmiNotes,
    /// 1 while the loaded vCPU is this CPU's to run, 0 while the CPU idles.
    pub running: AtomicU32,
    /// 1 once the CPU came up.
    pub online: AtomicU32,
    /// First page-table entry of this CPU's window on descriptor tables; null until it is first asked for.
    pub window: AtomicPtr<AtomicU64>,
    /// Pages of that window up to which any of a GDT is mapped.
    pub gdt_pages: AtomicU32,
    /// 1 while any of an LDT is mapped there.
    pub has_ldt: AtomicU32,
    current: UnsafeCell<Option<VcpuRef<Machine>>>,
    /// The CPU's task state segment.
    pub tss: UnsafeCell<super::descriptors::Tss>,
}

/// Entries by the IDT close the gate to guest memory: CR4.SMAP is set.
pub const ENTRY_SMAP: u32 = 1 << 1;
const _: () = assert!(ENTRY_SMAP & ISOLATED == 0);

/// Bytes of [`PerCpu`], as the entry code needs them.
pub const PERCPU_SIZE: usize = size_of::<PerCpu>();
/// Offset of [`PerCpu`] within its area.
const PERCPU_OFFSET: u64 = CPU_AREA - PERCPU_SIZE as u64;

const _: () = assert!(PERCPU_WORK.is_multiple_of(8) && PERCPU_ISOLATED == PERCPU_WORK + 4);
const _: () = assert!(PERCPU_SIZE.is_multiple_of(16) && size_of::<Regs>().is_multiple_of(16));
/// `offset_of!` for the assembly.
pub const PERCPU_SYSCALL_RSP: usize = offset_of!(PerCpu, syscall_rsp);
/// `offset_of!` for the assembly.
pub const PERCPU_PV: usize = offset_of!(PerCpu, pv);
/// `offset_of!` for the assembly.
pub const PERCPU_VCPU_INFO: usize = offset_of!(PerCpu, vcpu_info);
/// `offset_of!` for the assembly.
pub const PERCPU_WORK: usize = offset_of!(PerCpu, work);
/// `offset_of!` for the assembly.
pub const PERCPU_ISOLATED: usize = offset_of!(PerCpu, isolated);
/// `offset_of!` for the assembly.
pub const PERCPU_ON_ENTRY: usize = offset_of!(PerCpu, on_entry);
/// Offset of the count of VERW, for the assembly.
pub const PERCPU_VERWS: usize = offset_of!(PerCpu, barriers) + 8;
/// `offset_of!` for the assembly.
pub const PERCPU_GUEST_CR3: usize = offset_of!(PerCpu, guest_cr3);
/// `offset_of!` for the assembly.
pub const PERCPU_FULL_CR3: usize = offset_of!(PerCpu, full_cr3);
/// `offset_of!` for the assembly.
pub const PERCPU_VM_ASSIST: usize = offset_of!(PerCpu, vm_assist);

// SAFETY: the `UnsafeCell`s are only touched by the CPU that owns the area, outside of interrupt handlers.
unsafe impl Sync for PerCpu {}

/// Address of the [`PerCpu`] of the CPU with this number.
pub fn percpu_address(cpu: CpuId) -> u64 {
    CPU_AREAS + u64::from(cpu.0) * CPU_AREA + PERCPU_OFFSET
}

/// Address of the area of the CPU with this number.
pub fn percpu_area(cpu: CpuId) -> u64 {
    percpu_address(cpu) - PERCPU_OFFSET
}

/// Where the stack of a CPU starts that has no guest's registers on it yet: it leaves their place free.
pub fn stack_top(cpu: CpuId) -> u64 {
    percpu_address(cpu) - size_of::<Regs>() as u64
}

/// This CPU's data.
#[inline(always)]
pub fn this_cpu() -> &'static PerCpu {
    let rsp: u64;
    // SAFETY: reads a register. All stacks lie in a CPU area whose last bytes are a `PerCpu` that lives for ever; all-zero
    // bytes (a fresh area) are a valid one.
    unsafe {
        asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags));
        &*(((rsp & !(CPU_AREA - 1)) + PERCPU_OFFSET) as *const PerCpu)
    }
}

/// Another CPU's data. Panics for a number that no CPU can have.
pub fn cpu(id: CpuId) -> &'static PerCpu {
    assert!((id.0 as usize) < MAX_CPUS, "no CPU can have the number {}", id.0);
    // SAFETY: within the range of the CPU areas, as the number is one of a CPU's. Areas of all CPUs that have a number are mapped
    // before the number is given out, and stay; where none is mapped there is nothing else, and the access faults.
    unsafe { &*(percpu_address(id) as *const PerCpu) }
}

/// Where the entry code puts the guest's registers on this CPU.
pub fn guest_regs() -> *mut Regs {
    (core::ptr::from_ref(this_cpu()) as u64 - size_of::<Regs>() as u64) as *mut Regs
}

impl PerCpu {
    /// The vCPU whose context is loaded on this CPU.
    pub fn current(&self) -> Option<&VcpuRef<Machine>> {
        // SAFETY: only this CPU writes the cell, in `set_current`, whose caller holds no reference from here.
        unsafe { (*self.current.get()).as_ref() }
    }

    /// Makes `next` the loaded vCPU and gives the one before back.
    ///
    /// # Safety
    /// On this CPU only, with no reference from [`PerCpu::current`] alive.
    pub unsafe fn set_current(&self, next: Option<VcpuRef<Machine>>) -> Option<VcpuRef<Machine>> {
        let pv =
            next.as_ref().map_or(core::ptr::null_mut(), |v| core::ptr::from_ref(&v.vcpu().pv).cast_mut());
        self.pv.store(pv, Ordering::Relaxed);
        let assist =
            next.as_ref().map_or(core::ptr::null_mut(), |v| (&raw const v.domain.vm_assist).cast_mut());
        self.vm_assist.store(assist, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { core::mem::replace(&mut *self.current.get(), next) }
    }

    /// What the way to the loaded vCPU has to do beside the usual: bits of `cpu::isolation`.
    pub fn isolated(&self) -> u32 {
        self.isolated.load(Ordering::Relaxed)
    }

    /// The same of the vCPU that is about to be loaded, whose full root is loaded next. On this CPU only.
    pub fn set_isolated(&self, flags: u32) {
        let smap = self.on_entry.load(Ordering::Relaxed) & ENTRY_SMAP;
        self.isolated.store(flags, Ordering::Relaxed);
        self.on_entry.store(smap | flags & ISOLATED, Ordering::Relaxed);
    }

    /// From now on entries by the IDT close the gate. On this CPU only.
    pub fn close_gate_on_entry(&self) {
        self.on_entry.fetch_or(ENTRY_SMAP, Ordering::Relaxed);
    }

    /// This CPU's number.
    pub fn id(&self) -> CpuId {
        CpuId(self.id.load(Ordering::Relaxed))
    }
}
