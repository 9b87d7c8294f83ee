//! Which cases run together in one boot.

use super::case::Case;

/// The kernel's command line is 1024 bytes long, and has room for other words.
const ROOM: usize = 800;

/// What a machine must have for the cases of a boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setup {
    /// CPUs of the machine.
    pub cpus: u32,
    /// vCPUs of the first domain.
    pub vcpus: u32,
    /// Who the CPU says made it, where that matters.
    pub maker: Option<&'static str>,
}

impl Setup {
    /// What `case` needs, on a machine of at least `cpus`.
    fn of(case: &Case, cpus: u32) -> Self {
        let vcpus = case.vcpus.unwrap_or(1).max(case.cpus.unwrap_or(1)).max(cpus);
        let maker = |name: &str, text| case.features.iter().any(|feature| feature == name).then_some(text);
        Self {
            cpus: case.cpus.unwrap_or(vcpus).max(cpus),
            vcpus,
            maker: maker("intel", "GenuineIntel").or_else(|| maker("amd", "AuthenticAMD")),
        }
    }
}

/// One boot: its cases, by the alphabet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The machine.
    pub setup: Setup,
    /// What the kernel is to run.
    pub cases: Vec<Case>,
    /// What it is told to run, which may be more; `None`: all that share a boot.
    pub patterns: Option<String>,
}

/// Spreads `cases` over boots on machines of at least `cpus` CPUs; `whole` says that they are all that there are. The
/// boots of many cases come first.
#[must_use]
pub fn boots(cases: &[Case], cpus: u32, whole: bool) -> Vec<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    let mut setups: Vec<Setup> = cases.iter().map(|case| Setup::of(case, cpus)).collect();
    setups.sort();
    setups.dedup();
    let ordinary = Setup::of(&Case::default(), cpus);
    for setup in setups {
        let here = cases.iter().filter(|case| !case.alone && Setup::of(case, cpus) == setup);
        let here: Vec<Case> = here.cloned().collect();
        if setup == ordinary && whole && !here.is_empty() {
            boots.push(Boot { setup, cases: here, patterns: None });
            continue;
        }
        for chunk in chunks(here) {
            boots.push(named(setup.clone(), chunk));
        }
    }
    boots.sort_by_key(|boot| std::cmp::Reverse(boot.cases.len()));
    let alone = cases.iter().filter(|case| case.alone);
    boots.extend(alone.map(|case| named(Setup::of(case, cpus), vec![case.clone()])));
    boots
}

/// A boot whose cases are named one by one.
fn named(setup: Setup, cases: Vec<Case>) -> Boot {
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    Boot { setup, patterns: Some(names.join(",")), cases }
}

/// Pieces whose names fit on a command line.
fn chunks(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let mut chunks: Vec<Vec<Case>> = Vec::new();
    let mut length = ROOM;
    for case in cases {
        length += case.name.len() + 1;
        if length > ROOM {
            length = case.name.len() + 1;
            chunks.push(Vec::new());
        }
        chunks.last_mut().expect("one was pushed").push(case);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::case::Case;

    fn cases(text: &str) -> Vec<Case> {
        Case::parse_all(text).unwrap()
    }

    #[test]
    fn cases_share_boots_where_they_can() {
        let all = cases(
            "a::one\na::two\nb::alone\talone\nb::dies\tends crash\nc::smp\tvcpus 2\nc::too\tvcpus 2\n\
             c::more\tvcpus 4\tcpus 2\nd::intel\tfeature intel\n",
        );
        let boots = boots(&all, 1, true);
        let told: Vec<(u32, u32, &str)> = boots
            .iter()
            .map(|boot| (boot.setup.cpus, boot.setup.vcpus, boot.patterns.as_deref().unwrap_or("*")))
            .collect();
        assert_eq!(
            told,
            [
                (1, 1, "*"),
                (2, 2, "c::smp,c::too"),
                (1, 1, "d::intel"),
                (2, 4, "c::more"),
                (1, 1, "b::alone"),
                (1, 1, "b::dies"),
            ]
        );
        assert_eq!(boots[2].setup.maker, Some("GenuineIntel"));
        assert_eq!(boots.iter().map(|boot| boot.cases.len()).sum::<usize>(), all.len());
    }

    #[test]
    fn a_larger_machine_runs_all_that_fits() {
        let boots = boots(&cases("a::one\nc::smp\tvcpus 2\nc::more\tvcpus 8\tcpus 2\n"), 4, true);
        assert_eq!(boots.len(), 2);
        assert_eq!((boots[0].setup.cpus, boots[0].setup.vcpus, boots[0].cases.len()), (4, 4, 2));
        assert_eq!((boots[1].setup.cpus, boots[1].setup.vcpus), (4, 8));
    }

    #[test]
    fn long_selections_are_split() {
        let text: String = (0..100).map(|n| format!("module::a_rather_long_name_{n}\n")).collect();
        let all = cases(&text);
        let boots = boots(&all, 1, false);
        assert!(boots.len() > 1);
        assert!(boots.iter().all(|boot| boot.patterns.as_ref().unwrap().len() <= ROOM));
        assert_eq!(boots.iter().map(|boot| boot.cases.len()).sum::<usize>(), 100);
    }
}
