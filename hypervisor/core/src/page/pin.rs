//! What keeps tables alive: pins, and the base pointers of vCPUs.

use super::info::{PageType, Type};
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu};
use crate::ids::Mfn;
use crate::platform::{GuestFrame, Platform};
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

impl<P: Platform> Hypervisor<P> {
    /// Checks a table as `t` and keeps its type until it is unpinned.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] when it is pinned already, what the table is refused for, [`PageError::Restart`].
    pub fn pin_table(&self, domain: &Domain<P>, mfn: Mfn, t: PageType) -> Result<(), PageError> {
        self.work_off_doomed(domain)?;
        self.get_typed(domain, mfn, t)?;
        let info = self.known_frame(mfn);
        if info.type_.fetch_or(Type::PINNED, AcqRel) & Type::PINNED != 0 {
            self.put_table(domain, mfn);
            return Err(PageError::BadEntry);
        }
        Ok(())
    }

    /// Takes the pin of a table away; without other users it is given up.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] when it is not pinned, or what the frame is refused for.
    pub fn unpin_table(&self, domain: &Domain<P>, mfn: Mfn) -> Result<(), PageError> {
        self.get_page(domain.id, mfn)?;
        let info = self.known_frame(mfn);
        let unpin = |word: u64| (word & Type::PINNED != 0).then_some(word & !Type::PINNED);
        let pinned = info.type_.fetch_update(AcqRel, Relaxed, unpin).is_ok();
        if pinned {
            self.put_table(domain, mfn);
        }
        self.put_page(mfn);
        if pinned { Ok(()) } else { Err(PageError::BadEntry) }
    }

    /// Makes `mfn` the calling vCPU's kernel address space and loads it. The one before is dropped.
    ///
    /// # Errors
    /// What the table is refused for, [`PageError::Restart`]; the old one stays then.
    pub fn new_baseptr(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, mfn: Mfn) -> Result<(), PageError> {
        if vcpu.pv.guest_table.get() == Some(mfn) {
            self.reload_page_tables(vcpu);
            return Ok(());
        }
        let root = self.take_root(domain, mfn)?;
        self.show_m2p(root.mfn());
        let old = vcpu.pv.guest_table.replace(Some(root));
        self.reload_page_tables(vcpu);
        if vcpu.pv.ldt_entries.load(Relaxed) != 0 {
            self.find_ldt_pages(domain, vcpu);
            self.platform.load_descriptor_tables(vcpu);
        }
        if let Some(old) = old {
            self.put_root(domain, old);
        }
        Ok(())
    }

    /// Makes `mfn` the calling vCPU's user address space, for its next return to user mode; `None`: it has none.
    ///
    /// # Errors
    /// As [`Hypervisor::new_baseptr`].
    pub fn new_user_baseptr(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        mfn: Option<Mfn>,
    ) -> Result<(), PageError> {
        if vcpu.pv.guest_table_user.get() == mfn {
            return Ok(());
        }
        let root = mfn.map(|mfn| self.take_root(domain, mfn)).transpose()?;
        if let Some(old) = vcpu.pv.guest_table_user.replace(root) {
            self.put_root(domain, old);
        }
        Ok(())
    }

    /// Gives a vCPU that does not run yet its first kernel address space.
    ///
    /// # Errors
    /// As [`Hypervisor::new_baseptr`]; [`PageError::BadEntry`] when it has one.
    pub fn set_first_baseptr(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, mfn: Mfn) -> Result<(), PageError> {
        let root = self.take_root(domain, mfn)?;
        vcpu.pv.guest_table.put_first(root).map_err(|root| {
            self.put_root(domain, root);
            PageError::BadEntry
        })?;
        self.show_m2p(mfn);
        Ok(())
    }

    /// Lets the kernel that runs on this L4 table read the machine-to-physical table.
    fn show_m2p(&self, l4: Mfn) {
        let slot = self.platform.hypervisor_l4_slots()[0];
        self.platform.words(GuestFrame::held(l4))[pte::M2P_SLOT].store(slot, Release);
    }

    /// Drops everything that a vCPU holds: address spaces and descriptor tables. It does not run any more.
    pub fn drop_vcpu_tables(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        for slot in [&vcpu.pv.guest_table, &vcpu.pv.guest_table_user] {
            if let Some(root) = slot.replace(None) {
                self.put_root(domain, root);
            }
        }
        self.drop_gdt(vcpu);
        self.drop_ldt(domain, vcpu);
    }
}
