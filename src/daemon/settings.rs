//! What a folder's `config.toml` and policy mean for the daemon, read when they change.
//!
//! Promises that a file that is not right stops nothing: the last right settings stay in force, and a
//! policy that cannot be read stops only what goes by it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::triggers::Every;
use crate::base::error::Result;
use crate::engine::config::RemoteConfig;
use crate::engine::folder::{Access, Context, Folder};
use crate::engine::policy::aging::Aging;
use crate::engine::policy::{self, facts::disk_room};
use crate::engine::room::Measured;
use crate::model::policy::doc::Do;
use crate::model::policy::value::{Age, Vessel};
use crate::model::policy::water::{Room, Water};
use crate::peer::url::Url;

/// Unless configured.
const SETTLE: Duration = Duration::from_secs(10);
const RESCAN: Duration = Duration::from_secs(3600);
const RESCAN_UNWATCHED: Duration = Duration::from_secs(300);
const CONTACT: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

/// Settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a change rests before it is committed.
    pub settle: Duration,
    /// How often the tree is looked at where all of it is watched, and where not.
    pub rescan: (Duration, Duration),
    /// All other periods.
    pub every: Every,
    /// Files in a row that may be opened before it tells nothing of use.
    pub burst: usize,
    /// Bytes of the stores that are read in a day.
    pub scrub: u64,
    /// Directories that are watched at most.
    pub watches: u64,
    /// Whether other file systems below the root belong to the tree.
    pub across: bool,
    /// High and low water.
    pub water: Option<Water>,
    /// Why nothing goes by the policy.
    pub flaw: Option<String>,
    /// Stores that are directories of this machine.
    pub places: Vec<(String, PathBuf)>,
}

impl Settings {
    /// Reads them.
    pub fn load(dir: &Path, context: Context) -> Result<Self> {
        let folder = Folder::open(dir, Access::Read, context)?;
        let config = &folder.config;
        let daemon = &config.daemon;
        let (policy, flaw) = match policy::load(&folder) {
            Ok(force) => (Some(force.policy), None),
            Err(e) => (None, Some(e.to_string())),
        };
        let period = policy.as_ref().map_or(DAY, |policy| policy.every.0);
        let or = |age: Option<Age>, default| age.map_or(default, |age| age.0);
        let has_stores = !config.remote.is_empty();
        let only = |yes: bool, period: Duration| yes.then_some(period);
        let stashes = policy.iter().flat_map(|p| &p.rules).any(|rule| rule.act == Do::Stash);
        let keeps = Aging::of(&folder).is_ok_and(|aging| aging.moves(&folder));
        let scrub = daemon.scrub()?;
        let rescan = or(daemon.rescan, RESCAN);
        let every = Every {
            rescan,
            contact: only(has_stores, or(daemon.contact, CONTACT)),
            stash: only(has_stores && stashes, period),
            moves: only(has_stores && keeps, period),
            gc: Some(or(daemon.gc, DAY)),
            scrub: only(scrub > 0, DAY),
        };
        let place = |(name, remote): (&String, &RemoteConfig)| match remote.place() {
            Ok(Url::Dir(path)) => Some((name.clone(), path)),
            _ => None,
        };
        Ok(Self {
            settle: or(daemon.settle, SETTLE),
            rescan: (rescan, or(daemon.rescan_unwatched, RESCAN_UNWATCHED)),
            every,
            burst: config.recall.burst(),
            scrub,
            watches: daemon.watches.unwrap_or(u64::MAX),
            across: config.scan.cross_devices,
            water: policy.and_then(|policy| policy.water).filter(|_| has_stores),
            flaw,
            places: config.remote.iter().filter_map(place).collect(),
        })
    }

    /// Bytes up to which contents may be brought back, where there is a budget: between high water and all
    /// of it, so that what is written meanwhile has its part.
    pub fn brim(&self) -> Option<u64> {
        let water = self.water?;
        match water.of {
            Vessel::Budget(total) => Some(total.midpoint(water.high.of(total).min(total))),
            Vessel::Disk => None,
        }
    }

    /// Whether the disk is above high water; or the tree, by what it had when it was looked at last and
    /// what the disk has taken since, whoever took it: then it is looked at again.
    pub fn is_over(&self, root: &Path, known: Option<Measured>) -> bool {
        let (Some(water), Ok(fs)) = (self.water, rustix::fs::statvfs(root)) else { return false };
        let disk = disk_room(&fs);
        let room = match (water.of, known) {
            (Vessel::Disk, _) => disk,
            (Vessel::Budget(total), Some(known)) => Room { total, used: known.now(disk.used) },
            (Vessel::Budget(_), None) => return false,
        };
        water.excess(&room) > 0
    }
}

/// What tells that a folder's settings changed.
pub fn stamp(dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(dir.join("config.toml")).and_then(|meta| meta.modified()).ok()
}
