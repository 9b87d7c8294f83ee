//! Both ends in one process.

extern crate std;
use core::sync::atomic::Ordering::Relaxed;
use std::format;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::transport::host::{HostTransport, Machine};
use crate::xenbus::Bus;

struct Pair {
    buses: [Bus<HostTransport>; 2],
    front: Front<HostTransport>,
    back: Back<HostTransport>,
}

impl Pair {
    fn new() -> Self {
        let machine = Machine::new();
        let buses = [1, 2].map(|id| Bus::new(machine.domain(id)));
        let (at_front, at_back) = machine.plug("console", 1, 1, 2);
        let front = Front::new(End::front(&buses[0], &at_front).unwrap());
        let back = Back::new(End::back(&buses[1], &at_back).unwrap());
        let mut pair = Self { buses, front, back };
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let woken = self.buses.each_ref().map(Bus::poll).contains(&true);
            if !(self.front.poll() | self.back.poll() | woken) {
                return;
            }
        }
        panic!("the ends do not come to rest");
    }

    /// The page, as the other end sees it.
    fn page(&self) -> <HostTransport as Transport>::Mapped {
        let reference = self.buses[0].value(&format!("{}/ring-ref", self.front.end().path())).unwrap();
        self.buses[1].transport().map(1, &[GrantRef(reference)], Access::ReadWrite).unwrap()
    }
}

#[test]
fn both_directions_carry_bytes() {
    let mut pair = Pair::new();
    assert!(pair.front.is_connected() && pair.back.is_connected());
    assert_eq!(pair.front.write(&[7; 3000]), 2048, "the length of the output ring");
    assert_eq!(pair.back.write(&[8; 3000]), 1024, "the length of the input ring");
    let mut bytes = vec![0; 4096];
    assert_eq!((pair.back.read(&mut bytes), bytes[0]), (2048, 7));
    assert_eq!((pair.front.read(&mut bytes), bytes[0]), (1024, 8));
    assert_eq!(pair.front.read(&mut bytes), 0);
    pair.front.close();
    pair.settle();
    assert!(pair.front.is_closed() && pair.back.is_closed());
    assert_eq!((pair.front.write(b"x"), pair.back.write(b"x")), (0, 0));
}

#[test]
fn the_layout_is_that_of_console_h() {
    let mut pair = Pair::new();
    pair.front.write(b"out!");
    pair.back.write(b"in..!");
    let page = pair.page();
    assert_eq!(page[256].load(Relaxed).to_le_bytes(), *b"out!");
    assert_eq!(page[0].load(Relaxed).to_le_bytes(), *b"in..");
    let indices: Vec<_> = page[768..772].iter().map(|word| word.load(Relaxed)).collect();
    assert_eq!(indices, [0, 5, 0, 4]);
}

#[test]
fn indices_that_cannot_be_close_the_console() {
    for word in 768..772 {
        let mut pair = Pair::new();
        pair.page()[word].store(1 << 30, Relaxed);
        let mut bytes = [0; 16];
        pair.front.read(&mut bytes);
        pair.front.write(b"x");
        pair.back.read(&mut bytes);
        pair.settle();
        assert!(!pair.front.is_connected() || !pair.back.is_connected());
    }
}

proptest! {
    /// Whatever is written comes out in order, however the ends take turns.
    #[test]
    fn bytes_come_in_order(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..1500), 1..40)
    ) {
        let mut pair = Pair::new();
        let (mut sent, mut got) = ([0u8; 2], [0u8; 2]);
        for (output, write, length) in steps {
            let at = usize::from(output);
            if write {
                let bytes: Vec<u8> = (0..length).map(|n| sent[at].wrapping_add(n as u8)).collect();
                let count = if output { pair.front.write(&bytes) } else { pair.back.write(&bytes) };
                sent[at] = sent[at].wrapping_add(count as u8);
            } else {
                let mut bytes = vec![0; length];
                let count = if output { pair.back.read(&mut bytes) } else { pair.front.read(&mut bytes) };
                for byte in &bytes[..count] {
                    prop_assert_eq!(*byte, got[at]);
                    got[at] = got[at].wrapping_add(1);
                }
            }
        }
    }
}
