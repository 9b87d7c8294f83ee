//! Running other programs: quietly with a useful error, or with the user watching.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::progress::Step;

/// The last lines of a failed program's output that an error carries.
const ERROR_LINES: usize = 150;

/// The program's name as the user knows it, for messages.
#[must_use]
pub fn name(command: &Command) -> String {
    let program = command.get_program();
    let file = std::path::Path::new(program).file_name().unwrap_or(program);
    file.to_string_lossy().into_owned()
}

/// Whether `program` can be found.
#[must_use]
pub fn exists(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    let sbin = ["/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).is_file())
}

/// Runs to the end and returns standard output; the error carries what the program said.
///
/// # Errors
/// The program is missing, or it failed.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !result.status.success() {
        let text = [result.stdout, result.stderr].concat();
        bail!("{name} failed ({}):\n{}", result.status, tail(&String::from_utf8_lossy(&text)));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs with the output shown as the step's detail, and as the error when the program fails.
///
/// # Errors
/// The program is missing, or it failed.
pub fn run_in_step(command: &mut Command, step: &Step) -> Result<()> {
    let name = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let text = thread::scope(|scope| {
        let out = scope.spawn(|| follow(stdout, step));
        let mut text = follow(stderr, step);
        text.push_str(&out.join().expect("the reader does not panic"));
        text
    });
    let status = child.wait()?;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", tail(&text));
    }
    Ok(())
}

/// Runs with the user's terminal; says whether the program succeeded.
///
/// # Errors
/// The program could not be started.
pub fn interactive(command: &mut Command) -> Result<bool> {
    let name = name(command);
    Ok(command.status().with_context(|| format!("cannot start {name}"))?.success())
}

/// A `cargo` of the user's own toolchain, without what the surrounding `cargo run` put into the environment.
#[must_use]
pub fn host_cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::project::root());
    clean_cargo_env(&mut command);
    command
}

/// Removes the variables that `cargo run` sets for xtask and that would leak into a nested cargo's build scripts.
pub fn clean_cargo_env(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(OsStr::new(&*text));
        }
    }
}

fn follow(stream: impl std::io::Read, step: &Step) -> String {
    let mut text = String::new();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        step.detail(&line);
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n")
}
