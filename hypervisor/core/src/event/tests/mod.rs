//! Event channels on the mock machine.

mod channels;
mod fifo;
mod hypercalls;
mod leaving;
mod model;
mod orders;
mod pirqs;
mod random;
pub(crate) mod whole;

use super::{EventError, two_level};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{MachineAddr, Port, VcpuId};
use crate::mock::{self, MockPlatform};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

type Mock = Hypervisor<MockPlatform>;
type MockDomain = Arc<Domain<MockPlatform>>;

/// A machine with domains 0 and 1 of `vcpus` vCPUs, each vCPU with the `vcpu_info` that `shared_info` has for it.
fn machine(vcpus: u32) -> (Mock, [MockDomain; 2]) {
    let hv = mock::hypervisor(600);
    let domains = [0, 1].map(|id| mock::domain(&hv, id, vcpus, 200));
    (hv, domains)
}

/// What a guest sees of its two-level event state.
struct Guest<'a> {
    hv: &'a Mock,
    domain: &'a MockDomain,
}

impl Guest<'_> {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.hv.platform.frame_words(self.domain.shared_info)[index]
    }

    fn pending(&self, port: Port) -> bool {
        self.word(two_level::PENDING + port.0 as usize / 64).load(Ordering::Relaxed) >> (port.0 % 64) & 1 != 0
    }

    fn clear_pending(&self, port: Port) {
        self.word(two_level::PENDING + port.0 as usize / 64)
            .fetch_and(!(1 << (port.0 % 64)), Ordering::Relaxed);
    }

    fn mask(&self, port: Port) {
        self.word(two_level::MASK + port.0 as usize / 64).fetch_or(1 << (port.0 % 64), Ordering::Relaxed);
    }

    fn masked(&self, port: Port) -> bool {
        self.word(two_level::MASK + port.0 as usize / 64).load(Ordering::Relaxed) >> (port.0 % 64) & 1 != 0
    }

    fn info(&self, vcpu: u32) -> [&AtomicU64; 2] {
        let at = MachineAddr(self.domain.vcpus[vcpu as usize].pv.vcpu_info.load(Ordering::Relaxed));
        let words = self.hv.platform.frame_words(at.mfn());
        [&words[at.page_offset() / 8], &words[at.page_offset() / 8 + 1]]
    }

    fn upcall_pending(&self, vcpu: u32) -> bool {
        self.info(vcpu)[0].load(Ordering::Relaxed) & 0xff != 0
    }

    /// Takes what a vCPU was told: the words with events, if its upcall flag was set.
    fn take_upcall(&self, vcpu: u32) -> Option<u64> {
        let [flags, selector] = self.info(vcpu);
        let upcall = flags.fetch_and(!0xff, Ordering::Relaxed) & 0xff != 0;
        upcall.then(|| selector.swap(0, Ordering::Relaxed))
    }
}

fn guest<'a>(hv: &'a Mock, domain: &'a MockDomain) -> Guest<'a> {
    Guest { hv, domain }
}
