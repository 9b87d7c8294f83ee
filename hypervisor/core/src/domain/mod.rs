//! Domains and their vCPUs: what each owns, and who may touch it.
//!
//! A [`Domain`] lives in an `Arc`: the [`DomainTable`] holds one reference until the domain is destroyed, the
//! scheduler one per CPU that runs or queues one of its vCPUs, and any operation on a foreign domain one for its
//! duration. Its vCPUs are made with it and never move.
//!
//! A vCPU's [`PvState`] is written by hypercalls of the vCPU itself, or by another vCPU of the domain while this one is
//! down (`VCPUOP_initialise`); so it needs no lock, only atomics, which compile to plain moves and which the
//! entry code reads at the offsets of this very type.
//!
//! Lock order, outermost first; a lock is never taken while one further down is held:
//! 1. `DomainTable` (read side only for lookups),
//! 2. `Domain::lifecycle`,
//! 3. `Domain::grants`,
//! 4. `Domain::events`,
//! 5. `Vcpu::saved`,
//! 6. the turn to give tables up, then a page-table frame's lock bit, then `LinearRoots`' own,
//! 7. `Domain::pages` (reservation),
//! 8. scheduler and timer queues,
//! 9. frame allocator,
//! 10. console.
//!
//! Two domains' locks of the same kind: the lower [`DomId`] first. Of 2 to 5 none is held while a page is taken as something that may
//! mean to check or give up tables ([`Hypervisor::get_page_and_type`](crate::Hypervisor::get_page_and_type) and what calls it),
//! or to wait for another CPU that does. `Vcpu::context_turn` may be held then, but no CPU waits for it.

pub mod keeper;
mod lifecycle;
mod making;
mod pv;
mod table;
#[cfg(test)]
mod tests;

pub use lifecycle::{Accounts, Restart};
pub use pv::{PvState, TrapSlot, VcpuFlags};
pub use table::DomainTable;

use crate::cpu_policy::side_channels::SafeEntries;
use crate::cpumask::{AtomicCpuMask, CpuMask};
use crate::event::DomainEvents;
use crate::grant::{DEFAULT_MAX_FRAMES, DEFAULT_MAX_MAPTRACK_FRAMES, DomainGrants};
use crate::ids::{DomId, Mfn, Port, VcpuId};
use crate::mem::{Claim, Reservation};
use crate::page::LinearRoots;
use crate::permissions::Permissions;
use crate::platform::Platform;
use crate::regs::Regs;
use crate::rwlock::RwLock;
use crate::sched::walk::Walk;
use crate::sched::{DomainSched, Reasons, VcpuSched};
use crate::time::VcpuTime;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use lifecycle::Stage;
use spin::Mutex;
use xen_abi::arch_x86::XEN_LEGACY_MAX_VCPUS;
use xen_abi::errno::Errno;
use xen_abi::xen::VcpuInfo;

/// Most vCPUs of a domain, as in Xen (`MAX_VIRT_CPUS`).
pub const MAX_VCPUS: u32 = 8192;

/// What a domain is made with.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Its identifier.
    pub id: DomId,
    /// Whether it controls the machine (dom0): `SIF_PRIVILEGED` and the hypercalls that need it.
    pub privileged: bool,
    /// Number of its vCPUs, at least 1.
    pub max_vcpus: u32,
    /// CPUs where its vCPUs may run; `None`: everywhere.
    pub affinity: Option<CpuMask>,
    /// Most pages it may ever own.
    pub max_pages: u64,
    /// How messages call it.
    pub name: String,
    /// What a toolstack knows it by (`xen_domain_handle_t`).
    pub handle: [u8; 16],
    /// Whether it may use `console_io` although it is not privileged.
    pub console_io: bool,
    /// Highest event channel port it may allocate; `None`: as many as its ABI has.
    pub max_evtchn_port: Option<u32>,
    /// Most frames of its grant table.
    pub max_grant_frames: u32,
    /// Most pages of grant handles.
    pub max_maptrack_frames: u32,
}

impl DomainConfig {
    /// An unprivileged domain with one vCPU and Xen's default limits that may not own any page.
    pub fn new(id: DomId) -> Self {
        Self {
            id,
            privileged: false,
            max_vcpus: 1,
            affinity: None,
            max_pages: 0,
            name: alloc::format!("Domain-{}", id.0),
            handle: [0; 16],
            console_io: false,
            max_evtchn_port: None,
            max_grant_frames: DEFAULT_MAX_FRAMES,
            max_maptrack_frames: DEFAULT_MAX_MAPTRACK_FRAMES,
        }
    }
}

/// A domain.
pub struct Domain<P: Platform> {
    /// Its identifier.
    pub id: DomId,
    /// Whether it controls the machine.
    pub privileged: bool,
    /// How messages call it.
    pub name: String,
    /// What a toolstack knows it by (`xen_domain_handle_t`).
    pub handle: Mutex<[u8; 16]>,
    /// Whether it may use `console_io` although it is not privileged.
    pub console_io: bool,
    /// Its vCPUs by number.
    pub vcpus: Vec<Vcpu<P>>,
    /// Its weight and cap.
    pub sched: Arc<DomainSched>,
    /// The frame of its `shared_info`.
    pub shared_info: Mfn,
    /// How many pages it owns and may own.
    pub pages: Reservation,
    /// Event channels.
    pub events: DomainEvents,
    /// The grant table and the grants it mapped.
    pub grants: DomainGrants,
    /// Which machine resources (I/O memory, ports, interrupts) it may use.
    pub permissions: RwLock<Permissions>,
    /// At which indices its L4 tables have or had linear entries.
    pub linear_roots: LinearRoots,
    /// What its not-present page-table entries may be, where the processor has L1TF; `None`: anything.
    pub safe_entries: Option<SafeEntries>,
    /// One of them was something else: the domain is to be ended.
    pub(crate) convicted: AtomicBool,
    /// CPUs whose TLB may hold entries of this domain's address spaces.
    pub dirty_cpus: AtomicCpuMask,
    /// Bit `n`: `VMASST_TYPE_n` is enabled.
    pub vm_assist: AtomicU64,
    /// Seconds that its wall clock is ahead of the machine's.
    pub time_offset: AtomicI64,
    /// Shutdown, crash and teardown.
    pub lifecycle: Mutex<Lifecycle>,
    /// Mirrors `lifecycle`: nothing of this domain may run any more. Changes with `lifecycle` locked.
    pub stopped: AtomicBool,
    /// Mirrors `lifecycle`: [`Lifecycle::Dying`] or [`Lifecycle::Dead`].
    dying: AtomicBool,
    /// Mirrors `lifecycle`: [`Lifecycle::Dead`].
    dead: AtomicBool,
    /// Pauses by its controller; changes with `lifecycle` locked.
    controller_pauses: AtomicU32,
    /// What its vCPUs are owed.
    pub(crate) walk: Mutex<Walk>,
    /// How far the teardown got.
    teardown: Mutex<Stage>,
}

/// Where a domain is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Under construction: its vCPUs do not run yet.
    Building,
    /// Alive.
    Running,
    /// Ended by itself or by a crash, with the reason of `SHUTDOWN_*` (sched.h); its frames are still there.
    Shutdown(u32),
    /// Stopped for good by the hypervisor, which is about to tear it down.
    Condemned,
    /// Being torn down.
    Dying,
    /// Torn down; others may still map frames of it.
    Dead,
}

/// A virtual CPU.
pub struct Vcpu<P: Platform> {
    /// Its number within the domain.
    pub id: VcpuId,
    /// What the PV interface keeps for it.
    pub pv: PvState,
    /// Its registers while it does not run.
    pub saved: Mutex<Regs>,
    /// Held by the CPU that gives it a context, which may mean to validate its page tables. No CPU waits for it: it is taken by
    /// `try_lock` only.
    pub(crate) context_turn: Mutex<()>,
    /// What the scheduler keeps for it.
    pub sched: VcpuSched,
    /// Its timers, runstate and time areas.
    pub time: VcpuTime,
    /// CPU it runs on or ran on last.
    pub cpu: AtomicU32,
    /// What the platform keeps for it.
    pub arch: P::VcpuArch,
}

/// One vCPU of one domain, kept alive.
pub struct VcpuRef<P: Platform> {
    /// The domain.
    pub domain: Arc<Domain<P>>,
    /// Which of its vCPUs; always in range.
    pub id: VcpuId,
}

impl<P: Platform> Clone for VcpuRef<P> {
    fn clone(&self) -> Self {
        Self { domain: self.domain.clone(), id: self.id }
    }
}

impl<P: Platform> VcpuRef<P> {
    /// The vCPU itself.
    #[inline]
    pub fn vcpu(&self) -> &Vcpu<P> {
        &self.domain.vcpus[self.id.0 as usize]
    }

    /// Whether the two are the same vCPU.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && Arc::ptr_eq(&self.domain, &other.domain)
    }
}

impl<P: Platform> fmt::Debug for VcpuRef<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.domain.id, self.id)
    }
}

impl<P: Platform> Vcpu<P> {
    /// A vCPU that is down, of a domain that is paused.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new(platform: &P, id: VcpuId, config: &DomainConfig, sched: &Arc<DomainSched>) -> Result<Self, Errno> {
        let reasons = Reasons::DOWN | Reasons::PAUSED;
        Ok(Self {
            id,
            pv: PvState::new().ok_or(Errno::ENOMEM)?,
            saved: Mutex::new(Regs::default()),
            context_turn: Mutex::new(()),
            sched: VcpuSched::new(sched.clone(), reasons, config.affinity.as_ref()),
            time: VcpuTime::new(),
            cpu: AtomicU32::new(0),
            arch: platform.new_vcpu_arch()?,
        })
    }
}

impl<P: Platform> Domain<P> {
    /// A domain in [`Lifecycle::Building`], paused once, of vCPUs that [`Vcpu::new`] made with `sched`. `shared_info` is a frame of the
    /// hypervisor's own, set to what a domain starts with; `events` is for as many vCPUs.
    fn new(
        platform: &P,
        config: &DomainConfig,
        sched: Arc<DomainSched>,
        vcpus: Vec<Vcpu<P>>,
        (shared_info, events, claim): (Mfn, DomainEvents, Arc<Claim>),
    ) -> Self {
        for (n, vcpu) in (0..).zip(vcpus.iter().take(XEN_LEGACY_MAX_VCPUS)) {
            let at = shared_info.addr().0 + n * size_of::<VcpuInfo>() as u64;
            vcpu.pv.vcpu_info.store(at, Ordering::Relaxed);
        }
        config.max_evtchn_port.into_iter().for_each(|port| events.set_max_port(Port(port)));
        Self {
            id: config.id,
            privileged: config.privileged,
            name: config.name.clone(),
            handle: Mutex::new(config.handle),
            console_io: config.console_io,
            vcpus,
            sched,
            shared_info,
            pages: Reservation::new(config.max_pages, claim),
            events,
            grants: DomainGrants::with_limits(config.max_grant_frames, config.max_maptrack_frames),
            permissions: RwLock::new(Permissions::none()),
            linear_roots: LinearRoots::new(),
            safe_entries: platform.safe_entries(config.privileged),
            convicted: AtomicBool::new(false),
            dirty_cpus: AtomicCpuMask::new(),
            vm_assist: AtomicU64::new(0),
            time_offset: AtomicI64::new(0),
            lifecycle: Mutex::new(Lifecycle::Building),
            stopped: AtomicBool::new(false),
            dying: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            controller_pauses: AtomicU32::new(1),
            walk: Mutex::new(Walk::new()),
            teardown: Mutex::new(Stage::Alive),
        }
    }

    /// Why its vCPUs do not run, as far as the domain decides.
    pub(crate) fn reasons(&self) -> Reasons {
        let mut reasons = Reasons::empty();
        reasons.set(Reasons::STOPPED, self.stopped.load(Ordering::SeqCst));
        reasons.set(Reasons::PAUSED, self.is_paused());
        reasons
    }

    /// Whether it may use the machine's console by `console_io`.
    pub fn uses_console_io(&self) -> bool {
        self.privileged || self.console_io
    }

    /// The vCPU with this number, if the domain has it.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu<P>> {
        self.vcpus.get(usize::try_from(id.0).ok()?)
    }

    /// Whether `VMASST_TYPE_<type_>` is enabled.
    pub fn has_vm_assist(&self, type_: u32) -> bool {
        self.vm_assist.load(Ordering::Relaxed) & (1 << type_) != 0
    }
}
