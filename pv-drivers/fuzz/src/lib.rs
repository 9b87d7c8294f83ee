//! What is fuzzed: each end of a driver, and the xenstore server, against another end that does as it likes.
//!
//! A target is a function of any bytes: they decide what the lying end writes into shared pages and xenstore, which grants it
//! takes away, and when the honest end gets to run. It must come back: no panic, nothing that goes on for ever once the
//! liar is silent, and nobody else harmed. The same functions are driven in two ways: by libFuzzer (the programs in
//! `fuzz_targets`, `cargo xtask fuzz`), and by an ordinary test over the inputs that are kept in `corpus` and random ones.
//!
//! The host transport connects the ends; both are in one thread, so that an input always does the same.
#![forbid(unsafe_code)]

mod blk;
mod console;
mod display;
mod files;
mod input;
mod liar;
mod net;
mod ring;
mod store;

/// A function under test.
pub struct Target {
    /// Its name: of the program in `fuzz_targets`.
    pub name: &'static str,
    /// Who is lied to.
    pub what: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "ring", what: "both ends of a ring that somebody writes into", run: ring::ring },
    Target { name: "blk_back", what: "the block back end", run: blk::back },
    Target { name: "blk_front", what: "the block front end", run: blk::front },
    Target { name: "net_back", what: "the network back end, on a bridge with others", run: net::back },
    Target { name: "net_front", what: "the network front end", run: net::front },
    Target { name: "store", what: "the xenstore server, by the ring of a domain", run: store::store },
    Target { name: "files", what: "the 9pfs back end", run: files::files },
    Target { name: "console", what: "either end of a console", run: console::console },
    Target { name: "display_back", what: "the back ends of display and keyboard", run: display::back },
    Target { name: "display_front", what: "the front ends of display and keyboard", run: display::front },
];

/// Runs a target by name.
///
/// # Panics
/// When the target finds a mistake, or there is none of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(data);
}
