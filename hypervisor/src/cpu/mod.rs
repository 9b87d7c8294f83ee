//! CPUs: features, control registers, descriptor tables, per-CPU data, local APIC, bring-up of the others.

pub mod apic;
pub mod descriptors;
pub mod fpu;
pub mod isolation;
pub mod msr;
pub mod percpu;
pub mod smp;
pub mod stub;

use crate::mm::uaccess;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::Processor;
use hypervisor_core::cpu_policy::side_channels::{ARCH_CAPABILITIES, Facts};
use hypervisor_core::cpu_policy::{CR4_FSGSBASE, Vendor, hardware_cr4};
use raw_cpuid::{CpuId, CpuIdReaderNative, FeatureInfo};
use spin::Once;

/// What the hypervisor uses of the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// x2APIC.
    pub x2apic: bool,
    /// APIC timer in TSC-deadline mode.
    pub tsc_deadline: bool,
    /// XSAVE and XCR0.
    pub xsave: bool,
    /// Instructions that read and write FS and GS base.
    pub fsgsbase: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention, unless the CPU is one that gets it wrong.
    pub smap: bool,
    /// RDTSCP and IA32_TSC_AUX.
    pub rdtscp: bool,
    /// `cpuid` in ring 3 can be made to fault.
    pub cpuid_faulting: bool,
    /// FPU state that is loaded may leave the pointers of the one before: `keeps_fpu_pointers` of the core.
    pub keeps_fpu_pointers: bool,
}

static FEATURES: Once<Features> = Once::new();
/// CR4 with all features that the hypervisor turned on; the same on all CPUs.
static CR4_BASE: AtomicU64 = AtomicU64::new(0);
const CR4_PGE: u64 = 1 << 7;

/// CPUID as the crate reads it.
pub fn cpuid() -> CpuId<CpuIdReaderNative> {
    CpuId::new()
}

/// What the CPUs of the machine are.
pub fn processor() -> Processor {
    let id = cpuid();
    let mut vendor = [0; 12];
    if let Some(info) = id.get_vendor_info() {
        vendor.iter_mut().zip(info.as_str().bytes()).for_each(|(to, byte)| *to = byte);
    }
    let one = id.get_feature_info();
    let number = |pick: fn(&FeatureInfo) -> u8| one.as_ref().map_or(0, |info| u32::from(pick(info)));
    Processor {
        vendor,
        family: number(FeatureInfo::family_id),
        model: number(FeatureInfo::model_id),
        stepping: number(FeatureInfo::stepping_id),
    }
}

/// What the boot CPU says of itself that decides about side channels.
pub fn side_channel_facts(address_bits: u32) -> Facts {
    let facts = processor();
    let leaf = |number, most: u32| {
        if native_cpuid(number & 0x8000_0000, 0)[0] >= most { native_cpuid(number, 0) } else { [0; 4] }
    };
    let seven = leaf(7, 7)[3];
    const ARCH_CAPABILITIES_MSR: u32 = 0x10a;
    Facts {
        vendor: Vendor::of(native_cpuid(0, 0)),
        family: facts.family,
        model: facts.model,
        stepping: facts.stepping,
        address_bits,
        leaf7_edx: seven,
        ext8_ebx: leaf(0x8000_0008, 0x8000_0008)[1],
        arch_capabilities: if seven & ARCH_CAPABILITIES != 0 { msr::read(ARCH_CAPABILITIES_MSR) } else { 0 },
    }
}

/// One leaf of CPUID: EAX, EBX, ECX, EDX.
pub fn native_cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, sub);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// What the boot CPU has; the others of a machine are the same.
pub fn features() -> &'static Features {
    FEATURES.call_once(detect)
}

fn detect() -> Features {
    let id = cpuid();
    let one = id.get_feature_info();
    let seven = id.get_extended_feature_info();
    let one = one.as_ref();
    let seven = seven.as_ref();
    // QEMU's TCG before version 8 reads the frame of a ring-3 `iretq` with supervisor rights, so with SMAP on such an
    // `iretq` takes a page fault that no real CPU takes. Kernels use it; there is no way around but SMAP off.
    let tcg = id.get_hypervisor_info().is_some_and(|h| h.identify() == raw_cpuid::Hypervisor::QEMU);
    Features {
        x2apic: one.is_some_and(|f| f.has_x2apic()),
        tsc_deadline: one.is_some_and(|f| f.has_tsc_deadline()),
        xsave: one.is_some_and(|f| f.has_xsave()),
        fsgsbase: seven.is_some_and(|f| f.has_fsgsbase()),
        smep: seven.is_some_and(|f| f.has_smep()),
        smap: seven.is_some_and(|f| f.has_smap()) && !tcg,
        cpuid_faulting: msr::try_read(msr::PLATFORM_INFO).is_some_and(|info| info >> 31 & 1 != 0),
        keeps_fpu_pointers: hypervisor_core::cpu_policy::cpuid::keeps_fpu_pointers(&native_cpuid),
        rdtscp: id.get_extended_processor_and_feature_identifiers().is_some_and(|f| f.has_rdtscp()),
    }
}

/// Sets CR4 of this CPU: global pages, SSE, and the protections that the command line allows.
pub fn init_control_registers(smep: bool, smap: bool) {
    let features = features();
    // PAE, MCE, PGE, OSFXSR, OSXMMEXCPT; then FSGSBASE, OSXSAVE, SMEP.
    let mut cr4 = 1 << 5 | 1 << 6 | CR4_PGE | 1 << 9 | 1 << 10;
    for (on, bit) in [(features.fsgsbase, 16), (features.xsave, 18), (features.smep && smep, 20)] {
        cr4 |= u64::from(on) << bit;
    }
    // SAFETY: only bits that the CPU has; all hypervisor pages are supervisor pages, so SMEP changes nothing for us.
    unsafe {
        asm!("mov cr4, {}", in(reg) cr4, options(nostack));
        if features.smap && smap {
            uaccess::enable_smap();
        }
    }
    CR4_BASE.store(read_cr4(), Ordering::Relaxed);
    if features.cpuid_faulting {
        // SAFETY: `cpuid` in ring 3 faults from now on, and is emulated; ring 0 sees no difference.
        unsafe { msr::write(msr::MISC_FEATURES_ENABLES, msr::read(msr::MISC_FEATURES_ENABLES) | 1) };
    }
}

fn read_cr4() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Whether the instructions for FS and GS base may be used now: the guest that is loaded decides.
pub fn fsgsbase_enabled() -> bool {
    read_cr4() & CR4_FSGSBASE != 0
}

/// Loads CR4 for a guest with this CR4 of its own.
pub fn load_guest_cr4(guest: u64) {
    let wanted = hardware_cr4(CR4_BASE.load(Ordering::Relaxed), guest);
    if wanted != read_cr4() {
        // SAFETY: what `init_control_registers` chose, less what the guest decides about.
        unsafe { asm!("mov cr4, {}", in(reg) wanted, options(nostack)) };
    }
}

/// Flushes the whole TLB of this CPU, global entries too, and what it copied of level-4 tables.
pub fn flush_tlb_global() {
    isolation::forget(percpu::this_cpu());
    // SAFETY: toggling CR4.PGE has no other effect (SDM Vol. 3, 4.10.4.1).
    unsafe {
        asm!(
            "mov {cr4}, cr4",
            "xor {cr4}, {pge}",
            "mov cr4, {cr4}",
            "xor {cr4}, {pge}",
            "mov cr4, {cr4}",
            cr4 = out(reg) _,
            pge = const CR4_PGE,
            options(nostack),
        );
    }
}

/// Writes back and invalidates this CPU's caches.
pub fn flush_caches() {
    // SAFETY: what is dirty is written back; nothing is lost.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) }
}

/// How this machine flushes a cache line.
static LINE_FLUSH: Once<LineFlush> = Once::new();

struct LineFlush {
    /// Bytes of a line.
    step: usize,
    /// CLFLUSHOPT, which lets the flushes of several lines overlap.
    overlapping: bool,
}

impl LineFlush {
    /// `step` is 0 for a processor without CLFLUSH.
    fn find() -> Self {
        let cpuid = cpuid();
        // CPUID leaf 1, EBX bits 15..8: the line in units of 8 bytes. A smaller step flushes a line twice, which harms nothing.
        let line = cpuid.get_feature_info().filter(|info| info.has_clflush());
        let line = line.map(|info| usize::from(info.cflush_cache_line_size()) * 8);
        Self {
            step: line.map_or(0, |line| if line.is_power_of_two() { line.clamp(16, 256) } else { 16 }),
            overlapping: cpuid.get_extended_feature_info().is_some_and(|info| info.has_clflushopt()),
        }
    }
}

/// Writes back and invalidates the cache lines that hold `len` bytes from the mapped address `start` on, in the caches of all CPUs
/// (SDM Vol. 2, CLFLUSH, CLFLUSHOPT). Answers `false`, and does nothing, on a processor that cannot: there is [`flush_caches`].
#[must_use]
pub fn flush_cache_lines(start: usize, len: usize) -> bool {
    let &LineFlush { step, overlapping } = LINE_FLUSH.call_once(LineFlush::find);
    if step == 0 {
        return false;
    }
    // CLFLUSHOPT, and CLFLUSH on AMD's processors (APM Vol. 3), are ordered by nothing but fences: not with earlier and later accesses,
    // and reads of the same line among them.
    // SAFETY: a fence.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    let end = start + len;
    let mut at = start & !(step - 1);
    while at < end {
        // SAFETY: the caller's address is mapped, and so is the rest of its line; what is dirty is written back, nothing is lost.
        unsafe {
            match overlapping {
                true => asm!("clflushopt [{}]", in(reg) at, options(nostack, preserves_flags)),
                false => asm!("clflush [{}]", in(reg) at, options(nostack, preserves_flags)),
            }
        }
        at += step;
    }
    // SAFETY: a fence.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    true
}

/// Loads a page-table root.
///
/// # Safety
/// The tables at `cr3` hold the hypervisor's slots.
pub unsafe fn write_cr3(cr3: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov cr3, {}", in(reg) cr3, options(nostack, preserves_flags)) }
}
