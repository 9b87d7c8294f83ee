//! The FIFO layout of events (event_channel.h): a word for each port, linked into sixteen queues.
//!
//! Each case switches the domain to this layout with pages of the pool, and back by a reset, which closes all ports.

use guest_pv_lib::Errno;
use guest_pv_lib::events;
use xen_abi::event_channel::*;
use xen_abi::xen::DOMID_SELF;

use super::event::{alloc_unbound, bind_ipi, bind_virq, close, event, send, status};
use super::upcall::{shared, take_upcall};
use crate::call::NO_FRAME;
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, check, need, same};

pub(super) const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
pub(super) const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
pub(super) const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
pub(super) const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
/// Queue of a port that nobody gave a priority.
const DEFAULT: usize = EVTCHN_FIFO_PRIORITY_DEFAULT as usize;
const WORDS_PER_PAGE: u32 = 1024;

pub(super) fn init_control(control: Page<'_>, vcpu: u32, offset: u32) -> Result<u8, Errno> {
    let mut arg =
        EvtchnInitControl { control_gfn: control.mfn().0, offset, vcpu, ..EvtchnInitControl::default() };
    event(EVTCHNOP_INIT_CONTROL, &mut arg).map(|_| arg.link_bits)
}

pub(super) fn expand(frame: u64) -> Result<u64, Errno> {
    event(EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn: frame })
}

pub(super) fn set_priority(port: u32, priority: u32) -> Result<u64, Errno> {
    event(EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port, priority })
}

/// The 32-bit word `index` of a page.
fn half(page: Page<'_>, index: usize) -> u32 {
    let bytes = page.get(index / 2).to_le_bytes();
    let at = index % 2 * 4;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn set_half(page: Page<'_>, index: usize, value: u32) {
    let shift = index % 2 * 32;
    let other = page.get(index / 2) & !(u64::from(u32::MAX) << shift);
    page.set(index / 2, other | u64::from(value) << shift);
}

/// The layout in use: control block in page 0, words in page 1, the shared page in page 10.
pub(super) struct Fifo<'a> {
    pub control: Page<'a>,
    pub words: Page<'a>,
    pub shared: Page<'a>,
}

impl Fifo<'_> {
    pub fn word(&self, port: u32) -> u32 {
        half(self.words, port as usize)
    }

    pub fn set_word(&self, port: u32, value: u32) {
        set_half(self.words, port as usize, value);
    }

    /// Which queues have events, taken back as a kernel does.
    fn take_ready(&self) -> u32 {
        let ready = half(self.control, 0);
        set_half(self.control, 0, 0);
        ready
    }

    pub fn head(&self, priority: usize) -> u32 {
        half(self.control, 2 + priority)
    }

    /// Takes the first event of a queue, as a kernel does, and unlinks it.
    fn take(&self, priority: usize) -> u32 {
        let port = self.head(priority);
        if port != 0 {
            let word = self.word(port);
            set_half(self.control, 2 + priority, word & EVTCHN_FIFO_LINK_MASK);
            self.set_word(port, word & !(PENDING | LINKED | EVTCHN_FIFO_LINK_MASK));
        }
        port
    }
}

/// Runs `body` with the layout, upcalls masked, and goes back.
pub(super) fn with_fifo(env: &Env, body: impl FnOnce(&Fifo) -> Outcome) -> Outcome {
    let fifo = Fifo { control: env.page(0), words: env.page(1), shared: shared(env)? };
    let was = events::mask_upcalls();
    take_upcall(fifo.shared);
    let set_up = init_control(fifo.control, 0, 0).and_then(|_| expand(fifo.words.mfn().0));
    let outcome = need("set up", set_up).and_then(|_| body(&fifo));
    let reset = event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF });
    take_upcall(fifo.shared);
    if !was {
        events::unmask_upcalls();
    }
    outcome?;
    same("reset", reset, Ok(0))
}

/// An IPI port.
pub(super) fn open() -> Result<u32, Verdict> {
    need("bind_ipi", bind_ipi(0))
}

case! {
    /// The block lies at an 8-byte boundary within a page that the domain may write; nothing changes where it does not.
    fn init_control_refused(env) {
        let page = env.page(0);
        same("misaligned", init_control(page, 0, 4), Err(Errno::EINVAL))?;
        same("across the page's end", init_control(page, 0, 4096 - 64), Err(Errno::EINVAL))?;
        same("huge offset", init_control(page, 0, u32::MAX - 7), Err(Errno::EINVAL))?;
        same("no such CPU", init_control(page, 4000, 0), Err(Errno::ENOENT))?;
        same("no such CPU is found first", init_control(page, 4000, 4), Err(Errno::ENOENT))?;
        let mut nowhere = EvtchnInitControl { control_gfn: NO_FRAME, ..EvtchnInitControl::default() };
        same("no frame", event(EVTCHNOP_INIT_CONTROL, &mut nowhere), Err(Errno::EINVAL))?;
        let mut table = EvtchnInitControl {
            control_gfn: env.boot.root_table().0, ..EvtchnInitControl::default()
        };
        same("a page table", event(EVTCHNOP_INIT_CONTROL, &mut table), Err(Errno::EINVAL))?;
        // Still the other layout.
        same("expand", expand(page.mfn().0), Err(Errno::EOPNOTSUPP))
    }
}

case! {
    /// The answer tells how many bits a link has; a CPU gets one block, and the last possible place in a page is good.
    fn init_control_once(env) {
        let was = events::mask_upcalls();
        let bits = init_control(env.page(0), 0, 4096 - 72);
        let again = init_control(env.page(2), 0, 0);
        let reset = event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF });
        if !was {
            events::unmask_upcalls();
        }
        same("reset", reset, Ok(0))?;
        same("link bits", bits, Ok(17))?;
        same("again", again, Err(Errno::EINVAL))
    }
}

case! {
    /// Words for all ports of the layout fit into 128 pages; the same page may serve several times. Frames that the
    /// domain cannot write are refused.
    fn expand_limits(env) {
        with_fifo(env, |fifo| {
            same("no frame", expand(NO_FRAME), Err(Errno::EINVAL))?;
            same("a page table", expand(env.boot.root_table().0), Err(Errno::EINVAL))?;
            for _ in 1..EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE {
                need("expand", expand(fifo.words.mfn().0))?;
            }
            same("one more", expand(fifo.words.mfn().0), Err(Errno::ENOSPC))
        })
    }
}

case! {
    /// An event is marked pending and linked, its queue's head names it, the queue is ready, and the upcall due.
    fn first_event(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            need("send", send(port))?;
            same("word", fifo.word(port), PENDING | LINKED)?;
            same("head", fifo.head(DEFAULT), port)?;
            same("ready", fifo.take_ready(), 1 << DEFAULT)?;
            same("upcall, and no selector", take_upcall(fifo.shared), (true, 0))
        })
    }
}

case! {
    /// Events of one queue are linked in the order in which they came.
    fn order(env) {
        with_fifo(env, |fifo| {
            let ports = [open()?, open()?, open()?];
            for at in [2, 0, 1] {
                need("send", send(ports[at]))?;
            }
            same("links", (fifo.head(DEFAULT), fifo.word(ports[2]), fifo.word(ports[0]), fifo.word(ports[1])),
                (ports[2], PENDING | LINKED | ports[0], PENDING | LINKED | ports[1], PENDING | LINKED))?;
            same("in order", [(); 3].map(|()| fifo.take(DEFAULT)), [ports[2], ports[0], ports[1]])?;
            same("and no more", fifo.take(DEFAULT), 0)
        })
    }
}

case! {
    /// A second event in a queue that is ready makes no second upcall.
    fn ready_queue(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            need("send", send(a))?;
            take_upcall(fifo.shared);
            need("send", send(b))?;
            same("upcall", take_upcall(fifo.shared), (false, 0))?;
            fifo.take_ready();
            // The kernel is behind: it unlinks both, and a third event starts the queue anew.
            fifo.take(DEFAULT);
            fifo.take(DEFAULT);
            need("send", send(a))?;
            same("head", fifo.head(DEFAULT), a)?;
            same("ready", fifo.take_ready(), 1 << DEFAULT)?;
            same("upcall", take_upcall(fifo.shared), (true, 0))
        })
    }
}

case! {
    /// A pending port is not linked twice.
    fn pending_port(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            need("send", send(port))?;
            need("send", send(port))?;
            same("word", fifo.word(port), PENDING | LINKED)?;
            same("taken", (fifo.take(DEFAULT), fifo.head(DEFAULT)), (port, 0))
        })
    }
}

case! {
    /// An event on a masked port is marked pending only; unmasking by hypercall links it then.
    fn masked_port(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            fifo.set_word(port, MASKED);
            need("send", send(port))?;
            same("word", fifo.word(port), PENDING | MASKED)?;
            same("nothing told", (take_upcall(fifo.shared), fifo.take_ready()), ((false, 0), 0))?;
            need("unmask", event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port }))?;
            same("word", fifo.word(port), PENDING | LINKED)?;
            same("told", (take_upcall(fifo.shared), fifo.take_ready()), ((true, 0), 1 << DEFAULT))
        })
    }
}

case! {
    /// Unmasking a port without an event clears the bit and nothing else.
    fn unmask_quiet(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            fifo.set_word(port, MASKED);
            need("unmask", event(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port }))?;
            same("word", fifo.word(port), 0)?;
            same("nothing told", take_upcall(fifo.shared), (false, 0))
        })
    }
}

case! {
    /// Each priority has a queue of its own.
    fn priorities(env) {
        with_fifo(env, |fifo| {
            for priority in [0, 6, 8, EVTCHN_FIFO_PRIORITY_MIN] {
                let port = open()?;
                same("set_priority", set_priority(port, priority), Ok(0))?;
                need("send", send(port))?;
                same("head", fifo.head(priority as usize), port)?;
                same("ready", fifo.take_ready(), 1 << priority)?;
            }
            same("the default queue", fifo.head(DEFAULT), 0)
        })
    }
}

case! {
    /// There are sixteen priorities, and only a bound port has one.
    fn priority_refused(env) {
        with_fifo(env, |_| {
            let port = open()?;
            same("too low", set_priority(port, EVTCHN_FIFO_PRIORITY_MIN + 1), Err(Errno::EINVAL))?;
            same("huge", set_priority(port, u32::MAX), Err(Errno::EINVAL))?;
            same("no port", set_priority(1 << 20, 0), Err(Errno::EINVAL))?;
            need("close", close(port))?;
            same("a closed port", set_priority(port, 0), Err(Errno::EACCES))?;
            same("port 0", set_priority(0, 0), Err(Errno::EACCES))
        })
    }
}

case! {
    /// A new priority counts for the next event, not for one that is linked. A port bound anew has the default one.
    fn priority_changed(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            need("send", send(port))?;
            need("set_priority", set_priority(port, 2))?;
            need("send", send(port))?;
            same("heads", (fifo.head(DEFAULT), fifo.head(2)), (port, 0))?;
            fifo.take(DEFAULT);
            need("send", send(port))?;
            same("heads", (fifo.head(DEFAULT), fifo.head(2)), (0, port))?;
            fifo.take(2);
            need("close", close(port))?;
            same("bound anew", open()?, port)?;
            need("send", send(port))?;
            same("heads", (fifo.head(DEFAULT), fifo.head(2)), (port, 0))
        })
    }
}

case! {
    /// An event that moves to another queue while it is the tail of its old one leaves that queue without a tail.
    fn tail_moves_away(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            need("send", send(a))?;
            fifo.take(DEFAULT);
            need("set_priority", set_priority(a, 3))?;
            need("send", send(a))?;
            need("send", send(b))?;
            same("heads", (fifo.head(DEFAULT), fifo.head(3)), (b, a))?;
            same("not linked to each other", fifo.word(a) & EVTCHN_FIFO_LINK_MASK, 0)
        })
    }
}

case! {
    /// Closing takes the event back but leaves the word linked; the port is not bound again before it is unlinked.
    fn close_linked(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            need("send", send(port))?;
            need("close", close(port))?;
            same("word", fifo.word(port), LINKED)?;
            let other = open()?;
            check("another port", other != port)?;
            fifo.take(DEFAULT);
            same("unlinked", open()?, port)
        })
    }
}

case! {
    #[alone]
    /// Events that were pending with the two-level layout are told in the new one, once their words are there.
    fn carried_over(env) {
        let shared = shared(env)?;
        let was = events::mask_upcalls();
        let (port, quiet) = (open()?, open()?);
        need("send", send(port))?;
        take_upcall(shared);
        let (control, words) = (env.page(0), env.page(1));
        let set_up = init_control(control, 0, 0);
        let before = take_upcall(shared);
        let set_up = set_up.and_then(|_| expand(words.mfn().0));
        let fifo = Fifo { control, words, shared };
        let seen = (fifo.word(port), fifo.word(quiet), fifo.head(DEFAULT), take_upcall(shared));
        let reset = event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF });
        let left = events::take(events::Port(port));
        if !was {
            events::unmask_upcalls();
        }
        need("set up", set_up)?;
        same("reset", reset, Ok(0))?;
        check("the old bit stays", left)?;
        same("before the words", before, (false, 0))?;
        same("after", seen, (PENDING | LINKED, 0, port, (true, 0)))
    }
}

case! {
    /// Ports without a word may be bound and sent to: the event appears with the word. There are more ports than with
    /// the two-level layout.
    fn beyond_the_array(env) {
        with_fifo(env, |fifo| {
            let mut last = 0;
            while last < EVTCHN_2L_NR_CHANNELS + 1 {
                last = open()?;
            }
            need("send", send(last))?;
            same("nothing told", take_upcall(fifo.shared), (false, 0))?;
            let pages = [2, 3, 4, 5].map(|at| env.page(at));
            for page in pages {
                same("not told yet", fifo.head(DEFAULT), 0)?;
                need("expand", expand(page.mfn().0))?;
            }
            same("word", half(pages[3], last as usize % 1024), PENDING | LINKED)?;
            same("head", fifo.head(DEFAULT), last)?;
            same("told", take_upcall(fifo.shared), (true, 0))
        })
    }
}

case! {
    /// Other kinds of ports are as in the two-level layout: a loopback event is linked at the far end, a virtual
    /// interrupt cannot be sent to, status tells.
    fn kinds(env) {
        with_fifo(env, |fifo| {
            let far = need("alloc_unbound", alloc_unbound(DOMID_SELF, DOMID_SELF))?;
            let near = need("bind_interdomain", super::event::bind_interdomain(DOMID_SELF, far))?;
            same("a new connection is pending", fifo.word(near), PENDING | LINKED)?;
            need("send", send(near))?;
            same("arrives", fifo.word(far), PENDING | LINKED)?;
            let virq = need("bind_virq", bind_virq(xen_abi::xen::VIRQ_DEBUG, 0))?;
            same("send to a virq", send(virq), Err(Errno::EINVAL))?;
            same("status", status(virq).map(|is| is.status), Ok(EVTCHNSTAT_VIRQ))
        })
    }
}

case! {
    /// A kernel that scribbles the link of the tail loses nothing but that: the next event is linked there.
    fn hostile_link(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            need("send", send(a))?;
            fifo.set_word(a, PENDING | LINKED | EVTCHN_FIFO_LINK_MASK);
            need("send", send(b))?;
            same("words", (fifo.word(a), fifo.word(b)), (PENDING | LINKED | b, PENDING | LINKED))
        })
    }
}

case! {
    /// A tail that the kernel unlinked itself counts as an empty queue: the head is written.
    fn hostile_unlink(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            need("send", send(a))?;
            fifo.set_word(a, PENDING);
            need("send", send(b))?;
            same("not linked", (fifo.word(a), fifo.head(DEFAULT)), (PENDING, b))
        })
    }
}

case! {
    /// A tail that the kernel marked busy is linked all the same, and is busy no more.
    fn hostile_busy(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            need("send", send(a))?;
            fifo.set_word(a, PENDING | LINKED | BUSY);
            need("send", send(b))?;
            same("word", fifo.word(a), PENDING | LINKED | b)
        })
    }
}

case! {
    /// A word that the kernel marked linked is in no queue: its event is marked pending, and told to nobody.
    fn hostile_linked(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            fifo.set_word(port, LINKED | 77);
            need("send", send(port))?;
            same("word", fifo.word(port), PENDING | LINKED | 77)?;
            same("head", fifo.head(DEFAULT), 0)?;
            same("nothing told", take_upcall(fifo.shared), (false, 0))
        })
    }
}

case! {
    /// A word whose reserved bits the kernel set keeps them.
    fn hostile_reserved_bits(env) {
        with_fifo(env, |fifo| {
            let (a, b) = (open()?, open()?);
            let reserved = 0x7fe << 17;
            fifo.set_word(a, reserved);
            need("send", send(a))?;
            same("word", fifo.word(a), reserved | PENDING | LINKED)?;
            need("send", send(b))?;
            same("linked word", fifo.word(a), reserved | PENDING | LINKED | b)
        })
    }
}

case! {
    /// Heads and ready bits that the kernel scribbles are not believed: the head is written where the queue is empty, and
    /// a queue marked ready makes no upcall.
    fn hostile_control(env) {
        with_fifo(env, |fifo| {
            let port = open()?;
            for word in 0..36 {
                fifo.control.set(word, u64::MAX);
            }
            need("send", send(port))?;
            same("head", fifo.head(DEFAULT), port)?;
            same("another head", fifo.head(0), u32::MAX)?;
            same("nothing told", take_upcall(fifo.shared), (false, 0))
        })
    }
}

case! {
    /// The control block and the words may lie in one page, on top of each other: only the kernel's own events suffer.
    fn hostile_overlap(env) {
        let was = events::mask_upcalls();
        let page = env.page(0);
        let set_up = init_control(page, 0, 0).and_then(|_| expand(page.mfn().0));
        let sent: u32 = (0..20).map(|_| bind_ipi(0).and_then(send).map_or(0, |_| 1)).sum();
        let reset = event(EVTCHNOP_RESET, &mut EvtchnReset { dom: DOMID_SELF });
        take_upcall(shared(env)?);
        if !was {
            events::unmask_upcalls();
        }
        need("set up", set_up)?;
        same("sent", sent, 20)?;
        same("reset", reset, Ok(0))
    }
}

case! {
    /// After the reset the two-level layout is back, with its limit, and the pages are the domain's own again.
    fn back_to_two_level(env) {
        with_fifo(env, |_| open().map(drop))?;
        let control = env.page(0);
        same("the page can become read-only", control.read_only(), Ok(()))?;
        same("expand", expand(control.mfn().0), Err(Errno::EOPNOTSUPP))?;
        let shared = shared(env)?;
        let was = events::mask_upcalls();
        take_upcall(shared);
        let port = open()?;
        events::mask(events::Port(port));
        need("send", send(port))?;
        let pending = events::take(events::Port(port));
        need("close", close(port))?;
        if !was {
            events::unmask_upcalls();
        }
        check("pending", pending)
    }
}
