//! Whether a command worked on the folder beside the daemon: what is opened then tells nothing of use.
//!
//! Promises to miss no command that takes the lock, however short it is, and that its last opens, which
//! are told a moment later, still count as its own. Our own work is told of, since it takes the lock, too.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::engine::folder::is_locked;

/// Events may come so late.
pub const ECHO: Duration = Duration::from_millis(300);

/// What is known of commands.
pub struct Beside {
    /// The peer's directory.
    dir: PathBuf,
    /// The lock file as it was last: it is written to when the lock is taken.
    stamp: Option<SystemTime>,
    /// When a command was last met.
    met: Option<Duration>,
}

impl Beside {
    /// For the peer in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, stamp: None, met: None }
    }

    /// Whether opens that were told until now may be those of a command; `any`: there are some.
    pub fn is_met(&mut self, now: Duration, any: bool) -> bool {
        let stamp = self.lock_stamp();
        let newer = std::mem::replace(&mut self.stamp, stamp) != stamp;
        if newer || ((any || self.met.is_some()) && is_locked(&self.dir)) {
            self.met = Some(now);
            return true;
        }
        // It was at work when it was met: what it opened since then is told at the first look after that.
        let met = self.met.take();
        self.met = met.filter(|at| now < *at + ECHO);
        met.is_some()
    }

    /// Our own work has ended: the lock was taken for that.
    pub fn own_ended(&mut self) {
        self.stamp = self.lock_stamp();
    }

    fn lock_stamp(&self) -> Option<SystemTime> {
        std::fs::metadata(self.dir.join("lock")).and_then(|meta| meta.modified()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cancel::Cancel;
    use crate::base::progress::Recorder;
    use crate::engine::folder::{Context, lock};
    use crate::peer::host::Login;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_command_is_met_until_the_first_look_after_its_end() {
        let temp = tempfile::tempdir().expect("tempdir");
        let context = Context {
            cache_dir: temp.path().into(),
            state_dir: temp.path().into(),
            wait: Duration::ZERO,
            progress: std::sync::Arc::new(Recorder::default()),
            cancel: Cancel::default(),
            login: Login::default(),
        };
        let take = || lock(temp.path(), &context).expect("lock");
        let mut beside = Beside::new(temp.path().into());
        assert!(!beside.is_met(secs(1), true));
        let held = take();
        assert!(beside.is_met(secs(2), false) && beside.is_met(secs(9), false), "while it works");
        drop(held);
        assert!(beside.is_met(secs(10), false), "it may have ended just now");
        assert!(!beside.is_met(secs(11), true));
        drop(take());
        assert!(beside.is_met(secs(12), true), "it is over already");
        assert!(beside.is_met(secs(12) + ECHO / 2, true) && beside.is_met(secs(13), true), "what comes late");
        assert!(!beside.is_met(secs(14), true));
        drop(take());
        beside.own_ended();
        assert!(!beside.is_met(secs(20), true));
    }
}
