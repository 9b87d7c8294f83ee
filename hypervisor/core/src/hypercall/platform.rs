//! `platform_op(op)`: what the control domain asks of the machine.
//!
//! Power management of CPUs, microcode and EFI services are not managed here; each answers as Xen does on a machine, or
//! in a configuration, that lacks them.
//!
//! | command | answer |
//! |---|---|
//! | settime32, settime64 | sets the wall clock of all domains |
//! | get_cpuinfo, get_cpu_version | from what the boot code found |
//! | enter_acpi_sleep | S5 ends the machine; S3 and others `EOPNOTSUPP` |
//! | firmware_info | `ESRCH` (BIOS), `ENOSYS` (EFI): the boot code keeps no such information; no shift key is held |
//! | set_processor_pminfo | `_PDC` bits are sanitised; C and P states are heard and not used; T states `ENOSYS` |
//! | cpu_online, cpu_offline | `EOPNOTSUPP` where something would have to change |
//! | cpu_hotadd, mem_hotadd | refused: there is no room for more than was there at boot |
//! | resource_op | the TSC is read, as system time; caches are not monitored (`EFAULT` in the entry), the rest is refused (`EPERM`) |
//! | get_symbol | an empty table |
//! | memory types | what the firmware set is read and found ([`memory_types`](super::memory_types)), nothing changed |
//! | change_freq, getidletime, efi_runtime_call | `ENOSYS` |

use super::{Cx, Outcome};
use crate::Processor;
use crate::cpumask::MAX_CPUS;
use crate::guest_ptr::GuestPtr;
use crate::ids::CpuId;
use crate::platform::{MachineEnd, Platform};
use crate::regs::Regs;
use core::mem::offset_of;
use xen_abi::GuestHandle;
use xen_abi::errno::Errno;
use xen_abi::platform::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// ACPI sleep states.
const SLEEP_S0: u32 = 0;
const SLEEP_S3: u32 = 3;
const SLEEP_S5: u32 = 5;
/// `SLP_EN` in the PM1 control registers (ACPI 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;
/// Most registers of one `XENPF_resource_op`.
const RESOURCE_ENTRIES: u32 = 3;
/// IA32_TIME_STAMP_COUNTER.
const MSR_TSC: u64 = 0x10;
/// IA32_QM_EVTSEL (SDM 3, 18.18): what [`MSR_QM_CTR`] counts.
const MSR_QM_EVTSEL: u64 = 0xc8d;
/// IA32_QM_CTR.
const MSR_QM_CTR: u64 = 0xc8e;
/// Revision of the `_PDC` capabilities buffer (Intel Processor Vendor-Specific ACPI, 3).
const PDC_REVISION: u32 = 1;
/// Capability bits that the operating system may claim where the hypervisor manages neither C nor P nor T states,
/// without those that need MWAIT.
const PDC_CLAIMABLE: u32 = 0x0001 | 0x0002 | 0x0004 | 0x0010 | 0x0020 | 0x0040 | 0x0080 | 0x0800;

/// The operation as it was copied in, and where it came from.
struct Request<'a, P: Platform> {
    cx: Cx<'a, P>,
    at: GuestPtr<XenPlatformOp>,
    op: XenPlatformOp,
}

impl<P: Platform> Request<'_, P> {
    /// The payload, as the command has it.
    fn payload<T: FromBytes + Immutable>(&self) -> Result<T, Errno> {
        T::read_from_prefix(self.op.u.as_bytes()).map(|(payload, _)| payload).map_err(|_| Errno::EINVAL)
    }

    /// Copies a changed payload out.
    fn answer<T: IntoBytes + Immutable>(&self, payload: &T) -> Result<i64, Errno> {
        self.at.field::<T>(offset_of!(XenPlatformOp, u))?.write(self.cx.hv, payload)?;
        Ok(0)
    }
}

/// # Errors
/// `EFAULT`, `EACCES` for another interface version, `EPERM` for an unprivileged domain, `ENOSYS` for an unknown command.
pub fn platform_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    serve(cx, GuestPtr::new(args[0])).into()
}

fn serve<P: Platform>(cx: Cx<'_, P>, at: GuestPtr<XenPlatformOp>) -> Result<i64, Errno> {
    let op = at.read(cx.hv)?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    let request = Request { cx, at, op };
    match op.cmd {
        XENPF_SETTIME32 => settime32(&request),
        XENPF_SETTIME64 => settime64(&request),
        XENPF_ADD_MEMTYPE => {
            let mut asked = request.payload()?;
            cx.hv.machine.memory_types.add(&mut asked)?;
            request.answer(&asked)
        }
        XENPF_DEL_MEMTYPE => cx.hv.machine.memory_types.remove(&request.payload()?).map(|()| 0),
        XENPF_READ_MEMTYPE => {
            let mut asked = request.payload()?;
            cx.hv.machine.memory_types.read(&mut asked)?;
            request.answer(&asked)
        }
        XENPF_MICROCODE_UPDATE => Err(Errno::EINVAL),
        XENPF_PLATFORM_QUIRK => quirk(&request),
        XENPF_FIRMWARE_INFO => firmware_info(&request),
        XENPF_ENTER_ACPI_SLEEP => sleep(&request),
        XENPF_SET_PROCESSOR_PMINFO => pminfo(&request),
        XENPF_GET_CPUINFO => cpuinfo(&request),
        XENPF_GET_CPU_VERSION => cpu_version(&request),
        XENPF_CPU_HOTADD => cpu_hotadd(&request),
        XENPF_MEM_HOTADD => mem_hotadd(&request),
        XENPF_CPU_ONLINE | XENPF_CPU_OFFLINE => cpu_hotplug(&request),
        XENPF_CORE_PARKING => core_parking(&request),
        XENPF_RESOURCE_OP => resource_op(&request),
        XENPF_GET_SYMBOL => symbol(&request),
        _ => Err(Errno::ENOSYS),
    }
}

fn settime32<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let time = request.payload::<XenpfSettime32>()?;
    request.cx.hv.set_wallclock(time.secs.into(), time.nsecs, time.system_time);
    Ok(0)
}

fn settime64<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let time = request.payload::<XenpfSettime64>()?;
    if time.mbz != 0 {
        return Err(Errno::EINVAL);
    }
    request.cx.hv.set_wallclock(time.secs, time.nsecs, time.system_time);
    Ok(0)
}

/// Interrupts are not moved around by themselves, and the IOAPIC's select register is always written anew: there is
/// nothing to change.
fn quirk<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    match request.payload::<XenpfPlatformQuirk>()?.quirk_id {
        QUIRK_NOIRQBALANCING | QUIRK_IOAPIC_BAD_REGSEL | QUIRK_IOAPIC_GOOD_REGSEL => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn firmware_info<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let info = request.payload::<XenpfFirmwareInfo>()?;
    match info.type_ {
        XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO => Err(Errno::ESRCH),
        XEN_FW_KBD_SHIFT_FLAGS if info.index != 0 => Err(Errno::ESRCH),
        // One byte, and the rest of the union stays what it is.
        XEN_FW_KBD_SHIFT_FLAGS => {
            let payload = request.at.field::<XenpfFirmwareInfo>(offset_of!(XenPlatformOp, u))?;
            payload.field::<u8>(offset_of!(XenpfFirmwareInfo, u))?.write(request.cx.hv, &0)?;
            Ok(0)
        }
        XEN_FW_EFI_INFO => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    }
}

/// The last step of a power-off: the guest has prepared the devices, and leaves the registers to the hypervisor.
fn sleep<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let sleep = request.payload::<XenpfEnterAcpiSleep>()?;
    if sleep.sleep_state == SLEEP_S3 {
        return Err(Errno::EOPNOTSUPP);
    }
    if sleep.flags & XENPF_ACPI_SLEEP_EXTENDED != 0 {
        return Err(Errno::EPERM);
    }
    let mismatch = sleep.val_b != 0 && (sleep.val_a ^ sleep.val_b) & SLEEP_ENABLE != 0;
    if mismatch || sleep.flags != 0 || sleep.sleep_state == SLEEP_S0 || sleep.sleep_state > SLEEP_S5 {
        return Err(Errno::EINVAL);
    }
    if sleep.sleep_state != SLEEP_S5 {
        return Err(Errno::EOPNOTSUPP);
    }
    request.cx.hv.log(format_args!("Hardware Dom0 entered ACPI S5: power off\n"));
    request.cx.hv.platform.end_machine(MachineEnd::PowerOff)
}

fn pminfo<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let info = request.payload::<XenpfSetProcessorPminfo>()?;
    match info.type_ {
        // The states of a CPU that is there are taken note of; none is entered.
        XEN_PM_CX | XEN_PM_PX if request.cx.hv.machine.acpi_ids.contains(&info.id) => Ok(0),
        XEN_PM_CX | XEN_PM_PX => Err(Errno::EINVAL),
        XEN_PM_TX => Err(Errno::ENOSYS),
        XEN_PM_PDC => sanitise_pdc(request.cx, GuestHandle::new(info.u[0])),
        _ => Err(Errno::EINVAL),
    }
}

/// The buffer holds a revision, the number of capability words, and the words.
fn sanitise_pdc<P: Platform>(cx: Cx<'_, P>, buffer: GuestHandle<u32>) -> Result<i64, Errno> {
    let buffer = GuestPtr::from(buffer);
    if buffer.read(cx.hv)? != PDC_REVISION || buffer.read_at(cx.hv, 1)? == 0 {
        return Err(Errno::EINVAL);
    }
    let claimed = buffer.read_at(cx.hv, 2)?;
    buffer.write_at(cx.hv, 2, &(claimed & PDC_CLAIMABLE))?;
    Ok(0)
}

/// Number of a CPU that is there, up or not.
fn present<P: Platform>(cx: Cx<'_, P>, cpu: u32) -> Option<usize> {
    usize::try_from(cpu).ok().filter(|cpu| *cpu < cx.hv.machine.apic_ids.len())
}

fn cpuinfo<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let cx = request.cx;
    let machine = &cx.hv.machine;
    let mut info = request.payload::<XenpfPcpuinfo>()?;
    match present(cx, info.xen_cpuid) {
        None => info.flags = XEN_PCPU_FLAGS_INVALID,
        Some(cpu) => {
            info.apic_id = machine.apic_ids[cpu];
            info.acpi_id = machine.acpi_ids.get(cpu).copied().unwrap_or(u32::MAX);
            let online = cx.hv.platform.is_online(CpuId(info.xen_cpuid));
            info.flags = if online { XEN_PCPU_FLAGS_ONLINE } else { 0 };
        }
    }
    info.max_present = u32::try_from(machine.apic_ids.len().saturating_sub(1)).unwrap_or(u32::MAX);
    request.answer(&info)
}

/// Nothing is known of a CPU that is not up.
fn cpu_version<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let hv = request.cx.hv;
    let wanted = request.payload::<XenpfPcpuVersion>()?.xen_cpuid;
    let is_up = hv.platform.is_online(CpuId(wanted));
    let processor = if is_up { hv.machine.processor } else { Processor::default() };
    let last = hv.machine.apic_ids.len().saturating_sub(1);
    request.answer(&XenpfPcpuVersion {
        xen_cpuid: wanted,
        max_present: u32::try_from(last).unwrap_or(u32::MAX),
        vendor_id: processor.vendor,
        family: processor.family,
        model: processor.model,
        stepping: processor.stepping,
    })
}

fn cpu_hotadd<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let cpu = request.payload::<XenpfCpuHotadd>()?;
    let most = MAX_CPUS as u32;
    if cpu.apic_id >= most || cpu.acpi_id >= most || cpu.pxm >= most {
        return Err(Errno::EINVAL);
    }
    let is_there = request.cx.hv.machine.apic_ids.contains(&cpu.apic_id);
    Err(if is_there { Errno::EEXIST } else { Errno::ENOSPC })
}

fn mem_hotadd<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let memory = request.payload::<XenpfMemHotadd>()?;
    Err(if memory.spfn >= memory.epfn { Errno::EINVAL } else { Errno::EOPNOTSUPP })
}

/// A CPU that already is as it is wanted is no work.
fn cpu_hotplug<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let cpu = request.payload::<XenpfCpuOl>()?.cpuid;
    let offline = request.op.cmd == XENPF_CPU_OFFLINE;
    if offline && cpu == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    present(request.cx, cpu).ok_or(Errno::EINVAL)?;
    let online = request.cx.hv.platform.is_online(CpuId(cpu));
    if online == offline { Err(Errno::EOPNOTSUPP) } else { Ok(0) }
}

fn core_parking<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let mut parking = request.payload::<XenpfCoreParking>()?;
    match parking.type_ {
        XEN_CORE_PARKING_SET if parking.idle_nums == 0 => Ok(0),
        XEN_CORE_PARKING_GET => {
            parking.idle_nums = 0;
            request.answer(&parking)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Does accesses until one is refused, which holds the reason then; the hypercall itself answers how many were done.
fn resource_op<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let op = request.payload::<XenpfResourceOp>()?;
    if op.nr_entries == 0 {
        return Ok(0);
    }
    if op.nr_entries > RESOURCE_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let hv = request.cx.hv;
    let (at, mut copies) =
        (GuestPtr::from(op.entries), [XenpfResourceEntry::default(); RESOURCE_ENTRIES as usize]);
    let entries = &mut copies[..op.nr_entries as usize];
    at.read_slice(hv, entries)?;
    let allowed = entries.iter().take_while(|entry| resource_allowed(entry).is_ok()).count();
    let is_online = present(request.cx, op.cpu).is_some() && hv.platform.is_online(CpuId(op.cpu));
    if allowed > 0 && !is_online {
        return Err(Errno::ENODEV);
    }
    for (done, entry) in entries.iter_mut().enumerate() {
        if let Err(why) = resource_allowed(entry).and_then(|()| access_resource(request.cx, entry)) {
            entry.u = (-why.0).cast_unsigned();
            at.write_slice(hv, &entries[..=done])?;
            return Ok(done as i64);
        }
    }
    at.write_slice(hv, entries)?;
    Ok(entries.len() as i64)
}

/// Whether an access is one of those that can be asked for: of the registers that monitor caches, and of time beside them.
fn resource_allowed(entry: &XenpfResourceEntry) -> Result<(), Errno> {
    match entry.u {
        _ if entry.rsvd != 0 => Err(Errno::EINVAL),
        XEN_RESOURCE_OP_MSR_READ | XEN_RESOURCE_OP_MSR_WRITE => match entry.idx {
            MSR_TSC | MSR_QM_EVTSEL | MSR_QM_CTR => Ok(()),
            _ if entry.idx >> 32 != 0 => Err(Errno::EINVAL),
            _ => Err(Errno::EPERM),
        },
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// System time stands for the TSC, the same on every CPU. Caches are not monitored: those registers fault as on a CPU without them.
fn access_resource<P: Platform>(cx: Cx<'_, P>, entry: &mut XenpfResourceEntry) -> Result<(), Errno> {
    match (entry.idx, entry.u) {
        (MSR_TSC, XEN_RESOURCE_OP_MSR_READ) => {
            entry.val = cx.hv.platform.now().0;
            Ok(())
        }
        (MSR_TSC, _) => Err(Errno::EPERM),
        _ => Err(Errno::EFAULT),
    }
}

/// The hypervisor's symbols are not in its image: the table ends at once.
fn symbol<P: Platform>(request: &Request<'_, P>) -> Result<i64, Errno> {
    let mut data = request.payload::<XenpfSymdata>()?;
    if data.symnum > 0 {
        return Err(Errno::ERANGE);
    }
    if data.namelen > 0 {
        GuestPtr::from(data.name).write(request.cx.hv, &0)?;
    }
    (data.namelen, data.address, data.type_) = (1, 0, 0);
    request.answer(&data)
}
