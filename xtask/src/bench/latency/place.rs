//! Names for addresses of the hypervisor: the innermost function and its line.

use std::path::Path;
use std::process::Command;

use crate::process;

/// The symbols of an ELF file.
pub struct Places<'a>(&'a Path);

impl<'a> Places<'a> {
    /// Those of `file`.
    pub fn new(file: &'a Path) -> Self {
        Self(file)
    }

    /// Names for addresses in hexadecimal, with an arrow in between; the addresses themselves where nothing can tell (binutils come
    /// with the compiler).
    pub fn of(&self, addresses: &[&str]) -> String {
        let mut tool = Command::new("addr2line");
        tool.args(["-f", "-C", "-e"]).arg(self.0).args(addresses);
        let told = process::output(&mut tool).unwrap_or_default();
        let lines: Vec<&str> = told.lines().collect();
        let name = |(n, address): (usize, &&str)| match lines.get(2 * n..2 * n + 2) {
            Some([function, line]) if *function != "??" => short(function, line),
            // The entry code has no lines, and stubs are made at boot.
            _ => format!("{address:.16}"),
        };
        addresses.iter().enumerate().map(name).collect::<Vec<_>>().join(" -> ")
    }
}

/// The last part of a function's path, and of its file's.
fn short(function: &str, line: &str) -> String {
    let function = function.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(function);
    let line = line.split(" (").next().unwrap_or(line);
    match line.rsplit('/').next().unwrap_or(line) {
        line if line.starts_with('?') || line.ends_with('?') => function.to_owned(),
        line => format!("{function} ({line})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short() {
        let name = "hypervisor_core::page::teardown::<impl hypervisor_core::Hypervisor<P>>::look_through";
        assert_eq!(short(name, "/a/b/teardown.rs:62 (discriminator 4)"), "look_through (teardown.rs:62)");
        assert_eq!(short("a::b::{{closure}}", "??:?"), "b");
        assert_eq!(
            Places::new(Path::new("/nowhere")).of(&["ffff82d080000000", "12"]),
            "ffff82d080000000 -> 12"
        );
    }
}
