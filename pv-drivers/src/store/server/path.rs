//! Names of nodes: which are valid, and what stands above what.
//!
//! A [`Path`] is absolute and was checked once, where it came in. Whatever works with one needs no further checks.

use alloc::format;
use alloc::string::String;
use core::borrow::Borrow;
use core::fmt;

use xen_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

use super::super::Errno;

/// Names below one another in a path, at most: no tree is deep enough to make a walk down it expensive.
const MAX_DEPTH: usize = 64;

/// A domain's own directory.
#[must_use]
pub fn home(domain: u16) -> String {
    format!("/local/domain/{domain}")
}

/// The absolute path of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

impl Path {
    /// Takes what a client of `domain` says: absolute, or relative to the domain's own directory.
    ///
    /// # Errors
    ///
    /// `EINVAL` where it is no valid name of a node.
    pub fn parse(text: &str, domain: u16) -> Result<Self, Errno> {
        let limit = if text.starts_with('/') { XENSTORE_ABS_PATH_MAX } else { XENSTORE_REL_PATH_MAX };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
        let too_long = text.len() >= limit as usize;
        if text.is_empty() || text.starts_with('@') || too_long || !text.bytes().all(known) {
            return Err(Errno::EINVAL);
        }
        if text == "/" {
            return Ok(Self(text.into()));
        }
        let absolute = match text.strip_prefix('/') {
            Some(_) => text.into(),
            None => format!("{}/{text}", home(domain)),
        };
        let mut names = absolute[1..].split('/');
        if names.any(str::is_empty) || absolute[1..].split('/').count() > MAX_DEPTH {
            return Err(Errno::EINVAL);
        }
        Ok(Self(absolute))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/').filter(|name| !name.is_empty())
    }

    /// The node above; the root is above itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.rfind('/') {
            Some(at) if at > 0 => Self(self.0[..at].into()),
            _ => Self("/".into()),
        }
    }

    /// The node to which these names lead from the root.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let text = names.into_iter().fold(String::new(), |path, name| path + "/" + name);
        if text.is_empty() { Self("/".into()) } else { Self(text) }
    }

    /// The names of this node below `other`, if it is below it.
    pub(super) fn below<'a>(&'a self, other: &Self) -> Option<&'a str> {
        if other.is_root() { Some(&self.0[1..]) } else { self.0.strip_prefix(&other.0)?.strip_prefix('/') }
    }

    /// Whether it is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Paths are in the order of their text, so that all below one stand together.
impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_names_are_below_the_domains_directory() {
        assert_eq!(Path::parse("device/vbd", 7).unwrap().as_str(), "/local/domain/7/device/vbd");
        assert_eq!(Path::parse("/tool", 7).unwrap().as_str(), "/tool");
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = format!("/{}", "a".repeat(3072));
        let deep = "/a".repeat(MAX_DEPTH + 1);
        for text in ["", "//", "/a/", "a//b", "/a b", "/a\0", "/ä", "@releaseDomain", "/a.b", &long, &deep] {
            assert_eq!(Path::parse(text, 0), Err(Errno::EINVAL), "{text}");
        }
        assert!(Path::parse(&"/a".repeat(MAX_DEPTH), 0).is_ok());
    }

    #[test]
    fn a_longer_name_is_not_below_its_beginning() {
        let path = |text| Path::parse(text, 0).unwrap();
        assert!(path("/a/b").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/")));
        assert!(!path("/ab").is_within(&path("/a")));
        assert!(!path("/a").is_within(&path("/a/b")));
        assert_eq!(path("/a/b").parent(), path("/a"));
        assert_eq!(path("/a").parent(), path("/"));
        assert_eq!(path("/").parent(), path("/"));
    }
}
