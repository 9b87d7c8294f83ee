//! The steps on a real domain.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use xen_abi::hypercall::nr;
use xen_abi::sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_SUSPEND, SchedShutdown};

use super::p2m_tree::Tree;
use super::ports::{Known, Space, reopen};
use super::steps::{Answer, Machine, Part, run};
use super::{Outcome, with_hooks};
use crate::events::{self, Port, Source};
use crate::hypercall::{check, raw};
use crate::memory::OutOfMemory;
use crate::mmu::{Mfn, PAGE_SIZE, Pfn, m2p};
use crate::platform::{Kind, kind};
use crate::smp::{self, CpuSet, run_on, this_cpu};
use crate::{BootContext, Errno, console, grant, sched, shared};

/// Where the p2m list is, once that was [announced](announce).
static TREE: spin::Mutex<Option<Tree>> = spin::Mutex::new(None);

/// Tells toolstacks where the p2m list is. A kernel that can be suspended does so when it starts, because a toolstack
/// looks before it asks for the suspension.
///
/// # Errors
///
/// [`OutOfMemory`].
#[doc(alias("pfn_to_mfn_frame_list_list", "max_pfn"))]
pub fn announce(boot: &BootContext) -> Result<(), OutOfMemory> {
    if kind() != Kind::Pv {
        // Frames of the other kinds have numbers of their own.
        return Ok(());
    }
    events::without_upcalls(|| {
        let mut tree = TREE.lock();
        if tree.is_none() {
            *tree = Some(Tree::new(boot.p2m().len())?);
        }
        publish(boot, &mut tree);
        Ok(())
    })
}

/// Writes it into the shared page.
fn publish(boot: &BootContext, tree: &mut Option<Tree>) {
    let Some(tree) = tree else { return };
    let p2m = boot.p2m();
    let first = boot.pfn_of(boot.start_info().mfn_list).0;
    tree.fill(p2m.len().div_ceil(PAGE_SIZE / 8), |number| p2m.mfn(Pfn(first + number as u64)));
    let info = shared::info();
    info.max_pfn.store(p2m.len() as u64, Release);
    // Zero: by the tree.
    info.p2m_cr3.store(0, Release);
    info.frame_list_list.store(tree.root().0, Release);
}

/// Suspends the domain, until a toolstack lets it go on. `boot` says afterwards what is true then.
///
/// Call it on CPU 0, not in a handler. Every other CPU that is online must take upcalls. Timers that were armed do not
/// fire in a new domain; every open channel has one event there, that of the timer included.
///
/// # Errors
///
/// `ENOSYS` where there is no hypervisor, `EPERM` for the first domain, which nobody could wake,
/// `EINVAL` on another CPU, and what the hypervisor says. The domain was not suspended then.
///
/// # Panics
///
/// Where a hypervisor refuses what the library had before.
///
/// # Safety
///
/// The machine frames of the domain may be others afterwards, in which case those that anything had in other places
/// than page tables, `boot` and the library's memory are wrong: no copy of `boot`, [`Space`](crate::mmu::Space),
/// [`Frame`](crate::mmu::Frame), [`Contiguous`](crate::memory::Contiguous) or `Mfn` from before may be used then. Nothing
/// that belongs to another domain or to a device may be mapped during the call: the hooks of [`on`](super::on) see to
/// that.
#[doc(alias("SHUTDOWN_suspend", "HYPERVISOR_suspend"))]
pub unsafe fn suspend(boot: &mut BootContext) -> Result<Outcome, Errno> {
    if kind() == Kind::Native {
        return Err(Errno::ENOSYS);
    }
    if boot.is_initial_domain() {
        return Err(Errno::EPERM);
    }
    if this_cpu().number() != 0 {
        return Err(Errno::EINVAL);
    }
    let hooks = with_hooks(|hooks| hooks.clone());
    hooks.before();
    let outcome = alone(boot);
    // What was not suspended goes on as what was and is the same.
    hooks.after(outcome.as_ref().unwrap_or(&Outcome::Cancelled));
    outcome
}

/// Suspends with all other CPUs waiting.
fn alone(boot: &mut BootContext) -> Result<Outcome, Errno> {
    /// What the others wait for.
    const WAIT: u32 = 0;
    const GO_ON: u32 = 1;
    const REJOIN: u32 = 2;
    let (parked, order) = (AtomicU32::new(0), AtomicU32::new(WAIT));
    // The p2m list stays where it is, and that is what the others need of it.
    let there = boot.clone();
    let others = smp::online().count() as u32 - 1;
    let first = spin::Mutex::new((boot, None));
    run_on(&CpuSet::online(), &|cpu| {
        if cpu.number() == 0 {
            while parked.load(Acquire) != others {
                sched::yield_now();
            }
            let mut first = first.lock();
            let outcome = run(&mut Real::new(first.0));
            let is_new = matches!(outcome, Ok(Outcome::Resumed { .. }));
            first.1 = Some(outcome);
            order.store(if is_new { REJOIN } else { GO_ON }, Release);
        } else {
            parked.fetch_add(1, AcqRel);
            while order.load(Acquire) == WAIT {
                core::hint::spin_loop();
            }
            if order.load(Acquire) == REJOIN {
                expect("a CPU's record", smp::rejoin(&there));
            }
        }
    });
    first.into_inner().1.unwrap_or(Err(Errno::EINVAL))
}

/// A domain that cannot go on must not go on half.
fn expect<T, E: core::fmt::Debug>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("after a suspension: {what}: {error:?}"))
}

/// The domain, while this CPU is the only one that runs, with upcalls masked.
struct Real<'a> {
    boot: &'a mut BootContext,
    ports: Vec<Known>,
    grants: Vec<(u64, u64)>,
    /// The toolstack's ports before.
    kept: Vec<Port>,
}

impl<'a> Real<'a> {
    fn new(boot: &'a mut BootContext) -> Self {
        Self { boot, ports: Vec::new(), grants: Vec::new(), kept: Vec::new() }
    }

    /// The rings of xenstore and console, where the domain has them.
    fn rings(&self) -> impl Iterator<Item = (Mfn, Port)> {
        self.boot.store_ring().into_iter().chain(self.boot.console_ring())
    }

    /// The pseudo-physical frame of a ring, as a toolstack wants it in `start_info`.
    fn ring_pfn(&self, ring: Option<(Mfn, Port)>) -> Result<u64, Errno> {
        let Some((mfn, _)) = ring else { return Ok(0) };
        let pfn = m2p(mfn).filter(|&pfn| self.boot.p2m().mfn(pfn) == Some(mfn));
        pfn.map(|pfn| pfn.0).ok_or(Errno::EFAULT)
    }

    /// The record by which the toolstack finds `start_info`.
    fn record(&self) -> Result<Mfn, Errno> {
        self.boot.p2m().mfn(self.boot.pfn_of(self.boot.start_info_address())).ok_or(Errno::EFAULT)
    }

    /// Registers CPU 0 and the queues in a new domain.
    fn rejoin(&self) {
        expect("CPU 0's record", smp::rejoin(self.boot));
        if !smp::is_live() {
            shared::this_vcpu().upcall_mask.store(1, Release);
        }
        shared::info().mask.iter().for_each(|word| word.store(u64::MAX, Release));
        expect("the event queues", events::fifo::restart(self.boot));
        if let Some((_, port)) = self.boot.console_ring() {
            console::ring::set_port(port);
        }
        publish(self.boot, &mut TREE.lock());
    }
}

impl Machine for Real<'_> {
    fn note_ports(&mut self) {
        self.kept = self.rings().map(|(_, port)| port).collect();
        for port in (1..).map(Port) {
            match events::status(port) {
                Err(_) => break,
                Ok(None) => {}
                Ok(Some((source, vcpu))) => {
                    self.ports.push(Known { port, source, vcpu, is_masked: events::is_masked(port) });
                }
            }
        }
    }

    fn leave(&mut self, part: Part) -> Result<(), Errno> {
        match part {
            Part::Cpus => Ok(()),
            Part::Grants => {
                // SAFETY: this CPU is the only one, with upcalls masked.
                self.grants = unsafe { grant::detach() }?;
                Ok(())
            }
            // What is in the page tables and in `start_info` is the domain's own.
            Part::StartInfo | Part::SharedInfo if kind() == Kind::Pvh => Ok(()),
            Part::StartInfo => {
                let store = self.ring_pfn(self.boot.store_ring())?;
                let console = self.ring_pfn(self.boot.console_ring())?;
                self.boot.write_rings(store, console);
                Ok(())
            }
            // SAFETY: as above; `enter` maps it again.
            Part::SharedInfo => unsafe { shared::unmap(self.boot) },
        }
    }

    fn shut_down(&mut self) -> Result<Answer, Errno> {
        let record = self.record()?;
        let arg = SchedShutdown { reason: SHUTDOWN_SUSPEND };
        // SAFETY: the argument lives across the call. What becomes of memory and mappings is what the caller of `suspend`
        // has promised to bear.
        let result =
            unsafe { raw::call3(nr::SCHED_OP, SCHEDOP_SHUTDOWN.into(), &raw const arg as u64, record.0) };
        Ok(if check(result)? == 0 { Answer::Another } else { Answer::Same })
    }

    fn enter(&mut self, part: Part, answer: Answer) {
        let is_new = answer == Answer::Another;
        match part {
            Part::StartInfo | Part::SharedInfo if kind() == Kind::Pvh => {
                #[cfg(feature = "native")]
                if is_new && part == Part::SharedInfo {
                    self.boot.revise(crate::platform::native::rejoin);
                }
            }
            Part::SharedInfo => {
                if is_new {
                    self.boot.reread();
                }
                // SAFETY: after `unmap`, with what `start_info` says.
                expect("the shared page", unsafe { shared::map(self.boot.start_info().shared_info) });
            }
            Part::StartInfo if is_new => {}
            Part::StartInfo => {
                let frame = |ring: Option<(Mfn, Port)>| ring.map_or(0, |(mfn, _)| mfn.0);
                self.boot.write_rings(frame(self.boot.store_ring()), frame(self.boot.console_ring()));
            }
            Part::Cpus if is_new => self.rejoin(),
            Part::Cpus => {}
            // SAFETY: after `detach`, with what it said.
            Part::Grants => expect("the grant table", unsafe { grant::attach(&self.grants, is_new) }),
        }
    }

    fn bind_ports(&mut self) -> Vec<Port> {
        let kept: Vec<Port> =
            self.rings().map(|(_, port)| port).filter(|port| self.kept.contains(port)).collect();
        let lost = reopen(&mut Opener, &self.ports, &kept);
        for known in self.ports.iter().filter(|known| !lost.contains(&known.port)) {
            if known.vcpu != 0 && matches!(known.source, Source::Other) {
                // A CPU that is not there: the port notifies CPU 0.
                let _ = events::bind_vcpu(known.port, known.vcpu);
            }
            // What came meanwhile is gone, so it looks as if something had come.
            events::set_pending(known.port);
            if !known.is_masked {
                events::unmask(known.port);
            }
        }
        lost
    }
}

/// The ports of this domain.
struct Opener;

impl Space for Opener {
    fn is_open(&self, port: Port) -> bool {
        matches!(events::status(port), Ok(Some(_)))
    }

    fn open(&mut self, source: Source, vcpu: u32) -> Result<Port, Errno> {
        events::open(source, vcpu)
    }

    fn close(&mut self, port: Port) {
        // Of one that was opened just now.
        let _ = events::close(port);
    }
}
