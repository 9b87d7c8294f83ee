//! `mmuext_op` (xen.h) without pinning: base pointers, flushes, LDT, page operations.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pte, index};
use xen_abi::hypercall::nr;
use xen_abi::xen::*;

use crate::call::*;
use crate::harness::{check, fault, need, same};

returns! {
    /// No operations, nothing to do.
    nothing(env): mmuext_batch(&[]) => (Ok(0), 0);
    /// A command that does not exist.
    unknown_command(env): mmuext(99, 0, 0) => Err(Errno::ENOSYS);
    /// The number between two commands.
    unassigned_command(env): mmuext(14, 0, 0) => Err(Errno::ENOSYS);
    /// Bad pointers.
    fault(env): all_fault(|at| hc4(nr::MMUEXT_OP, at, 1, 0, u64::from(DOMID_SELF))) => FAULTS;
    /// A domain that does not exist.
    unknown_domain(env): hc4(nr::MMUEXT_OP, env.page(0).virt(), 1, 0, u64::from(NO_DOMAIN)) => Err(Errno::ESRCH);
    /// Every flush that needs no argument.
    flushes(env): [MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_ALL].map(|cmd| mmuext(cmd, 0, 0)) => [Ok(0); 2];
    /// A flush of one page.
    invlpg(env): [MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_ALL].map(|cmd| mmuext(cmd, env.page(0).virt(), 0))
        => [Ok(0); 2];
    /// A flush of a page that has no address does nothing.
    invlpg_non_canonical(env): mmuext(MMUEXT_INVLPG_LOCAL, NON_CANONICAL, 0) => Ok(0);
    /// A flush on a set of CPUs, which is read from memory.
    flush_multi(env): {
        let cpus = 1u64;
        mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, &raw const cpus as u64)
    } => Ok(0);
    /// The set of CPUs lies at a bad address.
    flush_multi_fault(env): all_fault(|at| mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, at)) => [Err(Errno::EINVAL); 4];
    /// The cache flush of a domain with devices.
    flush_cache(env): mmuext(MMUEXT_FLUSH_CACHE, 0, 0) => Ok(0);
    /// No LDT.
    ldt_none(env): mmuext(MMUEXT_SET_LDT, 0, 0) => Ok(0);
    /// An LDT starts at a page.
    ldt_misaligned(env): mmuext(MMUEXT_SET_LDT, env.page(0).virt() + 8, 1) => Err(Errno::EINVAL);
    /// An LDT has at most 8192 entries.
    ldt_too_long(env): mmuext(MMUEXT_SET_LDT, env.page(0).virt(), 8193) => Err(Errno::EINVAL);
    /// An LDT does not lie in the hypervisor's part.
    ldt_hypervisor(env): mmuext(MMUEXT_SET_LDT, HYPERVISOR, 1) => Err(Errno::EINVAL);
    /// A root table must be one: this page is mapped for writing.
    base_of_a_writable_page(env): mmuext(MMUEXT_NEW_BASEPTR, env.page(0).mfn().0, 0) => Err(Errno::EINVAL);
    /// A frame that does not exist.
    base_without_frame(env): mmuext(MMUEXT_NEW_BASEPTR, NO_FRAME, 0) => Err(Errno::EINVAL);
    /// The current root, again.
    same_base(env): mmuext(MMUEXT_NEW_BASEPTR, env.boot.root_table().0, 0) => Ok(0);
    /// User mode's root must be a table, too.
    user_base_of_a_writable_page(env): mmuext(MMUEXT_NEW_USER_BASEPTR, env.page(0).mfn().0, 0)
        => Err(Errno::EINVAL);
    /// Frame 0 takes user mode's root away.
    no_user_base(env): mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0) => Ok(0);
    /// A frame that does not exist cannot be cleared.
    clear_without_frame(env): mmuext(MMUEXT_CLEAR_PAGE, NO_FRAME, 0) => Err(Errno::EINVAL);
    /// A table cannot be cleared.
    clear_table(env): mmuext(MMUEXT_CLEAR_PAGE, env.boot.root_table().0, 0) => Err(Errno::EINVAL);
    /// A table cannot be copied to.
    copy_to_table(env): mmuext(MMUEXT_COPY_PAGE, env.boot.root_table().0, env.page(0).mfn().0)
        => Err(Errno::EINVAL);
    /// A frame that does not exist cannot be copied from.
    copy_without_frame(env): mmuext(MMUEXT_COPY_PAGE, env.page(0).mfn().0, NO_FRAME) => Err(Errno::EINVAL);
    /// Superpages are not offered.
    mark_super(env): [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER].map(|cmd| mmuext(cmd, env.page(0).mfn().0, 0))
        => [Err(Errno::EOPNOTSUPP); 2];
}

case! {
    /// A cleared page is all zeros.
    fn clear_page(env) {
        let page = env.page(0);
        for word in 0..512 {
            page.set(word, u64::MAX);
        }
        same("clear", mmuext(MMUEXT_CLEAR_PAGE, page.mfn().0, 0), Ok(0))?;
        check("zeros", (0..512).all(|word| page.get(word) == 0))
    }
}

case! {
    /// A copied page has the source's contents.
    fn copy_page(env) {
        let (to, from) = (env.page(0), env.page(1));
        for word in 0..512 {
            from.set(word, word as u64 ^ 0xa5);
        }
        same("copy", mmuext(MMUEXT_COPY_PAGE, to.mfn().0, from.mfn().0), Ok(0))?;
        check("contents", (0..512).all(|word| to.get(word) == word as u64 ^ 0xa5))
    }
}

case! {
    /// Operations run in order up to the first that fails; the number of those done is reported.
    fn stops_at_the_first_error(env) {
        let page = env.page(0);
        page.set(0, 1);
        let op = |cmd, arg1| MmuextOp { cmd, arg1, ..MmuextOp::default() };
        let operations = [
            op(MMUEXT_TLB_FLUSH_LOCAL, 0),
            op(MMUEXT_CLEAR_PAGE, NO_FRAME),
            op(MMUEXT_CLEAR_PAGE, page.mfn().0),
        ];
        same("mmuext_op", mmuext_batch(&operations), (Err(Errno::EINVAL), 1))?;
        same("the last is not done", page.get(0), 1)
    }
}

case! {
    /// A kernel switches to another root that it built, sees what that maps, and comes back.
    fn switch_address_space(env) {
        const VIRT: u64 = 0x0000_1234_5678_9000;
        let [l1, l2, l3, l4, data] = [0, 1, 2, 3, 4].map(|at| env.page(at));
        data.set(2, 0xfeed);
        l1.set(index(VIRT, Level::L1), Pte::data(data.mfn()).0 | Pte::USER);
        l2.set(index(VIRT, Level::L2), Pte::table(l1.mfn()).0);
        l3.set(index(VIRT, Level::L3), Pte::table(l2.mfn()).0);
        l4.set(index(VIRT, Level::L4), Pte::table(l3.mfn()).0);
        // The kernel's own part, as the boot tables have it.
        let boot = guest_pv_lib::mmu::entry_address(&env.boot, env.boot.root_table(), l4.virt(), Level::L4);
        let kernel = boot.ok_or(crate::harness::Verdict::Error("no root entry"))?.1;
        l4.set(511, kernel.0);
        for table in [l1, l2, l3, l4] {
            need("read-only", table.read_only())?;
        }
        same("pin", mmuext(MMUEXT_PIN_L4_TABLE, l4.mfn().0, 0), Ok(0))?;
        same("switch", mmuext(MMUEXT_NEW_BASEPTR, l4.mfn().0, 0), Ok(0))?;
        let (seen, cr3) = (fault::read(VIRT + 16), fault::cr3());
        let unpinned = mmuext(MMUEXT_UNPIN_TABLE, l4.mfn().0, 0);
        let writable = l4.writable();
        same("back", mmuext(MMUEXT_NEW_BASEPTR, env.boot.root_table().0, 0), Ok(0))?;
        same("the mapping", seen, Ok(0xfeed))?;
        same("cr3", cr3.map(|cr3| cr3 >> 12), Ok(l4.mfn().0))?;
        same("a root in use can be unpinned", unpinned, Ok(0))?;
        same("but not written", writable, Err(Errno::EBUSY))?;
        same("free afterwards", l4.writable(), Ok(()))
    }
}
