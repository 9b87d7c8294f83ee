//! Damaged kernels: what is changed in the valid ones that they are made from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xtask::probe::{self, Probe};
use xtask::{debian, elf, project};

/// Offsets in the ELF header and in a program header (System V ABI, figures 4-3 and 5-1).
const E_MACHINE: usize = 18;
const E_ENTRY: usize = 24;
const E_PHOFF: usize = 32;
const E_PHNUM: usize = 56;
const PH_SIZE: usize = 56;
const P_TYPE: usize = 0;
const P_OFFSET: usize = 8;
const P_PADDR: usize = 24;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Offset of `payload_offset` in a bzImage's setup header, and of `setup_sects`
/// (Linux: `Documentation/x86/boot.rst`).
const BZ_SETUP_SECTS: usize = 0x1f1;
const BZ_PAYLOAD_OFFSET: usize = 0x248;
const BZ_PAYLOAD_LENGTH: usize = 0x24c;

/// Where in a program header a field is.
#[derive(Clone, Copy)]
pub enum Field {
    Offset,
    PhysicalAddress,
    FileSize,
    MemorySize,
}

/// The valid PV kernel, without section headers, so that segments are the only way to its notes.
pub fn pv_kernel() -> Result<Vec<u8>> {
    elf::strip(&fs::read(probe::build(Probe::PvGuest)?)?)
}

/// Debian's Linux.
pub fn bzimage() -> Result<Vec<u8>> {
    fs::read(debian::vmlinuz()).context("Debian's kernel is not unpacked")
}

/// Writes a damaged file for QEMU to load.
pub fn save(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = project::guests().join(format!("corrupt-{name}"));
    fs::create_dir_all(project::guests())?;
    fs::write(&path, bytes)?;
    Ok(path)
}

/// A copy of `image` without its multiboot header's magic: QEMU then takes the PVH note.
pub fn without_multiboot(image: &Path, name: &str) -> Result<PathBuf> {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    let mut elf = fs::read(image)?;
    let header = elf.windows(4).position(|word| word == MAGIC).context("no multiboot header")?;
    elf[header] = 0;
    save(name, &elf)
}

/// Cuts the file in the middle of its first loaded segment.
pub fn truncate_segment(kernel: &mut Vec<u8>) -> Result<()> {
    let segment = find_segment(kernel, PT_LOAD)?;
    let offset = get(kernel, segment + P_OFFSET)?;
    let size = get(kernel, segment + P_FILESZ)?;
    kernel.truncate(usize::try_from(offset + size / 2)?);
    Ok(())
}

/// Makes the notes unreachable.
pub fn drop_notes(kernel: &mut [u8]) -> Result<()> {
    while let Ok(segment) = find_segment(kernel, PT_NOTE) {
        kernel[segment + P_TYPE..][..4].copy_from_slice(&0_u32.to_le_bytes());
    }
    Ok(())
}

/// Changes a number in the first loaded segment's header.
pub fn set_segment(kernel: &mut [u8], field: Field, value: u64) -> Result<()> {
    let offset = match field {
        Field::Offset => P_OFFSET,
        Field::PhysicalAddress => P_PADDR,
        Field::FileSize => P_FILESZ,
        Field::MemorySize => P_MEMSZ,
    };
    let segment = find_segment(kernel, PT_LOAD)?;
    put(kernel, segment + offset, value)
}

/// Claims another processor.
pub fn set_machine(kernel: &mut [u8], machine: u16) {
    kernel[E_MACHINE..][..2].copy_from_slice(&machine.to_le_bytes());
}

/// Moves the program header table.
pub fn set_program_headers(kernel: &mut [u8], offset: u64, count: u16) -> Result<()> {
    kernel[E_PHNUM..][..2].copy_from_slice(&count.to_le_bytes());
    put(kernel, E_PHOFF, offset)
}

/// Changes the number in a Xen note, and the ELF entry with it, so that neither is a way around the other.
pub fn set_note(kernel: &mut [u8], kind: u32, value: u64) -> Result<()> {
    const XEN_ENTRY: u32 = 1;
    let at = find_note(kernel, kind)?;
    put(kernel, at, value)?;
    if kind == XEN_ENTRY {
        put(kernel, E_ENTRY, value)?;
    }
    Ok(())
}

/// Overwrites the start of a Xen note's text.
pub fn set_note_text(kernel: &mut [u8], kind: u32, text: &[u8]) -> Result<()> {
    let at = find_note(kernel, kind)?;
    kernel[at..][..text.len()].copy_from_slice(text);
    Ok(())
}

/// Flips bits in the middle of the compressed kernel.
pub fn damage_payload(kernel: &mut [u8]) -> Result<()> {
    let (start, length) = payload(kernel)?;
    for byte in &mut kernel[start + length / 2..][..64] {
        *byte ^= 0x5a;
    }
    Ok(())
}

/// Cuts the file in the middle of the compressed kernel.
pub fn truncate_payload(kernel: &mut Vec<u8>) -> Result<()> {
    let (start, length) = payload(kernel)?;
    kernel.truncate(start + length / 2);
    Ok(())
}

/// Replaces the magic number of the compression.
pub fn unknown_compression(kernel: &mut [u8]) -> Result<()> {
    let (start, _) = payload(kernel)?;
    kernel[start..][..8].copy_from_slice(b"paravane");
    Ok(())
}

fn payload(kernel: &[u8]) -> Result<(usize, usize)> {
    let word = |at: usize| -> Result<usize> {
        let bytes = kernel.get(at..at + 4).context("a short bzImage")?;
        Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
    };
    let setup = (usize::from(kernel[BZ_SETUP_SECTS]) + 1) * 512;
    Ok((setup + word(BZ_PAYLOAD_OFFSET)?, word(BZ_PAYLOAD_LENGTH)?))
}

fn find_segment(kernel: &[u8], kind: u32) -> Result<usize> {
    let table = usize::try_from(get(kernel, E_PHOFF)?)?;
    let count = usize::from(u16::from_le_bytes(kernel[E_PHNUM..][..2].try_into()?));
    (0..count)
        .map(|index| table + index * PH_SIZE)
        .find(|&at| kernel[at + P_TYPE..][..4] == kind.to_le_bytes())
        .context("no such segment")
}

/// The value of a note: behind namesz, descsz, type and the name "Xen\0".
fn find_note(kernel: &[u8], kind: u32) -> Result<usize> {
    let mut header = Vec::from(kind.to_le_bytes());
    header.extend_from_slice(b"Xen\0");
    let found: Vec<usize> = kernel
        .windows(header.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == header)
        .map(|(at, _)| at)
        .collect();
    ensure!(found.len() == 1, "{} notes of type {kind}", found.len());
    Ok(found[0] + header.len())
}

fn get(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.get(at..at + 8).context("a short ELF file")?.try_into()?))
}

fn put(bytes: &mut [u8], at: usize, value: u64) -> Result<()> {
    bytes.get_mut(at..at + 8).context("a short ELF file")?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}
