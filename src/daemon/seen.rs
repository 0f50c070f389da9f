//! What the watcher told since anybody last acted on it: changed paths, opened files, new directories.
//!
//! Promises bounded memory whatever happens in the tree: beyond its bounds it only knows that changes
//! were missed. A path is forgotten only by [`Seen::settled`], after it was committed, so that a stop in
//! the middle loses nothing. Times are those of [`super::triggers`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::base::path::RelPath;
use crate::model::policy::bursts::{Run, Span as Burst};

/// Changed paths known by name; more are found by a rescan.
const MAX_CHANGED: usize = 4096;
/// Opened files known by name; of more, access times tell.
const MAX_OPENED: usize = 8192;
/// A path that never rests is committed after so many times the time it should rest.
const PATIENCE: u32 = 60;

/// When a path changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    first: Duration,
    last: Duration,
}

/// Opened files, and when.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uses {
    /// When each was opened first.
    pub opened: HashMap<RelPath, Duration>,
    /// When so many were opened that it tells nothing; what was opened then is not in the list.
    pub bursts: Vec<Burst>,
}

impl Uses {
    /// Whether there is nothing to be written down.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.bursts.is_empty()
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    changed: BTreeMap<RelPath, Span>,
    uses: Uses,
    run: Run,
    burst_limit: usize,
    opened_since: Option<Duration>,
    fresh: Vec<RelPath>,
    missed: bool,
}

impl Seen {
    /// Something happened to a path.
    pub fn change(&mut self, path: RelPath, now: Duration) {
        if let Some(span) = self.changed.get_mut(&path) {
            span.last = now;
        } else if self.changed.len() < MAX_CHANGED {
            self.changed.insert(path, Span { first: now, last: now });
        } else {
            self.miss();
        }
    }

    /// A directory appeared: what is in it may have been there before it was watched.
    pub fn appear(&mut self, dir: RelPath, now: Duration) {
        if self.fresh.len() < MAX_CHANGED {
            self.fresh.push(dir.clone());
        } else {
            self.miss();
        }
        self.change(dir, now);
    }

    /// A file was opened.
    pub fn open(&mut self, path: RelPath, now: Duration) {
        match self.run.open(&path, now, self.burst_limit) {
            Some(burst) => self.note_burst(burst),
            None if self.uses.opened.len() < MAX_OPENED => {
                self.uses.opened.entry(path).or_insert(now);
            }
            None => {}
        }
        self.opened_since.get_or_insert(now);
    }

    fn note_burst(&mut self, burst: Burst) {
        match self.uses.bursts.iter_mut().find(|(first, _)| *first == burst.0) {
            Some((_, last)) => *last = burst.1.max(*last),
            None => {
                // One that is put back may be over for long.
                self.uses.opened.retain(|_, at| *at < burst.0 || *at > burst.1);
                self.uses.bursts.push(burst);
            }
        }
    }

    /// More different files than these in a row tell nothing of use.
    pub fn set_burst_limit(&mut self, files: usize) {
        self.burst_limit = files;
    }

    /// Changes were missed.
    pub fn miss(&mut self) {
        self.missed = true;
        self.changed.clear();
    }

    /// Whether changes were missed.
    pub fn has_missed(&self) -> bool {
        self.missed
    }

    /// Changed paths that wait; `None` if only a rescan can tell.
    pub fn pending(&self) -> Option<usize> {
        (!self.missed).then_some(self.changed.len())
    }

    /// Since when opened files wait.
    pub fn opened_since(&self) -> Option<Duration> {
        self.opened_since
    }

    /// When the first path will have rested for `settle`, or waited long enough.
    pub fn settles(&self, settle: Duration) -> Option<Duration> {
        self.changed.values().map(|span| span.ripe(settle)).min()
    }

    /// The paths that have; who waits longest comes first.
    pub fn ripe(&self, settle: Duration, now: Duration) -> Vec<RelPath> {
        let mut ripe: Vec<_> = self.changed.iter().filter(|(_, span)| span.ripe(settle) <= now).collect();
        ripe.sort_by_key(|(_, span)| span.first);
        ripe.into_iter().map(|(path, _)| path.clone()).collect()
    }

    /// These paths were committed by a run that began at `since`; what changed meanwhile waits on.
    pub fn settled(&mut self, paths: &[RelPath], since: Duration) {
        for path in paths {
            if let Some(span) = self.changed.get_mut(path) {
                match span.last < since {
                    true => drop(self.changed.remove(path)),
                    false => span.first = since,
                }
            }
        }
    }

    /// The whole tree was committed by a run that began at `since`.
    pub fn all_settled(&mut self, since: Duration) {
        self.changed.retain(|_, span| span.last >= since);
    }

    /// A look at the whole tree begins: what is missed from now on, it may miss, too.
    pub fn begin_rescan(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Directories to be watched.
    pub fn take_fresh(&mut self) -> Vec<RelPath> {
        std::mem::take(&mut self.fresh)
    }

    /// Opened files are not to wait any longer.
    pub fn hurry(&mut self) {
        if let Some(since) = &mut self.opened_since {
            *since = Duration::ZERO;
        }
    }

    /// What was opened.
    pub fn take_uses(&mut self) -> Uses {
        self.opened_since = None;
        std::mem::take(&mut self.uses)
    }

    /// What was opened tells nothing; nor is it the beginning of a burst.
    pub fn discard_uses(&mut self) {
        self.take_uses();
        self.run = Run::default();
    }

    /// It could not be written down, and waits on.
    pub fn put_back(&mut self, uses: Uses, now: Duration) {
        if uses.is_empty() {
            return;
        }
        for (path, at) in uses.opened {
            // Opened once more meanwhile: that is the later one.
            let known = self.uses.opened.entry(path).or_insert(at);
            *known = at.max(*known);
        }
        uses.bursts.into_iter().for_each(|burst| self.note_burst(burst));
        self.opened_since.get_or_insert(now);
    }
}

/// The first of these paths, as many as have `most` bytes together, one at least; in order.
pub fn slice(paths: Vec<RelPath>, most: u64, size: impl Fn(&RelPath) -> u64) -> Vec<RelPath> {
    let mut bytes = 0u64;
    let fits = |path: &RelPath| {
        let was = bytes;
        bytes = bytes.saturating_add(size(path));
        was < most
    };
    let mut some: Vec<RelPath> = paths.into_iter().take_while(fits).collect();
    some.sort();
    some
}

impl Span {
    fn ripe(&self, settle: Duration) -> Duration {
        (self.last + settle).min(self.first + settle * PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).expect("valid")
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_busy_path_does_not_hold_up_the_others_and_gets_its_turn() {
        let mut seen = Seen::default();
        seen.change(path("report"), secs(0));
        for n in 0..100 {
            seen.change(path("log"), secs(n));
        }
        assert_eq!(seen.settles(secs(10)), Some(secs(10)));
        assert_eq!(seen.ripe(secs(10), secs(99)), [path("report")]);
        for n in 100..=600 {
            seen.change(path("log"), secs(n));
        }
        assert_eq!(seen.ripe(secs(10), secs(600)).len(), 2, "after sixty times its rest");
    }

    #[test]
    fn who_waits_longest_is_among_the_first_that_fit() {
        let mut seen = Seen::default();
        for (n, name) in ["z", "a", "m"].iter().enumerate() {
            seen.change(path(name), secs(n as u64));
        }
        let ripe = seen.ripe(secs(1), secs(60));
        assert_eq!(ripe, [path("z"), path("a"), path("m")]);
        let some = |most| slice(ripe.clone(), most, |_| 10);
        assert_eq!(some(11), [path("a"), path("z")], "the longest waiting, in order");
        assert_eq!((some(1), some(100).len()), (vec![path("z")], 3));
    }

    #[test]
    fn what_changes_while_it_is_committed_stays() {
        let mut seen = Seen::default();
        seen.change(path("a"), secs(1));
        seen.change(path("b"), secs(1));
        seen.change(path("b"), secs(21));
        seen.settled(&[path("a"), path("b")], secs(20));
        assert_eq!(seen.ripe(secs(10), secs(31)), [path("b")]);
        seen.all_settled(secs(22));
        assert_eq!(seen.pending(), Some(0));
    }

    #[test]
    fn beyond_its_bounds_it_only_knows_that_it_missed_something() {
        let mut seen = Seen::default();
        for n in 0..=MAX_CHANGED {
            seen.change(path(&format!("f{n}")), secs(0));
        }
        assert_eq!((seen.pending(), seen.has_missed()), (None, true));
        assert!(seen.begin_rescan() && !seen.has_missed());
        seen.set_burst_limit(usize::MAX);
        for n in 0..2 * MAX_OPENED {
            seen.open(path(&format!("f{n}")), secs(3));
        }
        assert_eq!((seen.opened_since(), seen.take_uses().opened.len()), (Some(secs(3)), MAX_OPENED));
        assert_eq!(seen.opened_since(), None);
    }

    #[test]
    fn a_burst_takes_back_what_it_began_with_and_no_more() {
        let mut seen = Seen::default();
        seen.set_burst_limit(20);
        seen.open(path("mine"), secs(10));
        (0..100).for_each(|n| seen.open(path(&format!("f{n}")), secs(20 + n / 10)));
        seen.open(path("later"), secs(60));
        assert_eq!(told(seen.take_uses()), (words(&["later 60", "mine 10"]), vec![(secs(20), secs(29))]));
    }

    #[test]
    fn what_is_discarded_is_not_the_beginning_of_a_burst() {
        let mut seen = Seen::default();
        seen.set_burst_limit(20);
        (0..30).for_each(|n| seen.open(path(&format!("f{n}")), secs(20)));
        seen.discard_uses();
        assert_eq!(seen.opened_since(), None);
        seen.open(path("mine"), secs(21));
        assert_eq!(told(seen.take_uses()), (words(&["mine 21"]), vec![]));
    }

    #[test]
    fn what_is_put_back_takes_nothing_from_what_came_since() {
        for (goes_on, end) in [(true, 24), (false, 20)] {
            let mut seen = Seen::default();
            seen.set_burst_limit(20);
            let many = |seen: &mut Seen, at| (0..100).for_each(|n| seen.open(path(&format!("f{n}")), at));
            seen.open(path("mine"), secs(10));
            many(&mut seen, secs(20));
            let uses = seen.take_uses();
            if goes_on {
                many(&mut seen, secs(end));
            }
            seen.open(path("later"), secs(60));
            seen.open(path("mine"), secs(61));
            seen.put_back(uses, secs(62));
            let expected = (words(&["later 60", "mine 61"]), vec![(secs(20), secs(end))]);
            assert_eq!(told(seen.take_uses()), expected);
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    /// What was opened and when, in order, and the bursts.
    fn told(uses: Uses) -> (Vec<String>, Vec<Burst>) {
        let mut opened: Vec<_> = uses.opened.iter().map(|(p, at)| format!("{p} {}", at.as_secs())).collect();
        opened.sort();
        (opened, uses.bursts)
    }
}
