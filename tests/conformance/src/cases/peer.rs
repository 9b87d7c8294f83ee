//! The peer itself: a second domain by `domctl` (domctl.h), and what it may and may not do.

use guest_pv_lib::Errno;
use xen_abi::hypercall::nr;

use crate::harness::same;
use crate::peer::{FREE, with_peer};

case! {
    /// A domain is created, built, started, answers, and is destroyed without a trace.
    #[peer]
    fn comes_and_goes(env) {
        with_peer(env, |peer| {
            same("xen_version", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))?;
            same("an unknown hypercall", peer.call(63, &[]), Err(Errno::ENOSYS))?;
            // mov rax, rdi; ret
            peer.load(FREE, &[0x48, 0x89, 0xf8, 0xc3])?;
            same("a function", peer.run(peer.virt(FREE), &[77]), Ok(77))
        })
    }
}
