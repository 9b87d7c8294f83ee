//! Both ends of a ring, and somebody who writes into its memory.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use pv_drivers::ring::{Back, Front};
use xen_abi::io::blkif::{BlkifRequest, BlkifResponse, BlkifRing};
use zerocopy::FromZeros;

use crate::input::Input;

/// Words of a ring of two pages.
const WORDS: usize = 2048;

/// No end counts more than there can be, whatever the indices say.
pub fn ring(data: &[u8]) {
    let mut input = Input(data);
    let memory: Vec<_> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
    let words = &memory[..if input.byte() & 1 == 0 { WORDS } else { WORDS / 2 }];
    let Ok(mut front) = Front::<BlkifRing, _>::new(words) else { return };
    let Ok(mut back) = Back::<BlkifRing, _>::attach(words) else { return };
    let slots = front.slots();
    let (mut request, response) = (BlkifRequest::new_zeroed(), BlkifResponse::new_zeroed());
    // Requests made and answers taken.
    let (mut asked, mut heard) = (0u64, 0u64);
    while !input.is_empty() {
        match input.below(10) {
            0 => words[input.below(4)].store(input.number(), Relaxed),
            1 => words[usize::from(input.u16()) % words.len()].store(input.number(), Relaxed),
            2 => {
                request.id = asked;
                asked += u64::from(front.push(&request).is_ok());
            }
            3 => drop(front.publish()),
            4 => heard += u64::from(front.pop().is_ok_and(|answer| answer.is_some())),
            5 => drop(front.finish()),
            6 => drop(back.pop()),
            7 => assert_eq!(back.outstanding() > 0, back.push(&response).is_ok()),
            8 => drop(back.publish()),
            _ => drop(back.finish_for(input.byte().into())),
        }
        assert!(back.outstanding() <= slots);
        assert!(back.waiting().unwrap_or(0) <= slots - back.outstanding());
        assert!(heard <= asked && asked - heard == u64::from(slots - front.free()));
        // Whoever starts anew on the same memory believes no more.
        if let Ok(front) = Front::<BlkifRing, _>::attach(words) {
            assert!(front.free() <= slots);
        }
    }
}
