//! The one error type: each variant answers "what can the caller do?".
//!
//! Promises that every error knows its exit code and, where there is one, the next step. Per-file
//! trouble that a run survives is a `progress::Problem`. Deliberately no `From<io::Error>`: it would lose
//! what was being done to which path.

use std::io;
use std::path::PathBuf;

/// Result with the crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something named does not exist: a path, a version, a record in a store.
    #[error("{0} not found")]
    Missing(String),
    /// Bytes that are not what their name or checksum says.
    #[error("corrupt {what}: {why}")]
    Corrupt {
        /// The damaged thing: an object name, a record id, a file.
        what: String,
        /// What did not match.
        why: String,
    },
    /// A check found damage, and has said where.
    #[error("{0} found; see the lines above")]
    Damaged(String),
    /// A file is not in the state the operation was planned for.
    #[error("{0}")]
    Changed(String),
    /// A safety rule forbids it.
    #[error("refused: {0}")]
    Refused(String),
    /// Another process holds the folder.
    #[error("locked by {0}")]
    Locked(String),
    /// A store or peer cannot be reached.
    #[error("{name} is offline: {why}")]
    Offline {
        /// Name of the remote, or its location.
        name: String,
        /// What was tried and what came back.
        why: String,
    },
    /// A format, feature or file system capability this build or machine lacks.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// No room to write.
    #[error("no space left {0}")]
    NoSpace(String),
    /// Bad input: an argument, a path, a configuration value.
    #[error("{0}")]
    Invalid(String),
    /// No ddr folder at or above the working directory.
    #[error("no ddr folder at or above {}", .0.display())]
    NoFolder(PathBuf),
    /// The run was interrupted (Ctrl-C); everything done so far is consistent.
    #[error("interrupted")]
    Interrupted,
    /// Some files had problems, each reported on its own; the count is given.
    #[error("{0} had problems")]
    Problems(String),
    /// The operating system refused an operation.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was being done, as a verb in -ing form.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The index database failed; it can be deleted and rebuilt.
    #[error("database: {0}")]
    Db(String),
}

impl Error {
    /// Wraps an I/O error; a full disk or quota becomes [`Error::NoSpace`].
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.into(), source.into());
        match source.raw_os_error() {
            Some(libc_errno::ENOSPC | libc_errno::EDQUOT) => {
                Self::NoSpace(format!("while {doing} {}", path.display()))
            }
            _ => Self::Io { doing, path, source },
        }
    }

    /// Bytes that do not decode or do not hash to their name.
    pub fn corrupt(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), why: why.into() }
    }

    /// Whether stored data is damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// Whether this is "no such file or directory".
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// The raw errno, where the operating system gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The same error once more, for everybody else whom it concerns.
    pub fn again(&self) -> Self {
        match self {
            Self::Missing(text) => Self::Missing(text.clone()),
            Self::Corrupt { what, why } => Self::Corrupt { what: what.clone(), why: why.clone() },
            Self::Damaged(text) => Self::Damaged(text.clone()),
            Self::Changed(text) => Self::Changed(text.clone()),
            Self::Refused(text) => Self::Refused(text.clone()),
            Self::Locked(text) => Self::Locked(text.clone()),
            Self::Offline { name, why } => Self::Offline { name: name.clone(), why: why.clone() },
            Self::Unsupported(text) => Self::Unsupported(text.clone()),
            Self::NoSpace(text) => Self::NoSpace(text.clone()),
            Self::Invalid(text) => Self::Invalid(text.clone()),
            Self::NoFolder(path) => Self::NoFolder(path.clone()),
            Self::Interrupted => Self::Interrupted,
            Self::Problems(text) => Self::Problems(text.clone()),
            Self::Io { doing, path, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                Self::Io { doing, path: path.clone(), source }
            }
            Self::Db(text) => Self::Db(text.clone()),
        }
    }

    /// Process exit code, documented in `ddr help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::Problems(_) => 3,
            Self::Refused(_) | Self::Changed(_) => 4,
            Self::Corrupt { .. } | Self::Damaged(_) => 5,
            Self::NoFolder(_) => 10,
            Self::Locked(_) => 11,
            Self::Offline { .. } => 13,
            Self::Interrupted => 130,
            _ => 1,
        }
    }

    /// What to do next, where there is a general answer.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoFolder(_) => Some("run `ddr init` in the directory you want ddr to look after"),
            Self::Locked(_) => Some("wait for it to finish, or pass --wait 1m"),
            Self::Offline { .. } => {
                Some("mount or plug in its disk, or start its machine, then run the command again")
            }
            Self::Corrupt { .. } => Some("run `ddr fsck --read-data` to see the extent of the damage"),
            Self::Damaged(_) => {
                Some("`ddr fsck --read-data --repair` copies out what is whole and deletes nothing")
            }
            Self::NoSpace(_) => {
                Some("free some space and run the same command again; it continues where it stopped")
            }
            Self::Db(_) => Some("run `ddr rebuild`: the databases are only indexes"),
            Self::Interrupted => Some("run the same command again; it continues where it stopped"),
            _ => None,
        }
    }
}

/// The two errno values that mean "full", without naming libc in every layer.
mod libc_errno {
    pub const ENOSPC: i32 = 28;
    pub const EDQUOT: i32 = 122;
}
