//! Rebuilding every SQLite file from the objects they index.
//!
//! Promises that afterwards the state hash is the same (I9): logs, packs, manifests and holds are
//! the truth. What is set aside is kept until the new files are complete.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::folder::{Access, Context, Folder, HISTORY_ASIDE, UNSEEN};
use super::remotes::Remotes;
use super::survey::{Change, likely_row, survey};
use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::base::path::RelPath;
use crate::history::{History, LocalRow};

/// Rows written at once.
const BATCH: usize = 4096;

/// What was rebuilt.
#[derive(Debug, Default)]
pub struct RebuildStats {
    /// Entries read from logs.
    pub entries: u64,
    /// Stores whose index was rebuilt.
    pub stores: u64,
    /// Paths of the tree recognised as recorded versions.
    pub recognised: u64,
    /// The state hash afterwards.
    pub state: [u8; 32],
}

/// Rebuilds the peer in `dir`.
pub fn rebuild(dir: &Path, context: Context) -> Result<(Folder, RebuildStats)> {
    let aside = set_aside(dir, &context)?;
    let mut folder = Folder::open(dir, Access::Write, context)?;
    let remotes = Remotes::open_all(&folder)?;
    super::commit::sync_logs(&mut folder, &remotes)?;
    let mut stats = RebuildStats { stores: remotes.online.len() as u64, ..RebuildStats::default() };
    stats.entries = folder.history.counts()?.entries;
    if folder.tree.is_some() {
        carry_over(&mut folder, &aside)?;
        stats.recognised = recognise(&mut folder)?;
    }
    remove_db(&aside)?;
    stats.state = folder.history.state_hash()?;
    Ok((folder, stats))
}

/// Takes the old databases out of the way. The history's is kept until the new one is complete: what
/// the tree held when last looked at is in no log, and tells a deletion from a file never made.
fn set_aside(dir: &Path, context: &Context) -> Result<PathBuf> {
    // Held while the files go, so that nobody else is using them.
    let mut folder = Folder::open(dir, Access::Write, context.clone())?;
    resume(&mut folder)?;
    let remotes = Remotes::open_all(&folder)?;
    let index = context.cache_dir.join("index");
    let stores: Vec<_> = remotes.online.iter().map(|r| r.packs.id()).collect();
    drop(remotes);
    for store in stores {
        remove_db(&index.join(format!("{store}.db")))?;
    }
    let (current, aside) = (dir.join("history.db"), aside_of(dir));
    drop(folder);
    // The database itself last: a fresh one must never find the old one's write-ahead log.
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(&current, suffix), with_suffix(&aside, suffix));
        match std::fs::rename(&from, &to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("moving", from, e));
            }
            _ => {}
        }
    }
    Ok(aside)
}

fn aside_of(dir: &Path) -> PathBuf {
    dir.join(HISTORY_ASIDE)
}

/// Whether a rebuild was interrupted after it had taken the old database away.
pub fn is_unfinished(folder: &Folder) -> bool {
    aside_of(&folder.dir).exists()
}

/// Gives the new database what the old one knew of the tree, before anything is compared with it: a
/// path that is gone would otherwise pass for one that never was here.
pub fn resume(folder: &mut Folder) -> Result<()> {
    let aside = aside_of(&folder.dir);
    if folder.tree.is_some() {
        carry_over(folder, &aside)?;
    }
    remove_db(&aside)
}

/// Takes over what the old database knew of the tree, as far as it can be read and the new history
/// knows the versions it names. Never `proven`.
fn carry_over(folder: &mut Folder, aside: &Path) -> Result<()> {
    let old = match History::open_read_only(aside) {
        Ok(old) => old,
        // There is none, or it cannot be read: then the tree is compared with the logs alone.
        Err(Error::Missing(_) | Error::Db(_) | Error::Corrupt { .. } | Error::Unsupported(_)) => {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let known: HashMap<OriginId, u64> =
        folder.history.knowledge()?.into_iter().map(|d| (d.origin, d.number)).collect();
    let mut cursor = old.local_cursor(&RelPath::root());
    let mut rows = Vec::new();
    while let Ok(Some(row)) = cursor.next() {
        let is_known = known.get(&row.dot.origin).is_some_and(|n| *n >= row.dot.number);
        if is_known && folder.history.local(&row.path)?.is_none() {
            rows.push(LocalRow { proven: false, ..row });
        }
        if rows.len() >= BATCH {
            folder.history.put_local(&std::mem::take(&mut rows))?;
        }
    }
    folder.history.put_local(&rows)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a database with its side files.
fn remove_db(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let name = with_suffix(path, suffix);
        match std::fs::remove_file(&name) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", name, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Gives rows back to paths that look like their recorded version. Never `proven`: their bytes are
/// hashed again before anything is freed.
fn recognise(folder: &mut Folder) -> Result<u64> {
    folder.context.progress.stage("recognising files", 0, false);
    let mut rows: Vec<LocalRow> = Vec::new();
    let mut all = super::spool::Spool::new(&folder.temp_dir())?;
    folder.unseen = true;
    survey(folder, &[RelPath::root()], &mut |item| match item.change {
        Change::Unseen => all.put(0, &item.path),
        _ => Ok(()),
    })?;
    let mut count = 0;
    for item in all.read()? {
        let (_, path) = item?;
        if let Some(stat) = folder.tree()?.stat(&path)? {
            rows.extend(likely_row(folder, &path, &stat)?);
        }
        if rows.len() >= BATCH {
            count += rows.len() as u64;
            folder.history.put_local(&std::mem::take(&mut rows))?;
        }
    }
    folder.history.put_local(&rows)?;
    folder.unseen = false;
    folder.history.clear_meta(UNSEEN)?;
    Ok(count + rows.len() as u64)
}
