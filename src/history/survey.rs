//! Names of log objects: which entries of which origin a bucket holds.
//!
//! Promises that names are canonical both ways. Reads no object: what a name claims is checked
//! when the object is loaded.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::format::log::MAX_ENTRIES;
use crate::store::Bucket;

const PREFIX: &str = "log/";

/// One log object, as its name describes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogObject {
    /// Number of its first entry.
    pub from: u64,
    /// Number of its last entry.
    pub to: u64,
    /// Its name in the bucket.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What lies under `log/`.
#[derive(Debug, Default)]
pub struct Survey {
    /// Per origin its objects by position; gaps and overlaps are left for the reader to judge.
    pub origins: BTreeMap<OriginId, Vec<LogObject>>,
    /// Names that are not a log object's, with the origin where that much is readable.
    pub odd: Vec<(String, Option<OriginId>)>,
}

/// The name of the object with entries `from..=to`.
pub fn object_name(origin: &OriginId, from: u64, to: u64) -> String {
    format!("{PREFIX}{origin}/{from:016x}-{to:016x}")
}

/// Lists the logs of a bucket.
pub fn survey(bucket: &dyn Bucket) -> Result<Survey> {
    let mut found = Survey::default();
    bucket.list(PREFIX, &mut |name, size| {
        match parse(name) {
            Some((origin, from, to)) => {
                let object = LogObject { from, to, name: name.to_string(), size };
                found.origins.entry(origin).or_default().push(object);
            }
            None => found.odd.push((name.to_string(), origin_of(name))),
        }
        Ok(())
    })?;
    found.origins.values_mut().for_each(|objects| objects.sort());
    found.odd.sort();
    Ok(found)
}

/// The error for a name in [`Survey::odd`].
pub fn odd_name(name: &str) -> Error {
    Error::corrupt(name, "not the name of a log object")
}

fn parse(name: &str) -> Option<(OriginId, u64, u64)> {
    let origin = origin_of(name)?;
    let (from, to) = name.rsplit_once('/')?.1.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (from, to) = (number(from)?, number(to)?);
    let plausible = from > 0 && from <= to && to <= i64::MAX as u64 && to - from < MAX_ENTRIES as u64;
    // Comparing with the canonical name refuses signs, capitals and missing zeros in one go.
    (plausible && object_name(&origin, from, to) == name).then_some((origin, from, to))
}

fn origin_of(name: &str) -> Option<OriginId> {
    OriginId::from_hex(name.strip_prefix(PREFIX)?.split_once('/')?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_parse() {
        let origin = OriginId([0xab; 32]);
        let good = object_name(&origin, 1, 1000);
        assert_eq!(parse(&good), Some((origin, 1, 1000)));
        let odd = [
            good.to_uppercase(),
            good.replace("0000000000000001-", "1-"),
            object_name(&origin, 0, 5),
            object_name(&origin, 6, 5),
            object_name(&origin, 1, 1001),
            object_name(&origin, u64::MAX, u64::MAX),
            format!("{good}/x"),
            "log/".into(),
            "log/x/y".into(),
        ];
        odd.iter().for_each(|name| assert_eq!(parse(name), None, "{name}"));
    }
}
