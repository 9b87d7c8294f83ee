//! Leaving the FIFO ABI: a domain is switched back in one step, and its pages are given back in several.
//!
//! # Invariants
//!
//! - [`Leaving`] is in [`Changes`], and each of its steps is made with the ports locked: which pages are left is judged and changed in one
//!   step, so that two resets, a reset and a teardown, or a reset and a new control block take no page twice.
//! - No vCPU gets a control block and no page of words is added before the last page has been given back: who wants that makes the
//!   steps that are left first.
//! - The control blocks come first. Each step takes the locks of the vCPUs whose blocks it gives back, so that all locks were taken
//!   once, and no sender is left in the pages of words, when the first of these goes.

use super::super::{Changes, EventError};
use super::Fifo;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{MachineAddr, Mfn};
use crate::platform::Platform;
use core::sync::atomic::Ordering;
use xen_abi::event_channel::EVTCHN_FIFO_MAX_QUEUES;

/// vCPUs and pages of words between two looks for other work.
const STEP: usize = 32;

/// How far the pages of a domain have been given back that left the FIFO ABI.
#[derive(Default)]
pub(in crate::event) struct Leaving {
    /// Control blocks of the vCPUs below, and then pages of words, have been given back.
    done: usize,
}

impl<P: Platform> Hypervisor<P> {
    /// Switches a domain back to the two-level ABI, which gives it nothing back yet: [`Self::give_pages_back`] does. The caller knows that no
    /// port is bound.
    pub(in crate::event) fn leave_fifo(&self, domain: &Domain<P>, changes: &mut Changes) {
        let events = &domain.events;
        if let Some(fifo) = events.fifo()
            && changes.leaving.is_none()
        {
            changes.raising = None;
            events.uses_fifo.store(false, Ordering::SeqCst);
            fifo.ports.store(0, Ordering::SeqCst);
            changes.leaving = Some(Leaving::default());
        }
    }

    /// Gives back some pages of a domain that left the FIFO ABI. Answers whether none is left.
    pub(in crate::event) fn give_pages_back(&self, domain: &Domain<P>, changes: &mut Changes) -> bool {
        let (Some(leaving), Some(fifo)) = (&mut changes.leaving, domain.events.fifo.get()) else {
            return true;
        };
        let all = fifo.vcpus.len() + fifo.pages.len();
        let end = (leaving.done + STEP).min(all);
        for n in leaving.done..end {
            if let Some(frame) = fifo.take_page(n) {
                self.put_page_and_type(frame);
            }
        }
        leaving.done = end;
        if end == all {
            changes.leaving = None;
        }
        end == all
    }

    /// Gives back all pages that are left of a domain that left the FIFO ABI.
    ///
    /// # Errors
    /// [`EventError::Restart`] when the CPU has other work.
    pub(in crate::event) fn give_all_pages_back(&self, domain: &Domain<P>) -> Result<(), EventError> {
        while !self.give_pages_back(domain, &mut domain.events.changes.lock()) {
            if self.platform.work_pending() {
                return Err(EventError::Restart);
            }
        }
        Ok(())
    }
}

impl Fifo {
    /// Takes the page of this number, counted through the control blocks and then the pages of words.
    fn take_page(&self, n: usize) -> Option<Mfn> {
        if let Some(vcpu) = self.vcpus.get(n) {
            let mut tails = vcpu.tails.lock();
            *tails = [0; EVTCHN_FIFO_MAX_QUEUES];
            let control = vcpu.control.swap(0, Ordering::SeqCst);
            return (control != 0).then(|| MachineAddr(control).mfn());
        }
        // What `last` says means nothing where all queues are empty.
        let frame = self.pages.get(n - self.vcpus.len())?.swap(0, Ordering::SeqCst);
        (frame != 0).then_some(Mfn(frame))
    }
}
