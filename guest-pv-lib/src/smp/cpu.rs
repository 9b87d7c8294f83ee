//! The area of a CPU, and how a CPU finds its own.

use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64};

use xen_abi::vcpu::{RUNSTATE_RUNNING, VcpuRunstateInfo};

use crate::apic;
use crate::events::fifo::Queues;
use crate::shared::VcpuInfo;

/// CPUs that the library can tell apart.
pub const MAX_CPUS: usize = 512;

/// What the library keeps for one virtual CPU.
///
/// It does not cross the end of a page, so that one frame number tells the hypervisor where each part of it is.
#[derive(Debug)]
#[repr(C, align(1024))]
pub struct Cpu {
    /// The area's own address: what the kernel's GS base points to.
    this: AtomicPtr<Cpu>,
    number: AtomicU32,
    pub(super) state: AtomicU32,
    /// What the CPU shares with the hypervisor, once it is registered.
    pub(crate) info: VcpuInfo,
    /// Kept up to date by the hypervisor, once it is registered.
    runstate: Runstate,
    /// Its event queues.
    pub(crate) queues: Queues,
    /// Its vectors.
    pub(crate) apic: apic::vectors::State,
    /// Upcalls that run handlers on this CPU now, one inside the other.
    pub(crate) depth: AtomicU32,
    /// Ports that fired on this CPU so far.
    pub(crate) events: AtomicU64,
    /// What `events` was when [`sched::wait`](crate::sched::wait) last returned.
    pub(crate) seen: AtomicU64,
    /// The CPU is about to sleep in a poll, or does.
    pub(crate) waiting: AtomicBool,
    /// The port that ends that poll; 0 where there is none yet.
    pub(crate) wake: AtomicU32,
    /// The port by which a lock is handed on; 0 where there is none yet.
    pub(crate) kick: AtomicU32,
    /// Address of the lock that the CPU is about to sleep for, or does; 0: none.
    pub(crate) sleeps_for: AtomicU64,
    /// The port by which other CPUs ask for something; 0 where there is none yet.
    pub(super) call: AtomicU32,
    /// Not zero: another CPU asks for something.
    pub(super) called: AtomicU32,
    /// What a started CPU runs: a `fn(&'static Cpu) -> !`.
    pub(super) main: AtomicPtr<()>,
    /// There is a [`UserMode`](crate::user::UserMode) of this CPU.
    pub(crate) has_user_mode: AtomicBool,
    /// What that needs to come back from user mode; null before there is one.
    pub(crate) user_area: AtomicPtr<crate::user::Area>,
    /// The FS base of the kernel's own, where it has one: [`NO_BASE`](crate::cpu::segments::NO_BASE) otherwise.
    pub(crate) fs_base: AtomicU64,
    local: AtomicPtr<()>,
}

/// `struct vcpu_runstate_info`.
#[derive(Debug)]
#[repr(C)]
struct Runstate {
    state: AtomicI32,
    _pad0: AtomicU32,
    state_entry_time: AtomicU64,
    time: [AtomicU64; 4],
}

const _: () = {
    assert!(size_of::<Cpu>() == 1024);
    assert!(size_of::<Runstate>() == size_of::<VcpuRunstateInfo>());
    assert!(core::mem::offset_of!(Cpu, this) == 0);
};

/// Where a CPU is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Not started yet, or stopped.
    Down,
    /// Started, on its way to its kernel code.
    Starting,
    /// Runs the kernel.
    Online,
}

/// The area of the CPU that the domain starts with.
static BOOT: Cpu = Cpu::new(0, State::Online);

/// The area of each CPU that was started; null for the others and for CPU 0, whose area is always there.
static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// CPUs find their areas by GS: set once, when there is a second CPU.
static LIVE: AtomicBool = AtomicBool::new(false);

impl Cpu {
    pub(super) const fn new(number: u32, state: State) -> Self {
        Self {
            this: AtomicPtr::new(ptr::null_mut()),
            number: AtomicU32::new(number),
            state: AtomicU32::new(state as u32),
            info: VcpuInfo::new(),
            runstate: Runstate {
                state: AtomicI32::new(RUNSTATE_RUNNING),
                _pad0: AtomicU32::new(0),
                state_entry_time: AtomicU64::new(0),
                time: [const { AtomicU64::new(0) }; 4],
            },
            queues: Queues::new(),
            apic: apic::vectors::State::new(),
            depth: AtomicU32::new(0),
            events: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            wake: AtomicU32::new(0),
            kick: AtomicU32::new(0),
            sleeps_for: AtomicU64::new(0),
            call: AtomicU32::new(0),
            called: AtomicU32::new(0),
            main: AtomicPtr::new(ptr::null_mut()),
            has_user_mode: AtomicBool::new(false),
            user_area: AtomicPtr::new(ptr::null_mut()),
            fs_base: AtomicU64::new(crate::cpu::segments::NO_BASE),
            local: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The CPU's number, as the hypervisor counts them.
    #[doc(alias = "vcpuid")]
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number.load(Relaxed)
    }

    /// Where the CPU is in its life.
    #[doc(alias = "VCPUOP_is_up")]
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Acquire) {
            0 => State::Down,
            1 => State::Starting,
            _ => State::Online,
        }
    }

    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u32, Release);
    }

    /// Whether the hypervisor lets the CPU run at this moment. While there is no second CPU this is always true.
    #[doc(alias = "vcpu_is_preempted")]
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.runstate.state.load(Relaxed) == RUNSTATE_RUNNING
    }

    /// Nanoseconds that the CPU has been running, ready without a processor, asleep and switched off.
    #[doc(alias = "vcpu_runstate_info")]
    #[must_use]
    pub fn times(&self) -> [u64; 4] {
        // The hypervisor writes while this reads: no more than an approximation, but each figure is whole.
        [0, 1, 2, 3].map(|at| self.runstate.time[at].load(Relaxed))
    }

    /// What the kernel hung here.
    #[must_use]
    pub fn local(&self) -> *mut () {
        self.local.load(Acquire)
    }

    /// Hangs the kernel's own data of this CPU here.
    pub fn set_local(&self, data: *mut ()) {
        self.local.store(data, Release);
    }

    /// Where the runstate is.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(super) fn runstate_address(&self) -> u64 {
        &raw const self.runstate as u64
    }

    /// Makes this CPU one of those that [`cpu`] finds.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(super) fn enlist(&'static self, number: u32) {
        let this = ptr::from_ref(self).cast_mut();
        self.this.store(this, Relaxed);
        self.number.store(number, Relaxed);
        if number != 0 {
            CPUS[number as usize].store(this, Release);
        }
    }
}

/// Whether CPUs find their areas by GS, and have their shared part there.
#[inline]
pub(crate) fn is_live() -> bool {
    LIVE.load(Relaxed)
}

/// # Safety
///
/// The calling CPU's GS base must point to [`BOOT`], whose shared part must be registered, and no other CPU be up.
#[cfg(target_os = "none")]
pub(super) unsafe fn set_live() {
    LIVE.store(true, Relaxed);
}

/// The area of the calling CPU.
///
/// A kernel that moves a thread to another CPU while it runs on this one must mask upcalls as long as it uses the
/// result.
#[inline]
#[must_use]
pub fn this_cpu() -> &'static Cpu {
    #[cfg(target_os = "none")]
    if is_live() {
        let this: *const Cpu;
        // SAFETY: since `set_live` the kernel's GS base of every CPU points to its area, which is never freed and
        // starts with its own address.
        return unsafe {
            core::arch::asm!(
                "mov {this}, gs:[0]",
                this = out(reg) this,
                options(nostack, preserves_flags, readonly),
            );
            &*this
        };
    }
    &BOOT
}

/// The area of CPU `number`, where it was ever started.
#[must_use]
pub fn cpu(number: u32) -> Option<&'static Cpu> {
    if number == 0 {
        return Some(&BOOT);
    }
    let area = CPUS.get(number as usize)?.load(Acquire);
    // SAFETY: null, or put there by `enlist` from a `&'static`.
    unsafe { area.as_ref() }
}

/// The CPUs that run, in order.
pub fn online() -> impl Iterator<Item = &'static Cpu> {
    (0..MAX_CPUS as u32).filter_map(cpu).filter(|cpu| cpu.state() == State::Online)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_cpu_is_there_from_the_start() {
        assert_eq!(this_cpu().number(), 0);
        assert_eq!(this_cpu().state(), State::Online);
        assert!(this_cpu().is_running() && ptr::eq(cpu(0).unwrap(), this_cpu()));
        assert!(cpu(1).is_none() && cpu(u32::MAX).is_none());
        assert_eq!(online().count(), 1);
    }
}
