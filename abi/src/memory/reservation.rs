//! How much memory a domain has.

use crate::GuestHandle;

consts! {
    /// Allocates frames without mapping them anywhere. Argument: [`XenMemoryReservation`]; returns how many extents.
    XENMEM_INCREASE_RESERVATION("XENMEM_increase_reservation"): u32 = 0;
    /// Gives frames back. Argument: [`XenMemoryReservation`]; returns how many extents.
    XENMEM_DECREASE_RESERVATION("XENMEM_decrease_reservation"): u32 = 1;
    /// Returns the highest machine frame of RAM. No argument.
    XENMEM_MAXIMUM_RAM_PAGE("XENMEM_maximum_ram_page"): u32 = 2;
    /// Returns the pages that a domain has. Argument: [`XenMemoryDomain`].
    XENMEM_CURRENT_RESERVATION("XENMEM_current_reservation"): u32 = 3;
    /// Returns the pages that it may have. Argument: [`XenMemoryDomain`].
    XENMEM_MAXIMUM_RESERVATION("XENMEM_maximum_reservation"): u32 = 4;
    /// Allocates frames for given guest frames. Argument: [`XenMemoryReservation`]; returns how many extents.
    XENMEM_POPULATE_PHYSMAP("XENMEM_populate_physmap"): u32 = 6;
    /// Trades extents for others, such as a contiguous one (PV). Argument: [`XenMemoryExchange`].
    XENMEM_EXCHANGE("XENMEM_exchange"): u32 = 11;
    /// Returns the highest guest frame in use. Argument: [`XenMemoryDomain`].
    XENMEM_MAXIMUM_GPFN("XENMEM_maximum_gpfn"): u32 = 14;
    /// Sets the target of populate-on-demand. Argument: [`XenPodTarget`].
    XENMEM_SET_POD_TARGET("XENMEM_set_pod_target"): u32 = 16;
    /// Asks for it. Argument: [`XenPodTarget`].
    XENMEM_GET_POD_TARGET("XENMEM_get_pod_target"): u32 = 17;
    /// Reserves a number of pages for a domain without choosing them (privileged). Argument:
    /// [`XenMemoryReservation`] with no list.
    XENMEM_CLAIM_PAGES("XENMEM_claim_pages"): u32 = 24;

    /// `mem_flags`: populate on demand.
    XENMEMF_POPULATE_ON_DEMAND("XENMEMF_populate_on_demand"): u32 = 1 << 16;
    /// `mem_flags`: from the given node or not at all.
    XENMEMF_EXACT_NODE_REQUEST("XENMEMF_exact_node_request"): u32 = 1 << 17;
    /// `mem_flags`: the node is a virtual one.
    XENMEMF_VNODE("XENMEMF_vnode"): u32 = 1 << 18;
}

/// `mem_flags` for memory below 2^`bits`; 0 is no limit.
#[must_use]
pub const fn xenmemf_address_bits(bits: u8) -> u32 {
    bits as u32
}

/// The address bits in `mem_flags`; 0 is no limit.
#[must_use]
pub const fn xenmemf_get_address_bits(mem_flags: u32) -> u32 {
    mem_flags & 0xff
}

/// `mem_flags` for memory preferably of `node` (below 255).
#[must_use]
pub const fn xenmemf_node(node: u8) -> u32 {
    (node as u32 + 1) << 8
}

/// The node in `mem_flags`; 0xff is none.
#[must_use]
pub const fn xenmemf_get_node(mem_flags: u32) -> u32 {
    (mem_flags >> 8).wrapping_sub(1) & 0xff
}

wire! {
    /// A list of extents of 2^`extent_order` frames each.
    ///
    /// Before interface version 3.2.9 `mem_flags` was `address_bits`, its lowest byte.
    pub struct XenMemoryReservation("struct xen_memory_reservation", 32) {
        /// First frame of each extent: increase writes machine frames, decrease reads guest frames, populate reads
        /// guest frames and (PV) writes machine frames over them, claim wants null.
        @0 extent_start: GuestHandle<u64>,
        /// How many extents.
        @8 nr_extents: u64,
        /// Order of each.
        @16 extent_order: u32,
        /// `XENMEMF_*`, address bits, node.
        @20 mem_flags: u32,
        /// The domain; `DOMID_SELF` unless privileged.
        @24 domid: u16,
        @26 _pad0(): [u16; 3],
    }

    /// Argument of [`XENMEM_EXCHANGE`]. Both lists are of the same domain and amount, and do not overlap.
    pub struct XenMemoryExchange("struct xen_memory_exchange", 72) {
        /// What is given away: guest frames.
        @0 in_("in"): XenMemoryReservation,
        /// What is got: guest frames on input, machine frames on output.
        @32 out: XenMemoryReservation,
        /// In: zero. Out: extents of `in_` that were exchanged.
        @64 nr_exchanged: u64,
    }

    /// A domain's number as an argument.
    pub struct XenMemoryDomain("struct xen_memory_domain", 2) {
        /// The domain.
        @0 domid: u16,
    }

    /// Argument of [`XENMEM_SET_POD_TARGET`] and [`XENMEM_GET_POD_TARGET`].
    pub struct XenPodTarget("struct xen_pod_target", 40) {
        /// In: pages that the guest is to have.
        @0 target_pages: u64,
        /// Out: pages that it has.
        @8 tot_pages: u64,
        /// Out: of these, not yet placed.
        @16 pod_cache_pages: u64,
        /// Out: guest frames that are populated on demand.
        @24 pod_entries: u64,
        /// In: the domain.
        @32 domid: u16,
        @34 _pad0(): [u16; 3],
    }
}

abi_module! { "memory.h": consts, wire }
