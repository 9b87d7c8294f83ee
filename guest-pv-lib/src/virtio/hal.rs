//! Memory and registers for `virtio-drivers`.

use alloc::collections::BTreeMap;
use core::ptr::NonNull;

use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::memory::{Contiguous, Window, contiguous};
use crate::mmu::{Flush, Mfn, Pte, update_va_mapping};

/// Entries of page tables that map registers: not cached.
const REGISTERS: u64 = Pte::PRESENT
    | Pte::WRITABLE
    | Pte::ACCESSED
    | Pte::DIRTY
    | Pte::NO_EXECUTE
    | Pte::WRITE_THROUGH
    | Pte::NO_CACHE;

/// What devices were told of, by machine address.
static SHARED: Mutex<BTreeMap<PhysAddr, Contiguous>> = Mutex::new(BTreeMap::new());

/// The domain as `virtio-drivers` sees it.
#[derive(Clone, Copy, Debug)]
pub struct PvHal;

/// Makes a run that a device may use until it is taken out of the table again; its machine address, and where it is.
fn publish(bytes: usize, contents: Option<NonNull<[u8]>>) -> Option<(PhysAddr, NonNull<u8>)> {
    let mut run = contiguous(bytes.div_ceil(PAGE_SIZE), u64::BITS).ok()?;
    if let Some(contents) = contents {
        // SAFETY: the caller of `share` promises a valid buffer that nobody writes meanwhile.
        run.as_mut()[..bytes].copy_from_slice(unsafe { contents.as_ref() });
    }
    let address = run.machine_address();
    let place = NonNull::new(run.as_mut().as_mut_ptr())?;
    SHARED.lock().insert(address, run);
    Some((address, place))
}

// SAFETY: `dma_alloc` answers memory of its own (an entry of `SHARED`, never touched but by the caller until
// `dma_dealloc` takes it out), zeroed and contiguous; `mmio_phys_to_virt` maps registers and nothing else, for good.
unsafe impl Hal for PvHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // An address of 0 is how this interface says that there is no memory.
        let bytes = pages.checked_mul(PAGE_SIZE);
        bytes.and_then(|bytes| publish(bytes, None)).unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        if SHARED.lock().remove(&address).is_some() { 0 } else { -1 }
    }

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

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let contents = (direction != BufferDirection::DeviceToDriver).then_some(buffer);
        publish(buffer.len(), contents).expect("memory for a device's buffer").0
    }

    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let Some(run) = SHARED.lock().remove(&address) else { return };
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller promises the same buffer as at `share`, and that nobody else touches it.
            let buffer = unsafe { buffer.as_mut() };
            buffer.copy_from_slice(&run.as_ref()[..buffer.len()]);
        }
    }
}
