//! Names of a store's objects, and what may be a name at all.
//!
//! Promises that every name built here reads back to the same parts, and that no other spelling of
//! it does. Knows no bucket and no content.

use crate::base::error::{Error, Result};
use crate::base::id::{OriginId, PackId};
use crate::model::entry::Kind;

/// The object that makes a bucket a store.
pub const FOLDER: &str = "folder";
/// Logs of all origins.
pub const LOG: &str = "log/";
/// Holds of all origins.
pub const HOLDS: &str = "holds/";
/// gc's owners and marks.
pub const GC: &str = "gc/";
/// Damaged objects, moved out of the way.
pub const QUARANTINE: &str = "quarantine/";

/// Where packs of a kind live.
pub fn area(kind: Kind) -> &'static str {
    match kind {
        Kind::Chunk => "data/",
        Kind::Manifest => "meta/",
    }
}

/// `data/HEX64` or `meta/HEX64`.
pub fn pack(kind: Kind, id: PackId) -> String {
    format!("{}{id}", area(kind))
}

/// The inverse of [`pack`].
pub fn parse_pack(name: &str) -> Option<(Kind, PackId)> {
    let kind = [Kind::Chunk, Kind::Manifest].into_iter().find(|k| name.starts_with(area(*k)))?;
    let id = PackId::from_hex(&name[area(kind).len()..]).ok()?;
    (pack(kind, id) == name).then_some((kind, id))
}

/// `log/ORIGINHEX/FROM-TO`.
pub fn log(origin: OriginId, from: u64, to: u64) -> String {
    format!("{LOG}{origin}/{from:016x}-{to:016x}")
}

/// The inverse of [`log`].
pub fn parse_log(name: &str) -> Option<(OriginId, u64, u64)> {
    let (origin, range) = name.strip_prefix(LOG)?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    let parsed = (OriginId::from_hex(origin).ok()?, number(from)?, number(to)?);
    (log(parsed.0, parsed.1, parsed.2) == name).then_some(parsed)
}

/// `holds/ORIGINHEX/N`.
pub fn hold(origin: OriginId, n: u64) -> String {
    format!("{HOLDS}{origin}/{n:016x}")
}

/// The inverse of [`hold`].
pub fn parse_hold(name: &str) -> Option<(OriginId, u64)> {
    let (origin, n) = name.strip_prefix(HOLDS)?.split_once('/')?;
    let parsed = (OriginId::from_hex(origin).ok()?, number(n)?);
    (hold(parsed.0, parsed.1) == name).then_some(parsed)
}

/// `gc/owner-N`.
pub fn owner(n: u64) -> String {
    format!("{GC}owner-{n:016x}")
}

/// The inverse of [`owner`].
pub fn parse_owner(name: &str) -> Option<u64> {
    let n = number(name.strip_prefix("gc/owner-")?)?;
    (owner(n) == name).then_some(n)
}

/// `gc/mark-N`.
pub fn mark(n: u64) -> String {
    format!("{GC}mark-{n:016x}")
}

/// The inverse of [`mark`].
pub fn parse_mark(name: &str) -> Option<u64> {
    let n = number(name.strip_prefix("gc/mark-")?)?;
    (mark(n) == name).then_some(n)
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A random number that makes a name unlike any other's.
pub fn fresh() -> u64 {
    let mut bytes = [0u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        // The kernel has none to give: the clock and the process are unlike any other's, too.
        _ => {
            let now = crate::base::units::Time::now();
            ((now.secs as u64) << 32) ^ u64::from(now.nanos) ^ (u64::from(std::process::id()) << 40)
        }
    }
}

/// Whether a component may appear in a name: `[a-z0-9._-]`, and not `.` or `..`.
pub fn is_component(part: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    !part.is_empty() && part.len() <= 255 && part.iter().all(plain) && part != b"." && part != b".."
}

/// Refuses what is not an object's name.
pub fn check(name: &str) -> Result<()> {
    if name.len() <= 1024 && name.split('/').all(|part| is_component(part.as_bytes())) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{name:?} cannot name an object")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_other_spellings_do_not() {
        let (origin, id) = (OriginId([0xab; 32]), PackId([0xcd; 32]));
        for kind in [Kind::Chunk, Kind::Manifest] {
            assert_eq!(parse_pack(&pack(kind, id)), Some((kind, id)));
        }
        assert_eq!(parse_log(&log(origin, 1, 1000)), Some((origin, 1, 1000)));
        assert_eq!(parse_hold(&hold(origin, 7)), Some((origin, 7)));
        assert_eq!(parse_owner(&owner(3)), Some(3));
        assert_eq!(parse_mark(&mark(u64::MAX)), Some(u64::MAX));
        assert_eq!(parse_pack(&pack(Kind::Chunk, id).to_uppercase()), None);
        assert_eq!(parse_pack(&format!("data/{}", "CD".repeat(32))), None);
        assert_eq!(parse_mark("gc/mark-1"), None);
        assert_eq!(parse_mark("gc/mark-+000000000000001"), None);
    }

    #[test]
    fn names_cannot_leave_the_bucket() {
        for bad in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "A", "a b", "a\0", "\u{e9}"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check("data/ab.c_d-0").is_ok());
    }
}
