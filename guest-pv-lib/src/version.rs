//! `xen_version`: which hypervisor this is and what it offers.

use core::fmt;

use xen_abi::hypercall::nr;
use xen_abi::version::{XENVER_CAPABILITIES, XENVER_GET_FEATURES, XENVER_VERSION, XenFeatureInfo};

use crate::hypercall::{Errno, check, raw};

/// The version of the hypervisor's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number before the point.
    pub major: u16,
    /// The number behind it.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn op(command: u32, arg: u64) -> Result<u64, Errno> {
    // SAFETY: this module passes null or the address of the command's structure, exclusively borrowed, of a type
    // for which any bytes are valid.
    check(unsafe { raw::call2(nr::XEN_VERSION, u64::from(command), arg) })
}

/// The version.
#[doc(alias = "XENVER_version")]
#[must_use]
pub fn version() -> Version {
    // Never refused; a hypervisor that did would be of no version.
    let packed = op(XENVER_VERSION, 0).unwrap_or(0);
    Version { major: ((packed >> 16) & 0xffff) as u16, minor: (packed & 0xffff) as u16 }
}

/// The first 32 features (`XENFEAT_*`), one bit each.
///
/// # Errors
///
/// None on any known hypervisor.
#[doc(alias = "XENVER_get_features")]
pub fn features() -> Result<u32, Errno> {
    let mut info = XenFeatureInfo::default();
    op(XENVER_GET_FEATURES, &raw mut info as u64)?;
    Ok(info.submap)
}

/// What kinds of guests the hypervisor runs, as blank-separated words such as `xen-3.0-x86_64`.
#[derive(Clone, Debug)]
pub struct Capabilities([u8; 1024]);

impl Capabilities {
    /// Asks for them.
    ///
    /// # Errors
    ///
    /// None on any known hypervisor.
    #[doc(alias = "XENVER_capabilities")]
    pub fn get() -> Result<Self, Errno> {
        let mut text = [0; 1024];
        op(XENVER_CAPABILITIES, text.as_mut_ptr() as u64)?;
        Ok(Self(text))
    }

    /// Whether `word` is one of them.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        self.0[..end].split(u8::is_ascii_whitespace).any(|found| found == word.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_words() {
        let mut text = [0; 1024];
        text[..30].copy_from_slice(b"xen-3.0-x86_64 hvm-3.0-x86_32 ");
        let capabilities = Capabilities(text);
        assert!(capabilities.has("xen-3.0-x86_64") && capabilities.has("hvm-3.0-x86_32"));
        assert!(!capabilities.has("xen-3.0"));
    }
}
