//! The machine's memory, CPUs and nodes. There is one node, and every CPU counts as a socket of its own: the topology is
//! not looked at.

use super::Request;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::Cx;
use crate::ids::CpuId;
use crate::platform::Platform;
use xen_abi::errno::Errno;
use xen_abi::sysctl::*;

/// Kind of a memory range that is RAM.
const RAM: u32 = 1;
const PAGE_SHIFT: u32 = 12;
/// Distance of a node to itself (ACPI 5.2.17).
const LOCAL_DISTANCE: u32 = 10;
/// Node identifiers that could be: Xen's number.
const NODES: u32 = 64;

/// CPUs that are there, up or not.
fn present<P: Platform>(cx: Cx<'_, P>) -> u32 {
    u32::try_from(cx.hv.machine.apic_ids.len()).unwrap_or(u32::MAX)
}

/// `XEN_SYSCTL_physinfo`.
pub(super) fn describe<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let hv = request.cx.hv;
    let ram = hv.machine.memory_map.iter().filter(|range| range.kind == RAM);
    let frames = hv.platform.frame_table().len() as u64;
    let info = XenSysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: 1,
        nr_cpus: u32::try_from(hv.platform.online_cpus().iter().count()).unwrap_or(u32::MAX),
        max_cpu_id: present(request.cx).saturating_sub(1),
        nr_nodes: 1,
        max_node_id: NODES - 1,
        cpu_khz: u32::try_from(hv.machine.tsc_khz).unwrap_or(u32::MAX),
        capabilities: XEN_SYSCTL_PHYSCAP_PV | XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
        total_pages: ram.map(|range| range.size >> PAGE_SHIFT).sum(),
        free_pages: hv.frames.free_count(),
        max_mfn: frames.saturating_sub(1),
        ..XenSysctlPhysinfo::default()
    };
    request.answer(&info)
}

/// `XEN_SYSCTL_availheap`. Free memory is not counted by the width of its addresses: a limit below all of them has none.
pub(super) fn free_memory<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlAvailheap>()?;
    let hv = request.cx.hv;
    let end = (hv.platform.frame_table().len() as u64) << PAGE_SHIFT;
    let bits = u64::BITS - end.leading_zeros();
    let none = payload.node > 0
        || payload.max_bitwidth != 0 && payload.max_bitwidth <= PAGE_SHIFT
        || payload.min_bitwidth > bits;
    payload.avail_bytes = if none { 0 } else { hv.frames.free_count() << PAGE_SHIFT };
    request.answer(&payload)
}

/// `XEN_SYSCTL_getcpuinfo`.
pub(super) fn idle_times<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlGetcpuinfo>()?;
    let (cx, buffer) = (request.cx, GuestPtr::<XenSysctlCpuinfo>::from(payload.info));
    payload.nr_cpus = payload.max_cpus.min(present(cx));
    for cpu in 0..payload.nr_cpus {
        let idletime = cx.hv.sched.idle_time(CpuId(cpu), cx.hv.platform.now());
        buffer.write_at(cx.hv, cpu.into(), &XenSysctlCpuinfo { idletime })?;
    }
    request.answer(&payload)
}

/// `XEN_SYSCTL_cputopoinfo`.
pub(super) fn cpus<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlCputopoinfo>()?;
    let buffer = GuestPtr::<XenSysctlCputopo>::from(payload.cputopo);
    let mut count = present(request.cx);
    if !buffer.is_null() {
        count = count.min(payload.num_cpus);
        for cpu in 0..count {
            let place = XenSysctlCputopo { core: 0, socket: cpu, node: 0 };
            buffer.write_at(request.cx.hv, cpu.into(), &place)?;
        }
    }
    payload.num_cpus = count;
    request.answer(&payload)
}

/// `XEN_SYSCTL_numainfo`.
pub(super) fn nodes<P: Platform>(request: &mut Request<'_, P>) -> Result<(), Errno> {
    let mut payload = request.payload::<XenSysctlNumainfo>()?;
    let hv = request.cx.hv;
    let memory = GuestPtr::<XenSysctlMeminfo>::from(payload.meminfo);
    let distance = GuestPtr::<u32>::from(payload.distance);
    let mut count = 1;
    if !memory.is_null() || !distance.is_null() {
        count = payload.num_nodes.min(1);
    }
    if count == 1 && !memory.is_null() {
        let memsize = (hv.platform.frame_table().len() as u64) << PAGE_SHIFT;
        let memfree = hv.frames.free_count() << PAGE_SHIFT;
        memory.write(hv, &XenSysctlMeminfo { memsize, memfree })?;
    }
    if count == 1 && !distance.is_null() {
        distance.write(hv, &LOCAL_DISTANCE)?;
    }
    payload.num_nodes = count;
    request.answer(&payload)
}

/// `XEN_SYSCTL_cpu_hotplug`: a CPU that already is as it is wanted is no work; others stay as they are.
pub(super) fn hotplug<P: Platform>(request: &Request<'_, P>) -> Result<(), Errno> {
    let payload = request.payload::<XenSysctlCpuHotplug>()?;
    let is_up = request.cx.hv.platform.is_online(CpuId(payload.cpu));
    match payload.op {
        XEN_SYSCTL_CPU_HOTPLUG_ONLINE | XEN_SYSCTL_CPU_HOTPLUG_OFFLINE
            if payload.cpu >= present(request.cx) =>
        {
            Err(Errno::EINVAL)
        }
        // The boot CPU stays.
        XEN_SYSCTL_CPU_HOTPLUG_OFFLINE if payload.cpu == 0 => Err(Errno::EINVAL),
        XEN_SYSCTL_CPU_HOTPLUG_ONLINE if is_up => Ok(()),
        XEN_SYSCTL_CPU_HOTPLUG_OFFLINE if !is_up => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
