//! Domains that leave the FIFO ABI: their pages are given back in steps, and each once.

use super::*;
use crate::event::Progress;
use crate::ids::{DomId, Mfn};
use core::sync::atomic::AtomicBool;
use std::boxed::Box;
use std::vec::Vec;
use std::{panic, thread};
use xen_abi::xen::DOMID_SELF;

const SELF: DomId = DomId(DOMID_SELF);
/// Control blocks in a page.
const BLOCKS: u32 = 32;

/// A machine with a domain of so many vCPUs, and pages for their control blocks.
struct Machine {
    hv: Mock,
    domain: MockDomain,
    blocks: Vec<Mfn>,
}

impl Machine {
    /// The domain uses the FIFO ABI, with one page of words.
    fn new(vcpus: u32) -> Self {
        let hv = mock::hypervisor(600);
        let domain = mock::domain(&hv, 1, vcpus, 200);
        let blocks = (0..vcpus.div_ceil(BLOCKS)).map(|_| hv.alloc_domain_page(&domain, 0).unwrap()).collect();
        let machine = Self { hv, domain, blocks };
        (0..vcpus).for_each(|vcpu| machine.init(vcpu).unwrap());
        let words = machine.hv.alloc_domain_page(&machine.domain, 0).unwrap();
        machine.hv.fifo_expand_array(&machine.domain, words).unwrap();
        machine
    }

    fn init(&self, vcpu: u32) -> Result<(), EventError> {
        let block = self.blocks[(vcpu / BLOCKS) as usize];
        self.hv.fifo_init_control(&self.domain, VcpuId(vcpu), block, vcpu % BLOCKS * 128)
    }

    fn reset(&self, resuming: bool) -> Result<Progress, EventError> {
        self.hv.reset_events(&self.domain, SELF, resuming)
    }

    /// Frames that the hypervisor holds for the ABI.
    fn held(&self) -> usize {
        self.domain.events.fifo.get().unwrap().frames().len()
    }

    /// Uses of the pages of control blocks.
    fn uses(&self) -> u64 {
        self.blocks.iter().map(|block| self.hv.frame(*block).unwrap().type_word().count()).sum()
    }

    /// Has every look find other work, and no port locked.
    fn interrupt(&self) {
        self.hv.platform.preempt_every.store(1, Ordering::Relaxed);
        let locks = self.domain.clone();
        *self.hv.platform.at_question.lock().unwrap() =
            Some(Box::new(move || assert!(locks.events.changes.try_lock().is_some(), "peers wait")));
    }

    fn leave_alone(&self) {
        self.hv.platform.preempt_every.store(0, Ordering::Relaxed);
        *self.hv.platform.at_question.lock().unwrap() = None;
    }
}

#[test]
fn a_reset_gives_pages_back_in_steps() {
    const VCPUS: u32 = 200;
    let machine = Machine::new(VCPUS);
    assert_eq!(machine.uses(), u64::from(VCPUS));
    machine.interrupt();
    let (mut answer, mut rounds) = (machine.reset(false), 0);
    while answer == Ok(Progress::Preempted) {
        assert_eq!(machine.reset(false), Err(EventError::ResetInProgress));
        (answer, rounds) = (machine.reset(true), rounds + 1);
    }
    machine.leave_alone();
    assert_eq!(answer, Ok(Progress::Finished));
    assert!(rounds >= VCPUS / 32, "{rounds}");
    assert_eq!((machine.held(), machine.uses()), (0, 0));
    assert_eq!(machine.reset(true), Err(EventError::ResetInProgress), "nothing to go on with");
    assert_eq!(machine.reset(false), Ok(Progress::Finished));
}

#[test]
fn the_end_of_a_domain_gives_pages_back_in_steps() {
    const VCPUS: u32 = 200;
    let machine = Machine::new(VCPUS);
    machine.interrupt();
    let rounds =
        (0..1000).take_while(|_| machine.hv.destroy_events(&machine.domain) == Progress::Preempted).count();
    machine.leave_alone();
    assert!(rounds >= VCPUS as usize / 32, "{rounds}");
    assert_eq!((machine.held(), machine.uses()), (0, 0));
}

/// A vCPU that wants a control block while a reset gives pages back does what is left of that. The reset then ends without taking
/// the new block.
#[test]
fn a_new_control_block_comes_after_the_old_ones_went() {
    let machine = Machine::new(100);
    machine.interrupt();
    assert_eq!(machine.reset(false), Ok(Progress::Preempted));
    assert!(machine.held() > 0);
    assert_eq!(machine.init(0), Err(EventError::Restart));
    machine.leave_alone();
    assert_eq!(machine.init(0), Ok(()));
    let port = machine.hv.bind_ipi(&machine.domain, VcpuId(0)).unwrap();
    assert_eq!(machine.reset(true), Ok(Progress::Finished));
    assert_eq!((machine.held(), machine.uses()), (1, 1));
    assert!(machine.hv.event_status(&machine.domain, SELF, port).is_ok_and(|s| s.vcpu == VcpuId(0)));
}

/// Two vCPUs go on with the same reset while a third one brings control blocks: no page is given back twice.
#[test]
fn resets_at_the_same_time_take_no_page_twice() {
    const ROUNDS: u32 = 2000;
    let machine = Machine::new(64);
    let done = AtomicBool::new(false);
    let go_on = || {
        while !done.load(Ordering::SeqCst) {
            let _ = machine.reset(true);
        }
    };
    let ended = thread::scope(|scope| {
        let others = [(); 2].map(|()| scope.spawn(go_on));
        let rounds = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            for _ in 0..ROUNDS {
                for vcpu in 0..64 {
                    let _ = machine.init(vcpu);
                }
                let _ = machine.reset(false);
            }
        }));
        done.store(true, Ordering::SeqCst);
        others.map(|other| other.join().is_ok()).into_iter().all(|ok| ok) && rounds.is_ok()
    });
    assert!(ended, "a page was given back that was not held");
    while machine.reset(true) == Ok(Progress::Preempted) {}
    assert_eq!(machine.reset(false), Ok(Progress::Finished));
    assert_eq!((machine.held(), machine.uses()), (0, 0));
}
