//! The interface that looks like a local APIC: vectors to every CPU, their priorities, and the timer.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicU64};

use guest_pv_lib::apic::{self, LocalApic};
use guest_pv_lib::events;
use guest_pv_lib::smp::{self, CpuSet};
use guest_pv_lib::{BootContext, Errno, println, time};

use crate::several::{each, soon};
use crate::{Step, check, ok};

const LOW: u8 = 0x31;
const HIGH: u8 = 0xe0;
const TIMER: u8 = 0x80;

/// CPUs that got `LOW`, and those on which the timer expired.
static GOT: AtomicU32 = AtomicU32::new(0);
static EXPIRED: AtomicU32 = AtomicU32::new(0);
/// Vectors in the order in which they came, eight bits each.
static ORDER: AtomicU64 = AtomicU64::new(0);

fn note(vector: u8) {
    let apic = LocalApic::current();
    GOT.fetch_or(1 << apic.id(), SeqCst);
    let _ = ORDER.fetch_update(SeqCst, SeqCst, |order| Some(order << 8 | u64::from(vector)));
    apic.end_of_interrupt();
}

fn expired(_: u8) {
    let apic = LocalApic::current();
    EXPIRED.fetch_or(1 << apic.id(), SeqCst);
    apic.end_of_interrupt();
}

/// Waits until exactly `cpus` got a vector.
fn came_to(cpus: u32) -> bool {
    soon(|| GOT.load(SeqCst) == cpus) && GOT.swap(0, SeqCst) == cpus
}

pub fn vectors(_: &BootContext) -> Step {
    apic::set_handler(LOW, note);
    apic::set_handler(HIGH, note);
    apic::set_handler(TIMER, expired);
    check(!LocalApic::current().send_ipi(LOW, 0), "a CPU took a vector before it was enabled")?;
    each(|_| {
        if let Err(error) = LocalApic::enable() {
            println!("enable: {error:?}");
        }
    });
    let apic = LocalApic::current();
    let all = smp::online().fold(0, |bits, cpu| bits | 1 << cpu.number());
    for cpu in smp::online() {
        check(apic.send_ipi(LOW, cpu.number()) && came_to(1 << cpu.number()), "an IPI to one CPU")?;
    }
    ok(apic.write_icr(2 << 18 | u64::from(LOW)), "all")?;
    check(came_to(all), "an IPI to all")?;
    ok(apic.write_icr(3 << 18 | u64::from(LOW)), "others")?;
    check(came_to(all & !1), "an IPI to all others")?;
    check(apic.write_icr(5 << 8) == Err(Errno::EOPNOTSUPP), "INIT is refused")?;
    priorities(&apic)?;
    each(arm);
    check(soon(|| EXPIRED.load(SeqCst) == all), "a timer did not expire")?;
    check(CpuSet::online().contains(0), "this CPU")?;
    println!("vectors: to one, all and the others, by priority, and from every CPU's timer");
    Ok(())
}

fn priorities(apic: &LocalApic) -> Step {
    ORDER.store(0, SeqCst);
    events::without_upcalls(|| {
        apic.send_ipi_self(LOW);
        apic.send_ipi_self(HIGH);
    });
    let both = u64::from(HIGH) << 8 | u64::from(LOW);
    check(soon(|| ORDER.load(SeqCst) == both), "the higher vector was not first")?;
    apic.set_task_priority(LOW);
    apic.send_ipi_self(LOW);
    apic.send_ipi_self(HIGH);
    check(soon(|| ORDER.load(SeqCst) & 255 == u64::from(HIGH)), "a vector above the task priority")?;
    apic.set_task_priority(0);
    check(soon(|| ORDER.load(SeqCst) & 255 == u64::from(LOW)), "a vector that the task priority held back")?;
    GOT.store(0, SeqCst);
    Ok(())
}

fn arm(_: &'static smp::Cpu) {
    let apic = LocalApic::current();
    let armed = apic.set_timer_vector(TIMER).and_then(|()| {
        if apic.id() % 2 == 0 {
            apic.arm_timer(time::now() + 2_000_000)
        } else {
            apic.arm_tsc_deadline(time::tsc() + 1000)
        }
    });
    if let Err(error) = armed {
        println!("timer: {error:?}");
    }
}
