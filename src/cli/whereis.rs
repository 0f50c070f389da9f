//! `ddr whereis`

use std::path::PathBuf;

use serde_json::json;

use super::output::{WARN, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::size;
use crate::engine::remotes::Remotes;
use crate::format::seal::Opener;
use crate::model::residency::Residency;
use crate::store::Store;

/// Arguments of `ddr whereis`.
#[derive(clap::Args, Debug)]
pub struct WhereisArgs {
    /// Files
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

/// Every store, and whether it has the whole content.
pub fn run(session: &Session, args: &WhereisArgs) -> Result<()> {
    let folder = session.read()?;
    let remotes = Remotes::open_all(&folder)?;
    let mut opener = Opener::new(&folder.keys)?;
    for path in session.paths(&folder, &args.paths)? {
        let row = folder.history.local(&path)?.ok_or_else(|| Error::Missing(format!("{path} in history")))?;
        let Some(content) = row.content else {
            return Err(Error::Invalid(format!("{path} is no regular file")));
        };
        let local = if row.residency == Residency::Stub { "stub" } else { "full" };
        session.out.answer(format!("{path}: {}, {local} here", size(row.size)))?;
        session.out.answer(format!("  content {content}"))?;
        let records = row.body.map(|body| remotes.records_of(body, row.size, &mut opener)).transpose();
        let mut copies = Vec::new();
        for remote in &remotes.online {
            let whole = match &records {
                Ok(Some(ids)) => remote.packs.has(ids)?.into_iter().all(|has| has),
                Ok(None) => true,
                Err(_) => false,
            };
            if whole {
                copies.push(remote.name.clone());
            }
            let mark = if whole { "has it".to_string() } else { styled(WARN, "does not have it") };
            session.out.answer(format!("  {} {mark}", remote.name))?;
        }
        for (name, _) in &remotes.offline {
            session.out.answer(format!("  {name} is offline"))?;
        }
        session.out.json(&json!({
            "type": "whereis", "path": path.to_string(), "content": content.to_string(), "residency": local, "stores": copies,
        }))?;
    }
    Ok(())
}
