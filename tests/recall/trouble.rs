//! What can come of touching a stub: the content, an error, or what must never be.

use std::fmt::{self, Display};
use std::io;

/// Not the content.
#[derive(Debug)]
pub enum Trouble {
    /// An error that the toucher could see.
    Failed(String),
    /// Wrong bytes without an error.
    Wrong(String),
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Wrong(why) => write!(f, "WRONG: {why}"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(e: rustix::io::Errno) -> Self {
        io::Error::from(e).into()
    }
}

/// How touching went.
pub type Touched = Result<(), Trouble>;

/// Compares what was seen with what must be seen.
pub fn same(seen: &[u8], want: &[u8]) -> Touched {
    if seen == want {
        return Ok(());
    }
    let at = seen.iter().zip(want).position(|(a, b)| a != b).unwrap_or(seen.len().min(want.len()));
    let kind = if seen.starts_with(b"This is a ddr stub") {
        "stub text"
    } else if !seen.is_empty() && seen.iter().all(|b| *b == 0) {
        "zeros"
    } else if seen.get(at..).is_some_and(|rest| !rest.is_empty() && rest.iter().all(|b| *b == 0)) {
        "zeros from there on"
    } else {
        "other bytes"
    };
    let lens = format!("{} bytes instead of {}", seen.len(), want.len());
    Err(Trouble::Wrong(format!("{lens}, first difference at {at}: {kind}")))
}

/// Something that must hold of what was seen.
pub fn must(holds: bool, what: &str) -> Touched {
    if holds { Ok(()) } else { Err(Trouble::Wrong(what.into())) }
}
