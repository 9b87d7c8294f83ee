//! Sequences of hypercalls by three domains on a machine of plain memory.
//!
//! The input decides everything: who calls what with which arguments, what stands in guest memory, what the guests write to
//! their pages, when other work is pending, how time passes. Whatever the guests do, at the end all of them are destroyed, and
//! the machine's accounts are as they were before there were any.

use crate::input::Input;
use hypervisor_core::Hypervisor;
use hypervisor_core::domain::{Accounts, Domain, DomainConfig, VcpuFlags};
use hypervisor_core::guest_ptr::GuestPtr;
use hypervisor_core::hypercall::{Cx, Outcome, dispatch};
use hypervisor_core::ids::{DomId, Mfn};
use hypervisor_core::mock::{self, FLAT_BASE, MockPlatform};
use hypervisor_core::page::PageType;
use hypervisor_core::platform::Platform;
use hypervisor_core::regs::Regs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use xen_abi::hypercall::nr;

/// Any hypercall.
pub fn hypercalls(data: &[u8]) {
    run(data, &[]);
}

/// `memory_op`, and what changes what pages are.
pub fn memory(data: &[u8]) {
    run(data, &[nr::MEMORY_OP, nr::MMUEXT_OP, nr::GRANT_TABLE_OP]);
}

/// Page tables and descriptors.
pub fn pages(data: &[u8]) {
    const NUMBERS: &[u32] = &[
        nr::MMU_UPDATE,
        nr::UPDATE_VA_MAPPING,
        nr::UPDATE_VA_MAPPING_OTHERDOMAIN,
        nr::MMUEXT_OP,
        nr::SET_GDT,
        nr::UPDATE_DESCRIPTOR,
        nr::VM_ASSIST,
        nr::MEMORY_OP,
    ];
    run(data, NUMBERS);
}

/// Event channels and physical interrupts.
pub fn events(data: &[u8]) {
    const NUMBERS: &[u32] = &[
        nr::EVENT_CHANNEL_OP,
        nr::EVENT_CHANNEL_OP_COMPAT,
        nr::PHYSDEV_OP,
        nr::PHYSDEV_OP_COMPAT,
        nr::SCHED_OP,
    ];
    run(data, NUMBERS);
}

/// Grant tables.
pub fn grants(data: &[u8]) {
    run(data, &[nr::GRANT_TABLE_OP, nr::MEMORY_OP, nr::UPDATE_VA_MAPPING]);
}

/// vCPUs, scheduling, traps, time.
pub fn vcpus(data: &[u8]) {
    const NUMBERS: &[u32] = &[
        nr::VCPU_OP,
        nr::SCHED_OP,
        nr::SCHED_OP_COMPAT,
        nr::SET_TIMER_OP,
        nr::SET_TRAP_TABLE,
        nr::SET_CALLBACKS,
        nr::CALLBACK_OP,
        nr::NMI_OP,
        nr::STACK_SWITCH,
        nr::SET_SEGMENT_BASE,
        nr::SET_DEBUGREG,
        nr::GET_DEBUGREG,
        nr::FPU_TASKSWITCH,
        nr::MULTICALL,
    ];
    run(data, NUMBERS);
}

/// The control domain's interfaces, console and version.
pub fn control(data: &[u8]) {
    const NUMBERS: &[u32] =
        &[nr::DOMCTL, nr::SYSCTL, nr::PLATFORM_OP, nr::MCA, nr::CONSOLE_IO, nr::XEN_VERSION, nr::MULTICALL];
    run(data, NUMBERS);
}

/// Frames of the machine.
const FRAMES: usize = 192;
/// Pages that each domain has at first.
const PAGES: usize = 8;
/// Steps of one input at most.
const STEPS: usize = 64;
/// Continuations after which a hypercall has made no progress.
const PATIENCE: usize = 20_000;
/// Bytes of the flat guest memory that the input fills.
const FLAT_USED: u16 = 0x400;

struct World {
    hv: Hypervisor<MockPlatform>,
    domains: Vec<Arc<Domain<MockPlatform>>>,
    pool: Vec<Mfn>,
    caller: usize,
}

fn run(data: &[u8], numbers: &[u32]) {
    let hv = mock::hypervisor(FRAMES);
    let before = hv.accounts();
    let mut world = World::new(hv);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut input = Input(data);
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            world.step(&mut input, numbers);
        }
        world.check_end(&before);
    }));
    match ended {
        // The control domain may end the machine.
        Err(why) if why.downcast_ref::<String>().is_some_and(|why| why.starts_with("the machine ended")) => {}
        Err(mistake) => resume_unwind(mistake),
        Ok(()) => {}
    }
}

impl World {
    fn new(hv: Hypervisor<MockPlatform>) -> Self {
        let domains: Vec<_> = (0..3)
            .map(|id| {
                let config = DomainConfig {
                    privileged: id == 0,
                    max_vcpus: 2,
                    max_pages: 16,
                    ..DomainConfig::new(DomId(id))
                };
                let domain = hv.create_domain(&config).expect("room for a domain");
                hv.unpause_domain(&domain).expect("a paused domain");
                domain
            })
            .collect();
        let pool = domains
            .iter()
            .flat_map(|domain| (0..PAGES).map(|_| hv.alloc_domain_page(domain, 0).expect("a page")))
            .collect();
        for domain in &domains {
            let info = domain.shared_info.addr().0;
            let vcpu = &domain.vcpus[0];
            vcpu.pv.vcpu_info.store(info, Relaxed);
            vcpu.pv.set_flags(VcpuFlags::INITIALISED, true);
        }
        Self { hv, domains, pool, caller: 1 }
    }

    fn step(&mut self, input: &mut Input<'_>, numbers: &[u32]) {
        match input.below(10) {
            0..=3 => self.hypercall(input, numbers),
            4 | 5 => self.fill_memory(input),
            6 => self.poke(input),
            7 => self.caller = input.below(self.domains.len()),
            8 => {
                let passed = u64::from(input.u16()) << input.below(24);
                self.hv.platform.time.fetch_add(passed, Relaxed);
                self.hv.run_timers();
                self.hv.deliver_pirqs();
            }
            _ => {
                self.hv.platform.preempt_every.store(input.below(4) as u32, Relaxed);
                self.hv.platform.console_input.lock().unwrap().extend(input.take(4));
                self.hv.console_work();
            }
        }
    }

    /// A word as guests use them.
    fn word(&self, input: &mut Input<'_>) -> u64 {
        let frame = |input: &mut Input<'_>| self.pool[input.below(self.pool.len())];
        match input.below(10) {
            0 | 1 => input.byte().into(),
            2 => FLAT_BASE + u64::from(input.u16() % FLAT_USED),
            3 => frame(input).0,
            4 => frame(input).addr().0 | u64::from(input.u16()) & 0xfff,
            5 => 0x7ff0 + u64::from(input.byte() % 16),
            6 => u64::MAX << input.below(64),
            7 => 1 << input.below(64),
            8 => (u64::from(input.u16()) << 39 | u64::from(input.u16() & 0x1ff) << 12) & 0xff_ffff_ffff_ffff,
            _ => input.u64(),
        }
    }

    fn hypercall(&mut self, input: &mut Input<'_>, numbers: &[u32]) {
        let number = match numbers {
            [] => input.byte().into(),
            some => some[input.below(some.len())],
        };
        let count = input.below(7);
        let mut args = [0; 6];
        args.iter_mut().take(count).for_each(|arg| *arg = self.word(input));
        let domain = self.domains[self.caller].clone();
        if domain.stopped.load(Relaxed) || number == nr::IRET {
            return;
        }
        for _ in 0..PATIENCE {
            let mut regs = Regs { rdi: args[0], rsi: args[1], rdx: args[2], ..Regs::default() };
            (regs.r10, regs.r8, regs.r9) = (args[3], args[4], args[5]);
            let cx = Cx { hv: &self.hv, domain: &domain, vcpu: &domain.vcpus[0] };
            match dispatch(cx, number.into(), &mut regs) {
                Outcome::Again(next) => args = next,
                _ => return,
            }
        }
        panic!("hypercall {number} makes no progress");
    }

    /// Fills guest memory with words of different widths.
    fn fill_memory(&mut self, input: &mut Input<'_>) {
        let mut at = FLAT_BASE + u64::from(input.u16() % FLAT_USED);
        for _ in 0..=input.below(8) {
            let word = self.word(input).to_le_bytes();
            let width = 1 << input.below(4);
            // The flat memory is larger than what is filled.
            let _ = GuestPtr::<u8>::new(at).write_slice(&self.hv, &word[..width]);
            at += width as u64;
        }
    }

    /// A guest writes to a page that it can have mapped writable.
    fn poke(&mut self, input: &mut Input<'_>) {
        let mfn = self.pool[input.below(self.pool.len())];
        let word = self.word(input);
        let owner = &self.domains[self.caller];
        if self.hv.get_page_and_type(owner, mfn, PageType::Writable).is_ok() {
            self.hv.platform.frame_words(mfn)[usize::from(input.u16() % 512)].store(word, Relaxed);
            self.hv.put_page_and_type(mfn);
        }
    }

    /// Destroys everything and looks whether anything is left.
    fn check_end(&self, before: &Accounts) {
        self.hv.platform.preempt_every.store(0, Relaxed);
        let mut rest: Vec<_> = self.hv.domains.all().collect();
        rest.extend(self.hv.domains.dying());
        for domain in &rest {
            let ended = (0..PATIENCE).any(|_| self.hv.destroy_domain(domain).is_ok());
            assert!(ended, "domain {} does not end", domain.id.0);
        }
        // What a domain that died earlier kept alive is gone with the last one.
        let after = self.hv.accounts();
        assert!(after.same_as(before), "before: {before}; after: {after}");
    }
}
