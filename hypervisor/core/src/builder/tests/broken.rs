//! Each way in which a boot module can be wrong gives its own sentence.

use super::*;
use std::string::ToString;

fn refused(image: &Image) -> BuildError {
    refused_bytes(&image.build())
}

fn refused_bytes(image: &[u8]) -> BuildError {
    let error = outcome(image).err().expect("a refusal");
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() > 20, "one clear line: {line}");
    error
}

fn bad_note(name: &'static str, value: u64) -> BuildError {
    BuildError::BadNote { name, value }
}

#[test]
fn not_a_kernel_at_all() {
    assert_eq!(refused_bytes(b""), BuildError::NotAKernel);
    assert_eq!(refused_bytes(&[0; 4096]), BuildError::NotAKernel);
    assert_eq!(refused_bytes(b"\x7fELF"), BuildError::BadElf("its header makes no sense"));
}

#[test]
fn truncated_elf() {
    let file = Image::linux().build();
    for length in 4..file.len() - 1 {
        if length % 61 == 0 || length < 700 {
            let error = outcome(&file[..length]).err().expect("a refusal");
            assert!(matches!(error, BuildError::BadElf(_) | BuildError::NoXenNotes), "{length}: {error}");
        }
    }
}

#[test]
fn other_machines() {
    assert_eq!(refused(&Image { machine: 183, ..Image::linux() }), BuildError::WrongMachine);
    let mut file = Image::linux().build();
    file[16] = 1;
    assert_eq!(refused_bytes(&file), BuildError::BadElf("it is not an executable"));
}

#[test]
fn no_xen_notes() {
    assert_eq!(refused(&Image { notes: vec![], ..Image::linux() }), BuildError::NoXenNotes);
}

#[test]
fn notes_for_somebody_else() {
    let image = Image::linux();
    assert_eq!(
        refused(&image.clone().with(XEN_ELFNOTE_XEN_VERSION, text("xen-4.0"))),
        BuildError::WrongXenVersion
    );
    assert_eq!(refused(&image.clone().without(XEN_ELFNOTE_XEN_VERSION)), BuildError::WrongXenVersion);
    let nobody = image.clone().without(XEN_ELFNOTE_GUEST_OS).with(XEN_ELFNOTE_LOADER, text("other"));
    assert_eq!(refused(&nobody), BuildError::BadNoteText { name: "LOADER" });
    let garbage = image.clone().with(XEN_ELFNOTE_FEATURES, vec![0xff, 0xfe]);
    assert_eq!(refused(&garbage), BuildError::BadNoteText { name: "FEATURES" });
    assert_eq!(
        refused(&image.with(XEN_ELFNOTE_SUPPORTED_FEATURES, vec![1, 0, 0, 0])),
        BuildError::NotForDom0
    );
}

#[test]
fn features_that_are_not_there() {
    let image = |list| Image::linux().with(XEN_ELFNOTE_FEATURES, text(list));
    assert_eq!(refused(&image("!auto_translated_physmap")), BuildError::FeatureRequired(2));
    assert_eq!(refused(&image("!telepathy")), BuildError::UnknownFeatureRequired);
    assert!(
        outcome(&image("telepathy||auto_translated_physmap|").build()).is_ok(),
        "merely supported is fine"
    );
}

#[test]
fn absurd_addresses() {
    let image = |kind, value| refused(&Image::linux().with(kind, word(value)));
    assert_eq!(image(XEN_ELFNOTE_VIRT_BASE, BASE + 1), bad_note("VIRT_BASE", BASE + 1));
    assert_eq!(image(XEN_ELFNOTE_VIRT_BASE, !0xfff), bad_note("VIRT_BASE", !0xfff));
    assert_eq!(image(XEN_ELFNOTE_ENTRY, 0), bad_note("ENTRY", 0));
    assert_eq!(image(XEN_ELFNOTE_ENTRY, BASE + LOAD + 0x9555), bad_note("ENTRY", BASE + LOAD + 0x9555));
    assert_eq!(image(XEN_ELFNOTE_PADDR_OFFSET, LOAD + 1), bad_note("PADDR_OFFSET", LOAD + 1));
    let hypercall = BASE + LOAD + 0x1008;
    assert_eq!(image(XEN_ELFNOTE_HYPERCALL_PAGE, hypercall), bad_note("HYPERCALL_PAGE", hypercall));
    assert_eq!(image(XEN_ELFNOTE_HYPERCALL_PAGE, 0), bad_note("HYPERCALL_PAGE", 0));
    let hole = 0xffff_8800_0000_0000;
    assert_eq!(image(XEN_ELFNOTE_HV_START_LOW, hole), bad_note("HV_START_LOW", hole));
    for p2m in [P2M + 8, BASE + LOAD, BASE, 0xffff_8000_0000_0000, 0x8000_0000_0000, 0x7fff_ffff_f000, !0xfff]
    {
        let error = image(XEN_ELFNOTE_INIT_P2M, p2m);
        assert!(
            error == bad_note("INIT_P2M", p2m) || error == BuildError::LayoutTooLarge,
            "{p2m:#x}: {error}"
        );
    }
    let lonely = Image::small().without(XEN_ELFNOTE_VIRT_BASE).with(XEN_ELFNOTE_PADDR_OFFSET, word(0));
    assert_eq!(refused(&lonely), bad_note("PADDR_OFFSET", 0));
}

#[test]
fn the_hypervisors_addresses_are_its_own() {
    let base =
        |value| Image::small().with(XEN_ELFNOTE_VIRT_BASE, word(value)).with(XEN_ELFNOTE_ENTRY, word(value));
    for value in
        [0xffff_8000_0000_0000, 0xffff_87ff_fff0_0000, 0x7fff_ffff_0000 << 4, 0x8000_0000_0000, 1 << 62]
    {
        assert_eq!(refused(&base(value)), BuildError::LayoutTooLarge, "{value:#x}");
    }
    for value in [0, 0xffff_8800_0000_0000, 0x7fff_0000_0000] {
        assert!(outcome(&base(value).build()).is_ok(), "{value:#x}");
    }
}

#[test]
fn absurd_segments() {
    let mut image = Image::linux();
    image.parts[1].size = 0x10;
    assert_eq!(refused(&image), BuildError::BadElf("a segment has an impossible size"));
    image.parts[1].size = u64::MAX;
    assert_eq!(refused(&image), BuildError::BadElf("a segment has an impossible size"));
    image.parts[1].size = 1 << 40;
    assert_eq!(refused(&image), bad_note("PADDR_OFFSET", 0));
    image.parts.clear();
    assert_eq!(refused(&image), BuildError::BadElf("it has nothing to load"));
}

#[test]
fn larger_than_the_memory() {
    let mut image = Image::linux();
    image.parts[1].size = 64 << 20;
    assert!(matches!(refused(&image), BuildError::TooLittleMemory { .. }));
    let hv = machine(16, "");
    let initrd = vec![0; 15 << 20];
    let error = hv.build_dom0(&Image::linux().build(), Some(&initrd), "").err().expect("a refusal");
    assert!(matches!(error, BuildError::TooLittleMemory { .. }), "{error}");
    let error = machine(16, "dom0_mem=1M").build_dom0(&Image::small().build(), None, "").err();
    assert!(matches!(error, Some(BuildError::TooLittleMemory { available: 256, .. })));
}

#[test]
fn a_command_line_that_does_not_fit() {
    let line = "x".repeat(1024);
    let error = machine(16, "").build_dom0(&Image::small().build(), None, &line).err();
    assert_eq!(error, Some(BuildError::CommandLineTooLong(1024)));
    assert!(machine(16, "").build_dom0(&Image::small().build(), None, &line[1..]).is_ok());
}
