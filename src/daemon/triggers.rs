//! What the daemon does next for one folder, and until when it may sleep.
//!
//! Promises a pure answer from facts and time: work is never due while the folder is left to a command,
//! what failed waits longer each time, and every kind of work that is due gets its turn. Times count from
//! any fixed moment on a clock that never jumps. Knows no disk, no lock and no store.

use std::collections::BTreeMap;
use std::time::Duration;

/// The kinds of work, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Work {
    /// Stash because the disk is above high water.
    Relieve,
    /// Write down which files were opened.
    Uses,
    /// Commit changes that have settled.
    Commit,
    /// Look at the whole tree and commit what differs.
    Rescan,
    /// Ask the stores, and bring those level that were away.
    Contact,
    /// Stash what is old enough.
    Stash,
    /// Move contents along the chain of tiers.
    Move,
    /// Collect garbage where this peer owns it.
    Gc,
    /// Read and check some packs.
    Scrub,
}

/// All kinds, the most urgent first.
pub const ALL: [Work; 9] = [
    Work::Relieve,
    Work::Uses,
    Work::Commit,
    Work::Rescan,
    Work::Contact,
    Work::Stash,
    Work::Move,
    Work::Gc,
    Work::Scrub,
];

impl Work {
    /// In a word, for logs and status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Relieve => "make room",
            Self::Uses => "note uses",
            Self::Commit => "commit",
            Self::Rescan => "rescan",
            Self::Contact => "contact stores",
            Self::Stash => "policy",
            Self::Move => "move along the tiers",
            Self::Gc => "gc",
            Self::Scrub => "scrub",
        }
    }
}

/// How often what is done; `None`: never.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Every {
    /// Between looks at the whole tree.
    pub rescan: Duration,
    /// Between contacts with the stores.
    pub contact: Option<Duration>,
    /// Between runs of the policy.
    pub stash: Option<Duration>,
    /// Between moves along the tiers.
    pub moves: Option<Duration>,
    /// Between runs of gc.
    pub gc: Option<Duration>,
    /// Between days of scrubbing.
    pub scrub: Option<Duration>,
}

/// How work of a kind went when it was done last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// When it ended.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// How often in a row it failed, or was of no use.
    pub fails: u32,
    /// Whether it stopped at a limit with more to do.
    pub more: bool,
    /// Whether it looked and found nothing to do.
    pub vain: bool,
}

/// What is known about a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The time.
    pub now: Duration,
    /// Nothing is done before: a command works on the folder, or waits for it.
    pub hold_off: Duration,
    /// When the first of the changed paths will have settled.
    pub settles: Option<Duration>,
    /// Changes were missed: the whole tree is to be looked at.
    pub missed: bool,
    /// Since when opened files wait to be written down.
    pub opened: Option<Duration>,
    /// Whether the disk, or as far as it tells the tree, is above high water.
    pub over: bool,
    /// Whether the tree may have grown above a budget of its own, which only a look at it tells.
    pub grown: bool,
    /// How each kind went last.
    pub last: BTreeMap<Work, Done>,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Work, now.
    Do(Work),
    /// Nothing until then, unless something happens.
    Wait(Duration),
}

/// Opened files are written down together so often.
const USES: Duration = Duration::from_secs(60);
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// Longest pause while the disk is above high water and nothing can go.
const RELIEF: Duration = Duration::from_secs(300);
/// Longest pause before a tree that may have grown is looked at, unless looking itself takes long.
const LOOK: Duration = Duration::from_secs(30);
/// So long settled changes wait while room is made without end.
const OVERDUE: Duration = Duration::from_secs(10);
/// Longest sleep; a folder that is never due is looked at all the same.
const LONGEST: Duration = Duration::from_secs(3600);

/// The most urgent work that is due, or when there will be some.
pub fn next(facts: &Facts, every: &Every) -> Next {
    if is_starved(facts, every) {
        return Next::Do(Work::Commit);
    }
    let mut wake = facts.now + LONGEST;
    for work in ALL {
        let Some(at) = due(work, facts, every) else { continue };
        if at <= facts.now {
            return Next::Do(work);
        }
        wake = wake.min(at);
    }
    Next::Wait(wake)
}

/// Whether making room has kept changes from being recorded for long: then both take turns.
fn is_starved(facts: &Facts, every: &Every) -> bool {
    let at = |work| facts.last.get(&work).map(|done| done.at);
    let overdue = due(Work::Commit, facts, every).is_some_and(|at| at + OVERDUE <= facts.now);
    overdue && at(Work::Relieve) > at(Work::Commit)
}

/// When work of a kind is due; `None`: not as things are.
pub fn due(work: Work, facts: &Facts, every: &Every) -> Option<Duration> {
    let done = facts.last.get(&work).copied();
    let regular = |every: Duration| done.map_or(Duration::ZERO, |d| d.at + every);
    let wanted = match work {
        // A false alarm: others write to the disk.
        Work::Relieve if facts.over && done.is_some_and(|d| d.vain) => done.map(|d| d.at + d.took * 4),
        Work::Relieve if facts.over => Some(Duration::ZERO),
        Work::Relieve if facts.grown => Some(done.map_or(Duration::ZERO, |d| d.at + look_pause(d.took))),
        Work::Relieve => None,
        Work::Uses => facts.opened.map(|since| since + USES),
        Work::Commit => facts.settles,
        Work::Rescan if facts.missed => Some(Duration::ZERO),
        Work::Rescan => Some(regular(every.rescan)),
        Work::Contact => every.contact.map(regular),
        Work::Stash => every.stash.map(regular),
        Work::Move => every.moves.map(regular),
        Work::Gc => every.gc.map(regular),
        Work::Scrub => every.scrub.map(regular),
    }?;
    let pause = done.map_or(Duration::ZERO, |d| d.at + pause(work, &d, every));
    // What stopped at a limit goes on after its pause, whatever its period.
    let wanted = if done.is_some_and(|d| d.more) { Duration::ZERO } else { wanted };
    // What failed is tried again after its pause, not after its period.
    let wanted = if done.is_some_and(|d| d.fails > 0) { wanted.min(pause) } else { wanted };
    Some(wanted.max(pause).max(facts.hold_off))
}

/// A look costs a walk over the tree: a twentieth of the time, or if that would be too seldom a fifth.
fn look_pause(took: Duration) -> Duration {
    (took * 19).min(LOOK).max(took * 4)
}

/// The least time between two runs of a kind.
fn pause(work: Work, done: &Done, every: &Every) -> Duration {
    let rest = match (work, done.more) {
        // A slice of scrubbing leaves the disk four fifths of the time to others.
        (Work::Scrub, true) => done.took * 4,
        (_, true) => done.took,
        _ => Duration::ZERO,
    };
    let most = match work {
        // A store that is away is no failure, and a full disk does not wait for ever.
        Work::Contact => every.contact.unwrap_or(RETRY.1).min(RETRY.1),
        Work::Relieve => RELIEF,
        _ => RETRY.1,
    };
    match done.fails {
        0 => rest,
        n => rest.max(RETRY.0.saturating_mul(1 << (n - 1).min(20)).min(most)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn every() -> Every {
        Every {
            rescan: secs(3600),
            contact: Some(secs(300)),
            stash: Some(secs(3600)),
            moves: None,
            gc: Some(secs(86_400)),
            scrub: Some(secs(86_400)),
        }
    }

    /// A folder that was looked after completely at 1000 s.
    fn calm() -> Facts {
        let done = Done { at: secs(1000), ..Done::default() };
        Facts { now: secs(1000), last: ALL.map(|w| (w, done)).into(), ..Facts::default() }
    }

    #[test]
    fn a_new_folder_is_looked_at_first_and_then_all_the_rest_once() {
        let mut facts = Facts::default();
        let mut order = Vec::new();
        while let Next::Do(work) = next(&facts, &every()) {
            order.push(work);
            facts.last.insert(work, Done { at: facts.now, ..Done::default() });
        }
        assert_eq!(order, [Work::Rescan, Work::Contact, Work::Stash, Work::Gc, Work::Scrub]);
    }

    #[test]
    fn a_calm_folder_sleeps_until_the_first_thing_is_due() {
        assert_eq!(next(&calm(), &every()), Next::Wait(secs(1300)));
    }

    #[test]
    fn changes_are_committed_when_they_have_settled() {
        let facts = Facts { settles: Some(secs(1010)), ..calm() };
        assert_eq!(next(&facts, &every()), Next::Wait(secs(1010)));
        assert_eq!(next(&Facts { now: secs(1010), ..facts }, &every()), Next::Do(Work::Commit));
    }

    #[test]
    fn high_water_comes_before_everything_and_at_once() {
        let facts = Facts { over: true, missed: true, settles: Some(secs(0)), ..calm() };
        assert_eq!(next(&facts, &every()), Next::Do(Work::Relieve));
        let useless = Done { at: secs(1000), fails: 1, ..Done::default() };
        let mut after = facts;
        after.last.insert(Work::Relieve, useless);
        assert_eq!(next(&after, &every()), Next::Do(Work::Commit), "what frees nothing is not repeated");
        assert_eq!(due(Work::Relieve, &after, &every()), Some(secs(1010)));
    }

    #[test]
    fn changes_are_recorded_even_if_room_is_short_all_the_time() {
        let mut facts = Facts { over: true, settles: Some(secs(995)), ..calm() };
        let relieved = |facts: &mut Facts, at| {
            facts.now = secs(at);
            facts.last.insert(Work::Relieve, Done { at: secs(at), ..Done::default() });
        };
        relieved(&mut facts, 1001);
        assert_eq!(next(&facts, &every()), Next::Do(Work::Relieve));
        relieved(&mut facts, 1011);
        assert_eq!(next(&facts, &every()), Next::Do(Work::Commit));
        facts.last.insert(Work::Commit, Done { at: secs(1011), ..Done::default() });
        assert_eq!(next(&facts, &every()), Next::Do(Work::Relieve), "they take turns");
    }

    #[test]
    fn a_false_alarm_leaves_time_for_other_work_and_a_true_one_does_not() {
        let facts = |vain| {
            let mut facts = Facts { over: true, ..calm() };
            let done = Done { at: secs(1000), took: secs(2), vain, ..Done::default() };
            facts.last.insert(Work::Relieve, done);
            due(Work::Relieve, &facts, &every())
        };
        assert_eq!((facts(true), facts(false)), (Some(secs(1008)), Some(secs(1000))));
    }

    #[test]
    fn looks_at_a_tree_that_grows_take_a_small_part_of_the_time() {
        let due_after = |took| {
            let mut facts = Facts { grown: true, ..calm() };
            facts.last.insert(Work::Relieve, Done { at: secs(1000), took: secs(took), ..Done::default() });
            due(Work::Relieve, &facts, &every()).expect("due").as_secs() - 1000
        };
        assert_eq!([0, 1, 5, 20, 100].map(due_after), [0, 19, 30, 80, 400]);
    }

    #[test]
    fn nothing_is_done_while_a_command_has_the_folder() {
        let facts = Facts { over: true, missed: true, hold_off: secs(1002), ..calm() };
        assert_eq!(next(&facts, &every()), Next::Wait(secs(1002)));
    }

    #[test]
    fn what_fails_waits_longer_each_time_and_an_hour_at_most() {
        let at = |fails| {
            let mut facts = calm();
            facts.last.insert(Work::Gc, Done { at: secs(1000), fails, ..Done::default() });
            due(Work::Gc, &facts, &every()).expect("due").as_secs() - 1000
        };
        assert_eq!([at(1), at(2), at(3), at(40)], [10, 20, 40, 3600]);
    }

    #[test]
    fn a_slice_of_scrubbing_is_followed_by_a_pause() {
        let mut facts = calm();
        let slice = Done { at: secs(1000), took: secs(2), more: true, ..Done::default() };
        facts.last.insert(Work::Scrub, slice);
        assert_eq!(due(Work::Scrub, &facts, &every()), Some(secs(1008)));
    }

    proptest! {
        /// Over a day in which work takes random time, fails now and then and stops at limits: the loop
        /// never spins, never sleeps over something due, and every kind gets its turn.
        #[test]
        fn a_day_is_neither_spun_nor_slept_through(
            seed in proptest::collection::vec((0u64..20, 0u8..10), 50..400),
        ) {
            let (mut facts, every) = (Facts::default(), every());
            let mut runs: BTreeMap<Work, u32> = BTreeMap::new();
            let mut dice = seed.iter().cycle();
            while facts.now < secs(90_000) {
                match next(&facts, &every) {
                    Next::Wait(until) => {
                        prop_assert!(until > facts.now);
                        for work in ALL {
                            prop_assert!(due(work, &facts, &every).is_none_or(|at| at >= until));
                        }
                        facts.now = until;
                    }
                    Next::Do(work) => {
                        let (took, luck) = *dice.next().expect("endless");
                        facts.now += secs(took);
                        let fails = facts.last.get(&work).map_or(0, |d| d.fails);
                        let fails = if luck == 0 { fails + 1 } else { 0 };
                        let more = luck == 1 && fails == 0;
                        facts.last.insert(work, Done { at: facts.now, took: secs(took), fails, more, vain: false });
                        *runs.entry(work).or_default() += 1;
                        prop_assert!(runs.values().sum::<u32>() < 5000, "{runs:?}");
                    }
                }
            }
            for work in [Work::Rescan, Work::Contact, Work::Stash, Work::Gc, Work::Scrub] {
                prop_assert!(runs.contains_key(&work), "{work:?} never ran: {runs:?}");
            }
        }
    }
}
