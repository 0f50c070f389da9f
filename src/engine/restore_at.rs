//! Restoring files and whole directories as they were at a time.
//!
//! Promises what `engine::restore` does per file; that what stands there now is recorded first; and
//! that what was not there then is left alone. Trouble with one file is reported, the others go on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::commit::{CommitOptions, commit};
use super::folder::Folder;
use super::remotes::Remotes;
use super::restore::{save_current, write_version};
use super::spool::Spool;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::history::Then;
use crate::model::entry::{FileKind, Version};

/// What to restore.
#[derive(Debug)]
pub struct AtOptions {
    /// The time, as a clock value.
    pub clock: u64,
    /// What the time is called in the commit's message.
    pub name: String,
    /// Below which directory, instead of in place.
    pub to: Option<PathBuf>,
    /// Overwrite what stands at the destination, recorded or not.
    pub force: bool,
    /// Only say what would be written.
    pub dry_run: bool,
}

/// What was restored.
#[derive(Debug, Default)]
pub struct AtStats {
    /// Files and links written.
    pub written: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Paths that are now what they were then.
    pub same: u64,
    /// Files that had problems.
    pub problems: u64,
}

/// Writes everything at and below `paths` as it was. `told` hears of every file that is written.
pub fn restore_at(
    folder: &mut Folder,
    paths: &[RelPath],
    options: &AtOptions,
    told: &mut dyn FnMut(&RelPath, &Then, &Path) -> Result<()>,
) -> Result<AtStats> {
    let (list, bytes) = list(folder, paths, options)?;
    if options.to.is_none() && !options.dry_run {
        for path in paths {
            save_current(folder, path, options.force)?;
        }
    }
    let remotes = Remotes::open_all(folder)?;
    folder.context.progress.stage("restoring", bytes, true);
    let mut stats = AtStats::default();
    let mut made = Vec::new();
    for item in list.read()? {
        folder.context.cancel.check()?;
        let (_, path) = item?;
        let Some(then) = folder.history.then(&path, options.clock)? else { continue };
        let to = destination(folder, paths, options, &path)?;
        if is_same(folder, &path, &then.version, &to, options)? {
            stats.same += 1;
            continue;
        }
        let is_dir = then.version.kind == FileKind::Dir;
        match check(&then, &to, options).and_then(|()| match options.dry_run {
            true => Ok(()),
            false => write_version(folder, &remotes, &then.version, &to),
        }) {
            Ok(()) if is_dir => made.push((to, then.version)),
            Ok(()) => {
                stats.written += 1;
                stats.bytes += then.version.size;
                told(&path, &then, &to)?;
            }
            Err(e @ (Error::Interrupted | Error::NoSpace(_) | Error::Offline { .. })) => return Err(e),
            Err(e) => {
                stats.problems += 1;
                report(folder.context.progress.as_ref(), &path, e);
            }
        }
    }
    if !options.dry_run {
        finish(folder, paths, options, &made)?;
    }
    Ok(stats)
}

/// Sets modes and times of new directories, and records the tree.
fn finish(
    folder: &mut Folder,
    paths: &[RelPath],
    options: &AtOptions,
    made: &[(PathBuf, Version)],
) -> Result<()> {
    for (path, version) in made.iter().rev() {
        let mode = std::fs::Permissions::from_mode(u32::from(version.mode));
        std::fs::set_permissions(path, mode).map_err(|e| Error::io("setting the mode of", path, e))?;
        let time = filetime::FileTime::from_unix_time(version.mtime.secs, version.mtime.nanos);
        filetime::set_file_mtime(path, time).map_err(|e| Error::io("dating", path, e))?;
    }
    if options.to.is_none() {
        let message = Some(format!("restored as of {}", options.name));
        commit(folder, paths, &CommitOptions { message })?;
    }
    Ok(())
}

/// Paths that were there, and their bytes; an error if one that was named was not.
fn list(folder: &Folder, paths: &[RelPath], options: &AtOptions) -> Result<(Spool, u64)> {
    let (mut list, mut bytes) = (Spool::new(&folder.temp_dir())?, 0);
    for under in paths {
        let before = list.count;
        folder.history.each_then(under, &[options.clock], &mut |path, thens| {
            bytes += thens.iter().flatten().map(|t| t.version.size).sum::<u64>();
            list.put(0, &path)
        })?;
        if list.count == before {
            return Err(Error::Missing(format!("{under} as of {}", options.name)));
        }
    }
    Ok((list, bytes))
}

/// In place; or below DEST, from the name of what was named on. One file may get DEST as its name.
fn destination(folder: &Folder, paths: &[RelPath], options: &AtOptions, path: &RelPath) -> Result<PathBuf> {
    let Some(to) = &options.to else { return Ok(folder.tree()?.full(path)) };
    let named = paths.iter().find(|p| path.is_under(p)).cloned().unwrap_or_else(RelPath::root);
    if paths.len() == 1 && named == *path && !to.is_dir() {
        return Ok(to.clone());
    }
    let skip = named.as_bytes().len() - named.name().len();
    Ok(to.join(OsStr::from_bytes(&path.as_bytes()[skip..])))
}

/// Whether nothing is to be done: the tree has this version, as a file or as a stub.
fn is_same(folder: &Folder, path: &RelPath, then: &Version, to: &Path, options: &AtOptions) -> Result<bool> {
    if then.kind == FileKind::Dir && to.is_dir() {
        return Ok(true);
    }
    if options.to.is_some() {
        return Ok(false);
    }
    let (Some(row), Some(stat)) = (folder.history.local(path)?, folder.tree()?.stat(path)?) else {
        return Ok(false);
    };
    let unchanged = super::survey::differs(&stat, &row) == super::survey::Change::Same;
    Ok(unchanged && super::commit::row_version(&row) == *then)
}

fn check(then: &Then, to: &Path, options: &AtOptions) -> Result<()> {
    if then.is_forgotten {
        return Err(Error::Missing(format!("the content of version {}, which was pruned,", then.n)));
    }
    if options.to.is_some() && !options.force && std::fs::symlink_metadata(to).is_ok() {
        return Err(Error::Refused(format!("{} exists; add --force to replace it", to.display())));
    }
    Ok(())
}
