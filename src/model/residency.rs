//! How much of a file's content is on this machine.
//!
//! Promises only a word: what a file is, its extents and bytes decide (`local::stub`); this records
//! what was found when it was last looked at.

use crate::base::error::{Error, Result};

/// Whether the bytes are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residency {
    /// All of them; also directories, symlinks and empty files.
    Full,
    /// None: a placeholder of the true size.
    Stub,
}

impl Residency {
    /// The byte that stands for it in databases.
    pub fn byte(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::Stub => 1,
        }
    }

    /// The inverse of [`Residency::byte`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::Full),
            1 => Ok(Self::Stub),
            _ => Err(Error::corrupt("residency", format!("unknown value {byte}"))),
        }
    }
}
