//! The hypercalls, with any arguments.
//!
//! These are safe functions over raw hypercalls in a program that does nothing else. The rule that keeps them from
//! hurting it: a row changes only pages of the [pool](crate::pool), which are atomics, or state that it restores.

use guest_pv_lib::Errno;
use guest_pv_lib::hypercall::{check, raw};
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, MmuUpdate, MmuextOp};

/// What a hypercall says.
pub type Ret = Result<u64, Errno>;

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident = $raw:ident($($arg:ident),*);)*) => {
        $($(#[$doc])*
        #[inline(always)]
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
#[inline(always)]
pub fn op<T>(nr: u32, command: u32, arg: &mut T) -> Ret {
    hc2(nr, u64::from(command), arg as *mut T as u64)
}

/// `grant_table_op` with one structure.
#[inline(always)]
pub fn grant<T>(command: u32, arg: &mut T) -> Ret {
    hc3(nr::GRANT_TABLE_OP, u64::from(command), arg as *mut T as u64, 1)
}

/// `mmu_update` in the domain's own tables.
#[inline(always)]
pub fn mmu(requests: &[MmuUpdate]) -> Ret {
    hc4(nr::MMU_UPDATE, requests.as_ptr() as u64, requests.len() as u64, 0, u64::from(DOMID_SELF))
}

/// One `mmuext_op`.
#[inline(always)]
pub fn mmuext(cmd: u32, arg1: u64) -> Ret {
    let operation = MmuextOp { cmd, arg1, ..MmuextOp::default() };
    hc4(nr::MMUEXT_OP, &raw const operation as u64, 1, 0, u64::from(DOMID_SELF))
}
