//! The program on the host: it says which cases there are, for the runner and for the page on coverage.

use super::{Attribute, run};

/// Prints a line for each case: its name and its attributes, separated by tabs.
pub fn print() {
    let mut cases: Vec<_> = run::cases().iter().collect();
    cases.sort_by_key(|case| case.name());
    for case in cases {
        print!("{}", case.name());
        for attribute in case.attributes {
            print!("\t{}", text(attribute));
        }
        println!();
    }
}

fn text(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Clause(line) => format!("clause {}", line.trim()),
        Attribute::Alone => "alone".into(),
        Attribute::Ends(end) => format!("ends {end:?}"),
        Attribute::Vcpus(count) => format!("vcpus {count}"),
        Attribute::Cpus(count) => format!("cpus {count}"),
        Attribute::Peer => "peer".into(),
        Attribute::Feature(feature) => format!("feature {feature:?}"),
        Attribute::Emulator(name, why) => format!("emulator {name} {why}"),
        Attribute::Covers(what) => format!("covers {}", what.join(" ")),
    }
}
