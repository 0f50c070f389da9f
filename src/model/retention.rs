//! Which old versions of a path are kept, and why.
//!
//! Promises that a head, and what a stub, a hold or the kept-after-delete list needs, is never
//! forgotten; that every version gets either a reason to stay or none; and that the same facts give
//! the same answer. Rules are restic's, for the versions of one path: a rule by period keeps the
//! newest version in each of the last N periods that have one, in the time zone it is given; a week
//! begins on Monday. Time and zone are arguments.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::base::units::Time;

/// What to keep. A version stays if any rule keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The newest versions, the current one included.
    pub last: Option<u64>,
    /// Everything recorded since so long ago.
    pub within: Option<Duration>,
    /// Per period: the last so many that have versions.
    pub periods: Vec<(Period, u64)>,
}

/// A span of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// An hour by the clock on the wall.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// What the reason is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// A number that all times within one period share, and no others.
    fn of(self, at: Time, zone: &TimeZone) -> (i16, i16, i16) {
        let stamp = Timestamp::from_second(at.secs).unwrap_or(Timestamp::MAX);
        let civil = zone.to_datetime(stamp);
        let (year, month, day) = (civil.year(), i16::from(civil.month()), i16::from(civil.day()));
        match self {
            Self::Hour => (year, month * 32 + day, i16::from(civil.hour())),
            Self::Day => (year, month, day),
            Self::Week => {
                let week = civil.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0)
            }
            Self::Month => (year, month, 0),
            Self::Year => (year, 0, 0),
        }
    }
}

/// One entry of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// When it was recorded.
    pub at: Time,
    /// What it is.
    pub what: What,
}

/// What an entry is to retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A version that may be forgotten.
    Version {
        /// Nothing has superseded it.
        is_head: bool,
        /// A stub, somebody's hold or the working tree depends on it.
        is_needed: bool,
    },
    /// The path was deleted, its content does not live on at another.
    Deletion,
    /// Anything else: it costs nothing and stays.
    Other,
}

/// Why a version stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is what is there now; of a conflict, all sides.
    Current,
    /// A stub or a hold needs it.
    Needed,
    /// It was deleted lately.
    Deleted,
    /// One of the newest.
    Last,
    /// Recorded lately.
    Within,
    /// The newest of its period.
    Period(Period),
    /// There is no rule but a limit on size.
    Fits,
}

impl Reason {
    /// One word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Needed => "needed",
            Self::Deleted => "deleted lately",
            Self::Last => "last",
            Self::Within => "within",
            Self::Period(period) => period.name(),
            Self::Fits => "fits",
        }
    }

    /// Whether no limit on size may take it.
    pub fn is_firm(self) -> bool {
        matches!(self, Self::Current | Self::Needed | Self::Deleted)
    }
}

/// What may be known of the time.
#[derive(Clone, Debug)]
pub struct Now {
    /// The time.
    pub at: Time,
    /// Where a day begins.
    pub zone: TimeZone,
    /// Deletions after this are recent.
    pub deleted_since: Time,
}

/// Per entry (oldest first) the reasons why it stays; a version without any is to be forgotten.
///
/// Of a path that was deleted longer ago than the list of deletions goes back, only what a rule by
/// time or a need keeps stays: else one copy of everything there ever was would.
pub fn decide(items: &[Item], rules: &Rules, now: &Now) -> Vec<Vec<Reason>> {
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); items.len()];
    let has_head = items.iter().any(|i| matches!(i.what, What::Version { is_head: true, .. }));
    let last_deletion = items.iter().rev().find(|i| i.what == What::Deletion);
    let is_gone = !has_head && last_deletion.is_some_and(|d| d.at < now.deleted_since);
    protect(items, now, &mut reasons);
    let versions: Vec<usize> =
        (0..items.len()).rev().filter(|i| matches!(items[*i].what, What::Version { .. })).collect();
    if let Some(within) = rules.within {
        let since = now.at.secs.saturating_sub(i64::try_from(within.as_secs()).unwrap_or(i64::MAX));
        versions
            .iter()
            .filter(|i| items[**i].at.secs >= since)
            .for_each(|i| reasons[*i].push(Reason::Within));
    }
    if is_gone {
        return reasons;
    }
    let last = usize::try_from(rules.last.unwrap_or(0)).unwrap_or(usize::MAX);
    versions.iter().take(last).for_each(|i| reasons[*i].push(Reason::Last));
    for (period, count) in &rules.periods {
        let (mut left, mut before) = (*count, None);
        for i in &versions {
            let this = period.of(items[*i].at, &now.zone);
            if before != Some(this) {
                if left == 0 {
                    break;
                }
                left -= 1;
                before = Some(this);
                reasons[*i].push(Reason::Period(*period));
            }
        }
    }
    reasons
}

/// What stays whatever the rules say.
fn protect(items: &[Item], now: &Now, reasons: &mut [Vec<Reason>]) {
    for (i, item) in items.iter().enumerate() {
        match item.what {
            What::Version { is_head, is_needed } => {
                reasons[i].extend(is_head.then_some(Reason::Current));
                reasons[i].extend(is_needed.then_some(Reason::Needed));
            }
            What::Deletion if item.at >= now.deleted_since => {
                let before = items[..i].iter().rposition(|b| matches!(b.what, What::Version { .. }));
                if let Some(b) = before.filter(|b| !reasons[*b].contains(&Reason::Deleted)) {
                    reasons[b].push(Reason::Deleted);
                }
            }
            What::Deletion | What::Other => {}
        }
    }
}

/// Buckets that [`oldest_kept`] sorts sizes into; their memory is all that it needs.
const BUCKETS: u64 = 1 << 16;

/// The clock value below which versions must go so that those that stay need at most `limit` bytes,
/// or as little as can be. `each` calls its argument with clock, size and whether it may go, for
/// every version; it is called a few times.
pub fn oldest_kept<E>(
    limit: u64,
    mut each: impl FnMut(&mut dyn FnMut(u64, u64, bool)) -> Result<(), E>,
) -> Result<u64, E> {
    let mut firm = 0u64;
    each(&mut |_, size, may_go| firm = firm.saturating_add(if may_go { 0 } else { size }))?;
    // Versions from `high` on fit; whether those from `low` on do is looked at ever more closely.
    let (mut low, mut span, mut used) = (0u64, 1u64 << 63, firm);
    loop {
        let width = span.div_ceil(BUCKETS);
        let mut sizes = vec![0u64; BUCKETS as usize];
        each(&mut |clock, size, may_go| {
            let bucket = clock.checked_sub(low).filter(|d| *d < span).map(|d| d / width);
            if let Some(bucket) = bucket.filter(|_| may_go) {
                let sum = &mut sizes[bucket as usize];
                *sum = sum.saturating_add(size);
            }
        })?;
        let mut full = None;
        for bucket in (0..BUCKETS).rev() {
            let sum = used.saturating_add(sizes[bucket as usize]);
            if sum > limit && sizes[bucket as usize] > 0 {
                full = Some(bucket);
                break;
            }
            used = sum;
        }
        match full {
            None => return Ok(low),
            Some(bucket) if width == 1 => return Ok(low + bucket + 1),
            Some(bucket) => (low, span) = (low + bucket * width, width),
        }
    }
}

#[cfg(test)]
mod tests;
