//! What the user sees while a long step runs: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where there is no terminal, time between two lines of a step that goes on.
const BETWEEN_LINES: Duration = Duration::from_secs(20);

/// One running step. Dropping it without [`Step::done`] leaves the line as a failure.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    started: Instant,
    said: Mutex<Instant>,
    finished: bool,
}

impl Step {
    /// Announces a step.
    #[must_use]
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = std::io::stderr().is_terminal().then(|| spinner(&name));
        if bar.is_none() {
            eprintln!("  .. {name}");
        }
        let now = Instant::now();
        Self { bar, name, started: now, said: Mutex::new(now), finished: false }
    }

    /// Shows a detail beside the spinner; silent when output is not a terminal.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            let line: String = text.trim().chars().take(80).collect();
            bar.set_message(format!("{}: {line}", self.name));
        }
    }

    /// Shows how far a step of minutes has come: beside the spinner, or in a line now and then.
    pub fn progress(&self, text: &str) {
        self.detail(text);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_none() && said.elapsed() >= BETWEEN_LINES {
            *said = Instant::now();
            eprintln!("     {}: {text}", self.name);
        }
    }

    /// Ends the step with its duration.
    pub fn done(mut self) {
        self.finished = true;
        self.close("ok");
    }

    fn close(&self, verdict: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("  {verdict} {} ({:.1} s)", self.name, self.started.elapsed().as_secs_f32());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.close("failed:");
        }
    }
}

fn spinner(name: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})").expect("a constant template");
    bar.set_style(style);
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
