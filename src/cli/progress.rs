//! Progress bars, notes and problems on stderr.
//!
//! Promises at most one bar, drawn only on a terminal and only for work of over a second; problems
//! are always shown, as lines or (with --json) as objects on stdout.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{DIM, ERROR};
use crate::base::progress::{Problem, Progress};

/// The user's terminal, or what stands in for it.
pub struct Terminal {
    json: bool,
    quiet: bool,
    bars: bool,
    bar: Mutex<Option<Stage>>,
    done: AtomicU64,
    problems: AtomicU64,
}

struct Stage {
    bar: ProgressBar,
    since: Instant,
    drawn: bool,
}

impl Terminal {
    /// Looks at what stderr is.
    pub fn new(json: bool, quiet: bool) -> Self {
        let bars = !json && !quiet && std::io::stderr().is_terminal();
        Self {
            json,
            quiet,
            bars,
            bar: Mutex::default(),
            done: AtomicU64::new(0),
            problems: AtomicU64::new(0),
        }
    }

    /// Problems so far.
    pub fn problem_count(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(stage) = self.bar().take() {
            stage.bar.finish_and_clear();
        }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<Stage>> {
        self.bar.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn print(&self, text: &str) {
        match self.bar().as_ref() {
            Some(stage) => stage.bar.suspend(|| anstream::eprintln!("{text}")),
            None => anstream::eprintln!("{text}"),
        }
    }
}

impl Progress for Terminal {
    fn stage(&self, name: &str, total: u64, bytes: bool) {
        self.clear();
        self.done.store(0, Ordering::Relaxed);
        if !self.bars {
            return;
        }
        let bar = ProgressBar::hidden();
        bar.set_length(total);
        let template = match (total, bytes) {
            (0, _) => "{msg} {spinner}",
            (_, true) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (_, false) => "{msg} [{bar:30}] {pos}/{len} {eta}",
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(name.to_string());
        *self.bar() = Some(Stage { bar, since: Instant::now(), drawn: false });
    }

    fn advance(&self, amount: u64) {
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        if !self.bars {
            return;
        }
        if let Ok(mut guard) = self.bar.try_lock()
            && let Some(stage) = guard.as_mut()
        {
            if !stage.drawn && stage.since.elapsed() > Duration::from_secs(1) {
                stage.drawn = true;
                stage.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr_with_hz(10));
            }
            stage.bar.set_position(done);
        }
    }

    fn problem(&self, problem: Problem) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        let (path, error) = (problem.path, problem.error);
        if self.json {
            let object = serde_json::json!({ "type": "problem", "path": path.to_string(), "error": error.to_string() });
            emit(&object);
            return;
        }
        self.print(&format!("{}{path}: {error}{}", ERROR.render(), ERROR.render_reset()));
    }

    fn note(&self, text: &str) {
        if self.json {
            emit(&serde_json::json!({ "type": "note", "text": text }));
        } else if !self.quiet {
            self.print(&format!("{}ddr: {text}{}", DIM.render(), DIM.render_reset()));
        }
    }
}

/// One object on stdout; a reader that went away needs none.
fn emit(object: &serde_json::Value) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{object}");
}
