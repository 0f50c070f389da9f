//! Stashing: place, prove, then free.
//!
//! The only caller of `local::stub::convert`. Order (I1, I2): contents durable and recorded ->
//! holds durable -> stores asked again -> receipts of `copies` failure domains -> intent fsynced ->
//! files converted under write leases -> file system synced -> intent closed. A crash before the
//! intent frees nothing; after it, `engine::mend` finishes or undoes what the intent names.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::behind::pushed;
use super::commit::{self, Settled};
use super::config::NeedGuard;
use super::folder::Folder;
use super::held::{Held, PATIENCE, guard_now, guard_of};
use super::hold;
use super::manifests::{Asked, records_of_all};
use super::place::still_hashes_to;
use super::policy::{Pinned, speed};
use super::remotes::{OWN, Remote, Remotes};
use super::spool::Spool;
use super::spread::spread;
use super::survey::Change;
use super::targets::{self, Need, Targets, Tier};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId, RecordId};
use crate::base::path::RelPath;
use crate::base::progress::{Progress, report};
use crate::base::units::{Time, size};
use crate::format::key::Keys;
use crate::format::seal::Opener;
use crate::format::stub::StubHead;
use crate::history::{History, LocalRow};
use crate::local::guard::{Guard, Hold};
use crate::local::inode::Target;
use crate::local::intent::{Intent, Item, Task};
use crate::local::root::Root;
use crate::local::stat::{Fingerprint, Stat};
use crate::local::stub;
use crate::model::entry::{Body, FileKind};
use crate::model::placement::Members;
use crate::model::residency::Residency;
use crate::store::Store;

/// Files per intent.
const BATCH: usize = 1000;
/// Files freed together: one hold, and one sync before and after.
const GROUP: usize = 4 * BATCH;

/// What to stash.
#[derive(Debug, Default)]
pub struct StashOptions {
    /// Show what would be done, do nothing.
    pub dry_run: bool,
    /// Copies to insist on, instead of the configured number.
    pub copies: Option<usize>,
    /// Paths the user named; those that cannot be stashed for their size say so.
    pub named: Vec<RelPath>,
}

/// What stashing did.
#[derive(Clone, Debug, Default)]
pub struct StashStats {
    /// The commit that came first.
    pub commit: commit::CommitStats,
    /// Files that became stubs.
    pub stashed: u64,
    /// Logical bytes of them.
    pub stashed_bytes: u64,
    /// Bytes freed on the local disk.
    pub freed_bytes: u64,
    /// Files that stayed because they are small.
    pub small: u64,
    /// Files that stayed because they are pinned.
    pub pinned: u64,
    /// Files that were stubs already.
    pub already: u64,
    /// Files that had problems, those of the commit included.
    pub problems: u64,
}

/// A file that may be freed once copies are proven.
struct Candidate {
    row: LocalRow,
    records: Vec<RecordId>,
}

/// Stashes everything at and below `paths`.
pub fn stash(folder: &mut Folder, paths: &[RelPath], options: &StashOptions) -> Result<StashStats> {
    let run = Run::open(folder, options.copies)?;
    run.pinned.refuse(folder, &options.named)?;
    if options.dry_run {
        return preview(folder, paths, &run.pinned, options);
    }
    run.begin(folder)?;
    run.round(folder, paths, options)
}

/// The stores and rules of one run, which may have several rounds.
pub struct Run {
    remotes: Remotes,
    need: Need,
    pinned: Pinned,
}

impl Run {
    /// Opens the stores; fails if there are too few for the copies that are required.
    pub fn open(folder: &Folder, copies: Option<usize>) -> Result<Self> {
        folder.tree()?;
        Self::on(folder, Remotes::open(folder)?, copies)
    }

    /// The same on stores that are open already.
    pub fn on(folder: &Folder, remotes: Remotes, copies: Option<usize>) -> Result<Self> {
        if folder.config.stash.guard == NeedGuard::Required && guard_of(folder).is_none() {
            return Err(Error::Refused(
                "this folder makes no stubs while on-demand access is off (stash.guard); start the guard with: sudo ddr guard DIR, or pass --unguarded".into(),
            ));
        }
        let mut patience = PATIENCE;
        // One that refuses us would do so after everything was placed.
        guard_now(folder.guard.as_ref(), folder.id, &mut patience)?;
        let need = required_copies(folder, &remotes, copies)?;
        Ok(Self { remotes, need, pinned: Pinned::of(folder)? })
    }

    /// Brings logs level, before the first round.
    pub fn begin(&self, folder: &mut Folder) -> Result<()> {
        commit::sync_logs(folder, &self.remotes)
    }

    /// Stashes everything at and below `paths`.
    pub fn round(
        &self,
        folder: &mut Folder,
        paths: &[RelPath],
        options: &StashOptions,
    ) -> Result<StashStats> {
        round(folder, self, paths, options)
    }
}

fn round(folder: &mut Folder, run: &Run, paths: &[RelPath], options: &StashOptions) -> Result<StashStats> {
    let Run { remotes, need, pinned } = run;
    let min_size = folder.config.min_size()?;
    let targets = Targets::new(folder, remotes, *need)?;
    let mut stats = StashStats::default();
    let named: HashSet<&RelPath> = options.named.iter().collect();
    let mut ready = Spool::new(&folder.temp_dir())?;
    let plan = commit::plan(folder, paths, &mut |item| {
        let (Some(row), Some(stat)) = (&item.row, &item.stat) else { return Ok(false) };
        if row.kind != FileKind::File {
            return Ok(false);
        }
        if row.residency == Residency::Stub {
            stats.already += 1;
            return Ok(false);
        }
        let stays = pinned.holds(&item.path, row.size);
        if targets.lacks(row.body)? || (!row.proven && row.size >= min_size && !stays) {
            return Ok(true);
        }
        if stays {
            stats.pinned += 1;
            return Ok(false);
        }
        if row.size < min_size {
            stats.small += 1;
            tell_small(folder, &named, &item.path, row.size, min_size);
            return Ok(false);
        }
        if stat.nlink > 1 {
            return Ok(true);
        }
        ready.put(row.size, &item.path)?;
        Ok(false)
    })?;
    let shared = Shared::new(folder, &targets, *need)?;
    let mut freeing =
        Freeing { shared, stats: StashStats { ..stats }, waiting: Vec::new(), patience: PATIENCE };
    // Room is made at once by what need not be read.
    free_ready(folder, remotes, &mut freeing, ready)?;
    freeing.free(&mut folder.history)?;
    let progress = folder.context.progress.clone();
    let since = std::time::Instant::now();
    let result = commit::run(folder, plan, &targets, None, &mut |history, settled| {
        for Settled { row, placed } in settled {
            let stays = pinned.holds(&row.path, row.size);
            match (&placed.proof.unstashable, row.size >= min_size) {
                _ if stays => freeing.stats.pinned += 1,
                (_, false) => {
                    freeing.stats.small += 1;
                    if named.contains(&row.path) {
                        report(progress.as_ref(), &row.path, too_small(row.size, min_size));
                    }
                }
                (Some(why), true) => {
                    freeing.refuse(&row.path, Error::Refused(format!("placed, but not stashed: {why}")))
                }
                (None, true) => freeing.push(history, Candidate { row, records: placed.records })?,
            }
        }
        Ok(())
    });
    // Whatever was settled before an interruption is finished: it is durable and proven.
    match result {
        Ok(commit) => {
            speed::learn(&mut folder.history, commit.read_bytes, since.elapsed())?;
            freeing.stats.commit = commit;
        }
        Err(Error::Interrupted) => {
            freeing.free(&mut folder.history)?;
            return Err(Error::Interrupted);
        }
        Err(e) => return Err(e),
    }
    freeing.free(&mut folder.history)?;
    let mut stats = freeing.stats;
    stats.problems += stats.commit.problems;
    Ok(stats)
}

/// Files that need not be read: their bytes are proven and on the stores.
fn free_ready(folder: &mut Folder, remotes: &Remotes, freeing: &mut Freeing, ready: Spool) -> Result<()> {
    let mut opener = Opener::new(&folder.keys)?;
    let mut paths = ready.read()?.peekable();
    while paths.peek().is_some() {
        let mut rows = Vec::new();
        for item in paths.by_ref().take(BATCH) {
            rows.extend(folder.history.local(&item?.1)?.and_then(|row| Some((row.body?, row))));
        }
        let asked: Vec<Asked> = rows.iter().map(|(body, row)| (*body, row.size)).collect();
        for ((_, row), records) in rows.into_iter().zip(records_of_all(remotes, &asked, &mut opener)?) {
            match records {
                Ok(records) => freeing.push(&mut folder.history, Candidate { row, records })?,
                Err(e) => freeing.refuse(&row.path, e),
            }
            folder.context.cancel.check()?;
        }
    }
    Ok(())
}

fn tell_small(folder: &Folder, named: &HashSet<&RelPath>, path: &RelPath, len: u64, min: u64) {
    if named.contains(path) {
        report(folder.context.progress.as_ref(), path, too_small(len, min));
    }
}

fn too_small(len: u64, min: u64) -> Error {
    Error::Unsupported(format!(
        "placed, but stays: {} is below stash.min_size ({}), a stub would hardly free anything",
        size(len),
        size(min)
    ))
}

/// How many failure domains must have a copy, and whether that many are reachable.
fn required_copies(folder: &Folder, remotes: &Remotes, asked: Option<usize>) -> Result<Need> {
    let all = folder.config.remote.len();
    if all == 0 {
        return Err(Error::Refused(
            "there is no store to stash to; add one with: ddr remote add NAME /path/on/another/disk --init"
                .into(),
        ));
    }
    let tiers = targets::tiers(folder, remotes)?;
    let need = asked.map_or(Need::Tier, Need::Copies);
    let possible = |tier: &Tier| tier.rule.domains(tier.counting());
    let copies = tiers.iter().map(|tier| need.of(tier)).min().unwrap_or(1);
    if copies == 0 || copies > all {
        return Err(Error::Invalid(format!("{copies} copies asked for, but {all} remotes are configured")));
    }
    if tiers.iter().all(|tier| possible(tier) < need.of(tier)) {
        if let Some(same) = remotes.online.iter().find(|r| !r.counts) {
            return Err(Error::Refused(format!(
                "{0} lies on the folder's own disk and would be lost together with it; if you accept that, run: ddr remote set {0} --same-disk",
                same.name
            )));
        }
        if let Some((_, Error::Offline { name, why })) = remotes.offline.first() {
            return Err(Error::Offline {
                name: name.clone(),
                why: format!("{why}; {} must exist before a file may become a stub", copies_text(copies)),
            });
        }
        return Err(Error::Refused(format!(
            "{copies} copies are required, but the remotes are only {} failure domain(s); set stash.copies or remote.NAME.domain",
            tiers.iter().map(possible).max().unwrap_or(0)
        )));
    }
    remotes.note_offline(folder);
    Ok(need)
}

fn copies_text(n: usize) -> String {
    if n == 1 { "1 copy".into() } else { format!("{n} copies") }
}

/// What a dry run would say.
fn preview(
    folder: &Folder,
    paths: &[RelPath],
    pinned: &Pinned,
    options: &StashOptions,
) -> Result<StashStats> {
    let min_size = folder.config.min_size()?;
    let mut stats = StashStats::default();
    let named: HashSet<&RelPath> = options.named.iter().collect();
    super::survey::survey(folder, paths, &mut |item| {
        let is_stub = item.row.as_ref().is_some_and(|r| r.residency == Residency::Stub);
        match (&item.stat, item.change) {
            (None, _) => stats.commit.deleted += 1,
            (Some(stat), change) => {
                stats.commit.recorded += u64::from(change.is_visible());
                if stat.kind == crate::local::stat::FileType::File {
                    if is_stub && matches!(change, Change::Same | Change::Unseen) {
                        stats.already += 1;
                    } else if pinned.holds(&item.path, stat.size) {
                        stats.pinned += 1;
                    } else if stat.size < min_size {
                        stats.small += 1;
                        tell_small(folder, &named, &item.path, stat.size, min_size);
                    } else {
                        stats.stashed += 1;
                        stats.stashed_bytes += stat.size;
                        stats.freed_bytes += (stat.blocks * 512).saturating_sub(4096);
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(stats)
}

/// What freeing needs of the folder, apart from its history.
struct Shared {
    tree: Arc<Root>,
    keys: Keys,
    folder: FolderId,
    origin: OriginId,
    intents: std::path::PathBuf,
    tiers: Vec<Tier>,
    plain: bool,
    need: Need,
    verify_secs: i64,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
    guard: Option<Arc<Guard>>,
}

impl Shared {
    fn new(folder: &Folder, targets: &Targets, need: Need) -> Result<Self> {
        Ok(Self {
            tree: folder.tree()?.clone(),
            keys: folder.keys.clone(),
            folder: folder.id,
            origin: folder.origin(),
            intents: folder.intents(),
            tiers: targets.tiers.clone(),
            plain: targets.is_plain(),
            need,
            verify_secs: folder.config.verify_every()?.as_secs() as i64,
            progress: folder.context.progress.clone(),
            cancel: folder.context.cancel.clone(),
            guard: guard_of(folder),
        })
    }
}

/// Collects candidates and frees them in batches.
struct Freeing {
    shared: Shared,
    stats: StashStats,
    waiting: Vec<Candidate>,
    /// With a guard that is about to come.
    patience: Duration,
}

impl Freeing {
    fn refuse(&mut self, path: &RelPath, error: Error) {
        self.stats.problems += 1;
        report(self.shared.progress.as_ref(), path, error);
    }

    fn push(&mut self, history: &mut History, candidate: Candidate) -> Result<()> {
        self.waiting.push(candidate);
        if self.waiting.len() >= GROUP { self.free(history) } else { Ok(()) }
    }

    /// Frees everything waiting: holds, receipts, intent, conversion, sync, in this order.
    fn free(&mut self, history: &mut History) -> Result<()> {
        let mut batch = std::mem::take(&mut self.waiting);
        if batch.is_empty() {
            return Ok(());
        }
        let unproven = self.receipts(history, &batch)?;
        let mut kept = Vec::new();
        for candidate in batch.drain(..) {
            if unproven.contains(&candidate.row.path) {
                self.refuse(
                    &candidate.row.path,
                    Error::Refused(
                        "not stashed: too few stores have all of its content and history; run the command again"
                            .into(),
                    ),
                );
            } else {
                kept.push(candidate);
            }
        }
        let (rows, left) = self.convert(&kept)?;
        history.put_local(&rows)?;
        // What an interruption left out stays as it was, and must not look done.
        if left == 0 { Ok(()) } else { Err(Error::Interrupted) }
    }

    /// Holds, then asks again; returns the paths without enough proven copies: those with a record that
    /// no tier has as often as it must.
    fn receipts(&self, history: &mut History, batch: &[Candidate]) -> Result<HashSet<RelPath>> {
        let s = &self.shared;
        let ids: Vec<RecordId> = batch.iter().flat_map(|c| c.records.iter().copied()).collect();
        let mut kept = vec![false; ids.len()];
        for tier in &s.tiers {
            let mut has = vec![Members::default(); ids.len()];
            for i in tier.counting().iter() {
                let good = self.prove(history, &tier.members[i], batch, &ids)?;
                has.iter_mut().zip(good).filter(|(_, good)| *good).for_each(|(has, _)| *has = has.with(i));
            }
            let need = s.need.of(tier);
            kept.iter_mut().zip(has).for_each(|(kept, has)| *kept |= tier.rule.domains(has) >= need);
        }
        // A store that went away is not the files' problem.
        if s.tiers.iter().all(|tier| tier.rule.domains(tier.counting()) < s.need.of(tier)) {
            let why = s.tiers.iter().flat_map(|t| &t.members).find_map(|r| r.member.why_out());
            why.map_or(Ok(()), Err)?;
        }
        // Counted, not searched: each candidate must take all of its own answers.
        let mut answers = kept.into_iter();
        let short =
            batch.iter().filter(|c| answers.by_ref().take(c.records.len()).filter(|kept| !kept).count() > 0);
        Ok(short.map(|c| c.row.path.clone()).collect())
    }

    /// Holds on one store what it has of the batch, and asks it again; per record, whether it has a good
    /// copy, and logs that say what of. A store that fails proves nothing, and is left out of the rest of the run.
    fn prove(
        &self,
        history: &mut History,
        target: &Remote,
        batch: &[Candidate],
        ids: &[RecordId],
    ) -> Result<Vec<bool>> {
        let s = &self.shared;
        let answer = target.member.ask(|_| {
            let mut bodies: Vec<Body> = batch.iter().filter_map(|c| c.row.body).collect();
            if !s.plain {
                let has = target.packs.has(ids)?;
                let mut answers = has.into_iter();
                let any =
                    |c: &&Candidate| answers.by_ref().take(c.records.len()).filter(|has| *has).count() > 0;
                bodies = batch.iter().filter(any).filter_map(|c| c.row.body).collect();
            }
            hold::put(history, target, s.folder, s.origin, &bodies)?;
            target.packs.refresh()?;
            let had = target.packs.has(ids)?;
            let asked: Vec<RecordId> =
                ids.iter().zip(&had).filter(|(_, had)| **had).map(|(id, _)| *id).collect();
            let stale = target.packs.verify_stale(&asked, Time::now().secs, s.verify_secs)?;
            if stale.is_empty() {
                return Ok(had);
            }
            target.packs.has(ids)
        })?;
        let mut good = answer.unwrap_or_else(|| vec![false; ids.len()]);
        // A content that no log there names would be lost together with this machine.
        let (mut rest, mut reached) = (good.as_mut_slice(), HashMap::new());
        for Candidate { row: LocalRow { dot, .. }, records } in batch {
            let (own, others) = rest.split_at_mut(records.len());
            let reached = match reached.entry(dot.origin) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => *new.insert(pushed(history, target.packs.id(), dot.origin)?),
            };
            if target.name != OWN && reached < dot.number {
                own.fill(false);
            }
            rest = others;
        }
        Ok(good)
    }

    /// Converts a proven batch on a few threads; returns the new rows, and how many an interruption
    /// left out.
    fn convert(&mut self, batch: &[Candidate]) -> Result<(Vec<LocalRow>, usize)> {
        let s = &self.shared;
        // In step, whatever a candidate may lack.
        let (batch, items): (Vec<&Candidate>, Vec<Item>) = batch
            .iter()
            .filter_map(|c| {
                let head = head_of(s.folder, &c.row)?;
                Some((c, Item { path: c.row.path.clone(), head, mode: c.row.mode, ino: Some(c.row.ino) }))
            })
            .unzip();
        // A guard that refuses us leaves nothing to be mended.
        let guard = guard_now(s.guard.as_ref(), s.folder, &mut self.patience)?;
        let intents = Intent::begin_all(&s.intents, Task::Stash, &items, BATCH)?;
        let held = match Held::take(guard.as_ref(), &s.tree, items.iter().map(|item| &item.path)) {
            Ok(held) => held,
            // Nothing was done yet.
            Err(e) => return intents.into_iter().try_for_each(Intent::close).and(Err(e)),
        };
        let done = spread(items.len(), &s.cancel, |i| convert_one(s, batch[i], &items[i], held.file(i)?));
        // Whoever waits may have it now: what is not durable yet is explained by the intent.
        let whole: HashSet<usize> = done
            .iter()
            .filter(|(_, result)| result.as_ref().is_err_and(|e| !may_be_half_way(e)))
            .map(|(i, _)| *i)
            // Another stub may lie there by now.
            .filter(|i| !held.was_guarded(*i))
            .collect();
        held.release(|i| !whole.contains(&i))?;
        crate::disk::sync_fs(s.tree.as_ref(), s.tree.path())?;
        // A file that failed half-way stays named: the next command mends it.
        if done.iter().all(|(_, result)| !result.as_ref().is_err_and(may_be_half_way)) {
            intents.into_iter().try_for_each(Intent::close)?;
        }
        let mut rows = Vec::with_capacity(batch.len());
        let left = items.len() - done.len();
        for (i, result) in done {
            let row = &batch[i].row;
            match result {
                Ok(stat) => {
                    self.stats.stashed += 1;
                    self.stats.stashed_bytes += row.size;
                    self.stats.freed_bytes += row.size.saturating_sub(stat.blocks * 512);
                    rows.push(LocalRow {
                        ctime: stat.ctime,
                        residency: Residency::Stub,
                        proven: false,
                        ..row.clone()
                    });
                }
                Err(e) => {
                    self.stats.problems += 1;
                    report(self.shared.progress.as_ref(), &row.path, e);
                }
            }
        }
        Ok((rows, left))
    }
}

/// Whether a conversion that failed so may have left its file between two states: then its intent
/// stays, for the next command to mend by.
fn may_be_half_way(error: &Error) -> bool {
    !matches!(error, Error::Refused(_) | Error::Changed(_))
}

fn convert_one(s: &Shared, candidate: &Candidate, item: &Item, held: Option<Hold>) -> Result<Stat> {
    let row = &candidate.row;
    let expect = Fingerprint { ino: row.ino, size: row.size, mtime: row.mtime, ctime: row.ctime };
    let target = Target { root: &s.tree, path: &row.path, keys: &s.keys, head: &item.head, held };
    let content = item.head.content;
    stub::convert(&target, &expect, &|file| still_hashes_to(file, content))
}

/// The stub a row's file would become.
pub fn head_of(folder: FolderId, row: &LocalRow) -> Option<StubHead> {
    Some(StubHead { folder, content: row.content?, body: row.body?, size: row.size, mtime: row.mtime })
}
