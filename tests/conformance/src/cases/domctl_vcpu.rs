//! `domctl` (domctl.h) on vCPUs: contexts, descriptions, places.

use guest_pv_lib::Errno;
use xen_abi::arch_x86::*;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::XenctlBitmap;

use crate::call::{BAD_POINTERS, NON_CANONICAL, Ret};
use crate::harness::{check, need, same};
use crate::peer::control::{Domain, domctl};
use crate::peer::{FREE, Peer, with_peer};

/// `getvcpucontext`.
fn context(domain: u16, vcpu: u32, at: u64) -> Ret {
    let mut payload = XenDomctlVcpucontext { vcpu, ctxt: at.into(), ..XenDomctlVcpucontext::default() };
    domctl(XEN_DOMCTL_GETVCPUCONTEXT, domain, &mut payload).map(|(value, _)| value)
}

/// `setvcpucontext` of vCPU 0 of a new domain with a changed context, which must be refused.
fn refused(change: impl FnOnce(&mut VcpuGuestContext)) -> Ret {
    let domain = Domain::create().map_err(|_| Errno::ENOSYS)?;
    let mut context = VcpuGuestContext { flags: VGCF_IN_KERNEL, ..VcpuGuestContext::default() };
    change(&mut context);
    let result = domain.set_context(0, &context);
    domain.destroy()?;
    result
}

returns! {
    /// The caller's own domain.
    #[peer]
    set_own_context(env): {
        let mut payload = XenDomctlVcpucontext::default();
        domctl(XEN_DOMCTL_SETVCPUCONTEXT, 0, &mut payload).map(|_| ())
    } => Err(Errno::EINVAL);
    /// The vCPU that asks.
    #[peer]
    get_own_context(env): context(0, 0, 0) => Err(Errno::EINVAL);
    /// A vCPU that does not exist.
    #[peer]
    get_context_of_none(env): context(0, 4000, 0) => Err(Errno::EINVAL);
    /// A non-canonical instruction pointer.
    #[peer]
    bad_rip(env): refused(|context| context.user_regs.rip = NON_CANONICAL) => Err(Errno::EINVAL);
    /// A non-canonical handler of an exception.
    #[peer]
    bad_handler(env): refused(|context| context.trap_ctxt[14].address = NON_CANONICAL) => Err(Errno::EINVAL);
    /// A non-canonical segment base.
    #[peer]
    bad_base(env): refused(|context| context.gs_base_user = NON_CANONICAL) => Err(Errno::EINVAL);
    /// An LDT that does not start on a page.
    #[peer]
    bad_ldt(env): refused(|context| context.ldt_base = 8) => Err(Errno::EINVAL);
    /// More entries than an LDT can have.
    #[peer]
    long_ldt(env): refused(|context| context.ldt_ents = 8193) => Err(Errno::EINVAL);
    /// More entries than the guest's part of a GDT can have.
    #[peer]
    long_gdt(env): refused(|context| context.gdt_ents = 512 * 14 + 1) => Err(Errno::EINVAL);
    /// An assistance that does not exist.
    #[peer]
    bad_assist(env): refused(|context| context.vm_assist = 1 << 40) => Err(Errno::EINVAL);
    /// User mode without a table for it.
    #[peer]
    user_without_table(env): refused(|context| context.flags = 0) => Err(Errno::EINVAL);
    /// Frame 0 is no root table.
    #[peer]
    root_of_frame_0(env): [0, 1].map(|register| refused(|context| context.ctrlreg[3] = register))
        => [Err(Errno::EINVAL); 2];
    /// A root table that is no frame of the domain.
    #[peer]
    foreign_root(env): refused(|context| context.ctrlreg[3] = env.boot.root_table().0 << 12) => Err(Errno::EINVAL);
}

case! {
    /// A vCPU that was never given a context has none to show; bad pointers.
    #[peer]
    fn no_context(env) {
        let _ = env;
        let domain = Domain::create()?;
        let mut context_of = VcpuGuestContext::default();
        same("get", context(domain.id(), 0, &raw mut context_of as u64), Err(Errno::ENODATA))?;
        for at in BAD_POINTERS {
            let mut payload = XenDomctlVcpucontext { ctxt: at.into(), ..XenDomctlVcpucontext::default() };
            let set = domctl(XEN_DOMCTL_SETVCPUCONTEXT, domain.id(), &mut payload).map(|_| ());
            same("set", set, Err(Errno::EFAULT))?;
        }
        need("destroydomain", domain.destroy())
    }
}

fn peers_context(peer: &Peer<'_>) -> Result<VcpuGuestContext, Errno> {
    let mut found = VcpuGuestContext::default();
    context(peer.id(), 0, &raw mut found as u64).map(|_| found)
}

case! {
    /// The context of a vCPU that waits: where it is, its tables, its handlers. It can be set again as it is, and not
    /// with another root table.
    #[peer]
    fn context_of_the_peer(env) {
        with_peer(env, |peer| {
            same("a call", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))?;
            let trap = [TrapInfo { vector: 3, flags: 3, address: 0x1234, cs: FLAT_KERNEL_CS, ..TrapInfo::default() }, TrapInfo::default()];
            let at = peer.put(zerocopy::IntoBytes::as_bytes(&trap));
            same("set_trap_table", peer.call(nr::SET_TRAP_TABLE, &[at]), Ok(0))?;
            let found = need("getvcpucontext", peers_context(peer))?;
            check("up, in kernel mode", found.flags & (VGCF_ONLINE | VGCF_IN_KERNEL) == VGCF_ONLINE | VGCF_IN_KERNEL)?;
            same("root", found.ctrlreg[3], peer.mfn(0).0 << 12)?;
            same("no user root", found.ctrlreg[1], 0)?;
            same("mailbox in rbx", found.user_regs.rbx, peer.virt(5))?;
            check("in the program", found.user_regs.rip.wrapping_sub(peer.virt(4)) < 4096)?;
            same("kernel code", found.user_regs.cs, FLAT_KERNEL_CS)?;
            same("handler", (found.trap_ctxt[3].address, found.trap_ctxt[3].flags), (0x1234, 3))?;
            same("kernel stack", found.kernel_sp, peer.virt(7))?;
            need("pause", peer.domain().pause())?;
            let paused = need("getvcpucontext", peers_context(peer))?;
            same("set as it is", peer.domain().set_context(0, &paused), Ok(0))?;
            let mut other = paused;
            other.ctrlreg[3] = peer.mfn(1).0 << 12;
            same("another root", peer.domain().set_context(0, &other), Err(Errno::EOPNOTSUPP))?;
            need("unpause", peer.domain().unpause())?;
            same("it goes on", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))
        })
    }
}

case! {
    /// A vCPU is described as what it is.
    #[peer]
    fn describe_vcpu(env) {
        with_peer(env, |peer| {
            // mov ecx, 5000000; dec ecx; jnz -4; ret
            peer.load(FREE, &[0xb9, 0x40, 0x4b, 0x4c, 0, 0xff, 0xc9, 0x75, 0xfc, 0xc3])?;
            need("some work", peer.run(peer.virt(FREE), &[]))?;
            let mut info = XenDomctlGetvcpuinfo::default();
            need("getvcpuinfo", domctl(XEN_DOMCTL_GETVCPUINFO, peer.id(), &mut info))?;
            same("online", info.online, 1)?;
            check("it has run", info.cpu_time > 0)?;
            let mut none = XenDomctlGetvcpuinfo { vcpu: 1, ..XenDomctlGetvcpuinfo::default() };
            same("none", domctl(XEN_DOMCTL_GETVCPUINFO, peer.id(), &mut none).map(|_| ()), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// The entries of 32-bit system calls are kept beside the context.
    #[peer]
    fn further_entries(env) {
        with_peer(env, |peer| {
            let get = || {
                let mut entries = XenDomctlExtVcpucontext::default();
                need("get", domctl(XEN_DOMCTL_GET_EXT_VCPUCONTEXT, peer.id(), &mut entries)).map(|_| entries)
            };
            let set = |mut entries: XenDomctlExtVcpucontext| {
                domctl(XEN_DOMCTL_SET_EXT_VCPUCONTEXT, peer.id(), &mut entries).map(|_| ())
            };
            let before = get()?;
            same("size", before.size, 64)?;
            same("none", (before.sysenter_callback_eip, before.sysenter_callback_cs), (0, 0))?;
            let wanted = XenDomctlExtVcpucontext { sysenter_callback_eip: 0x5000, sysenter_callback_cs: 0xe030, sysenter_disables_events: 1, ..before };
            same("set", set(wanted), Ok(()))?;
            let after = get()?;
            same("address", after.sysenter_callback_eip, 0x5000)?;
            same("selector, of ring 3", after.sysenter_callback_cs, 0xe033)?;
            same("events", after.sysenter_disables_events, 1)?;
            let bad = XenDomctlExtVcpucontext { sysenter_callback_eip: NON_CANONICAL, ..wanted };
            same("non-canonical", set(bad), Err(Errno::EINVAL))?;
            same("cut short", set(XenDomctlExtVcpucontext { size: 16, ..wanted }), Err(Errno::EINVAL))?;
            same("no such vCPU", set(XenDomctlExtVcpucontext { vcpu: 9, ..wanted }), Err(Errno::ESRCH))
        })
    }
}

case! {
    /// Triggers: an NMI is for everybody, buttons are for hardware guests.
    #[peer]
    fn triggers(env) {
        with_peer(env, |peer| {
            let send = |trigger, vcpu| {
                domctl(XEN_DOMCTL_SENDTRIGGER, peer.id(), &mut XenDomctlSendtrigger { trigger, vcpu }).map(|_| ())
            };
            same("power", send(XEN_DOMCTL_SENDTRIGGER_POWER, 0), Err(Errno::EINVAL))?;
            same("sleep", send(XEN_DOMCTL_SENDTRIGGER_SLEEP, 0), Err(Errno::EINVAL))?;
            same("reset", send(XEN_DOMCTL_SENDTRIGGER_RESET, 0), Err(Errno::ENOSYS))?;
            same("unknown", send(99, 0), Err(Errno::ENOSYS))?;
            same("no such vCPU", send(XEN_DOMCTL_SENDTRIGGER_NMI, 1), Err(Errno::ESRCH))
        })
    }
}

/// `setvcpuaffinity` or `getvcpuaffinity` with one byte of CPUs.
fn affinity(cmd: u32, domain: u16, vcpu: u32, flags: u32, cpus: &mut u8) -> Result<(), Errno> {
    let map = XenctlBitmap { bitmap: (&raw mut *cpus as u64).into(), nr_bits: 8, ..XenctlBitmap::default() };
    let mut payload = XenDomctlVcpuaffinity { vcpu, flags, cpumap_hard: map, cpumap_soft: map };
    domctl(cmd, domain, &mut payload).map(|_| ())
}

case! {
    /// Where a vCPU may run: told, changed, and refused where it makes no sense.
    #[peer]
    fn affinities(env) {
        with_peer(env, |peer| {
            let (get, set) = (XEN_DOMCTL_GETVCPUAFFINITY, XEN_DOMCTL_SETVCPUAFFINITY);
            let (hard, id) = (XEN_VCPUAFFINITY_HARD, peer.id());
            let mut cpus = 0;
            same("get", affinity(get, id, 0, hard, &mut cpus), Ok(()))?;
            check("CPU 0 among them", cpus & 1 != 0)?;
            cpus = 1;
            same("set", affinity(set, id, 0, hard, &mut cpus), Ok(()))?;
            same("effective", cpus, 1)?;
            same("get again", affinity(get, id, 0, hard, &mut cpus), Ok(()))?;
            same("as set", cpus, 1)?;
            cpus = 0;
            same("no CPU", affinity(set, id, 0, hard, &mut cpus), Err(Errno::EINVAL))?;
            same("no set", affinity(get, id, 0, 0, &mut cpus), Err(Errno::EINVAL))?;
            same("an unknown flag names no set either", affinity(get, id, 0, 0x10, &mut cpus), Ok(()))?;
            same("no such vCPU", affinity(get, id, 1, hard, &mut cpus), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// Weight and cap of a domain, in the terms of the scheduler that the host says it has.
    #[peer]
    fn weights(env) {
        with_peer(env, |peer| {
            let op = |sched_id, cmd, weight: u16, cap: u16| {
                let mut op = XenDomctlSchedulerOp { sched_id, cmd, ..XenDomctlSchedulerOp::default() };
                op.u[..2].copy_from_slice(&weight.to_le_bytes());
                op.u[2..4].copy_from_slice(&cap.to_le_bytes());
                let ret = domctl(XEN_DOMCTL_SCHEDULER_OP, peer.id(), &mut op);
                ret.map(|_| (u16::from_le_bytes([op.u[0], op.u[1]]), u16::from_le_bytes([op.u[2], op.u[3]])))
            };
            let credit2 = XEN_SCHEDULER_CREDIT2;
            same("a new domain's", op(credit2, XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0), Ok((256, 0)))?;
            need("set", op(credit2, XEN_DOMCTL_SCHEDOP_PUTINFO, 512, 0))?;
            same("as set", op(credit2, XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0), Ok((512, 0)))?;
            same("more than a CPU for one vCPU", op(credit2, XEN_DOMCTL_SCHEDOP_PUTINFO, 0, 101), Err(Errno::EINVAL))?;
            same("another scheduler", op(XEN_SCHEDULER_RTDS, XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0), Err(Errno::EINVAL))?;
            same("unknown", op(credit2, 9, 0, 0), Err(Errno::EINVAL))
        })
    }
}
