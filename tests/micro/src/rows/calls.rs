//! Hypercalls that do little: what is left is the way in and out.

use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::{sched, time};
use xen_abi::arch_x86::{FLAT_KERNEL_SS, SEGBASE_FS};
use xen_abi::event_channel::{EVTCHNOP_SEND, EvtchnSend};
use xen_abi::hypercall::nr;
use xen_abi::version::XENVER_VERSION;
use xen_abi::xen::MulticallEntry;

use super::{Row, need};
use crate::call::{hc1, hc2, op};
use crate::measure::{least, ticks, ticks_after};
use crate::stubs::fpu_instruction;
use crate::{Env, Missing};

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("null_hypercall", null_hypercall),
    ("multicall_8", multicall),
    ("yield_alone", yield_alone),
    ("event_send", event_send),
    ("event_upcall", event_upcall),
    ("set_timer", set_timer),
    ("timer_lateness", timer_lateness),
    ("stack_switch", stack_switch),
    ("set_segment_base", set_segment_base),
    ("update_descriptor", update_descriptor),
    ("fpu_taskswitch", fpu_taskswitch),
    ("device_not_available", device_not_available),
];

fn null_hypercall(_: &Env) -> Result<u64, Missing> {
    Ok(ticks(|_| hc2(nr::XEN_VERSION, u64::from(XENVER_VERSION), 0)))
}

/// Eight times the version number.
fn multicall(_: &Env) -> Result<u64, Missing> {
    let mut entries =
        [(); 8].map(|()| MulticallEntry { op: u64::from(nr::XEN_VERSION), ..MulticallEntry::default() });
    let at = entries.as_mut_ptr() as u64;
    need("multicall", hc2(nr::MULTICALL, at, 8))?;
    Ok(ticks(|_| hc2(nr::MULTICALL, at, 8)))
}

fn yield_alone(_: &Env) -> Result<u64, Missing> {
    Ok(ticks(|_| sched::yield_now()))
}

#[inline(always)]
fn send(port: Port) {
    // Not by the library: its function is not always inlined.
    let _ = op(nr::EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port: port.0 });
}

/// To a masked port that is pending no more.
fn event_send(_: &Env) -> Result<u64, Missing> {
    let port = need("bind_ipi", events::bind_ipi(0))?;
    let count = ticks_after(|_| events::take(port), |_| send(port));
    need("close", events::close(port))?;
    Ok(count)
}

/// From the hypercall through the upcall to behind the hypercall.
fn event_upcall(_: &Env) -> Result<u64, Missing> {
    let port = need("bind_ipi", events::bind_ipi(0))?;
    let _ = events::take(port);
    events::unmask(port);
    events::unmask_upcalls();
    let count = ticks(|_| send(port));
    events::mask_upcalls();
    need("close", events::close(port))?;
    Ok(count)
}

/// A time that is always in the future, and never the same.
fn set_timer(_: &Env) -> Result<u64, Missing> {
    const FAR: u64 = 1_000_000_000_000;
    let start = time::now() + FAR;
    let count = ticks(|round| hc1(nr::SET_TIMER_OP, start + u64::from(round)));
    need("set_timer_op", hc1(nr::SET_TIMER_OP, 0))?;
    Ok(count)
}

/// From a deadline to its event, on a CPU that runs the waiting vCPU: nanoseconds, which are ticks here.
fn timer_lateness(_: &Env) -> Result<u64, Missing> {
    const AHEAD: u64 = 100_000;
    let port = need("bind_virq", events::bind_virq(Virq::TIMER))?;
    let mut early = false;
    let late = least(|_| {
        let _ = events::take(port);
        let deadline = time::now() + AHEAD;
        let _ = hc1(nr::SET_TIMER_OP, deadline);
        while !events::take(port) {}
        let now = time::now();
        early |= now < deadline;
        now.saturating_sub(deadline)
    });
    need("close", events::close(port))?;
    if early { Err("a timer fired early") } else { Ok(late) }
}

fn stack_switch(env: &Env) -> Result<u64, Missing> {
    let top = env.page(6).virt() + 4096;
    Ok(ticks(|_| hc2(nr::STACK_SWITCH, u64::from(FLAT_KERNEL_SS), top)))
}

fn set_segment_base(_: &Env) -> Result<u64, Missing> {
    let count = ticks(|round| hc2(nr::SET_SEGMENT_BASE, u64::from(SEGBASE_FS), 4096 * u64::from(round)));
    need("set_segment_base", hc2(nr::SET_SEGMENT_BASE, u64::from(SEGBASE_FS), 0))?;
    Ok(count)
}

/// A code segment into a GDT that is in use.
fn update_descriptor(env: &Env) -> Result<u64, Missing> {
    const CODE: u64 = 0x00af_fb00_0000_ffff;
    let page = env.page(0);
    page.fill(0);
    need("read-only", page.read_only())?;
    let frames = [page.mfn().0];
    need("set_gdt", hc2(nr::SET_GDT, frames.as_ptr() as u64, 512))?;
    let entry = page.entry(1);
    need("update_descriptor", hc2(nr::UPDATE_DESCRIPTOR, entry, CODE))?;
    let count = ticks(|_| hc2(nr::UPDATE_DESCRIPTOR, entry, CODE));
    need("set_gdt", hc2(nr::SET_GDT, 0, 0))?;
    need("writable", page.writable())?;
    Ok(count)
}

fn fpu_taskswitch(_: &Env) -> Result<u64, Missing> {
    let count = ticks(|round| hc1(nr::FPU_TASKSWITCH, u64::from(round & 1)));
    need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 0))?;
    Ok(count)
}

/// From an FPU instruction while TS is set, through the handler, to behind the instruction.
fn device_not_available(_: &Env) -> Result<u64, Missing> {
    Ok(ticks_after(|_| hc1(nr::FPU_TASKSWITCH, 1), |_| fpu_instruction()))
}
