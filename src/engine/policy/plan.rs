//! What the policy would do with the folder as it is now.
//!
//! Promises to look only, once at every file, and memory that does not grow with their number: what
//! may go is set aside on disk, and the choice is a place in its order.

use std::collections::BTreeMap;

use super::super::folder::Folder;
use super::super::survey::survey;
use super::facts::{self, File};
use super::queue::{Queue, Waiting};
use super::{InForce, load};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::model::policy::choose::{Bounds, Candidate, Choice, Rank, choose};
use crate::model::policy::rules::{Fate, Terms};
use crate::model::policy::value::Vessel;
use crate::model::policy::water::Room;

/// Files, and what they amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes on the disk that stubs of them would not take.
    pub frees: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64, frees: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.frees = self.frees.saturating_add(frees);
    }
}

/// Directories named in a plan at most.
const TOP: usize = 10;

/// A plan.
pub struct Plan {
    /// The policy it is made by.
    pub force: InForce,
    /// When it was made.
    pub now: Time,
    /// What high and low water are measured by.
    pub room: Option<Room>,
    /// Bytes that must go because high water is passed.
    pub excess: u64,
    /// Of those, bytes for which no file may go.
    pub short: u64,
    /// All files by fate, [`Fate::Go`] being those that were chosen.
    pub fates: BTreeMap<Fate, Sum>,
    /// Files that would go, but lie beyond the bounds of one run.
    pub beyond: Sum,
    /// What was chosen, by rule and by whether age alone says so.
    pub groups: BTreeMap<(usize, bool), Sum>,
    /// What was chosen.
    pub chosen: Sum,
    /// Bytes of what was chosen that are not on the stores yet.
    pub to_place: u64,
    /// Directories (two levels at most) where most would be freed, the largest first.
    pub top: Vec<(RelPath, Sum)>,
    queue: Queue,
    choice: Choice,
}

/// Makes the plan for the whole folder.
pub fn plan(folder: &Folder) -> Result<Plan> {
    let force = load(folder)?;
    folder.tree()?;
    let now = Time::now();
    let pins = folder.config.pins()?;
    let terms = Terms { now, min_size: folder.config.min_size()?, pins: &pins };
    let mut room = facts::room(folder, &force.policy)?;
    let mut queue = Queue::new(&folder.temp_dir())?;
    let mut fates: BTreeMap<Fate, Sum> = BTreeMap::new();
    let (mut used, mut local) = (folder.history.used_cursor(), 0u64);
    let bursts = folder.history.bursts()?;
    survey(folder, &[RelPath::root()], &mut |item| {
        let observed = used.of(&item.path)?;
        let Some(file) = File::new(folder, &item, observed, &bursts, now)? else { return Ok(()) };
        local = local.saturating_add(file.local());
        let facts = file.facts();
        let verdict = force.policy.judge(&facts, &terms);
        let sum = fates.entry(verdict.fate).or_default();
        sum.add(facts.size, if verdict.fate == Fate::Stub { 0 } else { facts.frees() });
        if !matches!(verdict.fate, Fate::Go | Fate::Spare) {
            return Ok(());
        }
        let rank = Rank { used: facts.last_use.at.secs, size: facts.size, nth: queue.count };
        let candidate = Candidate { rank, frees: facts.frees(), go: verdict.fate == Fate::Go };
        let rule = verdict.rule.unwrap_or_default() as u16;
        queue.put(&Waiting { path: item.path.clone(), candidate, rule, placed: file.is_placed() })
    })?;
    if let (Some(room), Some(Vessel::Budget(_))) = (&mut room, force.policy.water.map(|w| w.of)) {
        room.used = local;
    }
    let excess = force.policy.water.zip(room).map_or(0, |(water, room)| water.excess(&room));
    let bounds = Bounds { bytes: force.policy.bytes.map(|b| b.0), files: force.policy.files };
    let choice = choose(excess, bounds, &mut |sink| queue.ranks(sink))?;
    let mut plan = Plan {
        force,
        now,
        room,
        excess,
        short: choice.short,
        fates,
        beyond: Sum::default(),
        groups: BTreeMap::new(),
        chosen: Sum::default(),
        to_place: 0,
        top: Vec::new(),
        queue,
        choice,
    };
    plan.sum_up()?;
    Ok(plan)
}

impl Plan {
    /// Calls `sink` for every file that would go, in path order.
    pub fn each(&mut self, sink: &mut dyn FnMut(Waiting) -> Result<()>) -> Result<()> {
        let choice = self.choice;
        self.queue.each(&mut |waiting| match choice.takes(&waiting.candidate) {
            true => sink(waiting),
            false => Ok(()),
        })
    }

    /// Files that may go and come before this rank.
    pub fn before(&mut self, rank: &Rank) -> Result<Sum> {
        let mut sum = Sum::default();
        self.queue.ranks(&mut |c| {
            if c.rank < *rank {
                sum.add(c.rank.size, c.frees);
            }
        })?;
        Ok(sum)
    }

    fn sum_up(&mut self) -> Result<()> {
        let (mut groups, mut chosen, mut to_place) = (BTreeMap::<_, Sum>::new(), Sum::default(), 0u64);
        let (mut spared, mut beyond) = (Sum::default(), Sum::default());
        let mut top = Top::default();
        let choice = self.choice;
        self.queue.each(&mut |Waiting { path, candidate: c, rule, placed }| {
            if !choice.takes(&c) {
                if c.go { &mut beyond } else { &mut spared }.add(c.rank.size, c.frees);
                return Ok(());
            }
            groups.entry((usize::from(rule), c.go)).or_default().add(c.rank.size, c.frees);
            chosen.add(c.rank.size, c.frees);
            to_place += if placed { 0 } else { c.rank.size };
            top.add(&path, &c);
            Ok(())
        })?;
        self.fates.remove(&Fate::Go);
        self.fates.remove(&Fate::Spare);
        for (fate, sum) in [(Fate::Go, chosen), (Fate::Spare, spared)] {
            if sum.files > 0 {
                self.fates.insert(fate, sum);
            }
        }
        (self.groups, self.chosen, self.to_place, self.beyond) = (groups, chosen, to_place, beyond);
        self.top = top.finish();
        Ok(())
    }
}

/// The largest directories, found on the way through files in path order.
#[derive(Default)]
struct Top {
    current: Option<(RelPath, Sum)>,
    largest: Vec<(RelPath, Sum)>,
}

impl Top {
    fn add(&mut self, path: &RelPath, candidate: &Candidate) {
        let dir = two_levels(path);
        match &mut self.current {
            Some((at, sum)) if *at == dir => sum.add(candidate.rank.size, candidate.frees),
            _ => {
                self.leave();
                let mut sum = Sum::default();
                sum.add(candidate.rank.size, candidate.frees);
                // Files beside a directory may come on both sides of what is in it.
                let known = self.largest.iter().position(|(at, _)| *at == dir);
                let before = known.map_or(Sum::default(), |n| self.largest.swap_remove(n).1);
                sum.files += before.files;
                sum.bytes += before.bytes;
                sum.frees += before.frees;
                self.current = Some((dir, sum));
            }
        }
    }

    fn leave(&mut self) {
        self.largest.extend(self.current.take());
        if self.largest.len() > 100 * TOP {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.largest.sort_by(|(a_path, a), (b_path, b)| (b.frees, a_path).cmp(&(a.frees, b_path)));
        self.largest.truncate(TOP);
    }

    fn finish(mut self) -> Vec<(RelPath, Sum)> {
        self.leave();
        self.cut();
        self.largest
    }
}

/// The first two directories of a path.
fn two_levels(path: &RelPath) -> RelPath {
    let mut dir = path.split().map(|(dir, _)| dir).unwrap_or_default();
    while dir.as_bytes().iter().filter(|b| **b == b'/').count() > 1 {
        dir = dir.split().map(|(parent, _)| parent).unwrap_or_default();
    }
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_summed_to_two_levels_largest_first() {
        let mut top = Top::default();
        for (nth, path) in ["a/b/c/1", "a/b/d/e/2", "a/b0", "a/c/3", "top"].iter().enumerate() {
            let rank = Rank { used: 0, size: 1, nth: nth as u64 };
            let frees = if *path == "top" { 9 } else { 2 };
            top.add(&RelPath::new(*path).expect("valid"), &Candidate { rank, frees, go: true });
        }
        let got: Vec<(String, u64)> =
            top.finish().into_iter().map(|(p, s)| (p.to_string(), s.frees)).collect();
        let expected = [(".", 9), ("a/b", 4), ("a", 2), ("a/c", 2)];
        assert_eq!(got, expected.map(|(p, n)| (p.to_string(), n)));
    }
}
