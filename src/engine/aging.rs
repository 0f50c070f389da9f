//! Contents that move on as they age: from tier to tier, as rules and `keep` of the policy say.
//!
//! Promises what `engine::level` promises: the next copy is proven before the near one is let go. Opens
//! no store where nothing could ever move, so that it can be called often.

use std::time::Duration;

use super::commit::sync_logs;
use super::folder::Folder;
use super::level::{LevelOptions, LevelStats, level, settle_behind};
use super::policy::aging::Aging;
use super::remotes::Remotes;
use crate::base::error::Result;

/// Moves on what is due; with `limit`, until so many stored bytes are written or so much time is gone.
pub fn age(folder: &mut Folder, dry_run: bool, limit: Option<(u64, Duration)>) -> Result<LevelStats> {
    if !Aging::of(folder)?.moves(folder) {
        return Ok(LevelStats::default());
    }
    let remotes = Remotes::open(folder)?;
    if !dry_run {
        sync_logs(folder, &remotes)?;
    }
    let options = LevelOptions { dry_run, moves: true, limit };
    let stats = level(folder, &remotes, options, &mut |_| Ok(()))?;
    if !dry_run {
        settle_behind(folder, &remotes, &stats)?;
    }
    Ok(stats)
}
