//! The `syscall` entry of each CPU.
//!
//! `syscall` changes neither the stack nor any base register, so each CPU has a few bytes of code of its own, which know
//! where its `PerCpu` is: they keep the guest's stack pointer there and go on with the shared entry code.

use super::descriptors::{GUEST_CS32, HV_CS};
use super::percpu::{PERCPU_SYSCALL_RSP, percpu_address};
use super::{isolation, msr};
use crate::mm::layout::STUBS;
use crate::mm::tables::{self, CODE, NoTable};
use crate::mm::{direct, early};
use hypervisor_core::ids::CpuId;

unsafe extern "C" {
    fn syscall_entry();
    fn syscall32_entry();
    fn sysenter_entry();
    fn syscall_entry_isolated();
}

const STUB_BYTES: u64 = 32;

fn rip_relative(at: u64, target: u64) -> [u8; 4] {
    let distance = target.wrapping_sub(at) as i64;
    i32::try_from(distance).expect("stubs, CPU areas and image are within 2 GiB").to_le_bytes()
}

/// `mov [rip + rsp slot], rsp; lea rsp, [rip + PerCpu]; jmp entry`.
fn assemble(at: u64, percpu: u64, entry: u64) -> [u8; 19] {
    let mut code = [0; 19];
    code[..3].copy_from_slice(&[0x48, 0x89, 0x25]);
    code[3..7].copy_from_slice(&rip_relative(at + 7, percpu + PERCPU_SYSCALL_RSP as u64));
    code[7..10].copy_from_slice(&[0x48, 0x8d, 0x25]);
    code[10..14].copy_from_slice(&rip_relative(at + 14, percpu));
    code[14] = 0xe9;
    code[15..].copy_from_slice(&rip_relative(at + 19, entry));
    code
}

/// Address of the page with this CPU's stubs.
pub fn page(cpu: CpuId) -> u64 {
    STUBS + u64::from(cpu.0) * 4096
}

/// Makes this CPU's stubs and points its MSRs at them.
///
/// # Safety
/// Once per CPU, on that CPU, with its area mapped.
pub unsafe fn install(cpu: CpuId) -> Result<(), NoTable> {
    let page = page(cpu);
    let frame = early::table_frame().ok_or(NoTable)?;
    let percpu = percpu_address(cpu);
    let syscall = if isolation::in_use() { syscall_entry_isolated } else { syscall_entry };
    let entries = [syscall as *const () as u64, syscall32_entry as *const () as u64];
    for (n, entry) in entries.into_iter().enumerate() {
        let offset = n as u64 * STUB_BYTES;
        let code = assemble(page + offset, percpu, entry);
        // SAFETY: the frame is this function's own, in the direct map.
        unsafe {
            core::ptr::copy_nonoverlapping(
                code.as_ptr(),
                (direct(frame.addr()) + offset) as *mut u8,
                code.len(),
            )
        };
    }
    // SAFETY: this CPU's page of the range for stubs, where nothing was; the frame is this function's own.
    unsafe { tables::map_page(page, Some((frame, CODE))) }?;
    // IF, TF, DF, IOPL, NT, RF, AC: an entry starts with none of them.
    const MASK: u64 = 0x4_7700 | 0x1_0000;
    // SAFETY: the entries are complete; selectors are those of the CPU's GDT.
    unsafe {
        msr::write(msr::STAR, u64::from(GUEST_CS32) << 48 | u64::from(HV_CS) << 32);
        msr::write(msr::LSTAR, page);
        msr::write(msr::CSTAR, page + STUB_BYTES);
        msr::write(msr::FMASK, MASK);
        msr::write(msr::SYSENTER_CS, u64::from(HV_CS));
        msr::write(msr::SYSENTER_ESP, percpu);
        msr::write(msr::SYSENTER_EIP, sysenter_entry as *const () as u64);
        msr::write(msr::EFER, msr::read(msr::EFER) | 1);
    }
    Ok(())
}
