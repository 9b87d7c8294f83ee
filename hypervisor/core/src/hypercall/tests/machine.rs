//! Registers, console, platform operations and machine checks.

use super::*;
use xen_abi::mca::*;
use xen_abi::platform::*;
use zerocopy::FromBytes;

/// Stack, task switched, segment bases.
#[test]
fn registers() {
    let caller = Caller::new();
    let vcpu = caller.vcpu(0);
    assert_eq!(caller.call(nr::STACK_SWITCH, &[0x18, 0x1234]), Ok(0));
    assert_eq!((vcpu.pv.kernel_ss.load(SeqCst), vcpu.pv.kernel_sp.load(SeqCst)), (0x1b, 0x1234));
    assert_eq!(caller.call(nr::FPU_TASKSWITCH, &[1]), Ok(0));
    assert!(vcpu.pv.has_flags(VcpuFlags::TASK_SWITCHED));
    // The upper half of the register is not part of an `int`.
    assert_eq!(caller.call(nr::FPU_TASKSWITCH, &[1 << 32]), Ok(0));
    assert!(!vcpu.pv.has_flags(VcpuFlags::TASK_SWITCHED));
    assert_eq!(caller.call(nr::SET_SEGMENT_BASE, &[0, 0x7fff_0000]), Ok(0));
    assert_eq!(vcpu.arch.bases[0].load(SeqCst), 0x7fff_0000);
    assert_eq!(caller.call(nr::SET_SEGMENT_BASE, &[2, 1 << 60]), Err(Errno::EINVAL));
    assert_eq!(caller.call(nr::SET_SEGMENT_BASE, &[3, 0xffff]), Ok(0));
    assert_eq!(caller.call(nr::SET_SEGMENT_BASE, &[4, 0]), Err(Errno::EINVAL));
}

/// Debug registers: where breakpoints may lie, which bits are fixed, which names exist.
#[test]
fn debug_registers() {
    let caller = Caller::new();
    let set = |reg, value| caller.call(nr::SET_DEBUGREG, &[reg, value]);
    let get = |reg| caller.outcome(nr::GET_DEBUGREG, [reg, 0, 0, 0, 0, 0]);
    assert_eq!(set(0, 0x1000), Ok(0));
    assert_eq!(set(3, 0xffff_ffff_8000_0000), Ok(0));
    assert_eq!(get(3), Outcome::Done(0xffff_ffff_8000_0000u64.cast_signed()));
    assert_eq!(set(1, 0xffff_8100_0000_0000), Err(Errno::EPERM));
    assert_eq!(set(1, 1 << 47), Err(Errno::EPERM));
    assert_eq!(set(6, 1 << 12), Ok(0));
    assert_eq!(get(6), Outcome::Done(0xffff_0ff0));
    assert_eq!(get(4), Outcome::Done(0xffff_0ff0));
    assert_eq!(set(7, 0xd800 | 1), Ok(0));
    assert_eq!(get(5), Outcome::Done(0x401));
    assert_eq!(set(7, 1 << 13), Err(Errno::EPERM));
    assert_eq!(set(7, 1 << 32), Err(Errno::EINVAL));
    assert_eq!(set(7, 1 | 2 << 16), Err(Errno::EPERM));
    assert_eq!(set(7, 2 << 16), Ok(0));
    assert_eq!(set(8, 0), Err(Errno::ENODEV));
    assert_eq!(get(8), Errno::ENODEV.into());
    caller.vcpu(0).pv.cr4.store(1 << 3, SeqCst);
    assert_eq!(set(4, 0), Err(Errno::ENODEV));
    assert_eq!(get(5), Errno::ENODEV.into());
}

/// Console output in pieces; input waits for its reader, and is not lost when that gives a bad buffer.
#[test]
fn console() {
    let caller = Caller::new();
    caller.hv.platform.console_input.lock().unwrap().extend(b"typed");
    caller.hv.console_work();
    let read = |count, buffer| caller.call(nr::CONSOLE_IO, &[1, count, buffer]);
    assert_eq!(read(3, 0x10), Err(Errno::EFAULT));
    assert_eq!(read(3, FLAT_BASE), Ok(3));
    assert_eq!(&caller.bytes::<3>(FLAT_BASE), b"typ");
    assert_eq!(read(100, FLAT_BASE), Ok(2));
    assert_eq!(read(100, FLAT_BASE), Ok(0));
    assert_eq!(read(1 << 31, FLAT_BASE), Err(Errno::E2BIG));
    assert_eq!(caller.call(nr::CONSOLE_IO, &[0, 5, 0x10]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::CONSOLE_IO, &[2, 0, 0]), Err(Errno::ENOSYS));
    assert_eq!(Caller::with_id(2).call(nr::CONSOLE_IO, &[0, 0, 0]), Err(Errno::EPERM));
    // More than fits is lost, what came first is kept.
    let flood: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8 | 0x80).collect();
    caller.hv.platform.console_input.lock().unwrap().extend(&flood);
    caller.hv.console_work();
    assert_eq!(read(10_000, FLAT_BASE), Ok(4096));
    assert_eq!(caller.bytes::<4096>(FLAT_BASE)[..], flood[..4096]);
}

/// Makes a platform operation with this payload; answers the result and the payload as it came back.
fn platform<T: IntoBytes + FromBytes + Immutable>(
    caller: &Caller,
    cmd: u32,
    payload: &T,
) -> (Result<i64, Errno>, T) {
    let mut op = XenPlatformOp { cmd, interface_version: XENPF_INTERFACE_VERSION, u: [0; 16] };
    let bytes = payload.as_bytes();
    op.u.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let at = caller.put(&op);
    let result = caller.call(nr::PLATFORM_OP, &[at]);
    (result, GuestPtr::<T>::new(at + 8).read(&caller.hv).unwrap())
}

#[test]
fn platform_rights() {
    let caller = Caller::new();
    let op = |version| XenPlatformOp { cmd: 999, interface_version: version, u: [0; 16] };
    assert_eq!(caller.call(nr::PLATFORM_OP, &[0x10]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::PLATFORM_OP, &[caller.put(&op(1))]), Err(Errno::EACCES));
    assert_eq!(caller.call(nr::PLATFORM_OP, &[caller.put(&op(XENPF_INTERFACE_VERSION))]), Err(Errno::ENOSYS));
    let guest = Caller::with_id(1);
    assert_eq!(guest.call(nr::PLATFORM_OP, &[guest.put(&op(XENPF_INTERFACE_VERSION))]), Err(Errno::EPERM));
}

#[test]
fn platform_time_and_cpus() {
    let caller = Caller::new();
    let time = XenpfSettime64 { secs: 1_000, nsecs: 5, mbz: 0, system_time: 3 };
    assert_eq!(platform(&caller, XENPF_SETTIME64, &time).0, Ok(0));
    assert_eq!(caller.hv.wallclock_base(), 1_000_000_000_002);
    assert_eq!(platform(&caller, XENPF_SETTIME64, &XenpfSettime64 { mbz: 1, ..time }).0, Err(Errno::EINVAL));
    let time = XenpfSettime32 { secs: 2_000, nsecs: 0, system_time: 0 };
    assert_eq!(platform(&caller, XENPF_SETTIME32, &time).0, Ok(0));
    assert_eq!(caller.hv.wallclock_base(), 2_000_000_000_000);
    let cpu = |n| platform(&caller, XENPF_GET_CPUINFO, &XenpfPcpuinfo { xen_cpuid: n, ..Default::default() });
    let (result, info) = cpu(1);
    assert_eq!(result, Ok(0));
    assert_eq!((info.apic_id, info.acpi_id, info.flags, info.max_present), (11, 21, 0, 1));
    assert_eq!(cpu(0).1.flags, XEN_PCPU_FLAGS_ONLINE);
    assert_eq!(cpu(2).1.flags, XEN_PCPU_FLAGS_INVALID);
    let hotplug = |cmd, cpuid| platform(&caller, cmd, &XenpfCpuOl { cpuid }).0;
    assert_eq!(hotplug(XENPF_CPU_ONLINE, 0), Ok(0));
    assert_eq!(hotplug(XENPF_CPU_ONLINE, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(hotplug(XENPF_CPU_OFFLINE, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(hotplug(XENPF_CPU_OFFLINE, 1), Ok(0));
    assert_eq!(hotplug(XENPF_CPU_ONLINE, u32::MAX), Err(Errno::EINVAL));
}

#[test]
fn platform_firmware_and_power() {
    let caller = Caller::new();
    let firmware =
        |type_| platform(&caller, XENPF_FIRMWARE_INFO, &XenpfFirmwareInfo { type_, index: 0, u: [0; 4] }).0;
    assert_eq!(firmware(XEN_FW_DISK_INFO), Err(Errno::ESRCH));
    assert_eq!(firmware(XEN_FW_EFI_INFO), Err(Errno::ENOSYS));
    assert_eq!(firmware(77), Err(Errno::EINVAL));
    let sleep = |sleep_state, val_a, val_b, flags| {
        platform(&caller, XENPF_ENTER_ACPI_SLEEP, &XenpfEnterAcpiSleep { val_a, val_b, sleep_state, flags }).0
    };
    assert_eq!(sleep(3, 0, 0, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(sleep(5, 0x2000, 1, 0), Err(Errno::EINVAL));
    assert_eq!(sleep(5, 0, 0, 1), Err(Errno::EPERM));
    assert_eq!(sleep(5, 0, 0, 2), Err(Errno::EINVAL));
    assert_eq!(sleep(0, 0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(sleep(6, 0, 0, 0), Err(Errno::EINVAL));
    caller.put_at(FLAT_BASE + 0x800, &[1u32, 1, 0xffff]);
    let mut pdc = XenpfSetProcessorPminfo { id: u32::MAX, type_: XEN_PM_PDC, u: [0; 13] };
    pdc.u[0] = FLAT_BASE + 0x800;
    assert_eq!(platform(&caller, XENPF_SET_PROCESSOR_PMINFO, &pdc).0, Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 0x808) as u32, 0x08f7);
    let states = |type_, id| {
        let info = XenpfSetProcessorPminfo { id, type_, u: [0; 13] };
        platform(&caller, XENPF_SET_PROCESSOR_PMINFO, &info).0
    };
    assert_eq!(states(XEN_PM_PX, 20), Ok(0));
    assert_eq!(states(XEN_PM_CX, 21), Ok(0));
    assert_eq!(states(XEN_PM_CX, 22), Err(Errno::EINVAL));
    assert_eq!(states(XEN_PM_TX, 20), Err(Errno::ENOSYS));
}

#[test]
#[should_panic(expected = "the machine ended: PowerOff")]
fn acpi_s5_ends_the_machine() {
    let caller = Caller::new();
    let sleep = XenpfEnterAcpiSleep { val_a: 0x3400, val_b: 0, sleep_state: 5, flags: 0 };
    let _ = platform(&caller, XENPF_ENTER_ACPI_SLEEP, &sleep);
}

#[test]
fn platform_registers_and_symbols() {
    let caller = Caller::new();
    let at = FLAT_BASE + 0x800;
    let entry = XenpfResourceEntry { u: XEN_RESOURCE_OP_MSR_READ, rsvd: 0, idx: 0x10, val: 0 };
    caller.put_at(at, &entry);
    let op = |nr_entries, entries: u64| XenpfResourceOp { nr_entries, cpu: 0, entries: entries.into() };
    assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &op(0, 0)).0, Ok(0));
    assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &op(1, at)).0, Ok(1));
    assert_eq!(caller.word(at + 16), caller.hv.platform.now().0, "system time");
    let elsewhere = XenpfResourceOp { cpu: 77, ..op(1, at) };
    assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &elsewhere).0, Err(Errno::ENODEV));
    for (idx, why) in [(0xc8e, Errno::EFAULT), (0xc000_0080, Errno::EPERM)] {
        caller.put_at(at + 24, &XenpfResourceEntry { idx, ..entry });
        assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &op(2, at)).0, Ok(1));
        assert_eq!((caller.word(at + 24) as u32).cast_signed(), -why.0);
    }
    assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &op(4, at)).0, Err(Errno::EINVAL));
    assert_eq!(platform(&caller, XENPF_RESOURCE_OP, &op(1, 0x10)).0, Err(Errno::EFAULT));
    let symbol = XenpfSymdata { namelen: 8, name: at.into(), ..Default::default() };
    let (result, answer) = platform(&caller, XENPF_GET_SYMBOL, &symbol);
    assert_eq!((result, answer.namelen, caller.bytes::<1>(at)), (Ok(0), 1, [0]));
    let symbol = XenpfSymdata { symnum: 1, ..symbol };
    assert_eq!(platform(&caller, XENPF_GET_SYMBOL, &symbol).0, Err(Errno::ERANGE));
}

/// Machine checks: how many CPUs there are, then who they are, and never a report.
#[test]
fn machine_checks() {
    let caller = Caller::new();
    let make = |caller: &Caller, cmd, u: &[u64]| {
        let mut op = XenMc { cmd, interface_version: XEN_MCA_INTERFACE_VERSION, u: [0; 18] };
        op.u[..u.len()].copy_from_slice(u);
        caller.call(nr::MCA, &[caller.put(&op)])
    };
    assert_eq!(make(&caller, XEN_MC_PHYSCPUINFO, &[0, 0]), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 8), 1);
    let at = FLAT_BASE + 0x800;
    assert_eq!(make(&caller, XEN_MC_PHYSCPUINFO, &[5, at]), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 8), 1);
    let cpu = GuestPtr::<McinfoLogicalCpu>::new(at).read(&caller.hv).unwrap();
    assert_eq!((cpu.mc_cpunr, cpu.mc_apicid), (0, 10));
    assert_eq!(make(&caller, XEN_MC_PHYSCPUINFO, &[0, at]), Err(Errno::EINVAL));
    assert_eq!(make(&caller, XEN_MC_FETCH, &[XEN_MC_URGENT.into(), 0, at]), Ok(0));
    assert_eq!(caller.word(FLAT_BASE + 8), XEN_MC_NODATA.into());
    assert_eq!(make(&caller, XEN_MC_FETCH, &[3, 0, at]), Err(Errno::EINVAL));
    assert_eq!(make(&caller, XEN_MC_MCEINJECT, &[]), Err(Errno::ENODEV));
    assert_eq!(make(&Caller::with_id(1), XEN_MC_FETCH, &[1, 0, at]), Err(Errno::EPERM));
}

/// What is not served says so.
#[test]
fn unsupported() {
    let caller = Caller::new();
    assert_eq!(caller.call(nr::XENPMU_OP, &[0, 0]), Err(Errno::EOPNOTSUPP));
    assert_eq!(caller.call(nr::HVM_OP, &[0, 1 << 46]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::HVM_OP, &[99, 0]), Err(Errno::ENOSYS));
    assert_eq!(caller.call(nr::KEXEC_OP, &[0, 0]), Err(Errno::ENOSYS));
}
