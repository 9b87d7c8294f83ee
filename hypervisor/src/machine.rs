//! The machine as the core sees it: the [`Platform`] of the real thing.

use crate::cpu::{self, apic, percpu::this_cpu, smp};
use crate::dev::{clock, ioapic, irq, pci, power, serial};
use crate::mm::{self, layout, tables, uaccess};
use crate::pv;
use crate::pv::state::VcpuArch;
use core::arch::asm;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::Hypervisor;
use hypervisor_core::cpu_policy::side_channels::{Barriers, SafeEntries};
use hypervisor_core::cpumask::CpuMask;
use hypervisor_core::domain::Domain;
use hypervisor_core::ids::{CpuId, GuestVirt, Mfn, Nanos, PAGE_SIZE, Pirq};
use hypervisor_core::page::FrameInfo;
use hypervisor_core::platform::{
    Flush, FrameWords, GuestFault, GuestFrame, Line, MachineEnd, MsiRequest, PciAddress, Platform,
    TimeRecord, Work,
};
use hypervisor_core::regs::Regs;
use spin::Once;
use xen_abi::errno::Errno;

/// A vCPU of this machine.
pub type Vcpu = hypervisor_core::domain::Vcpu<Machine>;
/// A hypervisor on this machine.
pub type Hv = Hypervisor<Machine>;

static HV: Once<Hv> = Once::new();

/// The hypervisor, which exists before the first guest and the second CPU.
pub fn hv() -> &'static Hv {
    HV.get().expect("boot makes the hypervisor before anything asks for it")
}

/// The hypervisor, for whom a guest calls.
///
/// # Safety
/// A guest has run, so the hypervisor exists.
#[inline(always)]
pub unsafe fn hv_of_guest() -> &'static Hv {
    // SAFETY: as the caller promises.
    unsafe { HV.get_unchecked() }
}

/// The hypervisor, once it exists.
pub fn try_hv() -> Option<&'static Hv> {
    HV.get()
}

/// Makes the hypervisor.
pub fn install(hv: Hv) -> &'static Hv {
    // Without the wrapper the closure would carry code that takes a hypervisor apart.
    let hv = ManuallyDrop::new(hv);
    HV.call_once(|| ManuallyDrop::into_inner(hv))
}

/// The two tables with an entry for each frame.
pub struct Machine {
    frames: &'static [FrameInfo],
    m2p: &'static [AtomicU64],
}

impl Machine {
    /// A machine whose tables are mapped and initialised.
    pub fn new(frames: &'static [FrameInfo], m2p: &'static [AtomicU64]) -> Self {
        Self { frames, m2p }
    }
}

impl Platform for Machine {
    type VcpuArch = VcpuArch;

    fn new_vcpu_arch(&self) -> Result<VcpuArch, Errno> {
        VcpuArch::new().ok_or(Errno::ENOMEM)
    }

    fn frame_table(&self) -> &[FrameInfo] {
        self.frames
    }

    #[inline(always)]
    fn words(&self, frame: GuestFrame) -> &FrameWords {
        let mfn = frame.mfn();
        if mfn.0 >= self.frames.len() as u64 {
            no_frame(mfn);
        }
        // SAFETY: frames of the frame table lie below the end of RAM, all of which is in the direct map. The core has made sure that
        // the hypervisor does not live in it, so nothing here relies on its contents.
        unsafe { mm::frame_words(mfn) }
    }

    fn clear_frame(&self, frame: GuestFrame) {
        let words = self.words(frame);
        // SAFETY: the frame has that many words, which are accessed as a whole one after the other. Nobody minds: it is cleared.
        unsafe {
            asm!("rep stosq", inout("rcx") words.len() => _, inout("rdi") words.as_ptr() => _, in("rax") 0,
                options(nostack, preserves_flags));
        }
    }

    fn copy_bytes(&self, dest: &FrameWords, to: usize, source: &FrameWords, from: usize, len: usize) {
        let within = |start: usize| start.checked_add(len).is_some_and(|end| end <= PAGE_SIZE);
        assert!(within(from) && within(to), "a copy within frames");
        // SAFETY: the bytes lie within the frames. They may be the same memory and may change meanwhile, which the
        // instructions copy piece by piece all the same. Words need not be aligned for them.
        unsafe {
            asm!(
                "rep movsq",
                "mov ecx, {rest:e}",
                "rep movsb",
                rest = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rdi") dest.as_ptr().byte_add(to) => _,
                inout("rsi") source.as_ptr().byte_add(from) => _,
                options(nostack, preserves_flags),
            );
        }
    }

    fn m2p(&self) -> &[AtomicU64] {
        self.m2p
    }

    fn mmio_reserved(&self, mfn: Mfn) -> bool {
        mfn.0 == apic::page_address() >> 12 || ioapic::owns_frame(mfn.0) || pci::is_read_only(mfn)
    }

    fn heap_frames(&self) -> u64 {
        mm::heap::frames()
    }

    fn hypervisor_l4_slots(&self) -> &[u64; 16] {
        tables::slots()
    }

    #[inline(always)]
    fn unknown(&self, mut index: usize) -> usize {
        // SAFETY: no instruction.
        unsafe { asm!("/* {0} */", inout(reg) index, options(pure, nomem, nostack, preserves_flags)) };
        index
    }

    #[inline]
    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVirt) -> Result<(), GuestFault> {
        uaccess::copy_from_guest(dst, src)
    }

    #[inline]
    fn copy_to_guest(&self, dst: GuestVirt, src: &[u8]) -> Result<(), GuestFault> {
        uaccess::copy_to_guest(dst, src)
    }

    fn safe_entries(&self, privileged: bool) -> Option<SafeEntries> {
        cpu::isolation::mitigations().safe_entries(privileged)
    }

    fn isolates(&self, domain: &Domain<Self>) -> bool {
        cpu::isolation::mitigations().isolates(domain.privileged)
    }

    fn barriers(&self) -> Barriers {
        cpu::isolation::barriers()
    }

    fn check_guest_reads(&self) {
        uaccess::check_reads();
    }

    fn this_cpu(&self) -> CpuId {
        this_cpu().id()
    }

    fn online_cpus(&self) -> CpuMask {
        smp::ONLINE.load()
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        smp::ONLINE.contains(cpu)
    }

    fn raise_work(&self, cpu: CpuId, work: Work) {
        smp::raise_work(cpu, work);
    }

    fn work_pending(&self) -> bool {
        this_cpu().work.any()
    }

    fn begin_grace(&self) -> u64 {
        smp::begin_grace()
    }

    fn grace_is_over(&self, grace: u64) -> bool {
        smp::grace_is_over(grace)
    }

    fn flush_tlb(&self, cpus: &CpuMask, what: Flush) {
        let here = self.this_cpu();
        if cpus.contains(here) {
            smp::flush_tlb_local(what);
        }
        if cpus.has_others(here) {
            smp::flush_others(cpus, what);
        }
    }

    #[inline]
    fn flush_tlb_here(&self, what: Flush) {
        smp::flush_tlb_local(what);
    }

    fn load_page_tables(&self, vcpu: &Vcpu) {
        pv::switch::load_page_tables(&vcpu.pv);
    }

    fn leave_page_tables(&self) {
        pv::switch::leave_page_tables();
    }

    fn load_descriptor_tables(&self, vcpu: &Vcpu) {
        if let Some(current) = this_cpu().current() {
            pv::descriptors::load(&current.domain, vcpu);
        }
    }

    fn set_segment_base(&self, vcpu: &Vcpu, which: u64, base: u64) -> Result<(), Errno> {
        pv::segments::set_base(vcpu, which, base)
    }

    fn iret(&self, _vcpu: &Vcpu, regs: &mut Regs) {
        pv::iret::iret(&pv::Guest::current(this_cpu()), regs);
    }

    fn set_task_switched(&self, _vcpu: &Vcpu, set: bool) {
        cpu::fpu::set_task_switched(set);
    }

    fn set_debugreg(&self, vcpu: &Vcpu, reg: u64, value: u64) -> Result<(), Errno> {
        pv::debug::set(vcpu, reg, value)
    }

    fn registers_replaced(&self, vcpu: &Vcpu, fpu: Option<&[u8; 512]>) {
        // What a parked CPU kept of it is not true any more.
        vcpu.arch.loaded_on.store(u32::MAX, Ordering::Relaxed);
        vcpu.arch.fpu.lock().set(fpu);
    }

    fn get_debugreg(&self, vcpu: &Vcpu, reg: u64) -> Result<u64, Errno> {
        pv::debug::get(vcpu, reg)
    }

    fn io_permission_changed(&self, _domain: &Domain<Self>, _vcpu: &Vcpu) {
        // Ports are emulated, and each emulation looks at the permissions: nothing is cached.
    }

    fn vcpu_info_moved(&self, vcpu: &Vcpu) {
        let this = this_cpu();
        if this.current().is_some_and(|current| core::ptr::eq(current.vcpu(), vcpu)) {
            pv::switch::load_vcpu_info(this, vcpu);
        }
    }

    fn flush_cache_lines(&self, frame: GuestFrame, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE), "bytes within a frame");
        if !cpu::flush_cache_lines(self.words(frame).as_ptr().addr() + offset, len) {
            self.flush_caches(&self.online_cpus());
        }
    }

    fn flush_caches(&self, cpus: &CpuMask) {
        if cpus.contains(self.this_cpu()) {
            cpu::flush_caches();
        }
        smp::flush_other_caches(cpus);
    }

    fn now(&self) -> Nanos {
        clock::now()
    }

    fn time_record(&self) -> TimeRecord {
        clock::record()
    }

    fn arm_timer(&self, deadline: Option<Nanos>) {
        apic::arm(deadline);
    }

    fn console_write(&self, bytes: &[u8]) {
        serial::write(bytes);
    }

    fn console_wait(&self, bytes: usize) {
        serial::wait_for_room(bytes);
    }

    fn console_has_room(&self, bytes: usize) -> bool {
        serial::has_room(bytes)
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        serial::read(buffer)
    }

    fn show_guest(&self, domain: &Domain<Self>) {
        pv::show(domain);
    }

    fn end_machine(&self, end: MachineEnd) -> ! {
        smp::stop_others();
        // SAFETY: the other CPUs were just stopped.
        unsafe { serial::break_lock() };
        power::end(end)
    }

    fn gsi_count(&self) -> u32 {
        ioapic::gsi_count()
    }

    fn irq_route_gsi(&self, gsi: u32, line: Line) -> Result<(), Errno> {
        irq::route_gsi(gsi, line)
    }

    fn irq_map_msi(&self, request: &MsiRequest) -> Result<Pirq, Errno> {
        irq::map_msi(request)
    }

    fn irq_unmap(&self, pirq: Pirq) -> Result<(), Errno> {
        irq::unmap(pirq)
    }

    fn irq_unmask(&self, pirq: Pirq) {
        irq::set_masked(pirq, false);
    }

    fn irq_mask(&self, pirq: Pirq) {
        irq::set_masked(pirq, true);
    }

    fn irq_set_cpu(&self, pirq: Pirq, cpu: CpuId) {
        irq::set_cpu(pirq, cpu);
    }

    fn irq_needs_eoi(&self, pirq: Pirq) -> bool {
        irq::needs_eoi(pirq)
    }

    fn irq_take(&self) -> Option<Pirq> {
        irq::take()
    }

    fn ioapic_read(&self, base: u64, reg: u32) -> Result<u32, Errno> {
        ioapic::read_register(base, reg).ok_or(Errno::EINVAL)
    }

    fn ioapic_write(&self, base: u64, _reg: u32, _value: u32) -> Result<(), Errno> {
        // Routing is the hypervisor's: a domain asks for it by PHYSDEVOP_setup_gsi.
        if ioapic::owns_frame(base >> 12) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn pci_device_known(&self, device: PciAddress) -> bool {
        pci::is_known(device)
    }

    fn pci_device_changed(&self, device: PciAddress, added: bool) {
        pci::set_known(device, added);
    }

    fn msi_restore(&self, device: PciAddress) {
        irq::restore_msi(device);
    }

    fn msix_reserve(&self, device: PciAddress, take: bool) -> Result<(), Errno> {
        irq::reserve_msix(device, take)
    }
}

/// The end of the direct map, which the frame table's length must not pass.
pub const MAX_FRAMES: u64 = (layout::DIRECT_MAP_END - layout::DIRECT_MAP) >> 12;

/// A frame that is none of the frame table's was asked for: a mistake of the hypervisor's own.
#[cold]
#[inline(never)]
fn no_frame(mfn: Mfn) -> ! {
    panic!("no frame {mfn}");
}
