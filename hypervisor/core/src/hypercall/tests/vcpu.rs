//! `vcpu_op`, `set_timer_op` and `sched_op`.

use super::*;
use crate::ids::{MachineAddr, Mfn, VcpuId};
use crate::platform::Platform;
use core::sync::atomic::AtomicU32;
use xen_abi::arch_x86::{VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use xen_abi::xen::VIRQ_TIMER;
use zerocopy::FromZeros;

impl Caller {
    fn op(&self, cmd: u32, vcpu: u32, arg: u64) -> Result<i64, Errno> {
        self.call(nr::VCPU_OP, &[cmd.into(), vcpu.into(), arg])
    }

    fn bind_timer(&self) -> u64 {
        1 << self.hv.bind_virq(&self.domain, VcpuId(0), VIRQ_TIMER).unwrap().0
    }

    /// Takes these bits out of the first word of pending ports.
    fn take_pending(&self, bits: u64) -> bool {
        let words = self.hv.platform.frame_words(self.domain.shared_info);
        words[256].fetch_and(!bits, SeqCst) & bits != 0
    }

    fn time(&self, time: u64) {
        self.hv.platform.time.store(time, SeqCst);
        self.hv.run_timers();
    }
}

/// Refusals before anything else.
#[test]
fn vcpu_op_refusals() {
    let caller = Caller::new();
    assert_eq!(caller.op(VCPUOP_UP, 2, 0), Err(Errno::ENOENT));
    assert_eq!(caller.op(99, 2, 0), Err(Errno::ENOENT));
    assert_eq!(caller.op(99, 0, 0), Err(Errno::ENOSYS));
    assert_eq!(caller.op(VCPUOP_UP, 1, 0), Err(Errno::EINVAL), "not initialised");
    assert_eq!(caller.op(VCPUOP_SET_SINGLESHOT_TIMER, 1, 0), Err(Errno::EINVAL), "not the caller");
    assert_eq!(caller.op(VCPUOP_STOP_SINGLESHOT_TIMER, 1, 0), Err(Errno::EINVAL));
    assert_eq!(caller.op(VCPUOP_SET_SINGLESHOT_TIMER, 0, 0x10), Err(Errno::EFAULT));
    assert_eq!(caller.op(VCPUOP_GET_RUNSTATE_INFO, 0, 0x10), Err(Errno::EFAULT));
    assert_eq!(caller.op(VCPUOP_SEND_NMI, 0, 1), Err(Errno::EINVAL));
    assert_eq!(caller.op(VCPUOP_INITIALISE, 1, 0x10), Err(Errno::EFAULT));
    assert_eq!(caller.op(VCPUOP_IS_UP, 0, 0), Ok(1));
    assert_eq!(caller.op(VCPUOP_IS_UP, 1, 0), Ok(0));
    for period in [0, 999_999, (1 << 62), u64::MAX] {
        let at = caller.put(&period);
        assert_eq!(caller.op(VCPUOP_SET_PERIODIC_TIMER, 0, at), Err(Errno::EINVAL), "{period}");
    }
}

/// One-shot timers by both hypercalls, with the rules for times that make no sense.
#[test]
fn timer_hypercalls() {
    let caller = Caller::new();
    let timer = caller.bind_timer();
    caller.time(1_000_000_000);
    let set = VcpuSetSingleshotTimer { timeout_abs_ns: 999, flags: VCPU_SSHOTTMR_FUTURE, _pad0: 0 };
    assert_eq!(caller.op(VCPUOP_SET_SINGLESHOT_TIMER, 0, caller.put(&set)), Ok(0));
    assert!(caller.take_pending(timer), "a time in the past fires at once");
    let set = VcpuSetSingleshotTimer { timeout_abs_ns: 2_000_000_000, flags: 0, _pad0: 0 };
    assert_eq!(caller.op(VCPUOP_SET_SINGLESHOT_TIMER, 0, caller.put(&set)), Ok(0));
    caller.time(1_999_999_999);
    assert!(!caller.take_pending(timer));
    caller.time(2_000_000_000);
    assert!(caller.take_pending(timer));
    for ahead in [None, Some(1 << 50)] {
        let now = caller.hv.platform.now().0;
        let odd = ahead.map_or(1 << 63, |ahead| now + ahead);
        assert_eq!(caller.call(nr::SET_TIMER_OP, &[odd]), Ok(0));
        caller.time(now + 99_999_999);
        assert!(!caller.take_pending(timer), "{odd:#x}");
        caller.time(now + 100_000_000);
        assert!(caller.take_pending(timer), "{odd:#x}");
    }
    let now = caller.hv.platform.now().0;
    assert_eq!(caller.call(nr::SET_TIMER_OP, &[now + 10]), Ok(0));
    assert_eq!(caller.call(nr::SET_TIMER_OP, &[0]), Ok(0));
    caller.time(now + 1000);
    assert!(!caller.take_pending(timer));
}

/// The `vcpu_info` moves with what is pending in it, once, and only to where it fits.
#[test]
fn register_vcpu_info() {
    let caller = Caller::new();
    let frame = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    let register = |vcpu, mfn, offset| {
        let at = caller.put(&VcpuRegisterVcpuInfo { mfn, offset, rsvd: 0 });
        caller.op(VCPUOP_REGISTER_VCPU_INFO, vcpu, at)
    };
    let old = &caller.hv.platform.frame_words(caller.domain.shared_info)[..8];
    old[0].store(0x100, SeqCst);
    old[2].store(0xcafe, SeqCst);
    assert_eq!(register(0, frame.0, 4096 - 63), Err(Errno::ENXIO));
    assert_eq!(register(0, frame.0, 12), Err(Errno::ENXIO));
    assert_eq!(register(0, 1 << 40, 0), Err(Errno::EINVAL));
    assert_eq!(register(0, 127, 0), Err(Errno::EINVAL), "not its frame");
    assert_eq!(register(0, frame.0, 4096 - 64), Ok(0));
    let new = &caller.hv.platform.frame_words(frame)[504..];
    assert_eq!(new[0].load(SeqCst), 0x101, "masked as before, and pending");
    assert_eq!(new[1].load(SeqCst), u64::MAX);
    assert_eq!(new[2].load(SeqCst), 0xcafe);
    assert_eq!(new[6].load(SeqCst), caller.hv.platform.now().0, "the time is there");
    assert_eq!(register(0, frame.0, 0), Err(Errno::EINVAL), "only once");
    assert_eq!(register(1, frame.0, 64), Ok(0), "one that is down");
    // One that never had any starts masked.
    let caller = Caller::new();
    caller.vcpu(1).pv.vcpu_info.store(0, SeqCst);
    let frame = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    let at = caller.put(&VcpuRegisterVcpuInfo { mfn: frame.0, offset: 0, rsvd: 0 });
    assert_eq!(caller.op(VCPUOP_REGISTER_VCPU_INFO, 1, at), Ok(0));
    assert_eq!(caller.hv.platform.frame_words(frame)[0].load(SeqCst), 0x101);
}

/// Areas must lie in the guest's part of the address space; run state and time are written at once.
#[test]
fn register_areas() {
    let caller = Caller::new();
    caller.time(5_000_000);
    let target = FLAT_BASE + 0x900;
    for cmd in [VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA] {
        assert_eq!(caller.op(cmd, 0, caller.put(&0xffff_8000_0000_0000u64)), Err(Errno::EFAULT));
        assert_eq!(caller.op(cmd, 0, caller.put(&(0x8000_0000_0000u64 - 8))), Err(Errno::EFAULT));
        assert_eq!(caller.op(cmd, 0, caller.put(&u64::MAX)), Err(Errno::EFAULT));
        assert_eq!(caller.op(cmd, 0, caller.put(&target)), Ok(0));
    }
    assert_eq!(caller.word(target + 16), 5_000_000, "system time");
    assert_eq!(caller.op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, caller.put(&target)), Ok(0));
    assert_eq!(caller.word(target), 0, "running");
    assert_eq!(caller.op(VCPUOP_GET_RUNSTATE_INFO, 0, FLAT_BASE), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 16), 4_000_000, "it ran since it was started at 1 ms");
}

fn context() -> alloc::boxed::Box<VcpuGuestContext> {
    let mut context = alloc::boxed::Box::new(VcpuGuestContext::new_zeroed());
    context.flags = VGCF_IN_KERNEL;
    context.user_regs.rip = 0xffff_ffff_8100_0000;
    context.user_regs.rsp = 0xffff_ffff_8200_0000;
    context.user_regs.rflags = 0x3000 | 1 << 17 | 1;
    context.user_regs.cs = 0x10;
    context.kernel_ss = 0x18;
    context.kernel_sp = 0x7000;
    context.event_callback_eip = 0x1111;
    context.trap_ctxt[14].address = 0x2222;
    context.trap_ctxt[14].cs = 0x10;
    context
}

/// Bad contexts are refused without a trace; a good one is taken once, and the vCPU can be brought up.
#[test]
fn initialise() {
    let caller = Caller::new();
    let init =
        |context: &VcpuGuestContext| caller.op(VCPUOP_INITIALISE, 1, caller.put_at(FLAT_BASE, context));
    type Spoil = fn(&mut VcpuGuestContext);
    let spoils: &[Spoil] = &[
        |c| c.user_regs.rip = 1 << 63,
        |c| c.kernel_sp = 1 << 47,
        |c| c.gs_base_user = 1 << 50,
        |c| c.syscall_callback_eip = 1 << 50,
        |c| c.trap_ctxt[255].address = 1 << 50,
        |c| c.ldt_base = 0x1001,
        |c| c.ldt_base = 0xffff_8000_0000_0000,
        |c| c.ldt_ents = 8193,
        |c| c.gdt_ents = 14 * 512 + 1,
        |c| c.gdt_ents = u64::MAX,
        |c| c.flags = 0,
        |c| c.ctrlreg[3] = 127 << 12,
    ];
    for (n, spoil) in spoils.iter().enumerate() {
        let mut context = context();
        spoil(&mut context);
        assert_eq!(init(&context), Err(Errno::EINVAL), "spoil {n}");
    }
    let vcpu = caller.vcpu(1);
    assert!(!vcpu.pv.has_flags(VcpuFlags::INITIALISED));
    assert_eq!(vcpu.pv.kernel_sp.load(SeqCst), 0);
    let root = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    let mut good = context();
    good.ctrlreg[3] = root.addr().0;
    // With an FPU image.
    good.flags |= VGCF_ONLINE | VGCF_I387_VALID;
    assert_eq!(init(&good), Ok(0));
    assert!(matches!(caller.hv.platform.record.lock().unwrap().fpu_images[..], [Some(_)]));
    assert_eq!(init(&good), Err(Errno::EEXIST));
    assert_eq!(caller.op(VCPUOP_IS_UP, 1, 0), Ok(1), "it was to be online");
    let saved = *vcpu.saved.lock();
    assert_eq!((saved.rip, saved.cs, saved.rflags), (0xffff_ffff_8100_0000, 0x13, 0x203));
    assert_eq!((vcpu.pv.iopl.load(SeqCst), vcpu.pv.kernel_ss.load(SeqCst)), (3, 0x1b));
    assert_eq!(vcpu.pv.guest_table.get(), Some(root));
    assert_eq!(vcpu.pv.traps[14].selector(), 0x13);
    // Without a vcpu_info there is no starting a vCPU.
    let other = Caller::new();
    other.vcpu(1).pv.vcpu_info.store(0, SeqCst);
    let at = other.put(&*context());
    assert_eq!(other.op(VCPUOP_INITIALISE, 1, at), Err(Errno::EINVAL));
}

/// Frame 0 stands for no table in a slot, and is none that a context may name: as the kernel's root, as a user root, by a
/// register that is not 0 and names it.
#[test]
fn initialise_with_frame_0() {
    let caller = Caller::new();
    let root = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    let refs = caller.hv.known_frame(root).count().refs();
    let vcpu = caller.vcpu(1);
    let roots = [(0, 0), (0xfff, 0), (root.addr().0, 1), (root.addr().0, 0xfff)];
    for (kernel, user) in roots {
        for flags in [VGCF_ONLINE, VGCF_ONLINE | VGCF_IN_KERNEL] {
            let mut context = context();
            context.flags = flags;
            (context.ctrlreg[3], context.ctrlreg[1]) = (kernel, user);
            let at = caller.put_at(FLAT_BASE, &*context);
            let result = caller.op(VCPUOP_INITIALISE, 1, at);
            assert_eq!(result, Err(Errno::EINVAL), "{kernel:#x}, {user:#x}, {flags:#x}");
            assert!(!vcpu.pv.has_flags(VcpuFlags::INITIALISED) && !vcpu.sched.is_up());
            assert_eq!((vcpu.pv.guest_table.get(), vcpu.pv.guest_table_user.get()), (None, None));
            assert_eq!(caller.hv.work_off_doomed(&caller.domain), Ok(()));
            assert_eq!(caller.hv.known_frame(root).count().refs(), refs, "no reference is left");
        }
    }
}

/// Two vCPUs give the same vCPU different contexts at the same time: one of them does so, whole, and what it gave is not
/// touched by the other.
#[test]
fn initialise_by_two_at_once() {
    let hv = mock::hypervisor(128);
    let domain = mock::domain(&hv, 3, 200, 64);
    let roots = [0; 2].map(|_| hv.alloc_domain_page(&domain, 0).unwrap());
    let frames = [0; 2].map(|_| hv.alloc_domain_page(&domain, 0).unwrap());
    let contexts = [0, 1].map(|n| {
        let mut context = context();
        context.flags |= VGCF_ONLINE;
        context.ctrlreg[3] = roots[n].addr().0;
        (context.gdt_frames[0], context.gdt_ents) = (frames[n].0, 1);
        context
    });
    let each = |n: usize, turn: &AtomicU32| -> Vec<bool> {
        let one = |target: u32| {
            // Waking a thread takes longer than what is tried here: both spin.
            turn.fetch_add(1, SeqCst);
            while turn.load(SeqCst) < 2 * (target - 1) {
                core::hint::spin_loop();
            }
            let cx = Cx { hv: &hv, domain: &domain, vcpu: &domain.vcpus[n] };
            let target = VcpuRef { domain: domain.clone(), id: VcpuId(target) };
            loop {
                match crate::hypercall::vcpu_init::replace(cx, &target, &contexts[n]) {
                    Ok(()) => break true,
                    // Not on the tables that it has by now.
                    Err(Failure::Errno(Errno::EOPNOTSUPP)) => break false,
                    Err(Failure::Restart) => core::hint::spin_loop(),
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        (2..200).map(one).collect()
    };
    let turn = AtomicU32::new(0);
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| each(1, &turn));
        (each(0, &turn), second.join().unwrap())
    });
    for (pv, done) in domain.vcpus[2..].iter().map(|vcpu| &vcpu.pv).zip(first.into_iter().zip(second)) {
        let winner = match done {
            (true, false) => 0,
            (false, true) => 1,
            both => panic!("{both:?}"),
        };
        assert_eq!(pv.guest_table.get(), Some(roots[winner]));
        assert_eq!(pv.gdt_frames[0].load(SeqCst), frames[winner].0);
    }
}

/// The tables of a first context are validated with no lock held that a CPU waits for: those who want the vCPU's registers have
/// them, and another CPU that wants to give it a context does so later.
#[test]
fn initialise_locks_nothing_while_it_validates() {
    let hv = Arc::new(mock::hypervisor(600));
    let domain = mock::domain(&hv, 3, 2, 200);
    let page = || hv.alloc_domain_page(&domain, 0).unwrap();
    // A table that is to be given up before it can be a page of descriptors.
    let (root, gdt, data) = (page(), page(), page());
    for slot in 0..32 {
        let l1 = page();
        hv.platform.frame_words(gdt)[slot].store(l1.addr().0 | 7, SeqCst);
        hv.platform.frame_words(l1).iter().for_each(|entry| entry.store(data.addr().0 | 7, SeqCst));
    }
    hv.get_page_and_type(&domain, gdt, crate::page::PageType::L2).unwrap();
    hv.put_page_and_type(gdt);
    let mut context = context();
    context.ctrlreg[3] = root.addr().0;
    (context.gdt_frames[0], context.gdt_ents) = (gdt.0, 1);
    let target = VcpuRef { domain: domain.clone(), id: VcpuId(1) };
    let other = (hv.clone(), target.clone(), context.clone(), Arc::new(AtomicU32::new(0)));
    let asked = other.3.clone();
    *hv.platform.at_question.lock().unwrap() = Some(alloc::boxed::Box::new(move || {
        let (hv, target, context, asked) = &other;
        asked.fetch_add(1, SeqCst);
        assert!(target.vcpu().saved.try_lock().is_some(), "its registers are locked");
        let cx = Cx { hv, domain: &target.domain, vcpu: &target.domain.vcpus[0] };
        let second = crate::hypercall::vcpu_init::replace(cx, target, context);
        assert_eq!(second, Err(Failure::Restart));
    }));
    hv.platform.preempt_every.store(1, SeqCst);
    let cx = Cx { hv: &hv, domain: &domain, vcpu: &domain.vcpus[0] };
    let initialise = || crate::hypercall::vcpu_init::replace(cx, &target, &context);
    let end = (0..10_000).map(|_| initialise()).find(|answer| *answer != Err(Failure::Restart));
    assert_eq!((end, asked.load(SeqCst) >= 32), (Some(Ok(())), true));
    *hv.platform.at_question.lock().unwrap() = None;
    assert!(target.vcpu().pv.has_flags(VcpuFlags::INITIALISED));
    assert_eq!(target.vcpu().pv.guest_table.get(), Some(root));
    assert_eq!(target.vcpu().saved.lock().rip, context.user_regs.rip);
}

/// Two vCPUs give a third one its place for `vcpu_info`, which can be done once: the page of the one that is refused is free of it.
#[test]
fn vcpu_info_is_registered_once() {
    let make = |_: &mut interleave::model::Chance| {
        let hv = crate::mock::hypervisor(64);
        let domain = crate::mock::domain(&hv, 0, 3, 64);
        let pages = [0, 1].map(|_| hv.alloc_domain_page(&domain, 0).unwrap());
        (hv, domain, pages)
    };
    type Made = (Hypervisor<MockPlatform>, Arc<Domain<MockPlatform>>, [Mfn; 2]);
    let act = |(hv, domain, pages): &Made, cpu: usize| {
        let cx = Cx { hv, domain, vcpu: &domain.vcpus[cpu] };
        let at = FLAT_BASE + 0x1000 * cpu as u64;
        let request = VcpuRegisterVcpuInfo { mfn: pages[cpu].0, offset: 0, rsvd: 0 };
        GuestPtr::new(at).write(hv, &request).unwrap();
        let mut regs = Regs { rdi: VCPUOP_REGISTER_VCPU_INFO.into(), rsi: 2, rdx: at, ..Regs::default() };
        while let Outcome::Again(_) = dispatch(cx, nr::VCPU_OP.into(), &mut regs) {}
    };
    let check = |(hv, domain, pages): &Made| {
        let held = pages.map(|page| hv.known_frame(page).type_word().count());
        let place = MachineAddr(domain.vcpus[2].pv.vcpu_info.load(SeqCst)).mfn();
        assert_eq!(held, pages.map(|page| u64::from(page == place)));
    };
    for seed in 0..600 {
        interleave::model::explore(seed, 2, None, make, act, check);
    }
}

/// Validation of the page tables is preempted and goes on.
#[test]
fn initialise_continues() {
    let caller = Caller::new();
    let root = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    let mut context = context();
    context.ctrlreg[3] = root.addr().0;
    caller.put_at(FLAT_BASE, &*context);
    caller.preempt_every(2);
    let args = [VCPUOP_INITIALISE.into(), 1, FLAT_BASE, 0, 0, 0];
    let end =
        (0..10_000).map(|_| caller.outcome(nr::VCPU_OP, args)).find(|o| !matches!(o, Outcome::Again(_)));
    assert_eq!(end, Some(Outcome::Done(0)));
    assert_eq!(caller.op(VCPUOP_IS_UP, 1, 0), Ok(0));
    assert_eq!(caller.op(VCPUOP_UP, 1, 0), Ok(0));
    assert_eq!(caller.op(VCPUOP_IS_UP, 1, 0), Ok(1));
    assert_eq!(caller.op(VCPUOP_DOWN, 1, 0), Ok(0));
    assert_eq!(caller.op(VCPUOP_IS_UP, 1, 0), Ok(0));
}

#[test]
#[should_panic(expected = "the machine ended: PowerOff")]
fn last_vcpu_down_ends_the_domain() {
    let _ = Caller::new().op(VCPUOP_DOWN, 0, 0);
}

/// NMIs, and who sits on which CPU.
#[test]
fn nmi_and_physid() {
    let caller = Caller::new();
    assert_eq!(caller.op(VCPUOP_SEND_NMI, 1, 0), Ok(0));
    assert!(caller.vcpu(1).pv.has_flags(VcpuFlags::NMI_PENDING));
    assert_eq!(caller.op(VCPUOP_GET_PHYSID, 0, FLAT_BASE), Err(Errno::EINVAL), "not pinned");
    let at = caller.put(&SchedPinOverride { pcpu: 0 });
    assert_eq!(caller.call(nr::SCHED_OP, &[SCHEDOP_PIN_OVERRIDE.into(), at]), Ok(0));
    assert_eq!(caller.op(VCPUOP_GET_PHYSID, 0, FLAT_BASE), Ok(0));
    assert_eq!(caller.word(FLAT_BASE), 10 | 20 << 32);
}

/// `sched_op`: rights, refusals, shutdown of others and of oneself.
#[test]
fn sched_op() {
    let caller = Caller::new();
    let other = mock::domain(&caller.hv, 5, 1, 4);
    let op = |cmd: u32, arg: u64| caller.call(nr::SCHED_OP, &[cmd.into(), arg]);
    assert_eq!(op(77, 0), Err(Errno::ENOSYS));
    assert_eq!(op(SCHEDOP_YIELD, 0), Ok(0));
    assert_eq!(op(SCHEDOP_SHUTDOWN, 0x10), Err(Errno::EFAULT));
    let remote = |domain_id| caller.put(&SchedRemoteShutdown { domain_id, _pad0: 0, reason: 0x102 });
    assert_eq!(op(SCHEDOP_REMOTE_SHUTDOWN, remote(9)), Err(Errno::ESRCH));
    assert_eq!(op(SCHEDOP_REMOTE_SHUTDOWN, remote(5)), Ok(0));
    assert_eq!(*other.lifecycle.lock(), crate::domain::Lifecycle::Shutdown(2));
    assert_eq!(op(SCHEDOP_WATCHDOG, caller.put(&SchedWatchdog { id: 0, timeout: 9 })), Ok(1));
    let poll = SchedPoll { ports: FLAT_BASE.into(), nr_ports: 129, _pad0: 0, timeout: 0 };
    assert_eq!(op(SCHEDOP_POLL, caller.put(&poll)), Err(Errno::EINVAL));
    let guest = Caller::with_id(4);
    let guest_op = |cmd: u32, arg: u64| guest.call(nr::SCHED_OP, &[cmd.into(), arg]);
    let at = guest.put(&SchedRemoteShutdown { domain_id: 4, _pad0: 0, reason: 0 });
    assert_eq!(guest_op(SCHEDOP_REMOTE_SHUTDOWN, at), Err(Errno::EPERM));
    assert_eq!(guest_op(SCHEDOP_PIN_OVERRIDE, 0x10), Err(Errno::EPERM));
    assert_eq!(guest_op(SCHEDOP_SHUTDOWN_CODE, guest.put(&SchedShutdown { reason: 3 })), Ok(0));
    assert_eq!(guest.call(nr::SCHED_OP_COMPAT, &[2, 0]), Ok(0));
    assert_eq!(*guest.domain.lifecycle.lock(), crate::domain::Lifecycle::Shutdown(3));
    assert_eq!(guest.call(nr::SCHED_OP_COMPAT, &[3, 0]), Err(Errno::ENOSYS));
}

/// A place in the page that the domain shares with the hypervisor anyway: the domain's end leaves nothing behind.
#[test]
fn a_vcpu_info_in_the_shared_page_keeps_nothing() {
    let caller = Caller::with_id(3);
    let shared = caller.domain.shared_info;
    let register = |vcpu, offset| {
        let at = caller.put(&VcpuRegisterVcpuInfo { mfn: shared.0, offset, rsvd: 0 });
        caller.op(VCPUOP_REGISTER_VCPU_INFO, vcpu, at)
    };
    for vcpu in [0, 1] {
        assert_eq!(register(vcpu, 1024), Ok(0));
        assert_eq!(register(vcpu, 1088), Err(Errno::EINVAL), "only once");
    }
    // The teardown gives back nothing for such a place.
    assert_eq!(caller.hv.frame(shared).unwrap().type_word().count(), 1, "the hypervisor's own");
}
