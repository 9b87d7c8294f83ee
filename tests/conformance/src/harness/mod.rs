//! What a case is made of, and how cases are found and judged.
//!
//! - [`case!`] defines one case, [`returns!`] several that compare one result each. Both leave a [`Case`] in the
//!   section `.pv_table`, which the linker script delimits.
//! - A case gets an [`Env`]: the boot context and a [pool](pool) of pages that are its own while it runs. The harness
//!   clears the pool before each case and takes it back afterwards.
//! - The verdict is one of five, the worst wins: SUCCESS, SKIP (cannot be judged here), ERROR (the case itself could
//!   not do its work), FAILURE (the hypervisor answered wrongly), CRASH (it never came to an end; the host concludes
//!   that from silence, or from the report of an unexpected exception).

#[macro_use]
pub mod fault;
pub mod pool;
mod run;
pub mod user;

use core::fmt::Debug;

use guest_pv_lib::{BootContext, println};

pub use run::main;

/// What a case has to work with.
pub struct Env {
    /// How the domain was started.
    pub boot: BootContext,
}

/// How a case can end other than by success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It cannot be judged here, for this reason.
    Skip(&'static str),
    /// What it needs did not work.
    Error(&'static str),
    /// The hypervisor did something else than it must.
    Failure(&'static str),
}

/// The result of a case.
pub type Outcome = Result<(), Verdict>;

/// One case, as it lies in the table.
#[repr(C)]
pub struct Case {
    /// Module and function.
    pub name: &'static str,
    /// What it checks.
    pub clause: &'static str,
    /// The code.
    pub run: fn(&Env) -> Outcome,
}

/// Fails where `got` is not `want`, and says both.
pub fn same<T: PartialEq + Debug>(what: &'static str, got: T, want: T) -> Outcome {
    if got == want {
        return Ok(());
    }
    println!("# {what}: got {got:?}, expected {want:?}");
    Err(Verdict::Failure(what))
}

/// Fails where `condition` does not hold.
pub fn check(what: &'static str, condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(Verdict::Failure(what)) }
}

/// A step that a case needs but does not judge.
pub fn need<T, E: Debug>(what: &'static str, result: Result<T, E>) -> Result<T, Verdict> {
    result.map_err(|error| {
        println!("# {what}: {error:?}");
        Verdict::Error(what)
    })
}

/// Defines a case: a function that gets the [`Env`] and returns an [`Outcome`]. Its comment is the clause.
macro_rules! case {
    ($(#[doc = $clause:literal])+ fn $name:ident($env:ident) $body:block) => {
        $(#[doc = $clause])+
        fn $name($env: &$crate::harness::Env) -> $crate::harness::Outcome $body

        #[cfg(target_os = "none")]
        const _: () = {
            #[used]
            #[unsafe(link_section = ".pv_table.case")]
            static CASE: $crate::harness::Case = $crate::harness::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                clause: concat!($($clause),+),
                run: $name,
            };
        };
    };
}

/// Defines cases of one comparison each: `/// clause` `name: expression => what it must be;`
macro_rules! returns {
    ($($(#[doc = $clause:literal])+ $name:ident($env:ident): $call:expr => $want:expr;)*) => {
        $(case! {
            $(#[doc = $clause])+
            fn $name($env) {
                let _ = $env;
                $crate::harness::same(stringify!($name), $call, $want)
            }
        })*
    };
}
