//! User mode: system calls and page faults. Pages 0 to 3 of the pool are its tables, page 5 is the kernel's stack.

use guest_pv_lib::mmu::{Level, Pte, index};
use xen_abi::arch_x86::FLAT_KERNEL_SS;
use xen_abi::hypercall::nr;
use xen_abi::xen::{MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE};

use super::{Row, need};
use crate::call::{hc2, mmuext};
use crate::measure::{ROUNDS, WARM_UP};
use crate::stubs::{self, USER_CODE};
use crate::{Env, Missing};

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("user_syscall", |env| in_user_mode(env, stubs::user_syscalls)),
    ("user_page_fault", |env| in_user_mode(env, stubs::user_page_faults)),
    ("kernel_page_fault", |_| Ok(stubs::kernel_page_fault())),
];

/// Builds the address space of user mode around `work`.
fn in_user_mode(env: &Env, work: fn(u32) -> u64) -> Result<u64, Missing> {
    let [l1, l2, l3, l4] = [0, 1, 2, 3].map(|at| env.page(at));
    for table in [l1, l2, l3, l4] {
        table.fill(0);
    }
    l1.set(index(USER_CODE, Level::L1), Pte::new(stubs::user_frame(env), Pte::PRESENT | Pte::USER).0);
    l2.set(index(USER_CODE, Level::L2), Pte::table(l1.mfn()).0);
    l3.set(index(USER_CODE, Level::L3), Pte::table(l2.mfn()).0);
    l4.set(index(USER_CODE, Level::L4), Pte::table(l3.mfn()).0);
    for table in [l1, l2, l3, l4] {
        need("read-only", table.read_only())?;
    }
    need("pin", mmuext(MMUEXT_PIN_L4_TABLE, l4.mfn().0))?;
    need("user root", mmuext(MMUEXT_NEW_USER_BASEPTR, l4.mfn().0))?;
    let stack = env.page(5).virt() + 4096;
    need("stack_switch", hc2(nr::STACK_SWITCH, u64::from(FLAT_KERNEL_SS), stack))?;
    let count = work(ROUNDS + WARM_UP);
    need("no user root", mmuext(MMUEXT_NEW_USER_BASEPTR, 0))?;
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, l4.mfn().0))?;
    for table in [l1, l2, l3, l4] {
        need("writable", table.writable())?;
    }
    Ok(count)
}
