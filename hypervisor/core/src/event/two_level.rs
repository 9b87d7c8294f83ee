//! The two-level ABI: a bit per port in `shared_info`, and a bit per word of those bits in `vcpu_info` (xen.h).
//!
//! The order of the steps is the protocol: pending bit, mask bit, selector bit, upcall flag. A guest that unmasks or
//! clears in the opposite order then never misses an event.

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{Port, VcpuId};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::SharedInfo;

pub(super) const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
pub(super) const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
const WORDS: usize = 64;

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
    let word = hv.platform.frame_words(domain.shared_info).get(map + index)?;
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
        let words = self.platform.frame_words(domain.shared_info);
        if words[PENDING + index].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return false;
        }
        if words[MASK + index].load(Ordering::SeqCst) & bit == 0 {
            self.select_and_notify(domain, vcpu, port);
        }
        true
    }

    /// Takes an event back, so that the port's next user does not see it.
    pub(super) fn two_level_clear_pending(&self, domain: &Domain<P>, port: Port) {
        if let Some((pending, mask)) = bit(self, domain, PENDING, port) {
            pending.fetch_and(!mask, Ordering::SeqCst);
        }
    }

    /// Unmasks the port and delivers what became pending meanwhile.
    pub(super) fn two_level_unmask(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, port: Port) {
        let Some((word, mask)) = bit(self, domain, MASK, port) else { return };
        let was_masked = word.fetch_and(!mask, Ordering::SeqCst) & mask != 0;
        if was_masked && self.two_level_is_pending(domain, port) {
            self.select_and_notify(domain, vcpu, port);
        }
    }

    /// Whether an event waits on the port.
    pub(super) fn two_level_is_pending(&self, domain: &Domain<P>, port: Port) -> bool {
        bit(self, domain, PENDING, port).is_some_and(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Whether the guest masked the port. A port beyond the ABI counts as masked.
    pub(super) fn two_level_is_masked(&self, domain: &Domain<P>, port: Port) -> bool {
        bit(self, domain, MASK, port).is_none_or(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Sets the selector bit of the port's word and, when it was clear, the upcall flag.
    fn select_and_notify(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, port: Port) {
        let Some(info) = self.vcpu_info(domain, vcpu) else { return };
        let selector = 1 << (port.0 / 64);
        if info.selector.fetch_or(selector, Ordering::SeqCst) & selector == 0 {
            self.mark_upcall(domain, vcpu, &info);
        }
    }
}
