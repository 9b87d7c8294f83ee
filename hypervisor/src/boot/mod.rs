//! From the boot loader to the first guest instruction.
//!
//! 1. `entry.S` turns on long mode with the first 4 GiB mapped, and calls [`boot_start`] on the boot CPU's stack.
//! 2. [`early_start`]: console, memory map, direct map, frame table and machine-to-physical table, the CPU's own tables; then the
//!    stack moves to the CPU area that guests' entries will use.
//! 3. [`main`]: clocks, interrupts, the [`Hypervisor`], the other CPUs, the domains ([`domains`]); then the CPU becomes one that runs
//!    guests.
//!
//! What makes booting impossible ends in [`fail`]: one line that says what is wrong, and the CPU halts.

mod domains;
mod info;
mod memory;
mod multiboot;
mod pvh;

use crate::cpu::percpu::{PERCPU_SIZE, stack_top, this_cpu};
use crate::cpu::{self, apic, isolation, smp};
use crate::dev::{acpi, clock, ioapic, irq, power, serial};
use crate::machine::{self, Hv, Machine};
use crate::mm::layout::{DIRECT_MAP, IMAGE_BASE};
use crate::mm::tables;
use crate::pv;
use crate::trap::nmi;
use crate::{error, info};
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;
use domains::Modules;
use hypervisor_core::acpi::AcpiInfo;
use hypervisor_core::cpu_policy::side_channels::Mitigations;
use hypervisor_core::cpumask::MAX_CPUS;
use hypervisor_core::ids::CpuId;
use hypervisor_core::options::{Options, Serial};
use hypervisor_core::permissions::Permissions;
use hypervisor_core::{Hypervisor, Machine as MachineFacts};
use info::{BootInfo, MAX_TEXT};
use spin::Once;
use x86_64::instructions::interrupts;

global_asm!(include_str!("entry.S"), percpu_size = const PERCPU_SIZE, options(att_syntax));

unsafe extern "C" {
    static boot_cpu_area: u8;
}

/// What the boot loader said, kept for [`main`], which runs on another stack.
static BOOT: Once<(BootInfo, memory::Tables)> = Once::new();
/// Greatest APIC identifier that interrupts of devices reach without remapping.
const MAX_APIC_ID: u32 = 255;

/// Reads a value at a machine address below 4 GiB.
pub fn phys<T: zerocopy::FromBytes>(addr: u64) -> T {
    // SAFETY: the boot loader's data lies in RAM below 4 GiB, which the boot code mapped.
    unsafe { ((DIRECT_MAP + addr) as *const T).read_unaligned() }
}

/// Ends a boot that cannot go on.
fn fail(why: core::fmt::Arguments<'_>) -> ! {
    error!("cannot boot: {why}. Halted.");
    power::halt()
}

/// First Rust code, from `entry.S`.
#[unsafe(no_mangle)]
extern "sysv64" fn boot_start(magic: u32, loader_info: u32) -> ! {
    serial::init(&Serial::pc(0));
    let at = u64::from(loader_info);
    let boot = match magic {
        multiboot::MAGIC => Some(multiboot::read(at)),
        0 => pvh::read(at),
        _ => None,
    };
    let Some(mut boot) = boot else { fail(format_args!("the boot loader speaks neither multiboot nor PVH")) };
    if let Err(why) = boot.settle(memory::image()) {
        fail(format_args!("{why}"));
    }
    early_start(boot)
}

fn early_start(boot: BootInfo) -> ! {
    if boot.module_count == 0 {
        fail(format_args!("no boot module; pass a PV kernel as the first module"));
    }
    let tables = match memory::init(&boot) {
        Ok(tables) => tables,
        Err(why) => fail(format_args!("{why}")),
    };
    let area = &raw const boot_cpu_area as u64 - IMAGE_BASE;
    // SAFETY: the first CPU's, with its own area.
    if unsafe { smp::map_area(CpuId(0), Some(area)) }.is_err() {
        fail(format_args!("no memory for the boot CPU's tables"));
    }
    BOOT.call_once(|| (boot, tables));
    // SAFETY: the new stack is the same memory by its other address, from its top; nothing of this one is needed.
    unsafe {
        asm!("mov rsp, {}", "xor ebp, ebp", "call {}", "ud2", in(reg) stack_top(CpuId(0)), sym main, options(noreturn))
    }
}

extern "sysv64" fn main() -> ! {
    let Some((boot, tables)) = BOOT.get() else { power::halt() };
    let options = read_options(boot);
    let acpi = acpi::read(boot.rsdp);
    power::init(acpi.power);
    choose_mitigations(&options, boot);
    start_boot_cpu(&options);
    clock::init(&acpi);
    apic::calibrate_timer();
    ioapic::init(&acpi.ioapics);
    let apic_ids = cpus_to_start(&acpi, &options);
    let hv = make_hypervisor(boot, tables, options, &acpi, &apic_ids);
    report(hv, &acpi);
    let console_interrupts = route_console(hv, &acpi);
    this_cpu().online.store(1, Ordering::SeqCst);
    smp::ONLINE.insert(CpuId(0));
    let ids: Vec<u32> = apic_ids.iter().map(|(apic, _)| *apic).collect();
    let up = smp::start_others(&ids) + 1;
    info!("{up} of {} CPUs up", acpi.cpus.len().max(1));
    if tables::protect_image().is_err() {
        fail(format_args!("no memory for page tables"));
    }
    tables::drop_identity_map();
    if isolation::prepare(&smp::ONLINE.load()).is_err() {
        fail(format_args!("no memory for page tables"));
    }
    pv::emulate::prepare();
    // From here on other CPUs run guests, and may wait for this one to flush.
    interrupts::enable();
    start_domains(hv, &acpi, boot);
    if console_interrupts && !hv.options.sync_console {
        serial::stop_waiting();
    }
    smp::run()
}

/// Decides about side channels of the processor.
fn choose_mitigations(options: &Options, boot: &BootInfo) {
    let end = boot.ranges().iter().map(|range| range.start.saturating_add(range.size)).max().unwrap_or(0);
    let facts = cpu::side_channel_facts(address_bits().into());
    isolation::choose(Mitigations::decide(&facts, &options.side_channels, end));
}

fn start_boot_cpu(options: &Options) {
    if apic::choose_mode(options.x2apic).is_err() {
        fail(format_args!("no memory for page tables"));
    }
    // SAFETY: the boot CPU's start, once, on the stack of its area.
    if unsafe { smp::init_this_cpu(CpuId(0), options.smep, options.smap) }.is_err() {
        fail(format_args!("no memory for the boot CPU's tables"));
    }
}

/// A string of the boot loader, as it is; none where no memory is mapped.
fn loader_text(at: u64) -> String {
    let end = at.saturating_add(MAX_TEXT).min(tables::direct_map_limit() << 12);
    let there = if at == 0 { 0..0 } else { at..end };
    let bytes: Vec<u8> = there.map(phys::<u8>).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A string of the boot loader, without the file name that may come first.
fn loader_string(boot: &BootInfo, at: u64) -> String {
    let text = loader_text(at);
    let text = text.trim_start();
    let rest = if boot.names_first { text.split_once(' ').map_or("", |(_, rest)| rest) } else { text };
    rest.trim().into()
}

fn read_options(boot: &BootInfo) -> Options {
    let line = loader_string(boot, boot.cmdline);
    let (options, problems) = Options::parse(&line);
    let port = if options.consoles.com2 && !options.consoles.com1 { 1 } else { 0 };
    if let Some(serial) = &options.com[port] {
        serial::init(serial);
    }
    serial::set_level(options.log_level.always);
    nmi::set_policy(options.nmi);
    info!("Paravane {} (Xen 4.17 ABI)", env!("CARGO_PKG_VERSION"));
    info!("command line: {line}");
    for problem in problems {
        crate::warn!("{problem}, ignored");
    }
    options
}

/// APIC and ACPI identifiers of the CPUs to bring up, the boot CPU's first.
fn cpus_to_start(acpi: &AcpiInfo, options: &Options) -> Vec<(u32, u32)> {
    let boot = apic::id();
    let acpi_id = acpi.cpus.iter().find(|(apic, _)| *apic == boot).map_or(0, |(_, id)| *id);
    let (reachable, far): (Vec<_>, Vec<_>) = acpi.cpus.iter().partition(|(apic, _)| *apic <= MAX_APIC_ID);
    if !far.is_empty() {
        info!("{} CPUs have APIC identifiers above {MAX_APIC_ID}, left off", far.len());
    }
    let others = reachable.into_iter().filter(|(apic, _)| *apic != boot);
    let limit = usize::try_from(options.max_cpus).unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS);
    core::iter::once((boot, acpi_id)).chain(others).take(limit).collect()
}

fn make_hypervisor(
    boot: &BootInfo,
    tables: &memory::Tables,
    options: Options,
    acpi: &AcpiInfo,
    cpus: &[(u32, u32)],
) -> &'static Hv {
    let facts = MachineFacts {
        memory_map: boot.ranges().to_vec(),
        boot_wallclock: (clock::wallclock_seconds() * 1_000_000_000).saturating_sub(clock::now().0),
        tsc_khz: clock::tsc_khz(),
        rsdp: acpi.rsdp,
        isa_overrides: acpi.overrides.clone(),
        mmconfig: acpi.mmconfig.clone(),
        apic_ids: cpus.iter().map(|(apic, _)| *apic).collect(),
        acpi_ids: cpus.iter().map(|(_, id)| *id).collect(),
        processor: cpu::processor(),
        memory_types: cpu::msr::memory_types(address_bits()),
    };
    let frames = hypervisor_core::mem::FrameAllocator::new(tables.frames);
    let platform = Machine::new(tables.frames, tables.m2p);
    let hv = machine::install(Hypervisor::new(platform, facts, options, frames));
    memory::hand_over(hv, boot);
    hv
}

fn report(hv: &Hv, acpi: &AcpiInfo) {
    let frames = hypervisor_core::platform::Platform::frame_table(&hv.platform).len();
    info!(
        "memory: {} MiB free; frame table: {} bytes per frame, {frames} frames",
        hv.frames.free_count() >> 8,
        size_of::<hypervisor_core::page::FrameInfo>()
    );
    isolation::report();
    info!("TSC: {} kHz; IOAPICs: {}; GSIs: {}", clock::tsc_khz(), acpi.ioapics.len(), ioapic::gsi_count());
}

/// Answers whether the console can interrupt.
fn route_console(hv: &Hv, acpi: &AcpiInfo) -> bool {
    let port = if hv.options.consoles.com2 && !hv.options.consoles.com1 { 1 } else { 0 };
    let irq = hv.options.com[port].map_or(Serial::pc(port).irq, |serial| serial.irq);
    if irq == 0 {
        return false;
    }
    let (gsi, line) = irq::isa_route(&acpi.overrides, irq);
    let routed = irq::route_console(gsi, line);
    serial::enable_interrupt();
    routed
}

fn start_domains(hv: &'static Hv, acpi: &AcpiInfo, boot: &BootInfo) {
    let modules = Modules::new(boot);
    let domains = match modules.domains() {
        Ok(domains) => domains,
        Err(why) => fail(format_args!("{why}")),
    };
    let needed = domains.modules_for_restarts();
    let dom0 = domains.dom0.as_ref().map(domains::Dom0::source);
    if let Err(why) = hv.start_domains(domains.plans, &domains.channels, dom0, own_resources(hv, acpi)) {
        fail(format_args!("the first domain cannot be built: {why}"));
    }
    memory::release_modules(hv, boot, |module| needed.iter().any(|bytes| modules.is(module, bytes)));
}

/// Bits of a machine address.
fn address_bits() -> u8 {
    cpu::cpuid().get_processor_capacity_feature_info().map_or(36, |info| info.physical_address_bits())
}

/// What the hypervisor drives itself, and no domain may use.
fn own_resources(hv: &Hv, acpi: &AcpiInfo) -> Permissions {
    let mut own = Permissions::none();
    let port = if hv.options.consoles.com2 && !hv.options.consoles.com1 { 1 } else { 0 };
    let uart = hv.options.com[port].map_or(Serial::pc(port).io_base, |serial| serial.io_base);
    // Interrupt controllers, the PIT's channel 0 and mode, the PCI address port, the console.
    for (first, last) in [(0x20, 0x21), (0xa0, 0xa1), (0x40, 0x43), (0xcf8, 0xcfb), (uart, uart + 7)] {
        own.ioports.insert(first, last);
    }
    // There is nothing beyond the CPU's physical addresses.
    own.iomem.insert(1 << (address_bits() - 12), u64::MAX);
    let controllers = acpi.ioapics.iter().map(|ioapic| ioapic.address).chain([apic::page_address()]);
    controllers.for_each(|address| own.iomem.insert(address >> 12, address >> 12));
    own
}
