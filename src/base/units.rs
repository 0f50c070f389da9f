//! Sizes, durations and times as people write them.
//!
//! Promises that what is printed parses back to (nearly) the same value. Knows no clock: the
//! current time is always an argument, except in [`Time::now`], the one place that asks for it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::{Error, Result};

/// A point in time: seconds since 1970 (negative before) and nanoseconds (0..1e9) added to it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, minicbor::Encode, minicbor::Decode,
)]
pub struct Time {
    /// Whole seconds since 1970-01-01 UTC, rounded down.
    #[n(0)]
    pub secs: i64,
    /// Nanoseconds after `secs`.
    #[n(1)]
    pub nanos: u32,
}

impl Time {
    /// The machine's wall clock; in debug builds a drill can put it so many seconds ahead, or behind.
    pub fn now() -> Self {
        #[cfg(debug_assertions)]
        if let Some(ahead) = std::env::var("DDR_CLOCK").ok().and_then(|text| text.parse::<i64>().ok()) {
            let real = Self::real();
            return Self { secs: real.secs.saturating_add(ahead), ..real };
        }
        Self::real()
    }

    fn real() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(d) => Self { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(e) => Self { secs: -(e.duration().as_secs() as i64) - 1, nanos: 0 },
        }
    }

    /// Milliseconds since 1970, not below zero.
    pub fn millis(self) -> u64 {
        u64::try_from(self.secs).map_or(0, |s| s.saturating_mul(1000) + u64::from(self.nanos / 1_000_000))
    }
}

impl fmt::Display for Time {
    /// Local date and time to the minute; far-off times as seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.secs) {
            Ok(t) => {
                let zoned = t.to_zoned(jiff::tz::TimeZone::system());
                write!(f, "{}", zoned.strftime("%Y-%m-%d %H:%M"))
            }
            Err(_) => write!(f, "@{}", self.secs),
        }
    }
}

/// Bytes as `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// Reads `16KiB`, `1.5G`, `4096`.
pub fn parse_size(text: &str) -> Result<u64> {
    bytesize::ByteSize::from_str(text)
        .map(|b| b.as_u64())
        .map_err(|_| Error::Invalid(format!("{text:?} is not a size: write 4096, 16KiB or 1.5GiB")))
}

/// Reads `90s`, `10m`, `36h`, `30d`, `2w`, `1y`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || Error::Invalid(format!("{text:?} is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.trim().parse().map_err(|_| bad())?;
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        "" if count == 0 => 1,
        _ => return Err(bad()),
    };
    count.checked_mul(unit).map(Duration::from_secs).ok_or_else(bad)
}

/// A duration as its largest fitting unit: `45s`, `10m`, `36h`, `30d`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..120 => format!("{s}s"),
        120..7200 => format!("{}m", s / 60),
        7200..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// A count with thousands separators and its noun: `1,234 files`, `1 file`.
pub fn count(n: u64, noun: &str) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    let plural = match noun {
        n if n.ends_with('y') => format!("{}ies", &n[..n.len() - 1]),
        n if n.ends_with("sh") => format!("{n}es"),
        n => format!("{n}s"),
    };
    format!("{out} {}", if n == 1 { noun } else { &plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_parse_as_people_write_them() {
        assert_eq!(parse_size("16KiB").expect("valid"), 16 << 10);
        assert_eq!(parse_size("4096").expect("valid"), 4096);
        assert!(parse_size("lots").is_err());
        assert_eq!(parse_duration("2w").expect("valid").as_secs(), 14 * 86_400);
        assert!(parse_duration("5 parsecs").is_err());
    }

    #[test]
    fn counts_read_well() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(78_579, "file"), "78,579 files");
        assert_eq!(count(2, "entry"), "2 entries");
    }
}
