//! `ddr whereis`

use std::path::PathBuf;

use serde_json::json;

use super::output::{WARN, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::base::path::RelPath;
use crate::base::units::{Time, size};
use crate::engine::commit::row_version;
use crate::engine::folder::Folder;
use crate::engine::remotes::{OWN, Remote, Remotes};
use crate::engine::survey::row_of;
use crate::format::seal::Opener;
use crate::history::LocalRow;
use crate::model::entry::Version;
use crate::model::residency::Residency;
use crate::model::version::winner;
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
        let row = row_of(&folder, &path)?;
        let local = match &row {
            Some(row) if row.residency == Residency::Stub => "stub",
            Some(_) => "full",
            None => "not",
        };
        let version = current(&folder, &path, row.as_ref())?;
        let Some(content) = version.content else {
            return Err(Error::Invalid(format!("{path} is no regular file")));
        };
        session.out.answer(format!("{path}: {}, {local} here", size(version.size)))?;
        session.out.answer(format!("  content {content}"))?;
        let records =
            version.body.map(|body| remotes.records_of(body, version.size, &mut opener)).transpose();
        let mut copies = Vec::new();
        let mut details = Vec::new();
        // The folder's own store beside remotes keeps logs, and only by chance contents.
        let beside = |r: &&Remote| r.name == OWN && !folder.config.remote.is_empty();
        for remote in &remotes.online {
            let whole = match &records {
                Ok(Some(ids)) => remote.packs.has(ids)?.into_iter().all(|has| has),
                Ok(None) => true,
                Err(_) => false,
            };
            if !whole && beside(&remote) {
                continue;
            }
            if whole {
                copies.push(remote.name.clone());
            }
            let mark = if whole { "has it".to_string() } else { styled(WARN, "does not have it") };
            let tier =
                folder.config.tier.get(remote.tier).map(|t| format!("{}: ", t.name)).unwrap_or_default();
            let verified = match &records {
                Ok(Some(ids)) if whole => verified(remote, ids)?,
                _ => None,
            };
            let when =
                verified.map_or(String::new(), |at| format!(", verified {}", Time { secs: at, nanos: 0 }));
            details.push(json!({ "store": remote.name, "tier": folder.config.tier.get(remote.tier).map(|t| t.name.clone()), "whole": whole, "verified": verified }));
            session.out.answer(format!("  {tier}{} {mark}{when}", remote.name))?;
        }
        for (name, _) in &remotes.offline {
            session.out.answer(format!("  {name} is offline"))?;
        }
        session.out.json(&json!({
            "type": "whereis", "path": path.to_string(), "content": content.to_string(), "residency": local, "stores": copies,
            "copies": details,
        }))?;
    }
    Ok(())
}

/// Names of the reachable stores that have a file's whole content; `None` if it is not recorded.
pub fn stores_with(folder: &Folder, path: &RelPath) -> Result<Option<Vec<String>>> {
    let Some(row) = folder.history.local(path)? else { return Ok(None) };
    let remotes = Remotes::open_all(folder)?;
    let mut opener = Opener::new(&folder.keys)?;
    let records = match row.body {
        Some(body) => remotes.records_of(body, row.size, &mut opener).ok(),
        None => Some(Vec::new()),
    };
    let mut names = Vec::new();
    for remote in &remotes.online {
        let whole = match &records {
            Some(ids) => remote.packs.has(ids)?.into_iter().all(|has| has),
            None => false,
        };
        names.extend(whole.then(|| remote.name.clone()));
    }
    Ok(Some(names))
}

/// When the record that was checked longest ago was read back; `None` if one never was.
fn verified(remote: &Remote, ids: &[RecordId]) -> Result<Option<i64>> {
    let mut oldest = i64::MAX;
    for id in ids {
        oldest = oldest.min(remote.packs.locate(id)?.map_or(0, |place| place.verified));
    }
    Ok((0 < oldest && oldest < i64::MAX).then_some(oldest))
}

/// The version a path stands for: the one that is here, or else the newest in history.
pub fn current(folder: &Folder, path: &RelPath, row: Option<&LocalRow>) -> Result<Version> {
    if let Some(row) = row {
        return Ok(row_version(row));
    }
    let heads = folder.history.heads(path)?;
    let head = winner(&heads, |h| (h.hlc, h.dot));
    let missing = || Error::Missing(format!("{path} in history (commit it first)"));
    head.map(|h| h.version.clone()).ok_or_else(missing)
}
