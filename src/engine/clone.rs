//! Cloning: a peer directory from nothing but a store.
//!
//! Promises that an interrupted clone is continued by the same command, and that only an empty
//! directory is cloned into. The tree is made by `engine::materialise`.

use std::path::Path;

use super::checkout::checkout;
use super::config::RemoteConfig;
use super::folder::{Access, Context, Folder};
use super::init::{AddRemote, NewPeer, add_remote, make_peer};
use super::materialise::{CloneStats, Contents, materialise};
use super::mend::mend;
use super::places;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::format::key::FolderKey;
use crate::store::packs::Packs;

/// Makes the peer directory in `dir` from a store (its remote will be called `name`), then the tree, with
/// these contents.
pub fn clone(
    remote: &RemoteConfig,
    dir: &Path,
    name: &str,
    contents: Contents,
    context: Context,
) -> Result<(Folder, CloneStats)> {
    let url = remote.place()?;
    let place = places::open(name, remote, &context.login)?;
    let head = Packs::head(place.bucket.as_ref())?;
    let key = head.key.ok_or_else(|| Error::Refused("this store does not hold the folder's key".into()))?;
    let peer = dir.join(".ddr");
    let existed = peer.join("folder.toml").exists();
    if !existed {
        check_empty(dir)?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        let own_name =
            dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| head.name.clone());
        make_peer(&NewPeer {
            dir: peer.clone(),
            name: &own_name,
            bare: false,
            folder: (head.folder, FolderKey(key)),
        })?;
    }
    let peer = peer.canonicalize().map_err(|e| Error::io("resolving", dir, e))?;
    let mut folder = Folder::open(&peer, Access::Write, context)?;
    if folder.id != head.folder {
        return Err(Error::Refused(format!(
            "{} is a folder of its own; clone into an empty directory",
            dir.display()
        )));
    }
    // Only a clone that was cut short is continued.
    let own = folder.config.remote.get(name);
    let continued =
        own.map_or(folder.config.remote.is_empty(), |r| r.place().is_ok_and(|there| there == url));
    if existed && !continued {
        return Err(Error::Refused(format!(
            "{} is a peer of this folder already; to use one more store, run: ddr remote add NAME {}",
            dir.display(),
            remote.url
        )));
    }
    if own.is_none() {
        add_remote(&mut folder, name, remote, &AddRemote { init: false, reading: true })?;
    }
    // What an earlier run may have left torn is made once more.
    mend(&mut folder)?;
    let mut stats = materialise(&mut folder, contents)?;
    if contents == Contents::All && folder.history.stub_count()? > 0 {
        // Those that an earlier run made without them.
        stats.written_bytes += checkout(&mut folder, &[RelPath::root()], false)?.filled_bytes;
    }
    Ok((folder, stats))
}

/// Only an empty directory, or one whose clone was cut short before its folder file was written.
fn check_empty(dir: &Path) -> Result<()> {
    if let Ok(outer) = super::folder::locate(dir) {
        let outer = if outer.ends_with(".ddr") { outer.parent().unwrap_or(&outer) } else { &outer };
        return Err(Error::Refused(format!(
            "{} lies inside the ddr folder {}",
            dir.display(),
            outer.display()
        )));
    }
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            match entries.flatten().any(|e| e.file_name() != ".ddr" && e.file_name() != "lost+found") {
                true => {
                    Err(Error::Refused(format!("{} is not empty; clone into a new directory", dir.display())))
                }
                false => Ok(()),
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("reading", dir, e)),
    }
}
