//! `update_va_mapping` and `update_va_mapping_otherdomain` (xen.h): one level-1 entry, named by its address.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, UVMF_ALL, UVMF_INVLPG, UVMF_MULTI, UVMF_TLB_FLUSH};

use crate::call::{HYPERVISOR, NO_DOMAIN, NO_FRAME, NON_CANONICAL, UNMAPPED, hc4, va_mapping};
use crate::harness::fault::{self, Fault, page_fault};
use crate::harness::{need, same};

returns! {
    /// A frame beyond the machine's memory is taken for a device's, and this is none that the domain may use.
    no_such_frame(env): va_mapping(env.page(0).virt(), NO_FRAME << 12 | 3, UVMF_INVLPG) => Err(Errno::EPERM);
    /// An address where no level-1 table exists.
    no_table(env): va_mapping(UNMAPPED, Pte::data(env.page(0).mfn()).0, UVMF_INVLPG) => Err(Errno::EINVAL);
    /// An address that cannot be translated at all.
    non_canonical(env): va_mapping(NON_CANONICAL, Pte::data(env.page(0).mfn()).0, UVMF_INVLPG)
        => Err(Errno::EINVAL);
    /// The hypervisor's own part of the address space.
    hypervisor_address(env): va_mapping(HYPERVISOR, Pte::data(env.page(0).mfn()).0, UVMF_INVLPG)
        => Err(Errno::EINVAL);
    /// A writable mapping of the root table (direct paging: no page is writable and a table at once).
    root_table_writable(env): va_mapping(env.page(0).virt(), Pte::data(env.boot.root_table()).0, UVMF_INVLPG)
        => Err(Errno::EBUSY);
    /// A readable mapping of a table is what kernels read their tables by.
    root_table_readable(env): va_mapping(env.page(0).virt(), Pte::read_only(env.boot.root_table()).0, UVMF_INVLPG)
        => Ok(0);
    /// A readable mapping of one's own page.
    read_only(env): va_mapping(env.page(0).virt(), Pte::read_only(env.page(0).mfn()).0, UVMF_INVLPG) => Ok(0);
    /// An entry that maps nothing.
    empty(env): va_mapping(env.page(0).virt(), 0, UVMF_INVLPG) => Ok(0);
    /// Every flag of an entry that guests may use: available bits, cache control.
    allowed_flags(env): va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0 | 0xe00, UVMF_INVLPG) => Ok(0);
    /// A flush of everything.
    flush_all(env): va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0, UVMF_TLB_FLUSH | UVMF_ALL)
        => Ok(0);
    /// The set of CPUs to flush lies at a bad address: the entry is changed, the call fails.
    flush_mask_fault(env): va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0,
        UVMF_INVLPG | UVMF_MULTI | NON_CANONICAL) => Err(Errno::EFAULT);
    /// The fourth argument names a domain that does not exist.
    other_domain_unknown(env): hc4(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, env.page(0).virt(),
        Pte::data(env.page(0).mfn()).0, UVMF_INVLPG, u64::from(NO_DOMAIN)) => Err(Errno::ESRCH);
    /// The other domain may be oneself.
    other_domain_self(env): hc4(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, env.page(0).virt(),
        Pte::data(env.page(0).mfn()).0, UVMF_INVLPG, u64::from(DOMID_SELF)) => Ok(0);
}

case! {
    /// The entry takes effect: another frame shows at the address, and writes go there.
    fn takes_effect(env) {
        let (place, other) = (env.page(0), env.page(1));
        place.set(3, 1);
        other.set(3, 2);
        need("map", place.map(Pte::data(other.mfn())))?;
        same("read", place.get(3), 2)?;
        place.set(3, 4);
        same("write", other.get(3), 4)
    }
}

case! {
    /// A page mapped for reading faults on a write, with the address and the reason, and reads on.
    fn write_to_read_only(env) {
        let page = env.page(0);
        page.set(5, 55);
        need("map", page.read_only())?;
        let fault = fault::write(page.virt() + 40, 1);
        same("write", fault, Err(Fault::page(page_fault::PRESENT | page_fault::WRITE, page.virt() + 40)))?;
        same("read", fault::read(page.virt() + 40), Ok(55))
    }
}

case! {
    /// An address without an entry faults, with the address and the reason.
    fn access_to_nothing(env) {
        let page = env.page(0);
        need("unmap", page.map(Pte::EMPTY))?;
        same("read", fault::read(page.virt() + 16), Err(Fault::page(0, page.virt() + 16)))?;
        same("write", fault::write(page.virt() + 24, 1), Err(Fault::page(page_fault::WRITE, page.virt() + 24)))
    }
}
