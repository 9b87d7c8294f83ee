//! Tests of the accounting: single behaviours, and random sequences of hypercalls against counts recomputed from scratch.

mod absent;
mod behaviour;
mod coherence;
mod foreign_frames;
mod linear;
mod memory;
mod model;
mod orders;
mod preempt;
mod race;
mod random;
mod segments;
mod stale;
mod waits;

use crate::Hypervisor;
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::{Cx, Outcome, descriptor, memory as memory_calls, mmu};
use crate::ids::{CpuId, GuestVirt, Mfn};
use crate::mock::{FLAT_BASE, MockPlatform, domain, hypervisor};
use crate::page::pte;
use crate::platform::Platform;
use crate::regs::Regs;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::vec::Vec;
use xen_abi::xen::{DOMID_SELF, MmuUpdate, MmuextOp};
use zerocopy::{Immutable, IntoBytes};

/// `DOMID_SELF` as the hypercalls take it.
const SELF: u64 = DOMID_SELF as u64;
/// The entry bits of a writable mapping.
const RW: u64 = pte::PRESENT | pte::RW;
/// Most times that a hypercall may ask to be made again.
const PATIENCE: usize = 100_000;

/// A machine with one domain, and the hypercalls of its vCPU 0.
struct Guest {
    hv: Hypervisor<MockPlatform>,
    domain: Arc<Domain<MockPlatform>>,
}

impl Guest {
    /// A machine with `frames` frames; the domain owns none and may have all.
    fn new(frames: usize) -> Self {
        Self::with_vcpus(frames, 2)
    }

    fn with_vcpus(frames: usize, vcpus: u32) -> Self {
        let hv = hypervisor(frames);
        let domain = domain(&hv, 0, vcpus, frames as u64);
        Self { hv, domain }
    }

    fn cx(&self) -> Cx<'_, MockPlatform> {
        Cx { hv: &self.hv, domain: &self.domain, vcpu: &self.domain.vcpus[0] }
    }

    /// A page of the domain's, filled with zeros.
    fn page(&self) -> Mfn {
        let mfn = self.hv.alloc_domain_page(&self.domain, 0).expect("a free frame");
        self.hv.platform.frame_words(mfn).iter().for_each(|w| w.store(0, Relaxed));
        mfn
    }

    fn pages<const N: usize>(&self) -> [Mfn; N] {
        core::array::from_fn(|_| self.page())
    }

    /// Writes a word of a page directly, as a guest that has it mapped writable does.
    fn poke(&self, mfn: Mfn, index: usize, value: u64) {
        self.hv.platform.frame_words(mfn)[index].store(value, Relaxed);
    }

    fn peek(&self, mfn: Mfn, index: usize) -> u64 {
        self.hv.platform.frame_words(mfn)[index].load(Relaxed)
    }

    /// Puts values into the guest's flat memory; answers their address.
    fn put<T: IntoBytes + Immutable>(&self, values: &[T]) -> u64 {
        self.put_at(0, values)
    }

    fn put_at<T: IntoBytes + Immutable>(&self, offset: u64, values: &[T]) -> u64 {
        let address = FLAT_BASE + offset;
        GuestPtr::new(address).write_slice(&self.hv, values).expect("the flat buffer");
        address
    }

    /// Makes a hypercall as often as it asks for it.
    fn call(
        &self,
        handler: fn(Cx<'_, MockPlatform>, &[u64; 6], &mut Regs) -> Outcome,
        mut args: [u64; 6],
    ) -> i64 {
        for _ in 0..PATIENCE {
            match handler(self.cx(), &args, &mut Regs::default()) {
                Outcome::Done(value) => return value,
                Outcome::Again(next) => args = next,
                Outcome::RegsReplaced => unreachable!("no such hypercall here"),
            }
        }
        panic!("the hypercall never ends");
    }

    /// Gives up what is on the domain's list, as its next hypercalls would.
    fn finish_doomed(&self) {
        while self.hv.work_off_doomed(&self.domain).is_err() {}
    }

    fn updates(&self, list: &[(Mfn, usize, u64)], cmd: u64) -> i64 {
        let list: Vec<_> = list
            .iter()
            .map(|(mfn, index, val)| MmuUpdate { ptr: mfn.addr().0 + *index as u64 * 8 + cmd, val: *val })
            .collect();
        let at = self.put(&list);
        self.call(mmu::mmu_update, [at, list.len() as u64, 0, SELF, 0, 0])
    }

    fn update(&self, mfn: Mfn, index: usize, val: u64) -> i64 {
        self.updates(&[(mfn, index, val)], 0)
    }

    fn ext(&self, cmd: u32, arg1: u64, arg2: u64) -> i64 {
        let at = self.put(&[MmuextOp { cmd, _pad0: 0, arg1, arg2 }]);
        self.call(mmu::mmuext_op, [at, 1, 0, SELF, 0, 0])
    }

    fn pin(&self, level: u32, mfn: Mfn) -> i64 {
        self.ext(level - 1, mfn.0, 0)
    }

    fn unpin(&self, mfn: Mfn) -> i64 {
        self.ext(xen_abi::xen::MMUEXT_UNPIN_TABLE, mfn.0, 0)
    }

    fn map_va(&self, va: u64, val: u64, flags: u64) -> i64 {
        self.call(mmu::update_va_mapping, [va, val, flags, 0, 0, 0])
    }

    fn set_gdt(&self, frames: &[Mfn], entries: u32) -> i64 {
        let frames: Vec<u64> = frames.iter().map(|m| m.0).collect();
        let at = self.put(&frames);
        self.call(descriptor::set_gdt, [at, u64::from(entries), 0, 0, 0, 0])
    }

    fn memory<T: IntoBytes + Immutable>(&self, cmd: u32, argument: &T) -> i64 {
        let at = self.put_at(0x1000, core::slice::from_ref(argument));
        self.call(memory_calls::memory_op, [u64::from(cmd), at, 0, 0, 0, 0])
    }

    /// A chain of tables `[L4, L3, L2, L1]` that maps `page` writable at address 0, not yet checked.
    fn chain(&self, page: Mfn) -> [Mfn; 4] {
        let tables: [Mfn; 4] = self.pages();
        for (i, next) in [tables[1], tables[2], tables[3], page].into_iter().enumerate() {
            self.poke(tables[i], 0, entry(next, RW));
        }
        tables
    }

    /// A chain as [`Guest::chain`], pinned and loaded.
    fn running(&self, page: Mfn) -> [Mfn; 4] {
        let tables = self.chain(page);
        assert_eq!(self.pin(4, tables[0]), 0);
        assert_eq!(self.ext(xen_abi::xen::MMUEXT_NEW_BASEPTR, tables[0].0, 0), 0);
        tables
    }

    /// Whole TLB flushes so far, by whatever means.
    fn flushes(&self) -> usize {
        let record = self.hv.platform.record.lock().unwrap();
        let whole = |f: &&(crate::cpumask::CpuMask, crate::platform::Flush)| {
            f.1 == crate::platform::Flush::All && f.0.contains(CpuId(0))
        };
        record.flushes.iter().filter(whole).count() + record.table_loads.0 as usize
    }

    fn emulate(&self, va: u64, old: Option<u64>, new: u64, bytes: u32) -> super::PtWrite {
        match self.hv.read_only_page(self.cx(), GuestVirt(va)) {
            Some(super::ReadOnlyPage::Table(table)) => {
                self.hv.emulate_pt_write(self.cx(), table, GuestVirt(va), old, new, bytes)
            }
            _ => super::PtWrite::NotATable,
        }
    }
}

/// An entry that names `mfn`.
fn entry(mfn: Mfn, flags: u64) -> u64 {
    mfn.addr().0 | flags
}

fn errno(e: xen_abi::errno::Errno) -> i64 {
    e.to_ret()
}
