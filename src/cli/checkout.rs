//! `ddr checkout`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::base::units::{count, size};
use crate::engine::checkout::checkout;

/// Arguments of `ddr checkout`.
#[derive(clap::Args, Debug)]
pub struct CheckoutArgs {
    /// Files and directories (default: here)
    pub paths: Vec<PathBuf>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Fills stubs and says how many.
pub fn run(session: &Session, args: &CheckoutArgs) -> Result<()> {
    let mut folder = session.write()?;
    let paths = session.paths(&folder, &args.paths)?;
    let stats = checkout(&mut folder, &paths, args.dry_run)?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "checkout", "dry_run": args.dry_run, "filled": stats.filled,
        "filled_bytes": stats.filled_bytes, "problems": session.terminal.problem_count(),
    }))?;
    let verb = if args.dry_run { "would check out" } else { "checked out" };
    session.out.line(format!("{verb} {} ({})", count(stats.filled, "file"), size(stats.filled_bytes)))
}
