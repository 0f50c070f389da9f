//! Whose worker is to fill a file, where several may.
//!
//! Promises one answer for one file, as long as no worker comes or goes. Knows neither clients nor events.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use super::desk::{Home, Inode};
use super::device::inode_of;

/// Whose worker is to fill a client's file, of those that may: its own, if it is one; else that of the place
/// where it lies. Root works on anybody's folder: the file's owner's, if he has one there; else root's; else
/// whose the folder is.
pub fn home_of(
    fits: &[Home],
    own: Option<usize>,
    owner: u32,
    lies: impl FnOnce() -> Option<usize>,
) -> Option<Home> {
    if fits.len() < 2 {
        return fits.first().copied();
    }
    let place = own.or_else(lies);
    let at = |home: &Home| Some(home.2) == place;
    fits.iter()
        .copied()
        .max_by_key(|home| (own.is_some() && at(home), home.0 == owner, home.0 == 0, at(home)))
}

/// The directories above a file, the nearest first, as the process that has it sees them: it may have come through a
/// mount, or a namespace, of its own.
pub fn above(process: i32, file: BorrowedFd) -> impl Iterator<Item = Inode> + use<> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
    let dirs: Vec<PathBuf> = name.ancestors().skip(1).map(PathBuf::from).collect();
    let seen = PathBuf::from(format!("/proc/{process}/root"));
    dirs.into_iter().filter_map(move |dir| {
        let stat = rustix::fs::lstat(seen.join(dir.strip_prefix("/").ok()?)).ok()?;
        Some(inode_of(&stat))
    })
}

/// In which place a file lies, by what is above it.
pub fn place_of(above: impl IntoIterator<Item = Inode>, roots: &HashMap<usize, Inode>) -> Option<usize> {
    let mut above = above.into_iter();
    above.find_map(|dir| roots.iter().find(|(_, root)| **root == dir).map(|(place, _)| *place))
}
