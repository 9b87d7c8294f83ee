//! The .xz container (tukaani.org, "The .xz File Format") around LZMA2, with the x86 filter that Linux's build puts
//! before it.
//!
//! A stream is a header, blocks, an index and a footer. The index and the footer only serve random access; a kernel
//! is unpacked as soon as the blocks filled the output.

use super::Error;
use super::bcj::undo_x86_filter;
use super::lzma::Decoder;

const DAMAGED: Error = Error::Damaged("the xz data is damaged");

const FILTER_X86: u64 = 0x04;
const FILTER_LZMA2: u64 = 0x21;

/// Size of the stream header.
const STREAM_HEADER: usize = 12;
/// Sizes of the checks by their identifier.
const CHECK_SIZE: [usize; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];
const CHECK_CRC32: usize = 1;

/// Unpacks `data` so that it fills `output`.
pub(crate) fn unpack(data: &[u8], output: &mut [u8]) -> Result<(), Error> {
    let header = data.first_chunk::<STREAM_HEADER>().ok_or(DAMAGED)?;
    let check = usize::from(header[7] & 15);
    let mut rest = &data[STREAM_HEADER..];
    let mut done = 0;
    while done < output.len() {
        let (filtered, after) = block_header(rest)?;
        let (packed, length) = lzma2(after, &mut output[done..])?;
        let block = &mut output[done..done + length];
        if filtered {
            undo_x86_filter(block);
        }
        // Header, data, padding to a multiple of four, check.
        let size = (rest.len() - after.len() + packed).next_multiple_of(4);
        let (stored, after) =
            rest.get(size..).and_then(|r| r.split_at_checked(CHECK_SIZE[check])).ok_or(DAMAGED)?;
        if check == CHECK_CRC32 && stored != super::crc32(block).to_le_bytes() {
            return Err(Error::Damaged("the xz data has another checksum than it should"));
        }
        rest = after;
        done += length;
    }
    Ok(())
}

/// Reads a block header: whether the block went through the x86 filter, and what follows the header.
fn block_header(data: &[u8]) -> Result<(bool, &[u8]), Error> {
    const HAS_PACKED_SIZE: u8 = 0x40;
    const HAS_UNPACKED_SIZE: u8 = 0x80;
    const UNKNOWN_FLAGS: u8 = 0x3c;
    let size = match data.first() {
        // 0 starts the index: there are no more blocks, but the output is not full.
        None | Some(0) => return Err(DAMAGED),
        Some(n) => (usize::from(*n) + 1) * 4,
    };
    let (header, after) = data.split_at_checked(size).ok_or(DAMAGED)?;
    let flags = header[1];
    let mut fields = &header[2..];
    for field in [HAS_PACKED_SIZE, HAS_UNPACKED_SIZE] {
        if flags & field != 0 {
            number(&mut fields)?;
        }
    }
    let mut filtered = false;
    let filters = usize::from(flags & 3);
    for last in (0..=filters).map(|n| n == filters) {
        let (id, properties) = (number(&mut fields)?, number(&mut fields)?);
        let properties = usize::try_from(properties).map_err(|_| DAMAGED)?;
        fields = fields.get(properties..).ok_or(DAMAGED)?;
        match (id, properties, last) {
            (FILTER_LZMA2, 1, true) if flags & UNKNOWN_FLAGS == 0 => return Ok((filtered, after)),
            (FILTER_X86, 0, false) if !filtered => filtered = true,
            _ => break,
        }
    }
    Err(Error::Damaged("the xz data has filters other than x86 and LZMA2"))
}

/// A number in seven-bit groups, least significant first.
fn number(data: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for group in 0..9 {
        let (byte, rest) = data.split_first().ok_or(DAMAGED)?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DAMAGED)
}

/// Unpacks LZMA2 chunks into the start of `output`; answers how many bytes they took and gave.
fn lzma2(data: &[u8], output: &mut [u8]) -> Result<(usize, usize), Error> {
    const END: u8 = 0;
    const PLAIN_NEW_DICTIONARY: u8 = 1;
    const PLAIN: u8 = 2;
    const PACKED: u8 = 0x80;
    let mut decoder: Option<Decoder> = None;
    let (mut rest, mut done, mut dictionary) = (data, 0, 0);
    loop {
        let (control, after) = rest.split_first().ok_or(DAMAGED)?;
        rest = after;
        match *control {
            END => return Ok((data.len() - rest.len(), done)),
            control @ (PLAIN_NEW_DICTIONARY | PLAIN) => {
                let (size, after) = rest.split_first_chunk::<2>().ok_or(DAMAGED)?;
                let size = usize::from(u16::from_be_bytes(*size)) + 1;
                let (chunk, after) = after.split_at_checked(size).ok_or(DAMAGED)?;
                if control == PLAIN_NEW_DICTIONARY {
                    dictionary = done;
                }
                output.get_mut(done..done + size).ok_or(DAMAGED)?.copy_from_slice(chunk);
                (rest, done) = (after, done + size);
            }
            control @ PACKED.. => {
                let chunk = Chunk::parse(control, rest)?;
                if chunk.new_dictionary() {
                    dictionary = done;
                }
                let decoder = chunk.prepare(&mut decoder)?;
                let output = output.get_mut(dictionary..done + chunk.unpacked).ok_or(DAMAGED)?;
                decoder.run(chunk.data, output, done - dictionary, false)?;
                (rest, done) = (chunk.after, done + chunk.unpacked);
            }
            _ => return Err(DAMAGED),
        }
    }
}

/// A packed chunk of LZMA2.
struct Chunk<'a> {
    /// What it resets: 0 nothing, 1 the state, 2 the properties too, 3 and the dictionary.
    reset: u8,
    properties: u8,
    unpacked: usize,
    data: &'a [u8],
    after: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads the header behind the control byte.
    fn parse(control: u8, rest: &'a [u8]) -> Result<Self, Error> {
        let (sizes, mut rest) = rest.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let reset = control >> 5 & 3;
        let unpacked = usize::from(control & 0x1f) << 16 | usize::from(sizes[0]) << 8 | usize::from(sizes[1]);
        let packed = usize::from(sizes[2]) << 8 | usize::from(sizes[3]);
        let mut properties = 0;
        if reset >= 2 {
            let (byte, after) = rest.split_first().ok_or(DAMAGED)?;
            (properties, rest) = (*byte, after);
        }
        let (data, after) = rest.split_at_checked(packed + 1).ok_or(DAMAGED)?;
        Ok(Self { reset, properties, unpacked: unpacked + 1, data, after })
    }

    fn new_dictionary(&self) -> bool {
        self.reset == 3
    }

    /// Brings the decoder into the state in which this chunk starts.
    fn prepare<'d>(&self, decoder: &'d mut Option<Decoder>) -> Result<&'d mut Decoder, Error> {
        match (decoder.as_mut(), self.reset) {
            (Some(decoder), 2..) => decoder.set_properties(self.properties)?,
            (Some(decoder), 1) => decoder.reset(),
            (Some(_), _) => {}
            (None, 2..) => *decoder = Some(Decoder::new(self.properties)?),
            (None, _) => return Err(DAMAGED),
        }
        decoder.as_mut().ok_or(DAMAGED)
    }
}
