//! `ddr du`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::output::{DIM, styled, table};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::path::{RelPath, escape};
use crate::base::units::size;
use crate::engine::folder::Folder;
use crate::engine::remotes::Remotes;
use crate::local::scan::{Scan, ScanOptions, Seen};
use crate::local::stat::FileType;

/// Arguments of `ddr du`.
#[derive(clap::Args, Debug)]
pub struct DuArgs {
    /// Files and directories (default: here)
    pub paths: Vec<PathBuf>,
    /// Only the sum of each
    #[arg(short, long)]
    pub summary: bool,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    local: u64,
    logical: u64,
}

/// One line per child, then the sum.
pub fn run(session: &Session, args: &DuArgs) -> Result<()> {
    let folder = session.read()?;
    if folder.tree.is_none() {
        return bare(session, &folder);
    }
    let mut rows = vec![vec!["local".into(), "logical".into(), "freed".into(), String::new()]];
    for start in session.paths(&folder, &args.paths)? {
        let (total, children) = sum(&folder, &start)?;
        for (name, part) in children.iter().filter(|_| !args.summary) {
            rows.push(row(session, &start.join(name)?, *part, &escape(name))?);
        }
        rows.push(row(session, &start, total, &start.to_string())?);
    }
    rows[0].iter_mut().filter(|head| !head.is_empty()).for_each(|head| *head = styled(DIM, &head));
    table(&rows, &[0, 1, 2]).into_iter().try_for_each(|line| session.out.answer(line))
}

fn row(session: &Session, path: &RelPath, sum: Sum, shown: &str) -> Result<Vec<String>> {
    session.out.json(&json!({
        "type": "usage", "path": path.to_string(), "local_bytes": sum.local, "logical_bytes": sum.logical,
    }))?;
    let freed = sum.logical.saturating_sub(sum.local);
    Ok(vec![size(sum.local), size(sum.logical), size(freed), shown.to_string()])
}

/// Sums over a subtree, and per child of its top.
fn sum(folder: &Folder, start: &RelPath) -> Result<(Sum, BTreeMap<Vec<u8>, Sum>)> {
    let (mut total, mut children) = (Sum::default(), BTreeMap::<Vec<u8>, Sum>::new());
    if !start.is_root() && folder.tree()?.stat(start)?.is_none() {
        return Err(Error::Missing(start.to_string()));
    }
    let skip = if start.is_root() { 0 } else { start.as_bytes().len() + 1 };
    let options = ScanOptions { cross_devices: folder.config.scan.cross_devices };
    for seen in Scan::new(folder.tree()?, start, options)? {
        folder.context.cancel.check()?;
        let Seen::Entry(path, stat) = seen? else { continue };
        if stat.kind != FileType::File {
            continue;
        }
        let below = path.as_bytes().get(skip..).unwrap_or_default();
        let child = below.split(|b| *b == b'/').next().unwrap_or_default();
        let add = |sum: &mut Sum| {
            sum.local += stat.blocks * 512;
            sum.logical += stat.size;
        };
        add(&mut total);
        if !child.is_empty() {
            add(children.entry(child.to_vec()).or_default());
        }
    }
    Ok((total, children))
}

/// A bare peer: what is recorded, against what its store takes.
fn bare(session: &Session, folder: &Folder) -> Result<()> {
    let counts = folder.history.counts()?;
    let mut stored = 0;
    for remote in Remotes::open_all(folder)?.online {
        remote.packs.bucket().list("", &mut |_, bytes| {
            stored += bytes;
            Ok(())
        })?;
    }
    session.out.json(&json!({ "type": "usage", "logical_bytes": counts.bytes, "stored_bytes": stored }))?;
    session.out.answer(format!("{} of current files, {} stored", size(counts.bytes), size(stored)))
}
