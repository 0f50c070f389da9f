//! The store that is served.
//!
//! Promises that a place which is no store, one of another folder and one that cannot be read are all
//! one: nothing there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::message::Info;
use crate::format::store::StoreHead;
use crate::local::mount::boot;
use crate::peer::{machine, program};
use crate::store::dir::DirBucket;
use crate::store::packs::Packs;
use crate::store::{Bucket, names};

/// An open bucket, and whose store it is.
pub struct Served {
    /// The objects.
    pub bucket: Arc<DirBucket>,
    path: PathBuf,
    head: Mutex<Option<StoreHead>>,
}

impl Served {
    /// A bucket that is open already.
    pub fn bucket(bucket: Arc<DirBucket>) -> Self {
        let path = bucket.path().to_path_buf();
        Self { bucket, path, head: Mutex::default() }
    }

    /// The store of a bare peer, or a plain one, if it is that of the folder that is wanted.
    pub fn at(path: &Path, wanted: Option<FolderId>) -> Option<Self> {
        let inner = path.join("store");
        let place = if inner.join(names::FOLDER).is_file() { inner } else { path.to_path_buf() };
        let bucket = DirBucket::open(&place).ok()?;
        let head = Packs::head(&bucket).ok()?;
        if wanted.is_some_and(|wanted| wanted != head.folder) {
            return None;
        }
        // What a crash left long ago costs only room.
        let _ = bucket.sweep_temp();
        Some(Self { bucket: Arc::new(bucket), path: place, head: Mutex::new(Some(head)) })
    }

    /// What the bucket says about the store in it; `None` while it is none.
    pub fn head(&self) -> Option<StoreHead> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if head.is_none() && self.bucket.object(names::FOLDER).is_ok() {
            *head = Packs::head(self.bucket.as_ref() as &dyn Bucket).ok();
        }
        head.clone()
    }

    /// Facts.
    pub fn info(&self) -> Result<Info> {
        let head = self.head().ok_or_else(|| Error::Missing("a ddr store (its `folder` object)".into()))?;
        let fs = rustix::fs::statvfs(&self.path).map_err(|e| Error::io("examining", &self.path, e))?;
        Ok(Info {
            folder: head.folder,
            store: head.store,
            free: self.bucket.room()?.unwrap_or(0),
            total: fs.f_blocks.saturating_mul(fs.f_frsize),
            host: machine::id(),
            device: self.bucket.domain(),
            pid: std::process::id(),
            program: program(),
            boot: boot().to_string(),
        })
    }
}
