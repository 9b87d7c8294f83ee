//! Decompression of kernels, in every format that Linux's build offers but bzip2.
//!
//! Linux appends the unpacked size to the payload (little-endian, 32 bits), except to gzip, whose own trailer ends with
//! it. So the output is allocated once, and whatever does not fit into it is damage.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bcj;
mod lz4;
mod lzma;
mod xz;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// Most bytes that a kernel has: none needs half a GiB.
pub const MAX_KERNEL: u64 = 512 << 20;

/// Why something does not unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is compressed in a way that is not understood; it begins with these bytes.
    Unknown([u8; 4]),
    /// It is compressed in a way that is known and deliberately not supported.
    Unsupported(&'static str),
    /// It is damaged.
    Damaged(&'static str),
    /// It claims to unpack to so many bytes, more than [`MAX_KERNEL`].
    TooLarge(u64),
    /// There is no memory for the result.
    OutOfMemory,
}

/// The check of gzip and xz. Its table is 1 KiB: those that are faster have 16 KiB, which the image does not.
pub fn crc32(data: &[u8]) -> u32 {
    static CRC: crc::Crc<u32, crc::Table<1>> = crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);
    CRC.checksum(data)
}

/// Unpacks the payload of a bzImage; one that is not compressed is what it is.
///
/// # Errors
/// See [`Error`].
pub fn payload(payload: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    let magic = *payload.first_chunk::<4>().ok_or(Error::Damaged("it is truncated"))?;
    match magic {
        [0x1f, 0x8b, ..] => gzip(payload),
        [0xfd, b'7', b'z', b'X'] => sized(payload, xz::unpack),
        [0x5d, 0, 0, _] => sized(payload, lzma::unpack),
        [0x02, 0x21, 0x4c, 0x18] => sized(payload, lz4::unpack),
        [0x28, 0xb5, 0x2f, 0xfd] => sized(payload, zstd),
        [b'B', b'Z', b'h', _] => Err(Error::Unsupported("bzip2")),
        [0x89, b'L', b'Z', b'O'] => Err(Error::Unsupported("lzo")),
        [0x7f, b'E', b'L', b'F'] => Ok(Cow::Borrowed(payload)),
        other => Err(Error::Unknown(other)),
    }
}

/// Unpacks a gzip file (RFC 1952).
///
/// # Errors
/// See [`Error`].
pub fn gzip(file: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    let truncated = Error::Damaged("the gzip file is truncated");
    let (_, size) = split_size(file)?;
    let stream = gzip_stream(file).ok_or(truncated)?;
    let mut output = output_of(size)?;
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = alloc::boxed::Box::<DecompressorOxide>::default();
    let (status, packed, length) = decompress(&mut state, stream, &mut output, 0, flags);
    if status != TINFLStatus::Done {
        return Err(Error::Damaged("the gzip data is damaged"));
    }
    let check = stream.get(packed..).and_then(|trailer| trailer.first_chunk()).ok_or(truncated)?;
    if length != output.len() || crc32(&output) != u32::from_le_bytes(*check) {
        return Err(Error::Damaged("the gzip file has another size or checksum than it says"));
    }
    Ok(Cow::Owned(output))
}

/// The deflate stream of a gzip file, with its trailer behind it.
fn gzip_stream(file: &[u8]) -> Option<&[u8]> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const HEADER_CHECK: u8 = 2;
    let flags = *file.get(3)?;
    let mut rest = file.get(10..)?;
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            rest = &rest[rest.iter().position(|b| *b == 0)? + 1..];
        }
    }
    if flags & HEADER_CHECK != 0 { rest.get(2..) } else { Some(rest) }
}

/// Unpacks zstd frames (RFC 8878) until the output is full.
fn zstd(data: &[u8], output: &mut [u8]) -> Result<(), Error> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MAX_KERNEL);
    match decoder.decode_all(data, output) {
        Ok(length) if length != output.len() => Err(Error::Damaged("the zstd data ends too early")),
        Ok(_) => match (decoder.get_checksum_from_data(), decoder.get_calculated_checksum()) {
            (Some(stored), Some(sum)) if stored != sum => {
                Err(Error::Damaged("the zstd data has another checksum than it should"))
            }
            _ => Ok(()),
        },
        Err(_) => Err(Error::Damaged("the zstd data is damaged")),
    }
}

/// Takes the appended size off, and has `unpack` fill an output of that size.
fn sized(payload: &[u8], unpack: fn(&[u8], &mut [u8]) -> Result<(), Error>) -> Result<Cow<'_, [u8]>, Error> {
    let (data, size) = split_size(payload)?;
    let mut output = output_of(size)?;
    unpack(data, &mut output)?;
    Ok(Cow::Owned(output))
}

/// Splits off the last four bytes: the unpacked size.
fn split_size(payload: &[u8]) -> Result<(&[u8], u64), Error> {
    let (data, size) = payload.split_last_chunk().ok_or(Error::Damaged("it is truncated"))?;
    Ok((data, u64::from(u32::from_le_bytes(*size))))
}

/// A zeroed output of `size` bytes.
fn output_of(size: u64) -> Result<Vec<u8>, Error> {
    if size > MAX_KERNEL {
        return Err(Error::TooLarge(size));
    }
    let size = size as usize;
    let mut output = Vec::new();
    output.try_reserve_exact(size).map_err(|_| Error::OutOfMemory)?;
    output.resize(size, 0);
    Ok(output)
}
