//! A running machine driven by a program: text from the serial line, text to it, and how the machine ended.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::qemu::{Emulator, Machine, Serial};
use crate::{bochs, process, project};

/// How much of the serial line an error shows.
const SHOWN_LINES: usize = 60;

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Software switched the power off.
    PowerOff,
    /// Software asked for a reset.
    Reset,
    /// The CPU gave up: never acceptable.
    TripleFault,
    /// QEMU ended for another reason, such as its own error.
    Other,
}

/// What the reader thread has got so far.
#[derive(Default)]
struct Line {
    /// What the guest printed.
    bytes: Vec<u8>,
    /// What QEMU itself had to say.
    complaints: Vec<u8>,
    closed: bool,
}

impl Line {
    /// The end of it all, for an error.
    fn tail(&self) -> String {
        format!("{}{}", tail(&clean(&self.bytes)), clean(&self.complaints))
    }
}

/// What [`Session::next_line`] heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line, without its end.
    Line(String),
    /// Nothing in time.
    Silence,
    /// The machine has ended.
    End,
}

/// Which stream of the emulator is the machine's serial line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Stdout,
    Stderr,
}

/// A machine under control. Dropping it ends QEMU.
pub struct Session {
    child: Child,
    input: ChildStdin,
    shared: Arc<(Mutex<Line>, Condvar)>,
    /// Everything before this has been looked at by [`Session::wait_for`].
    seen: usize,
    /// QEMU's log; a folder of files that only this machine needs, for another emulator.
    scratch: PathBuf,
    /// How the emulator itself ended, once it has.
    status: Option<ExitStatus>,
}

impl Session {
    /// Starts the machine.
    ///
    /// # Errors
    /// A file of the machine is missing, or QEMU does not start.
    pub fn start(machine: &Machine) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(project::guests())?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = project::guests().join(format!("qemu-{}-{number}.log", std::process::id()));
        if machine.emulator == Emulator::Bochs {
            let folder = log.with_extension("bochs");
            return Self::spawn(bochs::command(machine, &folder)?, folder, Wire::Stderr);
        }
        let mut machine = machine.clone();
        machine.log = Some(log.clone());
        Self::spawn(machine.command(Serial::Stdio)?, log, Wire::Stdout)
    }

    /// Starts a QEMU with a command line of the caller's own; its way of ending stays unknown.
    ///
    /// # Errors
    /// The program does not start.
    pub fn from_command(command: Command) -> Result<Self> {
        Self::spawn(command, PathBuf::new(), Wire::Stdout)
    }

    fn spawn(mut command: Command, scratch: PathBuf, wire: Wire) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = process::name(&command);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take().expect("stdin is piped");
        let shared = Arc::new((Mutex::new(Line::default()), Condvar::new()));
        let is_stdout = wire == Wire::Stdout;
        collect(child.stdout.take().expect("stdout is piped"), Arc::clone(&shared), is_stdout);
        collect(child.stderr.take().expect("stderr is piped"), Arc::clone(&shared), !is_stdout);
        let mut session = Self { child, input, shared, seen: 0, scratch, status: None };
        if wire == Wire::Stderr {
            session.send(bochs::START)?;
        }
        Ok(session)
    }

    /// The whole serial output so far, without carriage returns.
    #[must_use]
    pub fn output(&self) -> String {
        clean(&self.shared.0.lock().expect("the reader does not panic").bytes)
    }

    /// Waits until `text` appears after what earlier calls found; returns the output between.
    ///
    /// # Errors
    /// Time is up or the machine ended first; the error shows the output's end.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let (lock, changed) = &*self.shared;
        let mut line = lock.lock().expect("the reader does not panic");
        loop {
            let fresh = clean(&line.bytes[self.seen..]);
            if let Some(at) = fresh.find(text) {
                self.seen = raw_end(&line.bytes, self.seen, text);
                return Ok(fresh[..at].to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if line.closed || left.is_zero() {
                let why = if line.closed { "the machine ended" } else { "time ran out" };
                bail!("{why} before {text:?} was printed:\n{}", line.tail());
            }
            line = changed.wait_timeout(line, left.min(Duration::from_secs(1))).expect("no panic").0;
        }
    }

    /// Waits until the whole output so far is as `wanted` says, and returns it.
    ///
    /// # Errors
    /// As [`Session::wait_for`].
    pub fn wait_until(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        let lock = &self.shared.0;
        let mut line = lock.lock().expect("the reader does not panic");
        loop {
            let output = clean(&line.bytes);
            if wanted(&output) {
                return Ok(output);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if line.closed || left.is_zero() {
                let why = if line.closed { "the machine ended" } else { "time ran out" };
                bail!("{why} before it was all there:\n{}", line.tail());
            }
            // Looking at all of it for each byte would take longer than the machine.
            drop(line);
            std::thread::sleep(Duration::from_millis(200).min(left));
            line = lock.lock().expect("the reader does not panic");
        }
    }

    /// The next whole line, if one comes within `limit`.
    pub fn next_line(&mut self, limit: Duration) -> Heard {
        let deadline = Instant::now() + limit;
        let (lock, changed) = &*self.shared;
        let mut line = lock.lock().expect("the reader does not panic");
        loop {
            let fresh = &line.bytes[self.seen..];
            let length = fresh.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let rest = (line.closed && !fresh.is_empty()).then_some(fresh.len());
            if let Some(length) = length.or(rest) {
                self.seen += length;
                return Heard::Line(clean(&fresh[..length]).trim_end_matches('\n').to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if line.closed {
                return Heard::End;
            }
            if left.is_zero() {
                return Heard::Silence;
            }
            line = changed.wait_timeout(line, left).expect("the reader does not panic").0;
        }
    }

    /// The serial output so far, and what the emulator itself had to say.
    #[must_use]
    pub fn everything(&self) -> String {
        let line = self.shared.0.lock().expect("the reader does not panic");
        format!("{}\n{}", clean(&line.bytes), clean(&line.complaints))
    }

    /// Types on the serial line.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("the machine has ended")
    }

    /// Waits for the machine to end by itself.
    ///
    /// # Errors
    /// Time is up; the error shows the output's end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<Ending> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("the machine did not end:\n{}", tail(&self.output()));
            }
            thread::sleep(Duration::from_millis(20));
        };
        self.status = Some(status);
        let (lock, changed) = &*self.shared;
        let line = lock.lock().expect("the reader does not panic");
        let _ = changed.wait_timeout_while(line, Duration::from_secs(5), |line| !line.closed);
        Ok(self.ending())
    }

    /// How the emulator's process ended, after [`Session::wait_end`]: it can crash by itself, whatever the machine does.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Whether the CPU has triple-faulted so far.
    #[must_use]
    pub fn has_triple_faulted(&self) -> bool {
        self.ending() == Ending::TripleFault
    }

    /// Whether QEMU is still there.
    ///
    /// # Errors
    /// The system does not know the process.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn ending(&self) -> Ending {
        let log = fs::read_to_string(&self.scratch).unwrap_or_default();
        if log.contains("Triple fault") {
            return Ending::TripleFault;
        }
        // QEMU's ShutdownCause: 6 is guest-shutdown. A reset under -no-reboot ends QEMU without a request.
        match log.split_once("qemu_system_shutdown_request reason=") {
            Some((_, reason)) if reason.starts_with('6') => Ending::PowerOff,
            Some(_) => Ending::Other,
            None if self.status.is_some_and(|status| status.success()) => Ending::Reset,
            None => Ending::Other,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.scratch);
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Runs the machine until it ends and returns all it printed.
///
/// # Errors
/// As [`Session::start`] and [`Session::wait_end`].
pub fn run_to_end(machine: &Machine, limit: Duration) -> Result<(String, Ending)> {
    let mut session = Session::start(machine)?;
    let ending = session.wait_end(limit)?;
    Ok((session.output(), ending))
}

fn collect(mut stream: impl Read + Send + 'static, shared: Arc<(Mutex<Line>, Condvar)>, is_serial: bool) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).unwrap_or(0);
            let mut line = shared.0.lock().expect("no holder panics");
            let text = if is_serial { &mut line.bytes } else { &mut line.complaints };
            text.extend_from_slice(&buffer[..count]);
            line.closed |= is_serial && count == 0;
            shared.1.notify_all();
            if count == 0 {
                break;
            }
        }
    });
}

/// Serial lines end in one or two carriage returns, depending on who printed them.
fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

/// The end of the first `text` in the raw bytes, which may hold carriage returns that `text` does not.
fn raw_end(bytes: &[u8], from: usize, text: &str) -> usize {
    (from..=bytes.len()).find(|&end| clean(&bytes[from..end]).ends_with(text)).unwrap_or(bytes.len())
}

/// The last lines of a console, for messages.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Removes logs that killed runs left behind; those of runs that go on are theirs.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("qemu-").and_then(|rest| rest.split_once('-'));
        if owner.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
