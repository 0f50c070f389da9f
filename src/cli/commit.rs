//! `ddr commit`

use std::path::PathBuf;

use serde_json::json;

use super::output::{WARN, styled};
use super::session::Session;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::{count, size};
use crate::engine::commit::{CommitOptions, commit};
use crate::engine::level::catch_up;
use crate::engine::survey::survey;

/// Arguments of `ddr commit`.
#[derive(clap::Args, Debug)]
pub struct CommitArgs {
    /// Files and directories (default: the whole folder)
    pub paths: Vec<PathBuf>,
    /// A word about this version
    #[arg(short, long)]
    pub message: Option<String>,
    /// Only show what would be recorded
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Records changes and says what they were.
pub fn run(session: &Session, args: &CommitArgs) -> Result<()> {
    let mut folder = session.write()?;
    let paths = match args.paths.is_empty() {
        true => vec![RelPath::root()],
        false => session.paths(&folder, &args.paths)?,
    };
    if args.dry_run {
        return survey(&folder, &paths, &mut |item| match item.change.is_visible() {
            true => super::status::tell_change(session, &item),
            false => Ok(()),
        });
    }
    let stats = commit(&mut folder, &paths, &CommitOptions { message: args.message.clone() })?;
    catch_up(&mut folder)?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "commit", "recorded": stats.recorded, "deleted": stats.deleted, "moved": stats.moved,
        "read_bytes": stats.read_bytes, "unsaved": stats.unsaved, "problems": session.terminal.problem_count(),
    }))?;
    if stats.recorded + stats.deleted == 0 && stats.read_bytes > 0 {
        return session.out.line(format!("nothing new to record ({} read)", size(stats.read_bytes)));
    }
    if stats.recorded + stats.deleted == 0 {
        return session.out.line("nothing to record");
    }
    let mut text = format!("recorded {} ({} read)", count(stats.recorded, "path"), size(stats.read_bytes));
    if stats.deleted > 0 {
        text += &format!(", {} gone ({} moved)", stats.deleted, stats.moved);
    }
    session.out.line(text)?;
    if stats.unsaved {
        session.out.line(styled(
            WARN,
            "no store took their contents: these versions are unsaved until the next commit",
        ))?;
    }
    Ok(())
}
