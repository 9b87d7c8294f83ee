//! Bitmaps in the form of `xenctl_bitmap`: bytes in the caller's memory and how many bits they have.

use crate::Hypervisor;
use crate::guest_ptr::GuestPtr;
use crate::platform::{GuestFault, Platform};
use alloc::vec;
use alloc::vec::Vec;
use xen_abi::xen::XenctlBitmap;

/// Bytes behind the last meaningful one that are cleared at most: a caller that claims a larger buffer asks for work without
/// end.
const MOST_PADDING: usize = 4096;
/// Those that are cleared at a time.
const PIECE: usize = 128;

/// The bitmap with these members among `bits`.
pub fn of(members: impl IntoIterator<Item = usize>, bits: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; bits.div_ceil(8)];
    for member in members {
        if let Some(byte) = bytes.get_mut(member / 8) {
            *byte |= 1 << (member % 8);
        }
    }
    bytes
}

/// The members of a bitmap.
pub fn members(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let set = |at: &usize| bytes[at / 8] & 1 << (at % 8) != 0;
    (0..bytes.len() * 8).filter(set)
}

/// Copies at most `bits` bits in; what the caller's map does not have is clear.
///
/// # Errors
/// [`GuestFault`] when it cannot be read.
pub fn read<P: Platform>(hv: &Hypervisor<P>, map: &XenctlBitmap, bits: usize) -> Result<Vec<u8>, GuestFault> {
    let mut bytes = vec![0u8; bits.div_ceil(8)];
    let theirs = (map.nr_bits as usize).div_ceil(8);
    let common = theirs.min(bytes.len());
    GuestPtr::<u8>::from(map.bitmap).read_slice(hv, &mut bytes[..common])?;
    if !map.nr_bits.is_multiple_of(8) && theirs == common {
        bytes[common - 1] &= (1 << (map.nr_bits % 8)) - 1;
    }
    Ok(bytes)
}

/// Copies a bitmap out, as far as the caller's has room, and clears the rest of the caller's.
///
/// # Errors
/// [`GuestFault`] when it cannot be written.
pub fn write<P: Platform>(hv: &Hypervisor<P>, map: &XenctlBitmap, bytes: &[u8]) -> Result<(), GuestFault> {
    let theirs = (map.nr_bits as usize).div_ceil(8);
    let common = theirs.min(bytes.len());
    let mut own = bytes[..common].to_vec();
    if !map.nr_bits.is_multiple_of(8) && theirs == common {
        own[common - 1] &= (1 << (map.nr_bits % 8)) - 1;
    }
    let target = GuestPtr::<u8>::from(map.bitmap);
    target.write_slice(hv, &own)?;
    let end = common + (theirs - common).min(MOST_PADDING);
    let padding = [0u8; PIECE];
    for at in (common..end).step_by(PIECE) {
        let piece = padding.get(..end - at).unwrap_or(&padding);
        target.at(at as u64)?.write_slice(hv, piece)?;
    }
    Ok(())
}
