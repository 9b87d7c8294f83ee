//! Every target over the inputs that are kept, changed in small ways, and over many random ones.

use hypervisor_core_fuzz::{TARGETS, Target};
use std::fs;
use std::path::Path;

/// Random inputs for each target.
const RANDOM: u64 = 1500;
/// Changed copies of each kept input.
const CHANGED: u64 = 4;

/// SplitMix64: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 600;
        (0..length).map(|_| (self.next() >> (8 * (self.next() % 7))) as u8).collect()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next() % 4 {
            if let Some(length) = std::num::NonZero::new(bytes.len() as u64) {
                bytes[(self.next() % length) as usize] = self.next() as u8;
            }
        }
        let length = bytes.len() as u64 + 1;
        bytes.truncate((self.next() % (4 * length)) as usize);
    }
}

fn kept(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a readable file")).collect()
}

fn drive(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let mut random = Random(name.bytes().fold(1, |seed, byte| seed * 31 + u64::from(byte)));
    for input in kept(target) {
        (target.run)(&input);
        for _ in 0..CHANGED {
            let mut changed = input.clone();
            random.change(&mut changed);
            (target.run)(&changed);
        }
    }
    (0..RANDOM).for_each(|_| (target.run)(&random.bytes()));
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            drive(stringify!($name));
        })*

        #[test]
        fn all_targets_are_driven() {
            let driven = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(driven));
        }
    };
}

targets! { acpi options description kernel hypercalls memory pages events grants vcpus control }
