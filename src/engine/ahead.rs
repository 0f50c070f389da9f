//! One step on another thread while this one settles the step before and prepares the next.
//!
//! Promises that at most one step runs at a time, in the order given, and that what each came to is
//! handed back once. Knows nothing of the steps.

use std::thread::{Scope, ScopedJoinHandle};

use crate::base::error::{Error, Result};

/// A line of steps.
pub struct Ahead<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    running: Option<ScopedJoinHandle<'scope, T>>,
}

impl<'scope, 'env, T: Send + 'scope> Ahead<'scope, 'env, T> {
    /// Nothing runs yet.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, running: None }
    }

    /// Waits for the step that runs, if any, then starts this one; returns what the former came to.
    pub fn start(&mut self, step: impl FnOnce() -> T + Send + 'scope) -> Result<Option<T>> {
        let last = self.wait()?;
        self.running = Some(self.scope.spawn(step));
        Ok(last)
    }

    /// Waits for the step that runs, if any.
    pub fn wait(&mut self) -> Result<Option<T>> {
        let ended = self.running.take().map(ScopedJoinHandle::join).transpose();
        ended.map_err(|_| Error::Invalid("a worker thread panicked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_one_at_a_time_and_each_is_handed_back_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let at_once = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (mut ahead, mut seen) = (Ahead::new(scope), Vec::new());
            for n in 0..20 {
                let at_once = &at_once;
                let step = move || {
                    assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    n
                };
                seen.extend(ahead.start(step).expect("no panic"));
            }
            seen.extend(ahead.wait().expect("no panic"));
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
            assert_eq!(ahead.wait().expect("no panic"), None);
        });
    }
}
