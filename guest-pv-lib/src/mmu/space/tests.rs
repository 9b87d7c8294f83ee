//! Address spaces over plain memory, beside a model.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[test]
fn addresses_are_checked() {
    let mut space = Space::new().unwrap();
    let page = || Page::new().unwrap();
    for at in [1, 0x1800, USER_END, 1 << 63, u64::MAX - 4095] {
        assert_eq!(space.map(at, page(), Access::READ), Err(MapError::BadAddress), "{at:#x}");
        assert_eq!(space.unmap(at).err(), Some(MapError::BadAddress));
        assert!(at % 4096 != 0 || space.lookup(at).is_none());
    }
    space.map(USER_END - 4096, page(), Access::READ).unwrap();
    assert_eq!(space.map(USER_END - 4096, page(), Access::READ), Err(MapError::Occupied));
    assert_eq!(space.read(USER_END - 1, &mut [0; 2]), Err(MapError::NotMapped));
    assert_eq!(space.write(USER_END - 1, &[0; 1]), Err(MapError::NotMapped));
}

#[test]
fn rights_follow_the_access() {
    let mut space = Space::new().unwrap();
    space.map(0x1000, Page::new().unwrap(), Access::READ_EXECUTE).unwrap();
    assert_eq!(space.lookup(0x1fff).unwrap().1, Access::READ_EXECUTE);
    assert_eq!(space.write(0x1000, &[1]), Err(MapError::NotMapped));
    space.protect(0x1000, Access::READ_WRITE).unwrap();
    space.write(0x1000, &[1]).unwrap();
    let entry = space.leaf(0x1000).unwrap();
    assert!(entry.is_writable() && entry.0 & Pte::NO_EXECUTE != 0 && entry.0 & Pte::USER != 0);
}

#[test]
fn the_last_of_a_family_writes_without_a_copy() {
    let mut parent = Space::new().unwrap();
    parent.map(0x1000, Page::new().unwrap(), Access::READ_WRITE).unwrap();
    let child = parent.fork().unwrap();
    let page = parent.lookup(0x1000).unwrap().0.pfn();
    assert_eq!(child.lookup(0x1000).unwrap().0.pfn(), page);
    assert!(!parent.leaf(0x1000).unwrap().is_writable());
    drop(child);
    assert_eq!(parent.copy_for_write(0x1234), Ok(true));
    assert_eq!(parent.lookup(0x1000).unwrap().0.pfn(), page);
    assert!(parent.leaf(0x1000).unwrap().is_writable());
}

/// A page that nobody could write when the spaces parted is each one's own afterwards.
#[test]
fn the_right_to_write_after_a_fork_comes_with_a_copy() {
    let mut parent = Space::new().unwrap();
    parent.map(0x1000, Page::new().unwrap(), Access::READ).unwrap();
    let mut child = parent.fork().unwrap();
    parent.protect(0x1000, Access::READ_WRITE).unwrap();
    assert!(!parent.leaf(0x1000).unwrap().is_writable());
    assert_eq!(child.copy_for_write(0x1000), Ok(false));
    child.protect(0x1000, Access::READ_WRITE).unwrap();
    parent.write(0x1000, &[1]).unwrap();
    child.write(0x1000, &[2]).unwrap();
    let mut byte = [0];
    parent.read(0x1000, &mut byte).unwrap();
    assert_eq!(byte, [1]);
}

#[test]
fn mapping_lazily_maps_the_same() {
    let mut space = Space::new().unwrap();
    let mapped = space.lazily(|space| {
        (0..1500u64).try_for_each(|n| {
            space.map(0x7fff_0000 + n * 4096, Page::new()?, Access::READ_WRITE)?;
            assert!(space.lookup(0x7fff_0000 + n * 4096).is_some());
            Ok::<_, MapError>(())
        })
    });
    assert_eq!(mapped, Ok(Ok(())));
    for n in 0..1500u64 {
        space.write(0x7fff_0000 + n * 4096, &n.to_ne_bytes()).unwrap();
    }
    space.unmap_range(0x7fff_0000..0x7fff_0000 + 1400 * 4096).unwrap();
    assert!(space.lookup(0x7fff_0000 + 1399 * 4096).is_none());
    assert!(space.lookup(0x7fff_0000 + 1400 * 4096).is_some());
}

/// Another CPU must not take a space apart that this one still has, so it has it until the change to the next is done.
#[test]
fn a_cpu_has_the_former_space_during_the_change() {
    let (first, second) = (Space::new().unwrap(), Space::new().unwrap());
    first.activate();
    let former = first.roots().0;
    crate::mmu::edge::testing::WATCH.set(Some(std::boxed::Box::new(move || {
        assert!(cpus::anywhere(former), "given up before the change")
    })));
    second.activate();
    crate::mmu::edge::testing::WATCH.take();
    assert!(!cpus::anywhere(former) && second.is_active());
}

/// What a test does to one of its spaces.
#[derive(Clone, Debug)]
enum Action {
    Map(usize, u64, bool),
    Unmap(usize, u64),
    UnmapRange(usize, u64, u64),
    Protect(usize, u64, bool),
    Write(usize, u64, u8),
    Fork(usize),
    Drop(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let (space, page) = (0usize..4, 0u64..40);
    prop_oneof![
        (space.clone(), page.clone(), any::<bool>()).prop_map(|(s, p, w)| Action::Map(s, p, w)),
        (space.clone(), page.clone()).prop_map(|(s, p)| Action::Unmap(s, p)),
        (space.clone(), page.clone(), page.clone()).prop_map(|(s, p, q)| Action::UnmapRange(
            s,
            p.min(q),
            p.max(q)
        )),
        (space.clone(), page.clone(), any::<bool>()).prop_map(|(s, p, w)| Action::Protect(s, p, w)),
        (space.clone(), page, any::<u8>()).prop_map(|(s, p, b)| Action::Write(s, p, b)),
        space.clone().prop_map(Action::Fork),
        space.prop_map(Action::Drop),
    ]
}

/// Where page number `n` of the model lies: in several tables of every level.
fn place(n: u64) -> u64 {
    [0x40_0000, 0x7f_ffff_f000, 0x5555_0000_0000, 0x1ff000][(n % 4) as usize] + n / 4 * 0x1000
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A space behaves like a map from pages to bytes, and a fork like a clone of it.
    #[test]
    fn spaces_behave_like_maps(actions in prop::collection::vec(action(), 1..120)) {
        let mut spaces = Vec::from([(Space::new().unwrap(), BTreeMap::<u64, (u8, bool)>::new())]);
        for action in actions {
            let count = spaces.len();
            match action {
                Action::Map(s, n, write) => {
                    let (space, model) = &mut spaces[s % count];
                    let access = Access { write, execute: false };
                    let mapped = space.map(place(n), Page::new().unwrap(), access);
                    prop_assert_eq!(mapped.is_ok(), !model.contains_key(&n));
                    model.entry(n).or_insert((0, write));
                }
                Action::Unmap(s, n) => {
                    let (space, model) = &mut spaces[s % count];
                    prop_assert_eq!(space.unmap(place(n)).is_ok(), model.remove(&n).is_some());
                }
                Action::UnmapRange(s, from, to) => {
                    let (space, model) = &mut spaces[s % count];
                    let range = place(from).min(place(to))..place(from).max(place(to));
                    space.unmap_range(range.clone()).unwrap();
                    model.retain(|&n, _| !range.contains(&place(n)));
                }
                Action::Protect(s, n, write) => {
                    let (space, model) = &mut spaces[s % count];
                    let done = space.protect(place(n), Access { write, execute: false });
                    prop_assert_eq!(done.is_ok(), model.contains_key(&n));
                    model.entry(n).and_modify(|page| page.1 = write);
                }
                Action::Write(s, n, byte) => {
                    let (space, model) = &mut spaces[s % count];
                    let written = space.write(place(n) + 77, &[byte]);
                    prop_assert_eq!(written.is_ok(), model.get(&n).is_some_and(|page| page.1));
                    if written.is_ok() {
                        model.insert(n, (byte, true));
                    }
                }
                Action::Fork(s) if count < 4 => {
                    let (space, model) = &mut spaces[s % count];
                    let child = (space.fork().unwrap(), model.clone());
                    spaces.push(child);
                }
                Action::Drop(s) if count > 1 => drop(spaces.swap_remove(s % count)),
                Action::Fork(_) | Action::Drop(_) => {}
            }
            for (space, model) in &spaces {
                for n in 0..40 {
                    let found = space.lookup(place(n));
                    let expected = model.get(&n);
                    prop_assert_eq!(found.is_some(), expected.is_some());
                    if let (Some((page, access)), Some(&(byte, write))) = (found, expected) {
                        let mut bytes = [0];
                        page.read(77, &mut bytes);
                        prop_assert_eq!((bytes[0], access.write), (byte, write));
                    }
                }
            }
        }
    }
}
