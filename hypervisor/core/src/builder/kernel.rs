//! The kernel's ELF file, judged: what is loaded where, and what its notes ask for, as addresses that make sense.

use super::BuildError;
use super::image::MAX_KERNEL;
use super::notes::Notes;
use alloc::vec::Vec;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use xen_abi::arch_x86::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};

type Elf<'a> = ElfBytes<'a, LittleEndian>;

/// More loadable segments than this are damage.
const MAX_SEGMENTS: usize = 256;
const PAGE_MASK: u64 = 4095;

/// A part of the file that is copied into the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// Where it goes: bytes from the domain's first page on.
    pub(super) at: u64,
    /// What the file has of it.
    pub(super) data: &'a [u8],
    /// Bytes of it in memory; what the file does not have is zero.
    pub(super) size: u64,
}

/// A PV kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel<'a> {
    pub(super) segments: Vec<Segment<'a>>,
    /// Virtual address of the domain's first page.
    pub(super) base: u64,
    /// Virtual addresses that the segments cover.
    pub(super) image: Range<u64>,
    /// First instruction.
    pub(super) entry: u64,
    /// Page to be filled with hypercall stubs.
    pub(super) hypercall_page: Option<u64>,
    /// Where the list of frames is wanted, when not behind the image.
    pub(super) p2m: Option<u64>,
    /// The initial RAM disk need not be mapped.
    pub(super) initrd_unmapped: bool,
}

impl<'a> Kernel<'a> {
    /// Parses and judges an ELF file, for the first domain or another one.
    pub(super) fn parse(file: &'a [u8], first: bool) -> Result<Self, BuildError> {
        let elf = Elf::minimal_parse(file).map_err(|_| BuildError::BadElf("its header makes no sense"))?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            return Err(BuildError::WrongMachine);
        }
        if elf.ehdr.e_type != ET_EXEC && elf.ehdr.e_type != ET_DYN {
            return Err(BuildError::BadElf("it is not an executable"));
        }
        let (loaded, extent) = loaded_segments(file, &elf)?;
        let notes = notes(file, &elf)?;
        notes.check(first)?;
        Self::judge(loaded, extent, &notes, elf.ehdr.e_entry)
    }

    /// Turns physical addresses into places in the domain, and judges every address.
    fn judge(
        mut segments: Vec<Segment<'a>>,
        extent: Range<u64>,
        notes: &Notes,
        elf_entry: u64,
    ) -> Result<Self, BuildError> {
        let (offset, base) = match (notes.paddr_offset, notes.virt_base) {
            (Some(value), None) => return Err(BuildError::BadNote { name: "PADDR_OFFSET", value }),
            (offset, base) => {
                let base = base.unwrap_or(0);
                (offset.unwrap_or(if notes.legacy { base } else { 0 }), base)
            }
        };
        if base & PAGE_MASK != 0 {
            return Err(BuildError::BadNote { name: "VIRT_BASE", value: base });
        }
        if offset > extent.start || extent.end - offset > MAX_KERNEL {
            return Err(BuildError::BadNote { name: "PADDR_OFFSET", value: offset });
        }
        segments.iter_mut().for_each(|s| s.at -= offset);
        let end = base.checked_add(extent.end - offset);
        let end = end.ok_or(BuildError::BadNote { name: "VIRT_BASE", value: base })?;
        let image = base + (extent.start - offset)..end;
        let entry = notes.entry.unwrap_or(elf_entry);
        if !image.contains(&entry) {
            return Err(BuildError::BadNote { name: "ENTRY", value: entry });
        }
        let kernel = Self {
            segments,
            base,
            image,
            entry,
            hypercall_page: notes.hypercall_page,
            p2m: notes.init_p2m,
            initrd_unmapped: notes.mod_start_pfn,
        };
        kernel.check_pages(notes.hv_start_low)?;
        Ok(kernel)
    }

    /// Judges the addresses of whole pages.
    fn check_pages(&self, hv_start_low: Option<u64>) -> Result<(), BuildError> {
        if let Some(value) = hv_start_low.filter(|v| *v > HYPERVISOR_VIRT_START) {
            return Err(BuildError::BadNote { name: "HV_START_LOW", value });
        }
        let in_image =
            |page: u64| page >= self.image.start && page.saturating_add(PAGE_MASK) < self.image.end;
        if let Some(value) = self.hypercall_page.filter(|v| v & PAGE_MASK != 0 || !in_image(*v)) {
            return Err(BuildError::BadNote { name: "HYPERCALL_PAGE", value });
        }
        if let Some(value) = self.p2m.filter(|v| v & PAGE_MASK != 0 || self.image.contains(v)) {
            return Err(BuildError::BadNote { name: "INIT_P2M", value });
        }
        Ok(())
    }
}

/// Whether a guest may have these virtual addresses: canonical on one side of the hole, and not the hypervisor's.
pub(super) fn is_guest_range(range: &Range<u64>) -> bool {
    const LOW_END: u64 = 1 << 47;
    range.start < range.end && (range.end <= LOW_END || range.start >= HYPERVISOR_VIRT_END)
}

/// The loadable segments with their places still physical, and the physical addresses that they cover.
fn loaded_segments<'a>(file: &'a [u8], elf: &Elf<'a>) -> Result<(Vec<Segment<'a>>, Range<u64>), BuildError> {
    let headers = elf.segments().ok_or(BuildError::BadElf("it has no program headers"))?;
    let mut segments = Vec::new();
    let (mut start, mut end) = (u64::MAX, 0);
    for header in headers.iter().filter(|h| h.p_type == PT_LOAD && h.p_memsz != 0) {
        let data = part(file, header.p_offset, header.p_filesz);
        let data = data.ok_or(BuildError::BadElf("a segment lies beyond the end of the file"))?;
        let segment_end = header.p_paddr.checked_add(header.p_memsz);
        if header.p_filesz > header.p_memsz || segment_end.is_none() {
            return Err(BuildError::BadElf("a segment has an impossible size"));
        }
        if segments.len() == MAX_SEGMENTS {
            return Err(BuildError::BadElf("it has too many segments"));
        }
        segments.push(Segment { at: header.p_paddr, data, size: header.p_memsz });
        start = start.min(header.p_paddr);
        end = end.max(segment_end.unwrap_or(0));
    }
    if segments.is_empty() {
        Err(BuildError::BadElf("it has nothing to load"))
    } else {
        Ok((segments, start..end))
    }
}

/// The kernel's notes, from wherever they are.
fn notes(file: &[u8], elf: &Elf<'_>) -> Result<Notes, BuildError> {
    let segments = elf.segments().into_iter().flat_map(|table| table.iter());
    let segments = segments.filter(|h| h.p_type == PT_NOTE && h.p_offset != 0);
    if let Some(notes) = Notes::from_segments(segments.filter_map(|h| part(file, h.p_offset, h.p_filesz)))? {
        return Ok(notes);
    }
    let sections = elf.section_headers().into_iter().flat_map(|table| table.iter());
    let sections = sections.filter(|h| h.sh_type == SHT_NOTE);
    if let Some(notes) = Notes::from_segments(sections.filter_map(|h| part(file, h.sh_offset, h.sh_size)))? {
        return Ok(notes);
    }
    let legacy = elf.section_header_by_name("__xen_guest").ok().flatten();
    let legacy = legacy.and_then(|h| part(file, h.sh_offset, h.sh_size)).ok_or(BuildError::NoXenNotes)?;
    Notes::from_legacy(legacy)
}

/// A part of the file, if it is all there.
fn part(file: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    file.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(size).ok()?)
}
