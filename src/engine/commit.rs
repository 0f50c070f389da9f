//! Committing: what was found in the tree becomes signed entries, first in the own log, then in the
//! index, then in every reachable store's log.
//!
//! Order (I6): contents durable on the targets -> numbers reserved outside the folder -> own log
//! fsynced -> index -> stores' logs. A crash between two steps loses nothing: an entry exists only
//! after its content, the index catches up from the log, and stores from the own log.

use std::collections::HashMap;

use super::behind;
use super::folder::{Folder, UNSEEN};
use super::instance::Instance;
use super::place::{Found, Placed, Placer};
use super::remotes::{OWN, Remote, Remotes};
use super::spool::Spool;
use super::survey::{Change, local_row, survey};
use super::targets::{Need, Targets};
use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId, OriginId};
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::base::units::Time;
use crate::history::log::{self, CopyStats, Identity};
use crate::history::{Head, History, LocalRow};
use crate::local::stat::Stat;
use crate::model::entry::{Dot, Entry, FileKind, Op, Version, next_hlc};
use crate::model::residency::Residency;
use crate::model::version::winner;
use crate::store::Store;
use crate::store::dir::DirBucket;

/// Files per batch at most, so that others can start before a first scan ends.
const BATCH_FILES: usize = 16 * crate::format::log::MAX_ENTRIES;
/// Bytes read per batch at most.
const BATCH_BYTES: u64 = 256 << 20;
/// Deleted contents remembered to recognise moves; beyond, a move is a deletion and a new file.
const MAX_GONE: usize = 200_000;

/// What a commit did.
#[derive(Clone, Debug, Default)]
pub struct CommitStats {
    /// Paths recorded as new or changed.
    pub recorded: u64,
    /// Paths recorded as deleted.
    pub deleted: u64,
    /// Of the recorded ones, moved from elsewhere.
    pub moved: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Files that had problems.
    pub problems: u64,
    /// Whether contents could not be placed because no store was reachable.
    pub unsaved: bool,
}

/// A file that is recorded and durable on the targets.
#[derive(Debug)]
pub struct Settled {
    /// Its row, as it is in the local table now.
    pub row: LocalRow,
    /// Its content.
    pub placed: Placed,
}

/// Collects what was found and commits it in batches.
pub struct Committer<'a> {
    /// Index and local table.
    pub history: &'a mut History,
    /// Who signs.
    pub identity: &'a Identity,
    /// Guards numbers.
    pub instance: &'a mut Instance,
    /// The own log.
    pub own: &'a DirBucket,
    /// The folder.
    pub folder: FolderId,
    /// Stores that get contents and logs.
    pub targets: &'a Targets,
    /// The user's words.
    pub message: Option<&'a str>,
    /// Contents of deleted paths, to recognise moves.
    pub gone: HashMap<ContentId, RelPath>,
    /// Nothing is recorded yet at all, so nothing needs to be looked up.
    pub fresh: bool,
    /// Entries that this run may still add, so that their numbers are reserved at once.
    pub ahead: u64,
    /// What was done so far.
    pub stats: CommitStats,
    /// When this peer was made.
    since: Time,
    moved_to: HashMap<RelPath, RelPath>,
    pending: Vec<(RelPath, Found)>,
    pending_bytes: u64,
}

impl<'a> Committer<'a> {
    /// Starts with nothing pending.
    pub fn new(
        history: &'a mut History,
        identity: &'a Identity,
        instance: &'a mut Instance,
        own: &'a DirBucket,
        folder: FolderId,
        targets: &'a Targets,
    ) -> Result<Self> {
        let fresh = history.knowledge()?.is_empty();
        let since = own.made()?;
        Ok(Self {
            since,
            history,
            identity,
            instance,
            own,
            folder,
            targets,
            message: None,
            gone: HashMap::new(),
            fresh,
            ahead: 0,
            stats: CommitStats::default(),
            moved_to: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
        })
    }

    /// Takes one finding; commits when a batch is full and returns what it settled.
    pub fn push(&mut self, path: RelPath, found: Found) -> Result<Vec<Settled>> {
        if let Found::File(placed) = &found {
            self.pending_bytes += placed.proof.stat.size;
            self.stats.read_bytes += placed.proof.stat.size;
        }
        self.pending.push((path, found));
        if self.pending.len() >= BATCH_FILES || self.pending_bytes >= BATCH_BYTES {
            return self.commit();
        }
        Ok(Vec::new())
    }

    /// Commits everything pending.
    pub fn commit(&mut self) -> Result<Vec<Settled>> {
        if let Some(store) = &self.targets.store {
            store.flush()?;
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut batch = Batch::new(self.history, self.identity, self.since)?;
        let (mut rows, mut settled) = (Vec::with_capacity(pending.len()), Vec::new());
        for (path, found) in pending {
            let (version, stat, residency, proven) = match &found {
                Found::File(p) => {
                    (file_version(p), &p.proof.stat, Residency::Full, p.proof.unstashable.is_none())
                }
                Found::Stub(stat, head) => (stub_version(stat, head), stat, Residency::Stub, false),
                Found::Dir(stat) => (plain_version(stat, FileKind::Dir, None), stat, Residency::Full, true),
                Found::Symlink(stat, target) => (
                    plain_version(stat, FileKind::Symlink, Some(target.clone())),
                    stat,
                    Residency::Full,
                    true,
                ),
                Found::Gone | Found::Problem(_) => continue,
            };
            let dot = self.record(&mut batch, &path, version.clone())?;
            let row = local_row(path, dot, &version, stat, residency, proven);
            if let Found::File(placed) = found {
                settled.push(Settled { row: row.clone(), placed });
            }
            rows.push(row);
        }
        self.write(batch, &rows)?;
        Ok(settled)
    }

    /// Records paths that are gone.
    pub fn delete(&mut self, rows: &[LocalRow]) -> Result<()> {
        let mut batch = Batch::new(self.history, self.identity, self.since)?;
        for row in rows {
            let heads = self.history.heads(&row.path)?;
            if heads.is_empty() {
                continue;
            }
            let seen = seen_by(row, &heads);
            batch.push(Entry {
                hlc: 0,
                path: row.path.clone(),
                op: Op::Del,
                seen,
                base: row.content,
                moved_from: None,
                moved_to: self.moved_to.remove(&row.path),
            });
        }
        self.stats.deleted += batch.entries.len() as u64;
        self.write(batch, &[])?;
        self.history.drop_local(&rows.iter().map(|r| r.path.clone()).collect::<Vec<_>>())
    }

    /// Adds an entry unless the version is the recorded one; returns the dot it now has.
    fn record(&mut self, batch: &mut Batch, path: &RelPath, version: Version) -> Result<Dot> {
        let (row, heads) = match self.fresh {
            true => (None, Vec::new()),
            false => (self.history.local(path)?, self.history.heads(path)?),
        };
        let known = match &row {
            Some(row) => Some((row.dot, row_version(row))),
            None => winner(&heads, |h: &Head| (h.hlc, h.dot)).map(|h| (h.dot, h.version.clone())),
        };
        if let Some((dot, old)) = &known
            && *old == version
        {
            return Ok(*dot);
        }
        // Another peer, or this one before its .ddr was put back from a backup, recorded it already.
        if let Some(head) = heads.iter().find(|h| h.version == version) {
            return Ok(head.dot);
        }
        let moved_from = match row {
            None => version.content.and_then(|content| self.gone.remove(&content)),
            Some(_) => None,
        };
        if let Some(from) = &moved_from {
            self.moved_to.insert(from.clone(), path.clone());
            self.stats.moved += 1;
        }
        let seen = match &row {
            Some(row) => seen_by(row, &heads),
            // A file without record was made on whatever this peer knows of the path.
            None if self.fresh => Vec::new(),
            None => self.history.seen(path)?,
        };
        // The time of a directory moves with every file made in it: recorded, but nothing to speak of.
        let is_dir = |v: &Version| v.kind == FileKind::Dir;
        let only_time = known
            .as_ref()
            .is_some_and(|(_, old)| is_dir(old) && is_dir(&version) && old.mode == version.mode);
        self.stats.recorded += u64::from(!only_time && !path.is_root());
        Ok(batch.push(Entry {
            hlc: 0,
            path: path.clone(),
            op: Op::Put(version),
            seen,
            base: known.and_then(|(_, old)| old.content),
            moved_from,
            moved_to: None,
        }))
    }

    /// Own log, index and rows, stores' logs: in this order.
    fn write(&mut self, batch: Batch, rows: &[LocalRow]) -> Result<()> {
        if batch.entries.is_empty() {
            return self.history.put_local(rows);
        }
        self.instance.reserve(batch.tail.number + batch.entries.len() as u64, self.ahead)?;
        let done =
            log::append(self.own, self.folder, self.identity, &batch.tail, self.message, &batch.entries)?;
        self.history.apply_commit(
            self.identity,
            self.message,
            batch.tail.number + 1,
            &batch.entries,
            &done.tail,
            rows,
        )?;
        for target in &self.targets.remotes {
            // One that fails catches up at the next contact; whether enough are left, the next flush tells.
            let put = target.member.write(|_| put_objects(target, &done.objects))?;
            let origin = self.identity.origin();
            if put && behind::pushed(self.history, target.packs.id(), origin)? == batch.tail.number {
                set_pushed(self.history, target, origin, done.tail.number)?;
            }
        }
        Ok(())
    }
}

fn set_pushed(history: &mut History, remote: &Remote, origin: OriginId, number: u64) -> Result<()> {
    behind::set_pushed(history, remote.packs.id(), origin, number)
}

fn put_objects(target: &Remote, objects: &[(String, Vec<u8>)]) -> Result<()> {
    if target.name == OWN {
        // The own store is both log and target.
        return Ok(());
    }
    match target.packs.bucket().put_all(objects) {
        // An interrupted run put some of them already.
        Err(Error::Refused(_)) => {}
        done => return done,
    }
    for (name, bytes) in objects {
        match target.packs.bucket().put(name, &[bytes]) {
            Ok(()) | Err(Error::Refused(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Entries being numbered and dated.
struct Batch {
    tail: log::Tail,
    origin: OriginId,
    hlc: u64,
    now: Time,
    entries: Vec<Entry>,
}

impl Batch {
    fn new(history: &History, identity: &Identity, since: Time) -> Result<Self> {
        let origin = identity.origin();
        let tail = history.tail(&origin)?;
        let now = Time::now();
        Ok(Self { hlc: history.believed_clock(now, since)?, tail, origin, now, entries: Vec::new() })
    }

    fn push(&mut self, mut entry: Entry) -> Dot {
        self.hlc = next_hlc(self.hlc, self.now);
        entry.hlc = self.hlc;
        self.entries.push(entry);
        Dot { origin: self.origin, number: self.tail.number + self.entries.len() as u64 }
    }
}

/// What an edit of the recorded version had seen: that version and what it had seen.
fn seen_by(row: &LocalRow, heads: &[Head]) -> Vec<Dot> {
    let mut seen = heads.iter().find(|h| h.dot == row.dot).map(|h| h.seen.clone()).unwrap_or_default();
    seen.add(row.dot);
    seen.dots()
}

fn file_version(placed: &Placed) -> Version {
    let stat = &placed.proof.stat;
    Version {
        kind: FileKind::File,
        content: Some(placed.content),
        body: placed.body,
        size: stat.size,
        mtime: stat.mtime,
        mode: stat.mode,
        target: None,
    }
}

fn stub_version(stat: &Stat, head: &crate::format::stub::StubHead) -> Version {
    Version {
        kind: FileKind::File,
        content: Some(head.content),
        body: Some(head.body),
        size: head.size,
        mtime: stat.mtime,
        mode: stat.mode,
        target: None,
    }
}

fn plain_version(stat: &Stat, kind: FileKind, target: Option<Vec<u8>>) -> Version {
    Version { kind, content: None, body: None, size: 0, mtime: stat.mtime, mode: stat.mode, target }
}

/// The version a row stands for.
pub fn row_version(row: &LocalRow) -> Version {
    Version {
        kind: row.kind,
        content: row.content,
        body: row.body,
        size: row.size,
        mtime: row.mtime,
        mode: row.mode,
        target: row.target.clone(),
    }
}

/// What a commit is about to do, from one pass over the tree.
pub struct Plan {
    /// Changed paths, in path order.
    pub changed: Spool,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Recorded paths that are gone.
    pub deleted: Spool,
    /// Contents of those.
    pub gone: HashMap<ContentId, RelPath>,
    /// Whether it covers the whole tree.
    pub whole: bool,
}

/// Looks at the tree; `extra` may ask for an unchanged path to be read as well.
pub fn plan(
    folder: &Folder,
    paths: &[RelPath],
    extra: &mut dyn FnMut(&super::survey::Item) -> Result<bool>,
) -> Result<Plan> {
    let temp = folder.temp_dir();
    let (changed, deleted) = (Spool::new(&temp)?, Spool::new(&temp)?);
    let whole = paths.iter().any(RelPath::is_root);
    let mut plan = Plan { changed, bytes: 0, deleted, gone: HashMap::new(), whole };
    survey(folder, paths, &mut |item| {
        if let (Change::Deleted, Some(row)) = (item.change, &item.row) {
            if let Some(content) = row.content.filter(|_| plan.gone.len() < MAX_GONE) {
                plan.gone.insert(content, item.path.clone());
            }
            return plan.deleted.put(0, &item.path);
        }
        let wanted = match item.change {
            Change::Same => extra(&item)?,
            _ => true,
        };
        if wanted {
            plan.bytes += item.stat.as_ref().map_or(0, |s| s.size);
            plan.changed.put(item.stat.as_ref().map_or(0, |s| s.size), &item.path)?;
        }
        Ok(())
    })?;
    Ok(plan)
}

/// Options of a commit.
#[derive(Debug, Default)]
pub struct CommitOptions {
    /// The user's words.
    pub message: Option<String>,
}

/// Records and places everything that changed at and below `paths`.
pub fn commit(folder: &mut Folder, paths: &[RelPath], options: &CommitOptions) -> Result<CommitStats> {
    let remotes = Remotes::targets(folder)?;
    remotes.note_offline(folder);
    commit_on(folder, &remotes, paths, options)
}

/// The same on targets that are open already.
pub fn commit_on(
    folder: &mut Folder,
    remotes: &Remotes,
    paths: &[RelPath],
    options: &CommitOptions,
) -> Result<CommitStats> {
    sync_logs(folder, remotes)?;
    let unsaved = folder.history.meta("unsaved")?.is_some();
    let mut targets = Targets::new(folder, remotes, Need::Any)?;
    let changed = plan(folder, paths, &mut |item| {
        // Contents recorded while no store was reachable are placed now.
        let body = item.row.as_ref().and_then(|r| r.body).filter(|_| unsaved);
        Ok(body.is_some() && targets.lacks(body)?)
    })?;
    let message = options.message.as_deref();
    match run(folder, changed, &targets, message, &mut |_, _| Ok(())) {
        // A store that cannot be written to keeps nothing, like one that is away.
        Err(e) if matches!(e.errno(), Some(libc::EROFS | libc::EACCES)) && targets.is_closed() => {
            targets.store = None;
            let rest = plan(folder, paths, &mut |_| Ok(false))?;
            run(folder, rest, &targets, message, &mut |_, _| Ok(()))
        }
        done => done,
    }
}

/// Brings the folder's log and those of its reachable stores level, both ways.
pub fn sync_logs(folder: &mut Folder, remotes: &Remotes) -> Result<()> {
    let others = || remotes.online.iter().filter(|r| r.name != OWN);
    // All that is known anywhere first, so that one turn is enough.
    for remote in others() {
        folder.pull_logs(remote.packs.bucket().as_ref())?;
    }
    for remote in others() {
        let (bucket, mut copied) = (remote.packs.bucket().as_ref(), CopyStats::default());
        let push = |_: &dyn Store| {
            copied = log::copy_missing(folder.own.as_ref(), bucket, folder.id)?;
            Ok(())
        };
        if !remote.member.write(push)? {
            remote.tell_out(folder);
            continue;
        }
        for (name, error) in &copied.problems {
            folder.context.progress.note(&format!("{name}: {error}; `ddr fsck` says more"));
        }
        let origin = folder.origin();
        behind::set_met(&mut folder.history, remote.packs.id(), origin)?;
        for dot in folder.history.knowledge()? {
            // What the index knows may be lost in the log, or lie behind a gap.
            let reached = copied.reached.get(&dot.origin).map_or(0, |reached| dot.number.min(*reached));
            set_pushed(&mut folder.history, remote, dot.origin, reached)?;
        }
    }
    Ok(())
}

/// Records what is no version of any path: own log, index, and the logs of these stores.
pub fn record(folder: &mut Folder, remotes: &Remotes, ops: Vec<Op>) -> Result<()> {
    let targets = Targets::new(folder, remotes, Need::Any)?;
    let Folder { id, history, own, identity, instance, .. } = folder;
    let missing = || Error::Unsupported("this needs a folder opened for writing".into());
    let instance = instance.as_mut().ok_or_else(missing)?;
    let mut committer = Committer::new(history, identity, instance, own, *id, &targets)?;
    let mut batch = Batch::new(committer.history, identity, committer.since)?;
    let none = Entry {
        hlc: 0,
        path: RelPath::root(),
        op: Op::Del,
        seen: vec![],
        base: None,
        moved_from: None,
        moved_to: None,
    };
    for op in ops {
        batch.push(Entry { op, ..none.clone() });
    }
    let last = batch.tail.number + batch.entries.len() as u64;
    committer.write(batch, &[])?;
    committer.instance.settle(last)
}

/// Carries a plan out. `settled` is called with every batch of durable, recorded files.
pub fn run(
    folder: &mut Folder,
    plan: Plan,
    targets: &Targets,
    message: Option<&str>,
    settled: &mut dyn FnMut(&mut History, Vec<Settled>) -> Result<()>,
) -> Result<CommitStats> {
    let Plan { changed, bytes, deleted, gone, whole } = plan;
    let Folder { tree, keys, id, history, own, identity, instance, context, unseen, .. } = folder;
    let missing = || Error::Unsupported("this needs a working tree opened for writing".into());
    let (tree, instance) = (tree.as_ref().ok_or_else(missing)?, instance.as_mut().ok_or_else(missing)?);
    context.progress.stage("placing", bytes, true);
    let mut committer = Committer::new(history, identity, instance, own, *id, targets)?;
    committer.message = message;
    committer.gone = gone;
    committer.ahead = changed.count + deleted.count;
    let placer = Placer {
        tree,
        keys,
        folder: *id,
        store: targets.store.as_deref(),
        progress: context.progress.as_ref(),
        cancel: &context.cancel,
    };
    let placed = placer.run(&mut changed.read()?, &mut |path, found| {
        if let Found::Problem(error) = found {
            committer.stats.problems += 1;
            report(context.progress.as_ref(), &path, error);
            return Ok(());
        }
        let done = committer.push(path, found)?;
        settled(committer.history, done)
    });
    // What was read before an interruption is kept; a failed store keeps it from being durable.
    if matches!(placed, Ok(()) | Err(Error::Interrupted)) {
        if let (true, Ok(()), Some(stat)) = (whole, &placed, tree.stat(&RelPath::root())?) {
            // Mode and time of the root itself, which no listing shows.
            committer.pending.push((RelPath::root(), Found::Dir(stat)));
        }
        let done = committer.commit()?;
        settled(committer.history, done)?;
    }
    let deleted = placed.and_then(|()| delete_all(&mut committer, deleted));
    let last = committer.history.tail(&identity.origin())?.number;
    committer.instance.settle(last)?;
    deleted?;
    let mut stats = committer.stats.clone();
    if whole && stats.problems == 0 && *unseen {
        *unseen = false;
        history.clear_meta(UNSEEN)?;
    }
    if stats.recorded > 0 {
        behind::note_behind(history, &targets.behind(), (stats.recorded, stats.read_bytes))?;
    }
    for remote in targets.remotes.iter().filter(|r| !r.member.is_at_work()) {
        remote.tell(context.progress.as_ref());
    }
    stats.unsaved = targets.store.is_none() && stats.recorded > 0;
    match stats.unsaved {
        true => history.set_meta("unsaved", "1")?,
        // What another part of the tree lacks, or a file with problems, is still unsaved.
        false if targets.store.is_some() && whole && stats.problems == 0 => history.clear_meta("unsaved")?,
        false => {}
    }
    Ok(stats)
}

fn delete_all(committer: &mut Committer, deleted: Spool) -> Result<()> {
    let mut rows = Vec::new();
    for item in deleted.read()? {
        rows.extend(committer.history.local(&item?.1)?);
        if rows.len() >= BATCH_FILES {
            committer.delete(&rows)?;
            rows.clear();
        }
    }
    if rows.is_empty() { Ok(()) } else { committer.delete(&rows) }
}
