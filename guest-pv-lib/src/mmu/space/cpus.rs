//! Which CPU runs in which address space.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU64, AtomicUsize};

use crate::Errno;
use crate::mmu::{Mfn, edge};
use crate::smp::this_cpu;

/// More CPUs than a PV domain has in practice.
const CPUS: usize = 512;

/// The root that each CPU has, where a [`Space`](super::Space) was ever made its own. While a CPU changes to another one, this
/// is the former: that one may be in use until the change is done, and the other is borrowed by whoever activates it.
static ROOTS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// No CPU above this one was ever in a space: so much of the list is looked at.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

fn number() -> usize {
    let number = this_cpu().number() as usize;
    assert!(number < CPUS, "CPU {number} is one too many for address spaces");
    number
}

fn place() -> &'static AtomicU64 {
    &ROOTS[number()]
}

/// Makes these the roots of the calling CPU.
///
/// # Safety
///
/// Both must be roots with the kernel's half. They must stay so during the call, and as long as [`anywhere`] says that a CPU
/// has them.
pub unsafe fn enter(kernel: Mfn, user: Mfn) -> Result<(), Errno> {
    // An event handler must not switch in between.
    without_upcalls(|| {
        HIGHEST.fetch_max(number(), SeqCst);
        // SAFETY: the caller's promise: from the end of the call on `anywhere` says so.
        let loaded = unsafe { edge::load_roots(kernel, user) };
        // Not before: another CPU may dissolve a space as soon as this one no longer says that it has it.
        loaded.inspect(|()| place().store(kernel.0, SeqCst))
    })
}

/// Whether the calling CPU has `root`.
pub fn here(root: Mfn) -> bool {
    place().load(SeqCst) == root.0
}

/// Whether any CPU has it.
pub fn anywhere(root: Mfn) -> bool {
    ROOTS[..=HIGHEST.load(SeqCst)].iter().any(|place| place.load(SeqCst) == root.0)
}

fn without_upcalls<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_os = "none")]
    {
        crate::events::without_upcalls(work)
    }
    #[cfg(not(target_os = "none"))]
    work()
}
