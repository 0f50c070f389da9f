//! The self-test: whether opening a guarded file on this very file system waits for its content.
//!
//! Promises to believe nothing but what another process read. Knows no stubs: its file is one of its own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::desk::Inode;
use super::service::OURSELVES;
use crate::base::error::{Error, Result};
use crate::local::guard::Guard;

const BEFORE: &[u8] = b"before";
const AFTER: &[u8] = b"after, as it should be";

/// A file that is empty of sense until somebody opens it.
#[derive(Debug)]
pub struct Probe {
    path: PathBuf,
    inode: Inode,
}

impl Probe {
    /// Makes the file and has it guarded.
    pub fn new(dir: &Path, guard: &Guard) -> Result<Self> {
        let path = dir.join(format!("probe-{}", std::process::id()));
        let fail = |e: std::io::Error| Error::io("testing", &path, e);
        std::fs::create_dir_all(dir).map_err(fail)?;
        std::fs::write(&path, BEFORE).map_err(fail)?;
        let file = File::open(&path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        guard.mark(&[OwnedFd::from(file)])?;
        Ok(Self { inode: (meta.dev(), meta.ino()), path })
    }

    /// Which file it is.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Puts the content in place; called while the reader waits.
    pub fn fill(&self) -> Result<()> {
        std::fs::write(&self.path, AFTER).map_err(|e| Error::io("testing", &self.path, e))
    }

    /// Has another process read it; an error unless that got the content.
    pub fn check(&self) -> Result<()> {
        let read = Command::new(OURSELVES).args(["debug", "read"]).arg(&self.path).output();
        let read = read.map_err(|e| Error::io("testing", &self.path, e))?;
        match read.stdout == AFTER {
            true => Ok(()),
            false => Err(Error::Unsupported(
                "on-demand access does not work on this file system: a reader was not made to wait".into(),
            )),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // `.ddr/tmp` may be emptied at any time.
        let _ = std::fs::remove_file(&self.path);
    }
}
