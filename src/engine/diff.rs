//! What changed between two points in time, or between one and the working tree.
//!
//! Promises path order (what is gone from the tree last), and one path's entries in memory. Moves are
//! those that commits recognised. Changes nothing.

use super::folder::Folder;
use super::survey::{Change, Item, survey};
use crate::base::error::Result;
use crate::base::id::ContentId;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::history::Then;
use crate::local::stat::FileType;
use crate::model::entry::{FileKind, Version};

/// Moves in a row that are followed.
const HOPS: usize = 64;

/// How a path differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It was not there.
    Added,
    /// It has other content, another type or other permissions.
    Changed,
    /// It is not there any more.
    Deleted,
    /// It was at another path.
    Moved,
}

/// One side of a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// File, directory or symlink.
    pub kind: FileKind,
    /// Bytes of a file.
    pub size: u64,
    /// Its time.
    pub mtime: Time,
    /// Permissions.
    pub mode: u16,
    /// Its content, where that is known without reading it.
    pub content: Option<ContentId>,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
}

impl Side {
    fn of(v: &Version) -> Self {
        let Version { kind, size, mtime, mode, content, ref target, .. } = *v;
        Self { kind, size, mtime, mode, content, target: target.clone() }
    }

    /// Whether the other is the same to people: times of directories and links are not looked at.
    fn is_like(&self, other: &Self) -> bool {
        let same = self.kind == other.kind && self.mode == other.mode && self.target == other.target;
        same && match (self.content, other.content) {
            (Some(a), Some(b)) => a == b,
            _ => self.kind != FileKind::File || (self.size == other.size && self.mtime == other.mtime),
        }
    }
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The path, the new one of a move.
    pub path: RelPath,
    /// How it differs.
    pub kind: Kind,
    /// The old path of a move.
    pub from: Option<RelPath>,
    /// What was there.
    pub before: Option<Side>,
    /// What is there.
    pub after: Option<Side>,
}

/// Compares `since` (a clock value; `None`: what is recorded) with `until` (`None`: the working tree, or
/// what is recorded where there is none).
pub fn diff(
    folder: &Folder,
    paths: &[RelPath],
    since: Option<u64>,
    until: Option<u64>,
    sink: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let since = since.unwrap_or(u64::MAX);
    match until {
        None if folder.tree.is_some() => against_tree(folder, paths, since, sink),
        until => between(folder, paths, since, until.unwrap_or(u64::MAX), sink),
    }
}

fn between(
    folder: &Folder,
    paths: &[RelPath],
    since: u64,
    until: u64,
    sink: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let moves = Moves { folder, paths, since, until, in_tree: false };
    for under in paths {
        folder.history.each_then(under, &[since, until], &mut |path, mut thens| {
            folder.context.cancel.check()?;
            let (after, before) = (thens.pop().flatten(), thens.pop().flatten());
            moves.tell(path, before.as_ref(), after.as_ref().map(|t| Side::of(&t.version)), sink)
        })?;
    }
    Ok(())
}

fn against_tree(
    folder: &Folder,
    paths: &[RelPath],
    since: u64,
    sink: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let moves = Moves { folder, paths, since, until: u64::MAX, in_tree: true };
    survey(folder, paths, &mut |item| {
        if since == u64::MAX && matches!(item.change, Change::Same | Change::DirTime) {
            return Ok(());
        }
        let before = folder.history.then(&item.path, since)?;
        let after = side(folder, &item)?;
        moves.tell(item.path, before.as_ref(), after, sink)
    })?;
    // What was deleted and recorded so meanwhile is neither in the tree nor in its table.
    for under in paths {
        folder.history.each_then(under, &[since, u64::MAX], &mut |path, mut thens| {
            let (now, before) = (thens.pop().flatten(), thens.pop().flatten());
            match before {
                Some(before) if now.is_none() && folder.history.local(&path)?.is_none() => {
                    let there = folder.tree()?.stat(&path)?.is_some();
                    if there { Ok(()) } else { moves.tell(path, Some(&before), None, sink) }
                }
                _ => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// What the tree has; unchanged files are what was recorded.
fn side(folder: &Folder, item: &Item) -> Result<Option<Side>> {
    let Some(stat) = &item.stat else { return Ok(None) };
    let recorded = matches!(item.change, Change::Same | Change::DirTime | Change::Touched | Change::Mode);
    let (kind, target) = match stat.kind {
        FileType::File => (FileKind::File, None),
        FileType::Dir => (FileKind::Dir, None),
        FileType::Symlink => (FileKind::Symlink, Some(folder.tree()?.read_link(&item.path)?)),
        FileType::Other(_) => return Ok(None),
    };
    let content = item.row.as_ref().filter(|_| recorded).and_then(|row| row.content);
    let size = if kind == FileKind::File { stat.size } else { 0 };
    Ok(Some(Side { kind, size, mtime: stat.mtime, mode: stat.mode, content, target }))
}

struct Moves<'a> {
    folder: &'a Folder,
    paths: &'a [RelPath],
    since: u64,
    until: u64,
    /// What counts in the end is the working tree.
    in_tree: bool,
}

impl Moves<'_> {
    fn tell(
        &self,
        path: RelPath,
        before: Option<&Then>,
        after: Option<Side>,
        sink: &mut dyn FnMut(Difference) -> Result<()>,
    ) -> Result<()> {
        let was = before.map(|t| Side::of(&t.version));
        match (was, after) {
            (Some(was), Some(is)) if was.is_like(&is) => Ok(()),
            (None, None) => Ok(()),
            (Some(before), Some(after)) => {
                let kind = Kind::Changed;
                sink(Difference { path, kind, from: None, before: Some(before), after: Some(after) })
            }
            (None, after) => match self.origin_of(&path)? {
                Some((from, then)) => {
                    let (kind, before) = (Kind::Moved, Some(Side::of(&then.version)));
                    sink(Difference { path, kind, from: Some(from), before, after })
                }
                None => sink(Difference { path, kind: Kind::Added, from: None, before: None, after }),
            },
            (before, None) => match self.home_of(&path)? {
                // Told at its new path.
                Some(to) if self.paths.iter().any(|p| to.is_under(p)) => Ok(()),
                _ => sink(Difference { path, kind: Kind::Deleted, from: None, before, after: None }),
            },
        }
    }

    /// Where something that is new at `path` was before, if its move there is the whole story.
    fn origin_of(&self, path: &RelPath) -> Result<Option<(RelPath, Then)>> {
        let history = &self.folder.history;
        let mut from = history.then(path, self.until)?.and_then(|t| t.moved_from);
        for _ in 0..HOPS {
            let Some(at) = from else { return Ok(None) };
            if let Some(then) = history.then(&at, self.since)? {
                let is_gone = history.then(&at, self.until)?.is_none();
                let is_it = is_gone && self.end_of(&at)?.as_ref() == Some(path);
                return Ok(is_it.then_some((at, then)));
            }
            let versions = history.versions(&at)?;
            from = versions.iter().rev().find_map(|p| p.entry.moved_from.clone());
        }
        Ok(None)
    }

    /// Where something that is gone from `path` is now, if [`Moves::origin_of`] says the same.
    fn home_of(&self, path: &RelPath) -> Result<Option<RelPath>> {
        let Some(end) = self.end_of(path)? else { return Ok(None) };
        let was_there = self.folder.history.then(&end, self.since)?.is_some();
        if was_there || (self.in_tree && self.folder.tree()?.stat(&end)?.is_none()) {
            return Ok(None);
        }
        Ok(self.origin_of(&end)?.is_some_and(|(from, _)| from == *path).then_some(end))
    }

    /// Follows moves away from a path to where they end.
    fn end_of(&self, path: &RelPath) -> Result<Option<RelPath>> {
        let history = &self.folder.history;
        let mut at = path.clone();
        for _ in 0..HOPS {
            match history.moved_to(&at, self.until)? {
                Some(next) if history.then(&next, self.until)?.is_some() => return Ok(Some(next)),
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}
