//! The balloon: frames that the domain gives to the hypervisor, and gets back when it needs them.
//!
//! A frame that is away has no machine frame: the p2m says so, the direct map shows nothing there, and the allocator does
//! not have it. Its number stays the domain's, and is what memory comes back under. Frames of which the domain
//! was started without memory count as away, too.
//!
//! ```no_run
//! use guest_pv_lib::memory::balloon;
//!
//! // What a toolstack wrote to memory/target, in pages.
//! fn follow(target: usize) {
//!     balloon::set_target(target);
//! }
//! ```

use super::{OutOfMemory, Pages, get};
#[cfg(target_os = "none")]
use crate::mmu::{Mfn, PAGE_SIZE, Pfn, Pte};

/// Frames that go or come with one hypercall: as many as a list of one page has room for.
#[cfg(target_os = "none")]
const AT_ONCE: usize = PAGE_SIZE / 8;

/// Frames that are away.
#[must_use]
pub fn away() -> usize {
    get().map_or(0, |memory| memory.away.with(|away| away.free()))
}

/// Frames that the domain has.
#[must_use]
pub fn present() -> usize {
    get().map_or(0, |memory| memory.p2m.len() - memory.away.with(|away| away.free()))
}

/// Gives frames away, or gets some back, until the domain has `pages`, as far as that can be done, and returns how many it
/// has.
#[doc(alias = "memory/target")]
pub fn set_target(pages: usize) -> usize {
    match present() {
        now if now > pages => shrink(now - pages),
        now => grow(pages - now),
    };
    present()
}

/// Gives up to `pages` free frames to the hypervisor, and returns how many these were.
#[doc(alias = "XENMEM_decrease_reservation")]
pub fn shrink(pages: usize) -> usize {
    let mut gone = 0;
    while gone < pages {
        match shrink_some(pages - gone) {
            Ok(count) if count > 0 => gone += count,
            _ => break,
        }
    }
    gone
}

/// Gets up to `pages` frames back from the hypervisor, and returns how many these were.
#[doc(alias = "XENMEM_populate_physmap")]
pub fn grow(pages: usize) -> usize {
    let mut come = 0;
    while come < pages {
        match grow_some(pages - come) {
            Ok(count) if count > 0 => come += count,
            _ => break,
        }
    }
    come
}

/// On a host there is nobody to give them to.
#[cfg(not(target_os = "none"))]
fn shrink_some(_: usize) -> Result<usize, OutOfMemory> {
    Ok(0)
}

/// On a host nothing is away.
#[cfg(not(target_os = "none"))]
fn grow_some(_: usize) -> Result<usize, OutOfMemory> {
    Pages::new(0).map(|pages| pages.count())
}

/// Gives a run of frames away, of at most `most`, as long as one can be had.
#[cfg(target_os = "none")]
fn shrink_some(most: usize) -> Result<usize, OutOfMemory> {
    let mut list = Pages::new(1)?;
    let mut count = most.min(AT_ONCE);
    let run = loop {
        match Pages::stale(count, 1) {
            Ok(run) => break run,
            Err(OutOfMemory) if count > 1 => count /= 2,
            Err(error) => return Err(error),
        }
    };
    for (index, entry) in entries(&mut list).take(count).enumerate() {
        *entry = run.mfn(index).0.to_ne_bytes();
    }
    let memory = super::there();
    let (first, _) = run.into_raw();
    // Where this fails the frames stay out of use: they may be mapped or not.
    // SAFETY: the frames are owned here, and nothing refers to them.
    unsafe { memory.remap(first, count, |_| Pte::EMPTY) }.map_err(|_| OutOfMemory)?;
    let gone = reservation(xen_abi::memory::XENMEM_DECREASE_RESERVATION, &mut list, count);
    for index in 0..gone {
        // SAFETY: the hypervisor has just taken them.
        unsafe { memory.p2m.set(Pfn(first.0 + index as u64), None) };
    }
    memory.away.with(|away| away.give(first.0 as usize, gone));
    let rest = (Pfn(first.0 + gone as u64), count - gone);
    if rest.1 > 0 {
        // SAFETY: owned since before, and mapped for writing again.
        unsafe {
            memory.remap(rest.0, rest.1, |frame| Pte::data(memory.mfn(frame))).map_err(|_| OutOfMemory)?;
            drop(Pages::from_raw(rest.0, rest.1));
        }
    }
    Ok(gone)
}

/// Gets a run of frames back, of at most `most`.
#[cfg(target_os = "none")]
fn grow_some(most: usize) -> Result<usize, OutOfMemory> {
    let memory = super::there();
    let mut list = Pages::new(1)?;
    let mut count = most.min(AT_ONCE);
    let first = loop {
        match memory.away.with(|away| away.take(count, 1)) {
            Some(first) => break first,
            None if count > 1 => count /= 2,
            None => return Ok(0),
        }
    };
    for (index, entry) in entries(&mut list).take(count).enumerate() {
        *entry = ((first + index) as u64).to_ne_bytes();
    }
    let come = reservation(xen_abi::memory::XENMEM_POPULATE_PHYSMAP, &mut list, count);
    // What did not come is still away.
    memory.away.with(|away| away.give(first + come, count - come));
    for (index, entry) in entries(&mut list).take(come).enumerate() {
        // SAFETY: the hypervisor has just put this memory behind that number.
        unsafe { memory.p2m.set(Pfn((first + index) as u64), Some(Mfn(u64::from_ne_bytes(*entry)))) };
    }
    let start = Pfn(first as u64);
    memory.make_direct_tables(start, come)?;
    // SAFETY: the domain's memory, mapped for writing, and nobody has heard of it yet.
    unsafe {
        memory.remap(start, come, |frame| Pte::data(memory.mfn(frame))).map_err(|_| OutOfMemory)?;
        drop(Pages::from_raw(start, come));
    }
    Ok(come)
}

/// The numbers in a list of frames.
#[cfg(target_os = "none")]
fn entries(list: &mut Pages) -> impl Iterator<Item = &mut [u8; 8]> {
    list.as_mut().as_chunks_mut::<8>().0.iter_mut()
}

/// Asks for `command` on the first `count` frames of `list`, and returns how many it was done for.
#[cfg(target_os = "none")]
fn reservation(command: u32, list: &mut Pages, count: usize) -> usize {
    use xen_abi::GuestHandle;
    use xen_abi::hypercall::nr;
    use xen_abi::memory::XenMemoryReservation;
    use xen_abi::xen::DOMID_SELF;

    use crate::hypercall::{check, raw};

    let mut arg = XenMemoryReservation {
        extent_start: GuestHandle::from(list.address()),
        nr_extents: count as u64,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    };
    // SAFETY: the callers own the frames, which are mapped nowhere, or have none behind their numbers; the hypervisor
    // writes to the list, which is exclusively borrowed.
    let done = check(unsafe { raw::call2(nr::MEMORY_OP, u64::from(command), &raw mut arg as u64) });
    done.map_or(0, |done| (done as usize).min(count))
}
