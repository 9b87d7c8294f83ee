//! The semantics of Xen's hypercalls, in safe Rust.
//!
//! Everything that a guest can ask for is decided here, generic over a [`Platform`] that owns registers, raw memory and
//! devices: the hypervisor binary provides the machine, host tests and fuzzers a mock, and both run this very code.
//!
//! Data flows one way: the binary decodes an entry into a [`hypercall::Cx`] and calls [`hypercall::dispatch`], an
//! adapter of one hypercall group copies the arguments in, the subsystem (`page`, `mem`, `event`, `grant`, `sched`,
//! `time`) does the work on typed values, and the adapter copies the results out. A guest's mistake is an errno; nothing it
//! says can panic the hypervisor.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "mock"))]
extern crate std;

// In unit tests all atomics and locks are those at which a test can switch between CPUs.
#[cfg(test)]
extern crate interleave as core;
#[cfg(test)]
extern crate interleave as spin;

pub mod acpi;
pub mod builder;
pub mod console;
pub mod cpu_policy;
pub mod cpumask;
pub mod description;
pub mod domain;
pub mod event;
pub mod flush;
pub mod grant;
pub mod guest_ptr;
pub mod hypercall;
pub mod ids;
#[cfg(test)]
mod meetings;
pub mod mem;
pub mod memory_map;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
pub mod nmi;
pub mod options;
pub mod order;
pub mod page;
pub mod pci;
pub mod permissions;
pub mod platform;
pub mod regs;
pub mod rwlock;
pub mod sched;
pub mod segment;
mod sync;
pub mod time;
pub mod work;

use alloc::vec::Vec;
use domain::DomainTable;
use platform::Platform;

/// One entry of the machine's memory map, in the numbers of ACPI's INT 15h E820 (1: RAM, 2: reserved, 3: ACPI tables,
/// 4: ACPI NVS, 5: unusable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Kind of memory.
    pub kind: u32,
}

/// What the boot code found out about the machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The firmware's memory map, sorted.
    pub memory_map: Vec<MemoryRange>,
    /// Wall-clock time at system time 0, in nanoseconds since 1970.
    pub boot_wallclock: u64,
    /// Frequency of the time-stamp counter.
    pub tsc_khz: u64,
    /// Machine address of the ACPI RSDP, 0 for none.
    pub rsdp: u64,
    /// ISA interrupts that do not signal as the ISA bus does.
    pub isa_overrides: Vec<acpi::Override>,
    /// Memory-mapped PCI configuration space.
    pub mmconfig: Vec<acpi::MmConfig>,
    /// Local APIC identifiers of the CPUs, by [`ids::CpuId`].
    pub apic_ids: Vec<u32>,
    /// ACPI processor identifiers of the CPUs, by [`ids::CpuId`].
    pub acpi_ids: Vec<u32>,
    /// What the CPUs are.
    pub processor: Processor,
    /// What the firmware said of memory types.
    pub memory_types: hypercall::memory_types::MemoryTypes,
}

/// What CPUID says that the CPUs of the machine are: all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// The maker, as leaf 0 spells it.
    pub vendor: [u8; 12],
    /// Family, with the extended family added.
    pub family: u32,
    /// Model, with the extended model in front.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// The whole state of the hypervisor.
pub struct Hypervisor<P: Platform> {
    /// The machine underneath.
    pub platform: P,
    /// What the boot code found out about it.
    pub machine: Machine,
    /// The command line, parsed.
    pub options: options::Options,
    /// Free frames.
    pub frames: mem::FrameAllocator,
    /// All domains.
    pub domains: DomainTable<P>,
    /// Runnable vCPUs.
    pub sched: sched::Scheduler<P>,
    /// Armed timers.
    pub timers: time::TimerQueues<P>,
    /// Which domain serves which device interrupt.
    pub pirqs: event::PirqTable<P>,
    /// Which domain gets the machine's own virtual interrupts.
    pub virq_handlers: event::GlobalVirqs,
    /// Console input on its way to its reader.
    pub console: console::Console,
    /// Domains that the hypervisor itself starts.
    pub keeper: domain::keeper::Keeper<P>,
}

impl<P: Platform> Hypervisor<P> {
    /// A hypervisor on a machine, with no domain yet. `frames` is the allocator over the platform's frame table.
    pub fn new(
        platform: P,
        machine: Machine,
        options: options::Options,
        frames: mem::FrameAllocator,
    ) -> Self {
        let cpus = machine.apic_ids.len();
        let sched = sched::Scheduler::with_policy(cpus, options.sched);
        // Refused is only what the options refuse as well.
        let _ = sched.set_least_run_us(options.sched_ratelimit_us);
        Self {
            platform,
            machine,
            options,
            frames,
            domains: DomainTable::new(),
            sched,
            timers: time::TimerQueues::new(cpus),
            pirqs: event::PirqTable::new(),
            virq_handlers: event::GlobalVirqs::new(),
            console: console::Console::new(),
            keeper: domain::keeper::Keeper::new(),
        }
    }
}
