//! The order in which a kernel lets go of its domain, and takes hold of it, or of another, again.

use alloc::vec::Vec;

use super::Outcome;
use crate::Errno;
use crate::events::Port;

/// Something of the kernel's that does not move with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The mapping of the grant table.
    Grants,
    /// The CPUs' records and event queues, which the hypervisor must be told of.
    Cpus,
    /// The frames that `start_info` names.
    StartInfo,
    /// The mapping of the shared page.
    SharedInfo,
}

/// The order of letting go. Each part may need those behind it, so it is the last to come back.
const ORDER: [Part; 4] = [Part::Grants, Part::Cpus, Part::StartInfo, Part::SharedInfo];

/// What the hypervisor said when the domain went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is the same domain.
    Same,
    /// It is another.
    Another,
}

/// What the steps act on.
pub trait Machine {
    /// Remembers what each port is bound to.
    fn note_ports(&mut self);
    /// Lets go of a part. Where it fails, the part may be half gone.
    fn leave(&mut self, part: Part) -> Result<(), Errno>;
    /// Suspends the domain.
    fn shut_down(&mut self) -> Result<Answer, Errno>;
    /// Takes hold of a part again, whether it is gone wholly or half.
    fn enter(&mut self, part: Part, answer: Answer);
    /// Binds the ports again, and says which are lost.
    fn bind_ports(&mut self) -> Vec<Port>;
}

/// Suspends `machine`. An error means that it is as before and was not suspended.
pub fn run(machine: &mut impl Machine) -> Result<Outcome, Errno> {
    machine.note_ports();
    let mut left = 0;
    let mut refused = None;
    for part in ORDER {
        left += 1;
        if let Err(error) = machine.leave(part) {
            refused = Some(error);
            break;
        }
    }
    let answer = refused.map_or_else(|| machine.shut_down(), Err);
    for &part in ORDER[..left].iter().rev() {
        machine.enter(part, answer.unwrap_or(Answer::Same));
    }
    Ok(match answer? {
        Answer::Same => Outcome::Cancelled,
        Answer::Another => Outcome::Resumed { lost: machine.bind_ports() },
    })
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::*;

    struct Log {
        done: String,
        refuses: Option<Part>,
        answer: Result<Answer, Errno>,
    }

    impl Machine for Log {
        fn note_ports(&mut self) {
            self.done += "note ";
        }
        fn leave(&mut self, part: Part) -> Result<(), Errno> {
            self.done += &format!("-{part:?} ");
            if self.refuses == Some(part) { Err(Errno::EFAULT) } else { Ok(()) }
        }
        fn shut_down(&mut self) -> Result<Answer, Errno> {
            self.done += "down ";
            self.answer
        }
        fn enter(&mut self, part: Part, answer: Answer) {
            self.done += &format!("+{part:?}/{answer:?} ");
        }
        fn bind_ports(&mut self) -> Vec<Port> {
            self.done += "bind";
            alloc::vec![Port(7)]
        }
    }

    fn suspend(refuses: Option<Part>, answer: Result<Answer, Errno>) -> (Result<Outcome, Errno>, String) {
        let mut log = Log { done: String::new(), refuses, answer };
        (run(&mut log), log.done)
    }

    #[test]
    fn all_is_let_go_and_comes_back_in_the_opposite_order() {
        let (outcome, done) = suspend(None, Ok(Answer::Another));
        assert_eq!(outcome, Ok(Outcome::Resumed { lost: alloc::vec![Port(7)] }));
        let expected = "note -Grants -Cpus -StartInfo -SharedInfo down +SharedInfo/Another +StartInfo/Another \
                        +Cpus/Another +Grants/Another bind";
        assert_eq!(done, expected);
    }

    #[test]
    fn the_same_domain_keeps_its_ports() {
        let (outcome, done) = suspend(None, Ok(Answer::Same));
        assert_eq!(outcome, Ok(Outcome::Cancelled));
        assert!(done.ends_with("+Cpus/Same +Grants/Same "), "{done}");
    }

    #[test]
    fn what_is_refused_is_undone() {
        let (outcome, done) = suspend(Some(Part::StartInfo), Ok(Answer::Another));
        assert_eq!(outcome, Err(Errno::EFAULT));
        assert_eq!(done, "note -Grants -Cpus -StartInfo +StartInfo/Same +Cpus/Same +Grants/Same ");
        let (outcome, done) = suspend(None, Err(Errno::EPERM));
        assert_eq!(outcome, Err(Errno::EPERM));
        assert!(done.ends_with("+Grants/Same "), "{done}");
    }
}
