//! Pruning: old versions are forgotten, by rules, and gc then frees what they took.
//!
//! Promises that nothing a head, a stub, or anybody's hold on a reachable store needs is forgotten,
//! nor what was deleted lately; and that forgetting is one signed entry of the own log (durable
//! before the index follows), which every peer and every rebuild applies alike. Paths are looked at
//! one after the other, so memory holds one path's versions and the numbers to be forgotten.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::commit::{record, sync_logs};
use super::folder::Folder;
use super::gc::{GcOptions, GcStats, gc};
use super::release::{needed, release};
use super::remotes::Remotes;
use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::history::Light;
use crate::model::entry::{Dot, FileKind, MAX_HLC, Op, Runs};
use crate::model::release::{Needed, kept_since};
use crate::model::retention::{Item, Now, Reason, Rules, What, decide, oldest_kept};
use crate::store::holds;

/// Numbers collected before they are recorded.
const BATCH: usize = 1_000_000;
/// Versions dated so many seconds ahead are of a clock that was wrong.
const DAY: i64 = 86_400;
/// Numbers in one entry.
const PART: usize = 200_000;

/// What to prune.
#[derive(Debug, Default)]
pub struct PruneOptions {
    /// What to keep.
    pub rules: Rules,
    /// Old versions are forgotten until those that stay need at most so many bytes.
    pub max_size: Option<u64>,
    /// Where; the root for everything.
    pub paths: Vec<RelPath>,
    /// Only say what would be forgotten.
    pub dry_run: bool,
}

/// What pruning did.
#[derive(Debug, Default)]
pub struct PruneStats {
    /// Versions that stay.
    pub kept: u64,
    /// Bytes of them, each version counted by itself.
    pub kept_bytes: u64,
    /// Versions forgotten now.
    pub forgotten: u64,
    /// Bytes of them.
    pub forgotten_bytes: u64,
    /// What gc did afterwards, per store.
    pub gc: Vec<GcStats>,
}

/// A version, and why it stays (nothing: it is forgotten).
#[derive(Debug)]
pub struct Verdict<'a> {
    /// The path.
    pub path: &'a RelPath,
    /// Its number there.
    pub n: u64,
    /// When it was recorded.
    pub at: Time,
    /// Its bytes.
    pub size: u64,
    /// Why it stays.
    pub reasons: &'a [Reason],
    /// The rules would keep it, but for the limit on size.
    pub over_size: bool,
}

/// Prunes. `sink` is told of every version that is not forgotten yet.
pub fn prune(
    folder: &mut Folder,
    options: &PruneOptions,
    sink: &mut dyn FnMut(&Verdict) -> Result<()>,
) -> Result<PruneStats> {
    if options.rules == Rules::default() && options.max_size.is_none() {
        return Err(Error::Invalid(
            "nothing says what to keep; for example: ddr prune --keep-within 90d".into(),
        ));
    }
    let remotes = Remotes::open_all(folder)?;
    match options.dry_run {
        true => {
            remotes.online.iter().try_for_each(|r| folder.pull_logs(r.packs.bucket().as_ref()).map(drop))?
        }
        false => {
            sync_logs(folder, &remotes)?;
            release(folder, &remotes)?;
        }
    }
    let mut pruning = Pruning::new(folder, &remotes, options)?;
    let mut stats = PruneStats::default();
    let mut after = None;
    folder.context.progress.stage("pruning", 0, false);
    loop {
        let mut gone: Vec<Dot> = Vec::new();
        let next = pruning.some(folder, after.as_ref(), &mut gone, &mut stats, sink)?;
        if !options.dry_run && !gone.is_empty() {
            record(folder, &remotes, forgets(gone))?;
        }
        match next {
            Some(path) => after = Some(path),
            None => break,
        }
        folder.context.cancel.check()?;
    }
    drop(remotes);
    if !options.dry_run {
        match gc(folder, &GcOptions::default()) {
            Ok((all, _)) => stats.gc = all,
            // Another peer frees what is forgotten.
            Err(Error::Refused(why)) => folder.context.progress.note(&why),
            Err(e) => return Err(e),
        }
    }
    Ok(stats)
}

/// Entries that forget these dots.
fn forgets(gone: Vec<Dot>) -> Vec<Op> {
    let mut by_origin: BTreeMap<OriginId, Vec<u64>> = BTreeMap::new();
    gone.into_iter().for_each(|dot| by_origin.entry(dot.origin).or_default().push(dot.number));
    let mut ops = Vec::new();
    for (origin, mut numbers) in by_origin {
        numbers.sort_unstable();
        numbers.dedup();
        ops.extend(numbers.chunks(PART).map(|part| Op::Forget(vec![Runs::of(origin, part.iter().copied())])));
    }
    ops
}

struct Pruning<'a> {
    options: &'a PruneOptions,
    needed: Needed,
    now: Now,
    /// Older ones are too much.
    oldest: u64,
}

impl<'a> Pruning<'a> {
    fn new(folder: &mut Folder, remotes: &Remotes, options: &'a PruneOptions) -> Result<Self> {
        let mut all = match needed(folder) {
            Err(Error::Refused(why)) => return Err(Error::Refused(format!("not pruned: {why}"))),
            needed => needed?,
        };
        for remote in &remotes.online {
            holds::held(remote.packs.bucket().as_ref(), |_, body| all.add(&body))?;
        }
        let at = Time::now();
        let newest = folder.history.believed_clock(at, folder.own.made()?)?;
        if (newest >> 16) as i64 / 1000 > at.secs + DAY {
            return Err(Error::Refused(
                "not pruned: there are versions from the future, so the clock is wrong, or was lately".into(),
            ));
        }
        let deleted_since = kept_since(at, folder.config.keep_deleted()?);
        let now = Now { at, zone: TimeZone::system(), deleted_since };
        let mut pruning = Self { options, needed: all, now, oldest: 0 };
        if let Some(limit) = options.max_size {
            pruning.oldest = oldest_kept(limit, |sink| pruning.sizes(folder, sink))?;
        }
        Ok(pruning)
    }

    /// Clock, size, and whether it may go, of every version that the rules keep.
    fn sizes(&self, folder: &Folder, sink: &mut dyn FnMut(u64, u64, bool)) -> Result<()> {
        for under in &self.options.paths {
            folder.history.each_path(under, None, &mut |path, all| {
                folder.context.cancel.check()?;
                for (light, reasons) in all.iter().zip(self.decide(folder, &path, &all)?) {
                    if is_version(light) && !light.is_forgotten && !reasons.is_empty() {
                        sink(light.hlc, light.size, !reasons.iter().any(|r| r.is_firm()));
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    fn decide(&self, folder: &Folder, path: &RelPath, all: &[Light]) -> Result<Vec<Vec<Reason>>> {
        // What the tree has, where another peer has recorded a newer version.
        let here = match all.iter().filter(|l| is_version(l) && !l.is_forgotten).nth(1) {
            Some(_) => folder.history.local(path)?.map(|row| row.dot),
            None => None,
        };
        let items: Vec<Item> = all.iter().map(|light| self.item(light, here)).collect();
        let no_rules = self.options.rules == Rules::default();
        let mut reasons = decide(&items, &self.options.rules, &self.now);
        if no_rules {
            // Then only the limit on size says what goes.
            let spare = |light: &Light, r: &Vec<Reason>| is_version(light) && r.is_empty();
            all.iter().zip(&mut reasons).filter(|(l, r)| spare(l, r)).for_each(|(_, r)| r.push(Reason::Fits));
        }
        Ok(reasons)
    }

    fn item(&self, light: &Light, here: Option<Dot>) -> Item {
        let what = match light.kind {
            Some(FileKind::File) if !light.is_forgotten => What::Version {
                is_head: light.is_head,
                // How old it is nobody knows.
                is_needed: at(light).secs > self.now.at.secs + DAY
                    || (here == Some(light.dot) && !light.is_head)
                    || light.body.is_some_and(|body| self.needed.has(&body)),
            },
            None if !light.is_moved => What::Deletion,
            _ => What::Other,
        };
        Item { at: at(light), what }
    }

    /// Decides about some paths after `after`; returns the last of them if there are more.
    fn some(
        &mut self,
        folder: &Folder,
        after: Option<&RelPath>,
        gone: &mut Vec<Dot>,
        stats: &mut PruneStats,
        sink: &mut dyn FnMut(&Verdict) -> Result<()>,
    ) -> Result<Option<RelPath>> {
        let mut last = None;
        for under in &self.options.paths {
            folder.history.each_path(under, after, &mut |path, all| {
                folder.context.cancel.check()?;
                let reasons = self.decide(folder, &path, &all)?;
                for (n, (light, reasons)) in (1..).zip(all.iter().zip(&reasons)) {
                    if !is_version(light) || light.is_forgotten {
                        continue;
                    }
                    let over_size = !reasons.is_empty()
                        && light.hlc < self.oldest
                        && !reasons.iter().any(|r| r.is_firm());
                    let reasons: &[Reason] = if over_size { &[] } else { reasons };
                    sink(&Verdict { path: &path, n, at: at(light), size: light.size, reasons, over_size })?;
                    let (count, bytes) = match reasons.is_empty() {
                        true => (&mut stats.forgotten, &mut stats.forgotten_bytes),
                        false => (&mut stats.kept, &mut stats.kept_bytes),
                    };
                    *count += 1;
                    *bytes = bytes.saturating_add(light.size);
                    gone.extend(reasons.is_empty().then_some(light.dot));
                }
                let is_full = gone.len() >= BATCH;
                last = is_full.then_some(path);
                Ok(!is_full)
            })?;
            if last.is_some() {
                break;
            }
        }
        Ok(last)
    }
}

fn is_version(light: &Light) -> bool {
    light.kind == Some(FileKind::File)
}

fn at(light: &Light) -> Time {
    let millis = light.hlc.min(MAX_HLC) >> 16;
    Time { secs: (millis / 1000) as i64, nanos: (millis % 1000) as u32 * 1_000_000 }
}
