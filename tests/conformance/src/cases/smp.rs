//! Several vCPUs of one domain: bringing up, events, flushes, time (vcpu.h, xen.h).

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use guest_pv_lib::mmu::Pte;
use guest_pv_lib::{Errno, sched, time};
use xen_abi::GuestHandle;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use xen_abi::xen::*;

use super::event::{bind_ipi, event, send, with_port};
use crate::call::{hc2, hc4, va_mapping, vcpu};
use crate::harness::{Env, Outcome, Verdict, check, need, same};
use crate::smp::{flags, run, shared_word, spin, start, vcpu_at, wait};

/// First word of the pending bits of the shared page.
const PENDING: usize = 256;
/// First word of its mask bits.
const MASK: usize = 320;

fn add_one(n: u64) -> u64 {
    n + 1
}

case! {
    /// A vCPU that was initialised runs with the registers of its context when it is brought up, and is up until it goes down.
    #[vcpus(2)]
    fn comes_up(env) {
        same("answer", run(env, 1, add_one, 41)?, 42)?;
        same("down again", vcpu_at(VCPUOP_IS_UP, 1, 0), Ok(0))
    }
}

case! {
    /// Down and up again goes on where it was, any number of times.
    #[vcpus(3)]
    fn goes_down_and_up(env) {
        for n in 0..20 {
            let first = start(env, 1, add_one, n)?;
            let second = start(env, 2, add_one, n + 100)?;
            same("first", first.finish()?, n + 1)?;
            same("second", second.finish()?, n + 101)?;
        }
        Ok(())
    }
}

case! {
    /// Bringing up what is up, and taking down what is down, succeeds and changes nothing.
    #[vcpus(2)]
    fn up_and_down_twice(env) {
        run(env, 1, add_one, 0)?;
        same("down", vcpu_at(VCPUOP_DOWN, 1, 0), Ok(0))?;
        same("up", vcpu_at(VCPUOP_UP, 0, 0), Ok(0))?;
        same("is down", vcpu_at(VCPUOP_IS_UP, 1, 0), Ok(0))
    }
}

static WORD: AtomicU64 = AtomicU64::new(0);

fn poll_port(port: u64) -> u64 {
    let ports = [port as u32];
    let mut arg =
        SchedPoll { ports: GuestHandle::from(ports.as_ptr() as u64), nr_ports: 1, ..SchedPoll::default() };
    WORD.store(1, SeqCst);
    let ret = hc2(nr::SCHED_OP, SCHEDOP_POLL.into(), &raw mut arg as u64);
    ret.map_or(u64::MAX, |_| shared_word(PENDING + port as usize / 64).load(SeqCst) >> (port % 64) & 1)
}

fn poll_is_woken(env: &Env, delay: u64) -> Outcome {
    WORD.store(0, SeqCst);
    with_port(bind_ipi(1), |port| {
        let polling = start(env, 1, poll_port, port.into())?;
        check("polls", wait(|| WORD.load(SeqCst) != 0))?;
        let end = time::now() + delay;
        wait(|| time::now() >= end);
        same("send", send(port), Ok(0))?;
        let seen = polling.finish();
        shared_word(PENDING + port as usize / 64).fetch_and(!(1 << (port % 64)), SeqCst);
        same("pending after the poll", seen?, 1)
    })
}

case! {
    /// An event on a port that another vCPU polls wakes it, however soon it comes.
    #[vcpus(2)]
    #[covers(SCHEDOP_POLL)]
    fn poll_is_woken_at_once(env) {
        (0..20).try_for_each(|_| poll_is_woken(env, 0))
    }
}

case! {
    /// An event on a port that another vCPU polls wakes it after it has slept.
    #[vcpus(2)]
    #[covers(SCHEDOP_POLL)]
    fn poll_is_woken_later(env) {
        poll_is_woken(env, 3_000_000)
    }
}

/// Takes the upcall flag and the selector of a vCPU that does not take upcalls.
fn take_upcall(id: u32) -> (u64, u64) {
    let selector = shared_word(id as usize * 8 + 1).swap(0, SeqCst);
    (flags(id).fetch_and(!0xff, SeqCst) & 0xff, selector)
}

case! {
    /// An IPI port raises the upcall of the vCPU that it was bound to, and of no other.
    #[vcpus(3)]
    #[covers(EVTCHNOP_BIND_IPI, EVTCHNOP_SEND)]
    fn ipi_goes_to_its_vcpu(env) {
        run(env, 2, add_one, 0)?;
        with_port(bind_ipi(2), |port| {
            take_upcall(1);
            take_upcall(2);
            shared_word(MASK + port as usize / 64).fetch_and(!(1 << (port % 64)), SeqCst);
            same("send", send(port), Ok(0))?;
            shared_word(MASK + port as usize / 64).fetch_or(1 << (port % 64), SeqCst);
            shared_word(PENDING + port as usize / 64).fetch_and(!(1 << (port % 64)), SeqCst);
            same("not vCPU 1", take_upcall(1), (0, 0))?;
            same("vCPU 2", take_upcall(2), (1, 1 << (port / 64)))
        })
    }
}

case! {
    /// A port that was moved to another vCPU raises that one's upcall.
    #[vcpus(2)]
    fn bound_port_goes_to_its_vcpu(env) {
        run(env, 1, add_one, 0)?;
        let mut arg = EvtchnAllocUnbound { dom: DOMID_SELF, remote_dom: DOMID_SELF, port: 0 };
        need("alloc", event(EVTCHNOP_ALLOC_UNBOUND, &mut arg))?;
        let far = arg.port;
        let mut arg = EvtchnBindInterdomain {
            remote_dom: DOMID_SELF, remote_port: far, ..EvtchnBindInterdomain::default()
        };
        need("bind", event(EVTCHNOP_BIND_INTERDOMAIN, &mut arg))?;
        let near = arg.local_port;
        with_port(Ok(far), |far| with_port(Ok(near), |near| {
            same("bind_vcpu", event(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port: far, vcpu: 1 }), Ok(0))?;
            take_upcall(1);
            shared_word(PENDING + far as usize / 64).fetch_and(!(1 << (far % 64)), SeqCst);
            shared_word(MASK + far as usize / 64).fetch_and(!(1 << (far % 64)), SeqCst);
            same("send", send(near), Ok(0))?;
            shared_word(MASK + far as usize / 64).fetch_or(1 << (far % 64), SeqCst);
            shared_word(PENDING + far as usize / 64).fetch_and(!(1 << (far % 64)), SeqCst);
            same("vCPU 1", take_upcall(1), (1, 1 << (far / 64)))
        }))
    }
}

/// Reads a word again and again until it is not 1; answers what it became.
fn watch(at: u64) -> u64 {
    // SAFETY: the case keeps something mapped there.
    let word = unsafe { &*(at as *const AtomicU64) };
    WORD.store(1, SeqCst);
    spin(|| word.load(SeqCst) != 1);
    word.load(SeqCst)
}

/// Another vCPU reads page 0 while it is mapped elsewhere and `flush` is called; it must see the other page.
fn sees_new_mapping(env: &Env, flush: impl Fn(u64) -> Outcome) -> Outcome {
    let (page, other) = (env.page(0), env.page(1));
    page.set(0, 1);
    other.set(0, 2);
    WORD.store(0, SeqCst);
    let watching = start(env, 1, watch, page.virt())?;
    check("watches", wait(|| WORD.load(SeqCst) != 0))?;
    need("map", page.map(Pte::data(other.mfn())))?;
    flush(page.virt())?;
    let seen = watching.finish()?;
    need("map back", page.writable())?;
    flush(page.virt())?;
    same("seen", seen, 2)
}

case! {
    /// A flush of one address by `UVMF_INVLPG | UVMF_ALL` reaches the other vCPUs.
    #[vcpus(2)]
    fn va_mapping_flushes_all(env) {
        let entry = Pte::data(env.page(1).mfn()).0;
        sees_new_mapping(env, |virt| same("update", va_mapping(virt, entry, UVMF_INVLPG | UVMF_ALL), Ok(0)))
    }
}

fn mmuext_with_mask(cmd: u32, virt: u64, mask: &u64) -> Outcome {
    let op = MmuextOp { cmd, arg1: virt, arg2: mask as *const u64 as u64, ..MmuextOp::default() };
    same("mmuext", hc4(nr::MMUEXT_OP, &raw const op as u64, 1, 0, DOMID_SELF.into()), Ok(0))
}

case! {
    /// `MMUEXT_TLB_FLUSH_MULTI` flushes the vCPUs of its mask.
    #[vcpus(2)]
    fn tlb_flush_multi(env) {
        sees_new_mapping(env, |_| mmuext_with_mask(MMUEXT_TLB_FLUSH_MULTI, 0, &0b10))
    }
}

case! {
    /// `MMUEXT_INVLPG_MULTI` flushes one address on the vCPUs of its mask; vCPUs that do not exist are passed over.
    #[vcpus(2)]
    fn invlpg_multi(env) {
        sees_new_mapping(env, |virt| mmuext_with_mask(MMUEXT_INVLPG_MULTI, virt, &!1))
    }
}

case! {
    /// `MMUEXT_TLB_FLUSH_ALL` and `MMUEXT_INVLPG_ALL` flush all vCPUs.
    #[vcpus(2)]
    fn flush_all(env) {
        sees_new_mapping(env, |virt| mmuext_with_mask(MMUEXT_INVLPG_ALL, virt, &0))?;
        sees_new_mapping(env, |_| mmuext_with_mask(MMUEXT_TLB_FLUSH_ALL, 0, &0))
    }
}

/// System time by the record of a vCPU; it must be the calling one.
fn clock(id: u64) -> u64 {
    let at = |word: usize| shared_word(id as usize * 8 + 4 + word);
    loop {
        let version = at(0).load(SeqCst);
        let (stamp, system, scale) = (at(1).load(SeqCst), at(2).load(SeqCst), at(3).load(SeqCst));
        let ticks = time::tsc().wrapping_sub(stamp);
        if version & 1 == 0 && at(0).load(SeqCst) == version {
            let (multiplier, shift) = (scale & 0xffff_ffff, (scale >> 32) as i8);
            let ticks = if shift < 0 { ticks >> -shift } else { ticks << shift };
            return system + ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64;
        }
    }
}

/// The time that was seen last, and whose turn it is: even the boot vCPU's.
static LAST: AtomicU64 = AtomicU64::new(0);
static TURN: AtomicU64 = AtomicU64::new(0);
static BACK: AtomicU64 = AtomicU64::new(0);
const TURNS: u64 = 200;

/// Takes every second turn, and notes by how much the clock ran back.
fn take_turns(id: u64) {
    while TURN.load(SeqCst) < TURNS {
        if TURN.load(SeqCst) % 2 == id {
            let now = clock(id);
            BACK.fetch_max(LAST.swap(now, SeqCst).saturating_sub(now), SeqCst);
            TURN.fetch_add(1, SeqCst);
        } else {
            sched::yield_now();
        }
    }
}

fn turns_of_other(id: u64) -> u64 {
    take_turns(id);
    0
}

case! {
    /// System time of two vCPUs is one time: seen in turns, it does not run back at all where the records promise that
    /// (`XEN_PVCLOCK_TSC_STABLE_BIT`), and else by less than a millisecond.
    #[emulator(qemu, "Xen calibrates the clock of each CPU by itself, and an emulated CPU stands still while its thread waits")]
    #[vcpus(2)]
    fn one_time(env) {
        LAST.store(0, SeqCst);
        TURN.store(0, SeqCst);
        BACK.store(0, SeqCst);
        let other = start(env, 1, turns_of_other, 1)?;
        take_turns(0);
        other.finish()?;
        check("forward", BACK.load(SeqCst) <= tolerance())
    }
}

/// By how much the clocks of two vCPUs may differ, in nanoseconds.
fn tolerance() -> u64 {
    let stable = shared_word(4 + 3).load(SeqCst) >> 40 & 1 != 0;
    if stable { 0 } else { 1_000_000 }
}

fn my_clock(id: u64) -> u64 {
    clock(id)
}

case! {
    /// A vCPU that comes up has a time record: an even version, factors, and the time of the others.
    #[emulator(qemu, "Xen calibrates the clock of each CPU by itself, and an emulated CPU stands still while its thread waits")]
    #[vcpus(2)]
    fn time_record(env) {
        let before = time::now();
        let there = run(env, 1, my_clock, 1)?;
        let after = time::now();
        check("even version", shared_word(8 + 4).load(SeqCst) & 1 == 0)?;
        check("factors", shared_word(8 + 7).load(SeqCst) & 0xffff_ffff != 0)?;
        check("between", before <= there + tolerance() && there <= after + tolerance())
    }
}

fn account(id: u32) -> Result<VcpuRunstateInfo, Verdict> {
    let mut info = VcpuRunstateInfo::default();
    need("get_runstate_info", vcpu(VCPUOP_GET_RUNSTATE_INFO, id, &mut info))?;
    Ok(info)
}

fn spin_for(nanos: u64) -> u64 {
    let end = clock(1) + nanos;
    while clock(1) < end {
        core::hint::spin_loop();
    }
    0
}

case! {
    /// While two vCPUs compute, each is running or (stolen time) runnable all the time; one that is down is offline.
    #[vcpus(2)]
    #[emulator(qemu, "Xen calibrates the clock of each CPU by itself, and an emulated CPU stands still while its thread waits")]
    fn accounts(env) {
        run(env, 1, add_one, 0)?;
        // On another CPU it may still be on its way.
        check("offline", wait(|| account(1).is_ok_and(|its| its.state == RUNSTATE_OFFLINE)))?;
        let (mine, its) = (account(0)?, account(1)?);
        let began = time::now();
        let other = start(env, 1, spin_for, 20_000_000)?;
        while time::now() < began + 20_000_000 {
            core::hint::spin_loop();
        }
        other.finish()?;
        let (after, took) = (account(0)?, time::now() - began);
        let busy = |a: &VcpuRunstateInfo| a.time[RUNSTATE_RUNNING as usize] + a.time[RUNSTATE_RUNNABLE as usize];
        let counted = busy(&after) - busy(&mine);
        check("my time", counted <= took + 1_000_000 && counted + 2_000_000 >= took)?;
        let its_time = busy(&account(1)?) - busy(&its);
        check("its time", its_time >= 20_000_000 && its_time <= took + 1_000_000)
    }
}

returns! {
    /// The one-shot timer is everybody's own.
    #[vcpus(2)]
    oneshot_of_other(env): vcpu(VCPUOP_SET_SINGLESHOT_TIMER, 1, &mut VcpuSetSingleshotTimer::default())
        => Err(Errno::EINVAL);
    /// Stopping it, too.
    #[vcpus(2)]
    stop_oneshot_of_other(env): vcpu_at(VCPUOP_STOP_SINGLESHOT_TIMER, 1, 0) => Err(Errno::EINVAL);
    /// The periodic timer of another vCPU may be stopped.
    #[vcpus(2)]
    stop_periodic_of_other(env): vcpu_at(VCPUOP_STOP_PERIODIC_TIMER, 1, 0) => Ok(0);
    /// An NMI has no argument.
    #[vcpus(2)]
    nmi_with_argument(env): vcpu_at(VCPUOP_SEND_NMI, 1, 8) => Err(Errno::EINVAL);
}

case! {
    /// The account of another vCPU is copied to where it is registered at once.
    #[vcpus(2)]
    fn runstate_area_of_other(env) {
        run(env, 1, add_one, 0)?;
        let page = env.page(0);
        let mut arg = VcpuRegisterRunstateMemoryArea { addr: page.virt().into() };
        need("register", vcpu(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 1, &mut arg))?;
        let state = page.get(0) as i32;
        run(env, 1, add_one, 0)?;
        let changed = page.get(1);
        let mut none = VcpuRegisterRunstateMemoryArea::default();
        need("unregister", vcpu(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 1, &mut none))?;
        check("state", state == RUNSTATE_OFFLINE || state == RUNSTATE_RUNNING)?;
        check("kept up to date", changed != 0)
    }
}

case! {
    /// A first domain that says on its second vCPU that it crashed ends like any other.
    #[ends(crash)] #[vcpus(2)] #[cpus(2)]
    fn crash_of_the_second(env) {
        fn crash(_: u64) -> u64 {
            crate::call::op(nr::SCHED_OP, SCHEDOP_SHUTDOWN, &mut SchedShutdown { reason: SHUTDOWN_CRASH }).is_ok().into()
        }
        run(env, 1, crash, 0).map(drop)
    }
}
