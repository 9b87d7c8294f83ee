//! Where memory is to be: the flags of a reservation.
//!
//! The machine is one node, number 0. What is asked of another one exactly cannot be had; what is merely preferred there comes
//! from node 0.

use crate::hypercall::Cx;
use crate::platform::Platform;
use xen_abi::errno::Errno;
use xen_abi::memory::*;

/// Nodes that can be numbered (Xen's `MAX_NUMNODES`).
const MAX_NODES: u32 = 64;
/// What [`xenmemf_get_node`] says where no node is named.
const NO_NODE: u32 = 0xff;

/// Where memory is to be.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    /// `XENMEMF_*` of which the address bits count.
    pub flags: u32,
    /// There is no such place.
    pub nowhere: bool,
}

impl Placement {
    /// What the flags of an exchange ask for.
    ///
    /// # Errors
    /// `EINVAL` for a node that cannot be, or that is not the caller's to demand.
    pub(super) fn of_exchange<P: Platform>(cx: Cx<'_, P>, flags: u32) -> Result<Self, Errno> {
        let (node, exact) = (xenmemf_get_node(flags), flags & XENMEMF_EXACT_NODE_REQUEST != 0);
        let denied = if cx.domain.privileged { node >= MAX_NODES } else { exact };
        if node == NO_NODE {
            return Ok(Self { flags, nowhere: false });
        }
        if denied {
            return Err(Errno::EINVAL);
        }
        Ok(Self { flags, nowhere: cx.domain.privileged && exact && node != 0 })
    }

    /// What the flags of the other commands ask for: virtual nodes there are none, so naming one asks for nothing.
    ///
    /// # Errors
    /// As [`Placement::of_exchange`]; `EINVAL`, too, for memory below one page.
    pub(super) fn of_extents<P: Platform>(cx: Cx<'_, P>, flags: u32) -> Result<Self, Errno> {
        if (1..=12).contains(&xenmemf_get_address_bits(flags)) {
            return Err(Errno::EINVAL);
        }
        if flags & XENMEMF_VNODE != 0 {
            return Ok(Self { flags, nowhere: false });
        }
        Self::of_exchange(cx, flags)
    }
}
