//! A machine made of vectors, for host tests and fuzzers.
//!
//! Guest copies first look at a flat buffer at [`FLAT_BASE`], which needs no page tables; other addresses, of guest copies and of
//! what model guests access themselves ([`MockPlatform::access`]), are translated by the TLB of the CPU and the page tables that
//! it loaded last, as the hardware would. Every other request of the core that has no effect here is recorded
//! for the test to look at.

mod grace;
mod memory;
mod tlb;

pub use tlb::Reach;

use crate::Hypervisor;
use crate::Machine;
use crate::console::Console;
use crate::cpu_policy::side_channels::SafeEntries;
use crate::cpumask::{AtomicCpuMask, CpuMask};
use crate::domain::{Domain, DomainConfig, DomainTable, Vcpu};
use crate::event::PirqTable;
use crate::ids::{CpuId, DomId, GuestVirt, Mfn, Nanos, PAGE_SIZE, Pirq};
use crate::mem::FrameAllocator;
use crate::options::Options;
use crate::page::FrameInfo;
use crate::platform::{
    Flush, FrameWords, GuestFault, GuestFrame, Line, MachineEnd, MsiRequest, PciAddress, Platform,
    TimeRecord, Work,
};
use crate::regs::Regs;
use crate::sched::Scheduler;
use crate::time::TimerQueues;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(test)]
use interleave::StdMutex as Mutex;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
#[cfg(not(test))]
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;
use xen_abi::errno::Errno;

/// Where the flat buffer lies in every mock guest's address space.
pub const FLAT_BASE: u64 = 0x10_0000;
/// Its size in bytes.
pub const FLAT_SIZE: usize = 0x8_0000;

/// What the mock keeps for each vCPU.
#[derive(Default)]
pub struct MockVcpu {
    /// Debug registers by number.
    pub debug: [AtomicU64; 8],
    /// Segment bases by `SEGBASE_*`.
    pub bases: [AtomicU64; 4],
}

/// What the core asked for.
#[derive(Default)]
pub struct Record {
    /// TLB flushes, oldest first.
    pub flushes: Vec<(CpuMask, Flush)>,
    /// Work that was raised.
    pub raised: Vec<(CpuId, Work)>,
    /// Everything written to the console.
    pub console: Vec<u8>,
    /// How often the core waited for the console's line.
    pub console_waits: u32,
    /// How often page tables and descriptor tables were loaded.
    pub table_loads: (u32, u32),
    /// FPU images that vCPUs were given.
    pub fpu_images: Vec<Option<[u8; 512]>>,
    /// Deadline that was armed last.
    pub timer: Option<Nanos>,
    /// Interrupts that are masked.
    pub masked: Vec<Pirq>,
    /// Lines that were routed.
    pub routes: BTreeMap<u32, Line>,
    /// MSI requests by the number they got.
    pub msis: BTreeMap<Pirq, MsiRequest>,
    /// PCI functions that dom0 reported.
    pub pci: Vec<PciAddress>,
    /// PCI functions whose messages were written again.
    pub restored: Vec<PciAddress>,
    /// The CPU that each interrupt was last sent to.
    pub irq_cpus: BTreeMap<Pirq, CpuId>,
    /// Cache flushes, oldest first.
    pub cache_flushes: Vec<CpuMask>,
    /// Flushes of cache lines, oldest first: frame, first byte, bytes.
    pub line_flushes: Vec<(Mfn, usize, usize)>,
}

/// See [`MockPlatform::at_question`].
pub type Hook = Box<dyn Fn() + Send + Sync>;

/// The machine.
pub struct MockPlatform {
    table: &'static [FrameInfo],
    /// RAM as the caches show it.
    frames: Box<[FrameWords]>,
    /// What was written past the caches.
    memory: Mutex<memory::Memory>,
    m2p: Vec<AtomicU64>,
    slots: [u64; 16],
    flat: Mutex<Vec<u8>>,
    /// By CPU: what it has loaded and what it remembers.
    tlbs: Mutex<BTreeMap<CpuId, tlb::Tlb>>,
    /// Which CPU this thread pretends to be; a task of a model (`interleave`) is the CPU of its own number.
    pub cpu: AtomicU32,
    /// Number of CPUs that are up.
    pub cpus: AtomicU32,
    /// Those of them that are not up.
    pub offline: AtomicCpuMask,
    /// The time.
    pub time: AtomicU64,
    /// By how much it goes on with each look at it, in nanoseconds: so work takes time.
    pub look_takes: AtomicU64,
    /// What [`TimeRecord::stable`] says.
    pub stable_tsc: AtomicBool,
    /// `work_pending` says yes at every n-th question; 0: never.
    pub preempt_every: AtomicU32,
    questions: AtomicU32,
    /// How often frames and their records were looked up since the last question for pending work.
    steps: AtomicU64,
    /// The most of them between two questions.
    longest: AtomicU64,
    /// What is done at each question for pending work, by the CPU that asks.
    pub at_question: Mutex<Option<Hook>>,
    /// What is done before a CPU leaves the page tables of the vCPU that it ran.
    pub at_leaving: Mutex<Option<Hook>>,
    /// How often a grace period is not over yet when asked for.
    pub grace_rounds: AtomicU32,
    /// For whom a grace period waits.
    grace: Mutex<grace::Grace>,
    /// What not-present entries of domains that are made from now on may be.
    pub safe_entries: Mutex<Option<SafeEntries>>,
    /// Whether domains run on isolated page tables.
    pub isolated: AtomicBool,
    /// What the core asked for.
    pub record: Mutex<Record>,
    /// Bytes that wait to be read from the console.
    pub console_input: Mutex<VecDeque<u8>>,
    /// Bytes that the console's line still takes; `usize::MAX` for one that takes everything at once.
    pub console_room: AtomicUsize,
    /// What is done, once, when the core asks whether the console's line has room.
    pub at_room_question: Mutex<Option<Hook>>,
    /// Interrupts that arrived.
    pub irqs: Mutex<VecDeque<Pirq>>,
    /// Frames that [`Platform::mmio_reserved`] refuses.
    pub reserved_mmio: Mutex<Vec<Mfn>>,
}

/// Frame tables of machines that are gone: a table lives for ever, so it is used again.
static TABLES: Mutex<Vec<&'static [FrameInfo]>> = Mutex::new(Vec::new());

/// A frame table for this many frames.
fn frame_table(frames: usize) -> &'static [FrameInfo] {
    let mut unused = TABLES.lock().unwrap();
    let again = unused.iter().position(|table| table.len() == frames).map(|n| unused.swap_remove(n));
    let table = again.unwrap_or_else(|| Box::leak((0..frames).map(|_| FrameInfo::new()).collect()));
    table.iter().for_each(FrameInfo::reset);
    table
}

impl Drop for MockPlatform {
    fn drop(&mut self) {
        TABLES.lock().unwrap().push(self.table);
    }
}

/// Lines of the mock's IOAPIC.
pub const GSI_COUNT: u32 = 24;

impl MockPlatform {
    /// A machine of one CPU with `frames` frames of RAM, none of them free yet.
    pub fn new(frames: usize) -> Self {
        Self {
            table: frame_table(frames),
            frames: (0..frames).map(|_| core::array::from_fn(|_| AtomicU64::new(0))).collect(),
            memory: Mutex::new(memory::Memory::default()),
            m2p: (0..frames).map(|_| AtomicU64::new(u64::MAX)).collect(),
            slots: core::array::from_fn(|n| 0x8000_0000_0000_0063 | (0xfff0 + n as u64) << 12),
            flat: Mutex::new(vec![0; FLAT_SIZE]),
            tlbs: Mutex::new(BTreeMap::new()),
            cpu: AtomicU32::new(0),
            cpus: AtomicU32::new(1),
            offline: AtomicCpuMask::new(),
            time: AtomicU64::new(1_000_000),
            look_takes: AtomicU64::new(0),
            stable_tsc: AtomicBool::new(false),
            preempt_every: AtomicU32::new(0),
            questions: AtomicU32::new(0),
            steps: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            at_question: Mutex::new(None),
            at_leaving: Mutex::new(None),
            grace_rounds: AtomicU32::new(0),
            grace: Mutex::new(grace::Grace::default()),
            safe_entries: Mutex::new(None),
            isolated: AtomicBool::new(false),
            record: Mutex::new(Record::default()),
            console_input: Mutex::new(VecDeque::new()),
            console_room: AtomicUsize::new(usize::MAX),
            at_room_question: Mutex::new(None),
            irqs: Mutex::new(VecDeque::new()),
            reserved_mmio: Mutex::new(Vec::new()),
        }
    }

    /// The frame table, as the allocator wants it.
    pub fn table(&self) -> &'static [FrameInfo] {
        self.table
    }

    /// Looks at frames and their records between two questions for pending work: the most since the last call. What comes after the
    /// last question counts up to now.
    pub fn longest_stretch(&self) -> u64 {
        self.end_stretch();
        self.longest.swap(0, Ordering::Relaxed)
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn end_stretch(&self) {
        self.longest.fetch_max(self.steps.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// All pages that a guest on `cpu` can reach by what the CPU remembers, whatever the tables say by now.
    pub fn reach(&self, cpu: CpuId) -> Vec<Reach> {
        self.tlbs.lock().unwrap().get(&cpu).map_or_else(Vec::new, |tlb| tlb.reach(&self.frames))
    }

    /// Offset into the flat buffer, if all of the range is in it.
    fn flat_range(va: u64, len: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(va.checked_sub(FLAT_BASE)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= FLAT_SIZE).then_some(start..end)
    }
}

impl Platform for MockPlatform {
    type VcpuArch = MockVcpu;

    fn new_vcpu_arch(&self) -> Result<MockVcpu, Errno> {
        self.step();
        Ok(MockVcpu::default())
    }

    fn frame_table(&self) -> &[FrameInfo] {
        self.step();
        self.table
    }

    fn words(&self, frame: GuestFrame) -> &FrameWords {
        self.step();
        &self.frames[frame.mfn().0 as usize]
    }

    fn m2p(&self) -> &[AtomicU64] {
        &self.m2p
    }

    fn mmio_reserved(&self, mfn: Mfn) -> bool {
        self.reserved_mmio.lock().unwrap().contains(&mfn)
    }

    fn heap_frames(&self) -> u64 {
        0
    }

    fn hypervisor_l4_slots(&self) -> &[u64; 16] {
        &self.slots
    }

    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVirt) -> Result<(), GuestFault> {
        if let Some(range) = Self::flat_range(src.0, dst.len()) {
            dst.copy_from_slice(&self.flat.lock().unwrap()[range]);
            return Ok(());
        }
        for (i, byte) in dst.iter_mut().enumerate() {
            let (mfn, offset) = self.translate(src.0.wrapping_add(i as u64), false).ok_or(GuestFault)?;
            *byte = self.byte(mfn, offset);
        }
        Ok(())
    }

    fn copy_to_guest(&self, dst: GuestVirt, src: &[u8]) -> Result<(), GuestFault> {
        if let Some(range) = Self::flat_range(dst.0, src.len()) {
            self.flat.lock().unwrap()[range].copy_from_slice(src);
            return Ok(());
        }
        for (i, byte) in src.iter().enumerate() {
            let (mfn, offset) = self.translate(dst.0.wrapping_add(i as u64), true).ok_or(GuestFault)?;
            self.set_byte(mfn, offset, *byte);
        }
        Ok(())
    }

    fn check_guest_reads(&self) {}

    fn safe_entries(&self, _privileged: bool) -> Option<SafeEntries> {
        *self.safe_entries.lock().unwrap()
    }

    fn isolates(&self, _domain: &Domain<Self>) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }

    fn this_cpu(&self) -> CpuId {
        #[cfg(test)]
        if let Some(task) = interleave::model::task() {
            return CpuId(task as u32);
        }
        CpuId(self.cpu.load(Ordering::Relaxed))
    }

    fn online_cpus(&self) -> CpuMask {
        let mut mask = CpuMask::EMPTY;
        (0..self.cpus.load(Ordering::Relaxed)).for_each(|n| mask.insert(CpuId(n)));
        mask.without(&self.offline.load())
    }

    fn raise_work(&self, cpu: CpuId, work: Work) {
        self.record.lock().unwrap().raised.push((cpu, work));
    }

    fn work_pending(&self) -> bool {
        self.end_stretch();
        if let Some(hook) = &*self.at_question.lock().unwrap() {
            hook();
        }
        let every = self.preempt_every.load(Ordering::Relaxed);
        every != 0 && (self.questions.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every)
    }

    fn begin_grace(&self) -> u64 {
        self.begin_waiting();
        u64::from(self.grace_rounds.load(Ordering::Relaxed))
    }

    fn grace_is_over(&self, _grace: u64) -> bool {
        if self.is_waiting() {
            return false;
        }
        let less = |rounds: u32| rounds.checked_sub(1);
        self.grace_rounds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    fn flush_tlb(&self, cpus: &CpuMask, what: Flush) {
        for (_, tlb) in self.tlbs.lock().unwrap().iter_mut().filter(|(cpu, _)| cpus.contains(**cpu)) {
            match what {
                Flush::All => tlb.flush(),
                Flush::Page(va) => tlb.flush_page(va.0),
            }
        }
        self.record.lock().unwrap().flushes.push((*cpus, what));
    }

    fn load_page_tables(&self, vcpu: &Vcpu<Self>) {
        let root = vcpu.pv.root().expect("only what has a root is loaded");
        self.tlbs.lock().unwrap().entry(self.this_cpu()).or_default().load(root.0);
        self.record.lock().unwrap().table_loads.0 += 1;
    }

    fn leave_page_tables(&self) {
        if let Some(hook) = &*self.at_leaving.lock().unwrap() {
            hook();
        }
        self.tlbs.lock().unwrap().entry(self.this_cpu()).or_default().load(0);
    }

    fn load_descriptor_tables(&self, _vcpu: &Vcpu<Self>) {
        self.record.lock().unwrap().table_loads.1 += 1;
    }

    fn set_segment_base(&self, vcpu: &Vcpu<Self>, which: u64, base: u64) -> Result<(), Errno> {
        let slot = usize::try_from(which).ok().and_then(|n| vcpu.arch.bases.get(n)).ok_or(Errno::EINVAL)?;
        slot.store(base, Ordering::Relaxed);
        Ok(())
    }

    fn iret(&self, _vcpu: &Vcpu<Self>, regs: &mut Regs) {
        regs.rax = 0x1234;
    }

    fn set_task_switched(&self, _vcpu: &Vcpu<Self>, _set: bool) {}

    fn set_debugreg(&self, vcpu: &Vcpu<Self>, reg: u64, value: u64) -> Result<(), Errno> {
        let slot = usize::try_from(reg).ok().and_then(|n| vcpu.arch.debug.get(n)).ok_or(Errno::EINVAL)?;
        slot.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn registers_replaced(&self, vcpu: &Vcpu<Self>, fpu: Option<&[u8; 512]>) {
        assert!(vcpu.saved.is_locked(), "a CPU may load what is replaced");
        self.record.lock().unwrap().fpu_images.push(fpu.copied());
    }

    fn get_debugreg(&self, vcpu: &Vcpu<Self>, reg: u64) -> Result<u64, Errno> {
        let slot = usize::try_from(reg).ok().and_then(|n| vcpu.arch.debug.get(n)).ok_or(Errno::EINVAL)?;
        Ok(slot.load(Ordering::Relaxed))
    }

    fn io_permission_changed(&self, _domain: &Domain<Self>, _vcpu: &Vcpu<Self>) {}

    fn vcpu_info_moved(&self, _vcpu: &Vcpu<Self>) {}

    fn flush_cache_lines(&self, frame: GuestFrame, offset: usize, len: usize) {
        self.write_lines_back(frame.mfn(), offset..offset + len);
        self.record.lock().unwrap().line_flushes.push((frame.mfn(), offset, len));
    }

    fn flush_caches(&self, cpus: &CpuMask) {
        self.evict();
        self.record.lock().unwrap().cache_flushes.push(*cpus);
    }

    fn now(&self) -> Nanos {
        Nanos(self.time.fetch_add(self.look_takes.load(Ordering::Relaxed), Ordering::Relaxed))
    }

    fn time_record(&self) -> TimeRecord {
        let now = self.now();
        TimeRecord {
            tsc: now.0,
            system_time: now,
            tsc_to_system_mul: 1 << 31,
            tsc_shift: 1,
            stable: self.stable_tsc.load(Ordering::Relaxed),
        }
    }

    fn arm_timer(&self, deadline: Option<Nanos>) {
        self.record.lock().unwrap().timer = deadline;
    }

    fn console_write(&self, bytes: &[u8]) {
        if self.console_room.load(Ordering::Relaxed) != usize::MAX {
            let less = |room: usize| Some(room.saturating_sub(bytes.len()));
            let _ = self.console_room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        self.record.lock().unwrap().console.extend_from_slice(bytes);
    }

    fn console_wait(&self, _bytes: usize) {
        self.record.lock().unwrap().console_waits += 1;
    }

    fn console_has_room(&self, bytes: usize) -> bool {
        let hook = self.at_room_question.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        bytes <= self.console_room.load(Ordering::Relaxed)
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        let mut input = self.console_input.lock().unwrap();
        let taken = input.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(input.drain(..taken)) {
            *slot = byte;
        }
        taken
    }

    fn show_guest(&self, _domain: &Domain<Self>) {}

    fn end_machine(&self, end: MachineEnd) -> ! {
        // Not a mistake: the one who ends the machine is stopped, whoever runs it may catch this.
        std::panic::resume_unwind(Box::new(std::format!("the machine ended: {end:?}")))
    }

    fn gsi_count(&self) -> u32 {
        GSI_COUNT
    }

    fn irq_route_gsi(&self, gsi: u32, line: Line) -> Result<(), Errno> {
        if gsi >= GSI_COUNT {
            return Err(Errno::EINVAL);
        }
        let mut record = self.record.lock().unwrap();
        record.routes.insert(gsi, line);
        record.masked.push(Pirq(gsi));
        Ok(())
    }

    fn irq_map_msi(&self, request: &MsiRequest) -> Result<Pirq, Errno> {
        let mut record = self.record.lock().unwrap();
        let pirq = Pirq((GSI_COUNT..).find(|n| !record.msis.contains_key(&Pirq(*n))).ok_or(Errno::ENOSPC)?);
        record.msis.insert(pirq, *request);
        record.masked.push(pirq);
        Ok(pirq)
    }

    fn irq_unmap(&self, pirq: Pirq) -> Result<(), Errno> {
        let mut record = self.record.lock().unwrap();
        let known = record.msis.remove(&pirq).is_some() | record.routes.remove(&pirq.0).is_some();
        if known { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn irq_unmask(&self, pirq: Pirq) {
        self.record.lock().unwrap().masked.retain(|p| *p != pirq);
    }

    fn irq_mask(&self, pirq: Pirq) {
        self.record.lock().unwrap().masked.push(pirq);
    }

    fn irq_needs_eoi(&self, pirq: Pirq) -> bool {
        self.record.lock().unwrap().routes.get(&pirq.0).is_some_and(|line| line.level)
    }

    fn irq_take(&self) -> Option<Pirq> {
        self.irqs.lock().unwrap().pop_front()
    }

    fn ioapic_read(&self, _base: u64, _reg: u32) -> Result<u32, Errno> {
        Ok(0)
    }

    fn ioapic_write(&self, _base: u64, _reg: u32, _value: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn irq_set_cpu(&self, pirq: Pirq, cpu: CpuId) {
        self.record.lock().unwrap().irq_cpus.insert(pirq, cpu);
    }

    fn pci_device_known(&self, device: PciAddress) -> bool {
        self.record.lock().unwrap().pci.contains(&device)
    }

    fn pci_device_changed(&self, device: PciAddress, added: bool) {
        let pci = &mut self.record.lock().unwrap().pci;
        pci.retain(|known| *known != device);
        if added {
            pci.push(device);
        }
    }

    fn msi_restore(&self, device: PciAddress) {
        self.record.lock().unwrap().restored.push(device);
    }

    fn msix_reserve(&self, device: PciAddress, take: bool) -> Result<(), Errno> {
        let mapped = self.record.lock().unwrap().msis.values().any(|request| request.device == device);
        if mapped || !take { Err(Errno::EBUSY) } else { Ok(()) }
    }
}

/// A hypervisor on a fresh mock machine with `frames` frames of RAM, all free but frame 0.
pub fn hypervisor(frames: usize) -> Hypervisor<MockPlatform> {
    let platform = MockPlatform::new(frames);
    let allocator = FrameAllocator::new(platform.table());
    allocator.add_region(Mfn(1), Mfn(frames as u64));
    let memory_map = vec![crate::MemoryRange { start: 0, size: (frames * PAGE_SIZE) as u64, kind: 1 }];
    Hypervisor {
        platform,
        machine: Machine { memory_map, tsc_khz: 1_000_000, ..Machine::default() },
        options: Options::default(),
        frames: allocator,
        domains: DomainTable::new(),
        sched: Scheduler::new(1),
        timers: TimerQueues::new(1),
        pirqs: PirqTable::new(),
        virq_handlers: crate::event::GlobalVirqs::new(),
        console: Console::new(),
        keeper: crate::domain::keeper::Keeper::new(),
    }
}

/// A domain with `vcpus` vCPUs that may own `max_pages` pages and owns none yet, entered in the domain table. Domain 0 is
/// privileged.
pub fn domain(
    hv: &Hypervisor<MockPlatform>,
    id: u16,
    vcpus: u32,
    max_pages: u64,
) -> Arc<Domain<MockPlatform>> {
    let config =
        DomainConfig { privileged: id == 0, max_vcpus: vcpus, max_pages, ..DomainConfig::new(DomId(id)) };
    let domain = hv.create_domain(&config).expect("a domain");
    hv.unpause_domain(&domain).expect("a paused domain");
    domain.dirty_cpus.insert(CpuId(0));
    domain
}

/// A hypervisor with `frames` frames of RAM and a privileged domain 0 with one vCPU.
pub fn machine_with_domain(frames: usize) -> (Hypervisor<MockPlatform>, Arc<Domain<MockPlatform>>) {
    let hv = hypervisor(frames);
    let dom0 = domain(&hv, 0, 1, frames as u64);
    (hv, dom0)
}
