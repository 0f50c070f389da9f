//! `ddr history`

use std::path::PathBuf;

use serde_json::json;

use super::output::{DIM, WARN, styled, table};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{count, size};
use crate::engine::folder::Folder;
use crate::engine::remotes::Remotes;
use crate::history::Past;
use crate::model::entry::{FileKind, Op};
use crate::store::Store;

/// Arguments of `ddr history`.
#[derive(clap::Args, Debug)]
pub struct HistoryArgs {
    /// A file, for its versions; a directory (default: the folder), for what changed in it
    pub path: Option<PathBuf>,
    /// Deleted files that can be restored
    #[arg(long)]
    pub deleted: bool,
    /// At most so many changes
    #[arg(long, default_value_t = 50)]
    pub limit: u64,
}

/// Versions of one file, deleted files, or recent changes.
pub fn run(session: &Session, args: &HistoryArgs) -> Result<()> {
    let folder = session.read()?;
    let path = match &args.path {
        Some(path) => session.paths(&folder, std::slice::from_ref(path))?.remove(0),
        None => RelPath::root(),
    };
    let remotes = Remotes::open_all(&folder)?;
    if args.deleted {
        return deleted(session, &folder, &path);
    }
    let versions = folder.history.versions(&path)?;
    let is_dir =
        versions.iter().rev().find_map(|p| p.entry.version()).is_none_or(|v| v.kind == FileKind::Dir);
    let (mut rows, mut pruned) = (Vec::new(), 0);
    if is_dir {
        folder.history.recent(&path, args.limit, &mut |at, past| {
            if past.is_forgotten {
                pruned += 1;
                return Ok(());
            }
            rows.push(row(session, &remotes, &past, &at, false)?);
            Ok(())
        })?;
    } else {
        pruned = versions.iter().filter(|p| p.is_forgotten).count() as u64;
        for past in versions.iter().filter(|p| !p.is_forgotten) {
            rows.push(row(session, &remotes, past, &path, true)?);
        }
    }
    if rows.is_empty() && !path.is_root() {
        return Err(Error::Missing(format!("{path} in history")));
    }
    if rows.is_empty() {
        return session.out.line("nothing recorded yet; `ddr commit` records the folder as it is");
    }
    table(&rows, &[]).into_iter().try_for_each(|line| session.out.answer(line))?;
    match pruned {
        0 => Ok(()),
        n => session.out.line(format!("{} more, pruned", count(n, "version"))),
    }
}

fn row(
    session: &Session,
    remotes: &Remotes,
    past: &Past,
    path: &RelPath,
    numbered: bool,
) -> Result<Vec<String>> {
    let saved = is_saved(remotes, past)?;
    let (what, bytes, content) = match &past.entry.op {
        Op::Del | Op::Forget(_) => ("deleted", None, None),
        Op::Put(v) => match v.kind {
            FileKind::File => ("file", Some(v.size), v.content),
            FileKind::Dir => ("dir", None, None),
            FileKind::Symlink => ("link", None, None),
        },
    };
    session.out.json(&json!({
        "type": "version", "path": path.to_string(), "n": past.n, "what": what, "time": past.entry.time().secs,
        "size": bytes, "content": content.map(|c| c.to_string()), "saved": saved, "peer": past.origin_name,
        "message": past.message, "moved_from": past.entry.moved_from.as_ref().map(|p| p.to_string()),
        "moved_to": past.entry.moved_to.as_ref().map(|p| p.to_string()),
    }))?;
    let mut notes = Vec::new();
    notes.extend(match saved {
        Some(true) => None,
        Some(false) => Some(styled(WARN, "unsaved")),
        None => Some(styled(WARN, "on no reachable store")),
    });
    notes.extend(past.entry.moved_from.iter().map(|p| format!("moved from {p}")));
    notes.extend(past.entry.moved_to.iter().map(|p| format!("moved to {p}")));
    notes.extend(past.message.iter().map(|m| format!("\"{m}\"")));
    let name = if numbered { format!("#{}", past.n) } else { format!("{path}#{}", past.n) };
    Ok(vec![
        past.entry.time().to_string(),
        name,
        what.to_string(),
        bytes.map_or("-".into(), size),
        styled(DIM, content.map_or("-".into(), |c| c.short())),
        past.origin_name.clone(),
        notes.join(", "),
    ])
}

/// Whether some reachable store has the first record of a version; `None` if one that is not
/// reachable may have it.
fn is_saved(remotes: &Remotes, past: &Past) -> Result<Option<bool>> {
    let Some(body) = past.entry.version().and_then(|v| v.body) else { return Ok(Some(true)) };
    for remote in &remotes.online {
        if remote.packs.has(&[body.id])?[0] {
            return Ok(Some(true));
        }
    }
    Ok(remotes.offline.is_empty().then_some(false))
}

fn deleted(session: &Session, folder: &Folder, under: &RelPath) -> Result<()> {
    let mut rows = Vec::new();
    folder.history.deleted(under, &mut |path, past, last| {
        session.out.json(&json!({
            "type": "deleted", "path": path.to_string(), "time": past.entry.time().secs, "size": last.size,
        }))?;
        rows.push(vec![past.entry.time().to_string(), size(last.size), path.to_string()]);
        Ok(())
    })?;
    if rows.is_empty() {
        return session.out.line("nothing was deleted");
    }
    table(&rows, &[1]).into_iter().try_for_each(|line| session.out.answer(line))?;
    session.out.line("Bring one back with: ddr restore PATH")
}
