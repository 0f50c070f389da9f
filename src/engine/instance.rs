//! Who this peer is: its key, and the epoch that makes a restored or copied `.ddr` a new origin.
//!
//! Promises that an entry number is never used twice: a marker outside the folder records file
//! system, inode, epoch and last number, durably before entries leave this machine; whatever does not match
//! it starts a new epoch (reference: fork of append-only logs by restored backups).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::disk;
use crate::format::key::FolderKey;

/// `folder.toml`: written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderFile {
    /// Format of the `.ddr` directory; a larger one than [`FORMAT`] is refused.
    pub format: u32,
    /// Folder id, hex.
    pub folder: String,
    /// Name of this peer, for people.
    pub name: String,
    /// Whether this peer has no working tree.
    pub bare: bool,
}

/// Newest directory format this build knows.
pub const FORMAT: u32 = 1;

/// `keys`: readable by the owner only.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// Folder key, hex.
    folder_key: String,
    /// This peer's ed25519 secret key, hex.
    secret: String,
}

impl KeysFile {
    /// Takes the two secrets.
    pub fn new(folder_key: &FolderKey, secret: &[u8; 32]) -> Self {
        Self { folder_key: hex(&folder_key.0), secret: hex(secret) }
    }

    /// Folder key and peer secret.
    pub fn secrets(&self) -> Result<(FolderKey, [u8; 32])> {
        Ok((FolderKey(unhex(&self.folder_key)?), unhex(&self.secret)?))
    }
}

/// Marker in the state directory: the last thing known of one epoch of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    path: PathBuf,
    /// Hex: TOML integers are signed.
    file_system: String,
    inode: u64,
    last: u64,
}

/// The epoch in force, and where its marker lies.
#[derive(Debug)]
pub struct Instance {
    /// Random; part of the origin.
    pub epoch: u64,
    folder: FolderId,
    marker: PathBuf,
    state: Marker,
}

impl Instance {
    /// The epoch recorded in the folder, without claiming it (for commands that only read).
    pub fn peek(dir: &Path) -> Result<u64> {
        let path = dir.join("epoch");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, e))?;
        u64::from_str_radix(text.trim(), 16)
            .map_err(|_| Error::corrupt(path.display().to_string(), "not an epoch"))
    }

    /// The epoch to write under. `tail` tells the last number the folder's own log has of an epoch.
    /// Returns whether a new epoch had to be started.
    pub fn claim(
        dir: &Path,
        state_dir: &Path,
        folder: FolderId,
        tail: impl Fn(u64) -> Result<u64>,
    ) -> Result<(Self, bool)> {
        let here = std::fs::metadata(dir).map_err(|e| Error::io("reading", dir, e))?;
        let file_system = file_system_id(dir)?;
        let fresh = |last| Marker {
            path: dir.to_path_buf(),
            file_system: file_system.clone(),
            inode: here.ino(),
            last,
        };
        if let Ok(epoch) = Self::peek(dir) {
            let marker = marker_path(state_dir, folder, epoch);
            let known = std::fs::read_to_string(&marker).ok().and_then(|t| toml::from_str::<Marker>(&t).ok());
            let same = known.filter(|m| m.file_system == file_system && m.inode == here.ino());
            if let Some(known) = same
                && tail(epoch)? >= known.last
            {
                return Ok((Self { epoch, folder, marker, state: fresh(known.last) }, false));
            }
        }
        let epoch = u64::from_le_bytes(random()?);
        let marker = marker_path(state_dir, folder, epoch);
        let mut instance = Self { epoch, folder, marker, state: fresh(0) };
        // Marker first: an epoch without a marker is replaced, a marker without an epoch is litter.
        instance.save()?;
        disk::replace_file(&dir.join("epoch"), format!("{epoch:016x}\n").as_bytes(), 0o600)?;
        Ok((instance, true))
    }

    /// Whether this very directory wrote under `epoch` before.
    pub fn was(&self, epoch: u64) -> bool {
        let marker = self.marker.with_file_name(marker_name(self.folder, epoch));
        let known = std::fs::read_to_string(marker).ok().and_then(|t| toml::from_str::<Marker>(&t).ok());
        known.is_some_and(|m| m.file_system == self.state.file_system && m.inode == self.state.inode)
    }

    /// The epochs under which this very directory wrote, as far as their markers are still there.
    pub fn epochs(&self) -> Result<Vec<u64>> {
        let dir = self.marker.parent().unwrap_or(Path::new("."));
        let prefix = format!("{}-", self.folder);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| Error::io("reading", dir, e))? {
            let name = entry.map_err(|e| Error::io("reading", dir, e))?.file_name();
            let epoch = name.to_str().and_then(|n| n.strip_prefix(&prefix)?.strip_suffix(".toml"));
            all.extend(epoch.and_then(|hex| u64::from_str_radix(hex, 16).ok()).filter(|e| self.was(*e)));
        }
        Ok(all)
    }

    /// Records durably that numbers up to `last` are used; where that is news, `ahead` more are
    /// reserved with it, so that a long run syncs once. After a crash the tail is then below what
    /// was reserved, and a new epoch starts: nothing is used twice.
    pub fn reserve(&mut self, last: u64, ahead: u64) -> Result<()> {
        if last <= self.state.last {
            return Ok(());
        }
        self.state.last = last + ahead;
        self.save()
    }

    /// Gives back what was reserved and not used: the log ends at `last`.
    pub fn settle(&mut self, last: u64) -> Result<()> {
        if last == self.state.last {
            return Ok(());
        }
        self.state.last = last;
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        if let Some(dir) = self.marker.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        }
        let text = toml::to_string(&self.state).map_err(|e| Error::Invalid(e.to_string()))?;
        disk::replace_file(&self.marker, text.as_bytes(), 0o600)
    }
}

fn marker_path(state_dir: &Path, folder: FolderId, epoch: u64) -> PathBuf {
    state_dir.join("instances").join(marker_name(folder, epoch))
}

fn marker_name(folder: FolderId, epoch: u64) -> String {
    format!("{folder}-{epoch:016x}.toml")
}

/// The file system's own id; unlike a device number it survives a remount (btrfs numbers anew).
fn file_system_id(dir: &Path) -> Result<String> {
    let fs = rustix::fs::statvfs(dir).map_err(|e| Error::io("inspecting", dir, e))?;
    Ok(format!("{:x}", fs.f_fsid))
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0u8; N];
    let mut at = 0;
    while at < N {
        at += rustix::rand::getrandom(&mut out[at..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::io("reading", "the kernel's random numbers", e))?;
    }
    Ok(out)
}

fn hex(bytes: &[u8; 32]) -> String {
    crate::base::id::ContentId(*bytes).to_string()
}

fn unhex(text: &str) -> Result<[u8; 32]> {
    crate::base::id::ContentId::from_hex(text).map(|id| id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_or_copied_directory_starts_a_new_epoch() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (dir, state) = (temp.path().join("a"), temp.path().join("state"));
        std::fs::create_dir(&dir).expect("mkdir");
        let folder = FolderId([1; 16]);
        let (mut first, fresh) = Instance::claim(&dir, &state, folder, |_| Ok(0)).expect("claim");
        assert!(fresh);
        first.reserve(5, 0).expect("reserve");
        let (same, fresh) = Instance::claim(&dir, &state, folder, |_| Ok(5)).expect("claim");
        assert!(!fresh && same.epoch == first.epoch);
        // The log ends before what was reserved: an older .ddr was put back.
        let (restored, fresh) = Instance::claim(&dir, &state, folder, |_| Ok(4)).expect("claim");
        assert!(fresh && restored.epoch != first.epoch);
        let copy = temp.path().join("b");
        std::fs::create_dir(&copy).expect("mkdir");
        std::fs::copy(dir.join("epoch"), copy.join("epoch")).expect("copy");
        let (_, fresh) = Instance::claim(&copy, &state, folder, |_| Ok(9)).expect("claim");
        assert!(fresh);
    }
}
