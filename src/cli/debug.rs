//! `ddr debug`

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::id::ContentId;

/// Facts for tests and bug reports.
#[derive(clap::Subcommand, Debug)]
pub enum DebugCommand {
    /// One hash over everything history knows: equal on peers that know the same
    StateHash,
    /// A file's bytes, read as any program would: tests whether on-demand access is on
    Read {
        /// The file
        path: std::path::PathBuf,
    },
}

/// Prints one of them.
pub fn run(session: &Session, command: &DebugCommand) -> Result<()> {
    match command {
        DebugCommand::StateHash => {
            let folder = session.read()?;
            let hash = ContentId(folder.history.state_hash()?).to_string();
            session.out.json(&json!({ "type": "state-hash", "hash": hash }))?;
            session.out.answer(hash)
        }
        DebugCommand::Read { path } => {
            let bytes = std::fs::read(path).map_err(|e| Error::io("reading", path, e))?;
            session.out.raw(&bytes)
        }
    }
}
