//! `ddr sync`

use serde_json::json;

use super::session::Session;
use super::tier::tell_level;
use crate::base::error::{Error, Result};
use crate::engine::commit::sync_logs;
use crate::engine::level::{LevelOptions, level, settle_behind};
use crate::engine::remotes::Remotes;

/// Arguments of `ddr sync`.
#[derive(clap::Args, Debug)]
pub struct SyncArgs {
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Brings history and contents of all reachable stores level.
pub fn run(session: &Session, args: &SyncArgs) -> Result<()> {
    let mut folder = session.write()?;
    let remotes = Remotes::open(&folder)?;
    remotes.note_offline(&folder);
    if remotes.online.is_empty() {
        return Err(remotes.offline.into_iter().next().map_or_else(no_stores, |(_, e)| e));
    }
    if !args.dry_run {
        sync_logs(&mut folder, &remotes)?;
    }
    let options = LevelOptions { dry_run: args.dry_run, ..LevelOptions::default() };
    let stats = level(&mut folder, &remotes, options, &mut |_| Ok(()))?;
    if !args.dry_run {
        settle_behind(&mut folder, &remotes, &stats)?;
    }
    session.terminal.clear();
    let names: Vec<&str> =
        remotes.online.iter().filter(|r| r.member.is_at_work()).map(|r| r.name.as_str()).collect();
    session.out.json(&json!({ "type": "synced", "stores": names }))?;
    tell_level(session, &stats, args.dry_run)
}

fn no_stores() -> Error {
    Error::Refused(
        "there are no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init".into(),
    )
}
