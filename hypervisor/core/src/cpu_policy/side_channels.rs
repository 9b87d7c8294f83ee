//! Which mitigations against side channels of the processor are on.
//!
//! The decision is a function of what CPUID and `IA32_ARCH_CAPABILITIES` say and of the command line, with Xen's defaults and
//! spelling (Xen's `docs/misc/xen-command-line`, options `xpti`, `pv-l1tf`, `spec-ctrl`), so the host tests cover it. The
//! platform executes it:
//!
//! | mitigation | against | what is done |
//! |---|---|---|
//! | page-table isolation | Meltdown (XSA-254) | ring 3 runs on page tables without the hypervisor's memory |
//! | safe entries | L1TF (XSA-273) | a not-present entry that names cacheable memory ends its domain |
//! | IBPB | branch target injection (XSA-254) | a barrier when a CPU changes from one domain to another |
//! | VERW | MDS, TAA, RFDS (XSA-297, XSA-305, XSA-452) | buffers are overwritten on each way to a guest |

use core::fmt;

use super::Vendor;
use crate::page::pte;

/// What the processor says of itself, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who made it.
    pub vendor: Vendor,
    /// Display family (SDM Vol. 2, CPUID leaf 1).
    pub family: u32,
    /// Display model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Bits of a machine address (leaf 80000008h, EAX 7..0).
    pub address_bits: u32,
    /// Leaf 7, EDX.
    pub leaf7_edx: u32,
    /// Leaf 80000008h, EBX.
    pub ext8_ebx: u32,
    /// `IA32_ARCH_CAPABILITIES`; 0 where the processor has none.
    pub arch_capabilities: u64,
}

/// Leaf 7 EDX: VERW overwrites buffers.
const MD_CLEAR: u32 = 1 << 10;
/// Leaf 7 EDX: `IA32_SPEC_CTRL` and `IA32_PRED_CMD`.
const IBRSB: u32 = 1 << 26;
/// Leaf 7 EDX: `IA32_ARCH_CAPABILITIES`.
pub const ARCH_CAPABILITIES: u32 = 1 << 29;
/// Leaf 80000008h EBX, AMD: `IA32_PRED_CMD`.
const AMD_IBPB: u32 = 1 << 12;
/// `IA32_ARCH_CAPABILITIES`: not open to Meltdown and L1TF.
const RDCL_NO: u64 = 1 << 0;
/// `IA32_ARCH_CAPABILITIES`: not open to MDS.
const MDS_NO: u64 = 1 << 5;
/// `IA32_ARCH_CAPABILITIES`: VERW overwrites the register file, too.
const RFDS_CLEAR: u64 = 1 << 28;

impl Facts {
    /// Meltdown: every processor but AMD's and those that say otherwise.
    pub const fn has_meltdown(&self) -> bool {
        !matches!(self.vendor, Vendor::Amd) && self.arch_capabilities & RDCL_NO == 0
    }

    const fn is_intel_family_6(&self) -> bool {
        matches!(self.vendor, Vendor::Intel) && self.family == 6
    }

    /// L1TF: Intel's family 6 without the Atom and Knights lines. A model that is not known counts as open.
    pub const fn has_l1tf(&self) -> bool {
        let not_open = matches!(
            self.model,
            0x1c | 0x26
                | 0x27
                | 0x35
                | 0x36
                | 0x37
                | 0x4a
                | 0x4c
                | 0x4d
                | 0x5a
                | 0x5c
                | 0x5f
                | 0x7a
                | 0x57
                | 0x85
        );
        self.is_intel_family_6() && !not_open && self.arch_capabilities & RDCL_NO == 0
    }

    /// MDS: Intel's family 6, some models by stepping, without the oldest and newest Atoms. A model that is not known counts as open.
    pub const fn has_mds(&self) -> bool {
        let not_open = match self.model {
            0x1c | 0x26 | 0x27 | 0x35 | 0x36 | 0x7a => true,
            0x55 => self.stepping > 5,
            0x8e => self.stepping > 0xb,
            0x9e => self.stepping > 0xc,
            _ => false,
        };
        self.is_intel_family_6() && !not_open && self.arch_capabilities & MDS_NO == 0
    }

    /// Whether the processor has the barrier `IA32_PRED_CMD.IBPB`.
    pub const fn has_ibpb(&self) -> bool {
        self.leaf7_edx & IBRSB != 0 || self.ext8_ebx & AMD_IBPB != 0
    }

    /// Whether VERW overwrites any buffers.
    const fn has_clearing_verw(&self) -> bool {
        self.leaf7_edx & MD_CLEAR != 0 || self.arch_capabilities & RFDS_CLEAR != 0
    }

    /// Whether VERW overwrites buffers that this processor leaks from.
    const fn has_useful_verw(&self) -> bool {
        (self.leaf7_edx & MD_CLEAR != 0 && self.has_mds()) || self.arch_capabilities & RFDS_CLEAR != 0
    }

    /// Which not-present entries are safe from L1TF: those that name nothing cacheable. `end` is the end of what the memory map
    /// names.
    ///
    /// Caches of newer cores compare more address bits than the processor says it has: the first address beyond those is
    /// safe. Elsewhere the top quarter of the address space counts as empty, unless the memory map says otherwise.
    pub const fn safe_entries(&self, end: u64) -> SafeEntries {
        let cache_bits = match self.model {
            0x1a | 0x1e | 0x1f | 0x25 | 0x2c | 0x2e | 0x2f => 44,
            0x2a | 0x2d | 0x3a | 0x3c | 0x3d | 0x3e | 0x3f | 0x45 | 0x46 | 0x47 | 0x4e | 0x4f | 0x55
            | 0x56 | 0x5e | 0x66 | 0x67 | 0x8e | 0x9e => 46,
            _ => 0,
        };
        let wider = self.is_intel_family_6() && cache_bits > self.address_bits;
        let compared = if wider { cache_bits } else { self.address_bits };
        let guess = if wider { 1 << self.address_bits } else { 3 << (self.address_bits - 2) };
        SafeEntries { from: if end > guess { end } else { guess }, compared: (1 << compared) - 1 }
    }
}

/// Which not-present page-table entries a processor with L1TF cannot be made to read memory by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SafeEntries {
    /// The lowest machine address at which nothing cacheable lies.
    from: u64,
    /// The address bits that the cache compares.
    compared: u64,
}

impl SafeEntries {
    /// Whether a not-present entry of a table of `level` is one of them: it names machine address 0 or one that is high enough, and is no
    /// superpage, of which the processor would use the low bits as an address.
    pub const fn has(&self, level: u8, entry: u64) -> bool {
        let address = entry & pte::FRAME_MASK & self.compared;
        let superpage = level > 1 && entry & pte::PSE != 0;
        entry == 0 || !superpage && (address == 0 || address >= self.from)
    }
}

/// What the command line says of each mitigation; `None` is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `xpti=` for the first domain.
    pub xpti_dom0: Option<bool>,
    /// `xpti=` for all others.
    pub xpti_domu: Option<bool>,
    /// `pv-l1tf=` for the first domain.
    pub l1tf_dom0: Option<bool>,
    /// `pv-l1tf=` for all others.
    pub l1tf_domu: Option<bool>,
    /// `spec-ctrl=ibpb`.
    pub ibpb: Option<bool>,
    /// `spec-ctrl=md-clear` or `verw`.
    pub verw: Option<bool>,
}

impl Wishes {
    /// Applies `xpti=<list>`: `default`, a boolean, `dom0=<bool>`, `domu=<bool>`. `None`: the value makes no sense, and nothing
    /// changes.
    pub fn xpti(&mut self, list: &str) -> Option<()> {
        let mut new = *self;
        for word in list.split(',') {
            let (dom0, domu) = (&mut new.xpti_dom0, &mut new.xpti_domu);
            if word == "default" {
                (*dom0, *domu) = (None, None);
            } else {
                set_for_domains(word, dom0, domu)?;
            }
        }
        *self = new;
        Some(())
    }

    /// Applies `pv-l1tf=<list>`: a boolean, `dom0=<bool>`, `domu=<bool>`.
    pub fn l1tf(&mut self, list: &str) -> Option<()> {
        let mut new = *self;
        for word in list.split(',') {
            set_for_domains(word, &mut new.l1tf_dom0, &mut new.l1tf_domu)?;
        }
        *self = new;
        Some(())
    }

    /// Applies `spec-ctrl=<list>`. A boolean that is false turns everything off, except what was asked for by its own option; Xen
    /// takes no true one. `xen=<bool>` is the same for `ibpb` and VERW alone. The words for what this hypervisor does not have are
    /// refused.
    pub fn spec_ctrl(&mut self, list: &str) -> Option<()> {
        let mut new = *self;
        for word in list.split(',') {
            match split(word)? {
                ("", false) => {
                    (new.ibpb, new.verw) = (Some(false), Some(false));
                    for wish in
                        [&mut new.xpti_dom0, &mut new.xpti_domu, &mut new.l1tf_dom0, &mut new.l1tf_domu]
                    {
                        *wish = wish.or(Some(false));
                    }
                }
                ("xen", on) => (new.ibpb, new.verw) = (Some(on), Some(on)),
                ("pv" | "md-clear" | "verw", on) => new.verw = Some(on),
                ("ibpb", on) => new.ibpb = Some(on),
                _ => return None,
            }
        }
        *self = new;
        Some(())
    }
}

/// One word of a list for the two kinds of domains.
fn set_for_domains(word: &str, dom0: &mut Option<bool>, domu: &mut Option<bool>) -> Option<()> {
    match split(word)? {
        ("", on) => (*dom0, *domu) = (Some(on), Some(on)),
        ("dom0", on) => *dom0 = Some(on),
        ("domu" | "domU", on) => *domu = Some(on),
        _ => return None,
    }
    Some(())
}

/// `name`, `no-name`, `name=<bool>`, or a boolean alone with an empty name.
fn split(word: &str) -> Option<(&str, bool)> {
    if let Some(on) = crate::options::parse_bool(word) {
        return Some(("", on));
    }
    match word.split_once('=') {
        Some((name, value)) => Some((name, crate::options::parse_bool(value)?)),
        None => Some(word.strip_prefix("no-").map_or((word, true), |name| (name, false))),
    }
}

/// Which mitigations are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mitigations {
    /// The first domain runs on page tables without the hypervisor's memory.
    pub isolate_dom0: bool,
    /// The others do.
    pub isolate_domu: bool,
    /// The first domain's not-present entries are judged.
    pub l1tf_dom0: bool,
    /// The others' are.
    pub l1tf_domu: bool,
    /// What their not-present entries may be.
    pub safe_entries: SafeEntries,
    /// A CPU executes IBPB when it changes from one domain to another.
    pub ibpb: bool,
    /// The processor has no IBPB, which it would execute otherwise: counted, not executed.
    pub ibpb_missing: bool,
    /// VERW is executed on each way to a guest.
    pub verw: bool,
    /// It overwrites nothing on this processor.
    pub verw_missing: bool,
}

impl Mitigations {
    /// All off.
    pub const NONE: Self = Self {
        isolate_dom0: false,
        isolate_domu: false,
        l1tf_dom0: false,
        l1tf_domu: false,
        safe_entries: SafeEntries { from: 0, compared: 0 },
        ibpb: false,
        ibpb_missing: false,
        verw: false,
        verw_missing: false,
    };

    /// The decision. `memory_end` is the end of what the memory map names.
    pub fn decide(facts: &Facts, wishes: &Wishes, memory_end: u64) -> Self {
        let ibpb = wishes.ibpb.unwrap_or(true);
        let verw = wishes.verw.unwrap_or(facts.has_useful_verw());
        Self {
            isolate_dom0: wishes.xpti_dom0.unwrap_or(facts.has_meltdown()),
            isolate_domu: wishes.xpti_domu.unwrap_or(facts.has_meltdown()),
            l1tf_dom0: wishes.l1tf_dom0.unwrap_or(false),
            l1tf_domu: wishes.l1tf_domu.unwrap_or(facts.has_l1tf()),
            safe_entries: facts.safe_entries(memory_end),
            ibpb: ibpb && facts.has_ibpb(),
            ibpb_missing: ibpb && !facts.has_ibpb(),
            verw,
            verw_missing: verw && !facts.has_clearing_verw(),
        }
    }

    /// Whether a domain runs on isolated page tables.
    pub const fn isolates(&self, first_domain: bool) -> bool {
        if first_domain { self.isolate_dom0 } else { self.isolate_domu }
    }

    /// Whether any domain does.
    pub const fn isolates_any(&self) -> bool {
        self.isolate_dom0 || self.isolate_domu
    }

    /// What a domain's not-present entries may be; `None` where they are not judged.
    pub fn safe_entries(&self, first_domain: bool) -> Option<SafeEntries> {
        let judged = if first_domain { self.l1tf_dom0 } else { self.l1tf_domu };
        judged.then_some(self.safe_entries)
    }
}

/// How often barriers were due; on a processor that does not have one, how often it would have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barriers {
    /// Which are on.
    pub mitigations: Mitigations,
    /// Changes of a CPU from one domain to another: IBPB.
    pub ibpb: u64,
    /// Ways to a guest: VERW.
    pub verw: u64,
}

impl fmt::Display for Barriers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.mitigations;
        let parts = [
            ("IBPB", m.ibpb || m.ibpb_missing, m.ibpb_missing, self.ibpb),
            ("VERW", m.verw, m.verw_missing, self.verw),
        ];
        for (n, (name, on, missing, count)) in parts.into_iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            match (on, missing) {
                (false, _) => write!(f, "{separator}{name} off")?,
                (true, false) => write!(f, "{separator}{name} executed {count} times")?,
                (true, true) => write!(
                    f,
                    "{separator}{name} would execute {count} times, never run: not in this processor"
                )?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn barriers_that_the_processor_has_not_are_marked() {
        let wished = Wishes { verw: Some(true), ..Wishes::default() };
        let none = Facts { leaf7_edx: 0, ..HASWELL };
        let line = |facts: &Facts, wishes: &Wishes| {
            Barriers { mitigations: Mitigations::decide(facts, wishes, 0), ibpb: 3, verw: 4 }.to_string()
        };
        assert_eq!(line(&HASWELL, &Wishes::default()), "IBPB executed 3 times; VERW executed 4 times");
        assert_eq!(
            line(&none, &wished),
            "IBPB would execute 3 times, never run: not in this processor; \
             VERW would execute 4 times, never run: not in this processor"
        );
        let off = Wishes { ibpb: Some(false), verw: Some(false), ..Wishes::default() };
        assert_eq!(line(&none, &off), "IBPB off; VERW off");
    }

    const AMD: Facts = Facts {
        vendor: Vendor::Amd,
        family: 0x19,
        model: 1,
        stepping: 1,
        address_bits: 48,
        leaf7_edx: 0,
        ext8_ebx: AMD_IBPB,
        arch_capabilities: 0,
    };
    const HASWELL: Facts = Facts {
        vendor: Vendor::Intel,
        family: 6,
        model: 0x3c,
        stepping: 3,
        address_bits: 39,
        leaf7_edx: MD_CLEAR | IBRSB,
        ext8_ebx: 0,
        arch_capabilities: 0,
    };
    const ICE_LAKE: Facts = Facts {
        model: 0x6a,
        address_bits: 46,
        leaf7_edx: MD_CLEAR | IBRSB | ARCH_CAPABILITIES,
        arch_capabilities: RDCL_NO | MDS_NO,
        ..HASWELL
    };

    fn decide(facts: &Facts, set: impl FnOnce(&mut Wishes) -> Option<()>) -> Mitigations {
        let mut wishes = Wishes::default();
        set(&mut wishes).expect("the value makes sense");
        Mitigations::decide(facts, &wishes, 1 << 30)
    }

    fn default(facts: &Facts) -> Mitigations {
        decide(facts, |_| Some(()))
    }

    #[test]
    fn defaults_follow_the_processor() {
        let old = default(&HASWELL);
        assert!(
            old.isolate_dom0 && old.isolate_domu && !old.l1tf_dom0 && old.l1tf_domu && old.ibpb && old.verw
        );
        let amd = default(&AMD);
        assert!(!amd.isolates_any() && !amd.l1tf_domu && amd.ibpb && !amd.verw);
        let new = default(&ICE_LAKE);
        assert!(!new.isolates_any() && !new.l1tf_domu && new.ibpb && !new.verw);
    }

    #[test]
    fn steppings_decide_about_mds() {
        let cascade_lake = |stepping| Facts { model: 0x55, stepping, ..HASWELL };
        assert!(default(&cascade_lake(5)).verw);
        assert!(!default(&cascade_lake(6)).verw);
        let rfds = Facts { arch_capabilities: RDCL_NO | MDS_NO | RFDS_CLEAR, ..HASWELL };
        assert!(default(&rfds).verw, "the register file leaks where the other buffers do not");
    }

    #[test]
    fn a_missing_barrier_is_told_apart_from_one_that_is_off() {
        let none = Facts { leaf7_edx: MD_CLEAR, ..HASWELL };
        let m = default(&none);
        assert!(!m.ibpb && m.ibpb_missing);
        let off = decide(&none, |w| w.spec_ctrl("no-ibpb"));
        assert!(!off.ibpb && !off.ibpb_missing);
    }

    #[test]
    fn safe_not_present_entries() {
        let wide = HASWELL.safe_entries(1 << 30);
        assert!(wide.has(1, 0) && wide.has(1, 0xffe), "no address");
        assert!(!wide.has(1, 0x1000) && !wide.has(1, (1 << 39) - 4096));
        assert!(wide.has(1, 1 << 39), "the cache compares more bits than the processor has");
        assert!(!wide.has(1, 1 << 47 | 0x1000), "but not all of them");
        assert!(wide.has(2, 1 << 40) && !wide.has(2, 1 << 40 | pte::PSE));
        assert!(wide.has(1, 1 << 40 | pte::PAT), "no superpage there");
        // Linux inverts the address bits of its swap entries.
        assert!(wide.has(1, !0x1234_5000 & pte::FRAME_MASK));
        let same = ICE_LAKE.safe_entries(1 << 30);
        assert!(!same.has(1, (3 << 44) - 4096) && same.has(1, 3 << 44));
        let end = (1 << 46) - 4096;
        assert!(!ICE_LAKE.safe_entries(end).has(1, end - 4096), "memory in the top quarter");
        let m = default(&HASWELL);
        assert_eq!((m.safe_entries(true), m.safe_entries(false)), (None, Some(wide)));
    }

    #[test]
    fn xpti_is_spelt_as_xens() {
        let m = |list: &'static str| {
            let m = decide(&HASWELL, |w| w.xpti(list));
            (m.isolate_dom0, m.isolate_domu)
        };
        assert_eq!(m("no"), (false, false));
        assert_eq!(m("dom0=off"), (false, true));
        assert_eq!(m("no-domu"), (true, false));
        assert_eq!(m("no,domu=1"), (false, true));
        assert_eq!(m("no,default"), (true, true));
        let mut wishes = Wishes::default();
        assert_eq!(wishes.xpti("dom0=off,dom7=on"), None);
        assert_eq!(wishes, Wishes::default(), "a refused list changes nothing");
        assert!(decide(&AMD, |w| w.xpti("yes")).isolates_any());
    }

    #[test]
    fn spec_ctrl_off_leaves_what_was_asked_for() {
        let m = decide(&HASWELL, |w| w.spec_ctrl("no"));
        assert_eq!(m, Mitigations { safe_entries: HASWELL.safe_entries(0), ..Mitigations::NONE });
        let m = decide(&HASWELL, |w| w.xpti("dom0").and_then(|()| w.spec_ctrl("off")));
        assert!(m.isolate_dom0 && !m.isolate_domu && !m.ibpb && !m.verw);
        assert!(Wishes::default().spec_ctrl("yes").is_none());
        assert!(Wishes::default().spec_ctrl("bti-thunk=lfence").is_none());
    }
}
