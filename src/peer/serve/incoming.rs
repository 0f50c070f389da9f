//! The bytes of one put on their way in.
//!
//! Promises that no more waits here than the window allows, and that a frame holds bytes of one
//! object only.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::error::{Error, Result};
use crate::format::frame::MIN_DATA;

struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Bytes that may still be sent.
    credit: u64,
    /// Bytes that are still to come, by object.
    expected: VecDeque<u64>,
    closed: bool,
}

/// What lies between the thread that reads the stream and the one that writes the objects.
pub struct Incoming {
    state: Mutex<State>,
    changed: Condvar,
}

impl Incoming {
    /// Bytes to come by object, and how many may be under way.
    pub fn new(expected: Vec<u64>, window: u64) -> Self {
        let (waiting, expected) = (VecDeque::new(), expected.into());
        let state = State { waiting, credit: window, expected, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much is to come, where that was not known from the start.
    pub fn expect(&self, expected: Vec<u64>) {
        self.state().expected = expected.into();
    }

    /// Takes a frame from the stream, or what there is of the last one.
    pub fn push(&self, bytes: Vec<u8>, is_cut: bool) -> Result<()> {
        let odd = |what: &str| Err(Error::corrupt("data", what));
        let mut state = self.state();
        let len = bytes.len() as u64;
        while state.expected.front() == Some(&0) {
            state.expected.pop_front();
        }
        let Some(left) = state.expected.front_mut() else { return odd("more than was announced") };
        if len > *left || (len < *left && len < MIN_DATA as u64 && !is_cut) {
            return odd("a frame that is too long for its object, or too short");
        }
        *left -= len;
        if len > state.credit {
            return odd("more than the window allows");
        }
        state.credit -= len;
        if !state.closed {
            state.waiting.push_back(bytes);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The next frame; an error if none will come.
    pub fn next(&self) -> Result<Vec<u8>> {
        let mut state = self.state();
        loop {
            if let Some(bytes) = state.waiting.pop_front() {
                return Ok(bytes);
            }
            if state.closed {
                return Err(Error::Interrupted);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// So many more bytes may come.
    pub fn grant(&self, bytes: u64) {
        self.state().credit += bytes;
    }

    /// Nothing more will come, or is wanted. What is here already is still taken: it need not be sent
    /// again.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::MAX_PAYLOAD;

    #[test]
    fn frames_fit_their_objects_and_the_window() {
        let incoming = || Incoming::new(vec![0, 5000, 0, 3], 5003);
        let good = incoming();
        good.push(vec![1; 4096], false).expect("part of the first");
        good.push(vec![1; 904], false).expect("its end");
        good.push(vec![2; 3], false).expect("the second");
        assert_eq!(good.next().expect("it came").len(), 4096);
        assert!(good.push(vec![3], false).is_err(), "more than was announced");
        assert!(incoming().push(vec![1; 5001], false).is_err());
        assert!(incoming().push(vec![1; 100], false).is_err(), "many small frames");
        assert!(incoming().push(vec![1; 100], true).is_ok(), "the last before a cut");
        let small = Incoming::new(vec![MAX_PAYLOAD as u64], 5000);
        assert!(small.push(vec![1; 5001], false).is_err());
        small.close();
        assert!(small.next().is_err());
    }
}
