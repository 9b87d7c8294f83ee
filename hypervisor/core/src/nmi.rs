//! NMIs of the platform: noted where no lock may be taken, judged later.
//!
//! An NMI arrives between any two instructions, also while its CPU holds the console's lock. Its handler therefore only adds to one
//! word of its CPU ([`NmiNotes`]) and raises [`Work::PLATFORM_NMI`]; on the way to a guest, or before it halts, the CPU takes the
//! word and does what `nmi=` asks for ([`Hypervisor::platform_nmis`]). With `nmi=fatal` the handler ends the machine itself.

use crate::Hypervisor;
use crate::domain::{VcpuFlags, VcpuRef};
use crate::hypercall::nmi_reasons;
use crate::ids::{CpuId, DomId, VcpuId};
use crate::options::NmiPolicy;
use crate::platform::{Platform, Work};
use bitflags::bitflags;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::nmi::{XEN_NMIREASON_IO_ERROR, XEN_NMIREASON_PCI_SERR, XEN_NMIREASON_UNKNOWN};

bitflags! {
    /// Why NMIs came: the bits of `arch_shared_info.nmi_reason` (nmi.h). None for an NMI at a CPU that the platform's line does not
    /// lead to.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct NmiReasons: u64 {
        /// I/O check: port 0x61, bit 6.
        const IO_CHECK = XEN_NMIREASON_IO_ERROR;
        /// PCI system error: port 0x61, bit 7.
        const SYSTEM_ERROR = XEN_NMIREASON_PCI_SERR;
        /// The platform does not say.
        const UNKNOWN = XEN_NMIREASON_UNKNOWN;
    }
}

impl NmiReasons {
    /// What port 0x61 says of an NMI at the CPU that the platform's line leads to.
    pub fn of_port_61(value: u8) -> Self {
        let mut reasons = Self::empty();
        reasons.set(Self::IO_CHECK, value & 1 << 6 != 0);
        reasons.set(Self::SYSTEM_ERROR, value & 1 << 7 != 0);
        if reasons.is_empty() { Self::UNKNOWN } else { reasons }
    }
}

impl fmt::Display for NmiReasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::SYSTEM_ERROR, "PCI system error (SERR)"),
            (Self::IO_CHECK, "I/O check error"),
            (Self::UNKNOWN, "unknown reason"),
        ];
        if self.is_empty() {
            return f.write_str("not from the platform's line");
        }
        let mut between = "";
        for (_, name) in names.iter().filter(|(reason, _)| self.contains(*reason)) {
            write!(f, "{between}{name}")?;
            between = ", ";
        }
        Ok(())
    }
}

/// NMIs of one CPU that were taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// How many came.
    pub count: u32,
    /// Why.
    pub reasons: NmiReasons,
}

/// The NMIs of one CPU that wait to be judged: one word, the count in its lower half and the reasons in its upper one.
#[derive(Debug, Default)]
pub struct NmiNotes(AtomicU64);

impl NmiNotes {
    /// None came.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one. For an NMI handler: no lock, and no wait for another CPU.
    pub fn note(&self, reasons: NmiReasons) {
        let add = |word: u64| {
            let count = (word as u32).saturating_add(1);
            Some(word & !0xffff_ffff | reasons.bits() << 32 | u64::from(count))
        };
        // The closure always answers `Some`.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes them; `None` when there are none.
    pub fn take(&self) -> Option<Noted> {
        let word = self.0.swap(0, Ordering::Relaxed);
        let reasons = NmiReasons::from_bits_truncate(word >> 32);
        (word != 0).then_some(Noted { count: word as u32, reasons })
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Does what `nmi=` asks for about NMIs that arrived at a CPU: says so, and with `nmi=dom0` tells the control domain's first vCPU.
    pub fn platform_nmis(&self, cpu: CpuId, noted: Noted) {
        let Noted { count, reasons } = noted;
        match count {
            1 => self.log(format_args!("NMI on {cpu}: {reasons}\n")),
            _ => self.log(format_args!("{count} NMIs on {cpu}: {reasons}\n")),
        }
        if self.options.nmi != NmiPolicy::Dom0 || reasons.is_empty() {
            return;
        }
        let Some(dom0) = self.domains.get(DomId(0)) else { return };
        nmi_reasons(self, &dom0).fetch_or(reasons.bits(), Ordering::SeqCst);
        self.raise_nmi(&VcpuRef { domain: dom0, id: VcpuId(0) });
    }

    /// Makes an NMI pending at a vCPU; one that is pending already is the same.
    pub(crate) fn raise_nmi(&self, target: &VcpuRef<P>) {
        let pending = VcpuFlags::NMI_PENDING.bits();
        if target.vcpu().pv.flags.fetch_or(pending, Ordering::SeqCst) & pending == 0 {
            self.kick(target);
            // A CPU that takes the vCPU later finds the flag by itself.
            self.platform.raise_work(CpuId(target.vcpu().cpu.load(Ordering::SeqCst)), Work::NMI);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock;
    use alloc::string::{String, ToString};
    use proptest::prelude::*;

    #[test]
    fn port_61_says_why() {
        assert_eq!(NmiReasons::of_port_61(0x30), NmiReasons::UNKNOWN);
        assert_eq!(NmiReasons::of_port_61(0x40), NmiReasons::IO_CHECK);
        assert_eq!(NmiReasons::of_port_61(0xff), NmiReasons::IO_CHECK | NmiReasons::SYSTEM_ERROR);
        assert_eq!(NmiReasons::of_port_61(0xc0).to_string(), "PCI system error (SERR), I/O check error");
        assert_eq!(NmiReasons::empty().to_string(), "not from the platform's line");
    }

    /// What the hypervisor says and dom0 gets, by policy.
    #[test]
    fn the_option_decides() {
        for (nmi, told) in [(NmiPolicy::Dom0, true), (NmiPolicy::Ignore, false)] {
            let (mut hv, dom0) = mock::machine_with_domain(64);
            hv.options.nmi = nmi;
            let vcpu = dom0.vcpu(VcpuId(0)).expect("a vCPU");
            let reasons = || nmi_reasons(&hv, &dom0).load(Ordering::SeqCst);
            // One at a CPU that the platform's line does not lead to is nothing for dom0.
            hv.platform_nmis(CpuId(1), Noted { count: 1, reasons: NmiReasons::empty() });
            assert_eq!((reasons(), vcpu.pv.has_flags(VcpuFlags::NMI_PENDING)), (0, false));
            hv.platform_nmis(CpuId(0), Noted { count: 1, reasons: NmiReasons::IO_CHECK });
            hv.platform_nmis(CpuId(0), Noted { count: 7, reasons: NmiReasons::UNKNOWN });
            assert_eq!(reasons(), if told { 0b101 } else { 0 });
            assert_eq!(vcpu.pv.has_flags(VcpuFlags::NMI_PENDING), told);
            let raised = hv.platform.record.lock().unwrap().raised.clone();
            assert_eq!(raised.iter().any(|(_, work)| work.contains(Work::NMI)), told);
            let said = String::from_utf8_lossy(&hv.platform.record.lock().unwrap().console).into_owned();
            assert!(said.contains("(HV) NMI on "), "{said}");
            assert!(said.contains("7 NMIs on ") && said.contains(": unknown reason"), "{said}");
        }
    }

    proptest! {
        /// Nothing noted is lost or taken twice, in whatever order notes and takes come.
        #[test]
        fn notes_are_taken_once(steps in prop::collection::vec(prop::option::of(0u64..8), 0..60)) {
            let notes = NmiNotes::new();
            let (mut count, mut reasons) = (0, 0);
            for step in steps {
                match step {
                    Some(bits) => {
                        notes.note(NmiReasons::from_bits_truncate(bits));
                        (count, reasons) = (count + 1, reasons | bits);
                    }
                    None => {
                        let expected = Noted { count, reasons: NmiReasons::from_bits_truncate(reasons) };
                        prop_assert_eq!(notes.take(), (count != 0).then_some(expected));
                        (count, reasons) = (0, 0);
                    }
                }
            }
        }
    }
}
