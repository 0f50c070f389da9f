//! When a file was last used, and how that is known.
//!
//! Promises never to be later than now, and that a date in the future makes no file look old: the
//! time at which the file was first seen counts then, or now where even that lies ahead.

use crate::base::units::Time;

/// What is known of a file's times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    /// When ddr itself saw it used: checked out by it, opened under its watch.
    pub observed: Option<Time>,
    /// Access time: what reads leave, as far as the mount options let them. None where it is of no use:
    /// left by a burst.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Time,
    /// When ddr first saw this version; the time of the last change of the inode where it has not.
    pub first_seen: Time,
}

/// Where the last use was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeenBy {
    /// By ddr.
    Ddr,
    /// In the access time.
    Access,
    /// In the modification time.
    Change,
    /// Dated in the future; first seen then.
    FirstSeen,
    /// Every date lies in the future: taken for used just now.
    Nothing,
}

impl SeenBy {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ddr => "seen by ddr",
            Self::Access => "access time",
            Self::Change => "modification time",
            Self::FirstSeen => "first seen; its modification time lies in the future",
            Self::Nothing => "every date of it lies in the future",
        }
    }
}

/// A last use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastUse {
    /// When.
    pub at: Time,
    /// How it is known.
    pub by: SeenBy,
}

impl LastUse {
    /// The newest of what is known at `now`.
    pub fn of(stamps: &Stamps, now: Time) -> Self {
        let mtime = match stamps.mtime > now {
            true => (stamps.mtime.min(stamps.first_seen), SeenBy::FirstSeen),
            false => (stamps.mtime, SeenBy::Change),
        };
        let all = [
            Some(mtime),
            stamps.atime.map(|t| (t, SeenBy::Access)),
            stamps.observed.map(|t| (t, SeenBy::Ddr)),
        ];
        let past = all.into_iter().flatten().filter(|(at, _)| *at <= now);
        // Of equal times the last: the most telling one.
        past.max_by_key(|(at, _)| *at)
            .map_or(Self { at: now, by: SeenBy::Nothing }, |(at, by)| Self { at, by })
    }

    /// Whole seconds since then.
    pub fn idle(&self, now: Time) -> i64 {
        now.secs.saturating_sub(self.at.secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Time {
        Time { secs, nanos: 0 }
    }

    #[test]
    fn the_newest_stamp_counts() {
        let stamps = Stamps { observed: None, atime: Some(at(50)), mtime: at(40), first_seen: at(90) };
        assert_eq!(LastUse::of(&stamps, at(100)), LastUse { at: at(50), by: SeenBy::Access });
        let watched = Stamps { observed: Some(at(60)), ..stamps };
        assert_eq!(LastUse::of(&watched, at(100)), LastUse { at: at(60), by: SeenBy::Ddr });
        let written = Stamps { mtime: at(70), ..watched };
        assert_eq!(LastUse::of(&written, at(100)), LastUse { at: at(70), by: SeenBy::Change });
    }

    #[test]
    fn a_file_from_the_future_is_as_old_as_its_first_sight() {
        let stamps = Stamps { observed: None, atime: Some(at(10)), mtime: at(5000), first_seen: at(60) };
        assert_eq!(LastUse::of(&stamps, at(100)), LastUse { at: at(60), by: SeenBy::FirstSeen });
        let read_since = Stamps { atime: Some(at(80)), ..stamps };
        assert_eq!(LastUse::of(&read_since, at(100)), LastUse { at: at(80), by: SeenBy::Access });
    }

    #[test]
    fn when_every_date_lies_ahead_the_file_is_young() {
        let stamps =
            Stamps { observed: Some(at(900)), atime: Some(at(900)), mtime: at(900), first_seen: at(800) };
        let used = LastUse::of(&stamps, at(100));
        assert_eq!((used.idle(at(100)), used.by), (0, SeenBy::Nothing));
    }
}
