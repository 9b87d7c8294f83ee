//! What a case says about itself beside its code: the clause, how it must be run, what it checks.
//!
//! Attributes stand above the function, in any order, each as often as needed:
//!
//! | attribute | the case |
//! |---|---|
//! | `/// text` | checks this clause, or the regression behind this advisory |
//! | `#[alone]` | changes the domain for good: it gets a boot of its own |
//! | `#[ends(crash)]` | must end the domain as crashed, by the hypervisor or by its own word; also `poweroff`, `reboot`. Gets a boot of its own; fails where it returns, or where the kernel itself gives up |
//! | `#[vcpus(2)]` | needs so many vCPUs in its domain |
//! | `#[cpus(2)]` | needs so many CPUs in the machine (`#[vcpus(4)] #[cpus(2)]`: more vCPUs than CPUs) |
//! | `#[peer]` | needs a second domain, which it makes itself |
//! | `#[feature(avx)]` | needs this of the CPU: see [`Feature`]. `intel` or `amd`: a CPU of this maker, which the host provides |
//! | `#[emulator(qemu, "why")]` | may fail there for this reason. It then counts as skipped, on ours unless Xen passes it there |
//! | `#[covers(EVTCHNOP_SEND, IRET)]` | exercises these; only needed where the body does not name the constant |

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

use guest_pv_lib::BootContext;
use xen_abi::hypercall::nr;
use xen_abi::platform::{XENPF_GET_CPUINFO, XENPF_INTERFACE_VERSION, XenPlatformOp};
use xen_abi::vcpu::VCPUOP_IS_UP;

use crate::call::{hc1, hc3};

/// One attribute of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not each has a case; some only matter to the host")]
pub enum Attribute {
    /// A line of what it checks.
    Clause(&'static str),
    /// It gets a boot of its own.
    Alone,
    /// It ends the domain in this way, in a boot of its own.
    Ends(End),
    /// It needs so many vCPUs.
    Vcpus(u32),
    /// It needs so many CPUs of the machine.
    Cpus(u32),
    /// It needs a second domain.
    Peer,
    /// It needs a CPU that has this.
    Feature(Feature),
    /// It may fail on this emulator, for this reason.
    Emulator(&'static str, &'static str),
    /// It exercises these hypercalls and commands.
    Covers(&'static [&'static str]),
}

/// How a case ends its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, dead_code, reason = "the words of the attribute; not each has a case")]
pub enum End {
    /// As crashed: the hypervisor kills it, or it says so itself.
    crash,
    /// It asks to be switched off.
    poweroff,
    /// It asks to be started anew.
    reboot,
}

macro_rules! features {
    ($($(#[$doc:meta])+ $name:ident = $leaf:literal[$sub:literal] $register:ident $bit:literal;)*) => {
        /// A feature of the CPU, named as in the attribute.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, dead_code, reason = "the words of the attribute; not each has a case")]
        pub enum Feature {
            /// The CPU says `GenuineIntel`.
            intel,
            /// The CPU says `AuthenticAMD`.
            amd,
            $($(#[$doc])+ $name,)*
        }

        impl Feature {
            fn is_there(self) -> bool {
                match self {
                    Self::intel => maker() == *b"GenuineIntel",
                    Self::amd => maker() == *b"AuthenticAMD",
                    $(Self::$name => bit($leaf, $sub, |result| result.$register, $bit),)*
                }
            }
        }
    };
}

// Leaf, sub-leaf, register and bit of CPUID, as the domain sees it (SDM volume 2, CPUID; APM volume 3, appendix E).
features! {
    /// 128-bit compare and exchange.
    cx16 = 0x1[0] ecx 13;
    /// XSAVE and XGETBV, enabled by the hypervisor.
    xsave = 0x1[0] ecx 27;
    /// 256-bit vectors.
    avx = 0x1[0] ecx 28;
    /// Random numbers.
    rdrand = 0x1[0] ecx 30;
    /// FS and GS base instructions.
    fsgsbase = 0x7[0] ebx 0;
    /// Supervisor-mode execution prevention.
    smep = 0x7[0] ebx 7;
    /// Supervisor-mode access prevention.
    smap = 0x7[0] ebx 20;
    /// 512-bit vectors.
    avx512f = 0x7[0] ebx 16;
    /// User-mode instruction prevention.
    umip = 0x7[0] ecx 2;
    /// Protection keys.
    pku = 0x7[0] ecx 3;
    /// RDPID.
    rdpid = 0x7[0] ecx 22;
    /// XGETBV of register 1, XSAVEC and XSAVES.
    xsavec = 0xd[1] eax 1;
    /// RDTSCP.
    rdtscp = 0x8000_0001[0] edx 27;
    /// Pages of 1 GiB.
    page1gb = 0x8000_0001[0] edx 26;
    /// SYSCALL.
    syscall = 0x8000_0001[0] edx 11;
    /// A TSC of constant rate.
    invariant_tsc = 0x8000_0007[0] edx 8;
}

fn bit(leaf: u32, sub: u32, register: fn(CpuidResult) -> u32, bit: u32) -> bool {
    let top = __cpuid(leaf & 0x8000_0000).eax;
    top >= leaf && register(__cpuid_count(leaf, sub)) >> bit & 1 != 0
}

fn maker() -> [u8; 12] {
    let leaf = __cpuid(0);
    let mut text = [0; 12];
    for (at, word) in [leaf.ebx, leaf.edx, leaf.ecx].into_iter().enumerate() {
        text[4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    text
}

/// Turns the inside of one attribute into an [`Attribute`].
macro_rules! attribute {
    (doc = $clause:literal) => {
        $crate::harness::attribute::Attribute::Clause($clause)
    };
    (alone) => {
        $crate::harness::attribute::Attribute::Alone
    };
    (ends($end:ident)) => {
        $crate::harness::attribute::Attribute::Ends($crate::harness::attribute::End::$end)
    };
    (vcpus($count:literal)) => {
        $crate::harness::attribute::Attribute::Vcpus($count)
    };
    (cpus($count:literal)) => {
        $crate::harness::attribute::Attribute::Cpus($count)
    };
    (peer) => {
        $crate::harness::attribute::Attribute::Peer
    };
    (feature($feature:ident)) => {
        $crate::harness::attribute::Attribute::Feature($crate::harness::attribute::Feature::$feature)
    };
    (emulator($name:ident, $why:literal)) => {
        $crate::harness::attribute::Attribute::Emulator(stringify!($name), $why)
    };
    (covers($($what:ident),+ $(,)?)) => {
        $crate::harness::attribute::Attribute::Covers(&[$(stringify!($what)),+])
    };
}

/// What the domain lacks of what `attributes` ask for.
pub fn lacks(boot: &BootContext, attributes: &[Attribute]) -> Option<&'static str> {
    attributes.iter().find_map(|attribute| match *attribute {
        Attribute::Vcpus(count) if vcpus() < count => Some("the domain has too few vCPUs"),
        Attribute::Cpus(count) if cpus().is_some_and(|cpus| cpus < count) => {
            Some("the machine has too few CPUs")
        }
        Attribute::Peer if !boot.is_privileged() => Some("only a control domain can make a second one"),
        Attribute::Feature(feature) if !feature.is_there() => Some("the CPU lacks a feature"),
        _ => None,
    })
}

/// vCPUs of this domain: the first number that is refused.
fn vcpus() -> u32 {
    (0..).find(|vcpu| hc3(nr::VCPU_OP, VCPUOP_IS_UP.into(), u64::from(*vcpu), 0).is_err()).unwrap_or(u32::MAX)
}

/// CPUs of the machine, where the domain may ask.
fn cpus() -> Option<u32> {
    // The argument's second word is `max_present`, which comes back whichever CPU is asked about.
    let mut op = XenPlatformOp {
        cmd: XENPF_GET_CPUINFO,
        interface_version: XENPF_INTERFACE_VERSION,
        ..XenPlatformOp::default()
    };
    hc1(nr::PLATFORM_OP, &raw mut op as u64).ok()?;
    u32::try_from(op.u[0] >> 32).ok()?.checked_add(1)
}
