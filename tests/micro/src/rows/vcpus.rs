//! Two vCPUs of the domain: vCPU 1 does what vCPU 0 asks for by [`TASK`].

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use guest_pv_lib::events::{self, Port};
use guest_pv_lib::{sched, time};
use xen_abi::arch_x86::{CpuUserRegs, FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VcpuGuestContext};
use xen_abi::hypercall::nr;
use xen_abi::vcpu::{VCPUOP_INITIALISE, VCPUOP_IS_UP, VCPUOP_UP};

use super::{Row, need};
use crate::call::hc3;
use crate::measure::{ROUNDS, WARM_UP, least};
use crate::{Env, Missing};

/// The rows for two vCPUs on one CPU.
pub const ROWS: &[Row] = &[("vcpu_switch", vcpu_switch), ("ipi_same_cpu", ipi)];

/// The rows for a CPU for each.
pub const PEER_ROWS: &[Row] = &[("ipi_two_cpus", ipi)];

/// What vCPU 1 does: it answers each event with one.
const ANSWER: u32 = 0;
/// What vCPU 1 does: it yields, and counts how often.
const YIELD: u32 = 1;

static TASK: AtomicU32 = AtomicU32::new(ANSWER);
static YIELDS: AtomicU32 = AtomicU32::new(0);
/// The ports that fire on vCPU 0 and on vCPU 1; zero: not bound.
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

fn port(vcpu: usize) -> Port {
    Port(PORTS[vcpu].load(SeqCst))
}

/// Waits for the event of `vcpu`, without an upcall.
fn wait(vcpu: usize) {
    while !events::take(port(vcpu)) {
        let _ = sched::poll(&[port(vcpu)], None);
    }
}

fn send(vcpu: usize) {
    let _ = events::notify(port(vcpu));
}

extern "C" fn peer() -> ! {
    loop {
        if TASK.load(SeqCst) == YIELD {
            YIELDS.fetch_add(1, SeqCst);
            sched::yield_now();
        } else {
            wait(1);
            send(0);
        }
    }
}

/// Starts vCPU 1 where it does not run yet, on pages 7 to 9 of the pool as its stack.
fn start_peer(env: &Env) -> Result<(), Missing> {
    if port(0).0 != 0 {
        return Ok(());
    }
    need("a second vCPU", hc3(nr::VCPU_OP, u64::from(VCPUOP_IS_UP), 1, 0))?;
    // As if called: the stack is 8 below a multiple of 16.
    let rsp = env.page(9).virt() + 4096 - 8;
    let (cs, ss) = (FLAT_KERNEL_CS, FLAT_KERNEL_SS);
    let user_regs = CpuUserRegs { rip: peer as *const () as u64, rsp, cs, ss, ..CpuUserRegs::default() };
    let mut context = VcpuGuestContext {
        flags: VGCF_IN_KERNEL,
        user_regs,
        kernel_ss: ss.into(),
        kernel_sp: rsp,
        ..VcpuGuestContext::default()
    };
    // CR3 as the ABI has it: bits 63..52 of the address come round to the lowest bits.
    context.ctrlreg[3] = env.boot.root_table().0.rotate_left(12);
    need("initialise", hc3(nr::VCPU_OP, u64::from(VCPUOP_INITIALISE), 1, &raw const context as u64))?;
    for (vcpu, slot) in (0..).zip(&PORTS) {
        slot.store(need("bind_ipi", events::bind_ipi(vcpu))?.0, SeqCst);
    }
    need("up", hc3(nr::VCPU_OP, u64::from(VCPUOP_UP), 1, 0)).map(drop)
}

/// By yields of both: ticks of all rounds, divided by the switches that there were.
fn vcpu_switch(env: &Env) -> Result<u64, Missing> {
    start_peer(env)?;
    TASK.store(YIELD, SeqCst);
    send(1);
    for _ in 0..WARM_UP {
        sched::yield_now();
    }
    let before = YIELDS.load(SeqCst);
    let start = time::tsc();
    for _ in 0..ROUNDS {
        sched::yield_now();
    }
    let ticks = time::tsc() - start;
    let there = YIELDS.load(SeqCst) - before;
    TASK.store(ANSWER, SeqCst);
    // vCPU 1 answers the event of the beginning once it sees its task.
    wait(0);
    if there == 0 { Err("yielding did not switch") } else { Ok(ticks / u64::from(2 * there)) }
}

/// From the event that wakes vCPU 1 to the event by which it wakes vCPU 0, which sleeps meanwhile.
fn ipi(env: &Env) -> Result<u64, Missing> {
    start_peer(env)?;
    Ok(least(|_| {
        let start = time::tsc();
        send(1);
        wait(0);
        time::tsc() - start
    }))
}
