//! CPUID as PV guests see it: the processor's own leaves, less what needs rings, page tables, an APIC or registers that they
//! have not. Leaves beyond what is listed are zero, as AMD's processors answer.
//!
//! A guest asks by the forced-emulation prefix (arch-x86/xen.h), or by `cpuid` where the processor can make it fault.

use super::{CR4_OSXSAVE, Vendor};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Viewer {
    /// The control domain.
    pub privileged: bool,
    /// Its kernel, not its user code.
    pub kernel: bool,
    /// By the forced-emulation prefix.
    pub forced: bool,
    /// The guest's CR4.
    pub cr4: u64,
}

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

const NOTHING: Leaf = [0; 4];
const MAX_BASIC: u32 = 0xd;
const MAX_EXTENDED_AMD: u32 = 0x8000_0021;
const MAX_EXTENDED: u32 = 0x8000_0008;

/// A list of bit numbers as a mask.
const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut n = 0;
    while n < list.len() {
        mask |= 1 << list[n];
        n += 1;
    }
    mask
}

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
const EIST: u32 = 1 << 7;
const OSXSAVE: u32 = 1 << 27;
const XSAVE: u32 = 1 << 26;
const HYPERVISOR: u32 = 1 << 31;
const MONITOR: u32 = 1 << 3;
/// Leaf 1 EDX: FPU, DE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MCA, CMOV, PAT, CLFLUSH, ACPI, MMX, FXSR, SSE, SSE2, SS, HTT. The
/// APIC's bit makes a kernel use ACPI's interrupt routing, although the registers are not there.
const LEAF1_EDX: u32 = bits(&[0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 19, 22, 23, 24, 25, 26, 27, 28]);
/// AMD's processors have no `sysenter` in long mode.
const SEP: u32 = 1 << 11;
/// The control domain's kernel asks the hypervisor for memory types where it sees this.
const MTRR: u32 = 1 << 12;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, two about the FPU's pointers, BMI2, ERMS, RTM, AVX-512 F and DQ, RDSEED, ADX, AVX-512 IFMA,
/// CLFLUSHOPT, CLWB, AVX-512 PF, ER, CD, SHA, AVX-512 BW and VL. Not SMEP, SMAP, INVPCID, HLE, MPX, PKU.
const LEAF7_EBX: u32 = bits(&[0, 3, 5, 6, 8, 9, 11, 13, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
/// Leaf 7 ECX: PREFETCHWT1, AVX-512 VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, CLDEMOTE.
const LEAF7_ECX: u32 = bits(&[0, 1, 6, 8, 9, 10, 11, 12, 14, 22, 25]);
/// Leaf 7 EDX: AVX-512 4VNNIW and 4FMAPS, FSRM, MD_CLEAR, RTM_ALWAYS_ABORT, SERIALIZE. Not the controls of speculation: guests have
/// not their registers.
const LEAF7_EDX: u32 = bits(&[2, 3, 4, 10, 11, 14]);
/// Leaf 7, sub-leaf 1, EAX: AVX-VNNI, AVX-512 BF16, FZRM, FSRS, FSRCS.
const LEAF7_1_EAX: u32 = bits(&[4, 5, 10, 11, 12]);
/// Leaf 80000001h ECX: LAHF, CMP_LEGACY, LZCNT, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM, DBEXT.
const EXT1_ECX: u32 = bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 80000001h EDX: SYSCALL, NX, MMX extensions, FFXSR, RDTSCP, long mode, 3DNow.
const EXT1_EDX: u32 = bits(&[11, 20, 22, 25, 27, 29, 30, 31]);
/// Those of leaf 1 that AMD repeats there.
const EXT1_COMMON: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 23, 24]);
/// Leaf 80000008h EBX: CLZERO, RSTR_FP_ERR_PTRS, SSB_NO, BTC_NO.
const EXT8_EBX: u32 = bits(&[0, 2, 26, 29]);
/// Leaf 80000021h EAX: LFENCE waits, null selectors clear bases.
const EXT21_EAX: u32 = bits(&[2, 6]);
const INVARIANT_TSC: u32 = 1 << 8;

/// Parts of XCR0 that PV guests may use, where the processor has them: x87, SSE, AVX, AVX-512. Not MPX, PKRU, AMX.
pub const XCR0_USABLE: u64 = 0xe7;

/// XCR0's greatest value.
pub fn supported_xcr0(native: &impl Fn(u32, u32) -> Leaf) -> u64 {
    let [low, _, _, high] = native(0xd, 0);
    (u64::from(high) << 32 | u64::from(low)) & XCR0_USABLE
}

/// Whether loading FPU state without a pending exception leaves the last instruction's and its operand's addresses in place, so that the
/// next user of the FPU sees them: AMD's processors (and Hygon's) until they say otherwise (APM volume 2, 11.4.4; volume 3, CPUID
/// 8000_0008 EBX, RstrFpErrPtrs).
pub fn keeps_fpu_pointers(native: &impl Fn(u32, u32) -> Leaf) -> bool {
    const RESTORES_POINTERS: u32 = 1 << 2;
    let [_, b, c, d] = native(0, 0);
    let name = [b, d, c].map(u32::to_le_bytes);
    let is_concerned =
        ["AuthenticAMD", "HygonGenuine"].iter().any(|maker| maker.as_bytes() == name.as_flattened());
    let says = native(0x8000_0000, 0)[0] >= 0x8000_0008 && native(0x8000_0008, 0)[1] & RESTORES_POINTERS != 0;
    is_concerned && !says
}

/// What every answer needs of the processor: asked for once, because where a hypervisor runs in a virtual machine each
/// `cpuid` is an exit.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    vendor: Vendor,
    max_basic: u32,
    max_extended: u32,
}

impl Host {
    /// The processor that `native` asks.
    pub fn of(native: &impl Fn(u32, u32) -> Leaf) -> Self {
        let first = native(0, 0);
        let vendor = Vendor::of(first);
        let most = if vendor == Vendor::Amd { MAX_EXTENDED_AMD } else { MAX_EXTENDED };
        Self { vendor, max_basic: first[0].min(MAX_BASIC), max_extended: native(0x8000_0000, 0)[0].min(most) }
    }
}

/// One leaf. The hypervisor's own, from 40000000h on, are not here.
pub fn leaf(native: &impl Fn(u32, u32) -> Leaf, host: &Host, viewer: &Viewer, number: u32, sub: u32) -> Leaf {
    let Host { vendor, max_basic, max_extended } = *host;
    match number {
        0 => {
            let [_, ebx, ecx, edx] = native(0, 0);
            [max_basic, ebx, ecx, edx]
        }
        1..=MAX_BASIC if number <= max_basic => basic(native, viewer, vendor, number, sub),
        0x8000_0000 => {
            let [_, ebx, ecx, edx] = if vendor == Vendor::Amd { native(0, 0) } else { NOTHING };
            [max_extended, ebx, ecx, edx]
        }
        0x8000_0001.. if number <= max_extended => extended(native, viewer, vendor, number),
        _ => NOTHING,
    }
}

fn basic(native: &impl Fn(u32, u32) -> Leaf, viewer: &Viewer, vendor: Vendor, number: u32, sub: u32) -> Leaf {
    let intel = vendor == Vendor::Intel;
    match number {
        1 => features(native, viewer, vendor),
        2 if intel => native(2, 0),
        4 if intel => cache(native, sub),
        7 => {
            let [max, ..] = native(7, 0);
            let [eax, ebx, ecx, edx] = native(7, sub);
            match sub {
                0 => [max.min(2), ebx & LEAF7_EBX, ecx & LEAF7_ECX, edx & LEAF7_EDX],
                1 if max >= 1 => [eax & LEAF7_1_EAX, 0, 0, 0],
                _ => NOTHING,
            }
        }
        0xd if native(1, 0)[2] & XSAVE != 0 => xsave(native, sub),
        _ => NOTHING,
    }
}

fn features(native: &impl Fn(u32, u32) -> Leaf, viewer: &Viewer, vendor: Vendor) -> Leaf {
    let [eax, ebx, native_ecx, edx] = native(1, 0);
    let mut ecx = native_ecx & LEAF1_ECX | HYPERVISOR;
    // Architecturally the guest's CR4 decides. Kernels have come to rely on seeing the hypervisor's through the prefix.
    let leaked = viewer.forced && viewer.kernel && native_ecx & XSAVE != 0;
    if viewer.cr4 & CR4_OSXSAVE != 0 || leaked {
        ecx |= OSXSAVE;
    }
    if viewer.privileged && viewer.kernel {
        ecx |= native_ecx & EIST;
        if !viewer.forced {
            ecx |= native_ecx & MONITOR;
        }
    }
    [eax & 0x0fff_0fff, ebx & 0x00ff_ffff, ecx, features_edx(edx, viewer, vendor)]
}

fn features_edx(native: u32, viewer: &Viewer, vendor: Vendor) -> u32 {
    let mut mask = LEAF1_EDX;
    if vendor == Vendor::Amd {
        mask &= !SEP;
    }
    if viewer.privileged && viewer.kernel {
        mask |= MTRR;
    }
    native & mask
}

/// Cache parameters, without what they say about the topology; nothing behind the first sub-leaf that is none.
fn cache(native: &impl Fn(u32, u32) -> Leaf, sub: u32) -> Leaf {
    const SUBLEAVES: u32 = 6;
    if sub >= SUBLEAVES || (0..=sub).any(|n| !(1..=3).contains(&(native(4, n)[0] & 0x1f))) {
        return NOTHING;
    }
    let [eax, ebx, ecx, edx] = native(4, sub);
    [eax & 0xffff_c3ff, ebx, ecx, edx & 7]
}

fn xsave(native: &impl Fn(u32, u32) -> Leaf, sub: u32) -> Leaf {
    const LEGACY_AND_HEADER: u32 = 512 + 64;
    let supported = supported_xcr0(native);
    match sub {
        0 => {
            let parts = (2..63).filter(|n| supported >> n & 1 != 0).map(|n| native(0xd, n));
            let size =
                parts.map(|[size, offset, ..]| size + offset).max().unwrap_or(0).max(LEGACY_AND_HEADER);
            let [low, high] = [supported & 0xffff_ffff, supported >> 32].map(|word| word as u32);
            [low, native(0xd, 0)[1], size, high]
        }
        1 => {
            // XSAVEOPT, XSAVEC, XGETBV with ECX 1; XSAVES is for kernels that own IA32_XSS.
            let [eax, ebx, ..] = native(0xd, 1);
            [eax & 7, if eax & 2 != 0 { ebx } else { 0 }, 0, 0]
        }
        2..=62 if supported >> sub & 1 != 0 => {
            let [eax, ebx, ecx, _] = native(0xd, sub);
            [eax, ebx, ecx & !1, 0]
        }
        _ => NOTHING,
    }
}

fn extended(native: &impl Fn(u32, u32) -> Leaf, viewer: &Viewer, vendor: Vendor, number: u32) -> Leaf {
    let amd = vendor == Vendor::Amd;
    let [eax, ebx, ecx, edx] = native(number, 0);
    match number {
        0x8000_0001 => {
            let (fms, ebx) = if amd { (eax & 0x0fff_0fff, ebx & 0xff00_ffff) } else { (0, 0) };
            let common = if amd { features_edx(native(1, 0)[3], viewer, vendor) & EXT1_COMMON } else { 0 };
            // Not an AMD's: SYSCALL, NX, RDTSCP and long mode are its only bits.
            let mtrr = if viewer.privileged && viewer.kernel { native(1, 0)[3] & MTRR } else { 0 };
            [fms, ebx, ecx & EXT1_ECX, edx & EXT1_EDX | common | mtrr]
        }
        0x8000_0002..=0x8000_0004 => [eax, ebx, ecx, edx],
        0x8000_0005 if amd => [eax, ebx, ecx, edx],
        0x8000_0006 => {
            if amd {
                [eax, ebx, ecx, edx]
            } else {
                [0, 0, ecx, 0]
            }
        }
        // A domain that stays on this machine may rely on it.
        0x8000_0007 => [0, 0, 0, if viewer.privileged { edx & INVARIANT_TSC } else { 0 }],
        0x8000_0008 => {
            const LINEAR_BITS: u32 = 48;
            [eax & 0xff | LINEAR_BITS << 8, ebx & EXT8_EBX, if amd { ecx & 0x0003_f0ff } else { 0 }, 0]
        }
        0x8000_001a if amd => [eax, ebx, ecx, edx],
        0x8000_0021 if amd => [eax & EXT21_EAX, 0, 0, 0],
        _ => NOTHING,
    }
}
