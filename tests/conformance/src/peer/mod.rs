//! A second domain, made by the cases themselves through Xen's control interface.
//!
//! [`with_peer`] creates an unprivileged PV domain with [`PAGES`] pages, builds its page tables in its own frames, starts
//! a [program] in it that makes hypercalls on request, runs the body of a case, destroys the domain and checks that
//! nothing of it is left. The first domain and the peer talk through one page of the peer (the [mailbox](program)),
//! which the first domain maps as a foreign frame, and through one event channel that wakes either side.
//!
//! The peer's frames: page 0 to 3 are its page tables (level 4 down to level 1), page 4 the program, page 5 the
//! mailbox, page 6 the stack; the others belong to the case. Its addresses are [`Peer::virt`].

pub mod control;
mod program;
mod space;

pub use space::map_foreign;

use core::cell::Cell;

use guest_pv_lib::events::{self, Port};
use guest_pv_lib::mmu::Mfn;
use guest_pv_lib::{Errno, time};
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::sched::{SCHEDOP_POLL, SchedPoll};
use xen_abi::xen::DOMID_SELF;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call::{Ret, op};
use crate::harness::{Env, Outcome, Verdict, check, need};
use control::Domain;
use space::{Window, mailbox};

/// Pages of a peer's memory.
pub const PAGES: usize = 32;
/// The first of them that nothing needs.
pub const FREE: usize = 7;
/// What a call answers where the peer does not: no hypercall says so by itself.
pub const SILENT: Errno = Errno::ETIMEDOUT;
/// How long a request may take, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// A running peer.
pub struct Peer<'a> {
    env: &'a Env,
    domain: Domain,
    frames: [u64; PAGES],
    /// The first domain's end of the channel that wakes either side.
    port: u32,
    silent: Cell<bool>,
}

/// Runs `body` beside a peer, and ends the peer whatever the body found.
pub fn with_peer(env: &Env, body: impl FnOnce(&Peer<'_>) -> Outcome) -> Outcome {
    let peer = Peer::create(env)?;
    let id = peer.id();
    let outcome = body(&peer);
    let silent = peer.silent.get();
    let ended = peer.end();
    outcome?;
    if silent {
        return Err(Verdict::Error("the peer does not answer"));
    }
    ended?;
    // A frame or a grant that somebody still held would keep the domain.
    check("the peer is gone", control::info(id) == Err(Errno::ESRCH))
}

impl<'a> Peer<'a> {
    fn create(env: &'a Env) -> Result<Self, Verdict> {
        let domain = Domain::create()?;
        let frames = space::populate(domain.id())?;
        let shared_info = need("getdomaininfo", control::info(domain.id()))?.shared_info_frame;
        let window = Window::new(env);
        space::build(&window, domain.id(), &frames, shared_info)?;
        let mut offered = EvtchnAllocUnbound { dom: domain.id(), remote_dom: DOMID_SELF, port: 0 };
        need("alloc_unbound", op(nr::EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut offered))?;
        let mut bind = EvtchnBindInterdomain {
            remote_dom: domain.id(),
            remote_port: offered.port,
            ..EvtchnBindInterdomain::default()
        };
        need("bind_interdomain", op(nr::EVENT_CHANNEL_OP, EVTCHNOP_BIND_INTERDOMAIN, &mut bind))?;
        events::mask(Port(bind.local_port));
        let peer = Self { env, domain, frames, port: bind.local_port, silent: Cell::new(false) };
        need("mapping the mailbox", mailbox::map(&peer))?;
        program::prepare(offered.port);
        let context = program::context(&peer.frames, offered.port);
        need("setvcpucontext", peer.domain.set_context(0, &context))?;
        need("unpausedomain", peer.domain.unpause())?;
        Ok(peer)
    }

    /// Ends the domain.
    fn end(self) -> Outcome {
        let unmapped = mailbox::unmap(self.env);
        let closed = op(nr::EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut EvtchnClose { port: self.port });
        let destroyed = self.domain.destroy();
        need("unmapping the mailbox", unmapped)?;
        need("close", closed)?;
        need("destroydomain", destroyed)
    }

    /// Its identifier.
    pub fn id(&self) -> u16 {
        self.domain.id()
    }

    /// The domain, to be controlled.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The machine frame of one of its pages.
    pub fn mfn(&self, page: usize) -> Mfn {
        Mfn(self.frames[page])
    }

    /// The address of one of its pages, in its own address space.
    pub fn virt(&self, page: usize) -> u64 {
        space::virt(page)
    }

    /// Looks into one of its pages, or changes it, from the first domain.
    pub fn look<R>(&self, page: usize, body: impl FnOnce(&space::Words) -> R) -> Result<R, Verdict> {
        Window::new(self.env).with(self.id(), self.mfn(page), body)
    }

    /// Looks into another frame of the peer's: one that the hypervisor shares with it.
    pub fn look_at<R>(&self, frame: Mfn, body: impl FnOnce(&space::Words) -> R) -> Result<R, Verdict> {
        Window::new(self.env).with(self.id(), frame, body)
    }

    /// Puts code into one of its pages.
    pub fn load(&self, page: usize, code: &[u8]) -> Outcome {
        self.look(page, |words| space::fill(words, code))
    }

    /// Has the peer make a hypercall.
    pub fn call(&self, nr: u32, args: &[u64]) -> Ret {
        self.request(program::HYPERCALL, u64::from(nr), args)
    }

    /// Has the peer call a function that the case put into its memory.
    pub fn run(&self, address: u64, args: &[u64]) -> Result<u64, Errno> {
        self.request(program::CALL, address, args)
    }

    /// Has the peer make a hypercall of the form (command, address of a structure), and takes the structure back.
    pub fn op<T: IntoBytes + FromBytes + Immutable>(&self, nr: u32, command: u32, arg: &mut T) -> Ret {
        let at = program::put(arg.as_bytes());
        let ret = self.call(nr, &[u64::from(command), at]);
        program::get(arg.as_mut_bytes());
        ret
    }

    /// Has the peer make one `grant_table_op`, and takes the structure back.
    pub fn grant<T: IntoBytes + FromBytes + Immutable>(&self, command: u32, arg: &mut T) -> Ret {
        let at = program::put(arg.as_bytes());
        let ret = self.call(nr::GRANT_TABLE_OP, &[u64::from(command), at, 1]);
        program::get(arg.as_mut_bytes());
        ret
    }

    /// Copies `bytes` to where the peer sees them, for hypercalls of other forms; answers the address.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        program::put(bytes)
    }

    /// What is now where [`Peer::put`] copied something.
    pub fn take<T: IntoBytes + FromBytes + Immutable>(&self) -> T {
        let mut found = T::new_zeroed();
        program::get(found.as_mut_bytes());
        found
    }

    /// Has the peer make a hypercall that ends it; answers the reason (`SHUTDOWN_*`) once it has stopped.
    pub fn last_call(&self, nr: u32, args: &[u64]) -> Result<u32, Verdict> {
        self.last(program::HYPERCALL, u64::from(nr), args)
    }

    /// Has the peer call a function that ends it.
    pub fn last_run(&self, address: u64) -> Result<u32, Verdict> {
        self.last(program::CALL, address, &[])
    }

    /// Has the peer call a function, and does not wait for its end.
    pub fn start_run(&self, address: u64) -> Outcome {
        self.start_request(program::CALL, address, &[])
    }

    fn start_request(&self, kind: u64, what: u64, args: &[u64]) -> Outcome {
        program::ask(kind, what, args);
        need("send", op(nr::EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port: self.port })).map(drop)
    }

    fn last(&self, kind: u64, what: u64, args: &[u64]) -> Result<u32, Verdict> {
        self.start_request(kind, what, args)?;
        let deadline = time::now() + PATIENCE;
        while time::now() < deadline {
            if let Some(reason) = self.domain.shutdown_reason() {
                return Ok(reason);
            }
            self.wait();
        }
        Err(Verdict::Error("the peer goes on"))
    }

    /// Waits for the answer to a request that was under way when the peer stopped, after it was made to go on.
    pub fn resumed(&self) -> Ret {
        self.await_answer()
    }

    fn request(&self, kind: u64, what: u64, args: &[u64]) -> Ret {
        if self.silent.get() {
            return Err(SILENT);
        }
        program::ask(kind, what, args);
        op(nr::EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port: self.port })?;
        self.await_answer()
    }

    fn await_answer(&self) -> Ret {
        let deadline = time::now() + PATIENCE;
        while !program::answered() {
            if time::now() > deadline || self.domain.shutdown_reason().is_some() {
                self.silent.set(true);
                return Err(SILENT);
            }
            self.wait();
        }
        program::answer()
    }

    /// Waits for the peer to wake the first domain, or for a moment.
    fn wait(&self) {
        let _ = events::take(Port(self.port));
        if program::answered() {
            return;
        }
        sleep(&[self.port], 10_000_000);
    }
}

/// Waits for one of `ports`, for so many nanoseconds at most.
pub fn sleep(ports: &[u32], nanos: u64) {
    let mut poll = SchedPoll {
        ports: (ports.as_ptr() as u64).into(),
        nr_ports: ports.len() as u32,
        timeout: time::now() + nanos,
        ..SchedPoll::default()
    };
    let _ = op(nr::SCHED_OP, SCHEDOP_POLL, &mut poll);
}
