//! `ddr pin` and `ddr unpin`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::{count, size};
use crate::engine::checkout::checkout;
use crate::engine::pin::{pin, unpin};

/// Arguments of `ddr pin`.
#[derive(clap::Args, Debug)]
pub struct PinArgs {
    /// Files and directories; none lists what is pinned
    pub paths: Vec<PathBuf>,
    /// Leave stubs as they are instead of bringing their content
    #[arg(long)]
    pub no_checkout: bool,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `ddr unpin`.
#[derive(clap::Args, Debug)]
pub struct UnpinArgs {
    /// Files and directories: every pin at and below them goes
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Pins, and brings the content.
pub fn run_pin(session: &Session, args: &PinArgs) -> Result<()> {
    if args.paths.is_empty() {
        return list(session);
    }
    let mut folder = session.write()?;
    let paths = session.paths(&folder, &args.paths)?;
    let before = folder.config.pins()?;
    let new = match args.dry_run {
        true => paths.iter().filter(|path| !before.cover(path)).cloned().collect(),
        false => pin(&mut folder, &paths)?,
    };
    for path in &paths {
        let said = match (new.contains(path), args.dry_run) {
            (true, true) => format!("would pin {path}"),
            (true, false) => format!("pinned {path}"),
            _ => format!("{path} is pinned already"),
        };
        session.out.json(&json!({ "type": "pin", "path": path.to_string(), "new": new.contains(path), "dry_run": args.dry_run }))?;
        session.out.line(said)?;
    }
    if args.no_checkout {
        return Ok(());
    }
    let stats = checkout(&mut folder, &paths, args.dry_run)?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "checkout", "dry_run": args.dry_run, "filled": stats.filled, "filled_bytes": stats.filled_bytes,
        "problems": session.terminal.problem_count(),
    }))?;
    let verb = if args.dry_run { "would check out" } else { "checked out" };
    match stats.filled {
        0 => Ok(()),
        n => session.out.line(format!("{verb} {} ({})", count(n, "file"), size(stats.filled_bytes))),
    }
}

/// Removes pins; files stay as they are.
pub fn run_unpin(session: &Session, args: &UnpinArgs) -> Result<()> {
    let mut folder = session.write()?;
    let paths = session.paths(&folder, &args.paths)?;
    let gone: Vec<RelPath> = match args.dry_run {
        true => {
            let pins = folder.config.pins()?;
            pins.iter().filter(|pin| paths.iter().any(|p| pin.is_under(p))).cloned().collect()
        }
        false => unpin(&mut folder, &paths)?,
    };
    let verb = if args.dry_run { "would unpin" } else { "unpinned" };
    gone.iter().try_for_each(|path| {
        session.out.json(&json!({ "type": "unpin", "path": path.to_string(), "dry_run": args.dry_run }))?;
        session.out.line(format!("{verb} {path}"))
    })
}

fn list(session: &Session) -> Result<()> {
    let folder = session.read()?;
    let pins = folder.config.pins()?;
    for path in pins.iter() {
        let there = path.is_root() || folder.tree()?.stat(path)?.is_some();
        session.out.json(&json!({ "type": "pin", "path": path.to_string(), "there": there }))?;
        session.out.answer(format!("{path}{}", if there { "" } else { " (nothing is there)" }))?;
    }
    if pins.is_empty() { session.out.line("nothing is pinned; pin with: ddr pin PATH") } else { Ok(()) }
}
