//! The state of a PV vCPU that hypercalls set and that entries and exits read.
//!
//! `repr(C)`, all atomics: the assembly of the hypervisor reads it at `offset_of!`. Only the vCPU itself writes it while
//! it runs, so relaxed loads and stores are enough; what another CPU must see first is published by the scheduler's
//! locks when the vCPU moves.

use crate::ids::Mfn;
use crate::page::RootSlot;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use xen_abi::xen::VcpuInfo;

bitflags! {
    /// Bits of [`PvState::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VcpuFlags: u32 {
        /// The failsafe callback runs with events masked.
        const FAILSAFE_MASKS_EVENTS = 1 << 0;
        /// The 64-bit syscall callback runs with events masked.
        const SYSCALL_MASKS_EVENTS = 1 << 1;
        /// The 32-bit syscall callback was registered to mask events: only a 32-bit kernel's would.
        const SYSCALL32_MASKS_EVENTS = 1 << 2;
        /// The sysenter callback runs with events masked.
        const SYSENTER_MASKS_EVENTS = 1 << 3;
        /// The guest set CR0.TS (`fpu_taskswitch`).
        const TASK_SWITCHED = 1 << 4;
        /// `VCPUOP_initialise` (or the domain builder) gave it its first context.
        const INITIALISED = 1 << 5;
        /// An NMI waits to be delivered.
        const NMI_PENDING = 1 << 6;
        /// An NMI is being handled: the next waits for `iret`.
        const NMI_ACTIVE = 1 << 7;
        /// What is read for it is checked first: its domain has linear L4 entries ([`crate::page::LinearRoots`]).
        const CHECKS_READS = 1 << 8;
        /// The guest chose a place for its `vcpu_info`, which it may do once.
        const INFO_REGISTERED = 1 << 9;
    }
}

/// One entry of the guest's trap table: selector and address of the handler, least privilege that may raise it by
/// `int n`, and whether it starts with events masked.
#[derive(Debug, Default)]
#[repr(C)]
pub struct TrapSlot {
    /// Address of the handler; 0 with a null selector: none.
    pub address: AtomicU64,
    /// Selector in bits 15..0, DPL in bits 17..16, bit 18: mask events on delivery (`TI_GET_IF`).
    pub meta: AtomicU32,
}

impl TrapSlot {
    /// [`TrapSlot::meta`]'s bit for "mask events on delivery".
    pub const MASK_EVENTS: u32 = 1 << 18;

    /// Sets handler, selector, DPL and event masking.
    pub fn set(&self, address: u64, selector: u16, dpl: u8, mask_events: bool) {
        let mask = if mask_events { Self::MASK_EVENTS } else { 0 };
        self.meta.store(u32::from(selector) | u32::from(dpl & 3) << 16 | mask, Ordering::Relaxed);
        self.address.store(address, Ordering::Relaxed);
    }

    /// The handler's code selector; null (0..=3) means no handler.
    pub fn selector(&self) -> u16 {
        (self.meta.load(Ordering::Relaxed) & 0xffff) as u16
    }

    /// Whether events are masked on delivery.
    pub fn masks_events(&self) -> bool {
        self.meta.load(Ordering::Relaxed) & Self::MASK_EVENTS != 0
    }

    /// Least privileged ring that may raise this vector by `int n`.
    pub fn dpl(&self) -> u8 {
        (self.meta.load(Ordering::Relaxed) >> 16 & 3) as u8
    }
}

/// PV state of a vCPU.
#[derive(Debug)]
#[repr(C)]
pub struct PvState {
    /// 1 while the guest kernel runs, 0 while its user code does.
    pub kernel_mode: AtomicU32,
    /// [`VcpuFlags`].
    pub flags: AtomicU32,
    /// Stack of the guest kernel for entries from its user mode (`stack_switch`).
    pub kernel_sp: AtomicU64,
    /// Stack segment that goes with it.
    pub kernel_ss: AtomicU64,
    /// Machine address of the vCPU's `vcpu_info`, 0 while it has none.
    pub vcpu_info: AtomicU64,
    /// Entry of the event upcall.
    pub event_callback: AtomicU64,
    /// Entry for failed loads of a segment register on the way back to the guest.
    pub failsafe_callback: AtomicU64,
    /// Entry of `syscall` from 64-bit user code.
    pub syscall_callback: AtomicU64,
    /// Entry of `syscall` from 32-bit user code.
    pub syscall32_callback: AtomicU64,
    /// Entry of `sysenter` from user code.
    pub sysenter_callback: AtomicU64,
    /// Selectors of the two, which a toolstack sets and reads back; a 64-bit kernel is entered by its flat segment all the same.
    pub syscall32_cs: AtomicU32,
    /// See [`PvState::syscall32_cs`].
    pub sysenter_cs: AtomicU32,
    /// The kernel's address space.
    pub guest_table: RootSlot,
    /// The user address space; a kernel need not have one.
    pub guest_table_user: RootSlot,
    /// FS base.
    pub fs_base: AtomicU64,
    /// GS base in kernel mode.
    pub gs_base_kernel: AtomicU64,
    /// GS base in user mode.
    pub gs_base_user: AtomicU64,
    /// Virtual address of the LDT.
    pub ldt_base: AtomicU64,
    /// Entries in the LDT; 0: none.
    pub ldt_entries: AtomicU32,
    /// Entries in the guest's part of the GDT.
    pub gdt_entries: AtomicU32,
    /// Frames of the guest's part of the GDT, each with a segment-descriptor type reference; 0: none.
    pub gdt_frames: [AtomicU64; GDT_FRAMES],
    /// Guest's virtual CR4.
    pub cr4: AtomicU64,
    /// I/O privilege level of the guest kernel (0..=3), as `PHYSDEVOP_set_iopl` set it.
    pub iopl: AtomicU8,
    /// Number of ports covered by the user I/O bitmap at `iobmp` (`PHYSDEVOP_set_iobitmap`).
    pub iobmp_ports: AtomicU32,
    /// Guest virtual address of that bitmap.
    pub iobmp: AtomicU64,
    /// What the CPU has in the place of a `vcpu_info` while the vCPU runs without one: never an event pending. It is the vCPU's own, for
    /// the guest reads and writes some of it, CR2 for one.
    pub without_info: [AtomicU64; size_of::<VcpuInfo>() / 8],
    /// Handlers of exceptions and software interrupts, 256 of them. On the heap, because 4 KiB are much for a stack.
    pub traps: Box<[TrapSlot]>,
}

/// The first word of a `vcpu_info` of which upcalls are masked.
const UPCALL_MASK: u64 = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));

/// Traps that there are.
const TRAPS: usize = 256;
/// Frames of the GDT that belong to the guest; the rest is the hypervisor's (`FIRST_RESERVED_GDT_PAGE`).
pub const GDT_FRAMES: usize = 14;

impl PvState {
    /// All clear: a vCPU that was never initialised. `None`: there is no memory for it.
    pub fn new() -> Option<Self> {
        let mut traps = Vec::new();
        traps.try_reserve_exact(TRAPS).ok()?;
        traps.resize_with(TRAPS, TrapSlot::default);
        Some(Self {
            kernel_mode: AtomicU32::new(1),
            flags: AtomicU32::new(0),
            kernel_sp: AtomicU64::new(0),
            kernel_ss: AtomicU64::new(0),
            vcpu_info: AtomicU64::new(0),
            event_callback: AtomicU64::new(0),
            failsafe_callback: AtomicU64::new(0),
            syscall_callback: AtomicU64::new(0),
            syscall32_callback: AtomicU64::new(0),
            sysenter_callback: AtomicU64::new(0),
            syscall32_cs: AtomicU32::new(0),
            sysenter_cs: AtomicU32::new(0),
            guest_table: RootSlot::empty(),
            guest_table_user: RootSlot::empty(),
            fs_base: AtomicU64::new(0),
            gs_base_kernel: AtomicU64::new(0),
            gs_base_user: AtomicU64::new(0),
            ldt_base: AtomicU64::new(0),
            ldt_entries: AtomicU32::new(0),
            gdt_entries: AtomicU32::new(0),
            gdt_frames: [const { AtomicU64::new(0) }; GDT_FRAMES],
            cr4: AtomicU64::new(0),
            iopl: AtomicU8::new(0),
            iobmp_ports: AtomicU32::new(0),
            iobmp: AtomicU64::new(0),
            without_info: [const { AtomicU64::new(UPCALL_MASK) }; _],
            traps: traps.into_boxed_slice(),
        })
    }

    /// The root that the vCPU runs on in its present mode. A vCPU without one cannot run.
    #[inline]
    pub fn root(&self) -> Option<Mfn> {
        let slot = if self.kernel_mode.load(Ordering::Relaxed) != 0 {
            &self.guest_table
        } else {
            &self.guest_table_user
        };
        slot.get()
    }

    /// Sets or clears flags.
    pub fn set_flags(&self, flags: VcpuFlags, on: bool) {
        if on {
            self.flags.fetch_or(flags.bits(), Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flags.bits(), Ordering::Relaxed);
        }
    }

    /// Sets a flag; answers whether it was not set before. Of several CPUs that do this one is told so.
    pub(crate) fn claim_flag(&self, flag: VcpuFlags) -> bool {
        self.flags.fetch_or(flag.bits(), Ordering::AcqRel) & flag.bits() == 0
    }

    /// Whether all of `flags` are set.
    pub fn has_flags(&self, flags: VcpuFlags) -> bool {
        self.flags.load(Ordering::Relaxed) & flags.bits() == flags.bits()
    }
}
