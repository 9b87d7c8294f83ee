//! Host tests of timers, of what is published, and of the heap against a naive model.

use super::heap::{Entry, Heap};
use super::publish::overwrite;
use super::timers::TimerKind;
use crate::Hypervisor;
use crate::domain::{Domain, VcpuRef};
use crate::hypercall::Cx;
use crate::ids::{CpuId, Nanos, VcpuId};
use crate::mock::{self, MockPlatform};
use crate::platform::{Platform, Work};
use crate::sched::Reasons;
use crate::sync::Contested;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering::SeqCst;
use proptest::prelude::*;
use xen_abi::xen::{VIRQ_TIMER, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, XEN_PVCLOCK_TSC_STABLE_BIT};

#[derive(Clone)]
struct Item {
    id: usize,
    index: Rc<Cell<Option<usize>>>,
}

impl Entry for Item {
    fn moved_to(&self, index: usize) {
        self.index.set(Some(index));
    }
}

proptest! {
    /// The heap against a list that is searched from end to end, with exact removal and change by position.
    #[test]
    fn heap_against_model(ops in proptest::collection::vec((0u8..4, 0u64..50, 0usize..40), 1..200)) {
        let mut heap = Heap::new();
        let mut model: Vec<(u64, Item)> = Vec::new();
        for (n, (op, deadline, pick)) in ops.into_iter().enumerate() {
            match op {
                0 | 1 => {
                    let item = Item { id: n, index: Rc::new(Cell::new(None)) };
                    heap.insert(Nanos(deadline), item.clone());
                    model.push((deadline, item));
                }
                2 if !model.is_empty() => {
                    let (_, item) = model.remove(pick % model.len());
                    let removed = heap.remove(item.index.get().unwrap()).unwrap();
                    prop_assert_eq!(removed.1.id, item.id);
                }
                3 if !model.is_empty() => {
                    let at = pick % model.len();
                    model[at].0 = deadline;
                    heap.change(model[at].1.index.get().unwrap(), Nanos(deadline));
                }
                _ => {}
            }
            prop_assert_eq!(heap.len(), model.len());
            prop_assert_eq!(heap.next_deadline().map(|d| d.0), model.iter().map(|m| m.0).min());
        }
        model.sort_by_key(|m| m.0);
        let mut last = 0;
        for (deadline, _) in &model {
            prop_assert!(heap.pop_due(Nanos(deadline.saturating_sub(1))).is_none() || last == *deadline);
            if !heap.is_empty() {
                last = heap.next_deadline().unwrap().0;
                heap.pop_due(Nanos(last));
            }
        }
    }
}

/// A domain with two vCPUs, timer interrupts bound, periodic timers off.
struct Bench {
    hv: Hypervisor<MockPlatform>,
    domain: Arc<Domain<MockPlatform>>,
    ports: Vec<u32>,
}

impl Bench {
    fn new() -> Self {
        let hv = mock::hypervisor(64);
        let domain = mock::domain(&hv, 0, 2, 32);
        let mut ports = vec![];
        for vcpu in &domain.vcpus {
            vcpu.time.disable_periodic();
            ports.push(hv.bind_virq(&domain, vcpu.id, VIRQ_TIMER).unwrap().0);
        }
        Self { hv, domain, ports }
    }

    fn vcpu(&self, n: u32) -> VcpuRef<MockPlatform> {
        VcpuRef { domain: self.domain.clone(), id: VcpuId(n) }
    }

    /// Whether the timer interrupt is pending at a vCPU; takes it.
    fn ticked(&self, n: usize) -> bool {
        let bit = 1u64 << self.ports[n];
        let words = self.hv.platform.frame_words(self.domain.shared_info);
        words[2048 / 8].fetch_and(!bit, SeqCst) & bit != 0
    }

    fn at(&self, time: u64) {
        self.hv.platform.time.store(time, SeqCst);
        self.hv.run_timers();
    }

    fn started(&self, vcpu: &VcpuRef<MockPlatform>) {
        if self.hv.vcpu_time_started(vcpu, self.hv.platform.now()) {
            self.hv.rearm_timer();
        }
    }

    fn armed(&self) -> Option<u64> {
        self.hv.platform.record.lock().unwrap().timer.map(|t| t.0)
    }

    /// Puts vCPU 0 on this CPU.
    fn runs(&self) -> VcpuRef<MockPlatform> {
        let vcpu = self.vcpu(0);
        assert!(self.hv.bring_up(&vcpu));
        let chosen = self.hv.schedule(None).expect("it is runnable");
        self.hv.vcpu_switched(None, Some(&chosen));
        vcpu
    }

    /// vCPU 0, which runs here, sleeps.
    fn stops(&self, vcpu: &VcpuRef<MockPlatform>) {
        self.hv.suspend(vcpu.vcpu(), Reasons::BLOCKED);
        assert!(self.hv.schedule(Some(vcpu)).is_none());
        self.hv.vcpu_switched(Some(vcpu), None);
    }

    /// It is woken, and runs here again.
    fn goes_on(&self, vcpu: &VcpuRef<MockPlatform>) {
        self.hv.resume(vcpu, Reasons::BLOCKED);
        let chosen = self.hv.schedule(None).expect("it is runnable");
        self.hv.vcpu_switched(None, Some(&chosen));
    }

    fn single(&self, n: u32, deadline: u64) {
        let vcpu = self.vcpu(n);
        self.hv.arm_singleshot(Cx { hv: &self.hv, domain: &vcpu.domain, vcpu: vcpu.vcpu() }, Nanos(deadline));
    }
}

/// One-shot timers expire once, at their time, and can be moved and stopped.
#[test]
fn singleshot() {
    let bench = Bench::new();
    bench.single(0, 5_000_000);
    bench.single(1, 4_000_000);
    assert_eq!(bench.armed(), Some(4_000_000));
    bench.at(3_999_999);
    assert!(!bench.ticked(0) && !bench.ticked(1));
    bench.at(4_000_000);
    assert!(!bench.ticked(0) && bench.ticked(1));
    assert_eq!(bench.armed(), Some(5_000_000));
    bench.single(0, 9_000_000);
    assert_eq!(bench.armed(), Some(9_000_000));
    bench.at(8_000_000);
    assert!(!bench.ticked(0));
    bench.hv.stop_singleshot(bench.vcpu(0).vcpu());
    bench.at(20_000_000);
    assert!(!bench.ticked(0));
    assert_eq!(bench.armed(), None);
    // One in the past expires at the next look.
    bench.single(0, 1);
    assert_eq!(bench.armed(), Some(1));
    bench.at(20_000_001);
    assert!(bench.ticked(0));
}

/// A timer follows its vCPU to the CPU that arms it, out of the other heap.
#[test]
fn timers_move_between_cpus() {
    let mut bench = Bench::new();
    bench.hv.timers = super::TimerQueues::new(2);
    bench.single(0, 5_000_000);
    bench.hv.platform.cpu.store(1, SeqCst);
    bench.single(0, 6_000_000);
    bench.hv.platform.cpu.store(0, SeqCst);
    bench.at(10_000_000);
    assert!(!bench.ticked(0));
    bench.hv.platform.cpu.store(1, SeqCst);
    bench.at(10_000_000);
    assert!(bench.ticked(0));
}

/// The periodic timer ticks while its vCPU runs, at once where a tick was missed, and not while it does not run.
#[test]
fn periodic() {
    let bench = Bench::new();
    let vcpu = bench.runs();
    bench.at(100_000_000);
    bench.hv.set_periodic(&vcpu, 10_000_000);
    assert!(bench.ticked(0), "the last tick was long ago");
    bench.at(109_999_999);
    assert!(!bench.ticked(0));
    bench.at(110_000_000);
    assert!(bench.ticked(0));
    assert_eq!(bench.armed(), Some(120_000_000));
    bench.stops(&vcpu);
    bench.at(200_000_000);
    assert!(!bench.ticked(0), "it does not run");
    bench.hv.platform.time.store(250_000_000, SeqCst);
    bench.goes_on(&vcpu);
    assert!(bench.ticked(0));
    // It sleeps for less than a period, and its timer ticks when it is due.
    bench.at(255_000_000);
    bench.stops(&vcpu);
    bench.goes_on(&vcpu);
    bench.at(259_999_999);
    assert!(!bench.ticked(0));
    bench.at(260_000_000);
    assert!(bench.ticked(0));
    bench.hv.set_periodic(&vcpu, 0);
    bench.at(300_000_000);
    assert!(!bench.ticked(0));
    assert_eq!(bench.armed(), None);
}

/// The time record: even version that counts up, and the platform's numbers; published again only when they changed.
#[test]
fn time_record() {
    let bench = Bench::new();
    let vcpu = bench.vcpu(1);
    let words = bench.hv.platform.frame_words(bench.domain.shared_info);
    let record = || -> Vec<u64> { words[8 + 4..8 + 8].iter().map(|w| w.load(SeqCst)).collect() };
    bench.hv.publish_time(&vcpu);
    assert_eq!(record(), [2, 1_000_000, 1_000_000, 1 << 31 | 1 << 32]);
    bench.hv.publish_time(&vcpu);
    assert_eq!(record()[0], 2);
    bench.hv.platform.time.store(7_000_000, SeqCst);
    bench.hv.publish_time(&vcpu);
    assert_eq!(record(), [4, 7_000_000, 7_000_000, 1 << 31 | 1 << 32]);
    // A second copy where the guest wants it.
    bench.hv.set_time_area(&vcpu, mock::FLAT_BASE);
    let copy = crate::guest_ptr::GuestPtr::<[u64; 4]>::new(mock::FLAT_BASE).read(&bench.hv).unwrap();
    assert_eq!(copy.to_vec(), record());
    assert_eq!(copy[0], 6);
    // Only where all CPUs have one clock it says so.
    bench.hv.platform.stable_tsc.store(true, SeqCst);
    bench.hv.platform.time.store(8_000_000, SeqCst);
    bench.hv.publish_time(&vcpu);
    let flags = u64::from(XEN_PVCLOCK_TSC_STABLE_BIT) << (8 * (29 - 24));
    assert_eq!(record(), [8, 8_000_000, 8_000_000, 1 << 31 | 1 << 32 | flags]);
    let copy = crate::guest_ptr::GuestPtr::<[u64; 4]>::new(mock::FLAT_BASE).read(&bench.hv).unwrap();
    assert_eq!(copy.to_vec(), record());
}

/// The wall clock moves for every domain at once.
#[test]
fn wallclock() {
    let bench = Bench::new();
    let words = bench.hv.platform.frame_words(bench.domain.shared_info);
    let clock = || (words[384].load(SeqCst), words[385].load(SeqCst));
    bench.hv.publish_wallclock(&bench.domain);
    assert_eq!(clock(), (2, 0));
    // 2^33 + 5 seconds and 7 ns after 1970, 3 ns after boot.
    bench.hv.set_wallclock((1 << 33) + 5, 7, 3);
    assert_eq!(clock(), (4 | 5 << 32, 4 | 2 << 32));
    assert_eq!(bench.hv.wallclock_base(), ((1 << 33) + 5) * 1_000_000_000 + 4);
    bench.hv.set_wallclock(u64::MAX, u32::MAX, 0);
    assert_eq!(words[384].load(SeqCst) as u32, 6);
}

/// The copy of the run state, with and without the flag that marks an update; a place that cannot be written is left
/// alone.
#[test]
fn runstate_area() {
    let bench = Bench::new();
    let vcpu = bench.vcpu(0);
    let area = crate::guest_ptr::GuestPtr::<[u64; 6]>::new(mock::FLAT_BASE + 0x100);
    vcpu.vcpu().time.set_runstate_area(area.address().0);
    bench.started(&vcpu);
    vcpu.vcpu().time.change_runstate(super::RunState::Running, Nanos(10));
    bench.started(&vcpu);
    assert_eq!(area.read(&bench.hv).unwrap(), [0, 10, 0, 0, 0, 10]);
    bench.domain.vm_assist.store(1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG, SeqCst);
    vcpu.vcpu().time.change_runstate(super::RunState::Blocked, Nanos(30));
    bench.started(&vcpu);
    assert_eq!(area.read(&bench.hv).unwrap(), [2, 30, 20, 0, 0, 10]);
    vcpu.vcpu().time.set_runstate_area(0x1000);
    bench.started(&vcpu);
    bench.hv.vcpu_time_stopped(&vcpu);
}

/// While user code runs, its kernel's areas are written through the kernel's page tables, across a page's end, and only
/// where these allow it.
#[test]
fn area_through_page_tables() {
    let (hv, domain) = mock::machine_with_domain(64);
    let vcpu = VcpuRef { domain: domain.clone(), id: VcpuId(0) };
    let frame = || hv.alloc_domain_page(&domain, 0).unwrap();
    let (l4, l3, l2, l1, first, second) = (frame(), frame(), frame(), frame(), frame(), frame());
    let set = |table: crate::ids::Mfn, index: usize, to: crate::ids::Mfn, flags: u64| {
        hv.platform.frame_words(table)[index].store(to.addr().0 | flags, SeqCst);
    };
    set(l4, 0, l3, 7);
    set(l3, 0, l2, 7);
    set(l2, 0, l1, 7);
    set(l1, 1, first, 7);
    set(l1, 2, second, 7);
    hv.set_first_baseptr(&domain, vcpu.vcpu(), l4).unwrap();
    let bytes: Vec<u8> = (1..=12).collect();
    let through = super::publish::Through::Tables;
    hv.write_kernel_area(&vcpu, through, 0x1ffa, &bytes).unwrap();
    let word = |mfn, index: usize| hv.platform.frame_words(mfn)[index].load(SeqCst).to_le_bytes();
    assert_eq!(word(first, 511), [0, 0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(word(second, 0), [7, 8, 9, 10, 11, 12, 0, 0]);
    set(l1, 2, second, 5);
    assert!(hv.write_kernel_area(&vcpu, through, 0x1ffa, &bytes).is_err());
    assert!(hv.write_kernel_area(&vcpu, through, 0x5000, &bytes).is_err());
}

/// Stopping all timers of a vCPU leaves none.
#[test]
fn stop_all() {
    let bench = Bench::new();
    bench.runs();
    bench.single(0, 5_000_000);
    bench.hv.set_periodic(&bench.vcpu(0), 10_000_000);
    bench.ticked(0);
    bench.hv.stop_timers(bench.vcpu(0).vcpu());
    bench.at(50_000_000);
    assert!(!bench.ticked(0));
    assert_eq!(TimerKind::COUNT, 3);
}

/// The periodic timer of a vCPU that does not run is only noted: it costs no CPU anything until the vCPU runs.
#[test]
fn periodic_of_one_that_is_down() {
    let bench = Bench::new();
    let other = bench.vcpu(1);
    bench.hv.set_periodic(&other, 1_000_000);
    assert_eq!(bench.armed(), None);
    assert!(!bench.ticked(1));
    // It starts, and its timer with it.
    bench.at(5_000_000);
    bench.started(&other);
    assert!(bench.ticked(1));
    assert_eq!(bench.armed(), Some(6_000_000));
    // One that is armed although its vCPU does not run on this CPU expires once, and tells no vCPU.
    bench.at(6_000_000);
    assert!(!bench.ticked(1));
    assert_eq!(bench.armed(), None);
}

/// Another vCPU sets the timer of one that runs elsewhere: it is armed there, and that CPU is told.
#[test]
fn periodic_of_one_that_runs_elsewhere() {
    let mut bench = Bench::new();
    bench.hv.timers = super::TimerQueues::new(2);
    let vcpu = bench.runs();
    bench.hv.platform.cpu.store(1, SeqCst);
    bench.hv.platform.record.lock().unwrap().raised.clear();
    bench.hv.set_periodic(&vcpu, 2_000_000);
    let raised = core::mem::take(&mut bench.hv.platform.record.lock().unwrap().raised);
    assert_eq!(raised, [(CpuId(0), Work::TIMER)]);
    bench.at(10_000_000);
    assert!(!bench.ticked(0), "not by this CPU");
    bench.hv.platform.cpu.store(0, SeqCst);
    bench.at(10_000_000);
    assert!(bench.ticked(0));
    assert_eq!(bench.armed(), Some(12_000_000));
}

/// Another vCPU sets the timer of one that moves to another CPU at the same moment: it is armed there in the end. Where it was armed on
/// the CPU that the vCPU had left, it ticked no more.
#[test]
fn periodic_of_one_that_moves() {
    const PERIOD: u64 = 2_000_000;
    let make = |_: &mut interleave::model::Chance| {
        let mut bench = Bench::new();
        bench.hv.timers = super::TimerQueues::new(2);
        bench.hv.platform.cpus.store(2, SeqCst);
        bench.runs();
        bench
    };
    // What the switches of CPU 0 and CPU 1 do, as far as timers are concerned.
    let act = |bench: &Bench, task: usize| {
        let vcpu = bench.vcpu(0);
        if task == 0 {
            return bench.hv.set_periodic(&vcpu, PERIOD);
        }
        vcpu.vcpu().cpu.store(1, SeqCst);
        bench.started(&vcpu);
    };
    let check = |bench: &Bench| {
        bench.hv.platform.cpu.store(1, SeqCst);
        bench.at(10 * PERIOD);
        assert!(bench.ticked(0), "it runs, and has a timer");
    };
    for seed in 0..500 {
        interleave::model::explore(seed, 2, None, make, act, check);
    }
}

/// The run states of a vCPU are written to memory that its other vCPUs write to as well: these could keep a CPU at it.
#[test]
fn bytes_are_written_whatever_the_guest_writes_beside_them() {
    let word = core::sync::atomic::AtomicU64::new(0);
    let times = Cell::new(0u64);
    let other = || {
        times.set(times.get() + 1);
        assert!(times.get() < 10, "it is never written");
        word.store(word.load(SeqCst) & !0xff | times.get(), SeqCst);
    };
    overwrite(&Contested { word: &word, other: &other }, 0xff_ff00, 0x12_3400);
    assert_eq!(word.load(SeqCst), 0x12_3400 | times.get());
    overwrite(&Contested { word: &word, other: &other }, u64::MAX, 7);
    assert_eq!(word.load(SeqCst), 7);
}

/// A CPU took the periodic timer out of its heap when the teardown stops all timers: the timer is not armed again.
#[test]
fn an_expired_timer_stays_stopped() {
    let bench = Bench::new();
    let vcpu = bench.runs();
    bench.hv.set_periodic(&vcpu, 1_000_000);
    bench.hv.stop_timers(vcpu.vcpu());
    assert!(!bench.hv.periodic_work(CpuId(0), &vcpu, bench.hv.platform.now()));
    bench.started(&vcpu);
    bench.hv.rearm_timer();
    let look = bench.hv.sched.slice_end(CpuId(0)).map(|at| at.0);
    assert_eq!(bench.armed(), look, "for nothing but the scheduler's next look");
}
