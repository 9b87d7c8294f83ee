//! Running code on other CPUs, and waiting until they have.
//!
//! One call is under way at a time. Its maker sets the flag of each CPU that it wants, and sends it an event; a CPU whose
//! flag is set runs the work and counts itself off. A CPU that waits for its turn to call serves calls meanwhile, so
//! that two that call each other with upcalls masked do not wait for ever.
//!
//! A CPU that goes down says so, and then takes its flag away. A caller sets the flag, and then looks whether the CPU is
//! still there. Both exchange the flag, so one of the two is later, and sees all that the other did before: either the CPU
//! finds the flag and serves the call, or the caller finds the CPU gone and takes the call back. A plain store of the
//! flag could take effect after the look. The tests try every order of this very code.

use core::ptr;
#[cfg(target_os = "none")]
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::sync::atomic::{AtomicPtr, AtomicU32};

use super::{Cpu, CpuSet, State, cpu, this_cpu};
use crate::events::{self, Port};
use crate::sched;
use crate::sync::word::Word;

/// What other CPUs are asked to do.
type Work<'a> = &'a (dyn Fn(&'static Cpu) + Sync);

/// What all callers share.
struct Call<W> {
    /// Not zero: a call is under way.
    busy: W,
    /// CPUs that have not done it yet.
    left: W,
}

/// What a caller and the CPU that is called share.
struct Callee<'a, W> {
    /// Not zero: the CPU is asked.
    called: &'a W,
    /// The CPU's [`State`].
    state: &'a W,
}

impl<W: Word> Call<W> {
    /// Makes the calling CPU the only one that calls, where no other does.
    fn begin(&self) -> bool {
        self.busy.swap(1) == 0
    }

    /// Whether every CPU that was asked has done it.
    fn is_done(&self) -> bool {
        self.left.read() == 0
    }

    fn end(&self) {
        self.busy.write(0);
    }

    /// Asks one CPU for the work. `tell` sends it the event, and says whether that could be done.
    fn ask(&self, cpu: &Callee<'_, W>, tell: impl FnOnce() -> bool) {
        self.left.add(1);
        cpu.called.swap(1);
        let is_told = cpu.state.read() == State::Online as u32 && tell();
        // A CPU that went down in between may not serve the call: then take it back.
        if !is_told && cpu.called.swap(0) != 0 {
            self.left.add(u32::MAX);
        }
    }

    /// Does on the CPU that is called what another one asks for, if one does.
    fn serve(&self, cpu: &Callee<'_, W>, work: impl FnOnce()) {
        if cpu.called.swap(0) != 0 {
            work();
            self.left.add(u32::MAX);
        }
    }

    /// Says that the CPU is no longer there to be called, and serves a call that came before others saw that.
    #[cfg_attr(not(any(test, target_os = "none")), allow(dead_code))]
    fn go_down(&self, cpu: &Callee<'_, W>, work: impl FnOnce()) {
        cpu.state.write(State::Down as u32);
        self.serve(cpu, work);
    }
}

/// The call that is under way.
static CALL: Call<AtomicU32> = Call { busy: AtomicU32::new(0), left: AtomicU32::new(0) };
/// Its [`Work`].
static WORK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Looks before a CPU that waits for others lets the hypervisor run something else.
const SPINS: u32 = 1000;

/// Runs `work` on every CPU of `set` that is online, in the upcall, with upcalls masked, and returns when all have
/// done it. On the calling CPU, where it is in the set, it runs right here. A CPU that stops meanwhile may
/// have done it or not.
///
/// CPUs that keep upcalls masked keep the caller waiting. Not from within `work`.
#[doc(alias("smp_call_function_many", "on_each_cpu"))]
pub fn run_on(set: &CpuSet, work: Work<'_>) {
    let was_masked = events::mask_upcalls();
    let this = this_cpu();
    wait_until(this, || CALL.begin());
    let work: Work<'_> = work;
    WORK.store((&raw const work).cast_mut().cast(), Release);
    let wanted = |cpu: &&Cpu| set.contains(cpu.number()) && !ptr::eq(*cpu, this);
    super::online().filter(wanted).for_each(|cpu| {
        CALL.ask(&callee(cpu), || events::notify(Port(cpu.call.load(Acquire))).is_ok());
    });
    if set.contains(this.number()) {
        work(this);
    }
    wait_until(this, || CALL.is_done());
    CALL.end();
    if !was_masked {
        events::unmask_upcalls();
    }
}

fn callee(cpu: &Cpu) -> Callee<'_, AtomicU32> {
    Callee { called: &cpu.called, state: &cpu.state }
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
fn serve(this: &'static Cpu) {
    CALL.serve(&callee(this), || work_of_call(this));
}

/// Takes the calling CPU, on which upcalls are masked, out of those that can be called.
#[cfg(target_os = "none")]
pub(super) fn go_down(this: &'static Cpu) {
    CALL.go_down(&callee(this), || work_of_call(this));
}

/// Runs the work of the call that this CPU's flag was set for.
fn work_of_call(this: &'static Cpu) {
    let work = WORK.load(Acquire).cast::<Work<'_>>();
    // SAFETY: the flag was set after `WORK`, and who set both waits until `left` is zero, which this CPU still counts in,
    // before what it points to goes away.
    unsafe { (*work)(this) };
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
mod tests;
