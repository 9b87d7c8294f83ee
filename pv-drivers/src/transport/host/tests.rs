//! The machine does what a hypervisor and xenstore would.

use core::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use std::vec::Vec;

use super::{Buffer, HostTransport, Machine};
use crate::store::{Event, Store, Transaction};
use crate::transport::{Access, Copy, CopyEnd, Errno, Error, GrantRef, Granted, PAGE_SIZE, Port, Transport};

fn two() -> (HostTransport, HostTransport) {
    let machine = Machine::new();
    (machine.domain(1), machine.domain(2))
}

fn filled(transport: &HostTransport, pages: usize, byte: u8) -> Buffer {
    let mut buffer = transport.buffer(pages).unwrap();
    buffer.as_mut().fill(byte);
    buffer
}

#[test]
fn a_mapping_is_the_granted_memory_and_keeps_it_from_its_owner() {
    let (front, back) = two();
    let granted = front.lend(filled(&front, 2, 7), 2, Access::ReadWrite).unwrap();
    let mapped = back.map(1, granted.refs(), Access::ReadWrite).unwrap();
    assert_eq!(mapped.len(), 2048);
    assert_eq!(mapped[2047].load(Relaxed), 0x0707_0707);
    mapped[1024].store(5, Relaxed);
    assert_eq!(granted[1024].load(Relaxed), 5);
    let granted = front.take_back(granted).expect_err("still mapped");
    drop(mapped);
    let buffer = front.take_back(granted).unwrap();
    assert_eq!(buffer.as_ref()[4095..4098], [7, 5, 0]);
}

#[test]
fn only_the_peer_may_and_only_as_granted() {
    let (front, back) = two();
    let other = front.machine().domain(3);
    let granted = front.lend(front.buffer(1).unwrap(), 2, Access::ReadOnly).unwrap();
    assert_eq!(other.map_read_only(1, granted.refs()).err(), Some(Error::BadGrant));
    assert_eq!(back.map(1, granted.refs(), Access::ReadWrite).err(), Some(Error::BadGrant));
    assert_eq!(back.map(1, granted.refs(), Access::ReadOnly).err(), Some(Error::BadGrant));
    assert_eq!(back.map_read_only(1, &[GrantRef(4711)]).err(), Some(Error::BadGrant));
    granted[1].store(77, Relaxed);
    assert_eq!(back.map_read_only(1, granted.refs()).unwrap()[1].load(Relaxed), 77);
}

#[test]
fn pieces_are_copied_in_order_and_fail_alone() {
    let (front, back) = two();
    let granted = front.lend(filled(&front, 1, 9), 2, Access::ReadWrite).unwrap();
    let memory = back.memory(2).unwrap();
    let peer = |offset| CopyEnd::Peer { domain: 1, reference: granted.refs()[0], offset };
    let own = |offset| CopyEnd::Own { offset };
    let piece = |source, target, length| Copy { source, target, length, result: Ok(()) };
    let mut pieces = [
        piece(peer(3), own(PAGE_SIZE + 2), 5),
        piece(own(PAGE_SIZE), peer(0), 4),
        piece(peer(4000), own(0), 97),
        piece(peer(0), own(2 * PAGE_SIZE), 1),
        piece(CopyEnd::Peer { domain: 1, reference: GrantRef(1), offset: 0 }, own(0), 1),
    ];
    back.copy(&memory, &mut pieces);
    let results: Vec<_> = pieces.iter().map(|piece| piece.result).collect();
    let bad = [Err(Error::OutOfRange), Err(Error::OutOfRange), Err(Error::BadGrant)];
    assert_eq!(results, [[Ok(()); 2].as_slice(), &bad].concat());
    assert_eq!(memory[1024].load(Relaxed), 0x0909_0000);
    assert_eq!(granted[0].load(Relaxed), 0x0909_0000);
}

#[test]
fn an_event_wakes_once_and_is_taken_once() {
    let (front, back) = two();
    let offered = front.listen(2).unwrap();
    assert_eq!(front.connect(2, 1).err(), Some(Error::Refused(Errno::EINVAL)));
    let bound = back.connect(1, offered.number()).unwrap();
    assert_eq!(back.connect(1, offered.number()).err(), Some(Error::Refused(Errno::EINVAL)));
    assert!(bound.take(), "binding gives a first event");
    let waiter = thread::spawn(move || {
        front.wait(Some(Duration::from_secs(10)));
        (offered.take(), offered.take())
    });
    bound.notify();
    assert_eq!(waiter.join().unwrap(), (true, false));
    bound.notify();
}

#[test]
fn waiting_ends_in_time() {
    let (front, _) = two();
    let before = front.now();
    front.wait(Some(Duration::from_millis(20)));
    assert!(front.now() - before >= Duration::from_millis(20));
}

#[test]
fn a_destroyed_domain_grants_nothing() {
    let (front, back) = two();
    let granted = front.lend(front.buffer(1).unwrap(), 2, Access::ReadWrite).unwrap();
    let port = front.listen(2).unwrap();
    front.machine().destroy(1);
    assert_eq!(back.map(1, granted.refs(), Access::ReadWrite).err(), Some(Error::BadGrant));
    assert!(back.connect(1, port.number()).is_err());
    assert_eq!(front.lend(front.buffer(1).unwrap(), 2, Access::ReadOnly).err().unwrap().0, Error::NoRoom);
}

#[test]
fn watches_tell_of_changes_below() {
    let (front, back) = two();
    back.store().watch("/local/domain/1/device", "t").unwrap();
    let event = |path: &str| Some(Event { path: path.into(), token: "t".into() });
    assert_eq!(back.store().next_event(), event("/local/domain/1/device"));
    front.store().write(Transaction::NONE, "device/vbd/1/state", b"1").unwrap();
    front.store().write(Transaction::NONE, "devices", b"1").unwrap();
    assert_eq!(back.store().next_event(), event("/local/domain/1/device/vbd/1/state"));
    assert_eq!(back.store().next_event(), None);
    assert_eq!(front.store().directory(Transaction::NONE, "device/vbd").unwrap(), ["1"]);
    front.store().remove(Transaction::NONE, "device").unwrap();
    assert_eq!(back.store().next_event(), event("/local/domain/1/device"));
    assert_eq!(front.store().read(Transaction::NONE, "device/vbd/1/state"), Err(Errno::ENOENT));
}
