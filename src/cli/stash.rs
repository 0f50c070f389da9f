//! `ddr stash`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::stash::{StashOptions, StashStats, stash};

/// Arguments of `ddr stash`.
#[derive(clap::Args, Debug)]
pub struct StashArgs {
    /// Files and directories
    pub paths: Vec<PathBuf>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Copies to insist on before freeing (default: one on every remote)
    #[arg(long, value_name = "N")]
    pub copies: Option<usize>,
}

/// Stashes and says what was freed.
pub fn run(session: &Session, args: &StashArgs) -> Result<()> {
    if args.paths.is_empty() {
        return Err(Error::Invalid(
            "name what to stash, such as: ddr stash . (choosing by age comes with policies)".into(),
        ));
    }
    let mut folder = session.write()?;
    let paths = session.paths(&folder, &args.paths)?;
    let options = StashOptions { dry_run: args.dry_run, copies: args.copies, named: paths.clone() };
    let stats = stash(&mut folder, &paths, &options)?;
    tell(session, args.dry_run, &stats)
}

fn tell(session: &Session, dry: bool, stats: &StashStats) -> Result<()> {
    session.terminal.clear();
    session.out.json(&json!({
        "type": "stash", "dry_run": dry, "stashed": stats.stashed, "stashed_bytes": stats.stashed_bytes,
        "freed_bytes": stats.freed_bytes, "recorded": stats.commit.recorded, "deleted": stats.commit.deleted,
        "small": stats.small, "already": stats.already, "problems": session.terminal.problem_count(),
    }))?;
    let verb = if dry { "would stash" } else { "stashed" };
    let mut text = format!(
        "{verb} {} ({}), freeing {}",
        count(stats.stashed, "file"),
        size(stats.stashed_bytes),
        size(stats.freed_bytes)
    );
    if stats.already > 0 {
        text += &format!("; {} already", count(stats.already, "stub"));
    }
    if stats.small > 0 {
        text += &format!("; {} placed but small, kept here", stats.small);
    }
    session.out.line(text)
}
