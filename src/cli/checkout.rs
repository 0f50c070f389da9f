//! `ddr checkout`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{count, parse_size, size};
use crate::engine::checkout::checkout;
use crate::engine::folder::Folder;
use crate::engine::related::related;

/// Arguments of `ddr checkout`.
#[derive(clap::Args, Debug)]
pub struct CheckoutArgs {
    /// Files and directories (default: here)
    pub paths: Vec<PathBuf>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Also bring what belongs to these files: same stem, numbered siblings, same extension, same directory
    #[arg(long)]
    pub related: bool,
    /// Bytes that --related may bring
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "related")]
    pub budget: String,
}

/// What comes along, each with why.
fn neighbours(
    session: &Session,
    folder: &Folder,
    args: &CheckoutArgs,
    paths: &[RelPath],
) -> Result<Vec<RelPath>> {
    if args.paths.is_empty() {
        return Err(Error::Invalid("--related needs the files whose neighbours are wanted".into()));
    }
    let found = related(folder, paths, parse_size(&args.budget)?)?;
    for neighbour in &found {
        let (path, why) = (neighbour.path.to_string(), neighbour.kinship.words());
        session
            .out
            .json(&json!({ "type": "related", "path": path, "bytes": neighbour.size, "because": why }))?;
        session.out.line(format!("also {path} ({}): {why}", size(neighbour.size)))?;
    }
    Ok(found.into_iter().map(|neighbour| neighbour.path).collect())
}

/// Fills stubs and says how many.
pub fn run(session: &Session, args: &CheckoutArgs) -> Result<()> {
    let mut folder = session.write()?;
    let mut paths = session.paths(&folder, &args.paths)?;
    if args.related {
        paths.extend(neighbours(session, &folder, args, &paths)?);
    }
    let stats = checkout(&mut folder, &paths, args.dry_run)?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "checkout", "dry_run": args.dry_run, "filled": stats.filled,
        "filled_bytes": stats.filled_bytes, "problems": session.terminal.problem_count(),
    }))?;
    let verb = if args.dry_run { "would check out" } else { "checked out" };
    session.out.line(format!("{verb} {} ({})", count(stats.filled, "file"), size(stats.filled_bytes)))
}
