//! What a loader does not need, cut off an ELF file without moving a byte that it does need; and what is in a function.

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::elf::{FileHeader64, SHT_SYMTAB};
use object::read::elf::{FileHeader, ProgramHeader, Sym};

type Header = FileHeader64<Endianness>;

/// Drops symbols, debug information and section headers: all that follows the last byte of any segment.
///
/// The offsets of the rest stay as they are, which tools like `strip` do not promise and multiboot's address header
/// relies on.
///
/// # Errors
/// Not a 64-bit ELF file, or one whose segments lie outside the file.
pub fn strip(file: &[u8]) -> Result<Vec<u8>> {
    let header = Header::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, file)?;
    ensure!(!segments.is_empty(), "an ELF file without segments");
    let table_end = header.e_phoff(endian) + std::mem::size_of_val(segments) as u64;
    let end = segments
        .iter()
        .map(|segment| segment.p_offset(endian) + segment.p_filesz(endian))
        .fold(table_end, u64::max);
    let mut kept = file.get(..usize::try_from(end)?).context("a segment lies outside the file")?.to_vec();
    // e_shoff, e_shnum and e_shstrndx of the ELF header: there is no section table any more.
    kept[0x28..0x30].copy_from_slice(&[0; 8]);
    kept[0x3c..0x3e].copy_from_slice(&[0; 2]);
    kept[0x3e..0x40].copy_from_slice(&[0; 2]);
    Ok(kept)
}

/// The value of the symbol `name` of a file with symbols.
///
/// # Errors
/// Not a 64-bit ELF file, or one without this symbol.
pub fn symbol(file: &[u8], name: &str) -> Result<u64> {
    let header = Header::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let symbols = header.sections(endian, file)?.symbols(endian, file, SHT_SYMTAB)?;
    let is_named = |symbol: &&object::elf::Sym64<Endianness>| {
        symbol.name(endian, symbols.strings()).is_ok_and(|found| found == name.as_bytes())
    };
    let found = symbols.iter().find(is_named).with_context(|| format!("no symbol {name}"))?;
    Ok(found.st_value(endian))
}

/// The address of the function `name` of a file with symbols, and its bytes.
///
/// # Errors
/// Not a 64-bit ELF file, or one without this function.
pub fn function<'a>(file: &'a [u8], name: &str) -> Result<(u64, &'a [u8])> {
    let header = Header::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let symbols = header.sections(endian, file)?.symbols(endian, file, SHT_SYMTAB)?;
    let named = |symbol: &&object::elf::Sym64<Endianness>| {
        symbol.name(endian, symbols.strings()).is_ok_and(|found| found == name.as_bytes())
    };
    let symbol = symbols.iter().find(named).with_context(|| format!("no symbol {name}"))?;
    let (start, size) = (symbol.st_value(endian), symbol.st_size(endian));
    let within = |segment: &&object::elf::ProgramHeader64<Endianness>| {
        let first = segment.p_vaddr(endian);
        first <= start && start + size <= first + segment.p_filesz(endian)
    };
    let segment = header.program_headers(endian, file)?.iter().find(within);
    let segment = segment.with_context(|| format!("{name} is in no segment"))?;
    let at = usize::try_from(segment.p_offset(endian) + start - segment.p_vaddr(endian))?;
    let code = file.get(at..at + usize::try_from(size)?);
    Ok((start, code.with_context(|| format!("{name} lies outside the file"))?))
}
