//! Files kept at the guard while a verb turns them into stubs or back.
//!
//! Promises that whoever opens one of them from `take` on waits until it is released, and that a file
//! which ends as a stub is guarded. Without a guard nothing is held, and leases alone keep others out.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::local::guard::{Guard, Hold, MOST_FDS};
use crate::local::root::Root;

/// Who guards a folder, if anybody.
pub fn guard_of(folder: &Folder) -> Option<Arc<Guard>> {
    folder.guard.clone().filter(|guard| guard.serves())
}

const TURN: Duration = Duration::from_millis(20);
/// How long a run waits in all for a guard that is about to come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The same at this moment: a guard may have come since the folder was opened. One that is just being started again is
/// waited for, with a `patience` that this takes from: it may not see what we do meanwhile. An error if there is one
/// that does not talk to us: what we do would not be guarded.
pub fn guard_now(
    known: Option<&Arc<Guard>>,
    folder: FolderId,
    patience: &mut Duration,
) -> Result<Option<Arc<Guard>>> {
    if let Some(guard) = known.filter(|guard| guard.serves()) {
        return Ok(Some(Arc::clone(guard)));
    }
    loop {
        let guard = Guard::connect(folder);
        if let Some(why) = guard.as_ref().and_then(Guard::refusal) {
            return Err(Error::Refused(why.into()));
        }
        let comes = guard.as_ref().map_or_else(Guard::is_restarting, Guard::comes);
        if !comes || patience.is_zero() {
            return Ok(guard.filter(Guard::serves).map(Arc::new));
        }
        std::thread::sleep(TURN);
        *patience = patience.saturating_sub(TURN);
    }
}

/// Held files; dropping it lets all go as stubs, which is always safe.
pub struct Held {
    guard: Option<Arc<Guard>>,
    inodes: Vec<Option<(u64, u64)>>,
    /// Which of them were guarded before.
    guarded: Vec<bool>,
}

impl Held {
    /// Holds the files at these paths; one that is gone is not held.
    pub fn take<'p>(
        guard: Option<&Arc<Guard>>,
        tree: &Root,
        paths: impl Iterator<Item = &'p RelPath>,
    ) -> Result<Self> {
        let Some(guard) = guard else {
            return Ok(Self { guard: None, inodes: Vec::new(), guarded: Vec::new() });
        };
        let mut held = Self { guard: Some(Arc::clone(guard)), inodes: Vec::new(), guarded: Vec::new() };
        let paths: Vec<&RelPath> = paths.collect();
        // Few descriptors at a time.
        for some in paths.chunks(MOST_FDS) {
            if let Err(e) = held.hold(guard, tree, some) {
                // Nothing was done to them yet.
                let guarded = std::mem::take(&mut held.guarded);
                return held.release(|i| guarded.get(i) == Some(&true)).and(Err(e));
            }
        }
        Ok(held)
    }

    fn hold(&mut self, guard: &Guard, tree: &Root, paths: &[&RelPath]) -> Result<()> {
        let files: Vec<Option<OwnedFd>> = paths.iter().map(|path| tree.open_name(path).ok()).collect();
        let inode = |file: &Option<OwnedFd>| {
            let stat = rustix::fs::fstat(file.as_ref()?).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let inodes: Vec<_> = files.iter().map(inode).collect();
        let files: Vec<OwnedFd> = files.into_iter().flatten().collect();
        let mut news = guard.hold(&files)?.into_iter();
        self.guarded.extend(inodes.iter().map(|inode| inode.is_some() && news.next() == Some(false)));
        self.inodes.extend(inodes);
        Ok(())
    }

    /// Whether a file was guarded before, and so is (or was) a stub of its own right.
    pub fn was_guarded(&self, i: usize) -> bool {
        self.guarded.get(i) == Some(&true)
    }

    /// The file of this place in the list whose openers wait at the guard; `None` if nobody's do.
    pub fn file(&self, i: usize) -> Result<Option<Hold<'_>>> {
        match (&self.guard, self.inodes.get(i)) {
            (None, _) => Ok(None),
            (Some(guard), Some(Some(inode))) => Ok(Some(guard.held(*inode))),
            (Some(_), _) => Err(Error::Changed("it was gone for a moment".into())),
        }
    }

    /// Lets all go; those for which `is_stub` (by their place in the list) stay guarded.
    pub fn release(mut self, is_stub: impl Fn(usize) -> bool) -> Result<()> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        let pick = |wanted: bool| -> Vec<(u64, u64)> {
            let all = self.inodes.iter().enumerate();
            all.filter(|(i, _)| is_stub(*i) == wanted).filter_map(|(_, inode)| *inode).collect()
        };
        guard.release(&pick(true), true).and(guard.release(&pick(false), false)).map_err(|e| match e {
            Error::Refused(why) => Error::Refused(format!("{why}; some stubs may be unguarded")),
            e => e,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            let all: Vec<(u64, u64)> = self.inodes.iter().flatten().copied().collect();
            // The guard lets go by itself when this process ends.
            let _ = guard.release(&all, true);
        }
    }
}
