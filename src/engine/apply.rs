//! Doing what a plan says: the chosen files are stashed, in rounds.
//!
//! Promises that a file used since the plan was made stays, that one which vanished stops nothing,
//! that a run which mostly fails ends early, and that the limits of the policy are kept. What may
//! be freed is still decided by `engine::stash` alone.

use std::time::{Duration, Instant};

use super::clock;
use super::folder::Folder;
use super::policy::plan::Plan;
use super::policy::queue::Waiting;
use super::stash::{Run, StashOptions, StashStats};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::local::root::Root;
use crate::model::policy::breaker::{Breaker, pause};
use crate::model::policy::bursts::Bursts;

/// Files in the first round; each next one is four times as large.
const FIRST: usize = 128;
/// Files and bytes in a round at most.
const MOST: usize = 8192;
const MOST_BYTES: u64 = 1 << 30;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// All rounds together.
    pub stats: StashStats,
    /// Files that were used since the plan was made.
    pub used: u64,
    /// Why the run ended before its end.
    pub stopped: Option<String>,
}

/// Files gathered for the next round.
#[derive(Default)]
struct Round {
    paths: Vec<RelPath>,
    bytes: u64,
    size: usize,
}

struct Applying<'a> {
    folder: &'a mut Folder,
    run: Run,
    bursts: Bursts,
    round: Round,
    breaker: Breaker,
    rate: Option<u64>,
    since: Instant,
    sent: u64,
    /// Bytes of files that may still be taken.
    left: u64,
    done: Applied,
}

/// Carries a plan out.
pub fn apply(folder: &mut Folder, plan: &mut Plan, copies: Option<usize>) -> Result<Applied> {
    clock::refuse_jump(folder)?;
    let run = Run::open(folder, copies)?;
    apply_on(folder, plan, run, u64::MAX)
}

/// The same on stores that are open already. What lies on them goes first and at once; of what must be read
/// and placed before it goes, only files of so many bytes: what turns out not to be readable does not count.
pub fn apply_on(folder: &mut Folder, plan: &mut Plan, run: Run, most: u64) -> Result<Applied> {
    run.begin(folder)?;
    folder.history.tidy_used()?;
    let bursts = folder.history.bursts()?;
    let mut applying = Applying {
        folder,
        run,
        bursts,
        round: Round { size: FIRST, ..Round::default() },
        breaker: Breaker::default(),
        rate: plan.force.policy.rate.map(|rate| rate.0),
        since: Instant::now(),
        sent: 0,
        left: u64::MAX,
        done: Applied::default(),
    };
    for placed in [true, false] {
        applying.left = if placed { u64::MAX } else { most };
        plan.each(&mut |waiting| if waiting.placed == placed { applying.take(waiting) } else { Ok(()) })?;
        applying.go()?;
    }
    Ok(applying.done)
}

impl Applying<'_> {
    fn take(&mut self, waiting: Waiting) -> Result<()> {
        if self.done.stopped.is_some() || self.left == 0 {
            return Ok(());
        }
        match still_unused(self.folder.tree()?, &waiting, &self.bursts)? {
            Some(true) => {}
            Some(false) => {
                self.done.used += 1;
                return Ok(());
            }
            None => return Ok(()),
        }
        self.round.bytes = self.round.bytes.saturating_add(waiting.candidate.rank.size);
        self.round.paths.push(waiting.path);
        if self.round.paths.len() < self.round.size && self.round.bytes < MOST_BYTES.min(self.left) {
            return Ok(());
        }
        self.go()
    }

    /// Stashes what was gathered.
    fn go(&mut self) -> Result<()> {
        if self.round.paths.is_empty() || self.done.stopped.is_some() {
            return Ok(());
        }
        let size = self.round.size.saturating_mul(4).min(MOST);
        let Round { paths, .. } = std::mem::replace(&mut self.round, Round { size, ..Round::default() });
        let stats = self.run.round(self.folder, &paths, &StashOptions::default())?;
        self.breaker.add(paths.len() as u64, stats.problems);
        self.sent += stats.commit.read_bytes;
        self.left = self.left.saturating_sub(stats.commit.read_bytes.max(stats.stashed_bytes));
        add(&mut self.done.stats, &stats);
        self.done.stopped = self.breaker.verdict();
        match self.rate {
            Some(rate) if self.done.stopped.is_none() => {
                self.wait(pause(self.sent, self.since.elapsed(), rate))
            }
            _ => Ok(()),
        }
    }

    /// Sleeps, but wakes up for Ctrl-C.
    fn wait(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.folder.context.cancel.check()?;
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        self.folder.context.cancel.check()
    }
}

/// Whether a file is as little used as when the plan was made; `None` if it is gone.
fn still_unused(tree: &Root, waiting: &Waiting, bursts: &Bursts) -> Result<Option<bool>> {
    let Some(stat) = tree.stat(&waiting.path)? else { return Ok(None) };
    let now = Time::now();
    let atime = Some(stat.atime).filter(|at| !bursts.cover(*at));
    let used = atime.into_iter().chain([stat.mtime]).filter(|t| *t <= now).map(|t| t.secs).max();
    Ok(Some(used.is_none_or(|used| used <= waiting.candidate.rank.used)))
}

fn add(sum: &mut StashStats, round: &StashStats) {
    sum.commit.recorded += round.commit.recorded;
    sum.commit.deleted += round.commit.deleted;
    sum.commit.moved += round.commit.moved;
    sum.commit.read_bytes += round.commit.read_bytes;
    sum.commit.problems += round.commit.problems;
    sum.stashed += round.stashed;
    sum.stashed_bytes += round.stashed_bytes;
    sum.freed_bytes += round.freed_bytes;
    sum.small += round.small;
    sum.pinned += round.pinned;
    sum.already += round.already;
    sum.problems += round.problems;
}
