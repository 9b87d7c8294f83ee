//! Event channels across a suspension.
//!
//! A new domain has none but those that its toolstack opened. Whoever owns a channel knows it by its number, so each is
//! opened again under the number that it had: a hypervisor gives the lowest free number, and what lies below is taken
//! meanwhile. A channel to another domain cannot come back. Its number is taken by a port that nobody is at the other
//! end of, so that it does not become somebody else's while its owner still has it.

use alloc::vec::Vec;

use crate::Errno;
use crate::events::{Port, Source};

/// What is remembered of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub port: Port,
    pub source: Source,
    pub vcpu: u32,
    pub is_masked: bool,
}

/// The ports of the new domain.
pub trait Space {
    fn is_open(&self, port: Port) -> bool;
    fn open(&mut self, source: Source, vcpu: u32) -> Result<Port, Errno>;
    fn close(&mut self, port: Port);
}

/// Opens what is `known`, in order of numbers, and answers which of them are lost. Ports of `kept` are the toolstack's.
pub fn reopen(space: &mut impl Space, known: &[Known], kept: &[Port]) -> Vec<Port> {
    let mut lost = Vec::new();
    let mut fillers = Vec::new();
    for &Known { port, source, vcpu, .. } in known {
        if space.is_open(port) {
            if !kept.contains(&port) {
                lost.push(port);
            }
            continue;
        }
        fill_below(space, port, &mut fillers);
        let opened = match space.open(source, vcpu) {
            // Nothing to bind: hold the number all the same.
            Err(_) => space.open(Source::Other, 0).map(|port| (port, false)),
            Ok(opened) => Ok((opened, source != Source::Other)),
        };
        match opened {
            Ok((opened, true)) if opened == port => {}
            Ok((opened, false)) if opened == port => lost.push(port),
            Ok((opened, _)) => {
                space.close(opened);
                lost.push(port);
            }
            Err(_) => lost.push(port),
        }
    }
    fillers.into_iter().for_each(|port| space.close(port));
    lost
}

/// Takes every number below `port` that is free.
fn fill_below(space: &mut impl Space, port: Port, fillers: &mut Vec<Port>) {
    while let Ok(opened) = space.open(Source::Other, 0) {
        if opened >= port {
            space.close(opened);
            break;
        }
        fillers.push(opened);
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec;

    use super::*;
    use crate::events::Virq;

    /// Ports by number; what is open there.
    struct Model(BTreeMap<u32, Source>);

    impl Space for Model {
        fn is_open(&self, port: Port) -> bool {
            self.0.contains_key(&port.0)
        }
        fn open(&mut self, source: Source, _: u32) -> Result<Port, Errno> {
            if source != Source::Other && source != Source::Ipi && self.0.values().any(|&open| open == source)
            {
                return Err(Errno::EEXIST);
            }
            let port = (1..40).find(|port| !self.0.contains_key(port)).ok_or(Errno::ENOSPC)?;
            self.0.insert(port, source);
            Ok(Port(port))
        }
        fn close(&mut self, port: Port) {
            assert!(self.0.remove(&port.0).is_some());
        }
    }

    fn known(port: u32, source: Source) -> Known {
        Known { port: Port(port), source, vcpu: 0, is_masked: false }
    }

    const TIMER: Source = Source::Virq(Virq::TIMER);

    #[test]
    fn numbers_stay_what_they_were() {
        let mut space = Model(BTreeMap::from([(1, Source::Other), (2, Source::Other)]));
        let old = [
            known(1, Source::Other),
            known(2, Source::Other),
            known(5, TIMER),
            known(6, Source::Other),
            known(9, Source::Ipi),
        ];
        assert_eq!(reopen(&mut space, &old, &[Port(1), Port(2)]), vec![Port(6)]);
        let all = [(1, Source::Other), (2, Source::Other), (5, TIMER), (6, Source::Other), (9, Source::Ipi)];
        assert_eq!(space.0, BTreeMap::from(all));
    }

    #[test]
    fn what_the_toolstack_took_is_lost() {
        let mut space = Model(BTreeMap::from([(3, Source::Other)]));
        assert_eq!(
            reopen(&mut space, &[known(1, Source::Other), known(3, TIMER)], &[]),
            vec![Port(1), Port(3)]
        );
        assert_eq!(space.0, BTreeMap::from([(1, Source::Other), (3, Source::Other)]));
    }

    #[test]
    fn what_is_refused_keeps_its_number() {
        let mut space = Model(BTreeMap::from([(1, TIMER)]));
        assert_eq!(reopen(&mut space, &[known(4, TIMER)], &[]), vec![Port(4)]);
        assert_eq!(space.0, BTreeMap::from([(1, TIMER), (4, Source::Other)]));
    }

    #[test]
    fn a_full_space_ends_it() {
        let mut space = Model((1..40).map(|port| (port, Source::Other)).collect());
        assert_eq!(reopen(&mut space, &[known(50, Source::Ipi)], &[]), vec![Port(50)]);
        assert_eq!(space.0.len(), 39);
    }
}
