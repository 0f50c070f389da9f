//! A store that is gone for good: what is short of copies without it, and placing that anew.
//!
//! Promises that the store is taken out of the settings only after what can be said about the loss was
//! said, and that what other stores or the tree still have is placed again before anything else is
//! forgotten.

use super::commit::{self, CommitOptions, CommitStats};
use super::config;
use super::folder::Folder;
use super::level::{Finding, LevelOptions, LevelStats, level};
use super::remotes::Remotes;
use super::tiers;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::history::LocalRow;
use crate::model::residency::Residency;

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct LostStats {
    /// What was copied from other stores, and what is still missing.
    pub level: LevelStats,
    /// What was placed again from the tree.
    pub commit: CommitStats,
}

/// Declares a remote gone. `sink` is told of every content that is short without it.
pub fn lost(
    folder: &mut Folder,
    name: &str,
    dry_run: bool,
    sink: &mut dyn FnMut(&Finding) -> Result<()>,
) -> Result<LostStats> {
    if !folder.config.remote.contains_key(name) {
        return Err(Error::Missing(format!("a remote called {name} (see `ddr remote list`)")));
    }
    if let Ok(remotes) = Remotes::open(folder)
        && remotes.online.iter().any(|r| r.name == name)
    {
        return Err(Error::Refused(format!(
            "{name} can be reached, so it is not lost; to empty it, run: ddr tier drain {name}"
        )));
    }
    let configured = folder.config.clone();
    forget(&mut folder.config, name);
    let mut stats = LostStats::default();
    let options = LevelOptions { dry_run, ..LevelOptions::default() };
    if dry_run {
        let remotes = Remotes::open_all(folder)?;
        stats.level = level(folder, &remotes, options, sink)?;
        folder.config = configured;
        return Ok(stats);
    }
    // First, so that a run that is interrupted is continued by the next commit.
    folder.history.set_meta("unsaved", "1")?;
    let file = folder.dir.join("config.toml");
    config::edit_with(&file, |doc| {
        tiers::remove_store(doc, &configured.tier, name)?;
        if let Some(remotes) = doc.get_mut("remote").and_then(|r| r.as_table_like_mut()) {
            remotes.remove(name);
        }
        Ok(())
    })?;
    let remotes = Remotes::open_all(folder)?;
    commit::sync_logs(folder, &remotes)?;
    stats.level = level(folder, &remotes, options, sink)?;
    drop(remotes);
    if folder.tree.is_some() {
        // What only the lost store had may still be whole in the tree.
        stats.commit = commit::commit(folder, &[RelPath::root()], &CommitOptions::default())?;
    }
    Ok(stats)
}

fn forget(config: &mut config::Config, name: &str) {
    config.remote.remove(name);
    for tier in &mut config.tier {
        tier.stores.retain(|s| s != name);
        if let Some(set) = tier.weights.last_mut() {
            set.remove(name);
        }
        tier.copies = tier.copies.map(|c| c.min(tier.stores.len().max(1)));
    }
    config.tier.retain(|t| !t.stores.is_empty());
}

/// Calls `sink` with the rows of every file here that has one of these contents.
pub fn files_of(
    folder: &Folder,
    bodies: &std::collections::HashMap<crate::model::entry::Body, Finding>,
    sink: &mut dyn FnMut(&LocalRow, &Finding) -> Result<()>,
) -> Result<()> {
    folder.history.each_local(
        &RelPath::root(),
        &mut |row| match row.body.and_then(|body| bodies.get(&body)) {
            Some(finding) => sink(&row, finding),
            None => Ok(()),
        },
    )
}

/// Whether the tree itself still has the bytes.
pub fn is_here(row: &LocalRow) -> bool {
    row.residency == Residency::Full
}
