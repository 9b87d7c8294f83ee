//! Hypervisor and `hello` built by the toolchain that the other commands did not use here, and booted.
//!
//! Users have one of two toolchains ([`crate::toolchain`]). A flag that suits one can break the other without anyone
//! noticing, so the test command tries both wherever both can be had.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Result;

use crate::build;
use crate::qemu::{Hypervisor, Machine};
use crate::session::Session;
use crate::toolchain::{self, Absent};

/// What `hello` prints when all its steps passed.
const LAST_LINE: &str = "hello: all steps passed";
/// A boot takes about a second; a busy machine may be slow.
const LIMIT: Duration = Duration::from_secs(60);

/// What the attempt showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The other toolchain's `hello` ran to its end on the other toolchain's hypervisor.
    Passed,
    /// This machine does not have the other toolchain, for this reason, and need not have it.
    NotTried(String),
}

/// Builds and boots with the other toolchain.
///
/// # Errors
/// The build or the boot failed; or the toolchain is not there although this machine, a Debian 12 with root's rights, can
/// install it.
pub fn check() -> Result<Verdict> {
    let toolchain = match toolchain::other_than(&toolchain::ensure()?) {
        Ok(toolchain) => toolchain,
        Err(Absent::NoRustup) => {
            return Ok(Verdict::NotTried(
                "rustup is not installed, and Debian 12 has no package of it".into(),
            ));
        }
        Err(Absent::Failed(error)) if can_install() => {
            return Err(error.context("the other toolchain was not tried"));
        }
        Err(Absent::Failed(error)) => return Ok(Verdict::NotTried(format!("{error:#}"))),
    };
    let (hypervisor, hello) = build::hello_by(&toolchain)?;
    let mut machine = Machine::new(Hypervisor::File(hypervisor));
    machine.kernel = Some(hello);
    Session::start(&machine)?.wait_for(LAST_LINE, LIMIT)?;
    Ok(Verdict::Passed)
}

/// Whether this is a Debian 12 and the command runs as root.
fn can_install() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    is_debian_12(&release) && fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Reads the text of os-release(5).
fn is_debian_12(release: &str) -> bool {
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"'))
    };
    value("ID") == Some("debian") && value("VERSION_ID") == Some("12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        assert!(is_debian_12(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(!is_debian_12("VERSION_ID=\"13\"\nID=debian\n"));
        assert!(!is_debian_12("VERSION_ID=\"12\"\nID=devuan\nID_LIKE=debian\n"));
        assert!(!is_debian_12(""));
    }
}
