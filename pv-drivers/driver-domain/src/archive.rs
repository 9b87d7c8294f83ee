//! The archive that the driver domain is started with: a cpio file (`newc`) with the description of the machine, and
//! the files that its disks name.

/// Name of the description in the archive.
pub const DESCRIPTION: &str = "domains.toml";

/// A file of the archive.
#[must_use]
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let plain = |path: &str| path.trim_start_matches("./").trim_start_matches('/') == name;
    cpio_reader::iter_files(archive).find(|entry| plain(entry.name())).map(|entry| entry.file())
}
