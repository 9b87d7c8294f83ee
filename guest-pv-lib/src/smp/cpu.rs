//! The area of a CPU, and how a CPU finds its own.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// What the library keeps for one virtual CPU.
#[derive(Debug)]
pub struct Cpu {
    number: AtomicU32,
    /// Upcalls that run handlers on this CPU now, one inside the other.
    pub(crate) depth: AtomicU32,
    /// Ports that fired on this CPU so far.
    pub(crate) events: AtomicU64,
    /// What `events` was when [`sched::wait`](crate::sched::wait) last returned.
    pub(crate) seen: AtomicU64,
    /// The CPU is about to sleep in a poll, or does.
    pub(crate) waiting: AtomicBool,
    /// The port that ends that poll; 0 where there is none yet.
    pub(crate) wake: AtomicU32,
}

/// The area of the CPU that the domain starts with.
static BOOT: Cpu = Cpu::new(0);

impl Cpu {
    const fn new(number: u32) -> Self {
        Self {
            number: AtomicU32::new(number),
            depth: AtomicU32::new(0),
            events: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            wake: AtomicU32::new(0),
        }
    }

    /// The CPU's number, as the hypervisor counts them.
    #[doc(alias = "vcpuid")]
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number.load(Relaxed)
    }
}

/// The area of the calling CPU.
///
/// A kernel that moves a thread to another CPU while it runs on this one must mask upcalls as long as it uses the
/// result.
#[must_use]
pub fn this_cpu() -> &'static Cpu {
    &BOOT
}
