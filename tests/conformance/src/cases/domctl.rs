//! `domctl` (domctl.h): making, describing and ending domains.

use guest_pv_lib::Errno;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;

use crate::call::{FAULTS, NO_DOMAIN, all_fault, hc1};
use crate::harness::{check, need, same};
use crate::peer::control::{Domain, config, domctl, free_pages, info, plain};
use crate::peer::{FREE, PAGES, sleep, with_peer};

/// `createdomain` with a changed configuration, which must be refused.
fn create(change: impl FnOnce(&mut XenDomctlCreatedomain)) -> Result<(), Errno> {
    let mut config = config();
    change(&mut config);
    let (_, id) = domctl(XEN_DOMCTL_CREATEDOMAIN, 0, &mut config)?;
    plain(XEN_DOMCTL_DESTROYDOMAIN, id).map(drop)
}

returns! {
    /// Bad pointers.
    fault(env): all_fault(|at| hc1(nr::DOMCTL, at)) => FAULTS;
    /// Another interface version, whatever else is asked.
    version(env): {
        let mut whole = XenDomctl { cmd: XEN_DOMCTL_PAUSEDOMAIN, domain: NO_DOMAIN, ..XenDomctl::default() };
        hc1(nr::DOMCTL, &raw mut whole as u64)
    } => Err(Errno::EACCES);
    /// A domain that does not exist.
    pause_nobody(env): plain(XEN_DOMCTL_PAUSEDOMAIN, NO_DOMAIN) => Err(Errno::ESRCH);
    /// A domain that does not exist.
    destroy_nobody(env): plain(XEN_DOMCTL_DESTROYDOMAIN, NO_DOMAIN) => Err(Errno::ESRCH);
    /// A domain that does not exist is looked for before the command is.
    unknown_of_nobody(env): plain(999, NO_DOMAIN) => Err(Errno::ESRCH);
    /// A command that does not exist.
    unknown(env): plain(999, 0) => Err(Errno::ENOSYS);
    /// The calling domain can neither pause itself ...
    pause_self(env): plain(XEN_DOMCTL_PAUSEDOMAIN, 0) => Err(Errno::EINVAL);
    /// ... nor end itself ...
    destroy_self(env): plain(XEN_DOMCTL_DESTROYDOMAIN, 0) => Err(Errno::EINVAL);
    /// ... nor be resumed by itself.
    resume_self(env): plain(XEN_DOMCTL_RESUMEDOMAIN, 0) => Err(Errno::EINVAL);
    /// A running domain has no pause to take back.
    unpause_self(env): plain(XEN_DOMCTL_UNPAUSEDOMAIN, 0) => Err(Errno::EINVAL);
    /// Its identifier is taken.
    create_again(env): {
        with_peer_id(|id| domctl(XEN_DOMCTL_CREATEDOMAIN, id, &mut config()).map(|_| ()))
    } => Err(Errno::EEXIST);
    /// A flag that does not exist.
    create_unknown_flag(env): create(|config| config.flags = 0x8000_0000) => Err(Errno::EINVAL);
    /// No vCPU at all.
    create_without_vcpus(env): create(|config| config.max_vcpus = 0) => Err(Errno::EINVAL);
    /// More vCPUs than any domain can have.
    create_with_many_vcpus(env): create(|config| config.max_vcpus = 100_000) => Err(Errno::EINVAL);
    /// Nested paging is for hardware guests.
    create_pv_with_hap(env): create(|config| config.flags = XEN_DOMCTL_CDF_HAP) => Err(Errno::EINVAL);
    /// Emulated devices are for hardware guests.
    create_pv_with_devices(env): create(|config| config.arch.emulation_flags = 1) => Err(Errno::EOPNOTSUPP);
    /// A version of grant tables that does not exist.
    create_grant_version(env): create(|config| config.grant_opts = 3) => Err(Errno::EINVAL);
    /// No version of grant tables at all.
    create_grant_version_none(env): create(|config| config.grant_opts = 0) => Err(Errno::EINVAL);
}

/// Runs `body` with the identifier of an empty domain.
fn with_peer_id<R>(body: impl FnOnce(u16) -> Result<R, Errno>) -> Result<R, Errno> {
    let domain = Domain::create().map_err(|_| Errno::ENOSYS)?;
    let result = body(domain.id());
    domain.destroy()?;
    result
}

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
            // mov ecx, 5000000; dec ecx; jnz -4; ret
            peer.load(FREE, &[0xb9, 0x40, 0x4b, 0x4c, 0, 0xff, 0xc9, 0x75, 0xfc, 0xc3])?;
            need("some work", peer.run(peer.virt(FREE), &[]))?;
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
        // Some of it comes back when other CPUs have taken notice.
        let returned = (0..100).any(|_| {
            sleep(&[], 10_000_000);
            free_pages().is_ok_and(|after| before < after + PAGES as u64)
        });
        check("free pages", returned)
    }
}
