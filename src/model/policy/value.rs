//! Values of a policy file that are checked where they stand, so that an error names line and column.
//!
//! Promises that a value that was read is valid. Written as in every ddr setting: `10MiB`, `30d`, `85%`.

use std::time::Duration;

use globset::GlobBuilder;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::base::units;

/// An age: `10m`, `36h`, `30d`, `1y`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Age(pub Duration);

impl Age {
    /// In whole seconds.
    pub fn secs(self) -> i64 {
        i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        units::parse_duration(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A number of bytes: `4096`, `16KiB`, `1.5GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        units::parse_size(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A glob over paths: `*` and `?` stay within a name, `**` crosses directories, `{a,b}` and
/// `[a-z]` as in a shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The glob itself.
    pub fn glob(&self, case_insensitive: bool) -> Result<globset::Glob, globset::Error> {
        // A pattern without a slash is about the name, at any depth; one with a slash counts from the root.
        let text = match self.0.strip_prefix('/') {
            Some(rest) => rest.to_string(),
            None if self.0.contains('/') => self.0.clone(),
            None => format!("**/{}", self.0),
        };
        GlobBuilder::new(&text).literal_separator(true).case_insensitive(case_insensitive).build()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let pattern = Self(String::deserialize(from)?);
        if pattern.0.is_empty() {
            return Err(D::Error::custom("an empty pattern matches nothing"));
        }
        match pattern.glob(false) {
            Ok(_) => Ok(pattern),
            Err(e) => Err(D::Error::custom(format!("{:?} is no glob: {}", pattern.0, e.kind()))),
        }
    }
}

/// A fill level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// `85%` of the room is used.
    Percent(u8),
    /// `40GiB` are used.
    Used(u64),
    /// `20GiB free`: so much is left.
    Free(u64),
}

impl Level {
    /// Bytes in use at this level, of a room of `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(p) => (u128::from(total) * u128::from(p) / 100) as u64,
            Self::Used(bytes) => bytes.min(total),
            Self::Free(bytes) => total.saturating_sub(bytes),
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Percent(p) => write!(f, "{p}%"),
            Self::Used(bytes) => write!(f, "{}", units::size(*bytes)),
            Self::Free(bytes) => write!(f, "{} free", units::size(*bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bad = || D::Error::custom(format!("{text:?} is no level: write 85%, 40GiB or \"20GiB free\""));
        if let Some(number) = text.strip_suffix('%') {
            let percent: u8 = number.trim().parse().map_err(|_| bad())?;
            return if percent <= 100 { Ok(Self::Percent(percent)) } else { Err(bad()) };
        }
        match text.strip_suffix(" free") {
            Some(size) => units::parse_size(size).map(Self::Free).map_err(|_| bad()),
            None => units::parse_size(&text).map(Self::Used).map_err(|_| bad()),
        }
    }
}

/// What high and low water are levels of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Vessel {
    /// `disk`: the file system the folder lies on, whoever fills it.
    #[default]
    Disk,
    /// A size: what this folder's files may take, its budget.
    Budget(u64),
}

impl<'de> Deserialize<'de> for Vessel {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "disk" => Ok(Self::Disk),
            text => units::parse_size(text).map(Self::Budget).map_err(|_| {
                D::Error::custom(format!("{text:?}: write \"disk\", or a budget such as 200GiB"))
            }),
        }
    }
}
