//! `ddr diff`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::{Time, count, size};
use crate::engine::diff::{Difference, Kind, Side, diff};
use crate::engine::folder::Folder;
use crate::engine::when::{clock, clock_of_version};
use crate::model::entry::FileKind;

/// Arguments of `ddr diff`.
#[derive(clap::Args, Debug)]
pub struct DiffArgs {
    /// Compare only these (default: everything)
    pub paths: Vec<PathBuf>,
    /// Compare with what was at this time: 2d (ago), 2026-11-24, '2026-11-24 10:00', ORIGIN:N, PATH#N
    /// (default: the last commit)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Compare what was then, instead of the working tree
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
}

/// Shows what was added, changed, deleted and moved.
pub fn run(session: &Session, args: &DiffArgs) -> Result<()> {
    let folder = session.read()?;
    let paths = match args.paths.is_empty() {
        true => vec![RelPath::root()],
        false => session.paths(&folder, &args.paths)?,
    };
    let point = |text: &Option<String>| text.as_deref().map(|t| point(session, &folder, t)).transpose();
    let (since, until) = (point(&args.since)?, point(&args.until)?);
    let mut total = 0;
    diff(&folder, &paths, since, until, &mut |difference| {
        total += 1;
        show(session, &difference)
    })?;
    match total {
        0 => session.out.line("no differences"),
        n => session.out.line(count(n, "difference")),
    }
}

fn point(session: &Session, folder: &Folder, text: &str) -> Result<u64> {
    if let Some((path, n)) = text.rsplit_once('#')
        && let Ok(n) = n.parse()
    {
        let path = session.paths(folder, &[PathBuf::from(path)])?.remove(0);
        return clock_of_version(folder, &path, n);
    }
    clock(folder, text, Time::now())
}

fn show(session: &Session, d: &Difference) -> Result<()> {
    let (letter, word) = match d.kind {
        Kind::Added => ('A', "added"),
        Kind::Changed => ('M', "changed"),
        Kind::Deleted => ('D', "deleted"),
        Kind::Moved => ('R', "moved"),
    };
    let bytes = |side: &Option<Side>| side.as_ref().filter(|s| s.kind == FileKind::File).map(|s| s.size);
    let content = |side: &Option<Side>| side.as_ref().and_then(|s| s.content).map(|c| c.to_string());
    session.out.json(&json!({
        "type": "difference", "change": word, "path": d.path.to_string(), "from": d.from.as_ref().map(|p| p.to_string()),
        "old_size": bytes(&d.before), "size": bytes(&d.after),
        "old_content": content(&d.before), "content": content(&d.after),
    }))?;
    let sizes = match (bytes(&d.before), bytes(&d.after)) {
        (Some(old), Some(new)) if old != new => format!("  {} -> {}", size(old), size(new)),
        (Some(one), _) | (None, Some(one)) => format!("  {}", size(one)),
        (None, None) => String::new(),
    };
    let from = d.from.as_ref().map_or(String::new(), |from| format!("{from} -> "));
    session.out.answer(format!("{letter} {from}{}{sizes}", d.path))
}
