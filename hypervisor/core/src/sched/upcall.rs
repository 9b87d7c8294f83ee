//! The upcall flags of a vCPU, as the decision to sleep needs them.

use crate::Hypervisor;
use crate::domain::{PvState, Vcpu, VcpuFlags};
use crate::ids::MachineAddr;
use crate::platform::{GuestFrame, Platform};
use crate::sync::Word;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::VcpuInfo;

/// All bits of `evtchn_upcall_pending`, as it lies in the first word of a `vcpu_info`.
const PENDING: u64 = 0xff << (8 * offset_of!(VcpuInfo, evtchn_upcall_pending));
/// What the hypervisor sets of `evtchn_upcall_pending`.
const UPCALL: u64 = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_pending));
/// All bits of `evtchn_upcall_mask`, as it lies in the first word of a `vcpu_info`.
const MASK: u64 = 0xff << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));

/// What says whether a vCPU has something to take: the first word of its `vcpu_info` (none while it has no such thing), and
/// its NMI flags. Both are looked at when asked, not before.
pub(super) struct UpcallFlags<'a> {
    word: Option<&'a AtomicU64>,
    pv: &'a PvState,
}

/// The guest lets upcalls in, by this first word of its `vcpu_info`.
pub(super) fn unmask<W: Word>(word: &W) {
    word.clear_bits(MASK);
}

/// Whether the first word of a `vcpu_info` says that an upcall is due.
pub(super) fn is_due<W: Word>(word: &W) -> bool {
    let flags = word.read();
    flags & PENDING != 0 && flags & MASK == 0
}

/// Sets the upcall flag in the first word of a `vcpu_info`; answers whether it was clear, so that somebody is to be told.
#[inline(always)]
pub(crate) fn mark<W: Word>(word: &W) -> bool {
    word.set_bits(UPCALL) & UPCALL == 0
}

impl UpcallFlags<'_> {
    /// Lets upcalls in.
    pub fn unmask(&self) {
        if let Some(word) = self.word {
            unmask(word);
        }
    }

    /// Whether the vCPU would take an upcall or an NMI now.
    pub fn deliverable(&self) -> bool {
        let event = self.word.is_some_and(is_due);
        event || self.pv.has_flags(VcpuFlags::NMI_PENDING) && !self.pv.has_flags(VcpuFlags::NMI_ACTIVE)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// The upcall flags of a vCPU.
    pub(super) fn upcall_flags<'a>(&'a self, vcpu: &'a Vcpu<P>) -> UpcallFlags<'a> {
        let addr = MachineAddr(vcpu.pv.vcpu_info.load(Ordering::Acquire));
        let words = (addr.0 != 0).then(|| self.platform.words(GuestFrame::held(addr.mfn())));
        UpcallFlags { word: words.and_then(|words| words.get(addr.page_offset() / 8)), pv: &vcpu.pv }
    }
}
