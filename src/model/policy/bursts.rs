//! Bursts: times in which so many files were opened one after the other that an open says nothing of
//! use. An indexer, a backup or a search goes through everything.
//!
//! Promises that a run of opens is a burst only once it has met more different files within a minute than
//! are allowed, that it then reaches back no farther than its last pause, or that minute, and ends with the
//! next pause, and that memory is bounded. Who opens is not asked: nobody can tell. Pure.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::base::path::RelPath;
use crate::base::units::Time;

/// Different files are counted for so long.
const WITHIN: Duration = Duration::from_secs(60);
/// Without an open for so long, what comes next is something else.
const PAUSE: Duration = Duration::from_secs(5);
/// Bursts that are remembered, the newest.
const MOST: usize = 64;

/// From the first open of a burst to the last so far.
pub type Span = (Duration, Duration);

/// Opens that follow each other without a pause.
#[derive(Debug, Default)]
pub struct Run {
    recent: VecDeque<(Duration, RelPath)>,
    known: HashSet<RelPath>,
    first: Duration,
    last: Duration,
    is_burst: bool,
}

impl Run {
    /// A file is opened; if that belongs to a burst, from when to when it lasts by now.
    pub fn open(&mut self, path: &RelPath, now: Duration, limit: usize) -> Option<Span> {
        if now > self.last + PAUSE {
            *self = Self { first: now, ..Self::default() };
        }
        self.last = now;
        if !self.is_burst {
            self.count(path, now);
            self.is_burst = self.recent.len() > limit;
            if let Some((oldest, _)) = self.recent.front().filter(|_| self.is_burst) {
                self.first = self.first.max(*oldest);
                (self.recent, self.known) = Default::default();
            }
        }
        self.is_burst.then_some((self.first, self.last))
    }

    fn count(&mut self, path: &RelPath, now: Duration) {
        while self.recent.front().is_some_and(|(at, _)| *at + WITHIN < now) {
            if let Some((_, old)) = self.recent.pop_front() {
                self.known.remove(&old);
            }
        }
        if self.known.insert(path.clone()) {
            self.recent.push_back((now, path.clone()));
        }
    }
}

/// The bursts of the past, in seconds since 1970, in order and apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bursts(Vec<(i64, i64)>);

impl Bursts {
    /// Whether a time lies in one, and so tells nothing of use.
    pub fn cover(&self, at: Time) -> bool {
        let next = self.0.partition_point(|(first, _)| *first <= at.secs);
        next.checked_sub(1).is_some_and(|n| at.secs <= self.0[n].1)
    }

    /// Adds one; what it meets becomes one with it.
    pub fn add(&mut self, (mut first, mut last): (i64, i64)) {
        self.0.retain(|(start, end)| {
            let meets = *start <= last && first <= *end;
            if meets {
                (first, last) = (first.min(*start), last.max(*end));
            }
            !meets
        });
        let place = self.0.partition_point(|(start, _)| *start < first);
        self.0.insert(place, (first, last));
        let too_many = self.0.len().saturating_sub(MOST);
        self.0.drain(..too_many);
    }

    /// As text.
    pub fn encode(&self) -> String {
        self.0.iter().map(|(first, last)| format!("{first}..{last}")).collect::<Vec<_>>().join(" ")
    }

    /// From text; what is no burst is passed over: losing one makes files look used, no more.
    pub fn decode(text: &str) -> Self {
        let mut all = Self::default();
        for (first, last) in text.split(' ').filter_map(|span| span.split_once("..")) {
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse())
                && first <= last
            {
                all.add((first, last));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn path(n: u64) -> RelPath {
        RelPath::new(format!("f{n}")).expect("valid")
    }

    #[test]
    fn many_files_in_a_row_are_a_burst_from_the_first_to_the_last() {
        let mut run = Run::default();
        assert_eq!(run.open(&path(1000), secs(90), 10), None);
        let spans: Vec<_> = (0..12).map(|n| run.open(&path(n), secs(100 + n), 10)).collect();
        assert!(spans[..10].iter().all(Option::is_none));
        assert_eq!(spans[11], Some((secs(100), secs(111))), "what was before the pause is not part of it");
        assert_eq!(run.open(&path(1), secs(115), 10), Some((secs(100), secs(115))));
        assert_eq!(run.open(&path(1), secs(121), 10), None, "after a pause it is over");
    }

    #[test]
    fn one_file_again_and_again_is_none_nor_are_many_over_a_long_time() {
        let mut run = Run::default();
        assert!((0..1000).all(|n| run.open(&path(n % 9), secs(n / 100), 10).is_none()));
        assert!((0..1000).all(|n| run.open(&path(n), secs(100 + n * 5), 13).is_none()));
    }

    proptest! {
        /// Against the plain definition: some minute of the run has met more than `limit` files.
        #[test]
        fn a_run_is_a_burst_as_the_definition_says(
            opens in proptest::collection::vec((0u64..7, 0u64..12), 1..120), limit in 1usize..8,
        ) {
            let (mut run, mut now, mut all) = (Run::default(), secs(1000), Vec::<(Duration, u64)>::new());
            let mut was = None;
            for (pause, file) in opens {
                now += secs(pause);
                if pause > 5 {
                    (all, was) = (Vec::new(), None);
                }
                all.push((now, file));
                let span = run.open(&path(file), now, limit);
                if let Some((first, last)) = span {
                    prop_assert!(last == now && first >= all[0].0 && was.is_none_or(|was| was == first));
                }
                prop_assert!(was.is_none() || span.is_some(), "it goes on until a pause");
                let files: std::collections::HashSet<u64> =
                    all.iter().filter(|(at, _)| *at + WITHIN >= now).map(|(_, file)| *file).collect();
                prop_assert!(span.is_none() || was.is_some() || files.len() > limit);
                was = span.map(|(first, _)| first);
                prop_assert!(run.recent.len() <= limit);
            }
        }

        #[test]
        fn what_was_added_is_covered_and_nothing_else(
            spans in proptest::collection::vec((0i64..500, 0i64..30), 0..40),
        ) {
            let mut bursts = Bursts::default();
            spans.iter().for_each(|(first, len)| bursts.add((*first, first + len)));
            prop_assert_eq!(&Bursts::decode(&bursts.encode()), &bursts);
            for secs in 0..600 {
                let inside = spans.iter().any(|(first, len)| (*first..=first + len).contains(&secs));
                prop_assert_eq!(bursts.cover(Time { secs, nanos: 5 }), inside);
            }
        }
    }

    #[test]
    fn only_the_newest_are_remembered() {
        let mut bursts = Bursts::default();
        (0..100).for_each(|n| bursts.add((n * 10, n * 10 + 1)));
        let at = |secs| Time { secs, nanos: 0 };
        assert!(bursts.cover(at(990)) && bursts.cover(at(361)) && !bursts.cover(at(350)));
    }
}
