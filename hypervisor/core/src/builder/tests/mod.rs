//! Kernels made by hand: whole, in each packaging, and broken in each way.

mod broken;
mod built;
mod fuzz;
mod packed;

use super::*;
use crate::mock::{self, MockPlatform};
use crate::options::Options;
use std::vec;
use std::vec::Vec;
use xen_abi::elfnote::*;

/// Where the test kernel wants to be, as Linux does.
const BASE: u64 = 0xffff_ffff_8000_0000;
/// Physical address of the kernel's first segment.
const LOAD: u64 = 0x10_0000;
/// Where Linux wants its list of frames.
const P2M: u64 = 0x80_0000_0000;

/// A loadable segment.
#[derive(Clone)]
struct Part {
    paddr: u64,
    data: Vec<u8>,
    size: u64,
}

/// An ELF file to be.
#[derive(Clone)]
struct Image {
    parts: Vec<Part>,
    notes: Vec<(u32, Vec<u8>)>,
    machine: u16,
    entry: u64,
}

fn word(value: u64) -> Vec<u8> {
    value.to_le_bytes().into()
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

/// Bytes that say where they are.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n / 256) as u8 ^ n as u8 ^ seed).collect()
}

/// The smallest kernel that works, as a boot module.
pub(crate) fn small_kernel() -> &'static [u8] {
    Image::small().build().leak()
}

impl Image {
    /// A kernel like Linux: text, data with a bss, all of Linux's notes.
    fn linux() -> Self {
        let notes = vec![
            (XEN_ELFNOTE_GUEST_OS, text("linux")),
            (XEN_ELFNOTE_GUEST_VERSION, text("2.6")),
            (XEN_ELFNOTE_XEN_VERSION, text("xen-3.0")),
            (XEN_ELFNOTE_VIRT_BASE, word(BASE)),
            (XEN_ELFNOTE_INIT_P2M, word(P2M)),
            (XEN_ELFNOTE_ENTRY, word(BASE + LOAD + 0x40)),
            (XEN_ELFNOTE_FEATURES, text("!writable_page_tables|pae_pgdir_above_4gb")),
            (XEN_ELFNOTE_SUPPORTED_FEATURES, vec![0x01, 0x88, 0, 0]),
            (XEN_ELFNOTE_PAE_MODE, text("yes")),
            (XEN_ELFNOTE_LOADER, text("generic")),
            (XEN_ELFNOTE_L1_MFN_VALID, [word(1), word(1)].concat()),
            (XEN_ELFNOTE_SUSPEND_CANCEL, vec![1, 0, 0, 0]),
            (XEN_ELFNOTE_MOD_START_PFN, vec![1, 0, 0, 0]),
            (XEN_ELFNOTE_HV_START_LOW, word(0xffff_8000_0000_0000)),
            (XEN_ELFNOTE_HYPERCALL_PAGE, word(BASE + LOAD + 0x1000)),
        ];
        let parts = vec![
            Part { paddr: LOAD, data: pattern(0x3123, 1), size: 0x3123 },
            Part { paddr: LOAD + 0x5000, data: pattern(0x1777, 7), size: 0x4555 },
        ];
        Self { parts, notes, machine: 62, entry: LOAD }
    }

    /// The smallest that works: what a unikernel says.
    fn small() -> Self {
        Self {
            parts: vec![Part { paddr: 0, data: pattern(0x2000, 3), size: 0x3000 }],
            notes: vec![
                (XEN_ELFNOTE_XEN_VERSION, text("xen-3.0")),
                (XEN_ELFNOTE_LOADER, text("generic")),
                (XEN_ELFNOTE_VIRT_BASE, word(0x40_0000)),
            ],
            machine: 62,
            entry: 0x40_0010,
        }
    }

    /// With one note replaced or added.
    fn with(mut self, kind: u32, value: Vec<u8>) -> Self {
        self = self.without(kind);
        self.notes.push((kind, value));
        self
    }

    /// Without one note.
    fn without(mut self, kind: u32) -> Self {
        self.notes.retain(|(k, _)| *k != kind);
        self
    }

    /// The ELF file.
    fn build(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, value) in &self.notes {
            for word in [4, value.len() as u32, *kind] {
                notes.extend(word.to_le_bytes());
            }
            notes.extend(XEN_ELFNOTE_NAME);
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let headers = 64 + 56 * (self.parts.len() + 1);
        let mut body = notes.clone();
        let mut table = program_header(4, headers as u64, 0, notes.len() as u64, notes.len() as u64);
        for part in &self.parts {
            let offset = (headers + body.len()) as u64;
            table.extend(program_header(1, offset, part.paddr, part.data.len() as u64, part.size));
            body.extend(&part.data);
        }
        [self.file_header(), table, body].concat()
    }

    fn file_header(&self) -> Vec<u8> {
        let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header.extend(2u16.to_le_bytes());
        header.extend(self.machine.to_le_bytes());
        header.extend(1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            header.extend(word.to_le_bytes());
        }
        header.extend(0u32.to_le_bytes());
        for half in [64, 56, self.parts.len() as u16 + 1, 64, 0, 0] {
            header.extend(half.to_le_bytes());
        }
        header
    }
}

fn program_header(kind: u32, offset: u64, paddr: u64, file_size: u64, size: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for word in [offset, paddr, paddr, file_size, size, 4096] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// A machine with so many MiB and these options.
fn machine(mib: usize, line: &str) -> Hypervisor<MockPlatform> {
    let mut hv = mock::hypervisor(mib * 256);
    let (options, errors) = Options::parse(line);
    assert_eq!(errors, []);
    hv.options = options;
    hv
}

/// What building this kernel on a small machine ends in.
fn outcome(image: &[u8]) -> Result<Arc<Domain<MockPlatform>>, BuildError> {
    machine(16, "").build_dom0(image, None, "")
}
