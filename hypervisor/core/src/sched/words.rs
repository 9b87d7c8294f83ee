//! The words by which a vCPU falls asleep, is woken, is told of events and is kept from running, and by which a CPU learns
//! that somebody waits for it: what several CPUs do to them at the same time, without a lock.
//!
//! Each of those who meet writes one word first and looks at the other's then, so that of any two at least one sees the other:
//!
//! | who | writes | then looks at |
//! |---|---|---|
//! | a sender of an event | the event's bit, the upcall flag | the reasons ([`VcpuWords::tell`], [`VcpuWords::polls`]), then where the vCPU is |
//! | who falls asleep | the reason | the upcall flag, the ports that it polls ([`VcpuWords::sleep`]) |
//! | who takes a reason away | the reasons | the place, under the queue's lock ([`VcpuWords::wanted`]) |
//! | the CPU that stops running it | the place, under the lock | the reasons |
//! | who adds a reason | the reasons | the place |
//! | who works on a vCPU that it stopped | the reasons | the place, under the lock |
//! | the CPU that begins to run it | the place | the reasons, then the upcall flag |
//! | who queues a vCPU | the number of those that wait | what the CPU knows ([`Contended`]) |
//! | a CPU that chose what it runs | what it knows | the number of those that wait |
//!
//! `tests/orders.rs` tries every order of these steps.

use super::Reasons;
use crate::ids::{CpuId, Port};
use crate::sync::Word;
use core::sync::atomic::AtomicU32;

/// What one pause adds to the word of reasons.
const PAUSE: u32 = 1 << 8;
/// `poll_port` of a vCPU that polls several ports: any event of the domain wakes it.
const ANY_PORT: u32 = u32::MAX;
/// A vCPU that polls is blocked, too: polling is no reason of its own.
const POLLING: u32 = Reasons::POLLING.bits();

/// Where a vCPU is, as its queue's lock guards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Place {
    /// In no queue.
    Off = 0,
    /// Waiting in its CPU's queue.
    Waiting = 1,
    /// Running on its CPU.
    Running = 2,
}

/// What taking reasons away led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// There were reasons, and none is left.
    pub runnable: bool,
    /// It polled until now.
    pub stopped_polling: bool,
}

/// Whom to tell that a vCPU has an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Nobody: whoever runs it, or will, looks by itself before it goes on.
    Nobody,
    /// The vCPU sleeps: it is to be woken.
    Wake,
    /// The CPU that runs it, so that it looks.
    Interrupt(CpuId),
}

/// What is to become of a vCPU that somebody wants to queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: it is not runnable, or on a CPU.
    Nothing,
    /// It waits already, perhaps not at the best place.
    Again,
    /// It is in no queue.
    Queue,
}

/// The words of one vCPU.
pub(super) struct VcpuWords<W = AtomicU32> {
    /// [`Reasons`], and pauses above them.
    reasons: W,
    /// [`Place`].
    place: W,
    /// Port it polls, or [`ANY_PORT`]; meaningful while [`Reasons::POLLING`] is set.
    poll_port: W,
}

impl<W: Word<u32>> VcpuWords<W> {
    /// A vCPU that is in no queue, for these reasons; `word` makes a word.
    pub fn new(word: impl Fn(u32) -> W, reasons: Reasons) -> Self {
        Self { reasons: word(reasons.bits()), place: word(Place::Off as u32), poll_port: word(ANY_PORT) }
    }

    /// The reasons not to run, with pauses.
    pub fn reasons(&self) -> u32 {
        self.reasons.read()
    }

    /// Whether nothing keeps it from running.
    pub fn runnable(&self) -> bool {
        self.reasons() & !POLLING == 0
    }

    /// Whether all of `reasons` hold.
    #[inline(always)]
    pub fn has(&self, reasons: Reasons) -> bool {
        self.reasons() & reasons.bits() == reasons.bits()
    }

    /// Whether it sleeps, and nothing else keeps it from running.
    pub fn only_blocked(&self) -> bool {
        self.reasons() & !POLLING == Reasons::BLOCKED.bits()
    }

    pub fn place(&self) -> Place {
        match self.place.read() {
            0 => Place::Off,
            1 => Place::Waiting,
            _ => Place::Running,
        }
    }

    /// The caller holds the lock of the queue that it belongs to.
    pub fn set_place(&self, place: Place) {
        self.place.exchange(place as u32);
    }

    /// One more reason, or several. A CPU that runs the vCPU is to be made to look then.
    pub fn add(&self, reasons: Reasons) {
        self.reasons.set_bits(reasons.bits());
    }

    /// Takes reasons away; with [`Reasons::BLOCKED`] goes [`Reasons::POLLING`].
    pub fn take(&self, reasons: Reasons) -> Taken {
        let reasons = if reasons.contains(Reasons::BLOCKED) { reasons | Reasons::POLLING } else { reasons };
        let old = self.reasons.clear_bits(reasons.bits());
        let kept = old & !reasons.bits();
        Taken {
            runnable: old & !POLLING != 0 && kept & !POLLING == 0,
            stopped_polling: old & reasons.bits() & POLLING != 0,
        }
    }

    /// Pauses nest.
    pub fn pause(&self) {
        self.reasons.add(PAUSE);
    }

    /// Undoes one pause; answers whether that was the last reason.
    pub fn unpause(&self) -> bool {
        let old = self.reasons.add(PAUSE.wrapping_neg());
        debug_assert!(old >= PAUSE, "unpaused more often than paused");
        old & !POLLING == PAUSE
    }

    /// The vCPU itself, which runs, falls asleep; `awake` looks whether there is something that keeps it from that. Answers
    /// whether it sleeps: its CPU is to choose anew then.
    pub fn sleep(&self, awake: impl FnOnce() -> bool) -> bool {
        self.add(Reasons::BLOCKED);
        // What came before the line above found nobody to wake, what comes after it wakes: look in between.
        if awake() {
            self.take(Reasons::BLOCKED);
            return false;
        }
        true
    }

    /// As [`VcpuWords::sleep`] begins, for one that polls ports, any at first. The caller looks at the ports now.
    pub fn begin_poll(&self, pollers: &W) {
        self.poll_port.exchange(ANY_PORT);
        pollers.add(1);
        self.add(Reasons::BLOCKED | Reasons::POLLING);
    }

    /// It polls only this port.
    pub fn narrow_poll(&self, port: Port) {
        self.poll_port.exchange(port.0);
    }

    /// Whether an event at this port ends its poll.
    pub fn polls(&self, port: Port) -> bool {
        let polled = self.poll_port.read();
        self.has(Reasons::POLLING) && (polled == port.0 || polled == ANY_PORT)
    }

    /// The CPU that runs it, and is to be made to look at a reason that was added; `cpu` as for [`VcpuWords::tell`].
    pub fn runs_on(&self, cpu: &W) -> Option<CpuId> {
        (self.place() == Place::Running).then(|| CpuId(cpu.read()))
    }

    /// The vCPU's upcall flag was set by CPU `here`: whom to tell. `cpu` is the number of the CPU whose queue the vCPU belongs to.
    #[inline(always)]
    pub fn tell(&self, cpu: &W, here: CpuId) -> Tell {
        if self.has(Reasons::BLOCKED) {
            return Tell::Wake;
        }
        match CpuId(cpu.read()) {
            cpu if cpu == here => Tell::Nobody,
            cpu if self.place() == Place::Running => Tell::Interrupt(cpu),
            _ => Tell::Nobody,
        }
    }

    /// What becomes of it if it is to be queued. The caller holds the lock of the queue that it belongs to.
    pub fn wanted(&self) -> Wanted {
        match self.place() {
            _ if !self.runnable() => Wanted::Nothing,
            Place::Running => Wanted::Nothing,
            Place::Waiting => Wanted::Again,
            Place::Off => Wanted::Queue,
        }
    }
}

/// Whether somebody waits for what a CPU runs to let it go first, as far as the CPU knows.
pub(super) struct Contended<W = AtomicU32>(W);

impl<W: Word<u32>> Contended<W> {
    /// A CPU that knows of nobody.
    pub fn new(word: W) -> Self {
        Self(word)
    }

    /// The CPU looks whether somebody waits. Whoever comes later finds it unaware and tells it.
    pub fn look(&self, waiting: &W) -> bool {
        self.0.exchange(0);
        waiting.read() != 0
    }

    /// What the CPU acts upon from now on. That nobody waits only a look may say.
    pub fn set(&self, contended: bool) {
        self.0.exchange(contended.into());
    }

    /// Whether the CPU is to be told of a vCPU that was queued there, after that was counted.
    pub fn unaware(&self) -> bool {
        self.0.read() == 0
    }
}
