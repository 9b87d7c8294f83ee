//! Every target over the inputs that are kept, and over random ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use pv_drivers_fuzz::{TARGETS, run};

fn run_kept(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    for file in files {
        run(name, &fs::read(&file).expect("a readable file"));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        mod kept {
            $(#[test]
            fn $name() {
                super::run_kept(stringify!($name));
            })*
        }

        proptest! {
            #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
            $(#[test]
            fn $name(input in prop::collection::vec(any::<u8>(), 0..700)) {
                run(stringify!($name), &input);
            })*
        }

        #[test]
        fn all_targets_are_driven() {
            let driven = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(driven));
        }
    };
}

targets! { ring blk_back blk_front net_back net_front store files console display_back display_front }
