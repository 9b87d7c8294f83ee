//! The two-level ABI: a bit per port in `shared_info`, and a bit per word of those bits in `vcpu_info` (xen.h).
//!
//! The order of the steps is the protocol: pending bit, mask bit, selector bit, upcall flag. A guest that unmasks or
//! clears in the opposite order then never misses an event.

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{Port, VcpuId};
use crate::platform::{GuestFrame, Platform};
use crate::sync::Word;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::SharedInfo;

pub(super) const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
pub(super) const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
const WORDS: usize = 64;

/// What an event finds at its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An earlier event, which nobody took yet.
    Pending,
    /// No event, and a mask: nobody is told.
    Masked,
    /// No event: the vCPU must be told.
    Open,
}

/// Marks a port as pending and says whom to tell.
#[inline(always)]
pub(super) fn mark<W: Word>(pending: &W, mask: &W, bit: u64) -> Found {
    if pending.set_bits(bit) & bit != 0 {
        Found::Pending
    } else if mask.read() & bit != 0 {
        Found::Masked
    } else {
        Found::Open
    }
}

/// Unmasks a port; answers whether an event came meanwhile, of which the vCPU must be told.
pub(super) fn unmask<W: Word>(pending: &W, mask: &W, bit: u64) -> bool {
    mask.clear_bits(bit) & bit != 0 && pending.read() & bit != 0
}

/// Selects the word of a port that has an event; answers whether the vCPU's upcall flag must be set.
#[inline(always)]
pub(super) fn select<W: Word>(selector: &W, word: u64) -> bool {
    selector.set_bits(word) & word == 0
}

/// The word with a port's bit in one of the two bitmaps, and the bit; `None` for a port beyond this ABI.
fn bit<'a, P: Platform>(
    hv: &'a Hypervisor<P>,
    domain: &Domain<P>,
    map: usize,
    port: Port,
) -> Option<(&'a AtomicU64, u64)> {
    let index = port.0 as usize / 64;
    if index >= WORDS {
        return None;
    }
    let word = hv.platform.words(GuestFrame::held(domain.shared_info)).get(map + index)?;
    Some((word, 1 << (port.0 % 64)))
}

impl<P: Platform> Hypervisor<P> {
    /// Shows an event to the guest. Answers whether it was not pending already.
    #[inline(always)]
    pub(super) fn two_level_set_pending(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, port: Port) -> bool {
        // Both words at once: this is how every event begins.
        let (index, bit) = (port.0 as usize / 64, 1 << (port.0 % 64));
        if index >= WORDS {
            return false;
        }
        let words = self.platform.words(GuestFrame::held(domain.shared_info));
        let found = mark(&words[PENDING + index], &words[MASK + index], bit);
        if found == Found::Open {
            self.select_and_notify(domain, vcpu, port);
        }
        found != Found::Pending
    }

    /// Takes an event back, so that the port's next user does not see it.
    pub(super) fn two_level_clear_pending(&self, domain: &Domain<P>, port: Port) {
        if let Some((pending, mask)) = bit(self, domain, PENDING, port) {
            pending.fetch_and(!mask, Ordering::SeqCst);
        }
    }

    /// Unmasks the port and delivers what became pending meanwhile.
    pub(super) fn two_level_unmask(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, port: Port) {
        let Some((mask, bit_of_port)) = bit(self, domain, MASK, port) else { return };
        let Some((pending, _)) = bit(self, domain, PENDING, port) else { return };
        if unmask(pending, mask, bit_of_port) {
            self.select_and_notify(domain, vcpu, port);
        }
    }

    /// Whether an event waits on the port.
    pub(super) fn two_level_is_pending(&self, domain: &Domain<P>, port: Port) -> bool {
        bit(self, domain, PENDING, port).is_some_and(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// The words with a bit for each port, set where an event waits.
    pub(super) fn two_level_pending(&self, domain: &Domain<P>) -> impl Iterator<Item = u64> {
        let words = self.platform.frame_words(domain.shared_info).iter().skip(PENDING).take(WORDS);
        words.map(|word| word.load(Ordering::SeqCst))
    }

    /// Whether the guest masked the port. A port beyond the ABI counts as masked.
    pub(super) fn two_level_is_masked(&self, domain: &Domain<P>, port: Port) -> bool {
        bit(self, domain, MASK, port).is_none_or(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Sets the selector bit of the port's word and, when it was clear, the upcall flag.
    fn select_and_notify(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, port: Port) {
        let Some(info) = self.vcpu_info(domain, vcpu) else { return };
        if select(info.selector, 1 << (port.0 / 64)) {
            self.mark_upcall(domain, vcpu, &info);
        }
    }
}
