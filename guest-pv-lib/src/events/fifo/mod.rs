//! The FIFO layout: a word for each port, linked into queues by CPU and priority (`event_channel.h`).
//!
//! A kernel that wants more than 4096 ports, or priorities, asks for it by [`use_fifo`] and brings the
//! memory, a [`Storage`]. There is no way back. `queue` has what a CPU does with its queues; here is where the words
//! lie, and the switch.
//!
//! The hypervisor links words while the kernel unlinks them, so all of them are atomics, and a number read from a word
//! is looked up, never trusted: the hypervisor writes only numbers of ports that have a word, but nothing breaks where it
//! does not.

mod queue;

use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};

use xen_abi::event_channel::{
    EVTCHN_FIFO_MASKED, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EVTCHNOP_EXPAND_ARRAY,
    EVTCHNOP_INIT_CONTROL, EvtchnExpandArray, EvtchnInitControl,
};

pub(crate) use queue::Queues;

use super::table::Entries;
use super::{Port, bind};
use crate::BootContext;
use crate::hypercall::Errno;
use crate::shared::{SharedInfo, VcpuInfo};
use crate::smp::{Cpu, is_live, this_cpu};

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;

/// Ports that a page of words has room for.
pub const PORTS_PER_PAGE: usize = 1024;
const MAX_PAGES: usize = EVTCHN_FIFO_NR_CHANNELS as usize / PORTS_PER_PAGE;

/// A page of event words.
#[repr(C, align(4096))]
struct Words([AtomicU32; PORTS_PER_PAGE]);

/// The memory for `PAGES` times 1024 ports: a static of the kernel's image, 12 KiB for each page.
///
/// ```
/// use guest_pv_lib::events::fifo::Storage;
///
/// static PORTS: Storage<8> = Storage::new();
/// ```
#[repr(C, align(4096))]
pub struct Storage<const PAGES: usize> {
    words: [Words; PAGES],
    /// Handlers of the ports beyond those that the two-level layout has.
    entries: [Entries; PAGES],
    taken: AtomicBool,
}

impl<const PAGES: usize> Storage<PAGES> {
    /// Storage that is not in use yet.
    #[must_use]
    pub const fn new() -> Self {
        assert!(PAGES > 0 && PAGES <= MAX_PAGES, "from 1 to 128 pages");
        Self {
            words: [const { Words([const { AtomicU32::new(0) }; PORTS_PER_PAGE]) }; PAGES],
            entries: [const { [const { AtomicU64::new(0) }; PORTS_PER_PAGE] }; PAGES],
            taken: AtomicBool::new(false),
        }
    }
}

impl<const PAGES: usize> Default for Storage<PAGES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PAGES: usize> core::fmt::Debug for Storage<PAGES> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Storage").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The layout is in use.
static IN_USE: AtomicBool = AtomicBool::new(false);
/// The pages of words, in order; null where there is none.
static PAGES: [AtomicPtr<Words>; MAX_PAGES] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_PAGES];

/// Whether the layout is in use.
pub(super) fn in_use() -> bool {
    IN_USE.load(Acquire)
}

/// The word of a port, where it has one.
fn word(port: u32) -> Option<&'static AtomicU32> {
    let page = PAGES.get(port as usize / PORTS_PER_PAGE)?.load(Acquire);
    // SAFETY: null, or put there by `use_fifo` from a `&'static`.
    let page = unsafe { page.as_ref() }?;
    page.0.get(port as usize % PORTS_PER_PAGE)
}

/// Sets the port's mask bit.
pub(super) fn mask(port: Port) {
    if let Some(word) = word(port.0) {
        word.fetch_or(MASKED, SeqCst);
    }
}

/// Whether the port is masked.
pub(super) fn is_masked(port: Port) -> bool {
    word(port.0).is_none_or(|word| word.load(SeqCst) & MASKED != 0)
}

/// Clears the port's mask bit; where that alone would lose an event, the hypervisor does it.
pub(super) fn unmask(port: Port) {
    if word(port.0).is_some_and(|word| !queue::unmask(word)) {
        // Refused only for a port that is not open, which has no event to lose.
        let _ = bind::unmask(port);
    }
}

/// Clears the port's pending bit and returns what it was.
pub(super) fn take(port: Port) -> bool {
    word(port.0).is_some_and(|word| word.fetch_and(!PENDING, AcqRel) & PENDING != 0)
}

/// Sets the port's pending bit without telling anybody.
pub(super) fn set_pending(port: Port) {
    if let Some(word) = word(port.0) {
        word.fetch_or(PENDING, SeqCst);
    }
}

/// Calls `run` for every event in the CPU's queues, the highest priority first.
pub(super) fn scan(vcpu: &VcpuInfo, queues: &Queues, mut run: impl FnMut(Port)) {
    while vcpu.upcall_pending.swap(0, AcqRel) != 0 {
        while let Some(port) = queues.next(word) {
            run(Port(port));
        }
    }
}

/// Masks every port but those that `shared` has unmasked.
fn fill(pages: &[Words], shared: &SharedInfo) {
    for (number, word) in pages.iter().flat_map(|page| &page.0).enumerate() {
        let masked =
            shared.mask.get(number / 64).is_none_or(|mask| mask.load(Acquire) >> (number % 64) & 1 != 0);
        word.store(if masked { MASKED } else { 0 }, Release);
    }
}

/// Changes to the FIFO layout: `PAGES` times 1024 ports, and sixteen priorities
/// ([`Channel::set_priority`](super::Channel::set_priority)). Ports that are open stay open, masked or not, pending or
/// not.
///
/// # Errors
///
/// `EBUSY` after a second CPU was started, or where it is done already; `ENOSYS` where the hypervisor has only the
/// two-level layout; `EFAULT` where the storage is not part of the image.
#[doc(alias("EVTCHNOP_init_control", "EVTCHNOP_expand_array"))]
pub fn use_fifo<const PAGES: usize>(
    boot: &BootContext,
    storage: &'static Storage<PAGES>,
) -> Result<(), Errno> {
    if is_live() || in_use() || storage.taken.swap(true, AcqRel) {
        return Err(Errno::EBUSY);
    }
    super::without_upcalls(|| change(boot, &storage.words, &storage.entries))
}

fn change(boot: &BootContext, words: &'static [Words], entries: &'static [Entries]) -> Result<(), Errno> {
    let frame = |page: &Words| boot.p2m().mfn(boot.pfn_of(ptr::from_ref(page) as u64));
    // There is no way back from the next call.
    if words.iter().any(|page| frame(page).is_none()) {
        return Err(Errno::EFAULT);
    }
    fill(words, crate::shared::info());
    init_control(boot, this_cpu())?;
    // From here on the hypervisor looks at the words.
    for (at, (page, entries)) in words.iter().zip(entries).enumerate() {
        let frame = frame(page).ok_or(Errno::EFAULT)?;
        PAGES[at].store(ptr::from_ref(page).cast_mut(), Release);
        super::table::extend(at, entries);
        IN_USE.store(true, Release);
        bind::op(EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn: frame.0 })?;
    }
    Ok(())
}

/// Makes the layout that of a domain which has gone on elsewhere, where it was in use. Every port is masked.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) fn restart(boot: &BootContext) -> Result<(), Errno> {
    if !in_use() {
        return Ok(());
    }
    let pages = || PAGES.iter().map(|page| page.load(Acquire)).take_while(|page| !page.is_null());
    for page in pages() {
        // SAFETY: put there by `use_fifo` from a `&'static`.
        unsafe { &*page }.0.iter().for_each(|word| word.store(MASKED, Release));
    }
    for cpu in crate::smp::online() {
        cpu.queues.reset();
        init_control(boot, cpu)?;
    }
    for page in pages() {
        let frame = boot.p2m().mfn(boot.pfn_of(page as u64)).ok_or(Errno::EFAULT)?;
        bind::op(EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn: frame.0 })?;
    }
    Ok(())
}

/// Gives a CPU that is about to start its queues, where the layout is in use.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) fn init_queues(boot: &BootContext, cpu: &'static Cpu) -> Result<(), Errno> {
    if in_use() { init_control(boot, cpu) } else { Ok(()) }
}

fn init_control(boot: &BootContext, cpu: &'static Cpu) -> Result<(), Errno> {
    let at = cpu.queues.control_address();
    let frame = boot.p2m().mfn(boot.pfn_of(at)).ok_or(Errno::EFAULT)?;
    let mut arg = EvtchnInitControl {
        control_gfn: frame.0,
        offset: (at & 4095) as u32,
        vcpu: cpu.number(),
        ..EvtchnInitControl::default()
    };
    bind::op(EVTCHNOP_INIT_CONTROL, &mut arg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_taken_over() {
        let shared = SharedInfo::default();
        shared.mask.iter().for_each(|word| word.store(u64::MAX, Release));
        shared.mask[1].store(!(1 << 3), Release);
        static STORAGE: Storage<5> = Storage::new();
        fill(&STORAGE.words, &shared);
        let word = |number: usize| STORAGE.words[number / 1024].0[number % 1024].load(Acquire);
        assert_eq!((word(66), word(67), word(68)), (MASKED, 0, MASKED));
        assert_eq!((word(4095), word(4096), word(5119)), (MASKED, MASKED, MASKED));
    }

    #[test]
    fn ports_without_a_word_do_nothing() {
        mask(Port(5));
        set_pending(Port(u32::MAX));
        assert!(!take(Port(5)) && word(u32::MAX).is_none() && !in_use());
    }
}
