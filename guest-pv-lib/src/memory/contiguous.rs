//! Memory that a device sees in one piece.

use core::ops::Deref;

use super::{OutOfMemory, Pages};
use crate::mmu::PAGE_SIZE;

/// Pages whose machine frames follow one another too: memory for a device's DMA.
///
/// They stay together: others cannot be put in their place.
///
/// ```compile_fail,E0596
/// # use guest_pv_lib::memory::{Pages, contiguous};
/// let mut dma = contiguous(2, 64).unwrap();
/// core::mem::swap(&mut *dma, &mut Pages::new(2).unwrap());
/// ```
#[derive(Debug)]
pub struct Contiguous {
    pages: Pages,
}

impl Contiguous {
    /// The machine address of the first byte, which is what a device without an IOMMU is told.
    #[must_use]
    pub fn machine_address(&self) -> u64 {
        self.pages.mfn(0).address()
    }

    /// The pages without the promise, which stays true all the same.
    #[must_use]
    pub fn into_pages(self) -> Pages {
        self.pages
    }
}

impl Deref for Contiguous {
    type Target = Pages;

    fn deref(&self) -> &Pages {
        &self.pages
    }
}

impl AsMut<[u8]> for Contiguous {
    fn as_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut()
    }
}

/// `pages` zeroed pages with consecutive machine frames, all below 2^`max_address_bits`.
///
/// Where the allocator's frames are not so by chance, the hypervisor is asked to exchange them.
///
/// # Errors
///
/// [`OutOfMemory`] where `pages` is zero, the domain or the hypervisor have none left that suit, or the
/// hypervisor does not give runs of that length to this domain.
#[doc(alias = "XENMEM_exchange")]
pub fn contiguous(pages: usize, max_address_bits: u32) -> Result<Contiguous, OutOfMemory> {
    if pages == 0 {
        return Err(OutOfMemory);
    }
    let size = pages.checked_next_power_of_two().ok_or(OutOfMemory)?;
    let mut run = Pages::stale(size, 1)?;
    if !suits(&run, pages, max_address_bits) {
        run = exchange(run, max_address_bits)?;
    }
    run.truncate(pages);
    run.as_mut().fill(0);
    Ok(Contiguous { pages: run })
}

/// Whether the first `count` machine frames are as they are wanted.
fn suits(run: &Pages, count: usize, max_address_bits: u32) -> bool {
    let first = run.mfn(0).0;
    let end = (first + count as u64) * PAGE_SIZE as u64;
    (max_address_bits >= 64 || end <= 1 << max_address_bits)
        && (0..count).all(|index| run.mfn(index).0 == first + index as u64)
}

/// On a host, frames are as they are.
#[cfg(not(target_os = "none"))]
fn exchange(_: Pages, _: u32) -> Result<Pages, OutOfMemory> {
    Err(OutOfMemory)
}

#[cfg(target_os = "none")]
fn exchange(run: Pages, max_address_bits: u32) -> Result<Pages, OutOfMemory> {
    use xen_abi::GuestHandle;
    use xen_abi::hypercall::nr;
    use xen_abi::memory::{XENMEM_EXCHANGE, XenMemoryExchange, XenMemoryReservation, xenmemf_address_bits};
    use xen_abi::xen::DOMID_SELF;

    use crate::hypercall::{check, raw};
    use crate::mmu::{Mfn, Pfn, Pte};

    let memory = super::there();
    let count = run.count();
    // The list of what is given away; the hypervisor only reads it.
    let mut list = Pages::new((count * 8).div_ceil(PAGE_SIZE))?;
    for (index, entry) in list.as_mut().as_chunks_mut::<8>().0.iter_mut().take(count).enumerate() {
        *entry = run.mfn(index).0.to_ne_bytes();
    }
    let first = run.pfn(0);
    // In: the pseudo-physical frame that the run shall back. Out: its first machine frame.
    let mut got = first.0;
    let (run, _) = run.into_raw();
    // Where this fails the frames stay out of use: they may be mapped or not.
    // SAFETY: the frames are owned here, and nothing refers to them.
    unsafe { memory.remap(run, count, |_| Pte::EMPTY) }.map_err(|_| OutOfMemory)?;
    let reservation = XenMemoryReservation { domid: DOMID_SELF, ..XenMemoryReservation::default() };
    let mut arg = XenMemoryExchange {
        in_: XenMemoryReservation {
            extent_start: GuestHandle::from(list.address()),
            nr_extents: count as u64,
            ..reservation
        },
        out: XenMemoryReservation {
            extent_start: GuestHandle::from(&raw mut got as u64),
            nr_extents: 1,
            extent_order: count.trailing_zeros(),
            mem_flags: xenmemf_address_bits(u8::try_from(max_address_bits).unwrap_or(0)),
            ..reservation
        },
        nr_exchanged: 0,
    };
    // SAFETY: the frames given away are owned here, and mapped nowhere; `got` and `arg` are locals.
    let result = check(unsafe { raw::call2(nr::MEMORY_OP, u64::from(XENMEM_EXCHANGE), &raw mut arg as u64) });
    let exchanged = result.is_ok() && arg.nr_exchanged == count as u64;
    if exchanged {
        for index in 0..count as u64 {
            // SAFETY: the hypervisor has just exchanged them.
            unsafe { memory.p2m.set(Pfn(first.0 + index), Some(Mfn(got + index))) };
        }
    }
    // SAFETY: owned since before, and mapped for writing again.
    let run = unsafe {
        memory.remap(first, count, |frame| Pte::data(memory.mfn(frame))).map_err(|_| OutOfMemory)?;
        Pages::from_raw(first, count)
    };
    if exchanged { Ok(run) } else { Err(OutOfMemory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_suits_by_chance_is_taken_as_it_is() {
        let dma = contiguous(3, 64).unwrap();
        assert_eq!(dma.count(), 3);
        assert_eq!(dma.machine_address(), dma.mfn(0).0 * 4096);
        assert_eq!(dma.mfn(2).0, dma.mfn(0).0 + 2);
        assert_eq!(contiguous(1, 20).err(), Some(OutOfMemory), "no frame of the host's domain is that low");
        assert_eq!(contiguous(0, 64).err(), Some(OutOfMemory));
    }
}
