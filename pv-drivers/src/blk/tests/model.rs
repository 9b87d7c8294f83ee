//! Any requests in any order end as on an array of bytes.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 304;

#[derive(Debug, Clone)]
struct Step {
    write: bool,
    sector: u64,
    sectors: u64,
    /// Sectors in front of the data in its buffer.
    lead: usize,
    seed: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (any::<bool>(), 0..SECTORS, 1u64..150, 0usize..8, any::<u8>()).prop_map(
        |(write, sector, sectors, lead, seed)| Step {
            write,
            sector,
            sectors: sectors.min(SECTORS - sector),
            lead,
            seed,
        },
    )
}

fn check<D: BlockDevice<Host>>(pair: &mut Pair<D>, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = vec![0; SECTORS as usize * SECTOR];
    for step in steps {
        let range = step.sector as usize * SECTOR..(step.sector + step.sectors) as usize * SECTOR;
        let mut bytes = vec![0; step.lead * SECTOR];
        bytes.extend(pattern(range.len(), step.seed));
        let operation = if step.write { Operation::Write } else { Operation::Read };
        let data = Data::Buffer(pair.buffer(&bytes));
        let Step { sector, sectors, .. } = *step;
        let request = Request { tag: 1, operation, sector, sectors, data, offset: step.lead * SECTOR };
        if let Err((error, _)) = pair.front.submit(request) {
            prop_assert_eq!(error, SubmitError::TooLong);
            continue;
        }
        pair.settle();
        let done = pair.front.completed().unwrap();
        prop_assert_eq!(done.result, Ok(()));
        let Data::Buffer(buffer) = done.data else { panic!() };
        let data = &buffer.as_ref()[step.lead * SECTOR..bytes.len()];
        if step.write {
            model[range].copy_from_slice(data);
        } else {
            prop_assert_eq!(data, &model[range]);
        }
    }
    let whole: Vec<u8> =
        (0..SECTORS).step_by(152).flat_map(|sector| pair.read(sector, 152 * SECTOR)).collect();
    prop_assert_eq!(whole, model);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn in_memory(steps in prop::collection::vec(step(), 1..20)) {
        let mut pair = Pair::new(ram(SECTORS), FrontOptions::default(), BackOptions::default());
        check(&mut pair, &steps)?;
    }

    #[test]
    fn staged(steps in prop::collection::vec(step(), 1..20)) {
        let mut pair = Pair::new(|_| SlowDisk::new(SECTORS as usize), FrontOptions::default(), BackOptions::default());
        check(&mut pair, &steps)?;
    }
}
