//! No bytes make the builder panic.

use super::packed::PACKERS;
use super::*;
use crate::builder::image::elf_file;
use hypervisor_unpack as unpack;
use proptest::prelude::*;

/// A file with some of its bytes replaced.
fn mutated(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x80)]);
    (prop::collection::vec(change, 1..12), any::<Option<prop::sample::Index>>()).prop_map(
        move |(changes, cut)| {
            let mut file = file.clone();
            for (at, value) in changes {
                // Headers and notes are where it hurts.
                let at = at.index(file.len().min(1200));
                file[at] = value;
            }
            if let Some(cut) = cut {
                file.truncate(cut.index(file.len()));
            }
            file
        },
    )
}

/// The magic numbers of all packings.
fn magic() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0x1f, 0x8b, 8]),
        Just(vec![
            0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1, 0, 0, 0, 0, 2, 1, 4, 0, 0x21, 1, 0, 0, 0, 0, 0, 0, 0xe0
        ]),
        Just(vec![0x5d, 0, 0, 0x80, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
        Just(vec![0x02, 0x21, 0x4c, 0x18]),
        Just(vec![0x28, 0xb5, 0x2f, 0xfd]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_kernels(file in prop_oneof![mutated(Image::linux().build()), mutated(Image::small().build())]) {
        let _ = outcome(&file);
    }

    #[test]
    fn any_note(kind in 0u32..20, value in prop_oneof![
        any::<u64>().prop_map(word),
        (0u32..64).prop_map(|n| word(1 << n)),
        (0u64..64).prop_map(|n| word(!0 << n)),
        prop::collection::vec(any::<u8>(), 0..20),
    ]) {
        let _ = outcome(&Image::linux().with(kind, value.clone()).build());
        let _ = outcome(&Image::small().with(kind, value).build());
    }

    #[test]
    fn any_payload(magic in magic(), rest in prop::collection::vec(any::<u8>(), 0..400), size in 0u32..100_000) {
        let payload = [magic, rest, size.to_le_bytes().into()].concat();
        let _ = unpack::payload(&payload);
    }

    #[test]
    fn mutated_payloads(
        packer in 0..PACKERS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut payload = PACKERS[packer].1(&Image::linux().build());
        for (at, value) in changes {
            // Headers come first, and the size is last: it may be wrong, but not so large that it takes time.
            let at = at.index(payload.len() - 4);
            payload[at] = value;
        }
        if let Some(cut) = cut {
            let size = payload.split_off(payload.len() - 4);
            payload.truncate(cut.index(payload.len()));
            payload.extend(size);
        }
        let _ = unpack::payload(&payload);
    }

    #[test]
    fn any_bytes(file in prop::collection::vec(any::<u8>(), 0..1000), elf in any::<bool>()) {
        let mut file = file;
        if elf && file.len() > 7 {
            file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        }
        prop_assert!(elf_file(&file).is_ok_and(|f| f.starts_with(b"\x7fELF")) || outcome(&file).is_err());
    }
}
