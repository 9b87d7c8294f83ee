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
        let old = vcpu.pv.guest_table.load(Relaxed);
        if old != mfn.0 {
            self.work_off_doomed(domain)?;
            self.get_typed(domain, mfn, PageType::L4)?;
            self.show_m2p(mfn);
            vcpu.pv.guest_table.store(mfn.0, Relaxed);
        }
        self.reload_page_tables(vcpu);
        if old != mfn.0 {
            if vcpu.pv.ldt_entries.load(Relaxed) != 0 {
                self.find_ldt_pages(domain, vcpu);
                self.platform.load_descriptor_tables(vcpu);
            }
            if old != 0 {
                self.put_table(domain, Mfn(old));
            }
        }
        Ok(())
    }

    /// Makes `mfn` the calling vCPU's user address space, for its next return to user mode; 0 for none.
    ///
    /// # Errors
    /// As [`Hypervisor::new_baseptr`].
    pub fn new_user_baseptr(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, mfn: Mfn) -> Result<(), PageError> {
        let old = vcpu.pv.guest_table_user.load(Relaxed);
        if old == mfn.0 {
            return Ok(());
        }
        if mfn.0 != 0 {
            self.work_off_doomed(domain)?;
            self.get_typed(domain, mfn, PageType::L4)?;
        }
        vcpu.pv.guest_table_user.store(mfn.0, Relaxed);
        if old != 0 {
            self.put_table(domain, Mfn(old));
        }
        Ok(())
    }

    /// Gives a vCPU that does not run yet its first kernel address space.
    ///
    /// # Errors
    /// As [`Hypervisor::new_baseptr`]; [`PageError::BadEntry`] when it has one.
    pub fn set_first_baseptr(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, mfn: Mfn) -> Result<(), PageError> {
        self.work_off_doomed(domain)?;
        self.get_typed(domain, mfn, PageType::L4)?;
        if vcpu.pv.guest_table.compare_exchange(0, mfn.0, AcqRel, Relaxed).is_err() {
            self.put_table(domain, mfn);
            return Err(PageError::BadEntry);
        }
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
        for table in [&vcpu.pv.guest_table, &vcpu.pv.guest_table_user] {
            match table.swap(0, AcqRel) {
                0 => {}
                mfn => self.put_table(domain, Mfn(mfn)),
            }
        }
        self.drop_gdt(vcpu);
        self.drop_ldt(domain, vcpu);
    }
}
