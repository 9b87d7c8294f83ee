//! What a front end asked for, checked once after it was copied out of the ring.

use alloc::vec::Vec;

use xen_abi::io::blkif::{
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR, BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect, BlkifRequestSegment,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::blk::{Geometry, Operation, PAGE_SECTORS, SECTOR};
use crate::transport::{GrantRef, PAGE_SIZE};

/// Descriptors of segments in a page.
pub const DESCRIPTORS: usize = PAGE_SIZE / size_of::<BlkifRequestSegment>();

/// A part of a page that a front end granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub reference: GrantRef,
    pub offset: u16,
    pub length: u16,
}

impl Segment {
    pub fn new(wire: &BlkifRequestSegment) -> Result<Self, i16> {
        if wire.first_sect > wire.last_sect || wire.last_sect >= PAGE_SECTORS {
            return Err(BLKIF_RSP_ERROR);
        }
        let sectors = u16::from(wire.last_sect - wire.first_sect) + 1;
        Ok(Self {
            reference: GrantRef(wire.gref),
            offset: u16::from(wire.first_sect) * SECTOR as u16,
            length: sectors * SECTOR as u16,
        })
    }
}

/// Where the descriptors of a request's segments are that did not fit into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    pub pages: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    pub segments: usize,
}

/// A request without its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub operation: Operation,
    pub sector: u64,
    /// Of a discard; what is read or written, the segments tell.
    pub sectors: u64,
    pub indirect: Option<Indirect>,
}

/// What a disk and a back end can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub geometry: Geometry,
    /// The most segments of an indirect request; none: they are not known.
    pub indirect: usize,
}

/// The form of the slot that `request` has. All forms are in the slot's bytes, so this cannot fail.
fn form<R: FromBytes>(request: &BlkifRequest) -> Result<R, i16> {
    R::read_from_prefix(request.as_bytes()).map(|(form, _)| form).map_err(|_| BLKIF_RSP_ERROR)
}

/// The operation that an answer names: of an indirect request what it does, as Linux' front end expects it.
pub fn answered_operation(request: &BlkifRequest) -> u8 {
    match form::<BlkifRequestIndirect>(request) {
        Ok(indirect) if request.operation == BLKIF_OP_INDIRECT => indirect.indirect_op,
        _ => request.operation,
    }
}

/// Reads a request, its segments into `segments`, which is cleared first. The error is the answer's status.
pub fn parse(request: &BlkifRequest, limits: Limits, segments: &mut Vec<Segment>) -> Result<Parsed, i16> {
    segments.clear();
    let operation = match request.operation {
        BLKIF_OP_READ => Operation::Read,
        BLKIF_OP_WRITE => Operation::Write,
        BLKIF_OP_FLUSH_DISKCACHE if limits.geometry.flush => Operation::Flush,
        BLKIF_OP_DISCARD if limits.geometry.discard => return discard(&form(request)?, limits),
        BLKIF_OP_INDIRECT if limits.indirect > 0 => return indirect(&form(request)?, limits),
        _ => return Err(BLKIF_RSP_EOPNOTSUPP),
    };
    let count = usize::from(request.nr_segments);
    let fits = match operation {
        Operation::Flush => count == 0,
        _ => (1..=BLKIF_MAX_SEGMENTS_PER_REQUEST).contains(&count),
    };
    if !fits {
        return Err(BLKIF_RSP_ERROR);
    }
    for wire in &request.seg[..count] {
        segments.push(Segment::new(wire)?);
    }
    Ok(Parsed { operation, sector: request.sector_number, sectors: 0, indirect: None })
}

fn discard(request: &BlkifRequestDiscard, limits: Limits) -> Result<Parsed, i16> {
    within(request.sector_number, request.nr_sectors, Operation::Discard, limits)?;
    let (sector, sectors) = (request.sector_number, request.nr_sectors);
    // A secure discard was not offered: the flag means nothing.
    Ok(Parsed { operation: Operation::Discard, sector, sectors, indirect: None })
}

fn indirect(request: &BlkifRequestIndirect, limits: Limits) -> Result<Parsed, i16> {
    let operation = match request.indirect_op {
        BLKIF_OP_READ => Operation::Read,
        BLKIF_OP_WRITE => Operation::Write,
        _ => return Err(BLKIF_RSP_EOPNOTSUPP),
    };
    let segments = usize::from(request.nr_segments);
    if segments == 0 || segments > limits.indirect {
        return Err(BLKIF_RSP_ERROR);
    }
    let indirect = Some(Indirect { pages: request.indirect_grefs, segments });
    Ok(Parsed { operation, sector: request.sector_number, sectors: 0, indirect })
}

/// Whether the disk has these sectors and lets them be changed.
pub fn within(sector: u64, sectors: u64, operation: Operation, limits: Limits) -> Result<(), i16> {
    let end = sector.checked_add(sectors);
    let changes = matches!(operation, Operation::Write | Operation::Discard);
    let blocks = u64::from(limits.geometry.block_size) / SECTOR as u64;
    let is_whole = sector.is_multiple_of(blocks) && sectors.is_multiple_of(blocks);
    match end {
        Some(end) if end <= limits.geometry.sectors && is_whole => {}
        _ => return Err(BLKIF_RSP_ERROR),
    }
    if changes && limits.geometry.read_only { Err(BLKIF_RSP_ERROR) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn the_answer_to_an_indirect_request_names_what_it_did() {
        let mut request = BlkifRequestIndirect::new_zeroed();
        (request.operation, request.indirect_op) = (BLKIF_OP_INDIRECT, BLKIF_OP_WRITE);
        let mut slot = BlkifRequest::new_zeroed();
        let bytes = request.as_bytes();
        slot.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(answered_operation(&slot), BLKIF_OP_WRITE);
        slot.operation = BLKIF_OP_FLUSH_DISKCACHE;
        assert_eq!(answered_operation(&slot), BLKIF_OP_FLUSH_DISKCACHE);
    }
}
