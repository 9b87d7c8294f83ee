//! The legacy format of the `lz4` tool, which Linux's build uses (`lz4 -l`): a magic number, then blocks of up to 8 MiB,
//! each preceded by its packed size. Blocks do not refer to each other.

use super::Error;

/// Most that a block unpacks to.
const BLOCK: usize = 8 << 20;

/// Unpacks `data` so that it fills `output`.
pub(crate) fn unpack(data: &[u8], output: &mut [u8]) -> Result<(), Error> {
    let damaged = Error::Damaged("the lz4 data is damaged");
    let mut rest = data.get(4..).ok_or(damaged)?;
    for block in output.chunks_mut(BLOCK) {
        let (size, after) = rest.split_first_chunk().ok_or(damaged)?;
        let size = u32::from_le_bytes(*size) as usize;
        let packed = after.get(..size).ok_or(damaged)?;
        rest = &after[size..];
        if !lz4_flex::block::decompress_into(packed, block).is_ok_and(|n| n == block.len()) {
            return Err(damaged);
        }
    }
    Ok(())
}
