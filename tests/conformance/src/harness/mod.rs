//! What a case is made of, and how cases are found and judged.
//!
//! - [`case!`] defines one case, [`returns!`] several that compare one result each. Both leave a [`Case`] in the
//!   section `.pv_table`, which the linker script delimits.
//! - Above the function stand the clause and what the case needs of its boot, as attributes: see [`attribute`].
//! - A case gets an [`Env`]: the boot context and a [pool](pool) of pages that are its own while it runs. The harness
//!   clears the pool before each case and takes it back afterwards.
//! - The verdict is one of five, the worst wins: SUCCESS, SKIP (cannot be judged here), ERROR (the case itself could
//!   not do its work), FAILURE (the hypervisor answered wrongly), CRASH (it never came to an end; the host concludes
//!   that from silence, or from the report of an unexpected exception).
//! - Cases run in the alphabet's order in one boot and leave the domain as they found it. One that cannot is `alone`
//!   and only runs where it is asked for by its whole name.
//!
//! ```text
//! case! {
//!     /// XSA-0: what must not happen any more.
//!     #[alone]
//!     #[vcpus(2)]
//!     fn no_such_thing(env) { check("nothing happened", true) }
//! }
//! ```

#[macro_use]
pub mod attribute;
#[macro_use]
pub mod fault;
#[cfg(not(target_os = "none"))]
pub mod list;
pub mod pool;
pub mod raw;
mod run;
pub mod user;

use core::fmt::Debug;

use guest_pv_lib::{BootContext, println};

pub use attribute::{Attribute, End};
#[cfg(target_os = "none")]
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
    /// The path of the function.
    pub name: &'static str,
    /// What it checks, and what it needs.
    pub attributes: &'static [Attribute],
    /// The code.
    pub run: fn(&Env) -> Outcome,
}

impl Case {
    /// Module and function, without the crate and the folder.
    pub fn name(&self) -> &'static str {
        self.name.split_once("::cases::").map_or(self.name, |(_, name)| name)
    }

    /// Whether it gets a boot of its own.
    pub fn is_alone(&self) -> bool {
        self.end().is_some() || self.attributes.contains(&Attribute::Alone)
    }

    /// How it must end the domain.
    pub fn end(&self) -> Option<End> {
        self.attributes.iter().find_map(|attribute| match attribute {
            Attribute::Ends(end) => Some(*end),
            _ => None,
        })
    }

    /// The lines of its clause.
    pub fn clause(&self) -> impl Iterator<Item = &'static str> {
        self.attributes.iter().filter_map(|attribute| match attribute {
            Attribute::Clause(line) => Some(line.trim()),
            _ => None,
        })
    }
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

/// Defines a case: a function that gets the [`Env`] and returns an [`Outcome`], under its [attributes](attribute).
macro_rules! case {
    ($(#[$($attribute:tt)+])+ fn $name:ident($env:ident) $body:block) => {
        fn $name($env: &$crate::harness::Env) -> $crate::harness::Outcome $body

        const _: () = {
            // A hosted linker names the ends of a section by itself where its name is an identifier.
            #[used]
            #[cfg_attr(target_os = "none", unsafe(link_section = ".pv_table.case"))]
            #[cfg_attr(not(target_os = "none"), unsafe(link_section = "pv_table"))]
            static CASE: $crate::harness::Case = $crate::harness::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                attributes: &[$(attribute!($($attribute)+)),+],
                run: $name,
            };
        };
    };
}

/// Defines cases of one comparison each: `/// clause` `name(env): expression => what it must be;`
macro_rules! returns {
    ($($(#[$($attribute:tt)+])+ $name:ident($env:ident): $call:expr => $want:expr;)*) => {
        $(case! {
            $(#[$($attribute)+])+
            fn $name($env) {
                let _ = $env;
                $crate::harness::same(stringify!($name), $call, $want)
            }
        })*
    };
}
