//! The seam between hypercall semantics and the machine.
//!
//! The core owns every decision about domains, frames, events and time; the platform owns registers, raw memory
//! and devices, and answers only what is asked here. Static dispatch: the binary has one implementation, host tests
//! another (`mock`). None of these methods may call back into the core, except where its text says so.

use crate::cpu_policy::side_channels::{Barriers, Mitigations, SafeEntries};
use crate::cpumask::CpuMask;
use crate::domain::{Domain, Vcpu};
use crate::ids::{CpuId, GuestVirt, Mfn, Nanos, PAGE_SIZE, Pirq};
use crate::page::FrameInfo;
use crate::regs::Regs;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::errno::Errno;

/// Number of 64-bit words in a frame.
pub const WORDS_PER_FRAME: usize = PAGE_SIZE / 8;

/// A frame seen as words. Guests may change a frame at any time, so there is no other way to look at one.
pub type FrameWords = [AtomicU64; WORDS_PER_FRAME];

/// The proof that a frame is not one that the hypervisor itself lives in (its image, heap, stacks and page tables), without which
/// the core does not get at a frame's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFrame(Mfn);

impl GuestFrame {
    /// The frame `mfn`, if it is RAM and not the hypervisor's. It may become the hypervisor's at any time unless the caller holds a
    /// reference: so without one, what is read is not to be believed, and nothing may be written.
    #[inline(always)]
    pub(crate) fn find(frames: &[FrameInfo], mfn: Mfn) -> Option<Self> {
        let info = frames.get(usize::try_from(mfn.0).ok()?)?;
        info.is_no_hypervisors().then_some(Self(mfn))
    }

    /// A frame to which the caller holds a reference, or which it took from the allocator to give it to a domain.
    #[inline(always)]
    pub(crate) const fn held(mfn: Mfn) -> Self {
        Self(mfn)
    }

    /// Its number.
    #[inline(always)]
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        self.0
    }
}

#[cold]
#[inline(never)]
fn no_guests_frame(mfn: Mfn) -> ! {
    panic!("frame {mfn} is no guest's");
}

/// A guest address could not be read or written: the hypercall answers `-EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFault;

impl From<GuestFault> for Errno {
    fn from(_: GuestFault) -> Errno {
        Errno::EFAULT
    }
}

/// What a TLB flush must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything, global entries too: page-table frames changed their use.
    All,
    /// One page (`invlpg`), in every address space of the CPU: global entries too.
    Page(GuestVirt),
}

bitflags! {
    /// Work that a CPU does before it returns to a guest. Interrupt handlers only raise work: no core lock is ever
    /// taken in interrupt context.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Work: u32 {
        /// Choose the vCPU to run anew.
        const RESCHEDULE = 1 << 0;
        /// Timers of this CPU may have expired.
        const TIMER = 1 << 1;
        /// Device interrupts arrived and wait to be delivered as events.
        const IRQ = 1 << 2;
        /// Bytes arrived on the console, its line has room for text that waited for it, or its log grew.
        const CONSOLE = 1 << 3;
        /// Another CPU waits for this one to have nothing in progress: see [`Platform::begin_grace`].
        const QUIESCE = 1 << 4;
        /// An NMI waits for the vCPU that runs here.
        const NMI = 1 << 5;
        /// NMIs of the platform arrived at this CPU: see [`crate::nmi`].
        const PLATFORM_NMI = 1 << 6;
        /// A domain is to be ended whose page tables showed why: see `Hypervisor::end_convicted`.
        const CONVICTED = 1 << 7;
    }
}

/// One reading of the clock, as `vcpu_time_info` publishes it: at `tsc` it was `system_time`, and since then
/// `((delta << tsc_shift) * tsc_to_system_mul) >> 32` nanoseconds have passed (a negative shift shifts right).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRecord {
    /// Time-stamp counter at the reading.
    pub tsc: u64,
    /// System time at the reading.
    pub system_time: Nanos,
    /// Fixed-point factor, 32 fractional bits.
    pub tsc_to_system_mul: u32,
    /// Binary exponent applied to the TSC difference before the multiplication.
    pub tsc_shift: i8,
    /// The TSCs of all CPUs are one clock, at a rate that never changes.
    pub stable: bool,
}

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Level-triggered (must be acknowledged by the guest), else edge-triggered.
    pub level: bool,
    /// Active low, else active high.
    pub active_low: bool,
}

/// A PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI segment group.
    pub segment: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number in bits 7..3, function in bits 2..0.
    pub devfn: u8,
}

/// What an MSI request names (physdev.h, `physdev_map_pirq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRequest {
    /// The function that will signal.
    pub device: PciAddress,
    /// First vector's index in the device's MSI-X table; 0 for MSI.
    pub entry: u32,
    /// Number of vectors; more than one only for MSI.
    pub count: u32,
    /// Machine address of the MSI-X table as the guest knows it, 0 for plain MSI.
    pub table_base: u64,
}

/// What ends the machine's life (or its current one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// Power off (ACPI S5, else halt).
    PowerOff,
    /// Reset (ACPI reset register, keyboard controller, triple fault: in this order).
    Reboot,
    /// Stop and keep what is on the console: somebody is to read it.
    Halt,
}

/// The machine, as the core needs it.
pub trait Platform: Send + Sync + Sized + 'static {
    /// What the platform keeps for each vCPU (FPU image, debug registers, emulation policy).
    type VcpuArch: Send + Sync;

    /// A fresh [`Platform::VcpuArch`]. Fails with `ENOMEM`.
    fn new_vcpu_arch(&self) -> Result<Self::VcpuArch, Errno>;

    // ---- frames ---------------------------------------------------------------------------------------------

    /// One record per frame from mfn 0 to the end of RAM. Frames that are not RAM have an owner of `DOMID_IO`.
    fn frame_table(&self) -> &[FrameInfo];
    /// The words of a frame. Panics beyond the frame table.
    fn words(&self, frame: GuestFrame) -> &FrameWords;
    /// The words of a frame that belongs to a domain, or to nobody. Panics for what is not RAM and for what the hypervisor keeps for
    /// itself: callers have looked the frame up first.
    fn frame_words(&self, mfn: Mfn) -> &FrameWords {
        match GuestFrame::find(self.frame_table(), mfn) {
            Some(frame) => self.words(frame),
            None => no_guests_frame(mfn),
        }
    }
    /// Copies `len` bytes from byte `from` of one frame to byte `to` of another (or the same), in ascending order. Guests may
    /// write to both meanwhile; what stands around the bytes is not disturbed. Panics where they do not lie within the frames.
    fn copy_bytes(&self, dest: &FrameWords, to: usize, source: &FrameWords, from: usize, len: usize) {
        crate::grant::copy_bytes(dest, to, source, from, len);
    }

    /// Clears a frame.
    fn clear_frame(&self, frame: GuestFrame) {
        self.words(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The machine-to-physical table that guests see read-only; at least as long as the frame table.
    fn m2p(&self) -> &[AtomicU64];
    /// Whether domains may map this non-RAM frame for reading only (local APIC, IOAPIC, MSI-X tables in use, memory-mapped PCI configuration
    /// space).
    fn mmio_reserved(&self, mfn: Mfn) -> bool;
    /// How many frames the hypervisor's heap has taken from the frame allocator and keeps.
    fn heap_frames(&self) -> u64;
    /// L4 entries 256..=271, the hypervisor's own part of every address space.
    fn hypervisor_l4_slots(&self) -> &[u64; 16];

    // ---- speculation ----------------------------------------------------------------------------------------

    /// What not-present page-table entries of a domain of this kind may be (L1TF); `None`: anything.
    fn safe_entries(&self, privileged: bool) -> Option<SafeEntries>;
    /// How often barriers against side channels were due.
    fn barriers(&self) -> Barriers {
        Barriers { mitigations: Mitigations::NONE, ibpb: 0, verw: 0 }
    }
    /// The same number, of which the compiler knows nothing. Behind a comparison with a bound that is a power of two, `% bound` is then
    /// an instruction of its own: a CPU that speculates beyond the comparison (Spectre variant 1) does not get beyond the bound.
    fn unknown(&self, index: usize) -> usize {
        core::hint::black_box(index)
    }

    // ---- guest memory through the current address space -------------------------------------------------------

    /// Copies from the running guest. Refuses the hypervisor's own range and what is not mapped.
    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVirt) -> Result<(), GuestFault>;
    /// Copies to the running guest. Refuses the hypervisor's own range and what is not mapped writable.
    fn copy_to_guest(&self, dst: GuestVirt, src: &[u8]) -> Result<(), GuestFault>;

    /// Whether a domain's ring 3 runs on copies of its L4 tables that lack most of the hypervisor.
    fn isolates(&self, _domain: &Domain<Self>) -> bool {
        false
    }
    /// From now on every read for a vCPU with [`crate::domain::VcpuFlags::CHECKS_READS`] asks [`crate::page::LinearRoots::may_read`]
    /// of its domain first. A read on another CPU that has begun may go on without.
    fn check_guest_reads(&self);

    // ---- CPUs and address spaces --------------------------------------------------------------------------------

    /// The CPU this runs on.
    fn this_cpu(&self) -> CpuId;
    /// All CPUs that are up.
    fn online_cpus(&self) -> CpuMask;
    /// Whether a CPU is up.
    fn is_online(&self, cpu: CpuId) -> bool {
        self.online_cpus().contains(cpu)
    }
    /// Raises work on a CPU; interrupts it when it is another one.
    fn raise_work(&self, cpu: CpuId, work: Work);
    /// Whether this CPU has work raised: long operations stop here and continue later.
    fn work_pending(&self) -> bool;
    /// Begins a grace period: asks every CPU, this one included, to come to a point where it holds nothing that it looked up
    /// before ([`Work::QUIESCE`]), and where, if it idles, it lets go of what it keeps loaded of a dying domain: page tables,
    /// descriptor tables, FPU state. Answers what to ask [`Platform::grace_is_over`] for.
    fn begin_grace(&self) -> u64;
    /// Whether every CPU has come to that point since.
    fn grace_is_over(&self, grace: u64) -> bool;
    /// Flushes TLBs and returns when all of `cpus` have done so.
    fn flush_tlb(&self, cpus: &CpuMask, what: Flush);
    /// The same for this CPU alone.
    fn flush_tlb_here(&self, what: Flush) {
        self.flush_tlb(&CpuMask::of(self.this_cpu()), what);
    }
    /// Loads CR3 anew from the current vCPU's `pv.guest_table` or `pv.guest_table_user` (by `pv.kernel_mode`) and
    /// flushes what the old one left, global entries too.
    fn load_page_tables(&self, vcpu: &Vcpu<Self>);
    /// This CPU runs no vCPU any more: loads CR3 with a root of the hypervisor's own and flushes all that the old one left,
    /// global entries too.
    fn leave_page_tables(&self);
    /// Loads the current vCPU's GDT frames and LDT anew from its `pv` state.
    fn load_descriptor_tables(&self, vcpu: &Vcpu<Self>);
    /// Sets one of the current vCPU's segment bases or its user GS selector (`SEGBASE_*` of xen.h). The address was checked
    /// to be canonical. Fails with `EINVAL` for an unknown `which`, or when a selector cannot be loaded.
    fn set_segment_base(&self, vcpu: &Vcpu<Self>, which: u64, base: u64) -> Result<(), Errno>;
    /// Replaces the current vCPU's registers by what the frame on its kernel's stack says (`HYPERVISOR_iret`).
    fn iret(&self, vcpu: &Vcpu<Self>, regs: &mut Regs);
    /// Sets CR0.TS for the current vCPU.
    fn set_task_switched(&self, vcpu: &Vcpu<Self>, set: bool);
    /// Writes debug register `reg` of the current vCPU, after checks. Fails with `EINVAL` or `EPERM`.
    fn set_debugreg(&self, vcpu: &Vcpu<Self>, reg: u64, value: u64) -> Result<(), Errno>;
    /// `Vcpu::saved` of a vCPU that is on no CPU was replaced; its lock is still held. The FPU state is this FXSAVE image from now on, or that after
    /// reset.
    fn registers_replaced(&self, vcpu: &Vcpu<Self>, fpu: Option<&[u8; 512]>);
    /// Reads debug register `reg` of the current vCPU. Fails with `EINVAL`.
    fn get_debugreg(&self, vcpu: &Vcpu<Self>, reg: u64) -> Result<u64, Errno>;
    /// The current vCPU's permission to use I/O ports changed (`pv.iopl`).
    fn io_permission_changed(&self, domain: &Domain<Self>, vcpu: &Vcpu<Self>);
    /// The page that holds the vCPU's `vcpu_info` moved (`pv.vcpu_info`).
    fn vcpu_info_moved(&self, vcpu: &Vcpu<Self>);
    /// Writes back and invalidates the cache lines that hold `len` bytes from byte `offset` of a frame on (`clflush`), on all CPUs.
    /// The bytes lie within the frame.
    fn flush_cache_lines(&self, frame: GuestFrame, offset: usize, len: usize);
    /// Writes back and invalidates all caches of `cpus` (`wbinvd`); returns when all have done so.
    fn flush_caches(&self, cpus: &CpuMask);

    // ---- time -----------------------------------------------------------------------------------------------

    /// System time now.
    fn now(&self) -> Nanos;
    /// A record that tells guests how to compute system time themselves.
    fn time_record(&self) -> TimeRecord;
    /// Interrupts this CPU with [`Work::TIMER`] at `deadline` (or soon after it), `None`: never.
    fn arm_timer(&self, deadline: Option<Nanos>);

    // ---- console and power --------------------------------------------------------------------------------------

    /// Writes raw bytes to the machine's console, without waiting for its line: what finds no room is lost.
    fn console_write(&self, bytes: &[u8]);
    /// Waits until so many bytes find room, unless the line is broken.
    fn console_wait(&self, bytes: usize);
    /// Whether so many bytes of guests' text find room now. Where not, [`Work::CONSOLE`] is raised on some CPU when the line has
    /// taken some of what waits.
    fn console_has_room(&self, bytes: usize) -> bool;
    /// Takes bytes that arrived on the console; returns how many.
    fn console_read(&self, buffer: &mut [u8]) -> usize;
    /// Prints registers, stack and chain of calls of the vCPU of `domain` that runs on this CPU, if one does.
    fn show_guest(&self, domain: &Domain<Self>);
    /// Ends the machine's life.
    fn end_machine(&self, end: MachineEnd) -> !;

    // ---- interrupts of devices ------------------------------------------------------------------------------------

    /// Number of IOAPIC lines: GSIs are below it, MSI numbers from it on.
    fn gsi_count(&self) -> u32;
    /// Routes a GSI as `line`, masked. Fails with `EINVAL` (no such line) or `ENOSPC` (no vector left).
    fn irq_route_gsi(&self, gsi: u32, line: Line) -> Result<(), Errno>;
    /// Programs a device's MSI or MSI-X entry, masked, and lets no domain map the pages of its MSI-X table writable any more
    /// ([`Platform::mmio_reserved`]); answers the number by which it is known from then on.
    fn irq_map_msi(&self, request: &MsiRequest) -> Result<Pirq, Errno>;
    /// Gives an interrupt back.
    fn irq_unmap(&self, pirq: Pirq) -> Result<(), Errno>;
    /// Lets an interrupt arrive (again).
    fn irq_unmask(&self, pirq: Pirq);
    /// Keeps an interrupt from arriving.
    fn irq_mask(&self, pirq: Pirq);
    /// Lets an interrupt arrive at this CPU from now on. Nothing happens for one that is not routed.
    fn irq_set_cpu(&self, pirq: Pirq, cpu: CpuId);
    /// Whether the guest must tell when it has served this interrupt (level-triggered lines).
    fn irq_needs_eoi(&self, pirq: Pirq) -> bool;
    /// The next interrupt that arrived on this CPU and was not yet delivered. Level-triggered ones come masked.
    fn irq_take(&self) -> Option<Pirq>;
    /// Reads a register of the IOAPIC at this machine address (`PHYSDEVOP_apic_read`).
    fn ioapic_read(&self, base: u64, reg: u32) -> Result<u32, Errno>;
    /// Writes a register of the IOAPIC (`PHYSDEVOP_apic_write`); the platform may ignore what it owns.
    fn ioapic_write(&self, base: u64, reg: u32, value: u32) -> Result<(), Errno>;
    /// Whether dom0 reported a PCI function, and did not remove it.
    fn pci_device_known(&self, device: PciAddress) -> bool;
    /// A PCI function was reported by dom0 (`added`) or removed by it.
    fn pci_device_changed(&self, device: PciAddress, added: bool);
    /// Writes the messages of a PCI function again that are mapped, for a function that was reset.
    fn msi_restore(&self, device: PciAddress);
    /// Reserves a function's MSI-X table (`take`), whose pages no domain may map writable from then on, or gives it back. Fails with
    /// `ENODEV` for a function without MSI-X, with `ENXIO` for one whose table is not in memory, and with `EBUSY` while messages of it
    /// are mapped, or when there is nothing to give back.
    fn msix_reserve(&self, device: PciAddress, take: bool) -> Result<(), Errno>;
}
