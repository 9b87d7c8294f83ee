//! Files through a ring, a model of the tree, and ends that send anything.

extern crate std;

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;
use std::{format, thread, vec};

use proptest::prelude::*;
use spin::Mutex;

use super::back::{self, Server};
use super::contents::Contents;
use super::front::{Failed, Files, MOST_NAMED};
use super::message::{Code, HEADER, Reader, Writer, kind};
use super::server::{Session, SharedTree};
use super::tree::{DIRECTORY_COST, Kind, NAME_COST, NODE_COST, ROOT, Tree};
use crate::transport::Transport;
use crate::transport::host::{HostTransport, Machine};
use crate::xenbus::{Bus, Device, End};

fn tree(budget: u64) -> SharedTree {
    Arc::new(Mutex::new(Tree::new(budget)))
}

/// Runs `work` in a domain that has `tree` of another one.
fn with_files(tree: &SharedTree, work: impl FnOnce(&mut Files<HostTransport>)) {
    let machine = Machine::new();
    let (front_path, back_path) = machine.plug("9pfs", 0, 1, 2);
    let bus = Bus::new(machine.domain(1));
    let stop = Arc::new(core::sync::atomic::AtomicBool::new(false));
    let server = thread::spawn({
        let (bus, tree, stop) = (Bus::new(machine.domain(2)), tree.clone(), stop.clone());
        move || {
            let end = End::back(&bus, &back_path).unwrap();
            let mut device = Device::new(end, Server::new(tree));
            while !stop.load(core::sync::atomic::Ordering::Relaxed) {
                let moved = bus.poll() | device.poll() | back::check(&mut device);
                if !(moved | device.driver_mut().poll()) {
                    bus.transport().wait(Some(Duration::from_millis(2)));
                }
            }
        }
    });
    let mut device = Device::new(End::front(&bus, &front_path).unwrap(), Files::default());
    while !device.is_connected() {
        if !(bus.poll() | device.poll()) {
            bus.transport().wait(Some(Duration::from_millis(2)));
        }
    }
    work(device.driver_mut());
    stop.store(true, core::sync::atomic::Ordering::Relaxed);
    server.join().unwrap();
}

#[test]
fn files_are_read_written_listed_and_removed() {
    let shared = tree(10 << 20);
    shared.lock().add("etc/motd", b"welcome", 0o644).unwrap();
    with_files(&shared, |files| {
        assert_eq!(files.read("/etc/motd").unwrap(), b"welcome");
        // More than a message, and more than the ring.
        let large: Vec<u8> = (0..500_000u32).map(|byte| (byte % 253).to_le_bytes()[0]).collect();
        files.make_directory("var").unwrap();
        files.write("var/large", &large).unwrap();
        assert!(files.read("var/large").unwrap() == large);
        assert_eq!(files.read_up_to("var/large", large.len() - 1), Err(Failed::Refused(Code::EFBIG)));
        assert!(files.read_up_to("var/large", large.len()).unwrap() == large);
        files.write("var/large", b"short").unwrap();
        assert_eq!(files.read("var/large").unwrap(), b"short");
        for number in 0..3000 {
            files.write(&format!("var/{number}"), b"").unwrap();
        }
        let listed = files.list("var").unwrap();
        assert_eq!(listed.len(), 3001);
        assert!(listed.contains(&"2999".to_string()));
        assert_eq!(files.read("var/none"), Err(Failed::Refused(Code::ENOENT)));
        assert_eq!(files.read("none/none"), Err(Failed::Refused(Code::ENOENT)));
        assert_eq!(files.remove("var", true), Err(Failed::Refused(Code::ENOTEMPTY)));
        assert_eq!(files.make_directory("var"), Err(Failed::Refused(Code::EEXIST)));
        files.remove("etc/motd", false).unwrap();
        files.remove("etc", true).unwrap();
        assert_eq!(files.list("/").unwrap(), ["var"]);
        let deep = ["d"; 40];
        for depth in 1..=deep.len() {
            files.make_directory(&deep[..depth].join("/")).unwrap();
        }
        files.write(&(deep.join("/") + "/f"), b"deep").unwrap();
        assert_eq!(files.read(&(deep.join("/") + "/f")).unwrap(), b"deep");
    });
}

#[test]
fn a_tree_that_is_read_only_or_full_says_so() {
    let shared = tree(10_000);
    shared.lock().add("a", b"1", 0o644).unwrap();
    with_files(&shared, |files| {
        assert_eq!(files.write("b", &[0; 20_000]), Err(Failed::Refused(Code::ENOSPC)));
        files.write("b", &[0; 4000]).unwrap();
    });
    shared.lock().read_only = true;
    with_files(&shared, |files| {
        assert_eq!(files.write("a", b"2"), Err(Failed::Refused(Code::EROFS)));
        assert_eq!(files.write("c", b"2"), Err(Failed::Refused(Code::EROFS)));
        assert_eq!(files.remove("a", false), Err(Failed::Refused(Code::EROFS)));
        assert_eq!(files.read("a").unwrap(), b"1");
    });
}

/// Makes one request of a session.
fn ask(session: &mut Session, kind: u8, fields: impl FnOnce(&mut Writer)) -> Result<Vec<u8>, Code> {
    let (mut request, mut reply) = (Writer::default(), Writer::default());
    request.begin(kind, 9);
    fields(&mut request);
    session.answer(request.finish(), &mut reply);
    let answer = reply.finish();
    assert_eq!(answer[5..7], [9, 0]);
    assert_eq!(u32::from_le_bytes(*answer.first_chunk().unwrap()) as usize, answer.len());
    match answer[4] {
        kind::RLERROR => Err(Code(Reader::new(&answer[HEADER..]).u32().unwrap())),
        _ => Ok(answer[HEADER..].to_vec()),
    }
}

fn attached(tree: &SharedTree) -> Session {
    let mut session = Session::new(tree.clone(), 8192);
    ask(&mut session, kind::TATTACH, |request| request.u32(0)).unwrap();
    session
}

fn walk(session: &mut Session, to: u32, names: &[&str]) -> Result<Vec<u8>, Code> {
    ask(session, kind::TWALK, |request| {
        request.u32(0);
        request.u32(to);
        request.u16(names.len().try_into().unwrap());
        names.iter().for_each(|name| request.string(name.as_bytes()));
    })
}

#[test]
fn a_file_without_a_name_lives_until_its_last_handle_is_given_up() {
    let shared = tree(1 << 20);
    shared.lock().add("file", &[1; 1000], 0o600).unwrap();
    let before = Tree::new(0).usage().0;
    let mut session = attached(&shared);
    walk(&mut session, 1, &["file"]).unwrap();
    let numbers = |a: u32, b: u32| move |request: &mut Writer| (request.u32(a), request.u32(b)).1;
    ask(&mut session, kind::TLOPEN, numbers(1, 2)).unwrap();
    shared.lock().unlink(ROOT, b"file", false).unwrap();
    let read = |request: &mut Writer| {
        request.u32(1);
        request.u64(990);
        request.u32(100);
    };
    assert_eq!(ask(&mut session, kind::TREAD, read).unwrap(), [&[10, 0, 0, 0][..], &[1; 10]].concat());
    let revive = |request: &mut Writer| {
        request.u32(0);
        request.u32(1);
        request.string(b"again");
    };
    assert_eq!(ask(&mut session, kind::TLINK, revive), Err(Code::EPERM));
    assert!(shared.lock().usage().0 > before + 1000);
    drop(session);
    assert_eq!(shared.lock().usage().0, before, "every byte was given back");
}

#[test]
fn a_walk_that_ends_on_the_way_makes_no_handle() {
    let shared = tree(1 << 20);
    shared.lock().add("a/b", b"", 0).unwrap();
    let mut session = attached(&shared);
    assert_eq!(walk(&mut session, 1, &["a", "x"]).unwrap()[..2], [1, 0]);
    assert_eq!(ask(&mut session, kind::TCLUNK, |request| request.u32(1)), Err(Code::EBADF));
    assert_eq!(walk(&mut session, 1, &["x"]), Err(Code::ENOENT));
    assert_eq!(walk(&mut session, 1, &["..", "..", "a", "..", "a", "b"]).unwrap()[..2], [6, 0]);
    assert_eq!(walk(&mut session, 1, &[]), Err(Code::EINVAL), "in use");
}

#[test]
fn handles_are_limited() {
    let shared = tree(1 << 20);
    let mut session = attached(&shared);
    let refused = (1..5000).find(|handle| walk(&mut session, *handle, &[]) == Err(Code::ENFILE));
    assert_eq!(refused, Some(1024));
}

/// What may be done to a tree, with few names so that they meet.
#[derive(Clone, Debug)]
enum Step {
    File(u8, u8),
    Directory(u8, u8),
    Write(u8, u16, u16),
    Unlink(u8, u8, bool),
    Rename(u8, u8, u8, u8),
    Link(u8, u8, u8),
    Resize(u8, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = 0..6u8;
    prop::collection::vec(
        prop_oneof![
            (small.clone(), small.clone()).prop_map(|(a, b)| Step::File(a, b)),
            (small.clone(), small.clone()).prop_map(|(a, b)| Step::Directory(a, b)),
            (small.clone(), 0..3000u16, 0..3000u16).prop_map(|(a, b, c)| Step::Write(a, b, c)),
            (small.clone(), small.clone(), any::<bool>()).prop_map(|(a, b, c)| Step::Unlink(a, b, c)),
            (small.clone(), small.clone(), small.clone(), small.clone())
                .prop_map(|(a, b, c, d)| Step::Rename(a, b, c, d)),
            (small.clone(), small.clone(), small.clone()).prop_map(|(a, b, c)| Step::Link(a, b, c)),
            (small, 0..5000u16).prop_map(|(a, b)| Step::Resize(a, b)),
        ],
        0..80,
    )
}

/// Every path below a directory with what it stands for; fails where a directory contains itself.
fn paths(tree: &Tree, at: u64, above: &str, depth: usize, all: &mut BTreeMap<String, u64>) {
    assert!(depth < 100, "a directory within itself");
    let Kind::Directory(names) = &tree.node(at).unwrap().kind else { return };
    for (name, id) in names {
        let path = format!("{above}/{}", String::from_utf8_lossy(name));
        all.insert(path.clone(), *id);
        paths(tree, *id, &path, depth + 1, all);
    }
}

/// The bytes that the contents of these nodes take.
fn held(tree: &Tree, nodes: &std::collections::BTreeSet<u64>) -> u64 {
    let held = |id| match &tree.node(id).unwrap().kind {
        Kind::File(contents) => contents.held() as u64,
        _ => 0,
    };
    nodes.iter().copied().map(held).sum()
}

#[test]
fn what_a_file_loses_is_given_back() {
    let mut tree = Tree::new(1 << 20);
    let mut nodes = std::collections::BTreeSet::new();
    for name in 0..20u8 {
        let id = tree.create(ROOT, &[b'a' + name], Kind::File(Contents::default()), 0o600, 0).unwrap();
        tree.write(id, 0, &vec![7; 900_000]).unwrap();
        tree.resize(id, 1).unwrap();
        nodes.insert(id);
    }
    assert!(held(&tree, &nodes) <= 20 * 64, "{} bytes for 20", held(&tree, &nodes));
    // A file that was never written to holds nothing, and no step of making it long is long.
    let id = *nodes.first().unwrap();
    tree.resize(id, 1 << 19).unwrap();
    tree.write(id, (1 << 19) - 1, &[1]).unwrap();
    assert!(held(&tree, &nodes) < 40_000);
}

#[test]
fn a_name_costs_what_it_takes() {
    let mut tree = Tree::new(100_000);
    let id = tree.create(ROOT, b"file", Kind::File(Contents::default()), 0o600, 0).unwrap();
    let made = (0..10_000).take_while(|n| tree.link(ROOT, format!("{n:04}").as_bytes(), id).is_ok()).count();
    assert!(made * 64 < 100_000, "{made} names of 4 bytes take more than 64 each");
    tree.unlink(ROOT, b"file", false).unwrap();
    assert!(tree.link(ROOT, b"file", id).is_ok(), "what one gave back, another one takes");
}

/// A back end whose answers come too late: it holds every answer back until it is told to go on.
#[test]
fn a_directory_of_long_names_does_not_fill_the_memory_of_the_one_that_lists_it() {
    let shared = tree(64 << 20);
    for (directory, count) in [("many", 17_000), ("some", 16_000)] {
        let mut tree = shared.lock();
        let directory =
            tree.create(ROOT, directory.as_bytes(), Kind::Directory(BTreeMap::new()), 0o755, 0).unwrap();
        for number in 0..count {
            let name = format!("{number:0255}");
            tree.create(directory, name.as_bytes(), Kind::Link(Vec::new()), 0o644, 0).unwrap();
        }
    }
    with_files(&shared, |files| {
        const { assert!(17_000 * 255 > MOST_NAMED) };
        assert_eq!(files.list("many"), Err(Failed::Refused(Code::EFBIG)));
        assert_eq!(files.list("some").map(|names| names.len()), Ok(16_000));
    });
}

#[test]
fn a_directory_is_read_on_behind_the_last_name_and_not_counted_off_without_limit() {
    let shared = tree(64 << 20);
    {
        let mut tree = shared.lock();
        for number in 0..20_000 {
            let name = format!("{number:05}");
            tree.create(ROOT, name.as_bytes(), Kind::Link(Vec::new()), 0o644, 0).unwrap();
        }
    }
    let mut session = attached(&shared);
    walk(&mut session, 2, &[]).unwrap();
    ask(&mut session, kind::TLOPEN, |fields| {
        fields.u32(2);
        fields.u32(0);
    })
    .unwrap();
    let mut read = |offset: u64| {
        let answer = ask(&mut session, kind::TREADDIR, |fields| {
            fields.u32(2);
            fields.u64(offset);
            fields.u32(1000);
        })?;
        let (mut entries, mut found) = (Reader::new(&answer[4..]), Vec::new());
        while !entries.is_empty() {
            entries.qid().unwrap();
            let next = entries.u64().unwrap();
            entries.u8().unwrap();
            found.push((next, String::from_utf8(entries.string().unwrap().to_vec()).unwrap()));
        }
        Ok::<_, Code>(found)
    };
    assert_eq!(read(19_000), Err(Code::EINVAL), "a place that was not reached");
    let (mut at, mut all) = (0, Vec::new());
    loop {
        let found = read(at).unwrap();
        let Some((next, _)) = found.last() else { break };
        at = *next;
        all.extend(found);
        if all.len() < 200 {
            // A name that was listed and goes does not let another one be left out.
            shared.lock().unlink(ROOT, all.last().unwrap().1.as_bytes(), false).ok();
        }
    }
    let numbers: Vec<u64> = all.iter().map(|(next, _)| *next).collect();
    assert!(numbers.iter().copied().eq(1..=20_002));
    let names = all.into_iter().skip(2).map(|(_, name)| name.parse::<u32>().unwrap());
    assert!(names.eq(0..20_000));
    assert_eq!(read(at).unwrap(), [], "the end stays the end");
    assert_eq!(read(1).unwrap()[0], (2, "..".to_string()), "places nearby are counted off");
}

#[test]
fn a_late_answer_is_not_taken_for_another_one() {
    use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let shared = tree(1 << 20);
    shared.lock().add("a", b"first", 0o644).unwrap();
    shared.lock().add("b", b"second", 0o644).unwrap();
    let machine = Machine::new();
    let (front_path, back_path) = machine.plug("9pfs", 0, 1, 2);
    let bus = Bus::new(machine.domain(1));
    let (stop, sleeps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let server = thread::spawn({
        let (bus, tree) = (Bus::new(machine.domain(2)), shared.clone());
        let (stop, sleeps) = (stop.clone(), sleeps.clone());
        move || {
            let mut device = Device::new(End::back(&bus, &back_path).unwrap(), Server::new(tree));
            while !stop.load(Relaxed) {
                let moved = bus.poll() | device.poll() | back::check(&mut device);
                if sleeps.load(Relaxed) || !(moved | device.driver_mut().poll()) {
                    bus.transport().wait(Some(Duration::from_millis(2)));
                }
            }
        }
    });
    let files = Files::default().with_patience(Duration::from_millis(300));
    let mut device = Device::new(End::front(&bus, &front_path).unwrap(), files);
    while !device.is_connected() {
        if !(bus.poll() | device.poll()) {
            bus.transport().wait(Some(Duration::from_millis(2)));
        }
    }
    let files = device.driver_mut();
    assert_eq!(files.read("a").unwrap(), b"first");
    sleeps.store(true, Relaxed);
    for _ in 0..3 {
        assert_eq!(files.read("a"), Err(Failed::Silent));
    }
    // A message that does not fit into the ring is left in the middle.
    assert_eq!(files.write("c", &[3; 60_000]), Err(Failed::Silent));
    sleeps.store(false, Relaxed);
    for _ in 0..3 {
        assert_eq!(files.read("b").unwrap(), b"second");
    }
    files.write("c", &[3; 60_000]).unwrap();
    assert_eq!(files.read("c").unwrap(), [3; 60_000]);
    stop.store(true, Relaxed);
    server.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_tree_stays_a_tree_and_counts_its_bytes(steps in steps()) {
        let mut tree = Tree::new(20_000);
        let mut ids = vec![ROOT];
        for step in steps {
            let pick = |index: u8| ids[usize::from(index) % ids.len()];
            let name = |index: u8| vec![b'a' + index];
            let made = match step {
                Step::File(at, new) => tree.create(pick(at), &name(new), Kind::File(Contents::default()), 0o600, 0).ok(),
                Step::Directory(at, new) => {
                    tree.create(pick(at), &name(new), Kind::Directory(BTreeMap::new()), 0o700, 0).ok()
                }
                Step::Write(at, offset, length) => {
                    let _ = tree.write(pick(at), offset.into(), &vec![7; length.into()]);
                    None
                }
                Step::Unlink(at, old, directory) => {
                    let _ = tree.unlink(pick(at), &name(old), directory);
                    None
                }
                Step::Rename(from, old, to, new) => {
                    let _ = tree.rename(pick(from), &name(old), pick(to), &name(new));
                    None
                }
                Step::Link(at, new, to) => {
                    let _ = tree.link(pick(at), &name(new), pick(to));
                    None
                }
                Step::Resize(at, size) => {
                    let _ = tree.resize(pick(at), size.into());
                    None
                }
            };
            ids.extend(made);
            let mut all = BTreeMap::new();
            paths(&tree, ROOT, "", 0, &mut all);
            let nodes: std::collections::BTreeSet<u64> = all.values().copied().chain([ROOT]).collect();
            let contents: u64 = nodes.iter().map(|id| tree.node(*id).unwrap()).map(|node| match node.kind {
                Kind::Directory(_) => NODE_COST + DIRECTORY_COST,
                _ => NODE_COST + node.size(),
            }).sum();
            // All names have one letter.
            prop_assert_eq!(tree.usage().0, contents + all.len() as u64 * (NAME_COST + 1));
            prop_assert!(tree.usage().0 <= tree.usage().1);
            prop_assert!(held(&tree, &nodes) <= tree.usage().0);
        }
    }

    #[test]
    fn any_message_is_answered(messages in prop::collection::vec(
        (prop_oneof![any::<u8>(), (4..62u8).prop_map(|half| half * 2)],
         prop::collection::vec(prop_oneof![Just(0u8), Just(1), 0..6u8, any::<u8>()], 0..60)), 1..60,
    )) {
        let shared = tree(100_000);
        shared.lock().add("a/b", b"contents", 0o644).unwrap();
        let mut session = attached(&shared);
        for (kind, fields) in messages {
            let _ = ask(&mut session, kind, |request| fields.iter().for_each(|byte| request.u8(*byte)));
            prop_assert!(session.largest() >= 4096);
        }
    }

    #[test]
    fn a_front_end_that_writes_anything_on_its_ring_is_survived(
        words in prop::collection::vec((prop_oneof![0..40usize, 0..1024usize], any::<bool>(), prop_oneof![0..200u32, any::<u32>()]), 1..60),
    ) {
        use crate::transport::{Access, Granted};
        let machine = Machine::new();
        let (front, back) = (machine.domain(1), machine.domain(2));
        let lend = |pages| front.lend(front.buffer(pages).unwrap(), 2, Access::ReadWrite).unwrap();
        let (index, data) = (lend(1), lend(2));
        super::ring::describe(&index, 1, data.refs());
        let map = |refs: &[crate::transport::GrantRef]| back.map(1, refs, Access::ReadWrite).unwrap();
        let mut messages = super::ring::Messages::new(map(index.refs()), map(data.refs()), true);
        let mut session = Session::new(tree(1000), 8192);
        let mut reply = Writer::default();
        for (at, on_index, value) in words {
            (if on_index { &index } else { &data })[at].store(value, core::sync::atomic::Ordering::Relaxed);
            let _ = super::ring::described(&index);
            let Ok(_) = messages.receive(session.largest()) else { continue };
            if let Some(message) = messages.message() {
                session.answer(message, &mut reply);
                messages.done();
                let _ = messages.send(reply.finish());
            }
        }
    }
}

/// Directories one below the other, as many as the budget allows: a move looks at no more of them than at others.
#[test]
fn a_directory_is_not_moved_below_too_many_others() {
    let mut tree = Tree::new(16 << 20);
    let mut directory =
        |above, name: &[u8]| tree.create(above, name, Kind::Directory(Default::default()), 0o755, 0).unwrap();
    let moved = directory(ROOT, b"moved");
    let mut way = vec![directory(ROOT, b"d")];
    (0..10_000).for_each(|_| way.push(directory(way[way.len() - 1], b"d")));
    assert_eq!(tree.rename(ROOT, b"moved", way[way.len() - 1], b"far"), Err(Code::EINVAL));
    assert_eq!(tree.rename(ROOT, b"moved", way[1000], b"near"), Ok(()));
    assert_eq!(tree.lookup(way[1000], b"near"), Ok(moved));
    assert_eq!(tree.rename(ROOT, b"d", moved, b"d"), Err(Code::EINVAL), "into itself");
}

/// Messages that are cheap to ask and dear to answer take no more of a round than others.
#[test]
fn a_round_answers_as_much_as_it_may_cost() {
    use crate::transport::{Access, Granted};
    let shared = tree(64 << 20);
    for number in 0..16_000 {
        let name = format!("{number:05}");
        shared.lock().create(ROOT, name.as_bytes(), Kind::Link(Vec::new()), 0o644, 0).unwrap();
    }
    let machine = Machine::new();
    let (front, back) = (machine.domain(1), machine.domain(2));
    let lend = |pages| front.lend(front.buffer(pages).unwrap(), 2, Access::ReadWrite).unwrap();
    let (index, data) = (lend(1), lend(16));
    let map = |refs: &[crate::transport::GrantRef]| back.map(1, refs, Access::ReadWrite).unwrap();
    let mut messages = super::ring::Messages::new(map(index.refs()), map(data.refs()), true);
    let mut asking = super::ring::Messages::new(&index[..], &data[..], false);
    let mut session = attached(&shared);
    walk(&mut session, 2, &[]).unwrap();
    ask(&mut session, kind::TLOPEN, |fields| [2, 0].iter().for_each(|field| fields.u32(*field))).unwrap();
    let mut reply = Writer::default();
    for (offset, answered) in [(16_000, 2), (0, 32), (100, 32)] {
        let mut request = Writer::default();
        request.begin(kind::TREADDIR, 1);
        request.u32(2);
        request.u64(offset);
        request.u32(100);
        for _ in 0..40 {
            assert!(asking.send(request.finish()).unwrap() && asking.is_sent());
        }
        let (mut counts, mut all) = (Vec::new(), 0);
        while all < 40 {
            assert_eq!(back::answer(&mut messages, &mut session, &mut reply), Ok(true));
            let mut count = 0;
            while asking.receive(8192).is_ok() && asking.message().is_some() {
                asking.done();
                count += 1;
            }
            counts.push(count);
            all += count;
        }
        assert!(
            counts.iter().all(|count| *count <= answered) && counts[0] == answered,
            "{offset}: {counts:?}"
        );
    }
}
