//! `folders.toml` in the state directory: the folders of this user that the daemon serves.
//!
//! Promises that a change of the list is whole or not at all, and that two processes that change it
//! take turns. Whether a folder is there right now it does not know: an unplugged disk stays listed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{Context, lock};
use crate::base::error::{Error, Result};
use crate::base::path::{escape, unescape};
use crate::disk;

const HEAD: &str =
    "# The folders that `ddr daemon` serves. Kept by ddr init, ddr clone, ddr daemon add and remove.\n";

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Roots of working trees, written as ddr prints paths.
    folders: Vec<String>,
}

/// Where the list is.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("folders.toml")
}

/// The roots, in the order in which they were added; none without a list.
pub fn list(state_dir: &Path) -> Result<Vec<PathBuf>> {
    let path = file(state_dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let bad = |why: String| Error::Invalid(format!("{}: {why}", path.display()));
    let file: File = toml::from_str(&text).map_err(|e| bad(e.to_string().trim_end().into()))?;
    let root = |text: &String| {
        let bytes = unescape(text).ok_or_else(|| bad(format!("{text:?} is no path")))?;
        Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
    };
    file.folders.iter().map(root).collect()
}

/// Adds a root; whether it was missing.
pub fn add(root: &Path, context: &Context) -> Result<bool> {
    change(context, |roots| {
        let missing = !roots.iter().any(|r| r == root);
        if missing {
            roots.push(root.to_path_buf());
        }
        missing
    })
}

/// Removes a root; whether it was listed.
pub fn remove(root: &Path, context: &Context) -> Result<bool> {
    change(context, |roots| {
        let before = roots.len();
        roots.retain(|r| r != root);
        roots.len() < before
    })
}

fn change(context: &Context, edit: impl FnOnce(&mut Vec<PathBuf>) -> bool) -> Result<bool> {
    let dir = &context.state_dir;
    std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    let _turn = lock(dir, context)?;
    let mut roots = list(dir)?;
    let changed = edit(&mut roots);
    if changed {
        let folders = roots.iter().map(|r| escape(r.as_os_str().as_bytes())).collect();
        let text = toml::to_string_pretty(&File { folders }).map_err(|e| Error::Invalid(e.to_string()))?;
        disk::replace_file(&file(dir), format!("{HEAD}{text}").as_bytes(), 0o600)?;
    }
    Ok(changed)
}
