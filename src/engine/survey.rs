//! What changed in the working tree since it was last recorded.
//!
//! Promises that nothing is taken for deleted because it could not be seen (unreadable, ignored,
//! on another file system), and that only stat is trusted for display: what may be *freed* is
//! decided from bytes in `local::stub`. Merges a sorted walk with the sorted local table, so memory
//! stays flat.

use std::collections::HashSet;

use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::format::stub::{MIN_STUB, MarkState};
use crate::history::{Head, LocalRow};
use crate::local::inspect::{State, inspect, marked};
use crate::local::root::{Access, Root};
use crate::local::scan::{Scan, ScanOptions, Seen, Skip};
use crate::local::stat::{FileType, Stat};
use crate::model::entry::{Dot, FileKind, Version};
use crate::model::residency::Residency;
use crate::model::version::winner;

use super::folder::Folder;
use super::held;
use super::trace;

/// How a path differs from what was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing differs.
    Same,
    /// Not recorded yet.
    New,
    /// Size, time, type or target differ.
    Modified,
    /// Only the permissions differ.
    Mode,
    /// Size and time are the same, but the inode was changed or replaced: contents to be compared.
    Touched,
    /// A directory's time moved because something in it did.
    DirTime,
    /// Looks like its recorded version, but what the tree held was forgotten with history.db: nobody has
    /// compared its bytes since.
    Unseen,
    /// Recorded, but gone.
    Deleted,
}

impl Change {
    /// The letter `ddr status` shows.
    pub fn letter(self) -> char {
        match self {
            Self::Same | Self::DirTime => ' ',
            Self::Unseen => '?',
            Self::New => 'A',
            Self::Modified => 'M',
            Self::Mode => 'P',
            Self::Touched => 'T',
            Self::Deleted => 'D',
        }
    }

    /// Whether it counts as a change people care about.
    pub fn is_visible(self) -> bool {
        !matches!(self, Self::Same | Self::DirTime | Self::Unseen)
    }
}

/// One path, with what is there and what was recorded.
#[derive(Clone, Debug)]
pub struct Item {
    /// The path.
    pub path: RelPath,
    /// What is there now; `None` if deleted.
    pub stat: Option<Stat>,
    /// What was recorded, or seems to be ([`Change::Unseen`]); `None` if new.
    pub row: Option<LocalRow>,
    /// The difference.
    pub change: Change,
}

/// Compares everything at and below `paths` with the record; `sink` gets every path, also the
/// unchanged ones, in path order per start path.
pub fn survey(folder: &Folder, paths: &[RelPath], sink: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
    for start in paths {
        one(folder, folder.tree()?, start, sink)?;
    }
    Ok(())
}

fn one(
    folder: &Folder,
    tree: &Root,
    start: &RelPath,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut rows = folder.history.local_cursor(start);
    let mut row = rows.next()?;
    let there = start.is_root() || tree.stat(start)?.is_some();
    if !there && row.is_none() {
        // Says so if a symbolic link is in the way.
        Scan::new(tree, start, ScanOptions::default())?;
        return Err(Error::Missing(start.to_string()));
    }
    let mut hidden = Hidden::default();
    if there {
        let options = ScanOptions { cross_devices: folder.config.scan.cross_devices };
        for seen in Scan::new(tree, start, options)? {
            folder.context.cancel.check()?;
            let (path, stat) = match seen? {
                Seen::Entry(path, stat) => (path, stat),
                Seen::Skipped { path, subtree, why } => {
                    tell_skipped(folder, &path, start, why);
                    hidden.add(path, subtree);
                    continue;
                }
            };
            while let Some(gone) = row.take_if(|r| r.path < path) {
                if !hidden.covers(&gone.path) {
                    sink(Item {
                        path: gone.path.clone(),
                        stat: None,
                        row: Some(gone),
                        change: Change::Deleted,
                    })?;
                }
                row = rows.next()?;
            }
            let known = row.take_if(|r| r.path == path);
            if known.is_some() {
                row = rows.next()?;
            }
            if folder.waiting.contains(&path) {
                let why = "left half done by an interrupted run; it waits until its store is reachable";
                report(folder.context.progress.as_ref(), &path, Error::Refused(why.into()));
                continue;
            }
            let (change, row) = match known {
                None if folder.unseen => forgotten(folder, &path, &stat)?,
                known => (compare(tree, &path, &stat, known.as_ref())?, known),
            };
            let change =
                if is_recalled(folder, &path, &stat, change, row.as_ref()) { Change::Same } else { change };
            sink(Item { path, stat: Some(stat), row, change })?;
        }
    }
    while let Some(gone) = row {
        if !hidden.covers(&gone.path) {
            sink(Item { path: gone.path.clone(), stat: None, row: Some(gone), change: Change::Deleted })?;
        }
        row = rows.next()?;
    }
    Ok(())
}

/// Ignored things are silent unless they were named; everything else that is passed over is a problem the user sees.
fn tell_skipped(folder: &Folder, path: &RelPath, named: &RelPath, why: Skip) {
    let error = match why {
        Skip::Ignored if path == named => {
            Error::Unsupported("ignored by a .ddrignore file, left alone".into())
        }
        Skip::Ignored => return,
        Skip::OtherDevice => Error::Unsupported("on another file system, left alone".into()),
        Skip::Unreadable(error) => error,
        Skip::Special(what) => Error::Unsupported(format!("a {what}, which ddr does not keep")),
        Skip::BadName(why) => Error::Unsupported(why),
        Skip::Nested => Error::Refused("a ddr folder of its own, left alone".into()),
    };
    report(folder.context.progress.as_ref(), path, error);
}

/// Paths that the walk passed over: what is recorded there is not deleted, only unseen.
#[derive(Default)]
struct Hidden {
    paths: HashSet<RelPath>,
    subtrees: HashSet<RelPath>,
}

impl Hidden {
    fn add(&mut self, path: RelPath, subtree: bool) {
        if subtree {
            self.subtrees.insert(path);
        } else {
            self.paths.insert(path);
        }
    }

    fn covers(&self, path: &RelPath) -> bool {
        if self.paths.contains(path) {
            return true;
        }
        if self.subtrees.is_empty() {
            return false;
        }
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if self.subtrees.contains(&here) {
                return true;
            }
            at = here.split().map(|(parent, _)| parent);
        }
        false
    }
}

fn compare(tree: &Root, path: &RelPath, stat: &Stat, row: Option<&LocalRow>) -> Result<Change> {
    let Some(row) = row else { return Ok(Change::New) };
    let change = differs(stat, row);
    if change == Change::Touched && row.kind == FileKind::Symlink {
        let same = row.target.as_deref() == Some(&tree.read_link(path)?);
        return Ok(if same { Change::Same } else { Change::Modified });
    }
    Ok(change)
}

/// Whether a stub is being filled right now for somebody who opened it, or was a moment ago: there is nothing to
/// record. Where no worker is at work, a mark says only that one was.
fn is_recalled(folder: &Folder, path: &RelPath, stat: &Stat, change: Change, row: Option<&LocalRow>) -> bool {
    let was_stub = row.is_some_and(|row| row.residency == Residency::Stub && row.size == stat.size);
    if change == Change::Same || !was_stub || held::guard_of(folder).is_none() {
        return false;
    }
    let file = folder.tree().and_then(|tree| tree.open_file(path, Access::Read));
    let mark = file.and_then(|file| marked(&file)).ok().flatten();
    mark.is_some_and(|mark| mark.state != MarkState::Stub) && trace::is_claimed(&folder.dir)
}

/// The row of a path: what was recorded of it, or seems to be.
pub fn row_of(folder: &Folder, path: &RelPath) -> Result<Option<LocalRow>> {
    match folder.history.local(path)? {
        None if folder.unseen => match folder.tree()?.stat(path)? {
            Some(stat) => likely_row(folder, path, &stat),
            None => Ok(None),
        },
        row => Ok(row),
    }
}

/// A row as the file's bytes have it now: what was touched since may have been filled by another name,
/// or by opening it.
pub fn as_it_is(folder: &Folder, path: &RelPath, stat: &Stat, row: LocalRow) -> Result<LocalRow> {
    let filled = row.residency == Residency::Stub
        && differs(stat, &row) == Change::Touched
        && is_full(folder, path, stat);
    let residency = if filled { Residency::Full } else { row.residency };
    Ok(LocalRow { residency, ..row })
}

/// How a path without a row compares with what history says of it.
fn forgotten(folder: &Folder, path: &RelPath, stat: &Stat) -> Result<(Change, Option<LocalRow>)> {
    Ok(match likely_row(folder, path, stat)? {
        Some(row) => (Change::Unseen, Some(row)),
        None if folder.history.heads(path)?.is_empty() => (Change::New, None),
        None => (Change::Modified, None),
    })
}

/// The row of a path that looks like its recorded version: never `proven`, and no proof for anything
/// but showing it. A stub, though, is told by its bytes.
pub fn likely_row(folder: &Folder, path: &RelPath, stat: &Stat) -> Result<Option<LocalRow>> {
    let heads = folder.history.heads(path)?;
    let Some(head) = winner(&heads, |h: &Head| (h.hlc, h.dot)) else { return Ok(None) };
    let v = &head.version;
    let same = match (stat.kind, v.kind) {
        (FileType::Dir, FileKind::Dir) => true,
        (FileType::Symlink, FileKind::Symlink) => {
            v.target.as_deref() == Some(&folder.tree()?.read_link(path)?)
        }
        (FileType::File, FileKind::File) => {
            stat.size == v.size && stat.mtime == v.mtime && stat.mode == v.mode
        }
        _ => false,
    };
    if !same {
        return Ok(None);
    }
    let residency = if is_stub(folder, path, stat)? { Residency::Stub } else { Residency::Full };
    Ok(Some(local_row(path.clone(), head.dot, v, stat, residency, false)))
}

/// What cannot be looked at, or is neither, is not known to be full.
fn is_full(folder: &Folder, path: &RelPath, stat: &Stat) -> bool {
    let look = || inspect(&folder.tree()?.open_file(path, Access::Read)?, stat, &folder.keys, folder.id);
    stat.kind == FileType::File && look().is_ok_and(|state| state == State::Full)
}

fn is_stub(folder: &Folder, path: &RelPath, stat: &Stat) -> Result<bool> {
    if stat.kind != FileType::File || stat.size < MIN_STUB {
        return Ok(false);
    }
    let file = folder.tree()?.open_file(path, Access::Read)?;
    Ok(matches!(inspect(&file, stat, &folder.keys, folder.id)?, State::Stub(_)))
}

/// The row of a path that has this version and this stat.
pub fn local_row(
    path: RelPath,
    dot: Dot,
    version: &Version,
    stat: &Stat,
    residency: Residency,
    proven: bool,
) -> LocalRow {
    LocalRow {
        path,
        dot,
        kind: version.kind,
        size: version.size,
        mtime: stat.mtime,
        mode: stat.mode,
        ctime: stat.ctime,
        ino: stat.ino,
        content: version.content,
        body: version.body,
        target: version.target.clone(),
        residency,
        proven,
    }
}

/// The decision itself, from facts alone.
pub fn differs(stat: &Stat, row: &LocalRow) -> Change {
    let kind = match stat.kind {
        FileType::File => FileKind::File,
        FileType::Dir => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::Other(_) => return Change::Modified,
    };
    if kind != row.kind {
        return Change::Modified;
    }
    if kind == FileKind::Dir {
        return match (stat.mode == row.mode, stat.mtime == row.mtime) {
            (false, _) => Change::Mode,
            (true, false) => Change::DirTime,
            (true, true) => Change::Same,
        };
    }
    let size_differs = kind == FileKind::File && stat.size != row.size;
    if size_differs || stat.mtime != row.mtime {
        return Change::Modified;
    }
    if kind == FileKind::File && stat.mode != row.mode {
        return Change::Mode;
    }
    if stat.ino == row.ino && stat.ctime == row.ctime { Change::Same } else { Change::Touched }
}
