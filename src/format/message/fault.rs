//! An error on the wire.
//!
//! Promises that both sides see the same kind of error, with its operating system code where it has
//! one, and that text from the other side cannot play tricks on a terminal.

use std::io;
use std::path::PathBuf;

use minicbor::{Decode, Encode};

use super::check_text;
use crate::base::error::{Error, Result};

/// What an I/O error may have been doing; the other side's words must be among these.
const VERBS: [&str; 20] = [
    "allocating",
    "claiming",
    "closing",
    "creating",
    "examining",
    "linking",
    "listing",
    "locking",
    "making directory",
    "naming",
    "opening",
    "reading",
    "removing",
    "removing a stale file from",
    "renaming",
    "replacing",
    "resolving",
    "syncing",
    "syncing directory",
    "writing",
];
/// What is said instead of other words.
const OTHER: &str = "working on";
/// Longer texts are cut before they are sent.
const SENT_TEXT: usize = 1000;

/// An [`Error`] in numbers and texts.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Fault {
    /// Which kind of error.
    #[n(0)]
    pub code: u8,
    /// The thing it is about.
    #[n(1)]
    pub what: String,
    /// Why, or what was being done.
    #[n(2)]
    pub why: Option<String>,
    /// The operating system's code.
    #[n(3)]
    pub errno: Option<i32>,
}

impl Fault {
    /// The error as it goes over the wire.
    pub fn new(error: &Error) -> Self {
        let (code, what, why, errno) = match error {
            Error::Missing(what) => (1, what.clone(), None, None),
            Error::Corrupt { what, why } => (2, what.clone(), Some(why.clone()), None),
            Error::Damaged(what) => (3, what.clone(), None, None),
            Error::Changed(what) => (4, what.clone(), None, None),
            Error::Refused(what) => (5, what.clone(), None, None),
            Error::Locked(what) => (6, what.clone(), None, None),
            Error::Offline { name, why } => (7, name.clone(), Some(why.clone()), None),
            Error::Unsupported(what) => (8, what.clone(), None, None),
            Error::NoSpace(what) => (9, what.clone(), None, None),
            Error::Invalid(what) => (10, what.clone(), None, None),
            Error::Interrupted => (11, String::new(), None, None),
            Error::Io { doing, path, source } => {
                (12, path.to_string_lossy().into_owned(), Some((*doing).into()), source.raw_os_error())
            }
            Error::Db(what) => (13, what.clone(), None, None),
            // Kinds that no store answers with.
            other => (10, other.to_string(), None, None),
        };
        Self { code, what: cut(what), why: why.map(cut), errno }
    }

    /// The error again. A code that was added later reads as `Unsupported`.
    pub fn into_error(self) -> Error {
        let (what, why) = (plain(&self.what), plain(self.why.as_deref().unwrap_or_default()));
        match self.code {
            1 => Error::Missing(what),
            2 => Error::Corrupt { what, why },
            3 => Error::Damaged(what),
            4 => Error::Changed(what),
            5 => Error::Refused(what),
            6 => Error::Locked(what),
            7 => Error::Offline { name: what, why },
            9 => Error::NoSpace(what),
            10 => Error::Invalid(what),
            11 => Error::Interrupted,
            12 => {
                let doing = VERBS.into_iter().find(|verb| *verb == why).unwrap_or(OTHER);
                let source = match self.errno {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::other("the peer did not say why"),
                };
                Error::Io { doing, path: PathBuf::from(what), source }
            }
            13 => Error::Db(what),
            _ => Error::Unsupported(what),
        }
    }

    /// Refuses what is too long.
    pub(super) fn check(&self) -> Result<()> {
        check_text("answer", &self.what)?;
        self.why.as_deref().map_or(Ok(()), |why| check_text("answer", why))
    }
}

/// The first part of a text.
fn cut(mut text: String) -> String {
    let mut at = text.len().min(SENT_TEXT);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
    text
}

/// Text without what a terminal would obey.
fn plain(text: &str) -> String {
    let is_odd = |c: char| {
        let directs = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || directs
    };
    text.chars().map(|c| if is_odd(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::message::Answer;

    #[test]
    fn every_error_arrives_as_what_it_was() {
        let errors = [
            Error::Missing("data/x".into()),
            Error::corrupt("data/x", "wrong hash"),
            Error::Damaged("2 objects".into()),
            Error::Changed("it moved".into()),
            Error::Refused("data/x exists already".into()),
            Error::Locked("ddr 7".into()),
            Error::Offline { name: "/mnt".into(), why: "gone".into() },
            Error::Unsupported("format 9".into()),
            Error::NoSpace("while writing /mnt/x".into()),
            Error::Invalid("\"..\" cannot name an object".into()),
            Error::Interrupted,
            Error::io("reading", "/mnt/x", io::Error::from_raw_os_error(5)),
            Error::Db("locked".into()),
        ];
        for error in errors {
            let Ok(Answer::Failed(fault)) = Answer::decode(&Answer::Failed(Fault::new(&error)).encode())
            else {
                panic!("{error} did not come back")
            };
            let back = fault.into_error();
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
            assert_eq!(back.exit_code(), error.exit_code());
        }
    }

    #[test]
    fn odd_faults_are_errors_all_the_same() {
        let fault = |code, what: &str| Fault { code, what: what.into(), why: None, errno: None };
        assert!(matches!(fault(200, "later").into_error(), Error::Unsupported(_)));
        assert_eq!(fault(5, "a\x1b[2Jb\u{202e}c\n").into_error().to_string(), "refused: a?[2Jb?c?");
        let long = Fault::new(&Error::Invalid("\u{e9}".repeat(5000)));
        assert!(long.what.len() <= SENT_TEXT && long.check().is_ok());
        assert!(fault(12, "/x").into_error().to_string().starts_with("working on /x"));
    }
}
