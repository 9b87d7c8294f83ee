//! The hypervisor below a PVH kernel: how it is found, called, and told where to deliver its events.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ptr;

use x86_64::registers::model_specific::Msr;
use xen_abi::cpuid::*;
use xen_abi::errno::Errno;
use xen_abi::grant_table::{
    GNTST_GENERAL_ERROR, GNTST_OKAY, GNTST_PERMISSION_DENIED, GNTTABOP_GET_STATUS_FRAMES,
    GNTTABOP_MAP_GRANT_REF, GNTTABOP_SETUP_TABLE, GnttabGetStatusFrames, GnttabMapGrantRef, GnttabSetupTable,
};
use xen_abi::hvm::hvm_op::{HVMOP_GET_PARAM, HVMOP_SET_PARAM, XenHvmParam};
use xen_abi::hvm::params::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::{
    XENMAPIDX_GRANT_TABLE_STATUS, XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_SHARED_INFO, XENMEM_ADD_TO_PHYSMAP,
    XENMEM_MEMORY_MAP, XenAddToPhysmap, XenMemoryMap,
};
use xen_abi::sched::SCHEDOP_BLOCK;
use xen_abi::vcpu::*;
use xen_abi::xen::{DOMID_SELF, SIF_INITDOMAIN, SIF_PRIVILEGED, StartInfo, StartInfoConsoleDomU};

use super::cpu::CALLBACK_VECTOR;
use super::{builder, error, power};
use crate::hypercall::{check, page};
use crate::memory::Region;

/// The first of its CPUID leaves, if there is one.
pub fn find() -> Option<u32> {
    const HYPERVISOR: u32 = 1 << 31;
    const SIGNATURE: [u32; 3] = [XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX];
    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return None;
    }
    (XEN_CPUID_FIRST_LEAF..XEN_CPUID_FIRST_LEAF + 0x1_0000).step_by(0x100).find(|&base| {
        let leaf = __cpuid(base);
        [leaf.ebx, leaf.ecx, leaf.edx] == SIGNATURE
    })
}

/// Has the hypercall page filled.
pub fn fill_page(base: u32) {
    let register = __cpuid(base + 2).ebx;
    // SAFETY: the page is set aside for this.
    unsafe { Msr::new(register).write(builder::physical_of(page::stub(0) as *const u8)) };
}

/// Has the shared page put into its place and the callback registered, and completes `start_info`.
pub fn init(start_info: &mut StartInfo) {
    let shared = XenAddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: start_info.shared_info >> 12,
        ..XenAddToPhysmap::default()
    };
    // SAFETY: replaces the frame of the page that was set aside for this; the structure lives across the call.
    let result =
        unsafe { call(nr::MEMORY_OP, [XENMEM_ADD_TO_PHYSMAP.into(), &raw const shared as u64, 0, 0, 0, 0]) };
    if let Err(error) = check(result) {
        panic!("mapping shared_info: {error:?}");
    }
    let callback = HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | u64::from(CALLBACK_VECTOR);
    if let Err(error) = parameter(HVMOP_SET_PARAM, HVM_PARAM_CALLBACK_IRQ, callback) {
        panic!("registering the callback: {error:?}");
    }
    // Only the first domain's console is the hypervisor's own; the others have a ring.
    if let Ok(frame) = parameter(HVMOP_GET_PARAM, HVM_PARAM_CONSOLE_PFN, 0)
        && frame != 0
    {
        let port = parameter(HVMOP_GET_PARAM, HVM_PARAM_CONSOLE_EVTCHN, 0).unwrap_or(0);
        let console =
            StartInfoConsoleDomU { mfn: frame, evtchn: port as u32, ..StartInfoConsoleDomU::default() };
        start_info.console = zerocopy::transmute!(console);
        start_info.store_mfn = parameter(HVMOP_GET_PARAM, HVM_PARAM_STORE_PFN, 0).unwrap_or(0);
        start_info.store_evtchn = parameter(HVMOP_GET_PARAM, HVM_PARAM_STORE_EVTCHN, 0).unwrap_or(0) as u32;
        start_info.flags &= !(SIF_INITDOMAIN | SIF_PRIVILEGED);
    }
    start_info.magic[..14].copy_from_slice(b"xen-3.0-x86_64");
}

/// Fetches the domain's memory map, and returns how many ranges it has.
pub fn memory_map(ranges: &mut [Region]) -> usize {
    let mut arg = XenMemoryMap {
        nr_entries: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
        buffer: (ranges.as_mut_ptr() as u64).into(),
        ..XenMemoryMap::default()
    };
    // SAFETY: the hypervisor writes at most that many entries to the buffer, and their number to the structure.
    let result = unsafe { call(nr::MEMORY_OP, [XENMEM_MEMORY_MAP.into(), &raw mut arg as u64, 0, 0, 0, 0]) };
    if check(result).is_ok() { arg.nr_entries as usize } else { 0 }
}

fn parameter(command: u32, index: u32, value: u64) -> Result<u64, Errno> {
    let mut arg = XenHvmParam { domid: DOMID_SELF, index, value, ..XenHvmParam::default() };
    // SAFETY: the hypervisor reads the structure and writes its value.
    check(unsafe { call(nr::HVM_OP, [command.into(), &raw mut arg as u64, 0, 0, 0, 0]) })?;
    Ok(arg.value)
}

/// A hypercall by the page.
///
/// # Safety
///
/// As for the hypercall.
pub unsafe fn call(nr: u32, args: [u64; 6]) -> i64 {
    let [a1, a2, a3, a4, a5, a6] = args;
    let ret: i64;
    // SAFETY: the stub takes the registers of the convention and returns; the rest is the caller's promise.
    unsafe {
        asm!(
            "call {stub}",
            stub = in(reg) page::stub(nr),
            lateout("rax") ret,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            inlateout("r8") a5 => _,
            inlateout("r9") a6 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

/// `vcpu_op`; one CPU is used, so none can be started.
///
/// # Safety
///
/// As for the hypercall.
pub unsafe fn vcpu_op(args: [u64; 6]) -> i64 {
    match u32::try_from(args[0]) {
        Ok(VCPUOP_INITIALISE | VCPUOP_UP) => error(Errno::ENOSYS),
        // SAFETY: the caller's promise.
        _ => unsafe { call(nr::VCPU_OP, args) },
    }
}

/// `grant_table_op`. The frames of a table have no place of their own in a PVH domain's memory: they get one, behind the
/// last frame of the kernel's, when they are asked for.
///
/// Mapping is refused. The addresses of a mapping are physical ones in a PVH domain, and the library has virtual ones; to let
/// the hypervisor take them is worse than no mapping: a frame of the domain's own loses its place in it, for an address
/// that does not exist.
///
/// # Safety
///
/// As for the hypercall.
pub unsafe fn grant_table_op(args: [u64; 6]) -> i64 {
    const MOST: u64 = 512;
    let first = (builder::pages() + 1).next_multiple_of(MOST);
    let at = args[1] as usize;
    // SAFETY: the caller's promise, for the structure that each command has.
    unsafe {
        match u32::try_from(args[0]) {
            Ok(GNTTABOP_SETUP_TABLE) => {
                let arg = &mut *ptr::with_exposed_provenance_mut::<GnttabSetupTable>(at);
                arg.status = place(0, first, arg.nr_frames, arg.frame_list.addr());
            }
            Ok(GNTTABOP_GET_STATUS_FRAMES) => {
                let arg = &mut *ptr::with_exposed_provenance_mut::<GnttabGetStatusFrames>(at);
                let status = XENMAPIDX_GRANT_TABLE_STATUS;
                arg.status = place(status, first + MOST, arg.nr_frames, arg.frame_list.addr());
            }
            Ok(GNTTABOP_MAP_GRANT_REF) => {
                let list = ptr::with_exposed_provenance_mut::<GnttabMapGrantRef>(at);
                (0..args[2] as usize).for_each(|index| (*list.add(index)).status = GNTST_PERMISSION_DENIED);
            }
            _ => return call(nr::GRANT_TABLE_OP, args),
        }
    }
    0
}

/// Gives `count` frames of the grant table from `index` on the place `first`, and writes their numbers to `list`.
///
/// # Safety
///
/// `list` must be the caller's, with room for them.
unsafe fn place(index: u64, first: u64, count: u32, list: u64) -> i16 {
    let list = ptr::with_exposed_provenance_mut::<u64>(list as usize);
    for at in 0..u64::from(count) {
        let frame = first + at;
        let arg = XenAddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_GRANT_TABLE,
            idx: index + at,
            gpfn: frame,
            ..XenAddToPhysmap::default()
        };
        // SAFETY: there is no memory at that place; the structure lives across the call. The list has that entry.
        let result = unsafe {
            list.add(at as usize).write(frame);
            call(nr::MEMORY_OP, [XENMEM_ADD_TO_PHYSMAP.into(), &raw const arg as u64, 0, 0, 0, 0])
        };
        if check(result).is_err() {
            return GNTST_GENERAL_ERROR;
        }
    }
    GNTST_OKAY
}

/// `sched_op`; the processor's own instruction waits for an interrupt.
///
/// # Safety
///
/// As for the hypercall.
pub unsafe fn sched_op(args: [u64; 6]) -> i64 {
    if args[0] == u64::from(SCHEDOP_BLOCK) {
        return power::block();
    }
    // SAFETY: the caller's promise.
    unsafe { call(nr::SCHED_OP, args) }
}
