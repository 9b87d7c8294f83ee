//! The hypercalls as the cases make them: with any arguments at all.
//!
//! These are safe functions over raw hypercalls, in a program whose purpose is to make wrong ones. The rule that
//! keeps them from hurting the program: a case changes only pages of its pool (atomics), state that it restores, or
//! what the hypervisor must refuse; where that refusal fails the run has found what it was looking for.

use guest_pv_lib::Errno;
use guest_pv_lib::hypercall::{check, raw};
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, MMU_NORMAL_PT_UPDATE, MmuUpdate, MmuextOp};

/// What a hypercall says.
pub type Ret = Result<u64, Errno>;

/// An address that no pointer has: bits 63 to 47 differ.
pub const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// An address of the hypervisor's part of the address space (not the M2P, which is mapped).
pub const HYPERVISOR: u64 = 0xffff_82d0_4020_0000;
/// An address in the kernel's part where nothing is mapped, and no table above.
pub const UNMAPPED: u64 = 0xffff_c000_0000_0000;
/// A machine frame beyond any memory but within what a page-table entry can say.
pub const NO_FRAME: u64 = 0x7_ffff_ffff;
/// A domain that does not exist.
pub const NO_DOMAIN: u16 = 0x7000;

/// Every kind of address that must not be copied to or from.
pub const BAD_POINTERS: [u64; 4] = [0x1000, NON_CANONICAL, HYPERVISOR, UNMAPPED];

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident = $raw:ident($($arg:ident),*);)*) => {
        $($(#[$doc])*
        pub fn $name(nr: u32 $(, $arg: u64)*) -> Ret {
            // SAFETY: the rule of this module.
            check(unsafe { raw::$raw(nr $(, $arg)*) })
        })*
    };
}

raw! {
    /// Any hypercall of one argument.
    hc1 = call1(a);
    /// Any hypercall of two arguments.
    hc2 = call2(a, b);
    /// Any hypercall of three arguments.
    hc3 = call3(a, b, c);
    /// Any hypercall of four arguments.
    hc4 = call4(a, b, c, d);
}

/// A hypercall of the form (command, address of a structure).
pub fn op<T>(nr: u32, command: u32, arg: &mut T) -> Ret {
    hc2(nr, u64::from(command), arg as *mut T as u64)
}

/// `vcpu_op`.
pub fn vcpu<T>(command: u32, vcpu: u32, arg: &mut T) -> Ret {
    hc3(nr::VCPU_OP, u64::from(command), u64::from(vcpu), arg as *mut T as u64)
}

/// `grant_table_op` with all of `args`.
pub fn grant<T>(command: u32, args: &mut [T]) -> Ret {
    hc3(nr::GRANT_TABLE_OP, u64::from(command), args.as_mut_ptr() as u64, args.len() as u64)
}

/// `update_va_mapping`.
pub fn va_mapping(virt: u64, entry: u64, flags: u64) -> Ret {
    hc3(nr::UPDATE_VA_MAPPING, virt, entry, flags)
}

/// `mmu_update` of one entry in the domain's own tables.
pub fn mmu(ptr: u64, val: u64) -> Ret {
    mmu_batch(&[MmuUpdate { ptr: ptr | MMU_NORMAL_PT_UPDATE, val }], u32::from(DOMID_SELF)).0
}

/// `mmu_update`, with the number of requests that the hypervisor says were done.
pub fn mmu_batch(requests: &[MmuUpdate], foreign: u32) -> (Ret, u32) {
    let mut done = u32::MAX;
    let (at, count) = (requests.as_ptr() as u64, requests.len() as u64);
    let ret = hc4(nr::MMU_UPDATE, at, count, &raw mut done as u64, u64::from(foreign));
    (ret, done)
}

/// One `mmuext_op`.
pub fn mmuext(cmd: u32, arg1: u64, arg2: u64) -> Ret {
    mmuext_batch(&[MmuextOp { cmd, arg1, arg2, ..MmuextOp::default() }]).0
}

/// `mmuext_op`, with the number of operations that the hypervisor says were done.
pub fn mmuext_batch(operations: &[MmuextOp]) -> (Ret, u32) {
    let mut done = u32::MAX;
    let (at, count) = (operations.as_ptr() as u64, operations.len() as u64);
    let ret = hc4(nr::MMUEXT_OP, at, count, &raw mut done as u64, u64::from(DOMID_SELF));
    (ret, done)
}

/// A level-1 entry without what the hypervisor and the processor add of their own: user access (with the bit in
/// which the hypervisor notes that it added it), global, accessed and dirty.
pub const fn plain(entry: u64) -> u64 {
    entry & !(1 << 52 | 0x164)
}

/// Whether every bad pointer makes `call` fail with `EFAULT`.
pub fn all_fault(call: impl Fn(u64) -> Ret) -> [Ret; 4] {
    BAD_POINTERS.map(call)
}

/// What [`all_fault`] must say.
pub const FAULTS: [Ret; 4] = [Err(Errno::EFAULT); 4];
