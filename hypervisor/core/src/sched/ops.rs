//! What the rest of the hypervisor asks of the scheduler: choosing, waking, sleeping, pausing, moving.

use super::place::From;
use super::words::Tell;
use super::{Reasons, VcpuSched};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::hypercall::Cx;
use crate::ids::{Nanos, Port};
use crate::platform::{Platform, Work};
use crate::time::RunState;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use xen_abi::GuestHandle;
use xen_abi::errno::Errno;

/// Most ports that one `SCHEDOP_poll` may name.
const POLL_PORTS: u32 = 128;

/// What a look at the ports of a poll led to.
enum Look {
    /// There is something to do.
    Stay,
    /// There is not; this port was looked at last.
    Sleep(Port),
}

impl<P: Platform> Hypervisor<P> {
    /// Chooses what this CPU runs from now on; `None`: nothing, it idles. To be called when [`Work::RESCHEDULE`] was raised,
    /// with what the CPU ran until now (one that was already saved counts as none). If the answer is another vCPU, the
    /// binary saves the old one's registers into `Vcpu::saved`, loads the new one and calls
    /// [`Hypervisor::vcpu_switched`] before it calls this again.
    pub fn schedule(&self, current: Option<&VcpuRef<P>>) -> Option<VcpuRef<P>> {
        let cpu = self.platform.this_cpu();
        let here = |running: &&VcpuRef<P>| {
            let vcpu = running.vcpu();
            self.sched.is_on_cpu(vcpu) && vcpu.cpu.load(Ordering::SeqCst) == cpu.0
        };
        let current = current.filter(here);
        let chosen = self.sched.choose(&self.platform, cpu, self.platform.now(), current);
        let queue = self.sched.queue(cpu);
        if !self.timers.expires_by(cpu, queue.deadline()) {
            let switches = match (current, &chosen) {
                (Some(current), Some(chosen)) => !current.is(chosen),
                (current, chosen) => current.is_some() != chosen.is_some(),
            };
            if switches {
                queue.rearm.store(true, Ordering::Relaxed);
            } else {
                self.rearm_sooner();
            }
        }
        chosen
    }

    /// This CPU runs `next` instead of `prev`: the registers of `prev` are saved, the address space of `next` is
    /// loaded, and `next` has not yet run. Accounts the run states, publishes the time to `next`, and lets `prev` go
    /// wherever it may run.
    ///
    /// Nothing but the root of a vCPU keeps its page tables, and where it runs next it may give them up and write to them. So
    /// this CPU must have another root loaded before it lets `prev` go; with no `next` it leaves those tables here.
    pub fn vcpu_switched(&self, prev: Option<&VcpuRef<P>>, next: Option<&VcpuRef<P>>) {
        let cpu = self.platform.this_cpu();
        let now = self.platform.now();
        self.sched.account_idle(cpu, next.is_some(), now);
        let queue = self.sched.queue(cpu);
        let mut rearm = queue.rearm.load(Ordering::Relaxed);
        if let Some(prev) = prev {
            let vcpu = prev.vcpu();
            if next.is_none() {
                self.platform.leave_page_tables();
                prev.domain.dirty_cpus.remove(cpu);
            }
            vcpu.time.change_runstate(idle_state(&vcpu.sched), now);
            self.vcpu_time_stopped(prev);
            let runnable = self.sched.stopped(&self.platform, prev, now);
            self.sched.give_up_cpu(&self.platform, now, vcpu);
            if runnable {
                self.sched.enqueue(&self.platform, now, prev, From::Cpu);
            }
        }
        if let Some(next) = next {
            next.domain.dirty_cpus.insert(cpu);
            // Whoever stopped it while it was being chosen took it for one that is on no CPU.
            let vcpu = next.vcpu();
            if !vcpu.sched.runnable() {
                self.platform.raise_work(cpu, Work::RESCHEDULE);
            }
            vcpu.time.change_runstate(RunState::Running, now);
            rearm |= self.vcpu_time_started(next, now);
        }
        if rearm {
            queue.rearm.store(false, Ordering::Relaxed);
            self.rearm_sooner();
        }
    }

    /// [`Hypervisor::schedule`] chose a vCPU that has no page tables to run on. It leaves this CPU without having run, and
    /// its domain ends. The CPU chooses anew.
    pub fn refuse_chosen(&self, vcpu: &VcpuRef<P>) {
        self.end_rootless(vcpu);
        let now = self.platform.now();
        self.sched.saved(vcpu.vcpu(), now);
        vcpu.vcpu().time.change_runstate(RunState::Offline, now);
        self.sched.give_up_cpu(&self.platform, now, vcpu.vcpu());
    }

    /// Ends the domain of a vCPU that has no page tables to run on; this vCPU stops even if its domain is past its end.
    pub fn end_rootless(&self, vcpu: &VcpuRef<P>) {
        self.suspend(vcpu.vcpu(), Reasons::STOPPED);
        self.crash_domain(&vcpu.domain, "a vCPU that was to run has no page tables");
    }

    /// Brings a vCPU up: it runs from its saved registers. Answers whether it was down.
    pub fn bring_up(&self, vcpu: &VcpuRef<P>) -> bool {
        let was_down = !vcpu.vcpu().sched.is_up();
        self.resume(vcpu, Reasons::DOWN);
        was_down
    }

    /// Takes a vCPU down. It may still run for a moment on another CPU.
    pub fn take_down(&self, vcpu: &Vcpu<P>) {
        self.suspend(vcpu, Reasons::DOWN);
    }

    /// Keeps a vCPU from running until [`Hypervisor::unpause`]; pauses nest. It may still run for a moment on
    /// another CPU.
    pub fn pause(&self, vcpu: &Vcpu<P>) {
        vcpu.sched.words.pause();
        self.interrupt(vcpu);
    }

    /// Undoes one [`Hypervisor::pause`].
    pub fn unpause(&self, vcpu: &VcpuRef<P>) {
        if vcpu.vcpu().sched.words.unpause() {
            self.enqueue_woken(vcpu, From::Sleep);
        }
    }

    /// An event waits for this vCPU: wakes it if it sleeps, interrupts it if it runs on another CPU, so that it looks.
    pub fn kick(&self, vcpu: &VcpuRef<P>) {
        self.kick_vcpu(&vcpu.domain, vcpu.vcpu());
    }

    /// [`Hypervisor::kick`] for a vCPU of this domain.
    #[inline(always)]
    pub(crate) fn kick_vcpu(&self, domain: &Arc<Domain<P>>, vcpu: &Vcpu<P>) {
        match vcpu.sched.words.tell(&vcpu.cpu, self.platform.this_cpu()) {
            Tell::Nobody => {}
            Tell::Wake => self.resume(&VcpuRef { domain: domain.clone(), id: vcpu.id }, Reasons::BLOCKED),
            Tell::Interrupt(cpu) => self.platform.raise_work(cpu, Work::empty()),
        }
    }

    /// Wakes the vCPUs of a domain that poll this port.
    #[inline(always)]
    pub fn wake_pollers(&self, domain: &Arc<Domain<P>>, port: Port) {
        if domain.sched.pollers.load(Ordering::SeqCst) != 0 {
            self.wake_pollers_of(domain, port);
        }
    }

    /// Lets other vCPUs that wait for this CPU go first (`SCHEDOP_yield`).
    pub fn yield_cpu(&self, vcpu: &Vcpu<P>) {
        vcpu.sched.yielded.store(true, Ordering::Relaxed);
        self.platform.raise_work(self.platform.this_cpu(), Work::RESCHEDULE);
    }

    /// Unmasks the calling vCPU's upcalls and lets it sleep until an event is pending (`SCHEDOP_block`).
    pub fn block(&self, cx: Cx<'_, P>) {
        let flags = self.upcall_flags(cx.vcpu);
        flags.unmask();
        if cx.vcpu.sched.words.sleep(|| flags.deliverable()) {
            self.platform.raise_work(self.platform.this_cpu(), Work::RESCHEDULE);
        }
    }

    /// Lets the calling vCPU sleep until one of the ports has a pending event, or until the system time `timeout` (0: for ever).
    ///
    /// # Errors
    /// `EINVAL` for more than 128 ports or one that is not valid, `EFAULT` for ports that cannot be read.
    pub fn poll(
        &self,
        cx: Cx<'_, P>,
        ports: GuestHandle<u32>,
        count: u32,
        timeout: u64,
    ) -> Result<(), Errno> {
        if count > POLL_PORTS {
            return Err(Errno::EINVAL);
        }
        let sched = &cx.vcpu.sched;
        sched.words.begin_poll(&sched.share.pollers);
        match self.look_at_ports(cx, GuestPtr::from(ports), count) {
            Ok(Look::Sleep(last)) => self.sleep_polling(cx, (count == 1).then_some(last), timeout),
            Ok(Look::Stay) => self.wake_self(sched),
            Err(errno) => {
                self.wake_self(sched);
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Whether there is a reason not to sleep: an upcall, or one of the ports.
    fn look_at_ports(&self, cx: Cx<'_, P>, ports: GuestPtr<u32>, count: u32) -> Result<Look, Errno> {
        if self.upcall_flags(cx.vcpu).deliverable() {
            return Ok(Look::Stay);
        }
        let mut last = Port(0);
        for index in 0..count {
            last = Port(ports.read_at(self, u64::from(index))?);
            if self.event_is_pending(cx.domain, last)? {
                return Ok(Look::Stay);
            }
        }
        Ok(Look::Sleep(last))
    }

    /// The vCPU polls from now on; if somebody woke it already, the scheduler sees that.
    fn sleep_polling(&self, cx: Cx<'_, P>, only: Option<Port>, timeout: u64) {
        if let Some(port) = only {
            cx.vcpu.sched.words.narrow_poll(port);
        }
        match timeout {
            // One from an earlier poll may still be armed.
            0 => self.stop_poll_timer(cx.vcpu),
            deadline => self.arm_poll_timer(cx, Nanos(deadline)),
        }
        self.platform.raise_work(self.platform.this_cpu(), Work::RESCHEDULE);
    }

    /// The running vCPU does not sleep after all.
    fn wake_self(&self, sched: &VcpuSched) {
        self.take_reasons(sched, Reasons::BLOCKED);
    }

    fn take_reasons(&self, sched: &VcpuSched, reasons: Reasons) -> bool {
        let taken = sched.words.take(reasons);
        if taken.stopped_polling {
            sched.share.pollers.fetch_sub(1, Ordering::SeqCst);
        }
        taken.runnable
    }

    /// Takes reasons away and queues the vCPU if that was all.
    pub(crate) fn resume(&self, vcpu: &VcpuRef<P>, reasons: Reasons) {
        if self.take_reasons(&vcpu.vcpu().sched, reasons) {
            self.enqueue_woken(vcpu, if reasons == Reasons::CAPPED { From::Cap } else { From::Sleep });
        }
    }

    /// Adds reasons and makes the CPU that runs the vCPU notice.
    pub(crate) fn suspend(&self, vcpu: &Vcpu<P>, reasons: Reasons) {
        vcpu.sched.add(reasons);
        self.interrupt(vcpu);
    }

    /// Ends the poll of a vCPU that will not run again.
    pub(crate) fn stop_polling(&self, vcpu: &Vcpu<P>) {
        self.take_reasons(&vcpu.sched, Reasons::BLOCKED);
    }

    fn enqueue_woken(&self, vcpu: &VcpuRef<P>, from: From) {
        let (now, woken) = (self.platform.now(), vcpu.vcpu());
        if !self.sched.is_on_cpu(woken) {
            woken.time.change_runstate(RunState::Runnable, now);
        }
        let Some((cpu, vruntime)) = self.sched.queue_up(&self.platform, now, vcpu, from) else {
            return;
        };
        let learnt = if cpu == self.platform.this_cpu() {
            self.sched.learn(&self.platform, cpu, now, vruntime)
        } else {
            None
        };
        match learnt {
            None => self.sched.notice(&self.platform, cpu, now, vruntime),
            Some(true) if !self.timers.expires_by(cpu, self.sched.queue(cpu).deadline()) => {
                self.rearm_sooner()
            }
            Some(_) => {}
        }
    }

    pub(super) fn interrupt(&self, vcpu: &Vcpu<P>) {
        if let Some(cpu) = vcpu.sched.words.runs_on(&vcpu.cpu) {
            self.platform.raise_work(cpu, Work::RESCHEDULE);
        } else {
            let now = self.platform.now();
            vcpu.time.change_runstate(idle_state(&vcpu.sched), now);
            self.sched.give_up_cpu(&self.platform, now, vcpu);
        }
    }
}

/// Run state of a vCPU that is on no CPU.
fn idle_state(sched: &VcpuSched) -> RunState {
    if sched.runnable() {
        RunState::Runnable
    } else if sched.words.only_blocked() {
        RunState::Blocked
    } else {
        RunState::Offline
    }
}
