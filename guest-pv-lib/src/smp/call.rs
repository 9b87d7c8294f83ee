//! Running code on other CPUs, and waiting until they have.
//!
//! One call is under way at a time. Its maker sets the flag of each CPU that it wants, and sends it an event; a CPU whose
//! flag is set runs the work and counts itself off. A CPU that waits for its turn to call serves calls meanwhile, so
//! that two that call each other with upcalls masked do not wait for ever.

use core::ptr;
#[cfg(target_os = "none")]
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

use super::{Cpu, CpuSet, State, cpu, this_cpu};
use crate::events::{self, Port};
use crate::sched;

/// What other CPUs are asked to do.
type Work<'a> = &'a (dyn Fn(&'static Cpu) + Sync);

/// A call is under way.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Its [`Work`].
static WORK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// CPUs that have not done it yet.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Looks before a CPU that waits for others lets the hypervisor run something else.
const SPINS: u32 = 1000;

/// Runs `work` on every CPU of `set` that is online, in the upcall, with upcalls masked, and returns when all have
/// done it. On the calling CPU, where it is in the set, it runs right here.
///
/// CPUs that keep upcalls masked keep the caller waiting. Not from within `work`.
#[doc(alias("smp_call_function_many", "on_each_cpu"))]
pub fn run_on(set: &CpuSet, work: Work<'_>) {
    let was_masked = events::mask_upcalls();
    let this = this_cpu();
    wait_until(this, || !BUSY.swap(true, AcqRel));
    let work: Work<'_> = work;
    WORK.store((&raw const work).cast_mut().cast(), Release);
    let wanted = |cpu: &&Cpu| set.contains(cpu.number()) && !ptr::eq(*cpu, this);
    super::online().filter(wanted).for_each(ask);
    if set.contains(this.number()) {
        work(this);
    }
    wait_until(this, || LEFT.load(Acquire) == 0);
    BUSY.store(false, Release);
    if !was_masked {
        events::unmask_upcalls();
    }
}

/// Asks one CPU for the work.
fn ask(cpu: &'static Cpu) {
    LEFT.fetch_add(1, AcqRel);
    cpu.called.store(true, Release);
    let port = Port(cpu.call.load(Acquire));
    // A CPU that went down in between may not serve the call: then take it back.
    if (cpu.state() != State::Online || events::notify(port).is_err()) && cpu.called.swap(false, AcqRel) {
        LEFT.fetch_sub(1, AcqRel);
    }
}

/// Waits for other CPUs, and serves their calls meanwhile. Upcalls are masked.
fn wait_until(this: &'static Cpu, condition: impl Fn() -> bool) {
    let mut looks = 0;
    while !condition() {
        serve(this);
        looks += 1;
        if looks % SPINS == 0 {
            // The CPU that this one waits for may have no processor to run on.
            sched::yield_now();
        }
        core::hint::spin_loop();
    }
}

/// Does what another CPU asks for, if one does.
pub(super) fn serve(this: &'static Cpu) {
    if this.called.swap(false, AcqRel) {
        let work = WORK.load(Acquire).cast::<Work<'_>>();
        // SAFETY: the flag was set after `WORK`, and who set both waits until `LEFT` is zero before what it points to
        // goes away.
        unsafe { (*work)(this) };
        LEFT.fetch_sub(1, AcqRel);
    }
}

/// Gives a CPU the port that others call it by.
#[cfg(target_os = "none")]
pub(super) fn init(cpu: &'static Cpu) -> Result<(), crate::Errno> {
    let port = events::bind_ipi(cpu.number())?;
    events::set_handler(port, |_| serve(this_cpu()));
    events::unmask(port);
    cpu.call.store(port.0, Relaxed);
    Ok(())
}

/// Wakes CPU `number` where it waits in [`sched::wait`], and does nothing else to it.
///
/// False where that CPU is not online.
#[doc(alias = "smp_send_reschedule")]
pub fn wake(number: u32) -> bool {
    let Some(cpu) = cpu(number).filter(|cpu| cpu.state() == State::Online) else { return false };
    events::notify(Port(cpu.call.load(Acquire))).is_ok()
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn the_calling_cpu_does_its_own_part() {
        let done = AtomicU32::new(0);
        run_on(&CpuSet::online(), &|cpu| {
            done.fetch_add(1 + cpu.number(), Relaxed);
        });
        assert_eq!(done.load(Relaxed), 1);
        run_on(&CpuSet::others(), &|_| {
            done.fetch_add(1, Relaxed);
        });
        assert_eq!(done.load(Relaxed), 1);
        assert!(!wake(1));
    }
}
