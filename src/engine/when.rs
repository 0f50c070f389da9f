//! Points in time as people name them: ago, by the calendar, by an entry, by a version.
//!
//! Promises that a point is a clock value: what was recorded up to it, by whomever, belongs to it.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{Time, parse_duration};

/// The clock value behind `2d` (ago), `2026-11-24`, `2026-11-24 10:00` (local time), a time with a zone,
/// `@SECONDS`, or `ORIGIN:N`.
pub fn clock(folder: &Folder, text: &str, now: Time) -> Result<u64> {
    if let Some((who, number)) = text.rsplit_once(':')
        && let Ok(number) = number.parse()
        && !who.is_empty()
        && time(text).is_none()
    {
        return folder.history.clock_of(who, number);
    }
    if let Ok(ago) = parse_duration(text) {
        let secs = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
        return Ok(end_of(Time { secs: now.secs.saturating_sub(secs), nanos: now.nanos }));
    }
    time(text).map(end_of).ok_or_else(|| {
        Error::Invalid(format!(
            "{text:?} is no time: write 2d (ago), 2026-11-24, '2026-11-24 10:00' or ORIGIN:N"
        ))
    })
}

/// The clock value of version `n` of a path.
pub fn clock_of_version(folder: &Folder, path: &RelPath, n: u64) -> Result<u64> {
    let versions = folder.history.versions(path)?;
    let past = versions.iter().find(|p| p.n == n);
    past.map(|p| p.entry.hlc).ok_or_else(|| Error::Missing(format!("version {n} of {path}")))
}

/// The last clock value within a time's millisecond.
fn end_of(at: Time) -> u64 {
    at.millis().saturating_mul(1 << 16).saturating_add(0xffff)
}

fn time(text: &str) -> Option<Time> {
    let of =
        |stamp: Timestamp| Time { secs: stamp.as_second(), nanos: stamp.subsec_nanosecond().max(0) as u32 };
    let local = |civil: DateTime| civil.to_zoned(TimeZone::system()).ok().map(|z: Zoned| of(z.timestamp()));
    if let Some(secs) = text.strip_prefix('@') {
        return secs.parse().ok().map(|secs| Time { secs, nanos: 0 });
    }
    if let Ok(stamp) = text.parse::<Timestamp>() {
        return Some(of(stamp));
    }
    match text.parse::<DateTime>() {
        Ok(civil) => local(civil),
        Err(_) => text.parse::<Date>().ok().and_then(|date| local(date.at(0, 0, 0, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let utc = |text: &str| time(text).map(|t| t.secs);
        assert_eq!(utc("2026-11-24T10:00:00Z"), Some(1_795_514_400));
        assert_eq!(utc("2026-11-24T11:00:00+01:00"), Some(1_795_514_400));
        assert_eq!(utc("@5"), Some(5));
        assert!(utc("2026-11-24").is_some() && utc("2026-11-24 10:00").is_some());
        assert!(utc("yesterday").is_none() && utc("10").is_none());
    }
}
