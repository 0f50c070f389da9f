//! `.ddrignore` files: gitignore syntax, nested, the deepest matching file decides.
//!
//! Promises that a directory without such a file costs nothing. Knows no walk; the scan says which
//! directories to load and leave.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::read::read_full_at;
use super::stat::{FileType, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::format::stub::looks_like_stub;

/// Name of the files.
pub const IGNORE_FILE: &[u8] = b".ddrignore";
const MAX_LEN: u64 = 1 << 20;

/// The rules in force at one place of the tree.
#[derive(Default)]
pub(super) struct Ignores(Vec<Rules>);

struct Rules {
    /// Depth of the directory that holds them.
    depth: usize,
    /// Bytes of that directory's path and the slash after it.
    prefix: usize,
    matcher: Gitignore,
}

impl Ignores {
    /// Loads the directory's file, if there is one; lines that make no sense are reported in the
    /// error, the others are in force all the same.
    pub fn enter(&mut self, dir: &OwnedFd, path: &RelPath, depth: usize) -> Result<()> {
        let Some(bytes) = load(dir)? else { return Ok(()) };
        let mut builder = GitignoreBuilder::new(".");
        let mut bad = None;
        for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if let Err(e) = builder.add_line(None, &String::from_utf8_lossy(line)) {
                bad.get_or_insert(Error::Invalid(format!("line {}: {e}", i + 1)));
            }
        }
        let matcher = builder.build().map_err(|e| Error::Invalid(e.to_string()))?;
        let prefix = if path.is_root() { 0 } else { path.as_bytes().len() + 1 };
        self.0.push(Rules { depth, prefix, matcher });
        bad.map_or(Ok(()), Err)
    }

    /// Forgets the rules of directories this deep and deeper.
    pub fn leave(&mut self, depth: usize) {
        while self.0.last().is_some_and(|rules| rules.depth >= depth) {
            self.0.pop();
        }
    }

    /// Whether a path is ignored, given that its parents are not.
    pub fn ignored(&self, path: &RelPath, is_dir: bool) -> bool {
        let verdict = self.0.iter().rev().find_map(|rules| {
            let below = Path::new(OsStr::from_bytes(&path.as_bytes()[rules.prefix..]));
            match rules.matcher.matched(below, is_dir) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        });
        verdict.unwrap_or(false)
    }
}

fn load(dir: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let fail = |e: std::io::Error| Error::io("reading", OsStr::from_bytes(IGNORE_FILE), e);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, IGNORE_FILE, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(fail(e.into())),
    };
    let stat = Stat::of(&file).map_err(fail)?;
    if stat.kind != FileType::File || stat.size > MAX_LEN {
        return Err(Error::Invalid("not a regular file of at most 1 MiB".into()));
    }
    let mut bytes = vec![0; stat.size as usize];
    let len = read_full_at(&file, &mut bytes, 0).map_err(fail)?;
    bytes.truncate(len);
    if looks_like_stub(&bytes) {
        return Err(Error::Invalid("its rules are not here: it is a stub, check it out first".into()));
    }
    Ok(Some(bytes))
}
