//! Memory and registers for `virtio-drivers`.

use alloc::vec::Vec;
use core::ptr::NonNull;

use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::memory::{Contiguous, OutOfMemory, Window, contiguous};
use crate::mmu::{Flush, Mfn, Pte, update_va_mapping};

/// Entries of page tables that map registers: not cached.
const REGISTERS: u64 = Pte::PRESENT
    | Pte::WRITABLE
    | Pte::ACCESSED
    | Pte::DIRTY
    | Pte::NO_EXECUTE
    | Pte::WRITE_THROUGH
    | Pte::NO_CACHE;

/// What devices were told of.
static SHARED: Mutex<Vec<Contiguous>> = Mutex::new(Vec::new());
/// Runs that no device was told of, for the buffers that are shared next.
static READY: Mutex<Vec<Contiguous>> = Mutex::new(Vec::new());
/// Runs that are kept ready at most when they come back from a device. More may be made ready by [`PvHal::prepare`].
const KEPT: usize = 32;
/// Pages of the longest run that is kept then.
const KEPT_PAGES: usize = 16;
/// Bytes of the heap that a driver may need for what it notes of a request: the list of descriptors (16 bytes for each), and what it
/// keeps of the request's header and status. They are asked for in one piece and given back at once: this kernel's drivers run on one
/// CPU and allocate nothing else between [`PvHal::prepare`] and the request.
const NOTES: usize = 1024;

/// The domain as `virtio-drivers` sees it.
#[derive(Clone, Copy, Debug)]
pub struct PvHal;

impl PvHal {
    /// Bytes of a list of descriptors, which `virtio-drivers` shares with the device for each request besides its buffers.
    pub const LIST: usize = 256;

    /// Sees to it that buffers of these lengths can be shared with a device next, however much memory there is then.
    ///
    /// The trait [`Hal`] has no way to say that a buffer cannot be shared, so that is a panic. A domain that must not end when its
    /// memory is out asks for the memory before it gives a device a request: for each of the request's buffers, and for
    /// [`PvHal::LIST`] once. What is prepared and not used stays for the next request.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: the request is not to be made.
    pub fn prepare(lengths: &[usize]) -> Result<(), OutOfMemory> {
        SHARED.lock().try_reserve(lengths.len()).map_err(|_| OutOfMemory)?;
        let mut ready = READY.lock();
        let mut chosen = Vec::new();
        chosen.try_reserve_exact(lengths.len()).map_err(|_| OutOfMemory)?;
        ready.try_reserve(lengths.len()).map_err(|_| OutOfMemory)?;
        let all = lengths.iter().try_for_each(|length| {
            let pages = length.div_ceil(PAGE_SIZE);
            let run = take(&mut ready, pages).map_or_else(|| contiguous(pages, u64::BITS), Ok)?;
            chosen.push(run);
            Ok(())
        });
        ready.append(&mut chosen);
        // What the driver allocates next finds this room in the heap.
        let room = Vec::<u8>::new().try_reserve_exact(NOTES);
        all.and(room.map_err(|_| OutOfMemory))
    }
}

/// Takes the shortest run that has so many pages out of a list.
fn take(ready: &mut Vec<Contiguous>, pages: usize) -> Option<Contiguous> {
    let fits = ready.iter().enumerate().filter(|(_, run)| run.count() >= pages);
    let (index, _) = fits.min_by_key(|(_, run)| run.count())?;
    Some(ready.swap_remove(index))
}

/// Makes a run that a device may use until it is taken out of the table again; its machine address, and where it is.
fn publish(bytes: usize, contents: Option<NonNull<[u8]>>) -> Option<(PhysAddr, NonNull<u8>)> {
    let pages = bytes.div_ceil(PAGE_SIZE);
    let mut run = match take(&mut READY.lock(), pages) {
        Some(mut run) => {
            // What another request left there is not this one's.
            run.as_mut()[..bytes].fill(0);
            run
        }
        None => contiguous(pages, u64::BITS).ok()?,
    };
    if let Some(contents) = contents {
        // SAFETY: the caller of `share` promises a valid buffer that nobody writes meanwhile.
        run.as_mut()[..bytes].copy_from_slice(unsafe { contents.as_ref() });
    }
    let address = run.machine_address();
    let place = NonNull::new(run.as_mut().as_mut_ptr())?;
    let mut shared = SHARED.lock();
    shared.try_reserve(1).ok()?;
    shared.push(run);
    Some((address, place))
}

/// Takes the run at this machine address back from the device.
fn withdraw(address: PhysAddr) -> Option<Contiguous> {
    let mut shared = SHARED.lock();
    let index = shared.iter().position(|run| run.machine_address() == address)?;
    Some(shared.swap_remove(index))
}

/// Keeps a run for the next buffer, or frees it.
fn recycle(run: Contiguous) {
    let mut ready = READY.lock();
    if ready.len() < KEPT && run.count() <= KEPT_PAGES && ready.try_reserve(1).is_ok() {
        ready.push(run);
    }
}

// SAFETY: the trait asks this of its methods:
// - `dma_alloc` answers a valid pointer to whole pages, zeroed, that nothing else refers to until `dma_dealloc`. They are a run of
//   `contiguous` pages, owned by an entry of `SHARED`. Of entries only the address is read (`withdraw`), never the contents, until
//   they are taken out; the pages do not move with their owner. `publish` fills a run that was used before with zeros.
// - `mmio_phys_to_virt` answers a valid pointer that nothing else refers to: each call maps a window of its own, for good.
// - `share` and `unshare` need not give the device the caller's memory: the device sees a copy, in a run of its own.
unsafe impl Hal for PvHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // An address of 0 is how this interface says that there is no memory.
        let bytes = pages.checked_mul(PAGE_SIZE);
        bytes.and_then(|bytes| publish(bytes, None)).unwrap_or((0, NonNull::dangling()))
    }

    // The caller promises that address and pages are those of one `dma_alloc`, and uses them no more. An address that was never
    // given out frees nothing.
    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        if withdraw(address).is_some() { 0 } else { -1 }
    }

    // The caller promises that the range is a device's registers. Memory of this domain would be mapped as well.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        let start = address % PAGE_SIZE as u64;
        let pages = (start as usize + size).div_ceil(PAGE_SIZE);
        let window = Window::new(pages).expect("addresses for a device's registers");
        for page in 0..pages {
            let frame = Mfn(address / PAGE_SIZE as u64 + page as u64);
            // SAFETY: the window's addresses are nobody else's and nothing is mapped there. That the frame is a device's
            // registers and no memory is what the caller promises, and the hypervisor checks that this domain may.
            let done =
                unsafe { update_va_mapping(window.address(page), Pte::new(frame, REGISTERS), Flush::None) };
            done.expect("the right to a device's registers");
        }
        let place = core::ptr::with_exposed_provenance_mut::<u8>((window.address(0) + start) as usize);
        // Drivers keep such an address for ever.
        core::mem::forget(window);
        NonNull::new(place).expect("windows are in the kernel's half")
    }

    // The caller promises a valid buffer, which is read here, while the call lasts, and not later.
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let contents = (direction != BufferDirection::DeviceToDriver).then_some(buffer);
        publish(buffer.len(), contents).expect("memory for a device's buffer, or `PvHal::prepare` before").0
    }

    // The caller promises the buffer and the address of one `share`. A run that is shorter than the buffer, or none of this address, is
    // no access outside either: the slices are checked.
    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let Some(run) = withdraw(address) else { return };
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller promises the same buffer as at `share`, and that nobody else touches it.
            let buffer = unsafe { buffer.as_mut() };
            buffer.copy_from_slice(&run.as_ref()[..buffer.len()]);
        }
        recycle(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> (usize, usize) {
        (SHARED.lock().len(), READY.lock().len())
    }

    /// What was prepared is shared without a look at memory, and comes back for the next request, without what the last one left.
    #[test]
    fn a_prepared_request_needs_no_memory() {
        let (mut request, mut data) = ([1u8; 16], [0u8; 3 * PAGE_SIZE]);
        PvHal::prepare(&[data.len(), request.len(), 1]).unwrap();
        assert_eq!(runs(), (0, 3));
        // Whatever is prepared for is there at most once.
        PvHal::prepare(&[request.len(), data.len()]).unwrap();
        assert_eq!(runs(), (0, 3));
        let (to, from) = (BufferDirection::DriverToDevice, BufferDirection::DeviceToDriver);
        for round in 0..3 {
            let buffers = [NonNull::from(&mut request[..]), NonNull::from(&mut data[..])];
            // SAFETY: both live on, and nothing touches them until they are not shared any more.
            let shared = unsafe { [PvHal::share(buffers[0], to), PvHal::share(buffers[1], from)] };
            assert_eq!(runs(), (2, 1), "round {round}");
            let mut table = SHARED.lock();
            let run = table.iter_mut().find(|run| run.machine_address() == shared[1]).unwrap();
            assert_eq!(run.count(), 3);
            assert!(run.as_ref().iter().all(|byte| *byte == 0), "what was there before is gone");
            run.as_mut().fill(0x77);
            drop(table);
            // SAFETY: the same buffers.
            unsafe {
                PvHal::unshare(shared[0], buffers[0], to);
                PvHal::unshare(shared[1], buffers[1], from);
            }
            assert_eq!(runs(), (0, 3));
            assert!(data.iter().all(|byte| *byte == 0x77));
            assert_eq!(request, [1; 16]);
        }
        // More than there is.
        assert_eq!(PvHal::prepare(&[16, PAGE_SIZE << 30]), Err(OutOfMemory));
        assert_eq!(runs(), (0, 3));
    }
}
