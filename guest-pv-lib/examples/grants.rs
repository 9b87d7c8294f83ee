//! A kernel that grants pages to itself, maps and copies them, takes them back, and talks to xenstore where there is one:
//! each step prints one line, the same on every hypervisor, and the domain ends as crashed where one fails.
//!
//! With `v2` on the command line the table has entries of version 2; with `xenstore` a connection must be there.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::grant::{
    self, Access, Copy, Error, GrantRef, Granted, Mapped, MappedReadOnly, Source, Target, Version,
};
use guest_pv_lib::memory::{Pages, SharedPages};
use guest_pv_lib::platform::{self, Kind};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::xenstore::{self, Client, GuestLink, GuestRing, Transaction};
use guest_pv_lib::{BootContext, println, time, words};

guest_pv_lib::entry!(kernel, name = "grants", version = "1");

/// A step that did not go as it must, and why.
type Step = Result<(), &'static str>;

/// What the steps work with.
struct Context {
    boot: BootContext,
    /// This domain's number, which is what mapping one's own grants wants.
    number: u16,
    store: Option<Client<GuestRing, GuestLink>>,
}

/// A step's name and its code.
type Named = (&'static str, fn(&Context) -> Step);

/// What is checked, in this order.
const STEPS: [Named; 7] = [
    ("table", table),
    ("map", map),
    ("read-only", read_only),
    ("copy", copy),
    ("kept aside", aside),
    ("growth", growth),
    ("xenstore", store),
];

fn kernel(boot: BootContext) -> ! {
    println!("grants: start");
    let store = xenstore::connect(&boot).ok();
    // Where there is no xenstore, this is the first domain.
    let number = store.as_ref().and_then(own_number).unwrap_or(0);
    let context = Context { boot, number, store };
    let mut passed = true;
    for (name, step) in STEPS {
        match step(&context) {
            Ok(()) => println!("grants: {name}: passed"),
            Err(why) => {
                println!("grants: {name}: FAILED: {why}");
                passed = false;
            }
        }
    }
    if context.boot.has_option("cost") {
        cost();
    }
    println!("{}", if passed { "grants: all steps passed" } else { "grants: some step failed" });
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// An error where `condition` does not hold.
fn check(condition: bool, why: &'static str) -> Step {
    if condition { Ok(()) } else { Err(why) }
}

fn own_number(store: &Client<GuestRing, GuestLink>) -> Option<u16> {
    core::str::from_utf8(&store.read(Transaction::NONE, "domid").ok()?).ok()?.parse().ok()
}

fn pages(count: usize) -> Result<Pages, &'static str> {
    Pages::new(count).map_err(|_| "out of memory")
}

fn lend(context: &Context, pages: Pages, access: Access) -> Result<Granted, &'static str> {
    Granted::new(pages, context.number, access).map_err(|_| "granting failed")
}

fn table(context: &Context) -> Step {
    let wanted = if context.boot.has_option("v2") { Version::Two } else { Version::One };
    grant::init(Some(wanted)).map_err(|_| "no table")?;
    check(grant::version() == Some(wanted), "another version")?;
    let (frames, most) = grant::capacity().map_err(|_| "no size")?;
    check(frames >= 1 && most >= frames, "an odd size")
}

/// A PVH domain of this library maps nothing.
fn can_map() -> bool {
    platform::kind() == Kind::Pv
}

/// What one end writes the other one reads, and a mapped page is not taken back.
fn map(context: &Context) -> Step {
    let granted = lend(context, pages(3)?, Access::ReadWrite)?;
    granted[1024].store(0x1111, Relaxed);
    if !can_map() {
        // The pages must be none the worse for it, which the copies find out.
        let refused = Mapped::new(context.number, granted.refs()).err();
        return check(refused == Some(Error::BadGrant), "not refused");
    }
    let mapped = Mapped::new(context.number, granted.refs()).map_err(|_| "mapping failed")?;
    check(mapped.len() == 3072 && mapped[1024].load(Relaxed) == 0x1111, "the peer reads something else")?;
    mapped[2049].store(0x2222, Relaxed);
    check(granted[2049].load(Relaxed) == 0x2222, "what the peer wrote is not there")?;
    check(granted.is_in_use(), "not in use though it is mapped")?;
    let granted = match granted.end() {
        Ok(_) => return Err("taken back while it is mapped"),
        Err(granted) => granted,
    };
    drop(mapped);
    let pages = granted.end().map_err(|_| "not taken back")?;
    check(pages.as_ref()[2 * 4096 + 4..][..4] == [0x22, 0x22, 0, 0], "the contents are lost")?;
    let none = MappedReadOnly::new(context.number, &[GrantRef(9)]);
    check(none.err() == Some(Error::BadGrant), "a grant that was ended can be mapped")
}

/// A page that is granted for reading cannot be mapped for writing, and one bad page is enough to map nothing.
fn read_only(context: &Context) -> Step {
    if !can_map() {
        return Ok(());
    }
    let granted = lend(context, pages(2)?, Access::ReadOnly)?;
    granted[5].store(55, Relaxed);
    let writing = Mapped::new(context.number, granted.refs());
    check(writing.err() == Some(Error::BadGrant), "mapped for writing")?;
    let bad = [granted.refs()[0], GrantRef(40_000), granted.refs()[1]];
    check(MappedReadOnly::new(context.number, &bad).is_err(), "mapped a reference out of range")?;
    check(!granted.is_in_use(), "something stayed mapped")?;
    let mapped = MappedReadOnly::new(context.number, granted.refs()).map_err(|_| "mapping failed")?;
    check(mapped[5].load(Relaxed) == 55, "the peer reads something else")?;
    drop(mapped);
    granted.end().map(drop).map_err(|_| "not taken back")
}

fn copy(context: &Context) -> Step {
    let domain = context.number;
    let mut source = pages(1)?;
    source.as_mut().iter_mut().zip(0u32..).for_each(|(byte, at)| *byte = at as u8);
    let target = lend(context, pages(1)?, Access::ReadWrite)?;
    let read_only = lend(context, pages(1)?, Access::ReadOnly)?;
    let own = SharedPages::from(pages(1)?);
    let peer = |granted: &Granted, offset| Target::Peer { domain, reference: granted.refs()[0], offset };
    let mut pieces = [
        Copy::new(Source::Private(&source, 3), peer(&target, 1000), 3000),
        Copy::new(Source::Private(&source, 0), peer(&read_only, 0), 16),
        Copy::new(
            Source::Peer { domain, reference: target.refs()[0], offset: 1001 },
            Target::Shared(&own, 7),
            1500,
        ),
        Copy::new(
            Source::Peer { domain, reference: GrantRef(40_000), offset: 0 },
            Target::Shared(&own, 0),
            1,
        ),
    ]
    .into_iter()
    .collect::<Result<Vec<_>, _>>()
    .map_err(|_| "a piece is out of range")?;
    grant::copy(&mut pieces);
    let results: Vec<_> = pieces.iter().map(Copy::result).collect();
    check(results == [Ok(()), Err(Error::BadGrant), Ok(()), Err(Error::BadGrant)], "other results")?;
    let mut bytes = [0; 4096];
    words::copy_out(&own, 0, &mut bytes);
    let right = bytes[7..1507].iter().zip(4u32..).all(|(byte, at)| *byte == at as u8);
    check(right && bytes[..7] == [0; 7] && bytes[1507..].iter().all(|byte| *byte == 0), "other bytes")?;
    check(read_only.iter().all(|word| word.load(Relaxed) == 0), "a read-only page was written")
}

/// What is dropped while a peer has it mapped comes back when the peer lets go.
fn aside(context: &Context) -> Step {
    if !can_map() {
        return Ok(());
    }
    let granted = lend(context, pages(1)?, Access::ReadWrite)?;
    let before = guest_pv_lib::memory::free_pages();
    let mapped = Mapped::new(context.number, granted.refs()).map_err(|_| "mapping failed")?;
    drop(granted);
    check(grant::kept_aside() == 1, "not kept aside")?;
    grant::reap();
    check(grant::kept_aside() == 1, "freed while it is mapped")?;
    mapped[0].store(1, Relaxed);
    drop(mapped);
    grant::reap();
    check(grant::kept_aside() == 0, "not freed")?;
    check(guest_pv_lib::memory::free_pages() == before + 1, "the page is lost")
}

/// More grants than one frame of the table holds.
fn growth(context: &Context) -> Step {
    let (before, _) = grant::capacity().map_err(|_| "no size")?;
    let held: Result<Vec<_>, _> = (0..1100).map(|_| lend(context, pages(1)?, Access::ReadOnly)).collect();
    let held = held?;
    let (after, _) = grant::capacity().map_err(|_| "no size")?;
    check(after > before, "the table did not grow")?;
    let last = held.last().ok_or("none")?;
    last[9].store(99, Relaxed);
    if can_map() {
        let mapped = MappedReadOnly::new(context.number, last.refs());
        let mapped = mapped.map_err(|_| "mapping failed")?;
        check(mapped[9].load(Relaxed) == 99, "the peer reads something else")?;
    }
    let free = grant::free_references();
    drop(held);
    check(grant::free_references() == free + 1100, "references are lost")
}

fn store(context: &Context) -> Step {
    let Some(client) = &context.store else {
        return check(!context.boot.has_option("xenstore"), "no connection");
    };
    let none = Transaction::NONE;
    check(own_number(client) == Some(context.number), "no number")?;
    client.watch("data", "token").map_err(|_| "no watch")?;
    client.write(none, "data/grants", b"some value").map_err(|_| "no write")?;
    check(client.read(none, "data/grants").as_deref() == Ok(b"some value"), "another value")?;
    client
        .transact(|transaction| client.write(transaction, "data/other", b""))
        .map_err(|_| "no transaction")?;
    let names = client.directory(none, "data").map_err(|_| "no directory")?;
    check(names.iter().any(|name| name == "other"), "a child is missing")?;
    client.remove(none, "data/grants").map_err(|_| "no removal")?;
    check(client.read(none, "data/grants").is_err(), "it is still there")?;
    check(client.next_event().is_some_and(|event| event.token == "token"), "no event")
}

/// What a grant and its end cost, in ticks of the time stamp counter: instructions under an emulator that counts them.
fn cost() {
    const ROUNDS: u64 = 1000;
    let Ok(mut page) = Pages::new(1) else { return };
    let start = time::tsc();
    for _ in 0..ROUNDS {
        let Ok(granted) = Granted::new(page, 0, Access::ReadWrite) else { return };
        let Ok(back) = granted.end() else { return };
        page = back;
    }
    let whole = time::tsc() - start;
    println!("grants: {} ticks for a grant and its end", whole / ROUNDS);
    let shared = SharedPages::from(page);
    let mut bytes = [0; 4096];
    let start = time::tsc();
    for _ in 0..ROUNDS {
        words::copy_out(&shared, 0, &mut bytes);
    }
    println!("grants: {} ticks for 4096 bytes out of a shared page", (time::tsc() - start) / ROUNDS);
}
