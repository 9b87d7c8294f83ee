//! The x86 filter of .xz ("BCJ"): targets of calls and jumps were made absolute before the compression, because many
//! calls have the same target, and are made relative again here.
//!
//! The filter took each `E8`/`E9` whose operand's top byte is 00 or FF for a call or jump, except where the bytes around
//! it suggest that it is itself part of an operand.

/// Makes the targets in a whole block relative again.
pub fn undo_x86_filter(block: &mut [u8]) {
    /// Operand's length.
    const OPERAND: usize = 4;
    let Some(last) = block.len().checked_sub(OPERAND + 1) else { return };
    let is_top = |byte: u8| byte == 0 || byte == 0xff;
    let mut at = 0;
    // Position of the opcode before, and a bit for each of the three bytes before the current one that were opcodes too.
    let (mut previous, mut recent) = (usize::MAX, 0u32);
    while let Some(skip) = block.get(at..=last).and_then(find_opcode) {
        at += skip;
        let gap = at.wrapping_sub(previous);
        recent = if gap > 3 { 0 } else { recent << (gap - 1) & 7 };
        previous = at;
        let Some(operand) = block[at + 1..].first_chunk_mut::<OPERAND>() else { return };
        // Which byte of the operand was in doubt when this opcode is within another one's operand.
        let doubtful = match recent {
            0 => None,
            1 => Some(2),
            2 | 4 => Some(if recent == 2 { 1 } else { 0 }),
            _ => {
                recent = recent << 1 | 1;
                at += 1;
                continue;
            }
        };
        if doubtful.is_some_and(|n| is_top(operand[n])) || !is_top(operand[3]) {
            recent = recent << 1 | 1;
            at += 1;
            continue;
        }
        let base = (at + OPERAND + 1) as u32;
        let mut target = u32::from_le_bytes(*operand).wrapping_sub(base);
        if let Some(n) = doubtful {
            let shift = 8 * n as u32;
            if is_top((target >> shift) as u8) {
                target = (target ^ ((1 << (shift + 8)) - 1)).wrapping_sub(base);
            }
        }
        let sign = if target & 1 << 24 != 0 { 0xff00_0000 } else { 0 };
        *operand = (target & 0x00ff_ffff | sign).to_le_bytes();
        at += OPERAND + 1;
    }
}

/// Distance to the next `E8` or `E9`.
fn find_opcode(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, tail) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        // A byte of this is 0 where there is an opcode; the lowest one that looks 0 is.
        let other = u64::from_le_bytes(*word) & (0xfe * ONES) ^ (0xe8 * ONES);
        let zeroes = other.wrapping_sub(ONES) & !other & (0x80 * ONES);
        if zeroes != 0 {
            return Some(n * 8 + zeroes.trailing_zeros() as usize / 8);
        }
    }
    let n = tail.iter().position(|b| b & 0xfe == 0xe8)?;
    Some(words.len() * 8 + n)
}
