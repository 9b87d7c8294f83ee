//! The page that the hypervisor and the kernel both write: `shared_info`.
//!
//! Every field is an atomic, so a reference to the page is sound whatever the other side does. The page is a static
//! of the image over which the entry maps the real frame, once, before anything reads it; it never moves. On a host
//! (unit tests) it is plain zeroed memory.
//!
//! The address of the static is handed to the hypervisor in a hypercall, so the compiler must assume that its
//! contents change behind its back.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, compiler_fence};

use xen_abi::xen::{SharedInfo as Wire, VcpuInfo as WireVcpu, VcpuTimeInfo as WireTime};

#[cfg(target_os = "none")]
use crate::smp::Cpu;
use crate::smp::{is_live, this_cpu};

/// Virtual CPUs with a slot in the shared page. [`smp`](crate::smp) gives every CPU a record of its own.
pub const LEGACY_VCPUS: usize = 32;

/// `struct vcpu_time_info`: see [`time`](crate::time).
#[doc(alias = "vcpu_time_info")]
#[repr(C)]
#[derive(Debug, Default)]
pub struct VcpuTimeInfo {
    pub(crate) version: AtomicU32,
    _pad0: AtomicU32,
    pub(crate) tsc_timestamp: AtomicU64,
    pub(crate) system_time: AtomicU64,
    /// `tsc_to_system_mul`.
    pub(crate) multiplier: AtomicU32,
    /// `tsc_shift`, a signed number.
    pub(crate) shift: AtomicU8,
    pub(crate) flags: AtomicU8,
    _pad1: [AtomicU8; 2],
}

/// `struct vcpu_info`: the per-CPU part.
#[doc(alias = "vcpu_info")]
#[repr(C)]
#[derive(Debug, Default)]
pub struct VcpuInfo {
    /// Not zero: something is pending for this CPU (`evtchn_upcall_pending`).
    pub(crate) upcall_pending: AtomicU8,
    /// Not zero: no upcalls, the interrupt flag upside down (`evtchn_upcall_mask`).
    pub(crate) upcall_mask: AtomicU8,
    _pad0: [AtomicU8; 6],
    /// One bit for each word of the pending map (`evtchn_pending_sel`).
    pub(crate) pending_sel: AtomicU64,
    /// Address of the last page fault (`arch.cr2`).
    pub(crate) cr2: AtomicU64,
    _pad1: AtomicU64,
    pub(crate) time: VcpuTimeInfo,
}

/// `struct shared_info`.
#[doc(alias = "shared_info")]
#[repr(C)]
#[derive(Debug)]
pub struct SharedInfo {
    pub(crate) vcpu: [VcpuInfo; LEGACY_VCPUS],
    pub(crate) pending: [AtomicU64; 64],
    pub(crate) mask: [AtomicU64; 64],
    pub(crate) wc_version: AtomicU32,
    pub(crate) wc_sec: AtomicU32,
    pub(crate) wc_nsec: AtomicU32,
    pub(crate) wc_sec_hi: AtomicU32,
    /// What follows tells a toolstack where the p2m list is: see [`suspend`](crate::suspend).
    pub(crate) max_pfn: AtomicU64,
    pub(crate) frame_list_list: AtomicU64,
    _nmi_reason: AtomicU64,
    pub(crate) p2m_cr3: AtomicU64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<VcpuTimeInfo>() == size_of::<WireTime>());
    assert!(offset_of!(VcpuTimeInfo, multiplier) == offset_of!(WireTime, tsc_to_system_mul));
    assert!(offset_of!(VcpuTimeInfo, shift) == offset_of!(WireTime, tsc_shift));
    assert!(size_of::<VcpuInfo>() == size_of::<WireVcpu>());
    assert!(offset_of!(VcpuInfo, upcall_mask) == offset_of!(WireVcpu, evtchn_upcall_mask));
    assert!(offset_of!(VcpuInfo, pending_sel) == offset_of!(WireVcpu, evtchn_pending_sel));
    assert!(offset_of!(VcpuInfo, cr2) == offset_of!(WireVcpu, arch));
    assert!(offset_of!(VcpuInfo, time) == offset_of!(WireVcpu, time));
    assert!(offset_of!(SharedInfo, pending) == offset_of!(Wire, evtchn_pending));
    assert!(offset_of!(SharedInfo, mask) == offset_of!(Wire, evtchn_mask));
    assert!(offset_of!(SharedInfo, wc_version) == offset_of!(Wire, wc_version));
    assert!(offset_of!(SharedInfo, wc_sec_hi) == offset_of!(Wire, wc_sec_hi));
    assert!(offset_of!(SharedInfo, max_pfn) == offset_of!(Wire, arch));
    assert!(size_of::<Slot>() == 4096);
};

/// A whole page of the image.
#[repr(C, align(4096))]
struct Slot(SharedInfo);

static SLOT: Slot = Slot(SharedInfo::new());

impl SharedInfo {
    const fn new() -> Self {
        Self {
            vcpu: [const { VcpuInfo::new() }; LEGACY_VCPUS],
            pending: [const { AtomicU64::new(0) }; 64],
            mask: [const { AtomicU64::new(0) }; 64],
            wc_version: AtomicU32::new(0),
            wc_sec: AtomicU32::new(0),
            wc_nsec: AtomicU32::new(0),
            wc_sec_hi: AtomicU32::new(0),
            max_pfn: AtomicU64::new(0),
            frame_list_list: AtomicU64::new(0),
            _nmi_reason: AtomicU64::new(0),
            p2m_cr3: AtomicU64::new(0),
        }
    }
}

impl Default for SharedInfo {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuInfo {
    pub(crate) const fn new() -> Self {
        Self {
            upcall_pending: AtomicU8::new(0),
            upcall_mask: AtomicU8::new(0),
            _pad0: [const { AtomicU8::new(0) }; 6],
            pending_sel: AtomicU64::new(0),
            cr2: AtomicU64::new(0),
            _pad1: AtomicU64::new(0),
            time: VcpuTimeInfo {
                version: AtomicU32::new(0),
                _pad0: AtomicU32::new(0),
                tsc_timestamp: AtomicU64::new(0),
                system_time: AtomicU64::new(0),
                multiplier: AtomicU32::new(0),
                shift: AtomicU8::new(0),
                flags: AtomicU8::new(0),
                _pad1: [const { AtomicU8::new(0) }; 2],
            },
        }
    }
}

/// The domain's shared page.
#[must_use]
pub fn info() -> &'static SharedInfo {
    &SLOT.0
}

/// The calling CPU's part of it, or where there are several CPUs the record that took its place.
#[must_use]
pub fn this_vcpu() -> &'static VcpuInfo {
    if is_live() { &this_cpu().info } else { &SLOT.0.vcpu[0] }
}

/// Sets or clears the calling CPU's upcall mask and says whether it was set, in one instruction: what runs next on this
/// CPU cannot come in between and go on elsewhere.
pub(crate) fn swap_upcall_mask(masked: bool) -> bool {
    compiler_fence(SeqCst);
    #[cfg(target_os = "none")]
    if is_live() {
        let mut value = u8::from(masked);
        // SAFETY: the kernel's GS base points to the CPU's area (see `this_cpu`), and the byte there is an atomic.
        unsafe {
            core::arch::asm!(
                "xchg gs:[{at}], {value}",
                at = const core::mem::offset_of!(Cpu, info) + core::mem::offset_of!(VcpuInfo, upcall_mask),
                value = inout(reg_byte) value,
                options(nostack, preserves_flags),
            );
        }
        return value != 0;
    }
    let was = SLOT.0.vcpu[0].upcall_mask.swap(u8::from(masked), SeqCst);
    compiler_fence(SeqCst);
    was != 0
}

/// Maps the domain's shared page over the static: the frame at machine address `at`, as `start_info` has it.
///
/// # Safety
///
/// By the entry, before anything else uses this module, or after [`unmap`].
#[cfg(target_os = "none")]
pub(crate) unsafe fn map(at: u64) -> Result<(), crate::Errno> {
    // SAFETY: the frame is the one that the hypervisor set aside for this purpose. The frame that backed the page
    // stays unused meanwhile.
    unsafe { put(crate::mmu::Mfn(at >> 12)) }
}

/// Puts the frame that the image has there in the shared page's place. The static stays readable, with contents that
/// nobody looks at.
///
/// # Safety
///
/// On the only CPU that runs, with upcalls masked, until [`map`] is called again.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) unsafe fn unmap(boot: &crate::BootContext) -> Result<(), crate::Errno> {
    let own = boot.p2m().mfn(boot.pfn_of(&raw const SLOT as u64)).ok_or(crate::Errno::EFAULT)?;
    // SAFETY: that frame is used for nothing else.
    unsafe { put(own) }?;
    SLOT.0.vcpu[0].upcall_mask.store(1, SeqCst);
    Ok(())
}

/// # Safety
///
/// The frame is the shared page, or that of the image.
#[cfg(target_os = "none")]
unsafe fn put(frame: crate::mmu::Mfn) -> Result<(), crate::Errno> {
    use crate::mmu::{Flush, Pte, update_va_mapping};

    // SAFETY: the page belongs to `SLOT` alone, whose type allows any contents and any change.
    unsafe { update_va_mapping(&raw const SLOT as u64, Pte::data(frame), Flush::All) }
}
