//! Making folders, bare peers and stores.
//!
//! Promises that nothing that exists is overwritten, and that a folder is recognised as one
//! (`folder.toml`, written last) only when everything else of it is there.

use std::path::{Path, PathBuf};

use super::config::{self, Config, RemoteConfig, Transport};
use super::folder::Folder;
use super::instance::{FORMAT, FolderFile, KeysFile, random};
use super::places;
use super::remotes::{OWN, Remotes, domain_at, is_beside};
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, StoreId};
use crate::disk;
use crate::format::key::FolderKey;
use crate::format::message;
use crate::format::store::{FORMAT as STORE_FORMAT, StoreHead};
use crate::peer::url::Url;
use crate::store::dir::DirBucket;
use crate::store::packs::Packs;

/// What to make.
pub struct NewPeer<'a> {
    /// The peer's directory: `DIR/.ddr`, or `DIR` for a bare one.
    pub dir: PathBuf,
    /// Name of the peer.
    pub name: &'a str,
    /// Whether it has no tree.
    pub bare: bool,
    /// Folder id and key: new ones, or those of an existing folder.
    pub folder: (FolderId, FolderKey),
}

/// Fresh id and key for a new folder.
pub fn new_folder() -> Result<(FolderId, FolderKey)> {
    Ok((FolderId(random()?), FolderKey(random()?)))
}

/// Makes a folder in `dir` (or a bare peer); `dir` is made if it is missing.
pub fn init(dir: &Path, bare: bool, name: Option<&str>) -> Result<FolderId> {
    let peer_in = |dir: &Path| if bare { dir.to_path_buf() } else { dir.join(".ddr") };
    if peer_in(dir).join("folder.toml").exists() {
        return Err(Error::Refused(format!("{} is a ddr folder already", dir.display())));
    }
    refuse_remains(&peer_in(dir))?;
    if let Ok(outer) = super::folder::locate(dir) {
        let outer = if outer.ends_with(".ddr") { outer.parent().unwrap_or(&outer) } else { &outer };
        return Err(Error::Refused(format!(
            "{} lies inside the ddr folder {}; a folder inside a folder would be kept twice",
            dir.display(),
            outer.display()
        )));
    }
    std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    let dir = dir.canonicalize().map_err(|e| Error::io("resolving", dir, e))?;
    let peer_dir = peer_in(&dir);
    if bare && std::fs::read_dir(&dir).map_err(|e| Error::io("reading", &dir, e))?.next().is_some() {
        return Err(Error::Refused(format!("{} is not empty", dir.display())));
    }
    let folder = new_folder()?;
    let id = folder.0;
    let default_name =
        dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "folder".into());
    make_peer(&NewPeer { dir: peer_dir, name: name.unwrap_or(&default_name), bare, folder })?;
    Ok(id)
}

/// A peer that has written history and lost its folder file is no place for a new one.
fn refuse_remains(peer: &Path) -> Result<()> {
    let has_log = std::fs::read_dir(peer.join("store/log")).is_ok_and(|mut entries| entries.next().is_some());
    match has_log {
        true => Err(Error::Refused(format!(
            "{} holds history, but its folder.toml is missing; put it back, or clone one of its stores elsewhere",
            peer.display()
        ))),
        false => Ok(()),
    }
}

/// Writes a peer's directory; `folder.toml` comes last.
pub fn make_peer(new: &NewPeer) -> Result<()> {
    let dir = &new.dir;
    for sub in ["", "intents", "tmp"] {
        let path = dir.join(sub);
        make_private_dir(&path)?;
    }
    let store = dir.join("store");
    let bucket = DirBucket::create(&store)?;
    let head = store_head(new.name, new.folder.0, &new.folder.1)?;
    // An interrupted earlier attempt may have left its store head; its key was never used.
    if store.join("folder").exists() {
        std::fs::remove_file(store.join("folder")).map_err(|e| Error::io("removing", &store, e))?;
    }
    Packs::init(&bucket, &head)?;
    let keys = toml::to_string(&KeysFile::new(&new.folder.1, &random()?))
        .map_err(|e| Error::Invalid(e.to_string()))?;
    disk::replace_file(&dir.join("keys"), keys.as_bytes(), 0o600)?;
    let file = FolderFile {
        format: FORMAT,
        folder: new.folder.0.to_string(),
        name: new.name.into(),
        bare: new.bare,
    };
    let text = toml::to_string(&file).map_err(|e| Error::Invalid(e.to_string()))?;
    disk::replace_file(&dir.join("folder.toml"), text.as_bytes(), 0o600)
}

fn make_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io("creating", path, e))
}

/// How a remote is added.
#[derive(Debug, Default)]
pub struct AddRemote {
    /// Make the store there: a bare peer, or plain objects where there is no ddr.
    pub init: bool,
    /// It is only read from so far (a clone): its disk does not matter yet.
    pub reading: bool,
}

/// Adds a remote to the folder's settings, making its store where asked to.
pub fn add_remote(folder: &mut Folder, name: &str, remote: &RemoteConfig, add: &AddRemote) -> Result<()> {
    config::check_remote_name(name)?;
    if name == OWN || folder.config.remote.contains_key(name) {
        return Err(Error::Refused(format!("there is a remote {name} already; see `ddr remote list`")));
    }
    let url = remote.place()?;
    if let Url::Dir(path) = &url {
        check_place(folder, path, remote, add)?;
    }
    let login = folder.context.login.clone();
    if add.init {
        make_store(folder, name, remote, &url)?;
    }
    let absent = || Error::Missing(format!("a store in {url} (to make one there, add --init)"));
    let place = places::open(name, remote, &login).map_err(|e| match (e, &url) {
        (Error::Offline { .. }, Url::Dir(_)) | (Error::Missing(_), _) if !add.init => absent(),
        (e, _) => e,
    })?;
    let head = Packs::head(place.bucket.as_ref())?;
    if head.folder != folder.id {
        return Err(Error::Refused(format!("{url} is a store of another folder ({})", head.name)));
    }
    let others = Remotes::open(folder)?.online;
    if let Some(other) = others.iter().find(|r| r.packs.id() == head.store) {
        return Err(Error::Refused(format!("{url} is the store of remote {} already", other.name)));
    }
    let file = folder.dir.join("config.toml");
    write_remote(&file, name, remote)?;
    folder.config = Config::load(&file)?;
    Ok(())
}

fn write_remote(file: &Path, name: &str, remote: &RemoteConfig) -> Result<()> {
    let set = |key: &str, value: &str| config::edit(file, &format!("remote.{name}.{key}"), Some(value));
    match remote.place()? {
        Url::Dir(path) => set("url", &path_text(&path)?)?,
        _ => set("url", &remote.url)?,
    }
    if remote.same_disk {
        set("same_disk", "true")?;
    }
    if remote.transport == Transport::Openssh {
        set("transport", "openssh")?;
    }
    [("domain", &remote.domain), ("program", &remote.program)]
        .into_iter()
        .try_for_each(|(key, value)| value.as_ref().map_or(Ok(()), |value| set(key, value)))
}

/// A store may not lie inside the tree or the tree inside it, nor silently on the same disk.
fn check_place(folder: &Folder, path: &Path, remote: &RemoteConfig, add: &AddRemote) -> Result<()> {
    let Some(tree) = &folder.tree else { return Ok(()) };
    let root = tree.path();
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if real.starts_with(root) {
        return Err(Error::Refused(format!("{} lies inside the folder itself", path.display())));
    }
    if root.starts_with(&real) {
        return Err(Error::Refused(format!("the folder lies inside {}", path.display())));
    }
    let accepted = remote.same_disk || add.reading || remote.domain.is_some();
    if !accepted && is_beside(folder, domain_at(path)?)? {
        return Err(Error::Refused(format!(
            "{} is on the same disk as the folder: it would be lost together with it; choose another disk, or add --same-disk",
            path.display()
        )));
    }
    Ok(())
}

fn make_store(folder: &Folder, remote_name: &str, remote: &RemoteConfig, url: &Url) -> Result<()> {
    match url {
        Url::Dir(path) => make_bare(path, None, (folder.id, folder.folder_key.clone())),
        Url::Sftp(address) => {
            let bucket = places::make_sftp(address.clone(), &folder.context.login)?;
            let name = url.file_name().unwrap_or_else(|| "store".into());
            Packs::init(&bucket, &store_head(&name, folder.id, &folder.folder_key)?)
        }
        Url::Ssh(address) => {
            let (folder_id, key) = (folder.id, folder.folder_key.0);
            let name = url.file_name().unwrap_or_else(|| "store".into());
            let new = message::NewPeer { folder: folder_id, key, name, again: false };
            places::peer(remote_name, address.clone(), remote, &folder.context.login).create(&new)
        }
    }
}

fn store_head(name: &str, folder: FolderId, key: &FolderKey) -> Result<StoreHead> {
    Ok(StoreHead {
        format: STORE_FORMAT,
        requires: vec![],
        folder,
        store: StoreId(random()?),
        key: Some(key.0),
        name: name.into(),
    })
}

/// Makes a bare peer of a folder in a new or empty directory. Its name is the directory's unless given.
pub fn make_bare(path: &Path, name: Option<&str>, folder: (FolderId, FolderKey)) -> Result<()> {
    if path.join("folder.toml").exists() || path.join("folder").exists() {
        return Err(Error::Refused(format!(
            "{} holds a store already; add it without --init",
            path.display()
        )));
    }
    if std::fs::read_dir(path)
        .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name() != "lost+found")))
    {
        return Err(Error::Refused(format!("{} is not empty; name a new directory", path.display())));
    }
    let own = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "store".into());
    let name = name.filter(|name| !name.is_empty()).unwrap_or(&own);
    make_peer(&NewPeer { dir: path.to_path_buf(), name, bare: true, folder })
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_string)
        .ok_or_else(|| Error::Unsupported("a remote's path must be valid UTF-8".into()))
}
