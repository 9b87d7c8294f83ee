//! ELF notes of the owner "Xen" (`elfnote.h`): what a kernel tells the domain builder.
//!
//! A note is three words (size of the name with its terminator, size of the contents, type), the name, and the
//! contents padded to four bytes. Numbers are eight bytes at an offset that is only a multiple of four.

/// The types of notes that the library emits, without their prefix `XEN_ELFNOTE_`.
pub mod kind {
    pub use xen_abi::elfnote::{
        XEN_ELFNOTE_ENTRY as ENTRY, XEN_ELFNOTE_FEATURES as FEATURES, XEN_ELFNOTE_GUEST_OS as GUEST_OS,
        XEN_ELFNOTE_GUEST_VERSION as GUEST_VERSION, XEN_ELFNOTE_HV_START_LOW as HV_START_LOW,
        XEN_ELFNOTE_HYPERCALL_PAGE as HYPERCALL_PAGE, XEN_ELFNOTE_L1_MFN_VALID as L1_MFN_VALID,
        XEN_ELFNOTE_LOADER as LOADER, XEN_ELFNOTE_PADDR_OFFSET as PADDR_OFFSET,
        XEN_ELFNOTE_PAE_MODE as PAE_MODE, XEN_ELFNOTE_VIRT_BASE as VIRT_BASE,
        XEN_ELFNOTE_XEN_VERSION as XEN_VERSION,
    };
}

/// One note with contents `D`, as it lies in the section `.note.Xen`.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub struct Note<D> {
    namesz: u32,
    descsz: u32,
    kind: u32,
    name: [u8; 4],
    desc: D,
}

impl<D: Copy> Note<D> {
    /// A note whose contents are a number or several.
    ///
    /// `D` must be a multiple of four bytes in size.
    #[must_use]
    pub const fn number(kind: u32, desc: D) -> Self {
        assert!(size_of::<D>().is_multiple_of(4) && size_of::<D>() <= 256);
        Self { namesz: 4, descsz: size_of::<D>() as u32, kind, name: *b"Xen\0", desc }
    }
}

/// Room for `text` and its terminator, rounded up to four bytes.
#[must_use]
pub const fn padded(text: &str) -> usize {
    (text.len() + 1).next_multiple_of(4)
}

/// A note whose contents are a terminated string; `N` is [`padded`]`(text)`.
#[must_use]
pub const fn text<const N: usize>(kind: u32, text: &str) -> Note<[u8; N]> {
    assert!(N == padded(text) && N <= 4096, "the size of a text note is padded(text)");
    let (bytes, mut desc, mut at) = (text.as_bytes(), [0; N], 0);
    while at < bytes.len() {
        desc[at] = bytes[at];
        at += 1;
    }
    Note { namesz: 4, descsz: bytes.len() as u32 + 1, kind, name: *b"Xen\0", desc }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADER: Note<[u8; padded("generic")]> = text(kind::LOADER, "generic");
    const PAE: Note<[u8; padded("yes")]> = text(kind::PAE_MODE, "yes");
    const PAGE: Note<[u8; padded("12345678")]> = text(kind::GUEST_OS, "12345678");

    fn words<D>(note: &Note<D>) -> [u32; 3] {
        [note.namesz, note.descsz, note.kind]
    }

    #[test]
    fn text_counts_its_terminator_and_pads_to_four() {
        assert_eq!(words(&LOADER), [4, 8, 8]);
        assert_eq!(size_of_val(&LOADER), 16 + 8);
        assert_eq!(words(&PAE), [4, 4, 9]);
        assert_eq!(size_of_val(&PAE), 16 + 4);
        assert_eq!(words(&PAGE), [4, 9, 6]);
        assert_eq!(size_of_val(&PAGE), 16 + 12);
        assert_eq!(PAGE.desc, *b"12345678\0\0\0\0");
    }

    #[test]
    fn numbers_follow_the_name_without_a_gap() {
        let note = Note::number(kind::HV_START_LOW, 0xffff_8000_0000_0000u64);
        assert_eq!(words(&note), [4, 8, 12]);
        assert_eq!((size_of_val(&note), align_of_val(&note)), (24, 4));
        assert_eq!(core::mem::offset_of!(Note<u64>, desc), 16);
    }
}
