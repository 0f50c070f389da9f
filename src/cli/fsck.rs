//! `ddr fsck`

use serde_json::json;

use super::output::{ERROR, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::base::units::{count, size};
use crate::engine::fsck::{FsckOptions, FsckStats, fsck};

/// Arguments of `ddr fsck`.
#[derive(clap::Args, Debug)]
pub struct FsckArgs {
    /// Read and hash every byte, not only names and trailers
    #[arg(long)]
    pub read_data: bool,
    /// Copy what is whole out of damaged objects, fetch the rest from other stores; deletes nothing
    #[arg(long)]
    pub repair: bool,
}

/// Checks and says what is damaged; exit code 5 if anything still is, 13 if a store could not be looked at.
pub fn run(session: &Session, args: &FsckArgs) -> Result<()> {
    let mut folder = session.write()?;
    let options = FsckOptions { read_data: args.read_data, repair: args.repair };
    let (all, offline) = fsck(&mut folder, &options)?;
    session.terminal.clear();
    let mut bad = 0;
    for stats in &all {
        tell(session, stats)?;
        bad += stats.open + stats.missing;
    }
    if let Some(error) = offline {
        if bad == 0 {
            return Err(error);
        }
        session.terminal.note(&error.to_string());
    }
    if bad == 0 {
        return session.out.line(if args.read_data {
            "everything is whole"
        } else {
            "names and trailers are whole"
        });
    }
    Err(Error::Damaged(count(bad, "problem")))
}

fn tell(session: &Session, stats: &FsckStats) -> Result<()> {
    session.out.json(&json!({
        "type": "fsck", "store": stats.store, "objects": stats.objects, "read_bytes": stats.read_bytes,
        "damaged": stats.damaged.iter().map(|(n, e)| json!({ "object": n, "error": e.to_string() })).collect::<Vec<_>>(),
        "open": stats.open, "missing": stats.missing, "repaired": stats.repaired, "quarantined": stats.quarantined,
    }))?;
    for (name, error) in &stats.damaged {
        session.out.answer(format!("{}: {}", styled(ERROR, name), error))?;
    }
    let mut text =
        format!("{}: {}, {} read", stats.store, count(stats.objects, "object"), size(stats.read_bytes));
    if !stats.damaged.is_empty() {
        text += &format!(", {} damaged", stats.damaged.len());
    }
    if stats.missing > 0 {
        text += &format!(", {} of history not whole here", count(stats.missing, "content"));
    }
    if stats.repaired + stats.quarantined > 0 {
        text += &format!(", {} put back, {} to quarantine", stats.repaired, stats.quarantined);
    }
    session.out.line(text)
}
