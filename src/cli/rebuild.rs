//! `ddr rebuild`

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::base::id::ContentId;
use crate::base::units::count;
use crate::engine::folder::locate;
use crate::engine::rebuild::rebuild;

/// Arguments of `ddr rebuild`.
#[derive(clap::Args, Debug)]
pub struct RebuildArgs {}

/// Rebuilds and says what it read.
pub fn run(session: &Session, _: &RebuildArgs) -> Result<()> {
    // Whatever was interrupted is mended first, while its record is still there.
    drop(session.write()?);
    let (_, stats) = rebuild(&locate(&session.cwd)?, session.context())?;
    session.terminal.clear();
    let state = ContentId(stats.state).to_string();
    session.out.json(&json!({
        "type": "rebuild", "entries": stats.entries, "stores": stats.stores, "recognised": stats.recognised, "state": state,
    }))?;
    session.out.line(format!(
        "rebuilt history ({}) and the index of {}; {} recognised",
        count(stats.entries, "entry"),
        count(stats.stores, "store"),
        count(stats.recognised, "path")
    ))?;
    session.out.line(format!("state {state}"))
}
