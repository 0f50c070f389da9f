//! Neighbours: the stubs beside a file that its reader will want next.
//!
//! Promises to look only; which of them come along within a budget is `model::related`.

use std::os::unix::ffi::OsStrExt;

use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::model::related::{self, Neighbour};
use crate::model::residency::Residency;

/// The neighbours of files that are stubs, nearest first, of at most `budget` bytes.
pub fn related(folder: &Folder, wanted: &[RelPath], budget: u64) -> Result<Vec<Neighbour>> {
    let mut dirs: Vec<RelPath> = wanted.iter().filter_map(|p| p.split()).map(|(dir, _)| dir).collect();
    dirs.sort();
    dirs.dedup();
    let mut stubs = Vec::new();
    for dir in dirs {
        let full = folder.tree()?.full(&dir);
        let entries = std::fs::read_dir(&full).map_err(|e| Error::io("reading", &full, e))?;
        for entry in entries {
            folder.context.cancel.check()?;
            let entry = entry.map_err(|e| Error::io("reading", &full, e))?;
            // Names that ddr cannot record are no files of its own.
            let Ok(path) = dir.join(entry.file_name().as_bytes()) else { continue };
            let row = folder.history.local(&path)?;
            stubs.extend(row.filter(|r| r.residency == Residency::Stub).map(|row| (path, row.size)));
        }
    }
    Ok(related::within(wanted, stubs, budget))
}
