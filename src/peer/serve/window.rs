//! How much may be under way, and who goes first.
//!
//! Promises bounded waiting: a queue lets somebody pass who has waited for a second, for one slow
//! request must not hold up all others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::format::message::PAGES;

/// How long a queue may hold anybody up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of pages that may be sent; closed when nobody wants them any more.
pub struct Window {
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Self {
        Self { state: Mutex::new((PAGES, false)), changed: Condvar::new() }
    }
}

impl Window {
    fn state(&self) -> MutexGuard<'_, (u64, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes may be sent; an error if it is closed.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        loop {
            if state.1 {
                return Err(Error::Interrupted);
            }
            if let Some(left) = state.0.checked_sub(bytes) {
                state.0 = left;
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// So many more may be sent.
    pub fn add(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        state.0 = state
            .0
            .checked_add(bytes)
            .filter(|sum| *sum <= PAGES)
            .ok_or_else(|| Error::corrupt("request", "credit for more than was sent"))?;
        self.changed.notify_all();
        Ok(())
    }

    /// Nobody wants more.
    pub fn close(&self) {
        self.state().1 = true;
        self.changed.notify_all();
    }

    /// Whether nobody wants more.
    pub fn is_closed(&self) -> bool {
        self.state().1
    }
}

/// Lets a few pass at a time, in the order in which they came.
pub struct Queue {
    places: u64,
    /// Tickets given, tickets served.
    state: Mutex<(u64, u64)>,
    left: Condvar,
}

/// Somebody who is past the queue.
pub struct Pass<'a>(&'a Queue);

impl Queue {
    /// `places`: how many may be past it at once.
    pub fn new(places: u64) -> Self {
        Self { places, state: Mutex::default(), left: Condvar::new() }
    }

    /// Waits for a turn, but not longer than a second.
    pub fn pass(&self) -> Pass<'_> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = state.0;
        state.0 += 1;
        while ticket >= state.1 + self.places {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            state = self.left.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        Pass(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_back_only_what_it_gave() {
        let window = Window::default();
        assert!(window.add(1).is_err());
        window.take(PAGES).expect("all of it");
        window.add(100).expect("some of it");
        window.take(100).expect("it is there");
        window.close();
        assert!(window.is_closed() && window.take(0).is_err());
    }

    #[test]
    fn a_slow_one_in_front_holds_up_nobody_for_long() {
        let queue = Queue::new(2);
        let (_a, _b) = (queue.pass(), queue.pass());
        let since = Instant::now();
        drop(queue.pass());
        assert!(since.elapsed() >= PATIENCE);
        drop(_a);
        let since = Instant::now();
        drop(queue.pass());
        assert!(since.elapsed() < PATIENCE);
    }
}
