//! How a vCPU spent its time: running, runnable, blocked, offline (vcpu.h, `vcpu_runstate_info`).

use super::VcpuTime;
use super::publish::Through;
use crate::Hypervisor;
use crate::domain::VcpuRef;
use crate::ids::Nanos;
use crate::platform::Platform;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use xen_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, VcpuRunstateInfo,
    XEN_RUNSTATE_UPDATE,
};
use xen_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
use zerocopy::IntoBytes;

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It is on a CPU.
    Running,
    /// It wants to run, and no CPU is free for it.
    Runnable,
    /// It sleeps.
    Blocked,
    /// It is down or paused.
    Offline,
}

impl RunState {
    const fn number(self) -> i32 {
        match self {
            RunState::Running => RUNSTATE_RUNNING,
            RunState::Runnable => RUNSTATE_RUNNABLE,
            RunState::Blocked => RUNSTATE_BLOCKED,
            RunState::Offline => RUNSTATE_OFFLINE,
        }
    }
}

/// The account of one vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    state: RunState,
    since: Nanos,
    /// Nanoseconds in each state until `since`, by the ABI's number of the state.
    spent: [u64; 4],
}

impl Account {
    pub(super) const fn new() -> Self {
        Self { state: RunState::Offline, since: Nanos(0), spent: [0; 4] }
    }

    fn change(&mut self, state: RunState, now: Nanos) {
        if state == self.state {
            return;
        }
        self.book(now);
        self.state = state;
    }

    /// Books the time in the current state up to now.
    fn book(&mut self, now: Nanos) {
        let spent = &mut self.spent[self.state as usize];
        *spent = spent.saturating_add(now.0.saturating_sub(self.since.0));
        self.since = Nanos(now.0.max(self.since.0));
    }

    fn info(&self) -> VcpuRunstateInfo {
        VcpuRunstateInfo {
            state: self.state.number(),
            _pad0: 0,
            state_entry_time: self.since.0,
            time: self.spent,
        }
    }
}

impl VcpuTime {
    /// The vCPU is in this state from now on.
    pub fn change_runstate(&self, state: RunState, now: Nanos) {
        self.account.lock().change(state, now);
    }

    /// The account as the ABI has it. The time since the current state began is not in `time` yet.
    pub fn runstate(&self) -> VcpuRunstateInfo {
        self.account.lock().info()
    }

    /// The account with the time up to `now` booked, for who asks about another vCPU (`VCPUOP_get_runstate_info`).
    pub fn runstate_at(&self, now: Nanos) -> VcpuRunstateInfo {
        let account = self.account.lock();
        let mut info = account.info();
        let spent = &mut info.time[account.state as usize];
        *spent = spent.saturating_add(now.0.saturating_sub(account.since.0));
        info
    }

    /// Whether the guest wants a copy of the account.
    #[inline(always)]
    pub(super) fn has_runstate_area(&self) -> bool {
        self.runstate_area.load(Ordering::Relaxed) != 0
    }

    /// Sets the guest address of the copy of the account; 0: none.
    pub fn set_runstate_area(&self, address: u64) {
        self.runstate_area.store(address, Ordering::Relaxed);
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Copies the account to where the guest wants it. What cannot be written is not: the guest took its mapping away.
    #[inline(never)]
    pub(crate) fn update_runstate_area(&self, vcpu: &VcpuRef<P>, through: Through) {
        let time = &vcpu.vcpu().time;
        let area = time.runstate_area.load(Ordering::Relaxed);
        if area == 0 {
            return;
        }
        let mut info = time.runstate();
        let entry_time = area.wrapping_add(offset_of!(VcpuRunstateInfo, state_entry_time) as u64);
        let flagged = vcpu.domain.has_vm_assist(VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
        if flagged {
            let final_time = info.state_entry_time;
            info.state_entry_time |= XEN_RUNSTATE_UPDATE;
            let _ = self.write_kernel_area(vcpu, through, entry_time, info.state_entry_time.as_bytes());
            let _ = self.write_kernel_area(vcpu, through, area, info.as_bytes());
            let _ = self.write_kernel_area(vcpu, through, entry_time, final_time.as_bytes());
        } else {
            let _ = self.write_kernel_area(vcpu, through, area, info.as_bytes());
        }
    }
}
