//! `domctl` (domctl.h): making, describing and ending domains.

use guest_pv_lib::Errno;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;

use crate::harness::{check, need, same};
use crate::peer::control::{Domain, domctl, free_pages, info};
use crate::peer::{PAGES, with_peer};

case! {
    /// A new domain is described as what it is: paused, with one vCPU that is not up, and without a page.
    #[peer]
    fn new_domain(env) {
        let _ = env;
        let domain = Domain::create()?;
        let found = need("getdomaininfo", info(domain.id()))?;
        // The reason of a shutdown that has not been is all ones.
        same("flags", found.flags, XEN_DOMINF_PAUSED | u32::MAX << XEN_DOMINF_SHUTDOWNSHIFT)?;
        same("vCPUs up", found.nr_online_vcpus, 0)?;
        same("highest vCPU", found.max_vcpu_id, 0)?;
        same("pages", found.tot_pages, 0)?;
        same("most pages", found.max_pages, PAGES as u64 + 8)?;
        same("handle", found.handle, *b"conformance peer")?;
        check("it has a shared page", found.shared_info_frame != 0)?;
        need("destroydomain", domain.destroy())
    }
}

case! {
    /// A running domain: its pages, its one vCPU, which waits for an event.
    #[peer]
    fn running_domain(env) {
        with_peer(env, |peer| {
            same("a call", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))?;
            let found = need("getdomaininfo", info(peer.id()))?;
            same("not paused, not dying", found.flags & (XEN_DOMINF_PAUSED | XEN_DOMINF_DYING), 0)?;
            same("vCPUs up", found.nr_online_vcpus, 1)?;
            same("pages", found.tot_pages, PAGES as u64)?;
            check("it has run", found.cpu_time > 0)
        })
    }
}

case! {
    /// Pauses count, and a domain that is paused does nothing.
    #[peer]
    fn pauses_count(env) {
        with_peer(env, |peer| {
            let domain = peer.domain();
            same("pause", domain.pause(), Ok(0))?;
            same("pause again", domain.pause(), Ok(0))?;
            same("unpause", domain.unpause(), Ok(0))?;
            let found = need("getdomaininfo", info(peer.id()))?;
            same("still paused", found.flags & XEN_DOMINF_PAUSED, XEN_DOMINF_PAUSED)?;
            same("unpause again", domain.unpause(), Ok(0))?;
            same("once too often", domain.unpause(), Err(Errno::EINVAL))?;
            same("it goes on", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))
        })
    }
}

case! {
    /// The vCPUs are made once, and exactly as many as the creation said.
    #[peer]
    fn max_vcpus(env) {
        let _ = env;
        let domain = Domain::create()?;
        let set = |max| domctl(XEN_DOMCTL_MAX_VCPUS, domain.id(), &mut XenDomctlMaxVcpus { max }).map(|_| ());
        same("again", set(1), Ok(()))?;
        same("more", set(2), Err(Errno::EINVAL))?;
        same("none", set(0), Err(Errno::EINVAL))?;
        same("of the caller", domctl(XEN_DOMCTL_MAX_VCPUS, 0, &mut XenDomctlMaxVcpus { max: 1 }).map(|_| ()), Err(Errno::EINVAL))?;
        need("destroydomain", domain.destroy())
    }
}

case! {
    /// Domains that come and go leave the machine's free memory as it was (give or take the hypervisor's own caches,
    /// which are smaller than one peer).
    #[peer]
    fn no_page_is_lost(env) {
        with_peer(env, |_| Ok(()))?;
        let before = need("physinfo", free_pages())?;
        for _ in 0..8 {
            with_peer(env, |_| Ok(()))?;
        }
        let after = need("physinfo", free_pages())?;
        check("free pages", before.abs_diff(after) < PAGES as u64)
    }
}
