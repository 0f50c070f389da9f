//! What the daemon tells about a folder: the answer to `ddr status`, and what a log line is about.
//!
//! Promises bounded memory: the newest few problems stay. Knows no terminal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::log::Log;
use crate::base::progress::{Problem, Progress};
use crate::base::units::Time;

/// Problems that are remembered.
const MAX_PROBLEMS: usize = 20;

/// How a folder stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Root of its working tree.
    pub folder: String,
    /// Why nothing is done there.
    pub offline: Option<String>,
    /// What is being done right now.
    pub doing: Option<String>,
    /// Directories that are watched.
    pub watched: u64,
    /// Why not all of them are.
    pub unwatched: Option<String>,
    /// Changed paths that wait to settle; `None` if only the next look at the tree can tell.
    pub pending: Option<usize>,
    /// When changes were committed last, in seconds since 1970, and how many paths that were.
    pub last_commit: Option<(i64, u64)>,
    /// When the policy ran last, and how many files and bytes it let go.
    pub last_policy: Option<(i64, u64, u64)>,
    /// What is due next, and when.
    pub next: Option<(String, i64)>,
    /// Stores that were not reachable at the last contact, and why.
    pub away: Vec<(String, String)>,
    /// What went wrong last, the newest first.
    pub problems: VecDeque<String>,
}

/// A folder's state, and the log that hears of it.
pub struct Told {
    state: Mutex<State>,
    log: Arc<Log>,
}

impl Told {
    /// For a folder.
    pub fn new(folder: String, log: Arc<Log>) -> Self {
        Self { state: Mutex::new(State { folder, ..State::default() }), log }
    }

    /// The state, to be changed.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something about the folder.
    pub fn say(&self, text: &str) {
        let about = self.state().folder.clone();
        self.log.line(&about, text);
    }

    /// Remembers a problem, and says it unless it is known.
    pub fn trouble(&self, text: String) {
        let mut state = self.state();
        let known = state.problems.iter().position(|p| *p == text);
        match known {
            Some(at) => drop(state.problems.remove(at)),
            None => self.log.line(&state.folder, &text),
        }
        state.problems.push_front(text);
        state.problems.truncate(MAX_PROBLEMS);
    }

    /// Work of this kind went well: that it failed before is no problem any more.
    pub fn settled(&self, work: &str) {
        let prefix = format!("{work}: ");
        self.state().problems.retain(|problem| !problem.starts_with(&prefix));
    }

    /// Forgets problems: a look at everything is about to find those that are still there.
    pub fn begin_anew(&self) {
        self.state().problems.clear();
    }
}

impl Progress for Told {
    fn stage(&self, _: &str, _: u64, _: bool) {}

    fn advance(&self, _: u64) {}

    fn problem(&self, problem: Problem) {
        self.trouble(format!("{}: {}", problem.path, problem.error));
    }

    fn note(&self, text: &str) {
        self.say(text);
    }
}

/// Seconds since 1970.
pub fn wall() -> i64 {
    Time::now().secs
}
