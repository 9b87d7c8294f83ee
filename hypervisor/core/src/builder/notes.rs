//! What the kernel says about itself: Xen's ELF notes (elfnote.h), or the `__xen_guest` string that kernels had before.
//!
//! Everything in here is an allegation: [`super::kernel`] judges the addresses, [`super::layout`] the ranges.

use super::BuildError;
use xen_abi::elfnote::*;
use xen_abi::features::{self, *};

/// More notes than this are damage.
const MAX_NOTES: usize = 1024;

/// Features that a PV kernel may require of this hypervisor.
const PROVIDED: u32 = 1 << XENFEAT_WRITABLE_PAGE_TABLES
    | 1 << XENFEAT_WRITABLE_DESCRIPTOR_TABLES
    | 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB
    | 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
    | 1 << XENFEAT_HIGHMEM_ASSIST
    | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
    | 1 << XENFEAT_DOM0
    | 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
    | 1 << XENFEAT_NOT_DIRECT_MAPPED;

/// The notes that matter, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// They come from a `__xen_guest` string.
    pub(super) legacy: bool,
    /// `ENTRY`.
    pub(super) entry: Option<u64>,
    /// `HYPERCALL_PAGE`.
    pub(super) hypercall_page: Option<u64>,
    /// `VIRT_BASE`.
    pub(super) virt_base: Option<u64>,
    /// `PADDR_OFFSET`.
    pub(super) paddr_offset: Option<u64>,
    /// `HV_START_LOW`.
    pub(super) hv_start_low: Option<u64>,
    /// `INIT_P2M`.
    pub(super) init_p2m: Option<u64>,
    /// `MOD_START_PFN`: the initial RAM disk need not be mapped.
    pub(super) mod_start_pfn: bool,
    /// `SUPPORTED_FEATURES` and what `FEATURES` names, as bits.
    pub(super) supported: u32,
    /// What `FEATURES` requires, as bits.
    pub(super) required: u32,
    /// There is a `SUPPORTED_FEATURES`.
    lists_supported: bool,
    /// `LOADER` is generic, or `GUEST_OS` Linux, which always was.
    generic: bool,
    /// `XEN_VERSION` is the only one there ever was.
    xen_3_0: bool,
}

impl Notes {
    /// Reads note segments (or sections); `None` when there is no note of Xen's.
    pub(super) fn from_segments<'a>(
        segments: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, BuildError> {
        let mut notes = Self::default();
        let (mut seen, mut found) = (0, false);
        for mut rest in segments {
            while let Some(note) = next_note(&mut rest) {
                seen += 1;
                if seen > MAX_NOTES {
                    return Err(BuildError::BadElf("it has too many notes"));
                }
                if note.owner == XEN_ELFNOTE_NAME {
                    found = true;
                    notes.add(note.kind, note.value)?;
                }
            }
        }
        Ok(found.then_some(notes))
    }

    /// Takes one note over.
    fn add(&mut self, kind: u32, value: &[u8]) -> Result<(), BuildError> {
        match kind {
            XEN_ELFNOTE_ENTRY => self.entry = Some(number(value)),
            XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(number(value)),
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(number(value)),
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(number(value)),
            XEN_ELFNOTE_HV_START_LOW => self.hv_start_low = Some(number(value)),
            XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(number(value)),
            XEN_ELFNOTE_MOD_START_PFN => self.mod_start_pfn = number(value) != 0,
            XEN_ELFNOTE_SUPPORTED_FEATURES => {
                self.lists_supported = true;
                self.supported |= (number(value) & 0xffff_ffff) as u32;
            }
            XEN_ELFNOTE_XEN_VERSION => self.set_version(text(value, "XEN_VERSION")?),
            XEN_ELFNOTE_LOADER => self.set_loader(text(value, "LOADER")?),
            XEN_ELFNOTE_GUEST_OS => self.set_guest_os(text(value, "GUEST_OS")?),
            XEN_ELFNOTE_FEATURES => self.add_features(text(value, "FEATURES")?)?,
            // What says something about 32-bit kernels, suspending, PVH or symbols changes nothing here.
            _ => {}
        }
        Ok(())
    }

    /// Reads a `__xen_guest` string: `NAME=value,NAME=value,NAME`, ended by a zero byte.
    pub(super) fn from_legacy(section: &[u8]) -> Result<Self, BuildError> {
        let mut notes = Self { legacy: true, ..Self::default() };
        let line = text(section, "__xen_guest")?;
        for field in line.split(',') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            match name {
                "VIRT_ENTRY" => notes.entry = Some(legacy_number(value, "VIRT_ENTRY")?),
                "VIRT_BASE" => notes.virt_base = Some(legacy_number(value, "VIRT_BASE")?),
                "ELF_PADDR_OFFSET" => notes.paddr_offset = Some(legacy_number(value, "ELF_PADDR_OFFSET")?),
                "HYPERCALL_PAGE" => notes.hypercall_page = Some(legacy_number(value, "HYPERCALL_PAGE")?),
                "XEN_VER" => notes.set_version(value),
                "LOADER" => notes.set_loader(value),
                "GUEST_OS" => notes.set_guest_os(value),
                "FEATURES" => notes.add_features(value)?,
                _ => {}
            }
        }
        notes.finish_legacy()
    }

    /// The hypercall page of a `__xen_guest` string is a page number from the base on.
    fn finish_legacy(mut self) -> Result<Self, BuildError> {
        if let Some(page) = self.hypercall_page {
            let base = self.virt_base.unwrap_or(0);
            let address = page.checked_mul(4096).and_then(|offset| offset.checked_add(base));
            self.hypercall_page =
                Some(address.ok_or(BuildError::BadNote { name: "HYPERCALL_PAGE", value: page })?);
        }
        Ok(self)
    }

    fn set_version(&mut self, value: &str) {
        self.xen_3_0 = value.starts_with("xen-3.0");
    }

    fn set_loader(&mut self, value: &str) {
        self.generic |= value.starts_with("generic");
    }

    fn set_guest_os(&mut self, value: &str) {
        self.generic |= value.starts_with("linux");
    }

    /// `name|name|!name`: what is supported, and with `!` required too.
    fn add_features(&mut self, list: &str) -> Result<(), BuildError> {
        for word in list.split('|').filter(|w| !w.is_empty()) {
            let name = word.strip_prefix('!');
            let bit =
                features::NAMES.iter().find(|(n, _)| *n == name.unwrap_or(word)).map(|(_, bit)| 1 << bit);
            match (bit, name.is_some()) {
                (Some(bit), required) => {
                    self.supported |= bit;
                    self.required |= if required { bit } else { 0 };
                }
                (None, true) => return Err(BuildError::UnknownFeatureRequired),
                (None, false) => {}
            }
        }
        Ok(())
    }

    /// Judges what does not depend on addresses, for the `first` domain or another one.
    pub(super) fn check(&self, first: bool) -> Result<(), BuildError> {
        if !self.generic {
            return Err(BuildError::BadNoteText { name: "LOADER" });
        }
        if !self.xen_3_0 {
            return Err(BuildError::WrongXenVersion);
        }
        match self.required & !PROVIDED {
            0 => {}
            missing => return Err(BuildError::FeatureRequired(missing.trailing_zeros())),
        }
        // A kernel that says what it supports and does not name dom0 must not be made dom0.
        if first && self.lists_supported && self.supported & 1 << XENFEAT_DOM0 == 0 {
            return Err(BuildError::NotForDom0);
        }
        Ok(())
    }
}

/// One note.
struct RawNote<'a> {
    owner: &'a [u8],
    kind: u32,
    value: &'a [u8],
}

/// Takes the next note off: sizes of name and value, kind, name, value, each padded to four bytes. (The words have 32 bits in
/// 64-bit files too, whatever the ELF specification says.)
fn next_note<'a>(rest: &mut &'a [u8]) -> Option<RawNote<'a>> {
    let (header, after) = rest.split_first_chunk::<12>()?;
    let word = |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
    let (name_size, value_size) = (word(0) as usize, word(4) as usize);
    let owner = after.get(..name_size)?;
    let after = after.get(name_size.next_multiple_of(4)..)?;
    let value = after.get(..value_size)?;
    *rest = after.get(value_size.next_multiple_of(4)..).unwrap_or(&[]);
    Some(RawNote { owner, kind: word(8), value })
}

/// A note's number: four or eight bytes, anything else counts as 0.
fn number(value: &[u8]) -> u64 {
    if let Ok(bytes) = value.try_into() {
        u64::from_le_bytes(bytes)
    } else if let Ok(bytes) = value.try_into() {
        u64::from(u32::from_le_bytes(bytes))
    } else {
        0
    }
}

/// A note's text up to its terminator.
fn text<'a>(value: &'a [u8], name: &'static str) -> Result<&'a str, BuildError> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    core::str::from_utf8(&value[..end]).map_err(|_| BuildError::BadNoteText { name })
}

/// A number of the `__xen_guest` string: decimal, or hexadecimal with `0x`.
fn legacy_number(value: &str, name: &'static str) -> Result<u64, BuildError> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| BuildError::BadNoteText { name })
}
