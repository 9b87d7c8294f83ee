//! Hypercalls that need no frame of the guest's registers: the entry code calls them with the arguments still in place,
//! whose first three registers are those of a C function as well.
//!
//! Such a function is short and bounded, changes nothing of the guest's registers but the result, and never asks for the
//! hypercall to be made again. One that finds work of another kind changes nothing and says [`ELSEWHERE`]: then
//! `hypercall_from_guest` serves the hypercall. What each does is the core's, as for every other way in.

use super::Guest;
use crate::cpu::percpu::this_cpu;
use crate::machine::hv_of_guest;
use core::sync::atomic::Ordering;
use hypervisor_core::domain::PvState;
use hypervisor_core::hypercall::event::Sent;
use hypervisor_core::hypercall::{self, HYPERCALLS};
use xen_abi::errno::Errno;
use xen_abi::event_channel::EVTCHNOP_SEND;
use xen_abi::hypercall::nr;

/// In two registers: the result for the guest, and whether there is one.
#[repr(C)]
pub struct Answer {
    value: i64,
    elsewhere: u64,
}

/// The hypercall is not one for the quick way.
const ELSEWHERE: Answer = Answer { value: 0, elsewhere: 1 };

fn done(value: i64) -> Answer {
    Answer { value, elsewhere: 0 }
}

fn answer(result: Result<(), Errno>) -> Answer {
    done(result.map_or_else(Errno::to_ret, |()| 0))
}

/// A quick hypercall with its first three arguments.
type Quick = extern "sysv64" fn(u64, u64, u64) -> Answer;

unsafe extern "sysv64" {
    /// In `entry.S`: goes to where hypercalls without a quick way are served, and never returns to where it was called.
    safe fn no_quick_way(a: u64, b: u64, c: u64) -> Answer;
}

/// By number; the entry code reads it.
pub static TABLE: [Quick; HYPERCALLS] = {
    let mut table: [Quick; HYPERCALLS] = [no_quick_way; HYPERCALLS];
    table[nr::GRANT_TABLE_OP as usize] = grant_table_op;
    table[nr::UPDATE_VA_MAPPING as usize] = update_va_mapping;
    table[nr::STACK_SWITCH as usize] = stack_switch;
    table[nr::FPU_TASKSWITCH as usize] = fpu_taskswitch;
    table[nr::SET_TIMER_OP as usize] = set_timer_op;
    table[nr::XEN_VERSION as usize] = xen_version;
    table[nr::SET_SEGMENT_BASE as usize] = set_segment_base;
    table[nr::EVENT_CHANNEL_OP as usize] = event_channel_op;
    table
};

/// PV state of the vCPU that entered.
fn pv() -> &'static PvState {
    // SAFETY: a guest's vCPU entered, so one is loaded; it stays until the next exit.
    unsafe { &*this_cpu().pv.load(Ordering::Relaxed) }
}

extern "sysv64" fn grant_table_op(cmd: u64, args: u64, count: u64) -> Answer {
    let guest = Guest::current(this_cpu());
    hypercall::grant::single(guest.cx(), cmd, args, count).map_or(ELSEWHERE, done)
}

extern "sysv64" fn update_va_mapping(va: u64, entry: u64, flags: u64) -> Answer {
    let guest = Guest::current(this_cpu());
    // One that is to be made again has changed nothing that a second time would find done.
    hypercall::mmu::change_own_mapping(guest.cx(), va, entry, flags).map_or(ELSEWHERE, done)
}

extern "sysv64" fn stack_switch(ss: u64, rsp: u64, _: u64) -> Answer {
    hypercall::cpu::switch_stack(pv(), ss, rsp);
    done(0)
}

extern "sysv64" fn fpu_taskswitch(set: u64, _: u64, _: u64) -> Answer {
    let guest = Guest::current(this_cpu());
    hypercall::cpu::switch_task(guest.cx(), set);
    done(0)
}

extern "sysv64" fn set_segment_base(which: u64, base: u64, _: u64) -> Answer {
    let guest = Guest::current(this_cpu());
    answer(hypercall::cpu::set_base(guest.cx(), which, base))
}

extern "sysv64" fn set_timer_op(time: u64, _: u64, _: u64) -> Answer {
    let guest = Guest::current(this_cpu());
    hypercall::vcpu::set_timer(guest.cx(), time);
    done(0)
}

extern "sysv64" fn xen_version(cmd: u64, _: u64, _: u64) -> Answer {
    hypercall::version::number(cmd).map_or(ELSEWHERE, done)
}

extern "sysv64" fn event_channel_op(cmd: u64, arg: u64, _: u64) -> Answer {
    if hypercall::event::command(cmd) != EVTCHNOP_SEND {
        return ELSEWHERE;
    }
    let Some(current) = this_cpu().current() else { return ELSEWHERE };
    // SAFETY: this is a guest's entry.
    let hv = unsafe { hv_of_guest() };
    match hypercall::event::send(hv, &current.domain, arg) {
        Ok(Sent::Whole) => done(0),
        // A second time from the other way writes what is left.
        Ok(Sent::InPart) => ELSEWHERE,
        Err(error) => done(error.to_ret()),
    }
}
