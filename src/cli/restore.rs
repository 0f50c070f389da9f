//! `ddr restore`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::session::Session;
use super::session::resolve;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{Time, count, size};
use crate::engine::folder::Folder;
use crate::engine::restore::{RestoreOptions, restore};
use crate::engine::restore_at::{AtOptions, restore_at};
use crate::engine::when::clock;

/// Arguments of `ddr restore`.
#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    /// The file, with the number that `ddr history PATH` shows: PATH#3 (default: the newest there was);
    /// with --at any number of files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// As it was at this time: 2d (ago), 2026-11-24, '2026-11-24 10:00'; what was not there then stays
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Write it there instead
    #[arg(long, value_name = "DEST")]
    pub to: Option<PathBuf>,
    /// Replace what stands at the destination
    #[arg(long)]
    pub force: bool,
    /// Only show what would be written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Restores versions.
pub fn run(session: &Session, args: &RestoreArgs) -> Result<()> {
    let mut folder = session.write()?;
    match &args.at {
        Some(at) => as_of(session, &mut folder, args, at),
        None => args.paths.iter().try_for_each(|path| one(session, &mut folder, args, path)),
    }
}

/// Everything at and below some paths, as it was.
fn as_of(session: &Session, folder: &mut Folder, args: &RestoreArgs, at: &str) -> Result<()> {
    if args.to.is_none() && folder.tree.is_none() {
        return Err(Error::Invalid("a bare peer has no files; say where to with --to DEST".into()));
    }
    let paths: Vec<PathBuf> = args.paths.iter().map(PathBuf::from).collect();
    let paths = session.paths(folder, &paths)?;
    let options = AtOptions {
        clock: clock(folder, at, Time::now())?,
        name: at.to_string(),
        to: args.to.as_ref().map(|to| session.cwd.join(to)),
        force: args.force,
        dry_run: args.dry_run,
    };
    let verb = if args.dry_run { "would restore" } else { "restored" };
    let stats = restore_at(folder, &paths, &options, &mut |path, then, to| {
        session.out.json(&json!({
            "type": "restore", "path": path.to_string(), "n": then.n, "to": to.display().to_string(),
            "size": then.version.size, "dry_run": args.dry_run,
        }))?;
        if args.dry_run {
            session.out.line(format!("would restore {path}#{} ({})", then.n, size(then.version.size)))?;
        }
        Ok(())
    })?;
    session.terminal.clear();
    session.out.line(format!(
        "{verb} {} ({}) as of {at}; {} as they were",
        count(stats.written, "file"),
        size(stats.bytes),
        stats.same
    ))
}

fn one(session: &Session, folder: &mut Folder, args: &RestoreArgs, arg: &OsStr) -> Result<()> {
    let (path, number) = split(arg)?;
    let (path, number) = meant(session, folder, arg, path, number)?;
    let to = args.to.as_ref().map(|to| destination(&session.cwd.join(to), path.name()));
    if to.is_none() && folder.tree.is_none() {
        return Err(Error::Invalid("a bare peer has no files; say where to with --to DEST".into()));
    }
    let options = RestoreOptions { number, to, force: args.force, dry_run: args.dry_run };
    let done = restore(folder, &path, &options)?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "restore", "path": path.to_string(), "n": done.number, "to": done.to.display().to_string(),
        "size": done.version.size, "dry_run": args.dry_run,
    }))?;
    let verb = if args.dry_run { "would restore" } else { "restored" };
    session.out.line(format!(
        "{verb} {path}#{} ({}) to {}",
        done.number,
        size(done.version.size),
        done.to.display()
    ))
}

/// The path and number that are meant: `a#2` may be version 2 of `a`, or a file of that name.
fn meant(
    session: &Session,
    folder: &Folder,
    arg: &OsStr,
    path: PathBuf,
    number: Option<u64>,
) -> Result<(RelPath, Option<u64>)> {
    let path = session.paths(folder, &[path])?.remove(0);
    if number.is_some() && folder.history.versions(&path)?.is_empty() {
        let whole = session.paths(folder, &[PathBuf::from(arg)])?.remove(0);
        if !folder.history.versions(&whole)?.is_empty() {
            return Ok((whole, None));
        }
    }
    Ok((path, number))
}

/// Where to write: a directory gets the file under its own name; a link is replaced, not followed.
fn destination(to: &Path, name: &[u8]) -> PathBuf {
    match (to.is_dir(), to.parent(), to.file_name()) {
        (false, Some(parent), Some(last)) => resolve(parent).join(last),
        _ => resolve(to).join(OsStr::from_bytes(name)),
    }
}

/// Splits `PATH#N`; a name that merely contains `#` stays whole.
fn split(arg: &OsStr) -> Result<(PathBuf, Option<u64>)> {
    let bytes = arg.as_bytes();
    let at = bytes.iter().rposition(|b| *b == b'#');
    let number = at.and_then(|at| std::str::from_utf8(&bytes[at + 1..]).ok()?.parse::<u64>().ok());
    match (at, number) {
        (_, Some(0)) => Err(Error::Invalid("versions are numbered from 1".into())),
        (Some(at), Some(n)) => Ok((PathBuf::from(OsStr::from_bytes(&bytes[..at])), Some(n))),
        _ => Ok((PathBuf::from(arg), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_after_the_last_hash_is_a_version() {
        let of = |s: &str| split(OsStr::new(s)).expect("valid");
        assert_eq!(of("a#3"), (PathBuf::from("a"), Some(3)));
        assert_eq!(of("a#b"), (PathBuf::from("a#b"), None));
        assert_eq!(of("a#1#2"), (PathBuf::from("a#1"), Some(2)));
        assert!(split(OsStr::new("a#0")).is_err());
    }
}
