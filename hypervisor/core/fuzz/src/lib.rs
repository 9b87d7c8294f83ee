//! What is fuzzed: everything in the core that takes bytes or words from outside.
//!
//! A target is a function of any bytes that must come back: no panic, no endless loop, and for hypercalls, exact accounts
//! when all domains are gone. The same functions are driven in two ways: by libFuzzer (the programs in `fuzz_targets`,
//! `cargo xtask fuzz` or `cargo fuzz run <target> --features libfuzzer`), and by an ordinary test over the inputs that are kept
//! in `corpus` and many random ones.

mod input;
mod parsers;
mod world;

/// A function under test.
pub struct Target {
    /// Its name: of the program in `fuzz_targets`, and of the folder in `corpus`.
    pub name: &'static str,
    /// What it takes apart.
    pub what: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "acpi", what: "ACPI's static tables", run: parsers::acpi },
    Target { name: "options", what: "the hypervisor's command line", run: parsers::options },
    Target { name: "description", what: "the description of domains", run: parsers::description },
    Target { name: "kernel", what: "ELF files, bzImages, packed payloads", run: parsers::kernel },
    Target { name: "hypercalls", what: "any hypercall, multicalls among them", run: world::hypercalls },
    Target { name: "memory", what: "memory_op", run: world::memory },
    Target { name: "pages", what: "page tables and descriptors", run: world::pages },
    Target { name: "events", what: "event channels and physical interrupts", run: world::events },
    Target { name: "grants", what: "grant tables", run: world::grants },
    Target { name: "vcpus", what: "vCPUs, scheduling, traps, time", run: world::vcpus },
    Target {
        name: "control",
        what: "the control domain's interfaces, console, version",
        run: world::control,
    },
];

/// Runs a target by name.
///
/// # Panics
/// When the target finds a mistake, or there is none of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(data);
}
