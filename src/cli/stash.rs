//! `ddr stash`

use std::path::PathBuf;

use serde_json::json;

use super::policy;
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::aging::age;
use crate::engine::apply::apply;
use crate::engine::config::NeedGuard;
use crate::engine::folder::Folder;
use crate::engine::level::catch_up;
use crate::engine::policy::plan::plan;
use crate::engine::policy::speed;
use crate::engine::stash::{StashOptions, StashStats, stash};

/// Arguments of `ddr stash`.
#[derive(clap::Args, Debug)]
pub struct StashArgs {
    /// Files and directories (default: what the policy picks; see `ddr policy plan`)
    pub paths: Vec<PathBuf>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Copies to insist on before freeing (default: one on every remote)
    #[arg(long, value_name = "N")]
    pub copies: Option<usize>,
    /// Make stubs even while nothing brings them back when they are opened
    #[arg(long)]
    pub unguarded: bool,
}

/// Stashes and says what was freed.
pub fn run(session: &Session, args: &StashArgs) -> Result<()> {
    if args.paths.is_empty() {
        return by_policy(session, args);
    }
    let mut folder = open(session, args)?;
    let paths = session.paths(&folder, &args.paths)?;
    let options = StashOptions { dry_run: args.dry_run, copies: args.copies, named: paths.clone() };
    let stats = stash(&mut folder, &paths, &options)?;
    if !args.dry_run {
        catch_up(&mut folder)?;
    }
    tell(session, args.dry_run, &stats)
}

fn open(session: &Session, args: &StashArgs) -> Result<Folder> {
    let mut folder = session.relieve(args.dry_run)?;
    if args.unguarded {
        folder.config.stash.guard = NeedGuard::Optional;
    }
    Ok(folder)
}

/// What the policy picks.
fn by_policy(session: &Session, args: &StashArgs) -> Result<()> {
    let mut folder = open(session, args)?;
    let mut plan = plan(&folder)?;
    if args.dry_run {
        let speed = speed::known(&folder.history)?;
        session.terminal.clear();
        policy::tell(session, &mut plan, speed, false)?;
        return super::tier::tell_moved(session, &age(&mut folder, true, None)?, true);
    }
    let done = apply(&mut folder, &mut plan, args.copies)?;
    tell(session, false, &done.stats)?;
    let moved = age(&mut folder, false, None)?;
    super::tier::tell_moved(session, &moved, false)?;
    if done.used > 0 {
        session.out.line(format!("{} used meanwhile, kept here", count(done.used, "file")))?;
    }
    match done.stopped {
        Some(why) => Err(Error::Problems(why)),
        None => Ok(()),
    }
}

fn tell(session: &Session, dry: bool, stats: &StashStats) -> Result<()> {
    session.terminal.clear();
    session.out.json(&json!({
        "type": "stash", "dry_run": dry, "stashed": stats.stashed, "stashed_bytes": stats.stashed_bytes,
        "freed_bytes": stats.freed_bytes, "recorded": stats.commit.recorded, "deleted": stats.commit.deleted,
        "small": stats.small, "pinned": stats.pinned, "already": stats.already, "problems": session.terminal.problem_count(),
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
    if stats.pinned > 0 {
        text += &format!("; {} pinned, kept here", stats.pinned);
    }
    session.out.line(text)
}
