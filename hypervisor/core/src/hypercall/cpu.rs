//! Registers that a PV kernel cannot load itself: `stack_switch`, `fpu_taskswitch`, `set_segment_base`, `set_debugreg`,
//! `get_debugreg`.

use super::callback::guest_selector;
use super::{Cx, Outcome, low32};
use crate::cpu_policy::CR4_DE;
use crate::domain::{PvState, VcpuFlags};
use crate::ids::GuestVirt;
use crate::platform::Platform;
use crate::regs::Regs;
use core::sync::atomic::Ordering;
use xen_abi::arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};
use xen_abi::errno::Errno;

/// Bits of DR6 that always read as one, and as zero (SDM Vol. 3, 17.2.3).
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_ZEROS: u64 = 1 << 12;
/// Bits of DR7 that always read as one, and as zero (SDM Vol. 3, 17.2.4).
const DR7_ONES: u64 = 1 << 10;
const DR7_ZEROS: u64 = 0xd800;
/// General detect: any access to a debug register faults.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// The enable bits of the four breakpoints.
const DR7_ENABLES: u64 = 0xff;
/// End of the addresses that only the hypervisor uses (xen-x86_64.h).
const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
/// End of the lower half of the address space.
const LOWER_HALF_END: u64 = 1 << 47;

/// `iret`, within a batch: the rest of the batch is not made.
pub fn iret<P: Platform>(cx: Cx<'_, P>, _args: &[u64; 6], regs: &mut Regs) -> Outcome {
    cx.hv.platform.iret(cx.vcpu, regs);
    Outcome::RegsReplaced
}

/// `stack_switch(ss, rsp)`: the stack of the guest kernel for entries from its user code.
pub fn stack_switch<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    switch_stack(&cx.vcpu.pv, args[0], args[1]);
    Outcome::Done(0)
}

/// [`stack_switch`] by its arguments.
pub fn switch_stack(pv: &PvState, ss: u64, rsp: u64) {
    let selector = guest_selector((ss & 0xffff) as u16);
    pv.kernel_ss.store(u64::from(selector), Ordering::Relaxed);
    pv.kernel_sp.store(rsp, Ordering::Relaxed);
}

/// `fpu_taskswitch(set)`: sets or clears CR0.TS.
pub fn fpu_taskswitch<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    switch_task(cx, args[0]);
    Outcome::Done(0)
}

/// [`fpu_taskswitch`] by its argument.
pub fn switch_task<P: Platform>(cx: Cx<'_, P>, set: u64) {
    let set = low32(set) != 0;
    cx.vcpu.pv.set_flags(VcpuFlags::TASK_SWITCHED, set);
    cx.hv.platform.set_task_switched(cx.vcpu, set);
}

/// `set_segment_base(which, base)`.
///
/// # Errors
/// `EINVAL` for a base that is not canonical, or an unknown `which`.
pub fn set_segment_base<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    set_base(cx, args[0], args[1]).into()
}

/// [`set_segment_base`] by its arguments.
///
/// # Errors
/// As [`set_segment_base`].
pub fn set_base<P: Platform>(cx: Cx<'_, P>, which: u64, base: u64) -> Result<(), Errno> {
    let which = low32(which);
    let is_base = matches!(which, SEGBASE_FS | SEGBASE_GS_USER | SEGBASE_GS_KERNEL);
    if is_base && !GuestVirt(base).is_canonical() {
        return Err(Errno::EINVAL);
    }
    cx.hv.platform.set_segment_base(cx.vcpu, u64::from(which), base)
}

/// `set_debugreg(reg, value)`.
///
/// # Errors
/// See [`checked_debugreg`].
pub fn set_debugreg<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let checked = checked_debugreg(cx.vcpu.pv.cr4.load(Ordering::Relaxed), low32(args[0]), args[1]);
    checked.and_then(|(reg, value)| cx.hv.platform.set_debugreg(cx.vcpu, reg, value)).into()
}

/// `get_debugreg(reg)`: the value, which an error cannot be told from.
///
/// # Errors
/// `ENODEV` for a register that is not there.
pub fn get_debugreg<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let value = real_debugreg(cx.vcpu.pv.cr4.load(Ordering::Relaxed), low32(args[0]))
        .and_then(|reg| cx.hv.platform.get_debugreg(cx.vcpu, reg).map_err(|_| Errno::ENODEV));
    value.map(u64::cast_signed).into()
}

/// Which debug register `reg` is for a guest with this CR4: 4 and 5 are 6 and 7 unless CR4.DE says otherwise.
///
/// # Errors
/// `ENODEV` for a register that is not there.
pub fn real_debugreg(cr4: u64, reg: u32) -> Result<u64, Errno> {
    match reg {
        0..=3 | 6 | 7 => Ok(u64::from(reg)),
        4 | 5 if cr4 & CR4_DE == 0 => Ok(u64::from(reg + 2)),
        _ => Err(Errno::ENODEV),
    }
}

/// Which debug register gets which value when a guest with this CR4 asks to write `value` to `reg`.
///
/// # Errors
/// `EPERM` for a breakpoint on the hypervisor, for one on I/O without CR4.DE while any is on, and for general detect;
/// `EINVAL` for reserved bits; `ENODEV` for a register that is not there.
pub fn checked_debugreg(cr4: u64, reg: u32, value: u64) -> Result<(u64, u64), Errno> {
    let reg = real_debugreg(cr4, reg)?;
    let value = match reg {
        0..=3 if !(LOWER_HALF_END..HYPERVISOR_END).contains(&value) => value,
        0..=3 => return Err(Errno::EPERM),
        _ if value >> 32 != 0 => return Err(Errno::EINVAL),
        6 => value & !DR6_ZEROS | DR6_ONES,
        _ if value & DR7_GENERAL_DETECT != 0 => return Err(Errno::EPERM),
        _ if value & DR7_ENABLES != 0 && io_breakpoints(value) != 0 && cr4 & CR4_DE == 0 => {
            return Err(Errno::EPERM);
        }
        _ => value & !DR7_ZEROS | DR7_ONES,
    };
    Ok((reg, value))
}

/// The enable bits of DR7 that belong to breakpoints on I/O. All port accesses of a guest are emulated, and so are these; the
/// processor's DR7 has them off.
pub fn io_breakpoints(dr7: u64) -> u64 {
    (0..4).filter(|n| dr7 >> (16 + 4 * n) & 0b11 == 0b10).map(|n| 0b11 << (2 * n)).sum()
}

/// The breakpoints (bits 3..0 of DR6) that an access to `len` ports from `port` on hits. `enables` are the bits of DR7 that
/// [`io_breakpoints`] took out of it.
pub fn hit_io_breakpoints(enables: u64, dr7: u64, addresses: [u64; 4], port: u64, len: u64) -> u64 {
    let hits = addresses.into_iter().enumerate().filter(|(n, address)| {
        let width = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 0b11) as usize];
        let start = address & !(width - 1);
        enables >> (2 * n) & 0b11 != 0 && start < port + len && start + width > port
    });
    hits.map(|(n, _)| 1 << n).sum()
}
