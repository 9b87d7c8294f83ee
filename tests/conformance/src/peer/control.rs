//! `domctl` and `sysctl` as the cases use them.

use guest_pv_lib::{Errno, println};
use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::sysctl::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call::{Ret, hc1};
use crate::harness::{Verdict, need};

/// `domctl`: the payload goes in, and what the hypervisor left in its place comes out.
pub fn domctl<T: IntoBytes + FromBytes + Immutable>(
    cmd: u32,
    domain: u16,
    payload: &mut T,
) -> Result<(u64, u16), Errno> {
    let mut whole =
        XenDomctl { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, ..XenDomctl::default() };
    let bytes = payload.as_mut_bytes();
    whole.u[..bytes.len()].copy_from_slice(bytes);
    let ret = hc1(nr::DOMCTL, &raw mut whole as u64);
    bytes.copy_from_slice(&whole.u[..bytes.len()]);
    ret.map(|value| (value, whole.domain))
}

/// `domctl` without a payload.
pub fn plain(cmd: u32, domain: u16) -> Ret {
    domctl(cmd, domain, &mut [0u8; 0]).map(|(value, _)| value)
}

/// `sysctl`.
pub fn sysctl<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &mut T) -> Ret {
    let mut whole =
        XenSysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, ..XenSysctl::default() };
    let bytes = payload.as_mut_bytes();
    whole.u[..bytes.len()].copy_from_slice(bytes);
    let ret = hc1(nr::SYSCTL, &raw mut whole as u64);
    bytes.copy_from_slice(&whole.u[..bytes.len()]);
    ret
}

/// What the hypervisor says of a domain; `ESRCH` where there is none with this very identifier.
pub fn info(domain: u16) -> Result<XenDomctlGetdomaininfo, Errno> {
    let mut info = XenDomctlGetdomaininfo::default();
    match domctl(XEN_DOMCTL_GETDOMAININFO, domain, &mut info) {
        Ok((_, found)) if found == domain => Ok(info),
        Ok(_) => Err(Errno::ESRCH),
        Err(error) => Err(error),
    }
}

/// Free pages of the machine, those included that are still to be cleared.
pub fn free_pages() -> Result<u64, Errno> {
    let mut info = XenSysctlPhysinfo::default();
    sysctl(XEN_SYSCTL_PHYSINFO, &mut info).map(|_| info.free_pages)
}

/// What the cases' domains are created with.
pub fn config() -> XenDomctlCreatedomain {
    XenDomctlCreatedomain {
        handle: *b"conformance peer",
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 2,
        ..XenDomctlCreatedomain::default()
    }
}

/// A domain, destroyed at the latest when this value goes.
pub struct Domain(u16);

impl Domain {
    /// An empty one with one vCPU and room for the peer's pages.
    pub fn create() -> Result<Self, Verdict> {
        let mut config = config();
        let created = domctl(XEN_DOMCTL_CREATEDOMAIN, 0, &mut config);
        if created == Err(Errno::ENOSYS) {
            return Err(Verdict::Skip("no domain can be made here"));
        }
        let (_, id) = need("createdomain", created)?;
        let domain = Self(id);
        need("max_vcpus", domctl(XEN_DOMCTL_MAX_VCPUS, id, &mut XenDomctlMaxVcpus { max: 1 }))?;
        let max_memkb = 4 * (super::PAGES as u64 + 8);
        need("max_mem", domctl(XEN_DOMCTL_MAX_MEM, id, &mut XenDomctlMaxMem { max_memkb }))?;
        Ok(domain)
    }

    /// Its identifier.
    pub fn id(&self) -> u16 {
        self.0
    }

    /// Sets the registers of a vCPU and everything else that it starts with.
    pub fn set_context(&self, vcpu: u32, context: &VcpuGuestContext) -> Ret {
        let mut payload = XenDomctlVcpucontext {
            vcpu,
            ctxt: (&raw const *context as u64).into(),
            ..XenDomctlVcpucontext::default()
        };
        domctl(XEN_DOMCTL_SETVCPUCONTEXT, self.0, &mut payload).map(|(value, _)| value)
    }

    /// Pauses it once more.
    pub fn pause(&self) -> Ret {
        plain(XEN_DOMCTL_PAUSEDOMAIN, self.0)
    }

    /// Takes one pause back.
    pub fn unpause(&self) -> Ret {
        plain(XEN_DOMCTL_UNPAUSEDOMAIN, self.0)
    }

    /// Why it has shut down (`SHUTDOWN_*`), where it has.
    pub fn shutdown_reason(&self) -> Option<u32> {
        let flags = info(self.0).ok()?.flags;
        let reason = flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK;
        (flags & XEN_DOMINF_SHUTDOWN != 0).then_some(reason)
    }

    /// Ends it.
    pub fn destroy(self) -> Result<(), Errno> {
        let id = self.0;
        core::mem::forget(self);
        destroy(id)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if let Err(error) = destroy(self.0) {
            println!("# destroydomain of {}: {error:?}", self.0);
        }
    }
}

/// `destroydomain`, again as long as the hypervisor says so.
fn destroy(id: u16) -> Result<(), Errno> {
    for _ in 0..10_000 {
        match plain(XEN_DOMCTL_DESTROYDOMAIN, id) {
            Err(Errno::EAGAIN) => {}
            result => return result.map(drop),
        }
    }
    Err(Errno::EAGAIN)
}
