//! Checking out: stubs get their content back, in place.
//!
//! Promises that a file is whole and verified before its mark goes, that size, times and mode stay,
//! and that a user who wrote into a stub keeps what he wrote (I5). Order per batch: intent fsynced
//! -> files filled under write leases -> file system synced -> intent closed.

use std::sync::{Arc, OnceLock};

use super::ahead::Ahead;
use super::fetch::{Wanted, fetch};
use super::folder::Folder;
use super::held::{Held, guard_of};
use super::remotes::Remotes;
use super::spool::Spool;
use super::survey::{Change, survey};
use super::writing::{Outcome, Output, Writing};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::progress::{Progress, report};
use crate::base::units::{Time, count};
use crate::format::key::Keys;
use crate::format::stub::StubHead;
use crate::history::LocalRow;
use crate::local::fill::Filling;
use crate::local::guard::Guard;
use crate::local::inode::Target;
use crate::local::inspect::{HALF_FILLED, State, inspect};
use crate::local::intent::{Intent, Item, Task};
use crate::local::root::{Access, Root};
use crate::local::stat::{FileType, Stat};
use crate::model::residency::Residency;

/// Files per intent.
const BATCH: usize = 1000;
/// Files filled together with one sync before and after, and logical bytes after which that is less.
const GROUP: usize = 4 * BATCH;
const BATCH_BYTES: u64 = 1 << 30;

/// What checking out did.
#[derive(Clone, Debug, Default)]
pub struct CheckoutStats {
    /// Files that got their content back.
    pub filled: u64,
    /// Bytes of them.
    pub filled_bytes: u64,
    /// Files that had problems.
    pub problems: u64,
}

/// Fills every stub at and below `paths`.
pub fn checkout(folder: &mut Folder, paths: &[RelPath], dry_run: bool) -> Result<CheckoutStats> {
    let mut stats = CheckoutStats::default();
    folder.tree()?;
    let (stubs, bytes) = stubs(folder, paths)?;
    if dry_run {
        return Ok(CheckoutStats { filled: stubs.count, filled_bytes: bytes, problems: 0 });
    }
    if stubs.count == 0 {
        return Ok(stats);
    }
    let remotes = Remotes::open_all(folder)?;
    remotes.check_any(folder)?;
    folder.context.progress.stage("checking out", bytes, true);
    let site = Site {
        tree: Arc::clone(folder.tree()?),
        keys: folder.keys.clone(),
        cancel: folder.context.cancel.clone(),
        progress: Arc::clone(&folder.context.progress),
        remotes: &remotes,
        full: OnceLock::new(),
    };
    let filled = std::thread::scope(|scope| {
        let mut line = Line { folder, site: &site, ahead: Ahead::new(scope), stats: &mut stats };
        let filled = line.fill_all(stubs);
        let last = line.wait();
        filled.and(last)
    });
    if let Some(full) = site.full.into_inner() {
        folder.context.progress.note(&format!("checked out {} before", count(stats.filled, "file")));
        return Err(full);
    }
    filled?;
    super::heal::heal(folder, &remotes)?;
    Ok(stats)
}

/// Lists what may be a stub: recorded as one, or changed in a way that only its bytes can tell.
fn stubs(folder: &Folder, paths: &[RelPath]) -> Result<(Spool, u64)> {
    let mut list = Spool::new(&folder.temp_dir())?;
    let mut bytes = 0;
    survey(folder, paths, &mut |item| {
        let Some(stat) = item.stat.filter(|s| s.kind == FileType::File) else { return Ok(()) };
        let recorded = item.row.as_ref().is_some_and(|r| r.residency == Residency::Stub);
        let sparse = stat.size > 4096 && stat.blocks * 512 <= 8192;
        if recorded || (item.change != Change::Same && sparse) {
            bytes += stat.size;
            list.put(0, &item.path)?;
        }
        Ok(())
    })?;
    Ok((list, bytes))
}

/// The stub at a path; `None` if the file is not one.
fn look(folder: &Folder, path: &RelPath) -> Result<Option<(Stat, StubHead)>> {
    let file = folder.tree()?.open_file(path, Access::Read)?;
    let stat = Stat::of(&file).map_err(|e| Error::io("reading", path.as_path(), e))?;
    match inspect(&file, &stat, &folder.keys, folder.id)? {
        State::Full => Ok(None),
        State::Stub(head) => Ok(Some((stat, head))),
        // Somebody opened it, and waits for it already.
        State::Filling(_) if guard_of(folder).is_some() => Ok(None),
        State::Filling(_) => Err(Error::Refused(HALF_FILLED.into())),
        State::Odd(why) => Err(Error::Refused(why)),
    }
}

/// Batches on their way: one is filled while the one before is synced and recorded, and the next one
/// looked at.
struct Line<'scope, 'env> {
    folder: &'env mut Folder,
    site: &'env Site<'env>,
    ahead: Ahead<'scope, 'env, Filled>,
    stats: &'env mut CheckoutStats,
}

impl Line<'_, '_> {
    fn fill_all(&mut self, stubs: Spool) -> Result<()> {
        let mut batch = Batch::default();
        for item in stubs.read()? {
            self.folder.context.cancel.check()?;
            let (_, path) = item?;
            match self.look(&path) {
                Ok(Some((stat, head))) => batch.push(path, stat, head),
                Ok(None) => {}
                Err(e) => {
                    self.stats.problems += 1;
                    report(self.folder.context.progress.as_ref(), &path, e);
                }
            }
            if batch.slots.len() >= GROUP || batch.bytes >= BATCH_BYTES {
                self.start(std::mem::take(&mut batch))?;
            }
        }
        self.start(batch)
    }

    /// What has several names, is half filled or full already may be another name of a file in hand.
    fn look(&mut self, path: &RelPath) -> Result<Option<(Stat, StubHead)>> {
        let found = look(self.folder, path);
        if matches!(&found, Ok(Some((stat, _))) if stat.nlink == 1) {
            return found;
        }
        self.wait()?;
        look(self.folder, path)
    }

    fn start(&mut self, batch: Batch) -> Result<()> {
        if batch.slots.is_empty() {
            return Ok(());
        }
        let intents = Intent::begin_all(&self.folder.intents(), Task::Fill, &batch.items(), BATCH)?;
        let (site, guard) = (self.site, guard_of(self.folder));
        let last = self.ahead.start(move || site.fill(batch, intents, guard.as_ref()))?;
        self.settle(last)
    }

    fn wait(&mut self) -> Result<()> {
        let last = self.ahead.wait()?;
        self.settle(last)
    }

    fn settle(&mut self, last: Option<Filled>) -> Result<()> {
        last.map_or(Ok(()), |filled| settle(self.folder, filled, self.stats))
    }
}

/// One file being filled.
struct Slot {
    path: RelPath,
    /// Other names of the same inode: hard links that were made of the stub.
    also: Vec<RelPath>,
    stat: Stat,
    head: StubHead,
}

#[derive(Default)]
struct Batch {
    slots: Vec<Slot>,
    bytes: u64,
}

impl Batch {
    fn push(&mut self, path: RelPath, stat: Stat, head: StubHead) {
        if stat.nlink > 1
            && let Some(first) = self.slots.iter_mut().find(|s| s.stat.ino == stat.ino)
        {
            return first.also.push(path);
        }
        self.bytes += stat.size;
        self.slots.push(Slot { path, also: Vec::new(), stat, head });
    }

    fn items(&self) -> Vec<Item> {
        let item = |s: &Slot| Item {
            path: s.path.clone(),
            head: s.head.clone(),
            mode: s.stat.mode,
            ino: Some(s.stat.ino),
        };
        self.slots.iter().map(item).collect()
    }
}

/// What is needed to fill files, apart from history.
struct Site<'a> {
    tree: Arc<Root>,
    keys: Keys,
    cancel: Cancel,
    progress: Arc<dyn Progress>,
    remotes: &'a Remotes,
    /// The first file for which there was no room; nothing more is begun then.
    full: OnceLock<Error>,
}

/// A batch whose files are filled, but not known to be durable yet.
struct Filled {
    slots: Vec<(Slot, Outcome)>,
    /// To be closed; not those of which openers may not have been let go: the next command mends it.
    intents: Vec<Intent>,
    /// Whether stores could be read, and openers let go.
    done: Result<()>,
}

impl Site<'_> {
    fn fill(&self, batch: Batch, intents: Vec<Intent>, guard: Option<&Arc<Guard>>) -> Filled {
        let slots = batch.slots;
        let held = match Held::take(guard, &self.tree, slots.iter().map(|s| &s.path)) {
            Ok(held) => held,
            Err(e) => return Filled { slots: Vec::new(), intents, done: Err(e) },
        };
        let (outcomes, fetched) = self.fetch(&slots, &held);
        let (intents, done) = match held.release(|i| !outcomes[i].is_whole()) {
            Ok(()) => (intents, fetched),
            Err(e) => (Vec::new(), Err(e)),
        };
        Filled { slots: slots.into_iter().zip(outcomes).collect(), intents, done }
    }

    /// Begins each stub at its first piece; what is not finished is a stub again.
    fn fetch(&self, slots: &[Slot], held: &Held) -> (Vec<Outcome>, Result<()>) {
        let wanted = |s: &Slot| Wanted { body: Some(s.head.body), size: s.head.size };
        let list: Vec<Wanted> = slots.iter().map(wanted).collect();
        let begin = |i: usize| {
            let Slot { path, head, .. } = &slots[i];
            // Those whose openers wait at the guard are taken by their places in `slots`.
            let held = held.file(i)?;
            Filling::begin(&Target { root: &self.tree, path, keys: &self.keys, head, held })
        };
        let advance = |bytes| self.progress.advance(bytes);
        let writing = Writing::new(slots.len(), &begin, &advance, &self.full);
        let fetched = fetch(self.remotes, &self.keys, &self.cancel, &list, &writing);
        (writing.end(), fetched)
    }
}

impl Output for Filling<'_> {
    fn reserve(&self, holes: &[(u64, u64)]) -> Result<()> {
        Filling::reserve(self, holes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        Filling::write_at(self, bytes, offset)
    }

    fn finish(self, holes: &[(u64, u64)]) -> Result<Stat> {
        Filling::finish(self, holes)
    }

    fn abandon(self) -> Result<()> {
        Filling::abandon(self)
    }
}

fn settle(folder: &mut Folder, filled: Filled, stats: &mut CheckoutStats) -> Result<()> {
    let Filled { slots, intents, done } = filled;
    crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
    // What is torn stays named: the next command mends it.
    if slots.iter().all(|(slot, outcome)| is_settled(folder, slot, outcome)) {
        intents.into_iter().try_for_each(Intent::close)?;
    }
    let mut rows = Vec::new();
    for (slot, outcome) in slots {
        match outcome.result {
            Some(Ok(stat)) => {
                stats.filled += 1;
                stats.filled_bytes += stat.size;
                for path in slot.also.iter().chain([&slot.path]) {
                    rows.extend(filled_row(folder, path, &slot.head, &stat)?);
                }
            }
            // One line about a full disk is enough.
            None | Some(Err(Error::Interrupted | Error::NoSpace(_))) => {}
            Some(Err(e)) => {
                stats.problems += 1;
                report(folder.context.progress.as_ref(), &slot.path, e);
            }
        }
    }
    folder.history.put_local(&rows)?;
    folder.history.put_asked(rows.iter().map(|row| &row.path), Time::now())?;
    done
}

/// Whether a file is whole or the stub it was; else its intent stays, for the next command to mend by.
fn is_settled(folder: &Folder, slot: &Slot, outcome: &Outcome) -> bool {
    match &outcome.result {
        _ if outcome.is_torn => false,
        None | Some(Ok(_)) => true,
        // Nothing was begun.
        Some(Err(Error::Refused(_))) => true,
        Some(Err(_)) => look(folder, &slot.path).is_ok_and(|found| {
            found.is_some_and(|(stat, head)| {
                head.content == slot.head.content && stat.mtime == slot.stat.mtime
            })
        }),
    }
}

/// The row of a file that was just filled; `None` where the path was never recorded (a copied
/// stub): the next commit records it.
fn filled_row(folder: &Folder, path: &RelPath, head: &StubHead, stat: &Stat) -> Result<Option<LocalRow>> {
    let Some(row) = folder.history.local(path)? else { return Ok(None) };
    if row.content != Some(head.content) {
        return Ok(None);
    }
    Ok(Some(LocalRow {
        ctime: stat.ctime,
        ino: stat.ino,
        residency: Residency::Full,
        // Every byte was verified and written under the write lease.
        proven: row.mtime == stat.mtime,
        ..row
    }))
}
