//! Restoring: an old version is written out again.
//!
//! Promises that bytes are verified before they get their name, and that what stands at the path
//! now is recorded in history first, so that restoring never loses anything.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::commit::{CommitOptions, commit};
use super::content::Content;
use super::folder::Folder;
use super::remotes::Remotes;
use super::survey::{Change, survey};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::disk;
use crate::history::Past;
use crate::local::replace::{Place, replace_file, replace_link};
use crate::model::entry::{FileKind, Version};
use crate::model::manifest::Run;

/// What to restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// Version number as `ddr history PATH` shows it; `None` is the newest there was.
    pub number: Option<u64>,
    /// Where to, instead of the path itself.
    pub to: Option<PathBuf>,
    /// Overwrite what stands at the destination.
    pub force: bool,
    /// Only say what would be written.
    pub dry_run: bool,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// Its number.
    pub number: u64,
    /// The version.
    pub version: Version,
    /// Where it was written.
    pub to: PathBuf,
}

/// Picks the version of `path` that the options mean.
pub fn pick(folder: &Folder, path: &RelPath, number: Option<u64>) -> Result<(u64, Version)> {
    let all = folder.history.versions(path)?;
    let exists = |past: &&Past| past.entry.version().is_some() && !past.is_forgotten;
    let found = match number {
        Some(n) => all.iter().find(|p| p.n == n),
        None => all.iter().rev().find(exists),
    };
    let past = found.ok_or_else(|| {
        let what = number.map_or(format!("{path} in history"), |n| format!("version {n} of {path}"));
        Error::Missing(format!("{what} (see `ddr history`)"))
    })?;
    if past.is_forgotten {
        return Err(Error::Missing(format!(
            "the content of version {} of {path}, which was pruned,",
            past.n
        )));
    }
    let version = past.entry.version().cloned();
    version
        .map(|v| (past.n, v))
        .ok_or_else(|| Error::Invalid(format!("version {} of {path} is its deletion", past.n)))
}

/// Writes a version to its path, or to `options.to`.
pub fn restore(folder: &mut Folder, path: &RelPath, options: &RestoreOptions) -> Result<Restored> {
    let (number, version) = pick(folder, path, options.number)?;
    let to = match &options.to {
        Some(to) => to.clone(),
        None => folder.tree()?.full(path),
    };
    let done = Restored { number, version, to };
    if options.dry_run {
        return Ok(done);
    }
    if options.to.is_none() {
        save_current(folder, path, options.force)?;
    } else if !options.force && std::fs::symlink_metadata(&done.to).is_ok() {
        return Err(Error::Refused(format!("{} exists; add --force to replace it", done.to.display())));
    }
    let remotes = Remotes::open_all(folder)?;
    write_version(folder, &remotes, &done.version, &done.to)?;
    if options.to.is_none() {
        let message = Some(format!("restored version {number} of {path}"));
        commit(folder, std::slice::from_ref(path), &CommitOptions { message })?;
    }
    Ok(done)
}

/// Records what stands at the path, unless history has it already.
pub(super) fn save_current(folder: &mut Folder, path: &RelPath, force: bool) -> Result<()> {
    let mut dirty = false;
    if folder.tree()?.stat(path)?.is_some() {
        survey(folder, std::slice::from_ref(path), &mut |item| {
            let differs = item.change.is_visible() && item.change != Change::Deleted;
            dirty |= differs || item.change == Change::Unseen;
            Ok(())
        })?;
    }
    if dirty && !force {
        let message = Some("before a restore".to_string());
        let stats = commit(folder, std::slice::from_ref(path), &CommitOptions { message })?;
        if stats.problems > 0 || stats.unsaved {
            return Err(Error::Refused(format!(
                "{path} has changes that could not be saved first; add --force to lose them"
            )));
        }
    }
    Ok(())
}

/// Writes one version, verified and durable, then gives it its name.
pub fn write_version(folder: &Folder, remotes: &Remotes, version: &Version, to: &Path) -> Result<()> {
    if version.kind == FileKind::Dir {
        return std::fs::create_dir_all(to).map_err(|e| Error::io("creating", to, e));
    }
    if to.file_name().is_none() {
        return Err(Error::Invalid(format!("{} is no file name", to.display())));
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("creating", parent, e))?;
    }
    let aside = folder.temp_dir();
    let place = Place { to, aside: &aside };
    match &version.target {
        Some(target) => replace_link(place, target, version.mtime),
        None => replace_file(place, &mut |file| write_content(folder, remotes, version, file, to)),
    }
}

fn write_content(
    folder: &Folder,
    remotes: &Remotes,
    version: &Version,
    file: &File,
    to: &Path,
) -> Result<()> {
    let mut content = Content::open(remotes, &folder.keys, version.body, version.size)?;
    folder.context.progress.stage("restoring", version.size, true);
    let runs = content.runs().to_vec();
    let mut buffer = Vec::new();
    for (offset, run) in runs {
        folder.context.cancel.check()?;
        if let Run::Data { len, .. } = run {
            buffer.resize(len as usize, 0);
            content.read(offset, &mut buffer)?;
            disk::write_at(file, &buffer, offset, to)?;
        }
        folder.context.progress.advance(run.len());
    }
    file.set_len(version.size).map_err(|e| Error::io("sizing", to, e))?;
    let mode = std::fs::Permissions::from_mode(u32::from(version.mode));
    file.set_permissions(mode).map_err(|e| Error::io("setting the mode of", to, e))?;
    let time = filetime::FileTime::from_unix_time(version.mtime.secs, version.mtime.nanos);
    filetime::set_file_handle_times(file, None, Some(time)).map_err(|e| Error::io("dating", to, e))?;
    disk::sync_file(file, to)
}
