//! `platform_op` (platform.h), as the control domain; and the hypercalls of other kinds of guests (hvm/hvm_op.h).

use guest_pv_lib::Errno;
use xen_abi::GuestHandle;
use xen_abi::hvm::hvm_op::*;
use xen_abi::hypercall::nr;
use xen_abi::platform::*;
use xen_abi::xen::DOMID_SELF;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call::{FAULTS, NO_DOMAIN, Ret, all_fault, hc1, hc2};
use crate::harness::{check, need, same};

/// `platform_op`: the payload goes in, and what the hypervisor left in its place comes out.
pub(super) fn platform<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &mut T) -> Ret {
    let mut whole =
        XenPlatformOp { cmd, interface_version: XENPF_INTERFACE_VERSION, ..XenPlatformOp::default() };
    let bytes = payload.as_mut_bytes();
    whole.u.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let ret = hc1(nr::PLATFORM_OP, &raw mut whole as u64);
    bytes.copy_from_slice(&whole.u.as_bytes()[..bytes.len()]);
    ret
}

fn hvm<T>(op: u32, arg: &mut T) -> Ret {
    hc2(nr::HVM_OP, u64::from(op), &raw mut *arg as u64)
}

fn pminfo(type_: u32, id: u32) -> Ret {
    platform(
        XENPF_SET_PROCESSOR_PMINFO,
        &mut XenpfSetProcessorPminfo { id, type_, ..XenpfSetProcessorPminfo::default() },
    )
}

fn firmware(type_: u32) -> Ret {
    platform(XENPF_FIRMWARE_INFO, &mut XenpfFirmwareInfo { type_, ..XenpfFirmwareInfo::default() })
}

returns! {
    /// Bad pointers.
    fault(env): all_fault(|at| hc1(nr::PLATFORM_OP, at)) => FAULTS;
    /// Another interface version, whatever is asked.
    version(env): {
        let mut whole = XenPlatformOp { cmd: 999, ..XenPlatformOp::default() };
        hc1(nr::PLATFORM_OP, &raw mut whole as u64)
    } => Err(Errno::EACCES);
    /// A command that does not exist.
    unknown(env): platform(999, &mut 0u64) => Err(Errno::ENOSYS);
    /// A part of the wall clock's argument must be zero.
    settime_mbz(env): platform(XENPF_SETTIME64, &mut XenpfSettime64 { mbz: 1, ..XenpfSettime64::default() })
        => Err(Errno::EINVAL);
    /// Frequencies are not the control domain's to change.
    change_freq(env): platform(XENPF_CHANGE_FREQ, &mut [0u64; 8]) => Err(Errno::ENOSYS);
    /// Idle times are told where the control domain manages frequencies.
    idle_time(env): platform(XENPF_GETIDLETIME, &mut [0u64; 8]) => Err(Errno::ENOSYS);
    /// Microcode of no length.
    microcode(env): platform(XENPF_MICROCODE_UPDATE, &mut [0u64; 2]) => Err(Errno::EINVAL);
    /// Sleep states that there are not.
    sleep(env): [0, 6].map(|sleep_state| {
        platform(XENPF_ENTER_ACPI_SLEEP, &mut XenpfEnterAcpiSleep { sleep_state, ..XenpfEnterAcpiSleep::default() })
    }) => [Err(Errno::EINVAL); 2];
    /// A quirk that there is not.
    quirk(env): platform(XENPF_PLATFORM_QUIRK, &mut XenpfPlatformQuirk { quirk_id: 99 }) => Err(Errno::EINVAL);
    /// Registers to read or write: none is no work.
    no_resources(env): platform(XENPF_RESOURCE_OP, &mut XenpfResourceOp::default()) => Ok(0);
    /// More registers than are done in one go.
    many_resources(env): platform(XENPF_RESOURCE_OP, &mut XenpfResourceOp { nr_entries: 4, ..XenpfResourceOp::default() })
        => Err(Errno::EINVAL);
    /// C and P states of a CPU that is there, and of one that is not; what is neither.
    processor_states(env): [
        pminfo(XEN_PM_CX, 0), pminfo(XEN_PM_PX, 0), pminfo(XEN_PM_CX, 200), pminfo(XEN_PM_PX, 200), pminfo(XEN_PM_TX, 0),
        pminfo(99, 0),
    ] => [Ok(0), Ok(0), Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::ENOSYS), Err(Errno::EINVAL)];
    /// What a BIOS left behind, on a machine that was started without one's disk services; EFI's; the unknown.
    firmware_info(env): [
        firmware(XEN_FW_DISK_INFO), firmware(XEN_FW_DISK_MBR_SIGNATURE), firmware(XEN_FW_EFI_INFO),
        firmware(XEN_FW_KBD_SHIFT_FLAGS), firmware(77),
    ] => [Err(Errno::ESRCH), Err(Errno::ESRCH), Err(Errno::ENOSYS), Ok(0), Err(Errno::EINVAL)];
    /// A CPU that is there is not added, nor one beyond all numbers.
    cpu_hotadd(env): [0, 1000].map(|id| {
        platform(XENPF_CPU_HOTADD, &mut XenpfCpuHotadd { apic_id: id, acpi_id: id, pxm: 0 })
    }) => [Err(Errno::EEXIST), Err(Errno::EINVAL)];
    /// No memory to add.
    mem_hotadd(env): platform(XENPF_MEM_HOTADD, &mut XenpfMemHotadd::default()) => Err(Errno::EINVAL);
    /// CPU 0 is up, and stays so; one that does not exist.
    cpu_hotplug(env): [
        platform(XENPF_CPU_ONLINE, &mut XenpfCpuOl { cpuid: 0 }),
        platform(XENPF_CPU_OFFLINE, &mut XenpfCpuOl { cpuid: 0 }),
        platform(XENPF_CPU_ONLINE, &mut XenpfCpuOl { cpuid: 5000 }),
        platform(XENPF_CPU_OFFLINE, &mut XenpfCpuOl { cpuid: 5000 }),
    ] => [Ok(0), Err(Errno::EOPNOTSUPP), Err(Errno::EINVAL), Err(Errno::EINVAL)];
    /// `hvm_op`: parameters of a PV guest.
    hvm_param(env): [HVMOP_SET_PARAM, HVMOP_GET_PARAM, HVMOP_PAGETABLE_DYING, HVMOP_GET_MEM_TYPE].map(|op| {
        hvm(op, &mut XenHvmParam { domid: DOMID_SELF, ..XenHvmParam::default() })
    }) => [Err(Errno::EINVAL); 4];
    /// `hvm_op`: parameters of nobody.
    hvm_param_of_nobody(env): [HVMOP_SET_PARAM, HVMOP_GET_PARAM, HVMOP_PAGETABLE_DYING, HVMOP_GET_MEM_TYPE].map(|op| {
        hvm(op, &mut XenHvmParam { domid: NO_DOMAIN, ..XenHvmParam::default() })
    }) => [Err(Errno::ESRCH); 4];
    /// `hvm_op`: bad pointers.
    hvm_fault(env): all_fault(|at| hc2(nr::HVM_OP, u64::from(HVMOP_GET_PARAM), at)) => FAULTS;
    /// `hvm_op`: what only a hardware guest can ask for.
    hvm_only(env): [HVMOP_FLUSH_TLBS, HVMOP_SET_EVTCHN_UPCALL_VECTOR, HVMOP_ALTP2M, 99].map(|op| hvm(op, &mut [0u64; 8]))
        => [Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::EOPNOTSUPP), Err(Errno::ENOSYS)];
}

/// `XENPF_resource_op` on a CPU: its answer, and each entry's command or error.
fn resources(cpu: u32, entries: &mut [XenpfResourceEntry]) -> Ret {
    let list = GuestHandle::new(entries.as_mut_ptr() as u64);
    platform(XENPF_RESOURCE_OP, &mut XenpfResourceOp { nr_entries: entries.len() as u32, cpu, entries: list })
}

case! {
    /// Registers are read until one is refused, whose entry says why; time is told for the TSC, on a CPU that there is.
    fn resources_of_a_cpu(env) {
        let _ = env;
        let refused = |why: Errno| (-why.0).cast_unsigned();
        let tsc = XenpfResourceEntry { u: XEN_RESOURCE_OP_MSR_READ, idx: 0x10, ..XenpfResourceEntry::default() };
        let mut two = [tsc; 2];
        same("two times", resources(0, &mut two), Ok(2))?;
        check("time passes", two[0].val != 0 && two[0].val <= two[1].val)?;
        let mut foreign = [tsc, XenpfResourceEntry { idx: 0xc000_0080, ..tsc }, tsc];
        same("EFER", resources(0, &mut foreign), Ok(1))?;
        same("reason", foreign[1].u, refused(Errno::EPERM))?;
        check("nothing behind it", foreign[0].val != 0 && foreign[2].val == 0)?;
        for (entry, why) in [
            (XenpfResourceEntry { u: XEN_RESOURCE_OP_MSR_WRITE, ..tsc }, Errno::EPERM),
            (XenpfResourceEntry { rsvd: 1, ..tsc }, Errno::EINVAL),
            (XenpfResourceEntry { idx: 1 << 32, ..tsc }, Errno::EINVAL),
            (XenpfResourceEntry { u: 7, ..tsc }, Errno::EOPNOTSUPP),
        ] {
            let mut entries = [entry];
            same("refused", resources(0, &mut entries), Ok(0))?;
            same("reason", entries[0].u, refused(why))?;
        }
        same("no such CPU", resources(5000, &mut [tsc]), Err(Errno::ENODEV))?;
        let list = GuestHandle::new(1 << 47);
        let mut fault = XenpfResourceOp { nr_entries: 1, cpu: 0, entries: list };
        same("fault", platform(XENPF_RESOURCE_OP, &mut fault), Err(Errno::EFAULT))
    }
}

case! {
    /// A CPU is described as what it is.
    fn cpu_info(env) {
        let _ = env;
        let mut info = XenpfPcpuinfo::default();
        same("get_cpuinfo", platform(XENPF_GET_CPUINFO, &mut info), Ok(0))?;
        check("online", info.flags & XEN_PCPU_FLAGS_ONLINE != 0)?;
        let mut none = XenpfPcpuinfo { xen_cpuid: 5000, ..XenpfPcpuinfo::default() };
        same("get_cpuinfo", platform(XENPF_GET_CPUINFO, &mut none), Ok(0))?;
        same("no such CPU", none.flags, XEN_PCPU_FLAGS_INVALID)
    }
}

case! {
    /// A CPU's maker and model are those of CPUID; a CPU that does not exist has none.
    fn cpu_version(env) {
        let _ = env;
        let mut found = XenpfPcpuVersion::default();
        same("get_cpu_version", platform(XENPF_GET_CPU_VERSION, &mut found), Ok(0))?;
        let zero = core::arch::x86_64::__cpuid(0);
        let words = [zero.ebx, zero.edx, zero.ecx];
        same("maker", found.vendor_id.as_bytes(), words.as_bytes())?;
        let one = core::arch::x86_64::__cpuid(1).eax;
        same("stepping", found.stepping, one & 0xf)?;
        check("family", found.family >= one >> 8 & 0xf)?;
        let mut none = XenpfPcpuVersion { xen_cpuid: 5000, ..XenpfPcpuVersion::default() };
        same("get_cpu_version", platform(XENPF_GET_CPU_VERSION, &mut none), Ok(0))?;
        same("no such CPU", none.vendor_id, [0; 12])
    }
}

case! {
    /// `hvm_op`: the time is system time for a PV guest as well.
    fn hvm_time(env) {
        let _ = env;
        let mut time = XenHvmGetTime::default();
        let before = guest_pv_lib::time::now();
        need("get_time", hvm(HVMOP_GET_TIME, &mut time))?;
        check("now", (before..=guest_pv_lib::time::now()).contains(&time.now))
    }
}
