//! `domctl` and `sysctl`: rights, the order of refusals, and what can be told without a machine.

use super::*;
use crate::domain::{DomainConfig, Lifecycle};
use crate::ids::{DomId, Mfn};
use xen_abi::domctl::*;
use xen_abi::sysctl::*;
use xen_abi::xen::XenctlBitmap;
use zerocopy::FromBytes;

/// Where payloads' buffers lie.
const BUFFER: u64 = FLAT_BASE + 0x800;

/// A control domain that has another domain to control.
fn pair() -> (Caller, Arc<Domain<MockPlatform>>) {
    let caller = Caller::new();
    let other =
        caller.hv.create_domain(&DomainConfig { max_vcpus: 2, ..DomainConfig::new(DomId(5)) }).unwrap();
    (caller, other)
}

/// Makes a `domctl`; answers the result and the payload as it came back.
fn domctl<T: IntoBytes + FromBytes + Immutable>(
    caller: &Caller,
    cmd: u32,
    domain: u16,
    payload: &T,
) -> (Result<i64, Errno>, T) {
    let mut op =
        XenDomctl { cmd, domain, interface_version: XEN_DOMCTL_INTERFACE_VERSION, ..XenDomctl::default() };
    op.u[..size_of::<T>()].copy_from_slice(payload.as_bytes());
    let at = caller.put(&op);
    let result = caller.call(nr::DOMCTL, &[at]);
    (result, GuestPtr::<T>::new(at + 16).read(&caller.hv).unwrap())
}

/// The same without a payload.
fn plain(caller: &Caller, cmd: u32, domain: u16) -> Result<i64, Errno> {
    domctl(caller, cmd, domain, &[0u8; 128]).0
}

fn sysctl<T: IntoBytes + FromBytes + Immutable>(
    caller: &Caller,
    cmd: u32,
    payload: &T,
) -> (Result<i64, Errno>, T) {
    let mut op = XenSysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, ..XenSysctl::default() };
    op.u[..size_of::<T>()].copy_from_slice(payload.as_bytes());
    let at = caller.put(&op);
    let result = caller.call(nr::SYSCTL, &[at]);
    (result, GuestPtr::<T>::new(at + 8).read(&caller.hv).unwrap())
}

/// Unreadable, another version, no such domain, no privilege, no such command: in this order.
#[test]
fn refusals_in_order() {
    let (caller, _) = pair();
    let guest = Caller::with_id(1);
    assert_eq!(caller.call(nr::DOMCTL, &[1 << 46]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::DOMCTL, &[caller.put(&XenDomctl::default())]), Err(Errno::EACCES));
    assert_eq!(plain(&caller, XEN_DOMCTL_PAUSEDOMAIN, 9), Err(Errno::ESRCH));
    assert_eq!(plain(&guest, XEN_DOMCTL_PAUSEDOMAIN, 9), Err(Errno::ESRCH));
    assert_eq!(plain(&guest, 999, 1), Err(Errno::EPERM));
    // As in Xen, the next domain is not looked for on behalf of a caller without the privilege.
    for id in [0, 1, 2, 0x7ff0] {
        assert_eq!(plain(&guest, XEN_DOMCTL_GETDOMAININFO, id), Err(Errno::EPERM));
    }
    assert_eq!(plain(&caller, 999, 0), Err(Errno::ENOSYS));
    assert_eq!(caller.call(nr::SYSCTL, &[1 << 46]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::SYSCTL, &[caller.put(&XenSysctl::default())]), Err(Errno::EACCES));
    assert_eq!(sysctl(&guest, 999, &0u64).0, Err(Errno::EPERM));
    assert_eq!(sysctl(&caller, 999, &0u64).0, Err(Errno::ENOSYS));
}

/// No command of either hypercall is done for a domain without the privilege, whatever its arguments.
#[test]
fn nothing_for_the_unprivileged() {
    // The version of the interface of VM events is told to anybody: it is what two zeroes more would ask for.
    for filler in [0u8, 1, 0xff] {
        for cmd in (0..100).chain(1000..1004) {
            let guest = Caller::with_id(1);
            for domain in [0u16, 1, 5, 0x7ff1, 0x7ff4] {
                let result = domctl(&guest, cmd, domain, &[filler; 128]).0;
                assert!(result.is_err(), "domctl {cmd} of {domain} with {filler:#x}: {result:?}");
            }
            assert_eq!(sysctl(&guest, cmd, &[filler; 128]).0, Err(Errno::EPERM), "sysctl {cmd}");
            assert_eq!(guest.hv.domains.all().count(), 1);
        }
    }
}

/// Any command with any bytes is answered, and the domains that are not ended stay whole.
#[test]
fn any_bytes_are_answered() {
    for cmd in (0..100).chain(1000..1004).filter(|cmd| *cmd != XEN_DOMCTL_DESTROYDOMAIN) {
        for filler in [0u8, 1, 0x55, 0x80, 0xff] {
            let (caller, other) = pair();
            let mut op = XenDomctl {
                cmd,
                domain: 5,
                interface_version: XEN_DOMCTL_INTERFACE_VERSION,
                ..XenDomctl::default()
            };
            op.u.fill(filler);
            let at = caller.put(&op);
            let _ = caller.outcome(nr::DOMCTL, [at, 0, 0, 0, 0, 0]);
            assert!(!other.is_dying());
            let op = XenSysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, u: [filler; 128] };
            let at = caller.put(&op);
            let _ = caller.outcome(nr::SYSCTL, [at, 0, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn creation() {
    let caller = Caller::new();
    let good = XenDomctlCreatedomain {
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: -1,
        grant_opts: 2,
        ..XenDomctlCreatedomain::default()
    };
    let make = |id, config: XenDomctlCreatedomain| {
        let op = XenDomctl {
            cmd: XEN_DOMCTL_CREATEDOMAIN,
            domain: id,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            ..XenDomctl::default()
        };
        let at = caller.put(&op);
        caller.put_at(at + 16, &config);
        caller.call(nr::DOMCTL, &[at]).map(|_| GuestPtr::<u16>::new(at + 8).read(&caller.hv).unwrap())
    };
    assert_eq!(make(0, good), Ok(1));
    assert_eq!(make(7, good), Ok(7));
    assert_eq!(make(0xffff, good), Ok(8));
    assert_eq!(make(7, good), Err(Errno::EEXIST));
    let bad = |change: fn(&mut XenDomctlCreatedomain)| {
        let mut config = good;
        change(&mut config);
        make(0, config)
    };
    assert_eq!(bad(|config| config.max_vcpus = 0), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.flags = XEN_DOMCTL_CDF_HVM), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.iommu_opts = 1), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.max_grant_frames = 0), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.max_grant_frames = 65), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.max_maptrack_frames = 1 << 20), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.arch.misc_flags = 2), Err(Errno::EINVAL));
    assert_eq!(bad(|config| config.max_vcpus = 8192), Err(Errno::ENOMEM));
    assert_eq!(bad(|config| config.max_vcpus = 8193), Err(Errno::EINVAL));
    assert_eq!(caller.hv.domains.all().count(), 4);
}

/// Domains of many vCPUs are made in steps; what is begun and not gone on with is not kept.
#[test]
fn creation_of_many_vcpus() {
    let hv = mock::hypervisor(4096);
    let domain = mock::domain(&hv, 0, 2, 64);
    let caller = Caller { hv, domain };
    let config = |max_vcpus| XenDomctlCreatedomain {
        max_vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: -1,
        grant_opts: 2,
        ..XenDomctlCreatedomain::default()
    };
    let put = |domain, max_vcpus| {
        let (cmd, interface_version) = (XEN_DOMCTL_CREATEDOMAIN, XEN_DOMCTL_INTERFACE_VERSION);
        let at = caller.put(&XenDomctl { cmd, domain, interface_version, ..XenDomctl::default() });
        caller.put_at(at + 16, &config(max_vcpus));
        [at, 0, 0, 0, 0, 0]
    };
    let begin = |domain, max_vcpus| caller.outcome(nr::DOMCTL, put(domain, max_vcpus));
    caller.preempt_every(1);
    let (vcpus, again) = (60, put(0, 60));
    caller.hv.platform.longest_stretch();
    let rounds =
        (0..100).take_while(|_| matches!(caller.outcome(nr::DOMCTL, again), Outcome::Again(_))).count();
    let stretch = caller.hv.platform.longest_stretch();
    assert!((3..6).contains(&rounds) && stretch < 40, "{rounds} rounds, {stretch} steps");
    assert_eq!(caller.hv.domains.get(DomId(1)).map(|domain| domain.vcpus.len()), Some(vcpus));
    // Another request takes the place of the one that was begun, whose number is free all the same.
    assert!(matches!(begin(7, 50), Outcome::Again(_)));
    assert!(matches!(begin(7, 40), Outcome::Again(_)));
    assert!(caller.hv.domains.get(DomId(7)).is_none());
    caller.preempt_every(0);
    assert!(matches!(begin(8, 40), Outcome::Done(0)));
    assert!(matches!(begin(7, 2), Outcome::Done(0)));
    assert_eq!(caller.hv.domains.get(DomId(8)).map(|domain| domain.vcpus.len()), Some(40));
    assert_eq!(caller.hv.domains.get(DomId(7)).map(|domain| domain.vcpus.len()), Some(2));
}

#[test]
fn life() {
    let (caller, other) = pair();
    let info = |id| domctl(&caller, XEN_DOMCTL_GETDOMAININFO, id, &XenDomctlGetdomaininfo::default());
    let described = info(5).1;
    assert_eq!(described.flags, XEN_DOMINF_PAUSED | 0xffff_0000);
    assert_eq!((described.max_vcpu_id, described.nr_online_vcpus), (1, 0));
    // The next domain from this identifier on.
    assert_eq!(info(3).1.domain, 5);
    assert_eq!(info(6).0, Err(Errno::ESRCH));
    assert_eq!(info(0x7ff0).0, Err(Errno::EINVAL));
    assert_eq!(plain(&caller, XEN_DOMCTL_PAUSEDOMAIN, 5), Ok(0));
    assert_eq!(plain(&caller, XEN_DOMCTL_UNPAUSEDOMAIN, 5), Ok(0));
    assert_eq!(*other.lifecycle.lock(), Lifecycle::Building);
    assert_eq!(plain(&caller, XEN_DOMCTL_UNPAUSEDOMAIN, 5), Ok(0));
    assert_eq!(*other.lifecycle.lock(), Lifecycle::Running);
    assert_eq!(plain(&caller, XEN_DOMCTL_UNPAUSEDOMAIN, 5), Err(Errno::EINVAL));
    caller.hv.shutdown_domain(&other, 2);
    assert_eq!(info(5).1.flags, XEN_DOMINF_SHUTDOWN | 2 << 16);
    assert_eq!(plain(&caller, XEN_DOMCTL_RESUMEDOMAIN, 5), Ok(0));
    assert_eq!(*other.lifecycle.lock(), Lifecycle::Running);
    assert_eq!(domctl(&caller, XEN_DOMCTL_MAX_MEM, 5, &XenDomctlMaxMem { max_memkb: u64::MAX }).0, Ok(0));
    assert_eq!(other.pages.max(), u64::from(u32::MAX));
    let trigger =
        |trigger, vcpu| domctl(&caller, XEN_DOMCTL_SENDTRIGGER, 5, &XenDomctlSendtrigger { trigger, vcpu }).0;
    assert_eq!(trigger(XEN_DOMCTL_SENDTRIGGER_NMI, 1), Ok(0));
    assert!(other.vcpus[1].pv.has_flags(VcpuFlags::NMI_PENDING));
    assert_eq!(trigger(XEN_DOMCTL_SENDTRIGGER_NMI, 2), Err(Errno::ESRCH));
}

/// A teardown that is preempted goes on where it stopped, by the same hypercall, although the table no longer has the domain.
#[test]
fn destruction_continues() {
    let (caller, other) = pair();
    let before = caller.hv.frames.free_count();
    for _ in 0..5 {
        let _ = caller.hv.alloc_domain_page(&other, 0);
    }
    let op = XenDomctl {
        cmd: XEN_DOMCTL_DESTROYDOMAIN,
        domain: 5,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        ..XenDomctl::default()
    };
    let at = caller.put(&op);
    caller.preempt_every(1);
    let mut calls = 0;
    while caller.outcome(nr::DOMCTL, [at, 0, 0, 0, 0, 0]) == Outcome::Again([at, 0, 0, 0, 0, 0]) {
        calls += 1;
        assert!(calls < 1000, "no end of it");
        if calls == 50 {
            caller.preempt_every(0);
        }
    }
    assert!(other.is_dying());
    assert!(caller.hv.frames.free_count() >= before);
    assert_eq!(plain(&caller, XEN_DOMCTL_PAUSEDOMAIN, 5), Err(Errno::ESRCH));
}

/// A permission is given by who has it, within what there is.
#[test]
fn permissions() {
    let (caller, other) = pair();
    *caller.domain.permissions.write() = crate::permissions::Permissions::all();
    let ports = |first_port, nr_ports, allow_access| {
        let payload = XenDomctlIoportPermission { first_port, nr_ports, allow_access, ..Default::default() };
        domctl(&caller, XEN_DOMCTL_IOPORT_PERMISSION, 5, &payload).0
    };
    assert_eq!(ports(0x3f8, 8, 1), Ok(0));
    assert!(other.permissions.read().allows_port(0x3f8, 8));
    assert_eq!(ports(0x3f9, 1, 0), Ok(0));
    assert!(
        !other.permissions.read().allows_port(0x3f8, 8) && other.permissions.read().allows_port(0x3fa, 6)
    );
    assert_eq!(ports(0xffff, 2, 1), Err(Errno::EINVAL));
    assert_eq!(ports(u32::MAX, u32::MAX, 1), Err(Errno::EINVAL));
    caller.domain.permissions.write().ioports.remove(0x70, 0x71);
    assert_eq!(ports(0x70, 1, 1), Err(Errno::EPERM));
    let frames = |first_mfn, nr_mfns| {
        let payload = XenDomctlIomemPermission { first_mfn, nr_mfns, allow_access: 1, ..Default::default() };
        domctl(&caller, XEN_DOMCTL_IOMEM_PERMISSION, 5, &payload).0
    };
    assert_eq!(frames(0xfeb00, 16), Ok(0));
    assert!(other.permissions.read().allows_iomem(Mfn(0xfeb0f)));
    assert_eq!(frames(1, 0), Err(Errno::EINVAL));
    assert_eq!(frames(u64::MAX, 2), Err(Errno::EINVAL));
}

/// The wall clock of a domain is the machine's and its own offset.
#[test]
fn time_offset() {
    let (caller, other) = pair();
    caller.hv.set_wallclock(1_000, 0, 0);
    let offset = XenDomctlSettimeoffset { time_offset_seconds: -60 };
    assert_eq!(domctl(&caller, XEN_DOMCTL_SETTIMEOFFSET, 5, &offset).0, Ok(0));
    let seconds = |domain: &Domain<MockPlatform>| {
        let at = core::mem::offset_of!(xen_abi::xen::SharedInfo, wc_version) / 8;
        caller.hv.platform.frame_words(domain.shared_info)[at].load(SeqCst) >> 32
    };
    assert_eq!(seconds(&other), 940);
    caller.hv.set_wallclock(2_000, 0, 0);
    assert_eq!(seconds(&other), 1_940);
    assert_eq!(seconds(&caller.domain), 2_000);
}

/// Bitmaps of the caller are read and written as far as they reach, and no further.
#[test]
fn bitmaps() {
    let (caller, _) = pair();
    let ask = |cmd, nr_bits, flags| {
        let map = XenctlBitmap { bitmap: BUFFER.into(), nr_bits, ..XenctlBitmap::default() };
        let payload = XenDomctlVcpuaffinity { vcpu: 0, flags, cpumap_hard: map, cpumap_soft: map };
        domctl(&caller, cmd, 5, &payload).0
    };
    caller.put_at(BUFFER, &[0xaau8; 64]);
    assert_eq!(ask(XEN_DOMCTL_GETVCPUAFFINITY, 3, XEN_VCPUAFFINITY_HARD), Ok(0));
    assert_eq!(caller.bytes::<2>(BUFFER), [0x07, 0xaa]);
    assert_eq!(ask(XEN_DOMCTL_GETVCPUAFFINITY, 0, XEN_VCPUAFFINITY_HARD), Ok(0));
    assert_eq!(caller.bytes::<1>(BUFFER), [0x07]);
    // Only the bits that the map has are members.
    caller.put_at(BUFFER, &[0xfeu8]);
    assert_eq!(ask(XEN_DOMCTL_SETVCPUAFFINITY, 1, XEN_VCPUAFFINITY_HARD), Err(Errno::EINVAL));
    caller.put_at(BUFFER, &[0x01u8]);
    assert_eq!(ask(XEN_DOMCTL_SETVCPUAFFINITY, 1, XEN_VCPUAFFINITY_HARD), Ok(0));
    caller.put_at(BUFFER, &[0u8; 64]);
    assert_eq!(ask(XEN_DOMCTL_GETVCPUAFFINITY, 512, XEN_VCPUAFFINITY_HARD), Ok(0));
    assert_eq!(caller.bytes::<2>(BUFFER), [0x01, 0]);
    // A caller that claims half a gigabyte is not served for so long.
    assert_eq!(ask(XEN_DOMCTL_GETVCPUAFFINITY, u32::MAX, XEN_VCPUAFFINITY_HARD), Ok(0));
}

#[test]
fn machine() {
    let (caller, _) = pair();
    let (result, info) = sysctl(&caller, XEN_SYSCTL_PHYSINFO, &XenSysctlPhysinfo::default());
    assert_eq!((result, info.free_pages, info.max_cpu_id), (Ok(0), caller.hv.frames.free_count(), 1));
    let list = XenSysctlGetdomaininfolist {
        first_domain: 1,
        max_domains: 9,
        buffer: BUFFER.into(),
        ..Default::default()
    };
    let (result, list) = sysctl(&caller, XEN_SYSCTL_GETDOMAININFOLIST, &list);
    assert_eq!((result, list.num_domains), (Ok(0), 1));
    assert_eq!(GuestPtr::<XenDomctlGetdomaininfo>::new(BUFFER).read(&caller.hv).unwrap().domain, 5);
    caller.hv.log(format_args!("twelve bytes\n"));
    let read = XenSysctlReadconsole { buffer: BUFFER.into(), count: 64, ..Default::default() };
    let (result, read) = sysctl(&caller, XEN_SYSCTL_READCONSOLE, &read);
    assert_eq!(result, Ok(0));
    assert!(read.count >= 12 && read.count <= 64);
    // The log is read and forgotten in parts, as `xl dmesg -c` with a small buffer does.
    let text = |count: u32| -> Vec<u8> {
        (0..count.into()).map(|at| GuestPtr::<u8>::new(BUFFER + at).read(&caller.hv).unwrap()).collect()
    };
    let read = |count, clear, from: Option<u32>| {
        let (incremental, index) = (from.is_some().into(), from.unwrap_or(0));
        let ask = XenSysctlReadconsole {
            buffer: BUFFER.into(),
            count,
            clear,
            incremental,
            index,
            ..Default::default()
        };
        let (result, read) = sysctl(&caller, XEN_SYSCTL_READCONSOLE, &ask);
        assert_eq!(result, Ok(0));
        (text(read.count), read.index)
    };
    let (all, end) = read(4096, 0, None);
    let (part, middle) = read(5, 1, None);
    assert_eq!((&part[..], middle), (&all[..5], end - all.len() as u32 + 5));
    assert_eq!(read(4096, 0, None), (all[5..].to_vec(), end), "only what was read is forgotten");
    assert_eq!(read(4096, 0, Some(end - 3)), (all[all.len() - 3..].to_vec(), end));
    assert_eq!(read(0, 1, Some(end - 2)), (vec![], end - 2), "what comes before is forgotten as well");
    assert_eq!(read(4096, 1, None), (all[all.len() - 2..].to_vec(), end));
    assert_eq!(read(4096, 0, None), (vec![], end));
    let topology = XenSysctlCputopoinfo { num_cpus: 1, cputopo: BUFFER.into(), ..Default::default() };
    assert_eq!(sysctl(&caller, XEN_SYSCTL_CPUTOPOINFO, &topology).1.num_cpus, 1);
    assert_eq!(sysctl(&caller, XEN_SYSCTL_CPUTOPOINFO, &XenSysctlCputopoinfo::default()).1.num_cpus, 2);
}

/// The least run of the pool's scheduler is told and set, in Xen's bounds; the null scheduler has none, and refuses none.
#[test]
fn least_run() {
    let (mut caller, _) = pair();
    let whole = |sched_id, cmd, least: u32| {
        let mut op = XenSysctlSchedulerOp { sched_id, cmd, u: [0xff; 16], ..Default::default() };
        op.u[..4].copy_from_slice(&least.to_le_bytes());
        op
    };
    let told = |op: &XenSysctlSchedulerOp| {
        assert_eq!(op.u[4..], [0xff; 12]);
        u32::from_le_bytes([op.u[0], op.u[1], op.u[2], op.u[3]])
    };
    let ask = |caller: &Caller, sched_id, cmd, least| {
        let (result, op) = sysctl(caller, XEN_SYSCTL_SCHEDULER_OP, &whole(sched_id, cmd, least));
        (result, told(&op))
    };
    let (get, put) = (XEN_SYSCTL_SCHEDOP_GETINFO, XEN_SYSCTL_SCHEDOP_PUTINFO);
    assert_eq!(ask(&caller, XEN_SCHEDULER_CREDIT2, get, 7), (Ok(0), 1000));
    let mut current = 1000;
    for least in [99, 100, 500_001, 500_000, u32::MAX, 0, 1, 2000] {
        let fits = least == 0 || (100..=500_000).contains(&least);
        let result = if fits { Ok(0) } else { Err(Errno::EINVAL) };
        assert_eq!(ask(&caller, XEN_SCHEDULER_CREDIT2, put, least), (result, least));
        current = if fits { least } else { current };
        assert_eq!(ask(&caller, XEN_SCHEDULER_CREDIT2, get, 7), (Ok(0), current));
    }
    assert_eq!(ask(&caller, XEN_SCHEDULER_NULL, put, 100), (Err(Errno::EINVAL), 100));
    caller.hv.sched = crate::sched::Scheduler::with_policy(1, crate::sched::Policy::Null);
    for cmd in [get, put] {
        assert_eq!(ask(&caller, XEN_SCHEDULER_NULL, cmd, 7), (Ok(0), 7));
    }
}
