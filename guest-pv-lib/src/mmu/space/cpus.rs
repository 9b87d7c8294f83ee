//! Which CPU runs in which address space.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use crate::Errno;
use crate::mmu::{Mfn, edge};
use crate::smp::this_cpu;

/// As many CPUs as a domain can have in practice; those above share the last place, which then counts as in use.
const CPUS: usize = 512;

/// The root that each CPU has, where a [`Space`](super::Space) was ever made its own.
static ROOTS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

fn place() -> &'static AtomicU64 {
    &ROOTS[(this_cpu().number() as usize).min(CPUS - 1)]
}

/// Makes these the roots of the calling CPU.
pub fn enter(kernel: Mfn, user: Mfn) -> Result<(), Errno> {
    // An event handler must not switch in between.
    without_upcalls(|| {
        let before = place().swap(kernel.0, SeqCst);
        edge::load_roots(kernel, user).inspect_err(|_| place().store(before, SeqCst))
    })
}

/// Whether the calling CPU has `root`.
pub fn here(root: Mfn) -> bool {
    place().load(SeqCst) == root.0
}

/// Whether any CPU has it.
pub fn anywhere(root: Mfn) -> bool {
    ROOTS.iter().any(|place| place.load(SeqCst) == root.0)
}

fn without_upcalls<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_os = "none")]
    {
        crate::events::without_upcalls(work)
    }
    #[cfg(not(target_os = "none"))]
    work()
}
