//! The initial address space of a PV domain, as xen.h ("Start-of-day memory layout") demands it: arithmetic only.
//!
//! Page 0 of the domain (pfn 0) is at the kernel's base address; the pages behind it are mapped one after the other up
//! to the end of the region. In it, each part aligned to pages: the image, the initial RAM disk, the list of frames, `start_info`,
//! the rings of console and xenstore (not for the first domain), the page tables, one page of stack, at least 512 KiB of nothing, up to a multiple of 4 MiB. Behind the region, in the domain's
//! numbering only, come a RAM disk that need not be mapped, and the list of frames when it is wanted at another
//! virtual address, preceded by the page tables that map it there.

use super::BuildError;
use super::kernel::{Kernel, is_guest_range};
use core::ops::Range;

const PAGE: u64 = 4096;
/// The region ends at a multiple of this.
const REGION_ALIGN: u64 = 4 << 20;
/// Least unused memory at the region's end.
const PADDING: u64 = 512 << 10;

/// Where everything is. Pages are counted from the domain's first (pfn 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Virtual address of pfn 0.
    pub(super) base: u64,
    /// Pages of the region: pfns `0..region_pages` are mapped from `base` on.
    pub(super) region_pages: u64,
    /// First page of the initial RAM disk, if there is one.
    pub(super) initrd: Option<u64>,
    /// Whether the RAM disk lies in the region.
    pub(super) initrd_mapped: bool,
    /// Virtual address of the list of frames.
    pub(super) p2m_address: u64,
    /// Pages of the list of frames.
    pub(super) p2m: Range<u64>,
    /// Pages for the tables that map the list of frames where it is not in the region; some may stay unused.
    pub(super) p2m_tables: Range<u64>,
    /// Page of `start_info`.
    pub(super) start_info: u64,
    /// Pages of rings.
    pub(super) rings: Range<u64>,
    /// Page tables of the region, the L4 first.
    pub(super) tables: Range<u64>,
    /// The stack's page.
    pub(super) stack: u64,
    /// Pages that all this takes.
    pub(super) needed: u64,
}

impl Layout {
    /// Lays out a domain of `pages` pages with an initial RAM disk of `initrd` bytes (0: none) and `rings` pages of rings.
    pub(super) fn new(kernel: &Kernel<'_>, initrd: u64, rings: u64, pages: u64) -> Result<Self, BuildError> {
        let too_large = BuildError::LayoutTooLarge;
        let p2m_pages = pages.div_ceil(PAGE / 8);
        let initrd_pages = initrd.div_ceil(PAGE);
        // None of these is near 2^64: files and memory are smaller than that.
        let mut next = (kernel.image.end - kernel.base).div_ceil(PAGE);
        let mut take = |count: u64| {
            let first = next;
            next += count;
            first..next
        };
        let mapped_initrd = if kernel.initrd_unmapped { 0 } else { initrd_pages };
        let mut initrd_at = take(mapped_initrd).start;
        let mut p2m = take(if kernel.p2m.is_some() { 0 } else { p2m_pages });
        let start_info = take(1).start;
        let rings = take(rings);
        let table_count = region_tables(kernel.base, next).ok_or(too_large)?;
        let mut take = |count: u64| {
            let first = next;
            next += count;
            first..next
        };
        let tables = take(table_count);
        let stack = take(1).start;
        let region = region_end(kernel.base, next).ok_or(too_large)?;
        next = (region - kernel.base) / PAGE;
        let region_pages = next;
        if !is_guest_range(&(kernel.base..region)) {
            return Err(too_large);
        }
        if kernel.initrd_unmapped {
            initrd_at = next;
            next += initrd_pages;
        }
        let mut p2m_tables = next..next;
        let mut p2m_address = kernel.base + p2m.start * PAGE;
        if let Some(address) = kernel.p2m {
            p2m_address = address;
            let count = p2m_table_count(address, p2m_pages, &(kernel.base..region))?;
            p2m_tables = next..next + count;
            p2m = p2m_tables.end..p2m_tables.end + p2m_pages;
            next = p2m.end;
        }
        Ok(Self {
            base: kernel.base,
            region_pages,
            initrd: (initrd != 0).then_some(initrd_at),
            initrd_mapped: !kernel.initrd_unmapped,
            p2m_address,
            p2m,
            p2m_tables,
            start_info,
            rings,
            tables,
            stack,
            needed: next,
        })
    }

    /// Virtual address of a page of the region.
    pub(super) fn address(&self, page: u64) -> u64 {
        self.base + page * PAGE
    }
}

/// Where the region ends that holds `pages` pages from `base` on.
fn region_end(base: u64, pages: u64) -> Option<u64> {
    let used = base.checked_add(pages.checked_mul(PAGE)?)?;
    let end = used.checked_next_multiple_of(REGION_ALIGN)?;
    if end - used < PADDING { end.checked_add(REGION_ALIGN) } else { Some(end) }
}

/// How many tables map the region, when `pages` pages lie before the tables: the more tables, the larger the region.
fn region_tables(base: u64, pages: u64) -> Option<u64> {
    let mut count = 0;
    loop {
        // The stack's page lies behind the tables.
        let end = region_end(base, pages.checked_add(count)?.checked_add(1)?)?;
        let wanted = 1 + tables_below_l4(&(base..end));
        if wanted <= count {
            return Some(count);
        }
        count = wanted;
    }
}

/// Tables of levels 1, 2 and 3 that map this range.
fn tables_below_l4(range: &Range<u64>) -> u64 {
    [21, 30, 39].iter().map(|shift| ((range.end - 1) >> shift) - (range.start >> shift) + 1).sum()
}

/// How many pages to keep for the tables that map `pages` pages of the list of frames at `address`.
fn p2m_table_count(address: u64, pages: u64, region: &Range<u64>) -> Result<u64, BuildError> {
    let end = pages.checked_mul(PAGE).and_then(|size| address.checked_add(size));
    let range = address..end.ok_or(BuildError::LayoutTooLarge)?;
    let overlaps = range.start < region.end && region.start < range.end;
    if overlaps || !is_guest_range(&range) {
        return Err(BuildError::BadNote { name: "INIT_P2M", value: address });
    }
    Ok(tables_below_l4(&range))
}
