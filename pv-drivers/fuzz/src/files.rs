//! The 9pfs back end, and a front end that sends anything.

use std::sync::Arc;

use pv_drivers::ninepfs::back::{self, Server};
use pv_drivers::ninepfs::message::{Writer, kind};
use pv_drivers::ninepfs::ring::{Messages, describe};
use pv_drivers::ninepfs::server::SharedTree;
use pv_drivers::ninepfs::tree::Tree;
use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::host::HostTransport;
use pv_drivers::transport::{GrantRef, Transport};
use pv_drivers::xenbus::{Bus, Device, End};
use spin::Mutex;

use crate::input::Input;
use crate::liar::{Honest, LIAR, Liar, settle};

/// What a front end writes.
const NODES: &[&str] = &["version", "num-rings", "ring-ref0", "ring-ref1", "event-channel-0", "tag", "state"];
/// Requests that the server knows, and one that it does not.
const KINDS: &[u8] = &[
    kind::TSTATFS,
    kind::TLOPEN,
    kind::TLCREATE,
    kind::TSYMLINK,
    kind::TREADLINK,
    kind::TGETATTR,
    kind::TSETATTR,
    kind::TREADDIR,
    kind::TFSYNC,
    kind::TLOCK,
    kind::TGETLOCK,
    kind::TLINK,
    kind::TMKDIR,
    kind::TRENAMEAT,
    kind::TUNLINKAT,
    kind::TVERSION,
    kind::TATTACH,
    kind::TFLUSH,
    kind::TWALK,
    kind::TWALK,
    kind::TREAD,
    kind::TWRITE,
    kind::TCLUNK,
    200,
];
const NAMES: &[&[u8]] = &[b"etc", b"motd", b"..", b".", b"", b"a/b", b"new", b"\0", b"9P2000.L"];
/// Words of the index page: what the back end sent, and what of it was read.
const IN_CONS: usize = 0;
const IN_PROD: usize = 1;
/// Bytes that the tree may hold.
const BUDGET: u64 = 100_000;

struct Served {
    bus: Bus<HostTransport>,
    device: Device<HostTransport, Server<HostTransport>>,
}

impl Honest for Served {
    fn poll(&mut self) -> bool {
        let moved = self.bus.poll() | self.device.poll() | back::check(&mut self.device);
        moved | self.device.driver_mut().poll()
    }

    fn is_connected(&self) -> bool {
        self.device.is_connected()
    }
}

/// A back end with a small tree, and a front end that lies.
pub fn files(data: &[u8]) {
    let mut input = Input(data);
    let (mut liar, bus, path) = Liar::new("9pfs", true);
    let tree: SharedTree = Arc::new(Mutex::new(Tree::new(BUDGET)));
    tree.lock().add("etc/motd", b"welcome", 0o644).expect("room for it");
    let Ok(end) = End::back(&bus, &path) else { return };
    let mut served = Served { device: Device::new(end, Server::new(tree.clone())), bus };
    connect(&mut liar, &mut served);
    assert!(served.is_connected());
    while !input.is_empty() {
        match input.below(8) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(NODES, &mut input),
            2 if input.below(4) == 0 => liar.revoke(&mut input),
            3 if input.below(4) == 0 => connect(&mut liar, &mut served),
            7 => drop(served.poll()),
            _ => send(&liar, &mut input),
        }
    }
    settle(&mut served);
    liar.machine.destroy(LIAR);
    settle(&mut served);
    assert!(!served.is_connected(), "there is no front end any more");
    let (used, _) = tree.lock().usage();
    assert!(used <= BUDGET, "{used} bytes");
}

fn connect(liar: &mut Liar, served: &mut Served) {
    liar.set("state", 6);
    settle(served);
    liar.set("state", 1);
    settle(served);
    liar.lend();
    for node in NODES {
        let _ = liar.transport.store().remove(Transaction::NONE, &format!("{}/{node}", liar.own));
    }
    if let Some(index) = &liar.pages[0] {
        describe(index, 0, &[GrantRef(liar.grant(1))]);
    }
    for (node, value) in [("version", 1), ("num-rings", 1), ("ring-ref0", liar.grant(0))] {
        liar.set(node, value);
    }
    liar.set("event-channel-0", liar.port_number());
    liar.set("state", 3);
    settle(served);
    let mut writer = Writer::default();
    writer.begin(kind::TATTACH, 0);
    writer.u32(0);
    writer.u32(u32::MAX);
    [b"u", b"a"].iter().for_each(|name| writer.string(*name));
    writer.u32(0);
    put(liar, &mut writer);
    settle(served);
}

/// Puts a message into the ring, and takes what is in the other without a look at it.
fn put(liar: &Liar, message: &mut Writer) {
    let [Some(index), Some(data), ..] = &liar.pages[..] else { return };
    let taken = index[IN_PROD].load(core::sync::atomic::Ordering::Acquire);
    index[IN_CONS].store(taken, core::sync::atomic::Ordering::Release);
    // Where the indices make no sense, nothing is written.
    let _ = Messages::new(&index[..], &data[..], false).send(message.finish());
    liar.notify();
}

/// A message whose size is right.
fn send(liar: &Liar, input: &mut Input<'_>) {
    let mut message = Writer::default();
    message.begin(input.one_of(KINDS), input.byte().into());
    for _ in 0..input.below(9) {
        match input.below(8) {
            0..=2 => message.u32(input.below(4) as u32),
            3 => message.u32(input.number()),
            4 => message.u64(input.long()),
            5 => message.u16(input.below(5) as u16),
            6 => message.string(input.one_of(NAMES)),
            _ => {
                let length = input.below(20);
                message.data(input.take(length));
            }
        }
    }
    put(liar, &mut message);
}
