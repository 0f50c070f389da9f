//! What the policy needs to know of files and of the disk, as this machine tells it.
//!
//! Promises not to read any content, and to look up when a file was first seen only for files
//! dated in the future.

use super::super::folder::Folder;
use super::super::survey::{Change, Item};
use crate::base::error::{Error, Result};
use crate::base::units::Time;
use crate::history::Used;
use crate::local::stat::{FileType, Stat};
use crate::model::policy::bursts::Bursts;
use crate::model::policy::last_use::{LastUse, Stamps};
use crate::model::policy::rules::{Facts, Policy};
use crate::model::policy::value::Vessel;
use crate::model::policy::water::Room;
use crate::model::residency::Residency;

/// How the folder's file system keeps access times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessTimes {
    /// Every read is written down.
    Every,
    /// At most once a day, and after a change (`relatime`).
    Daily,
    /// Reads leave nothing (`noatime`).
    Never,
}

impl AccessTimes {
    /// Those of a folder.
    pub fn of(folder: &Folder) -> Result<Self> {
        use rustix::fs::StatVfsMountFlags as Flags;
        let flags = statvfs(folder)?.f_flag;
        Ok(match (flags.contains(Flags::NOATIME), flags.contains(Flags::RELATIME)) {
            (true, _) => Self::Never,
            (false, true) => Self::Daily,
            (false, false) => Self::Every,
        })
    }

    /// What a reader of a last use should know.
    pub fn caveat(self) -> Option<&'static str> {
        match self {
            Self::Every => None,
            Self::Daily => Some("reads are seen to the day only: the file system is mounted relatime"),
            Self::Never => {
                Some("reads leave no trace: the file system is mounted noatime, so only changes count")
            }
        }
    }
}

fn statvfs(folder: &Folder) -> Result<rustix::fs::StatVfs> {
    let tree = folder.tree()?;
    rustix::fs::fstatvfs(tree.as_ref()).map_err(|e| Error::io("measuring", tree.path(), e))
}

/// The room that the policy's water levels are about, if it has any. For a budget `used` is zero: the
/// files themselves tell.
pub fn room(folder: &Folder, policy: &Policy) -> Result<Option<Room>> {
    match policy.water.map(|water| water.of) {
        None => Ok(None),
        Some(Vessel::Budget(total)) => Ok(Some(Room { total, used: 0 })),
        Some(Vessel::Disk) => Ok(Some(disk_room(&statvfs(folder)?))),
    }
}

/// The room of a whole file system.
pub fn disk_room(fs: &rustix::fs::StatVfs) -> Room {
    let used = fs.f_blocks.saturating_sub(fs.f_bfree);
    // What is reserved for root is no room for files: as `df` counts.
    let total = used.saturating_add(fs.f_bavail);
    Room { total: total * fs.f_frsize, used: used * fs.f_frsize }
}

/// A regular file as the survey saw it, and the times it was used.
pub struct File<'i> {
    /// What was seen.
    pub item: &'i Item,
    /// What the kernel says.
    pub stat: &'i Stat,
    /// When it was last used.
    pub last_use: LastUse,
}

impl<'i> File<'i> {
    /// Takes a survey's item; `None` for what is no regular file, or gone.
    pub fn new(
        folder: &Folder,
        item: &'i Item,
        seen: Option<Used>,
        bursts: &Bursts,
        now: Time,
    ) -> Result<Option<Self>> {
        let Some(stat) = item.stat.as_ref().filter(|stat| stat.kind == FileType::File) else {
            return Ok(None);
        };
        let first_seen = match stat.mtime > now {
            true => first_seen(folder, item)?.unwrap_or(stat.ctime),
            false => stat.ctime,
        };
        let telling = |at: &Time| !bursts.cover(*at);
        let observed = seen.and_then(|seen| seen.telling(bursts));
        let atime = Some(stat.atime).filter(telling);
        let stamps = Stamps { observed, atime, mtime: stat.mtime, first_seen };
        Ok(Some(Self { item, stat, last_use: LastUse::of(&stamps, now) }))
    }

    /// Whether it is a stub.
    pub fn is_stub(&self) -> bool {
        self.item.change != Change::Modified
            && self.item.row.as_ref().is_some_and(|row| row.residency == Residency::Stub)
    }

    /// Whether its content is recorded, and hence on the stores.
    pub fn is_placed(&self) -> bool {
        self.item.change == Change::Same && self.item.row.as_ref().is_some_and(|row| row.body.is_some())
    }

    /// Bytes it takes on the disk.
    pub fn local(&self) -> u64 {
        self.stat.blocks * 512
    }

    /// What the policy judges.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            path: &self.item.path,
            size: self.stat.size,
            local: self.local(),
            links: self.stat.nlink,
            stub: self.is_stub(),
            last_use: self.last_use,
        }
    }
}

/// When the version that is there was recorded.
fn first_seen(folder: &Folder, item: &Item) -> Result<Option<Time>> {
    let Some(row) = item.row.as_ref().filter(|_| item.change == Change::Same) else { return Ok(None) };
    let versions = folder.history.versions(&item.path)?;
    Ok(versions.iter().find(|past| past.dot == row.dot).map(|past| past.entry.time()))
}
