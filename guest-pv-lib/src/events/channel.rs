//! Event channels that belong to somebody.

use core::mem;

use super::{Handler, Port, Virq, bind, table};
use crate::hypercall::Errno;

/// One end of an event channel of this domain. Dropping it closes the channel.
///
/// A new channel keeps events for [`take`](Self::take), which is what an event loop wants, together with
/// [`sched::wait`](crate::sched::wait). With [`set_handler`](Self::set_handler) or, with the feature `alloc`,
/// `set_closure` events run code in the upcall instead. An event that came before the handler is
/// not lost.
///
/// ```no_run
/// # use guest_pv_lib::{Errno, events::Channel, sched};
/// # fn serve() {}
/// # fn example(peer: u16) -> Result<(), Errno> {
/// let channel = Channel::alloc_unbound(peer)?;
/// loop {
///     while channel.take() {
///         serve();
///     }
///     sched::wait(None);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Channel {
    port: Port,
    /// See [`quiet`](Self::quiet).
    is_quiet: bool,
}

impl Channel {
    /// Takes over `port`, which is open and unmasked from now on.
    fn adopt(port: Port) -> Result<Self, Errno> {
        if !table::set_latch(port) {
            // The domain has more ports than the table: this one is of no use.
            let _ = bind::close(port);
            return Err(Errno::ENOSPC);
        }
        super::unmask(port);
        Ok(Self { port, is_quiet: false })
    }

    /// Binds a virtual interrupt; one that exists for each CPU to the calling CPU.
    ///
    /// # Errors
    ///
    /// `EEXIST` where it is bound already, `EINVAL` for an unknown one, `ENOSPC` where no port is free.
    #[doc(alias = "EVTCHNOP_bind_virq")]
    pub fn bind_virq(virq: Virq) -> Result<Self, Errno> {
        Self::adopt(bind::bind_virq(virq)?)
    }

    /// Binds a physical interrupt: only a domain that owns the device may.
    ///
    /// # Errors
    ///
    /// `EPERM` where the interrupt is not the domain's, `EEXIST` where it is bound already.
    #[doc(alias = "EVTCHNOP_bind_pirq")]
    pub fn bind_pirq(pirq: u32, sharing: Sharing) -> Result<Self, Errno> {
        Self::adopt(bind::bind_pirq(pirq, sharing)?)
    }

    /// Makes a channel by which any CPU of the domain interrupts CPU `vcpu`.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is no such CPU, `ENOSPC` where no port is free.
    #[doc(alias = "EVTCHNOP_bind_ipi")]
    pub fn bind_ipi(vcpu: u32) -> Result<Self, Errno> {
        Self::adopt(bind::bind_ipi(vcpu)?)
    }

    /// Makes a channel that domain `peer` may connect to by its [`number`](Self::number). `DOMID_SELF` for a loop
    /// within this domain.
    ///
    /// # Errors
    ///
    /// `ESRCH` where there is no such domain, `ENOSPC` where no port is free.
    #[doc(alias = "EVTCHNOP_alloc_unbound")]
    pub fn alloc_unbound(peer: u16) -> Result<Self, Errno> {
        Self::adopt(bind::alloc_unbound(peer)?)
    }

    /// Connects to `port` of domain `peer`, which offered it. The channel starts with one event, by which nothing is
    /// missed that happened at the other end before.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the port does not offer itself to this domain, `ESRCH` where there is no such domain.
    #[doc(alias = "EVTCHNOP_bind_interdomain")]
    pub fn interdomain(peer: u16, port: Port) -> Result<Self, Errno> {
        Self::adopt(bind::bind_interdomain(peer, port)?)
    }

    /// Takes over a port that the domain builder opened, such as the one of the console.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where the number is beyond what a domain can have.
    pub fn from_port(port: Port) -> Result<Self, Errno> {
        Self::adopt(port)
    }

    /// Interrupts once for each [`take`](Self::take) from now on, however often the other end sends: for a peer that is not
    /// trusted. Who waits for events must take them. Without a handler only.
    #[must_use]
    pub fn quiet(self) -> Self {
        table::set_quiet(self.port);
        Self { is_quiet: true, port: self.into_port() }
    }

    /// The port's number, which the other end connects to.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.port.0
    }

    /// The port, for the functions of [`events`](super).
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends an event to the other end: a domain, or the CPU of [`bind_ipi`](Self::bind_ipi). Where the other end is
    /// gone, or the channel is one that nobody can send by, nothing happens.
    #[doc(alias = "EVTCHNOP_send")]
    pub fn notify(&self) {
        // Refused only for a channel without another end, where it has no meaning.
        let _ = bind::notify(self.port);
    }

    /// Whether an event came since the last call. Always false with a handler, which had them all.
    #[must_use]
    pub fn take(&self) -> bool {
        // Both, in this order: what the upcall kept, and what no upcall has come for yet.
        let kept = table::fired(self.port);
        let came = super::take(self.port) || kept;
        if self.is_quiet && table::release(self.port) {
            // What comes from here on is another event.
            super::rearm(self.port);
        }
        came
    }

    /// Runs `handler` for each event from now on, in the upcall, with upcalls masked. An event that was kept runs it
    /// at once, on the calling CPU.
    pub fn set_handler(&self, handler: Handler) {
        self.catch_up(table::set_function(self.port, handler));
    }

    /// Runs `closure` for each event from now on, as [`set_handler`](Self::set_handler) does. It is freed after the
    /// channel is closed or another handler takes its place, at the latest when the next one is.
    #[cfg(feature = "alloc")]
    pub fn set_closure(&self, closure: impl Fn(Port) + Send + Sync + 'static) {
        self.catch_up(table::set_closure(self.port, closure));
    }

    /// Runs the new handler for an event that was kept, and lets the port fire again where one masked it.
    fn catch_up(&self, former: Option<table::Former>) {
        let Some(former) = former else { return };
        if former.fired {
            super::without_upcalls(|| super::run_handler(self.port));
        }
        if former.held {
            super::unmask(self.port);
        }
    }

    /// Stops upcalls for this channel; an event stays pending meanwhile.
    pub fn mask(&self) {
        super::mask(self.port);
        let _ = table::release(self.port);
    }

    /// Lets the channel fire again, at once where an event came meanwhile. A new channel is unmasked.
    pub fn unmask(&self) {
        super::unmask(self.port);
    }

    /// Delivers the events to CPU `vcpu` from now on; they go to CPU 0 otherwise.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a channel that belongs to one CPU (an IPI, a virtual interrupt of a CPU), `ENOENT` where there is no
    /// such CPU.
    #[doc(alias = "EVTCHNOP_bind_vcpu")]
    pub fn move_to(&self, vcpu: u32) -> Result<(), Errno> {
        bind::bind_vcpu(self.port, vcpu)
    }

    /// Sets which events an upcall takes first: 0 before all others, 15 after them; 7 where nobody says otherwise.
    ///
    /// # Errors
    ///
    /// `ENOSYS` without [`use_fifo`](super::use_fifo), `EINVAL` above 15.
    #[doc(alias = "EVTCHNOP_set_priority")]
    pub fn set_priority(&self, priority: u32) -> Result<(), Errno> {
        bind::set_priority(self.port, priority)
    }

    /// Keeps the channel open for good and gives its port.
    #[must_use]
    pub fn into_port(self) -> Port {
        let port = self.port;
        mem::forget(self);
        port
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Handlers go first: the number may be another channel's as soon as it is free. The entry keeps latching,
        // because an upcall on another CPU may be about to look there, and would mask the port of that other channel.
        table::set_latch(self.port);
        // Refused only where somebody closed the port by its number, which is as good.
        let _ = bind::close(self.port);
    }
}

/// Whether other domains may bind a physical interrupt, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// No.
    Exclusive,
    /// Yes: a level-triggered line that several devices share.
    #[doc(alias = "BIND_PIRQ__WILL_SHARE")]
    Shared,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{is_masked, run_handler};

    #[test]
    fn a_quiet_channel_interrupts_once_until_it_is_taken() {
        let port = Port(301);
        assert!(table::set_latch(port));
        let channel = Channel { port, is_quiet: false }.quiet();
        for _ in 0..2 {
            crate::events::unmask(port);
            run_handler(port);
            assert!(is_masked(port), "further events wait");
            // One that came meanwhile is taken with the first.
            crate::events::set_pending(port);
            assert!(channel.take() && !is_masked(port));
            assert!(!channel.take());
        }
        run_handler(port);
        channel.mask();
        assert!(channel.take() && is_masked(port), "it was masked for another reason");
        let _ = channel.into_port();
    }
}
