//! `sysctl` (sysctl.h): what the control domain asks about the machine.

use guest_pv_lib::Errno;
use xen_abi::domctl::{XEN_SCHEDULER_CREDIT2, XenDomctlGetdomaininfo};
use xen_abi::hypercall::nr;
use xen_abi::sysctl::*;
use xen_abi::xen::XenctlBitmap;

use crate::call::{BAD_POINTERS, FAULTS, all_fault, hc1};
use crate::harness::{check, need, same};
use crate::peer::control::sysctl;
use crate::peer::with_peer;

returns! {
    /// Bad pointers.
    fault(env): all_fault(|at| hc1(nr::SYSCTL, at)) => FAULTS;
    /// Another interface version, whatever is asked.
    version(env): {
        let mut whole = XenSysctl { cmd: 999, ..XenSysctl::default() };
        hc1(nr::SYSCTL, &raw mut whole as u64)
    } => Err(Errno::EACCES);
    /// A command that does not exist.
    unknown(env): sysctl(999, &mut 0u64) => Err(Errno::ENOSYS);
    /// The scheduler, by its number.
    scheduler(env): {
        let mut id = XenSysctlSchedId::default();
        sysctl(XEN_SYSCTL_SCHED_ID, &mut id).map(|_| id.sched_id)
    } => Ok(XEN_SCHEDULER_CREDIT2);
    /// Cache monitoring, which this machine lacks.
    monitoring(env): sysctl(XEN_SYSCTL_PSR_CMT_OP, &mut [0u8; 64]) => Err(Errno::ENODEV);
    /// Coverage, which nobody builds in.
    coverage(env): sysctl(XEN_SYSCTL_COVERAGE_OP, &mut [0u8; 16]) => Err(Errno::EOPNOTSUPP);
    /// Performance counters, which a release does not have.
    counters(env): sysctl(XEN_SYSCTL_PERFC_OP, &mut [0u8; 32]) => Err(Errno::ENOSYS);
    /// A profile of locks, which a release does not have.
    locks(env): sysctl(XEN_SYSCTL_LOCKPROF_OP, &mut [0u8; 32]) => Err(Errno::ENOSYS);
}

case! {
    /// The machine: CPUs, memory, and what guests can be.
    fn physinfo(env) {
        let _ = env;
        let mut info = XenSysctlPhysinfo::default();
        need("physinfo", sysctl(XEN_SYSCTL_PHYSINFO, &mut info))?;
        check("CPUs", info.nr_cpus >= 1 && info.nr_cpus <= info.max_cpu_id + 1)?;
        check("threads, cores", info.threads_per_core >= 1 && info.cores_per_socket >= 1)?;
        same("nodes", (info.nr_nodes, info.max_node_id), (1, 63))?;
        check("memory", info.free_pages > 0 && info.free_pages < info.total_pages)?;
        check("frames", info.max_mfn > info.free_pages)?;
        check("PV guests", info.capabilities & XEN_SYSCTL_PHYSCAP_PV != 0)?;
        let grants = XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | XEN_SYSCTL_PHYSCAP_GNTTAB_V2;
        same("grants", info.capabilities & grants, grants)?;
        check("clock", info.cpu_khz > 0)
    }
}

case! {
    /// Free memory by bytes, and none on a node that does not exist.
    fn availheap(env) {
        let _ = env;
        let ask = |node| {
            let mut heap = XenSysctlAvailheap { node, ..XenSysctlAvailheap::default() };
            need("availheap", sysctl(XEN_SYSCTL_AVAILHEAP, &mut heap)).map(|_| heap.avail_bytes)
        };
        check("some", ask(-1)? > 0)?;
        check("all on node 0", ask(0)? > 0)?;
        check("by pages", ask(-1)?.is_multiple_of(4096))
    }
}

case! {
    /// The domains, in the order of their numbers, from one on.
    #[peer]
    fn domain_list(env) {
        with_peer(env, |peer| {
            let mut found = [XenDomctlGetdomaininfo::default(); 3];
            let list = |first_domain, max_domains, at: u64| {
                let mut list = XenSysctlGetdomaininfolist {
                    first_domain,
                    max_domains,
                    buffer: at.into(),
                    ..XenSysctlGetdomaininfolist::default()
                };
                sysctl(XEN_SYSCTL_GETDOMAININFOLIST, &mut list).map(|_| list.num_domains)
            };
            let at = found.as_mut_ptr() as u64;
            same("all", list(0, 3, at), Ok(2))?;
            same("first", found[0].domain, 0)?;
            same("second", found[1].domain, peer.id())?;
            same("from one on", list(1, 3, at), Ok(1))?;
            same("the peer", found[0].domain, peer.id())?;
            same("no room", list(0, 1, at), Ok(1))?;
            same("none", list(peer.id() + 1, 3, at), Ok(0))?;
            for at in BAD_POINTERS {
                same("bad pointer", list(0, 1, at), Err(Errno::EFAULT))?;
            }
            Ok(())
        })
    }
}

case! {
    /// CPUs and nodes are counted where nobody asks for more.
    fn topology(env) {
        let _ = env;
        let mut cpus = XenSysctlCputopoinfo::default();
        need("cputopoinfo", sysctl(XEN_SYSCTL_CPUTOPOINFO, &mut cpus))?;
        check("CPUs", cpus.num_cpus >= 1)?;
        let mut place = [XenSysctlCputopo { core: 77, socket: 77, node: 77 }; 1];
        let mut one = XenSysctlCputopoinfo { num_cpus: 1, cputopo: (place.as_mut_ptr() as u64).into(), ..XenSysctlCputopoinfo::default() };
        need("cputopoinfo", sysctl(XEN_SYSCTL_CPUTOPOINFO, &mut one))?;
        same("node of CPU 0", place[0].node, 0)?;
        check("socket of CPU 0", place[0].socket != 77)?;
        let mut nodes = XenSysctlNumainfo::default();
        need("numainfo", sysctl(XEN_SYSCTL_NUMAINFO, &mut nodes))?;
        same("nodes", nodes.num_nodes, 1)?;
        let (mut memory, mut distance) = (XenSysctlMeminfo::default(), 0u32);
        let mut node = XenSysctlNumainfo {
            num_nodes: 1,
            meminfo: (&raw mut memory as u64).into(),
            distance: (&raw mut distance as u64).into(),
            ..XenSysctlNumainfo::default()
        };
        need("numainfo", sysctl(XEN_SYSCTL_NUMAINFO, &mut node))?;
        check("memory", memory.memfree > 0 && memory.memfree <= memory.memsize)?;
        same("distance", distance, 10)
    }
}

case! {
    /// How long CPUs were idle, for as many as asked.
    fn idle_times(env) {
        let _ = env;
        let mut idle = [XenSysctlCpuinfo { idletime: u64::MAX }; 1];
        let mut ask = XenSysctlGetcpuinfo { max_cpus: 1, info: (idle.as_mut_ptr() as u64).into(), ..XenSysctlGetcpuinfo::default() };
        need("getcpuinfo", sysctl(XEN_SYSCTL_GETCPUINFO, &mut ask))?;
        same("one", ask.nr_cpus, 1)?;
        check("told", idle[0].idletime != u64::MAX)?;
        let mut none = XenSysctlGetcpuinfo { max_cpus: 0, ..ask };
        need("getcpuinfo", sysctl(XEN_SYSCTL_GETCPUINFO, &mut none))?;
        same("none", none.nr_cpus, 0)
    }
}

case! {
    /// The hypervisor's log can be read from its beginning, and from where the last reading ended.
    fn read_console(env) {
        // The list of keys: whatever the boot left in the log, there are lines in it now.
        let help = b'h';
        let mut keys = XenSysctlDebugKeys { keys: (&raw const help as u64).into(), nr_keys: 1, ..XenSysctlDebugKeys::default() };
        need("debug_keys", sysctl(XEN_SYSCTL_DEBUG_KEYS, &mut keys))?;
        let mut bytes = [0u8; 64];
        let mut read = XenSysctlReadconsole { buffer: (bytes.as_mut_ptr() as u64).into(), count: 64, ..XenSysctlReadconsole::default() };
        need("readconsole", sysctl(XEN_SYSCTL_READCONSOLE, &mut read))?;
        same("bytes", read.count, 64)?;
        check("text", bytes.iter().all(|byte| byte.is_ascii()))?;
        let before = bytes;
        let index = read.index;
        let mut next = XenSysctlReadconsole { incremental: 1, count: 64, ..read };
        need("readconsole", sysctl(XEN_SYSCTL_READCONSOLE, &mut next))?;
        same("goes on", next.index, index.wrapping_add(64))?;
        check("other text", bytes != before)?;
        for at in BAD_POINTERS {
            let mut read = XenSysctlReadconsole { buffer: at.into(), count: 1, ..XenSysctlReadconsole::default() };
            same("bad pointer", sysctl(XEN_SYSCTL_READCONSOLE, &mut read), Err(Errno::EFAULT))?;
        }
        let _ = env;
        Ok(())
    }
}

case! {
    /// A key that stands for nothing is no error; the keys are read from memory.
    fn debug_keys(env) {
        let _ = env;
        let key = b'\x01';
        let mut keys = XenSysctlDebugKeys { keys: (&raw const key as u64).into(), nr_keys: 1, ..XenSysctlDebugKeys::default() };
        same("none such", sysctl(XEN_SYSCTL_DEBUG_KEYS, &mut keys), Ok(0))?;
        for at in BAD_POINTERS {
            let mut keys = XenSysctlDebugKeys { keys: at.into(), nr_keys: 1, ..XenSysctlDebugKeys::default() };
            same("bad pointer", sysctl(XEN_SYSCTL_DEBUG_KEYS, &mut keys), Err(Errno::EFAULT))?;
        }
        Ok(())
    }
}

case! {
    /// All CPUs are in pool 0; a pool that does not exist; CPUs in none.
    fn cpu_pools(env) {
        let _ = env;
        let mut cpus = 0u64;
        let map = XenctlBitmap { bitmap: (&raw mut cpus as u64).into(), nr_bits: 64, ..XenctlBitmap::default() };
        let ask = |op, cpupool_id| {
            let mut ask = XenSysctlCpupoolOp { op, cpupool_id, cpumap: map, ..XenSysctlCpupoolOp::default() };
            sysctl(XEN_SYSCTL_CPUPOOL_OP, &mut ask).map(|_| (ask.cpupool_id, ask.sched_id))
        };
        same("pool 0", ask(XEN_SYSCTL_CPUPOOL_OP_INFO, 0), Ok((0, XEN_SCHEDULER_CREDIT2)))?;
        check("its CPUs", cpus & 1 != 0)?;
        same("no such pool", ask(XEN_SYSCTL_CPUPOOL_OP_INFO, 5), Err(Errno::ENOENT))?;
        need("free CPUs", ask(XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0))?;
        same("none", cpus, 0)?;
        same("unknown", ask(99, 0), Err(Errno::ENOSYS))
    }
}
