//! The hypervisor's own view of memory: its address range, its page tables, its heap, and guest copies.

pub mod early;
pub mod heap;
pub mod layout;
pub mod tables;
pub mod uaccess;

use core::sync::atomic::AtomicU64;
use hypervisor_core::ids::{MachineAddr, Mfn};
use hypervisor_core::platform::FrameWords;

/// Where a machine address is in the direct map.
pub fn direct(addr: MachineAddr) -> u64 {
    layout::DIRECT_MAP + addr.0
}

/// The words of a frame through the direct map.
///
/// # Safety
/// `mfn` is RAM and mapped there.
pub unsafe fn frame_words(mfn: Mfn) -> &'static FrameWords {
    // SAFETY: RAM in the direct map stays mapped for ever; atomics allow for everybody else who changes it.
    unsafe { &*(direct(mfn.addr()) as *const [AtomicU64; 512]) }
}

/// Zeroes a frame.
///
/// # Safety
/// `mfn` is RAM, mapped in the direct map, and nobody else uses it.
pub unsafe fn clear_frame(mfn: Mfn) {
    // SAFETY: as the caller promises.
    unsafe { core::ptr::write_bytes(direct(mfn.addr()) as *mut u64, 0, 512) }
}
