//! One request on its way: what has come for it, and who waits for it.
//!
//! Promises that no more is taken from the other side than was asked for. Knows no stream.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::format::message::{Answer, page_cost};

/// Answers of other kinds that one request may have.
const ANSWERS: usize = 4;

/// Why a request has no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The stream was cut: the same request may be sent again over another one.
    Cut(Error),
    /// The other side answered that it failed, or nothing can be done about it here.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Trouble {
    /// The error, whatever is to be done about it.
    pub fn into_error(self) -> Error {
        match self {
            Self::Cut(e) | Self::Final(e) => e,
        }
    }
}

#[derive(Default)]
struct State {
    /// With what a page costs.
    answers: VecDeque<(Answer, u64)>,
    data: Vec<u8>,
    /// Bytes of data that may still come.
    room: u64,
    /// Bytes of pages that may still come.
    pages: u64,
    /// Bytes that may be sent.
    credit: u64,
    finished: bool,
    cut: Option<Error>,
}

/// A request that was sent.
#[derive(Default)]
pub struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

impl Slot {
    /// For a request that is answered by messages alone.
    pub fn plain() -> Self {
        Self::default()
    }

    /// For a get of at most so many bytes; `expected` of them are likely.
    pub fn get(room: u64, expected: usize) -> Self {
        let state = State { room, data: Vec::with_capacity(expected), ..State::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// For a listing: so many bytes of pages may be under way.
    pub fn list(pages: u64) -> Self {
        Self { state: Mutex::new(State { pages, ..State::default() }), ..Self::default() }
    }

    /// For a put: so many bytes may be sent at first.
    pub fn put(credit: u64) -> Self {
        Self { state: Mutex::new(State { credit, ..State::default() }), ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an answer of `len` bytes from the stream; true if it was the last one.
    pub fn answer(&self, answer: Answer, len: usize) -> Result<bool> {
        let mut state = self.state();
        if state.finished {
            return Err(odd("an answer after the last one"));
        }
        match answer {
            Answer::Credit(bytes) => {
                state.credit = state.credit.checked_add(bytes).ok_or_else(|| odd("endless credit"))?;
            }
            Answer::Page(_) => {
                let cost = page_cost(len);
                state.pages =
                    state.pages.checked_sub(cost).ok_or_else(|| odd("more names than asked for"))?;
                state.answers.push_back((answer, cost));
            }
            answer => {
                state.finished = matches!(answer, Answer::Done | Answer::Failed(_) | Answer::Info(_));
                let others = state.answers.iter().filter(|(_, cost)| *cost == 0).count();
                if others >= ANSWERS {
                    return Err(odd("too many answers"));
                }
                state.answers.push_back((answer, 0));
            }
        }
        self.changed.notify_all();
        Ok(state.finished)
    }

    /// Takes the buffer for `len` bytes that come now; [`Slot::filled`] gives it back.
    pub fn buffer(&self, len: usize) -> Result<Vec<u8>> {
        let mut state = self.state();
        state.room = state.room.checked_sub(len as u64).ok_or_else(|| odd("more bytes than asked for"))?;
        Ok(std::mem::take(&mut state.data))
    }

    /// Gives the buffer back.
    pub fn filled(&self, data: Vec<u8>) {
        self.state().data = data;
    }

    /// Nothing more will come.
    pub fn cut(&self, why: &Error) {
        let mut state = self.state();
        if !state.finished {
            state.cut.get_or_insert_with(|| why.again());
        }
        self.changed.notify_all();
    }

    /// Whether the stream was cut before the last answer.
    pub fn is_cut(&self) -> bool {
        self.state().cut.is_some()
    }

    /// What came of the data so far.
    pub fn take_data(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().data)
    }

    /// Waits for the next answer that is not credit, and says what it costs if it is a page; a failure
    /// comes as the error it is.
    pub fn next(&self, limit: Duration) -> Result<(Answer, u64), Trouble> {
        let until = Instant::now() + limit;
        let mut state = self.state();
        loop {
            match state.answers.pop_front() {
                Some((Answer::Failed(fault), _)) => return Err(Trouble::Final(fault.into_error())),
                Some(answer) => return Ok(answer),
                None => {}
            }
            if let Some(why) = &state.cut {
                return Err(Trouble::Cut(why.again()));
            }
            state = self.wait(state, until)?;
        }
    }

    /// Waits until `wanted` bytes may be sent, and takes them; false if the answer is there already.
    pub fn spend(&self, wanted: u64, limit: Duration) -> Result<bool, Trouble> {
        let until = Instant::now() + limit;
        let mut state = self.state();
        loop {
            if let Some(why) = &state.cut {
                return Err(Trouble::Cut(why.again()));
            }
            if state.finished {
                return Ok(false);
            }
            if let Some(left) = state.credit.checked_sub(wanted) {
                state.credit = left;
                return Ok(true);
            }
            state = self.wait(state, until)?;
        }
    }

    /// More pages may come: so much as these names took.
    pub fn grant(&self, bytes: u64) {
        self.state().pages += bytes;
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> Result<MutexGuard<'a, State>, Trouble> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Cut(Error::Offline {
                name: "the peer".into(),
                why: "it is there, but does not answer".into(),
            }));
        }
        Ok(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }
}

fn odd(what: &str) -> Error {
    Error::corrupt("the peer's answer", what)
}
