//! What an unprivileged domain may not do: each hypercall that takes a right, asked by the peer.

use guest_pv_lib::Errno;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::mca::*;
use xen_abi::memory::*;
use xen_abi::physdev::*;
use xen_abi::platform::*;
use xen_abi::sched::*;
use xen_abi::sysctl::*;
use xen_abi::vcpu::VCPUOP_GET_PHYSID;
use xen_abi::version::*;
use xen_abi::xen::*;
use zerocopy::IntoBytes;

use crate::call::{NO_DOMAIN, Ret};
use crate::harness::{check, need, same};
use crate::peer::{FREE, Peer, control, with_peer};

/// `domctl` of the peer on a domain.
fn domctl(peer: &Peer<'_>, cmd: u32, domain: u16) -> Ret {
    let whole =
        XenDomctl { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, ..XenDomctl::default() };
    let at = peer.put(whole.as_bytes());
    peer.call(nr::DOMCTL, &[at])
}

/// `sysctl` of the peer.
fn sysctl(peer: &Peer<'_>, cmd: u32) -> Ret {
    let whole = XenSysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, ..XenSysctl::default() };
    let at = peer.put(whole.as_bytes());
    peer.call(nr::SYSCTL, &[at])
}

/// `platform_op` of the peer.
fn platform(peer: &Peer<'_>, cmd: u32, interface_version: u32) -> Ret {
    let whole = XenPlatformOp { cmd, interface_version, ..XenPlatformOp::default() };
    let at = peer.put(whole.as_bytes());
    peer.call(nr::PLATFORM_OP, &[at])
}

case! {
    /// `domctl` on any domain, itself included; only whether a domain exists is said to anybody.
    #[peer]
    fn domctl_of_a_guest(env) {
        with_peer(env, |peer| {
            for cmd in [
                XEN_DOMCTL_CREATEDOMAIN, XEN_DOMCTL_DESTROYDOMAIN, XEN_DOMCTL_PAUSEDOMAIN,
                XEN_DOMCTL_UNPAUSEDOMAIN, XEN_DOMCTL_GETDOMAININFO, XEN_DOMCTL_SETVCPUCONTEXT,
                XEN_DOMCTL_GETVCPUCONTEXT, XEN_DOMCTL_MAX_MEM, XEN_DOMCTL_MAX_VCPUS, XEN_DOMCTL_SCHEDULER_OP,
                XEN_DOMCTL_SETVCPUAFFINITY, XEN_DOMCTL_HYPERCALL_INIT, 999,
            ] {
                same("on the first domain", domctl(peer, cmd, 0), Err(Errno::EPERM))?;
                same("on itself", domctl(peer, cmd, peer.id()), Err(Errno::EPERM))?;
            }
            same("on nobody", domctl(peer, XEN_DOMCTL_PAUSEDOMAIN, NO_DOMAIN), Err(Errno::ESRCH))?;
            let at = peer.put(XenDomctl::default().as_bytes());
            same("of another version", peer.call(nr::DOMCTL, &[at]), Err(Errno::EACCES))
        })
    }
}

case! {
    /// `sysctl`, whatever the command.
    #[peer]
    fn sysctl_of_a_guest(env) {
        with_peer(env, |peer| {
            for cmd in [
                XEN_SYSCTL_READCONSOLE, XEN_SYSCTL_PHYSINFO, XEN_SYSCTL_GETDOMAININFOLIST, XEN_SYSCTL_DEBUG_KEYS,
                XEN_SYSCTL_AVAILHEAP, XEN_SYSCTL_GETCPUINFO, XEN_SYSCTL_SCHED_ID, XEN_SYSCTL_CPUPOOL_OP, 999,
            ] {
                same("command", sysctl(peer, cmd), Err(Errno::EPERM))?;
            }
            let at = peer.put(XenSysctl::default().as_bytes());
            same("of another version", peer.call(nr::SYSCTL, &[at]), Err(Errno::EACCES))
        })
    }
}

case! {
    /// `platform_op`, whatever the command.
    #[peer]
    fn platform_of_a_guest(env) {
        with_peer(env, |peer| {
            for cmd in [XENPF_SETTIME64, XENPF_ENTER_ACPI_SLEEP, XENPF_GETIDLETIME, XENPF_RESOURCE_OP, 999] {
                same("command", platform(peer, cmd, XENPF_INTERFACE_VERSION), Err(Errno::EPERM))?;
            }
            same("of another version", platform(peer, XENPF_SETTIME64, 1), Err(Errno::EACCES))
        })
    }
}

case! {
    /// `memory_op` on another domain, and the machine's own map.
    #[peer]
    fn memory_of_others(env) {
        with_peer(env, |peer| {
            let mut of = XenMemoryReservation { domid: 0, ..XenMemoryReservation::default() };
            for cmd in [XENMEM_INCREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP, XENMEM_DECREASE_RESERVATION] {
                same("reservation", peer.op(nr::MEMORY_OP, cmd, &mut of), Ok(0))?;
            }
            let mut first = XenMemoryDomain { domid: 0 };
            let mut own = XenMemoryDomain { domid: DOMID_SELF };
            for cmd in [XENMEM_CURRENT_RESERVATION, XENMEM_MAXIMUM_RESERVATION] {
                same("of the first domain", peer.op(nr::MEMORY_OP, cmd, &mut first), Err(Errno::EPERM))?;
            }
            same("own", peer.op(nr::MEMORY_OP, XENMEM_CURRENT_RESERVATION, &mut own), Ok(crate::peer::PAGES as u64))?;
            let mut map = XenMemoryMap::default();
            same("machine", peer.op(nr::MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, &mut map), Err(Errno::EPERM))
        })
    }
}

case! {
    /// Another domain's shutdown, the machine's power, I/O privilege and devices.
    #[peer]
    fn machine_of_a_guest(env) {
        with_peer(env, |peer| {
            let mut shutdown = SchedRemoteShutdown { domain_id: 0, ..SchedRemoteShutdown::default() };
            same("remote_shutdown", peer.op(nr::SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN, &mut shutdown), Err(Errno::EPERM))?;
            let mut pin = SchedPinOverride { pcpu: 0 };
            same("pin_override", peer.op(nr::SCHED_OP, SCHEDOP_PIN_OVERRIDE, &mut pin), Err(Errno::EPERM))?;
            let mut map = PhysdevMapPirq { domid: DOMID_SELF, ..PhysdevMapPirq::default() };
            same("map_pirq", peer.op(nr::PHYSDEV_OP, PHYSDEVOP_MAP_PIRQ, &mut map), Err(Errno::EPERM))?;
            let mut add = PhysdevPciDeviceAdd::default();
            same("pci_device_add", peer.op(nr::PHYSDEV_OP, PHYSDEVOP_PCI_DEVICE_ADD, &mut add), Err(Errno::EPERM))?;
            let mut apic = PhysdevApic::default();
            same("apic_read", peer.op(nr::PHYSDEV_OP, PHYSDEVOP_APIC_READ, &mut apic), Err(Errno::EPERM))
        })
    }
}

case! {
    /// Frames of another domain are nothing to map, and nothing to make page tables of.
    #[peer]
    fn foreign_frames(env) {
        with_peer(env, |peer| {
            let own = env.page(0).mfn();
            let entry = own.address() | 7;
            let map = |owner: u16| peer.call(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, &[peer.virt(FREE), entry, UVMF_INVLPG, u64::from(owner)]);
            same("a frame of the first domain", map(0), Err(Errno::EPERM))?;
            same("as its own", map(DOMID_SELF), Err(Errno::EBUSY))?;
            same("of the machine", map(DOMID_IO), Err(Errno::EPERM))?;
            same("of the hypervisor", map(DOMID_XEN), Err(Errno::EPERM))?;
            same("of nobody", map(NO_DOMAIN), Err(Errno::ESRCH))?;
            let mut update = MmuUpdate { ptr: own.address(), val: 0 };
            let at = peer.put(update.as_mut_bytes());
            same("mmu_update of it", peer.call(nr::MMU_UPDATE, &[at, 1, 0, u64::from(DOMID_SELF)]), Err(Errno::EINVAL))?;
            same("mmu_update in the first domain", peer.call(nr::MMU_UPDATE, &[at, 1, 0, 0]), Err(Errno::EPERM))?;
            let pin = MmuextOp { cmd: MMUEXT_PIN_L1_TABLE, arg1: own.0, ..MmuextOp::default() };
            let at = peer.put(pin.as_bytes());
            same("pinned as its own", peer.call(nr::MMUEXT_OP, &[at, 1, 0, u64::from(DOMID_SELF)]), Err(Errno::EINVAL))?;
            same("pinned in the first domain", peer.call(nr::MMUEXT_OP, &[at, 1, 0, 0]), Err(Errno::EPERM))
        })
    }
}

case! {
    /// The hypervisor's console is written by ordinary domains where the hypervisor is built or told to allow it; it is
    /// never read by them.
    #[peer]
    fn console_of_a_guest(env) {
        with_peer(env, |peer| {
            let at = peer.put(b"x");
            same("read", peer.call(nr::CONSOLE_IO, &[u64::from(CONSOLEIO_READ), 1, at]), Err(Errno::EPERM))?;
            same("write", peer.call(nr::CONSOLE_IO, &[u64::from(CONSOLEIO_WRITE), 1, at]), Err(Errno::EPERM))?;
            same("an unknown command", peer.call(nr::CONSOLE_IO, &[99, 1, at]), Err(Errno::EPERM))
        })
    }
}

case! {
    /// What anybody may know of the hypervisor, and what is kept from ordinary domains.
    #[peer]
    fn version_of_a_guest(env) {
        with_peer(env, |peer| {
            same("version", peer.call(nr::XEN_VERSION, &[u64::from(XENVER_VERSION)]), Ok(4 << 16 | 17))?;
            let mut text = [0u8; 1024];
            let ask = |cmd, text: &mut [u8; 1024]| peer.op(nr::XEN_VERSION, cmd, text);
            same("extraversion", ask(XENVER_EXTRAVERSION, &mut text), Ok(0))?;
            same("command line", ask(XENVER_COMMANDLINE, &mut text), Ok(0))?;
            same("of which nothing is told", &text[..9], b"<denied>\0")?;
            let mut id = [0u8; 64];
            id[..4].copy_from_slice(&32u32.to_le_bytes());
            same("build id", peer.op(nr::XEN_VERSION, XENVER_BUILD_ID, &mut id), Err(Errno::EPERM))
        })
    }
}

case! {
    /// What is about the machine's CPUs and errors.
    #[peer]
    fn processors_of_a_guest(env) {
        with_peer(env, |peer| {
            let mut physid = 0u64;
            let at = peer.put(physid.as_mut_bytes());
            let args = [u64::from(VCPUOP_GET_PHYSID), 0, at];
            same("get_physid", peer.call(nr::VCPU_OP, &args), Err(Errno::EINVAL))?;
            let mc = XenMc { cmd: XEN_MC_FETCH, interface_version: XEN_MCA_INTERFACE_VERSION, ..XenMc::default() };
            let at = peer.put(mc.as_bytes());
            same("mca", peer.call(nr::MCA, &[at]), Err(Errno::EPERM))?;
            let mut claim = XenMemoryReservation { domid: peer.id(), ..XenMemoryReservation::default() };
            same("claim_pages", peer.op(nr::MEMORY_OP, XENMEM_CLAIM_PAGES, &mut claim), Err(Errno::EPERM))
        })
    }
}

case! {
    /// A port is read where its domain has it: without, an ordinary domain reads ones.
    #[peer]
    fn ports_of_a_guest(env) {
        with_peer(env, |peer| {
            let mut level = PhysdevSetIopl { iopl: 1 };
            same("set_iopl", peer.op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut level), Ok(0))?;
            // mov edx, edi; in al, dx; movzx eax, al; ret
            peer.load(FREE, &[0x89, 0xfa, 0xec, 0x0f, 0xb6, 0xc0, 0xc3])?;
            // The status of the keyboard's controller.
            let read = || peer.run(peer.virt(FREE), &[0x64]);
            let permit = |allow_access| {
                let mut payload = XenDomctlIoportPermission { first_port: 0x64, nr_ports: 1, allow_access, ..XenDomctlIoportPermission::default() };
                control::domctl(XEN_DOMCTL_IOPORT_PERMISSION, peer.id(), &mut payload).map(|_| ())
            };
            same("without it", read(), Ok(0xff))?;
            same("permit", permit(1), Ok(()))?;
            check("with it", need("in", read())? != 0xff)?;
            same("take it back", permit(0), Ok(()))?;
            same("without it again", read(), Ok(0xff))
        })
    }
}

case! {
    /// Without the privilege level for ports, an access is a fault, which ends a domain that does not handle it.
    #[peer]
    fn port_without_level(env) {
        with_peer(env, |peer| {
            // in al, 0x64
            peer.load(FREE, &[0xe4, 0x64])?;
            same("reason", peer.last_run(peer.virt(FREE))?, SHUTDOWN_CRASH)
        })
    }
}

case! {
    /// Frames of devices are mapped where they were given; machine memory that is nobody's is not.
    #[peer]
    fn device_frames(env) {
        with_peer(env, |peer| {
            // VGA's window, below the first MiB.
            const FRAME: u64 = 0xa0;
            let map = || {
                let at = peer.put(MmuUpdate { ptr: peer.mfn(3).address() + 8 * FREE as u64, val: FRAME << 12 | 7 }.as_bytes());
                peer.call(nr::MMU_UPDATE, &[at, 1, 0, u64::from(DOMID_IO)])
            };
            let permit = |allow_access| {
                let mut payload = XenDomctlIomemPermission { first_mfn: FRAME, nr_mfns: 1, allow_access, ..XenDomctlIomemPermission::default() };
                control::domctl(XEN_DOMCTL_IOMEM_PERMISSION, peer.id(), &mut payload).map(|_| ())
            };
            same("without it", map(), Err(Errno::EPERM))?;
            same("permit", permit(1), Ok(()))?;
            same("with it", map(), Ok(0))?;
            same("take it back", permit(0), Ok(()))?;
            let back = MmuUpdate { ptr: peer.mfn(3).address() + 8 * FREE as u64, val: 0 };
            let at = peer.put(back.as_bytes());
            same("unmap", peer.call(nr::MMU_UPDATE, &[at, 1, 0, u64::from(DOMID_SELF)]), Ok(0))?;
            same("without it again", map(), Err(Errno::EPERM))
        })
    }
}
