//! The conformance kernel of `tests/conformance`: one test for each case, which holds on our hypervisor and on real Xen.
//!
//! Cases share boots as `cargo xtask conformance` has it; the first test that needs a boot runs it.

use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, bail};
use libtest_mimic::{Completion, Failed, Trial};
use xtask::conformance::case::{self, Case};
use xtask::conformance::plan::{self, Boot};
use xtask::conformance::target::Target;
use xtask::conformance::verdict::{Judged, Matrix, Verdict};
use xtask::conformance::{explain, run_boot};

use crate::support::trial;

/// The targets, which are judged together.
const TARGETS: &str = "both";

/// One boot on each target, when somebody needs it.
struct Shared {
    boot: Boot,
    targets: Vec<(Target, OnceLock<Ends>)>,
}

type Ends = Result<Vec<(String, Judged)>, String>;

pub fn trials() -> Vec<Trial> {
    match plan() {
        Ok((targets, cases, boots)) => {
            cases.into_iter().enumerate().map(|(number, case)| one(&targets, &boots, number, case)).collect()
        }
        // Without the list there is still a test, which says why.
        Err(error) => vec![trial("conformance::list", move || Err(error))],
    }
}

/// The hypervisors, the cases, and the boots that they share.
type Plan = (Vec<Target>, Vec<Case>, Vec<Arc<Shared>>);

fn plan() -> Result<Plan> {
    let (targets, cases) = (Target::parse_list(TARGETS)?, case::all()?);
    let boots = plan::boots(&cases, 1, true).into_iter().map(|boot| {
        let targets = targets.iter().map(|target| (target.clone(), OnceLock::new())).collect();
        Arc::new(Shared { boot, targets })
    });
    Ok((targets.clone(), cases, boots.collect()))
}

/// The test of one case.
fn one(targets: &[Target], boots: &[Arc<Shared>], number: usize, case: Case) -> Trial {
    let shared = boots.iter().find(|shared| shared.boot.cases.contains(&case)).expect("each case has a boot");
    let (shared, targets) = (Arc::clone(shared), targets.to_vec());
    Trial::ignorable_test(format!("conformance::{}", case.name), move || {
        judge(&shared, &targets, number, &case).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn judge(shared: &Shared, targets: &[Target], number: usize, case: &Case) -> Result<Completion> {
    let mut matrix = Matrix::empty(targets, std::slice::from_ref(case));
    // Neighbours start with different targets, so that tests that run at the same time do not wait for one boot.
    for column in (0..targets.len()).map(|at| (at + number) % targets.len()) {
        matrix.rows[0].judged[column] = Some(shared.end(column, case)?);
    }
    matrix.settle();
    if !matrix.problems().is_empty() {
        let ends: Vec<String> = matrix
            .columns(&matrix.rows[0])
            .map(|(target, judged)| format!("{}: {}", target.name, explain(judged)))
            .collect();
        bail!("{}\n{}", case.clause, ends.join("\n"));
    }
    Ok(match matrix.columns(&matrix.rows[0]).find(|(_, judged)| judged.verdict == Verdict::Skip) {
        Some((target, judged)) => Completion::ignored_with(format!("{}: {}", target.name, judged.reason)),
        None => Completion::Completed,
    })
}

impl Shared {
    /// How `case` ended on a target; boots it where nobody did before.
    fn end(&self, column: usize, case: &Case) -> Result<Judged> {
        let (target, ends) = &self.targets[column];
        let ends = ends.get_or_init(|| run_boot(target, &self.boot).map_err(|error| format!("{error:#}")));
        let ends = ends.as_ref().map_err(|error| anyhow!("{}: {error}", target.name))?;
        let end = ends.iter().find(|(name, _)| *name == case.name);
        end.map(|(_, judged)| judged.clone()).ok_or_else(|| anyhow!("{}: no verdict", target.name))
    }
}
