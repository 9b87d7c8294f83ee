//! The crate's claims about Xen's C headers, the C program that answers them, and the comparison.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use xen_abi::registry::{CName, Layout, Module, Value};

/// Where Debian's `libxen-dev` puts the headers.
const HEADERS: &str = "/usr/include/xen";
/// What to say where a tool or a header is missing.
const SETUP: &str = "run `cargo xtask setup`";

/// What the C program begins with. Structures, arrays and plain `char` count as unsigned.
const PRELUDE: &str = "#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#define SIGNED(x) _Generic(x, signed char: 1, short: 1, int: 1, long: 1, long long: 1, default: 0)
";

/// One number or text of the crate that C can confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it is, for messages.
    pub what: String,
    /// The C expression that yields it.
    pub c: String,
    /// What the crate says.
    pub value: Value,
}

/// An item that the C headers do not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    pub what: String,
    pub reason: &'static str,
}

/// Everything below `module`, as claims, and what C cannot confirm.
pub fn claims(module: &Module) -> (Vec<Claim>, Vec<Absent>) {
    let (mut claims, mut absent) = (Vec::new(), Vec::new());
    module.walk(&mut |module| {
        for layout in module.layouts {
            layout_claims(module, layout, &mut claims, &mut absent);
        }
        for item in module.consts {
            let what = format!("{}: {}", module.file, item.name);
            match item.c {
                CName::Is(c) => claims.push(Claim { what, c: c.into(), value: item.value }),
                CName::Absent(reason) => absent.push(Absent { what, reason }),
            }
        }
    });
    (claims, absent)
}

fn layout_claims(module: &Module, layout: &Layout, claims: &mut Vec<Claim>, absent: &mut Vec<Absent>) {
    let name = format!("{}: {}", module.file, layout.name);
    let c = match layout.c {
        CName::Is(c) => c,
        CName::Absent(reason) => return absent.push(Absent { what: name, reason }),
    };
    let mut claim = |what: String, c: String, value: usize| {
        claims.push(Claim { what, c, value: Value::Int(value as u64) });
    };
    claim(format!("size of {name}"), format!("sizeof({c})"), layout.size);
    claim(format!("alignment of {name}"), format!("_Alignof({c})"), layout.align);
    for field in layout.fields {
        match field.c {
            CName::Is(member) => {
                let what = format!("{name}.{}", field.name);
                claim(format!("offset of {what}"), format!("offsetof({c}, {member})"), field.offset);
                claim(format!("size of {what}"), format!("sizeof((({c} *)0)->{member})"), field.size);
                let signed = format!("SIGNED((({c} *)0)->{member})");
                claim(format!("signedness of {what}"), signed, field.signed.into());
            }
            CName::Absent(reason) => absent.push(Absent { what: format!("{name}.{}", field.name), reason }),
        }
    }
}

/// Every header that the crate's modules name, once, in the order of the modules.
fn includes(module: &Module) -> Vec<&'static str> {
    let mut all = Vec::new();
    module.walk(&mut |module| {
        for include in module.includes {
            if !all.contains(include) {
                all.push(*include);
            }
        }
    });
    all
}

/// Compiles a program that prints what C makes of each claim, runs it, returns the answers in order.
///
/// `__XEN_TOOLS__` makes the headers show the toolstack's part and choose their latest interface version, which
/// is checked to be ours as one of the constants.
pub fn ask_c(module: &Module, claims: &[Claim], scratch: &Path) -> Vec<Value> {
    let mut source = String::from(PRELUDE);
    for include in includes(module) {
        let path = Path::new(HEADERS).join(include);
        assert!(path.exists(), "{} is missing: {SETUP}", path.display());
        writeln!(source, "#include <xen/{include}>").unwrap();
    }
    source.push_str("int main(void) {\n");
    for claim in claims {
        // The #line directive makes the compiler's messages name the claim instead of a generated file.
        writeln!(source, "#line 1 \"{}\"", claim.what).unwrap();
        match claim.value {
            Value::Int(_) => writeln!(source, "printf(\"%llx\\n\", (unsigned long long)({}));", claim.c),
            Value::Str(_) => writeln!(source, "printf(\"%s\\n\", {});", claim.c),
        }
        .unwrap();
    }
    source.push_str("return 0; }\n");
    let output = compile_and_run(&source, scratch);
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers.len(), claims.len(), "the C program answered another number of questions");
    claims
        .iter()
        .zip(answers)
        .map(|(claim, answer)| match claim.value {
            Value::Int(_) => Value::Int(u64::from_str_radix(answer, 16).expect("a hexadecimal answer")),
            Value::Str(_) => Value::Str(String::from(answer).leak()),
        })
        .collect()
}

fn compile_and_run(source: &str, scratch: &Path) -> String {
    std::fs::create_dir_all(scratch).expect("a scratch directory for the C check");
    let (input, program): (PathBuf, PathBuf) = (scratch.join("claims.c"), scratch.join("claims"));
    std::fs::write(&input, source).expect("writing the C program");
    let compiler = Command::new("gcc")
        .args(["-std=gnu11", "-O0", "-w", "-D__XEN_TOOLS__", "-o"])
        .args([&program, &input])
        .output()
        .unwrap_or_else(|error| panic!("gcc does not start ({error}): {SETUP}"));
    let messages = String::from_utf8_lossy(&compiler.stderr);
    assert!(compiler.status.success(), "C does not know all names of the crate:\n{messages}");
    let run = Command::new(&program).output().expect("running the C program");
    assert!(run.status.success(), "the C program failed: {:?}", run.status);
    String::from_utf8(run.stdout).expect("text from the C program")
}

/// One line for each claim that C does not confirm.
pub fn compare(claims: &[Claim], answers: &[Value]) -> Vec<String> {
    assert_eq!(claims.len(), answers.len());
    claims
        .iter()
        .zip(answers)
        .filter(|(claim, answer)| claim.value != **answer)
        .map(|(claim, answer)| {
            format!("{}: {:x?} here, {answer:x?} in C ({})", claim.what, claim.value, claim.c)
        })
        .collect()
}
