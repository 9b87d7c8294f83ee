//! The two-level layout: 64 words of pending bits, 64 of mask bits, and per CPU one word that says which of the 64
//! to look at.
//!
//! The hypervisor sets a pending bit, then the selector bit, then `upcall_pending`; the kernel clears them in the
//! opposite order, so that nothing which comes in between is lost (`event_channel.h`, `xen.h`).
//!
//! The 64 ports of a word may belong to different CPUs, and only the hypervisor's choice of whom to tell says to which. A
//! CPU that looks at a word must leave the others' events alone, so the kernel keeps a note of each port's CPU.

use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use super::Port;
use crate::shared::{SharedInfo, VcpuInfo};

/// Number of ports of the layout.
pub const PORTS: usize = 64 * 64;

/// The word of a port and its bit in it; none for a number beyond the layout.
fn locate(port: Port) -> Option<(usize, u64)> {
    let port = port.0 as usize;
    (port < PORTS).then(|| (port / 64, 1 << (port % 64)))
}

/// The CPU that each port notifies.
static OWNERS: [AtomicU16; PORTS] = [const { AtomicU16::new(0) }; PORTS];

/// Notes that `port`, which is masked, notifies CPU `vcpu`.
pub fn set_owner(port: Port, vcpu: u32) {
    if let (Some(owner), Ok(vcpu)) = (OWNERS.get(port.0 as usize), u16::try_from(vcpu)) {
        owner.store(vcpu, SeqCst);
    }
}

/// Whether `port` notifies CPU `vcpu`.
pub fn is_owner(port: Port, vcpu: u32) -> bool {
    OWNERS.get(port.0 as usize).is_some_and(|owner| u32::from(owner.load(Relaxed)) == vcpu)
}

/// Whether the port is masked.
pub fn is_masked(shared: &SharedInfo, port: Port) -> bool {
    locate(port).is_none_or(|(word, bit)| shared.mask[word].load(SeqCst) & bit != 0)
}

/// Sets the port's mask bit.
pub fn mask(shared: &SharedInfo, port: Port) {
    if let Some((word, bit)) = locate(port) {
        shared.mask[word].fetch_or(bit, SeqCst);
    }
}

/// Clears the port's mask bit; if the port was pending, makes it known to the CPU as the hypervisor would have and
/// returns true.
pub fn unmask(shared: &SharedInfo, vcpu: &VcpuInfo, port: Port) -> bool {
    let Some((word, bit)) = locate(port) else { return false };
    shared.mask[word].fetch_and(!bit, SeqCst);
    if shared.pending[word].load(SeqCst) & bit == 0 {
        return false;
    }
    vcpu.pending_sel.fetch_or(1 << word, AcqRel);
    vcpu.upcall_pending.store(1, Relaxed);
    true
}

/// Clears the port's mask bit where the port is not pending. False: it is, and stays masked.
pub fn rearm(shared: &SharedInfo, port: Port) -> bool {
    let Some((word, bit)) = locate(port) else { return true };
    shared.mask[word].fetch_and(!bit, SeqCst);
    // An event from here on finds the port unmasked.
    if shared.pending[word].load(SeqCst) & bit == 0 {
        return true;
    }
    shared.mask[word].fetch_or(bit, SeqCst);
    false
}

/// Clears the port's pending bit and returns what it was.
pub fn take(shared: &SharedInfo, port: Port) -> bool {
    locate(port).is_some_and(|(word, bit)| shared.pending[word].fetch_and(!bit, AcqRel) & bit != 0)
}

/// Sets the port's pending bit without telling anybody: for a masked port that somebody polls.
pub fn set_pending(shared: &SharedInfo, port: Port) {
    if let Some((word, bit)) = locate(port) {
        shared.pending[word].fetch_or(bit, SeqCst);
    }
}

/// Calls `run` for every pending, unmasked port that is `mine` after clearing its pending bit, until the CPU's flag stays
/// clear.
///
/// A port whose handler makes it pending again gets its next turn only after all the others.
pub fn scan(shared: &SharedInfo, vcpu: &VcpuInfo, mine: impl Fn(Port) -> bool, mut run: impl FnMut(Port)) {
    while vcpu.upcall_pending.swap(0, AcqRel) != 0 {
        let mut words = vcpu.pending_sel.swap(0, AcqRel);
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            words &= words - 1;
            let mut bits = shared.pending[word].load(Acquire) & !shared.mask[word].load(Relaxed);
            while bits != 0 {
                let bit = bits & bits.wrapping_neg();
                bits &= bits - 1;
                let port = Port((word * 64) as u32 + bit.trailing_zeros());
                if mine(port) && shared.pending[word].fetch_and(!bit, AcqRel) & bit != 0 {
                    run(port);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    /// What the hypervisor does to raise `port` on `vcpu`.
    fn raise(shared: &SharedInfo, vcpu: &VcpuInfo, port: u32) {
        let (word, bit) = locate(Port(port)).unwrap();
        if shared.pending[word].fetch_or(bit, SeqCst) & bit == 0
            && shared.mask[word].load(SeqCst) & bit == 0
            && vcpu.pending_sel.fetch_or(1 << word, SeqCst) & (1 << word) == 0
        {
            vcpu.upcall_pending.store(1, SeqCst);
        }
    }

    fn fired(shared: &SharedInfo, vcpu: &VcpuInfo) -> Vec<u32> {
        let mut ports = vec![];
        scan(shared, vcpu, |_| true, |port| ports.push(port.0));
        ports
    }

    #[test]
    fn every_pending_port_runs_once() {
        let shared = SharedInfo::default();
        let vcpu = &shared.vcpu[0];
        for port in [4095, 0, 63, 64, 700] {
            raise(&shared, vcpu, port);
        }
        assert_eq!(fired(&shared, vcpu), [0, 63, 64, 700, 4095]);
        assert_eq!(fired(&shared, vcpu), []);
        assert!(shared.pending.iter().all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    fn a_masked_port_waits_for_unmask() {
        let shared = SharedInfo::default();
        let vcpu = &shared.vcpu[0];
        mask(&shared, Port(9));
        raise(&shared, vcpu, 9);
        raise(&shared, vcpu, 10);
        assert_eq!(fired(&shared, vcpu), [10]);
        assert!(unmask(&shared, vcpu, Port(9)));
        assert_eq!(fired(&shared, vcpu), [9]);
        assert!(!unmask(&shared, vcpu, Port(9)));
    }

    #[test]
    fn a_port_is_armed_again_only_where_no_event_came() {
        let shared = SharedInfo::default();
        let vcpu = &shared.vcpu[0];
        mask(&shared, Port(9));
        assert!(rearm(&shared, Port(9)) && !is_masked(&shared, Port(9)));
        raise(&shared, vcpu, 9);
        assert_eq!(fired(&shared, vcpu), [9]);
        mask(&shared, Port(9));
        raise(&shared, vcpu, 9);
        assert!(!rearm(&shared, Port(9)) && is_masked(&shared, Port(9)), "that event would be lost");
        assert!(unmask(&shared, vcpu, Port(9)));
        assert_eq!(fired(&shared, vcpu), [9]);
    }

    #[test]
    fn an_event_raised_by_a_handler_is_not_lost() {
        let shared = SharedInfo::default();
        let vcpu = &shared.vcpu[0];
        raise(&shared, vcpu, 3);
        let mut ports = vec![];
        let run = |port: Port| {
            ports.push(port.0);
            if ports.len() < 3 {
                raise(&shared, vcpu, 3);
            }
        };
        scan(&shared, vcpu, |_| true, run);
        assert_eq!(ports, [3, 3, 3]);
    }

    #[test]
    fn a_cpu_leaves_the_events_of_others_alone() {
        let shared = SharedInfo::default();
        let [first, second, ..] = &shared.vcpu;
        set_owner(Port(101), 1);
        raise(&shared, first, 100);
        raise(&shared, second, 101);
        let of = |vcpu, number| {
            let mut ports = vec![];
            scan(&shared, vcpu, |port| is_owner(port, number), |port| ports.push(port.0));
            ports
        };
        assert_eq!(of(first, 0), [100]);
        assert_eq!(of(second, 1), [101]);
        assert_eq!((of(first, 0), of(second, 1)), (vec![], vec![]));
    }

    #[test]
    fn ports_beyond_the_layout_do_nothing() {
        let shared = SharedInfo::default();
        mask(&shared, Port(4096));
        assert!(!unmask(&shared, &shared.vcpu[0], Port(u32::MAX)));
        assert!(!take(&shared, Port(4096)));
        assert!(shared.mask.iter().all(|word| word.load(Relaxed) == 0));
    }
}
