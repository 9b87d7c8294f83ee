//! `event_channel.h`: the commands of `event_channel_op(cmd, arg)`, and the FIFO event array.
//!
//! A port is one end of a channel: unbound (waiting for a peer), interdomain, or bound to a virtual interrupt, a
//! physical one or an inter-processor one. Two-level domains have [`EVTCHN_2L_NR_CHANNELS`] ports whose bits are
//! in the shared page; FIFO domains have up to [`EVTCHN_FIFO_NR_CHANNELS`] words in pages of their own. Port 0 is
//! never used.

/// A port's number (`evtchn_port_t`).
pub type EvtchnPort = u32;
/// A word of the FIFO event array (`event_word_t`): flags and the next port of the queue.
pub type EventWord = u32;

consts! {
    /// Connects to an unbound port of another domain. Argument: [`EvtchnBindInterdomain`].
    EVTCHNOP_BIND_INTERDOMAIN("EVTCHNOP_bind_interdomain"): u32 = 0;
    /// Binds a virtual interrupt. Argument: [`EvtchnBindVirq`].
    EVTCHNOP_BIND_VIRQ("EVTCHNOP_bind_virq"): u32 = 1;
    /// Binds a physical interrupt. Argument: [`EvtchnBindPirq`].
    EVTCHNOP_BIND_PIRQ("EVTCHNOP_bind_pirq"): u32 = 2;
    /// Closes a port; an interdomain peer becomes unbound. Argument: [`EvtchnClose`].
    EVTCHNOP_CLOSE("EVTCHNOP_close"): u32 = 3;
    /// Makes the other end pending. Argument: [`EvtchnSend`].
    EVTCHNOP_SEND("EVTCHNOP_send"): u32 = 4;
    /// Asks what a port is. Argument: [`EvtchnStatus`].
    EVTCHNOP_STATUS("EVTCHNOP_status"): u32 = 5;
    /// Allocates a port that another domain may connect to. Argument: [`EvtchnAllocUnbound`].
    EVTCHNOP_ALLOC_UNBOUND("EVTCHNOP_alloc_unbound"): u32 = 6;
    /// Allocates a port for interrupts between vCPUs. Argument: [`EvtchnBindIpi`].
    EVTCHNOP_BIND_IPI("EVTCHNOP_bind_ipi"): u32 = 7;
    /// Chooses the vCPU that a port notifies. Argument: [`EvtchnBindVcpu`].
    EVTCHNOP_BIND_VCPU("EVTCHNOP_bind_vcpu"): u32 = 8;
    /// Unmasks a port and delivers it where it is pending. Argument: [`EvtchnUnmask`].
    EVTCHNOP_UNMASK("EVTCHNOP_unmask"): u32 = 9;
    /// Closes all ports of a domain and returns to the two-level form. Argument: [`EvtchnReset`].
    EVTCHNOP_RESET("EVTCHNOP_reset"): u32 = 10;
    /// Gives a vCPU its FIFO control block. Argument: [`EvtchnInitControl`].
    EVTCHNOP_INIT_CONTROL("EVTCHNOP_init_control"): u32 = 11;
    /// Adds a page to the FIFO event array. Argument: [`EvtchnExpandArray`].
    EVTCHNOP_EXPAND_ARRAY("EVTCHNOP_expand_array"): u32 = 12;
    /// Sets a port's priority (FIFO). Argument: [`EvtchnSetPriority`].
    EVTCHNOP_SET_PRIORITY("EVTCHNOP_set_priority"): u32 = 13;

    /// Flag of [`EvtchnBindPirq`]: other domains may bind the interrupt too.
    BIND_PIRQ_WILL_SHARE("BIND_PIRQ__WILL_SHARE"): u32 = 1;

    /// The port is not in use.
    EVTCHNSTAT_CLOSED("EVTCHNSTAT_closed"): u32 = 0;
    /// It waits for a peer.
    EVTCHNSTAT_UNBOUND("EVTCHNSTAT_unbound"): u32 = 1;
    /// It is connected.
    EVTCHNSTAT_INTERDOMAIN("EVTCHNSTAT_interdomain"): u32 = 2;
    /// It is bound to a physical interrupt.
    EVTCHNSTAT_PIRQ("EVTCHNSTAT_pirq"): u32 = 3;
    /// It is bound to a virtual interrupt.
    EVTCHNSTAT_VIRQ("EVTCHNSTAT_virq"): u32 = 4;
    /// It is for interrupts between vCPUs.
    EVTCHNSTAT_IPI("EVTCHNSTAT_ipi"): u32 = 5;

    /// Ports of a two-level domain.
    EVTCHN_2L_NR_CHANNELS: u32 = 4096;
    /// Highest priority.
    EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
    /// The priority that a port starts with.
    EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
    /// Lowest priority.
    EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
    /// Queues of a vCPU, one a priority.
    EVTCHN_FIFO_MAX_QUEUES: usize = 16;
    /// Bit number in an event word: pending.
    EVTCHN_FIFO_PENDING: u32 = 31;
    /// Bit number: masked.
    EVTCHN_FIFO_MASKED: u32 = 30;
    /// Bit number: in a queue.
    EVTCHN_FIFO_LINKED: u32 = 29;
    /// Bit number: the hypervisor is changing the link.
    EVTCHN_FIFO_BUSY: u32 = 28;
    /// Bits of the link to the next port.
    EVTCHN_FIFO_LINK_BITS: u32 = 17;
    /// Mask of the link.
    EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
    /// Ports of a FIFO domain.
    EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;
}

wire! {
    /// Argument of [`EVTCHNOP_ALLOC_UNBOUND`].
    pub struct EvtchnAllocUnbound("struct evtchn_alloc_unbound", 8) {
        /// In: the domain that gets the port; `DOMID_SELF` unless privileged.
        @0 dom: u16,
        /// In: the domain that may connect; `DOMID_SELF` for a loop.
        @2 remote_dom: u16,
        /// Out: the port.
        @4 port: u32,
    }

    /// Argument of [`EVTCHNOP_BIND_INTERDOMAIN`]. The new port is pending at once.
    pub struct EvtchnBindInterdomain("struct evtchn_bind_interdomain", 12) {
        /// In: the peer.
        @0 remote_dom: u16,
        @2 _pad0(): u16,
        /// In: its unbound port.
        @4 remote_port: u32,
        /// Out: our port.
        @8 local_port: u32,
    }

    /// Argument of [`EVTCHNOP_BIND_VIRQ`]. Global interrupts are bound on vCPU 0 and may move later.
    pub struct EvtchnBindVirq("struct evtchn_bind_virq", 12) {
        /// In: one of `VIRQ_*`.
        @0 virq: u32,
        /// In: the vCPU.
        @4 vcpu: u32,
        /// Out: the port.
        @8 port: u32,
    }

    /// Argument of [`EVTCHNOP_BIND_PIRQ`].
    pub struct EvtchnBindPirq("struct evtchn_bind_pirq", 12) {
        /// In: the physical interrupt, as the domain numbers it.
        @0 pirq: u32,
        /// In: `BIND_PIRQ_*`.
        @4 flags: u32,
        /// Out: the port.
        @8 port: u32,
    }

    /// Argument of [`EVTCHNOP_BIND_IPI`].
    pub struct EvtchnBindIpi("struct evtchn_bind_ipi", 8) {
        /// In: the vCPU that is to be interrupted.
        @0 vcpu: u32,
        /// Out: the port.
        @4 port: u32,
    }

    /// Argument of [`EVTCHNOP_CLOSE`].
    pub struct EvtchnClose("struct evtchn_close", 4) {
        /// In: the port.
        @0 port: u32,
    }

    /// Argument of [`EVTCHNOP_SEND`].
    pub struct EvtchnSend("struct evtchn_send", 4) {
        /// In: the local port.
        @0 port: u32,
    }

    /// Argument of [`EVTCHNOP_STATUS`].
    pub struct EvtchnStatus("struct evtchn_status", 24) {
        /// In: the domain; `DOMID_SELF` unless privileged.
        @0 dom: u16,
        @2 _pad0(): u16,
        /// In: its port.
        @4 port: u32,
        /// Out: one of `EVTCHNSTAT_*`.
        @8 status: u32,
        /// Out: the vCPU that the port notifies.
        @12 vcpu: u32,
        /// Out: by status, the peer ([`EvtchnStatusInterdomain`]; unbound: its `dom` only), or the number of the
        /// physical or virtual interrupt in the first four bytes.
        @16 u: [u8; 8],
    }

    /// [`EvtchnStatus::u`] of a connected port.
    pub struct EvtchnStatusInterdomain("__typeof__(((struct evtchn_status *)0)->u.interdomain)", 8) {
        /// The peer.
        @0 dom: u16,
        @2 _pad0(): u16,
        /// Its port.
        @4 port: u32,
    }

    /// Argument of [`EVTCHNOP_BIND_VCPU`].
    pub struct EvtchnBindVcpu("struct evtchn_bind_vcpu", 8) {
        /// In: the port.
        @0 port: u32,
        /// In: the vCPU.
        @4 vcpu: u32,
    }

    /// Argument of [`EVTCHNOP_UNMASK`].
    pub struct EvtchnUnmask("struct evtchn_unmask", 4) {
        /// In: the port.
        @0 port: u32,
    }

    /// Argument of [`EVTCHNOP_RESET`].
    pub struct EvtchnReset("struct evtchn_reset", 2) {
        /// In: the domain; `DOMID_SELF` unless privileged.
        @0 dom: u16,
    }

    /// Argument of [`EVTCHNOP_INIT_CONTROL`]. Pending events are lost: done before any port is bound.
    pub struct EvtchnInitControl("struct evtchn_init_control", 24) {
        /// In: the frame of the control block.
        @0 control_gfn: u64,
        /// In: its offset in the frame; a multiple of 8.
        @8 offset: u32,
        /// In: the vCPU.
        @12 vcpu: u32,
        /// Out: bits of the link field.
        @16 link_bits: u8,
        @17 _pad("_pad"): [u8; 7],
    }

    /// Argument of [`EVTCHNOP_EXPAND_ARRAY`].
    pub struct EvtchnExpandArray("struct evtchn_expand_array", 8) {
        /// In: the frame that is added.
        @0 array_gfn: u64,
    }

    /// Argument of [`EVTCHNOP_SET_PRIORITY`].
    pub struct EvtchnSetPriority("struct evtchn_set_priority", 8) {
        /// In: the port.
        @0 port: u32,
        /// In: 0 (highest) to 15.
        @4 priority: u32,
    }

    /// Argument of the old hypercall `event_channel_op_compat` (before interface version 3.2.2), which has the
    /// command inside.
    pub struct EvtchnOp("struct evtchn_op", 28) {
        /// One of the commands up to [`EVTCHNOP_UNMASK`].
        @0 cmd: u32,
        /// The command's argument.
        @4 u: [u8; 24],
    }

    /// A vCPU's FIFO queues.
    pub struct EvtchnFifoControlBlock("struct evtchn_fifo_control_block", 72) [shared] {
        /// Bit *p*: the queue of priority *p* may have events.
        @0 ready: u32,
        @4 _rsvd("_rsvd"): u32,
        /// Head of each queue; 0 is empty.
        @8 head: [u32; EVTCHN_FIFO_MAX_QUEUES],
    }
}

abi_module! { "event_channel.h": consts, wire }
