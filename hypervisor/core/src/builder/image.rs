//! From the boot module to the kernel's ELF file: bzImage and compression are taken off here.
//!
//! A bzImage (Linux `Documentation/arch/x86/boot.rst`) is a real-mode stub, a decompressor and a payload. From protocol
//! 2.08 on its setup header says where the payload is; a Xen PV domain starts the payload itself, not the decompressor.

use super::BuildError;
use alloc::borrow::Cow;
use hypervisor_unpack as unpack;

/// Sizes beyond this are damage.
pub(super) const MAX_KERNEL: u64 = unpack::MAX_KERNEL;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Offsets in the setup header.
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// First protocol version with the payload's place.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: usize = 512;

/// The kernel's ELF file.
pub(super) fn elf_file(image: &[u8]) -> Result<Cow<'_, [u8]>, BuildError> {
    if image.starts_with(ELF_MAGIC) {
        return Ok(Cow::Borrowed(image));
    }
    let elf = if let Some(payload) = bzimage_payload(image)? {
        unpack::payload(payload)?
    } else if image.starts_with(GZIP_MAGIC) {
        unpack::gzip(image)?
    } else {
        return Err(BuildError::NotAKernel);
    };
    if elf.starts_with(ELF_MAGIC) {
        Ok(elf)
    } else {
        Err(BuildError::BadPayload("what it unpacks to is no ELF file"))
    }
}

/// The payload of a bzImage, `None` when this is none.
fn bzimage_payload(image: &[u8]) -> Result<Option<&[u8]>, BuildError> {
    if bytes_at(image, BOOT_FLAG) != Some([0x55, 0xaa]) || bytes_at(image, HEADER_MAGIC) != Some(*b"HdrS") {
        return Ok(None);
    }
    let version = bytes_at(image, VERSION).map(u16::from_le_bytes);
    if version.is_none_or(|v| v < VERSION_WITH_PAYLOAD) {
        return Err(BuildError::BadBzImage("its boot protocol is older than 2.08"));
    }
    let truncated = BuildError::BadBzImage("it is truncated");
    let word = |at| bytes_at(image, at).map(u32::from_le_bytes).map(|w| w as usize);
    let offset = word(PAYLOAD_OFFSET).ok_or(truncated)?;
    let length = word(PAYLOAD_LENGTH).ok_or(truncated)?;
    if length == 0 {
        return Err(BuildError::BadBzImage("its payload is empty"));
    }
    let sectors = match image[SETUP_SECTS] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (sectors + 1) * SECTOR + offset;
    let payload = image.get(start..).and_then(|rest| rest.get(..length));
    payload.map(Some).ok_or(BuildError::BadBzImage("its payload lies beyond the end of the file"))
}

/// `N` bytes at `at`, if there are so many.
fn bytes_at<const N: usize>(image: &[u8], at: usize) -> Option<[u8; N]> {
    image.get(at..)?.first_chunk().copied()
}
