//! What long work tells whoever watches: totals, steps, and per-file problems.
//!
//! Promises that reporting never fails and never blocks for long. The library never prints; the
//! terminal, the tests and silence are three watchers.

use std::sync::Mutex;

use super::error::Error;
use super::path::RelPath;

/// Trouble with one file that does not stop the run.
#[derive(Debug)]
pub struct Problem {
    /// The file, relative to the folder; may hold any bytes.
    pub path: RelPath,
    /// What happened.
    pub error: Error,
}

/// Receives progress and problems; called from many threads.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` counts bytes, or items where `bytes` is false (0: unknown).
    fn stage(&self, name: &str, total: u64, bytes: bool);
    /// `amount` more of the current stage is done.
    fn advance(&self, amount: u64);
    /// One file had trouble; the run goes on.
    fn problem(&self, problem: Problem);
    /// Something the user should know, such as what a recovery mended.
    fn note(&self, text: &str);
}

/// Shorthand for reporting a [`Problem`].
pub fn report(progress: &dyn Progress, path: &RelPath, error: Error) {
    progress.problem(Problem { path: path.clone(), error });
}

/// Keeps problems and notes, shows nothing.
#[derive(Default)]
pub struct Recorder {
    /// Problems in the order they came.
    pub problems: Mutex<Vec<Problem>>,
    /// Notes in the order they came.
    pub notes: Mutex<Vec<String>>,
}

impl Progress for Recorder {
    fn stage(&self, _: &str, _: u64, _: bool) {}
    fn advance(&self, _: u64) {}
    fn problem(&self, problem: Problem) {
        if let Ok(mut all) = self.problems.lock() {
            all.push(problem);
        }
    }
    fn note(&self, text: &str) {
        if let Ok(mut all) = self.notes.lock() {
            all.push(text.to_string());
        }
    }
}
