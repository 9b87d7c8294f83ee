//! Arbitrary sequences of mapping, unmapping, overwriting and copying: counts never drift.

use super::*;
use crate::ids::MachineAddr;
use crate::page::EntryPlace;
use proptest::prelude::*;

const GRANTS: u32 = 4;
const SLOTS: u64 = 5;

#[derive(Clone, Copy, Debug)]
enum Op {
    Map {
        grant: u32,
        slot: u64,
        host: bool,
        device: bool,
        readonly: bool,
    },
    Unmap {
        which: usize,
        host: bool,
        device: bool,
    },
    /// The guest overwrites an entry, as `mmu_update` does.
    Overwrite {
        slot: u64,
    },
    Copy {
        from: u32,
        to: u32,
    },
    /// The granter takes an unused entry back, and grants it again.
    Revoke {
        grant: u32,
    },
    Grant {
        grant: u32,
        readonly: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (grant, slot) = (0..GRANTS, 0..SLOTS);
    prop_oneof![
        4 => (grant.clone(), slot.clone(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(grant, slot, host, device, readonly)| Op::Map { grant, slot, host, device, readonly }),
        4 => (0usize..12, any::<bool>(), any::<bool>()).prop_map(|(which, host, device)| Op::Unmap { which, host, device }),
        1 => slot.prop_map(|slot| Op::Overwrite { slot }),
        1 => (grant.clone(), grant.clone()).prop_map(|(from, to)| Op::Copy { from, to }),
        1 => grant.clone().prop_map(|grant| Op::Revoke { grant }),
        1 => (grant, any::<bool>()).prop_map(|(grant, readonly)| Op::Grant { grant, readonly }),
    ]
}

/// A mapping in the model.
#[derive(Clone, Copy, Debug)]
struct Held {
    handle: u32,
    grant: u32,
    slot: u64,
    host: bool,
    device: bool,
    readonly: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn counts_never_drift(ops in prop::collection::vec(op(), 1..60)) {
        let w = world();
        let pages: Vec<_> = (0..GRANTS).map(|n| w.granted(10 + n, 0)).collect();
        let mut held: Vec<Held> = Vec::new();
        // What each entry maps: the grant, and whether writable.
        let mut slots: [Option<(u32, bool)>; SLOTS as usize] = [None; SLOTS as usize];
        for op in ops {
            step(&w, &pages, &mut held, &mut slots, op);
            for (grant, mfn) in (0..).zip(&pages) {
                let mapped = |writable| slots.iter().flatten().filter(|s| **s == (grant, writable)).count() as u64;
                let devices = |readonly| held.iter()
                    .filter(|h| h.grant == grant && h.device && h.readonly == readonly).count() as u64;
                let typed = mapped(true) + devices(false);
                let refs = 1 + mapped(false) + devices(true) + u64::from(typed != 0);
                prop_assert_eq!(w.counts(*mfn), (refs, typed), "after {:?}", op);
                let users = held.iter().filter(|h| h.grant == grant);
                let reading = users.clone().count() != 0;
                let writing = users.clone().any(|h| !h.readonly);
                let flags = w.in_use(10 + grant);
                prop_assert_eq!((flags & GTF_READING != 0, flags & GTF_WRITING != 0), (reading, writing));
            }
            prop_assert_eq!(w.d0.grants.mappings(), held.len());
        }
    }
}

fn step(
    w: &World,
    pages: &[Mfn],
    held: &mut Vec<Held>,
    slots: &mut [Option<(u32, bool)>; SLOTS as usize],
    op: Op,
) {
    match op {
        Op::Map { grant, slot, host, device, readonly } => {
            let mut flags = GNTMAP_CONTAINS_PTE;
            flags |= if host { GNTMAP_HOST_MAP } else { 0 };
            flags |= if device { GNTMAP_DEVICE_MAP } else { 0 };
            flags |= if readonly { GNTMAP_READONLY } else { 0 };
            if let Ok(mapped) = w.map(10 + grant, flags, w.slot(slot)) {
                assert!(host || device);
                held.push(Held { handle: mapped.handle, grant, slot, host, device, readonly });
                if host {
                    slots[slot as usize] = Some((grant, !readonly));
                }
            }
        }
        Op::Unmap { which, host, device } => {
            let Some(h) = held.get_mut(which) else { return };
            let at = if host { w.slot(h.slot) } else { 0 };
            let device_addr = if device { pages[h.grant as usize].addr().0 } else { 0 };
            let answer = w.unmap(h.handle, at, device_addr);
            let fits = slots[h.slot as usize] == Some((h.grant, !h.readonly));
            assert_eq!(answer.is_ok(), !(h.host && host) || fits, "{h:?}");
            if answer.is_ok() {
                if h.host && host {
                    slots[h.slot as usize] = None;
                    h.host = false;
                }
                h.device &= !device;
                if !h.host && !h.device {
                    held.remove(which);
                }
            }
        }
        Op::Overwrite { slot } => {
            let place = EntryPlace::Machine(MachineAddr(w.slot(slot)));
            let old = w.hv.steal_entry(&w.d0, &w.d0.vcpus[0], place).unwrap();
            w.hv.drop_entry(&w.d0, old);
            slots[slot as usize] = None;
        }
        Op::Copy { from, to } => {
            let end = |grant| (CopyEnd::Grant(DomId(1), GrantRef(10 + grant)), 0);
            let _ = w.hv.copy_granted(&w.d0, &CopyRequest { source: end(from), dest: end(to), len: 100 });
        }
        Op::Revoke { grant } if w.in_use(10 + grant) == 0 => w.grant(10 + grant, 0, 0, Mfn(0)),
        Op::Grant { grant, readonly } if w.in_use(10 + grant) == 0 => {
            w.grant(10 + grant, TO_D0 | if readonly { READONLY } else { 0 }, 0, pages[grant as usize]);
        }
        _ => {}
    }
}
