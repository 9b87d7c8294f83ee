//! An interface shaped like a local APIC in x2APIC mode, for kernels that had one.
//!
//! A PV domain has no APIC: CPUs interrupt each other, and timers interrupt them, by event channels. A kernel whose code
//! thinks in vectors keeps thinking so: it sets a handler for a vector, sends interrupts by CPU number, arms a timer, and
//! ends each interrupt with [`LocalApic::end_of_interrupt`]. Vectors have the priorities that they have there: an
//! interrupt waits while one of the same or a higher class (the vector's upper four bits) is in service, or where the
//! task priority says so. What an event of the CPU's port becomes is up to [`vectors`].
//!
//! ```no_run
//! use guest_pv_lib::{Errno, apic::{self, LocalApic}, events, time};
//!
//! const TIMER: u8 = 0x40;
//!
//! # fn example() -> Result<(), Errno> {
//! let apic = LocalApic::enable()?;
//! apic::set_handler(TIMER, |_| LocalApic::current().end_of_interrupt());
//! apic.set_timer_vector(TIMER)?;
//! apic.arm_timer(time::now() + 1_000_000)?;
//! events::unmask_upcalls();
//! # Ok(())
//! # }
//! ```

mod icr;
pub mod vectors;

use core::marker::PhantomData;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use xen_abi::hypercall::nr;
use xen_abi::vcpu::VCPUOP_SEND_NMI;

pub use icr::{Command, Destination};

use crate::events::{self, Port, Virq};
use crate::hypercall::{Errno, check, raw};
use crate::smp::{self, Cpu, this_cpu};
use crate::time;

/// What runs for a vector: in the upcall, with upcalls masked.
pub type Handler = fn(u8);

/// Null or a [`Handler`] for each vector.
static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];

/// Sets what runs for `vector`, on every CPU. An interrupt without a handler ends at once.
pub fn set_handler(vector: u8, handler: Handler) {
    HANDLERS[usize::from(vector)].store(handler as *mut (), Release);
}

/// The calling CPU's interrupts.
///
/// It stays on its CPU; handlers get theirs by [`current`](Self::current).
#[doc(alias("x2apic", "lapic"))]
#[derive(Debug)]
pub struct LocalApic {
    cpu: &'static Cpu,
    _here: PhantomData<*const ()>,
}

impl LocalApic {
    /// Lets this CPU take interrupts.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where no port is free.
    pub fn enable() -> Result<Self, Errno> {
        let cpu = this_cpu();
        if cpu.apic.port.load(Relaxed) == 0 {
            let port = events::bind_ipi(cpu.number())?;
            events::set_handler(port, |_| deliver(this_cpu()));
            cpu.apic.port.store(port.0, Release);
            events::unmask(port);
        }
        Ok(Self::of(cpu))
    }

    /// The calling CPU's, whether it is enabled or not.
    #[must_use]
    pub fn current() -> Self {
        Self::of(this_cpu())
    }

    const fn of(cpu: &'static Cpu) -> Self {
        Self { cpu, _here: PhantomData }
    }

    /// The number by which others address this CPU.
    #[doc(alias = "IA32_X2APIC_APICID")]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.cpu.number()
    }

    /// Ends the interrupt in service that has the highest priority, and takes those that waited for it.
    #[doc(alias("IA32_X2APIC_EOI", "eoi"))]
    pub fn end_of_interrupt(&self) {
        self.cpu.apic.vectors.end();
        self.deliver_waiting();
    }

    /// Holds back vectors whose upper four bits are not above those of `priority`.
    #[doc(alias("IA32_X2APIC_TPR", "cr8"))]
    pub fn set_task_priority(&self, priority: u8) {
        self.cpu.apic.vectors.set_priority(priority);
        self.deliver_waiting();
    }

    /// Takes the interrupts that may come now; where upcalls are masked, with the next upcall.
    fn deliver_waiting(&self) {
        if self.cpu.apic.vectors.is_ready() {
            // By an event, so that the handlers run in an upcall and not on top of the code here.
            let _ = events::notify(Port(self.cpu.apic.port.load(Relaxed)));
        }
    }

    /// Sends interrupt `vector` to CPU `destination`. False where that CPU takes none.
    pub fn send_ipi(&self, vector: u8, destination: u32) -> bool {
        smp::cpu(destination).is_some_and(|cpu| request(cpu, vector))
    }

    /// Sends interrupt `vector` to this CPU.
    #[doc(alias = "IA32_X2APIC_SELF_IPI")]
    pub fn send_ipi_self(&self, vector: u8) {
        request(self.cpu, vector);
    }

    /// Sends a non-maskable interrupt to CPU `destination`, which must have a handler registered.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is no such CPU, `EINVAL` where it has no handler.
    #[doc(alias = "VCPUOP_send_nmi")]
    pub fn send_nmi(&self, destination: u32) -> Result<(), Errno> {
        // SAFETY: the command has no argument; it runs a handler that the kernel registered for this.
        check(unsafe { raw::call3(nr::VCPU_OP, VCPUOP_SEND_NMI.into(), destination.into(), 0) }).map(drop)
    }

    /// What a write of `value` to the interrupt command register does.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a kind of interrupt that a PV domain does not have: CPUs are started by
    /// [`smp::start`](crate::smp), not by INIT and SIPI.
    #[doc(alias = "IA32_X2APIC_ICR")]
    pub fn write_icr(&self, value: u64) -> Result<(), Errno> {
        let (command, destination) = icr::decode(value).ok_or(Errno::EOPNOTSUPP)?;
        for cpu in smp::online().filter(|cpu| destination.has(cpu.number(), self.id())) {
            match command {
                Command::Fixed(vector) => drop(request(cpu, vector)),
                Command::Nmi => self.send_nmi(cpu.number())?,
            }
        }
        Ok(())
    }

    /// Makes expiries of this CPU's timer interrupt `vector`. The timer's virtual interrupt is this interface's from
    /// then on.
    ///
    /// # Errors
    ///
    /// `EEXIST` where the kernel bound the virtual interrupt itself.
    #[doc(alias = "IA32_X2APIC_LVT_TIMER")]
    pub fn set_timer_vector(&self, vector: u8) -> Result<(), Errno> {
        self.cpu.apic.timer_vector.store(vector, Relaxed);
        if self.cpu.apic.timer_port.load(Relaxed) == 0 {
            let port = events::bind_virq(Virq::TIMER)?;
            events::set_handler(port, |_| {
                let cpu = this_cpu();
                cpu.apic.vectors.request(cpu.apic.timer_vector.load(Relaxed));
                deliver(cpu);
            });
            self.cpu.apic.timer_port.store(port.0, Relaxed);
            events::unmask(port);
        }
        Ok(())
    }

    /// Lets the timer expire at system time `at`, in nanoseconds.
    ///
    /// # Errors
    ///
    /// None on any known hypervisor.
    pub fn arm_timer(&self, at: u64) -> Result<(), Errno> {
        time::set_oneshot(at)
    }

    /// Lets the timer expire when the time-stamp counter reads `deadline`; zero takes it back.
    ///
    /// # Errors
    ///
    /// None on any known hypervisor.
    #[doc(alias = "IA32_TSC_DEADLINE")]
    pub fn arm_tsc_deadline(&self, deadline: u64) -> Result<(), Errno> {
        if deadline == 0 { time::stop_oneshot() } else { time::set_oneshot(time::at_tsc(deadline)) }
    }
}

/// Asks `cpu` for `vector`. False where that CPU takes no interrupts.
fn request(cpu: &'static Cpu, vector: u8) -> bool {
    let port = cpu.apic.port.load(Acquire);
    if port == 0 {
        return false;
    }
    // Requested and not taken yet: its event is on the way.
    !cpu.apic.vectors.request(vector) || events::notify(Port(port)).is_ok()
}

/// Runs handlers for what may come now. In an upcall.
fn deliver(cpu: &'static Cpu) {
    while let Some(vector) = cpu.apic.vectors.next() {
        let handler = HANDLERS[usize::from(vector)].load(Acquire);
        // SAFETY: null is `None`; anything else `set_handler` put there.
        match unsafe { core::mem::transmute::<*mut (), Option<Handler>>(handler) } {
            Some(handler) => handler(vector),
            None => cpu.apic.vectors.end(),
        }
    }
}
