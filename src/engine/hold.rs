//! Putting holds on every reachable store for contents that stubs depend on.
//!
//! Promises that a hold is durable on return. Which stores must have one before bytes are freed is
//! the caller's decision.

use std::collections::BTreeSet;

use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use crate::base::error::Result;
use crate::base::id::{FolderId, OriginId};
use crate::format::hold::Hold;
use crate::model::entry::Body;
use crate::store::holds;

/// Holds these contents on one store.
pub fn put(remote: &Remote, folder: FolderId, origin: OriginId, bodies: &[Body]) -> Result<()> {
    let bucket = remote.packs.bucket();
    let adds: Vec<Body> = bodies.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    if adds.is_empty() {
        return Ok(());
    }
    let number = holds::next_number(bucket.as_ref(), origin)?;
    holds::put_hold(
        bucket.as_ref(),
        &Hold { requires: vec![], folder, origin, number, adds, releases: vec![] },
    )
}

/// Holds these contents on every reachable store.
pub fn add(folder: &Folder, remotes: &Remotes, bodies: &[Body]) -> Result<()> {
    remotes.online.iter().try_for_each(|remote| put(remote, folder.id, folder.origin(), bodies))
}
