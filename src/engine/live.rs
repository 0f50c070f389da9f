//! Which records of a store are needed: by history, by the layout, by anybody's hold.
//!
//! Promises that what cannot be read is an error, never "not needed". Which contents a store must
//! keep of those that history names is the caller's decision, except that every store keeps all
//! manifests and all that is held there.

use std::collections::HashSet;

use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::manifest;
use crate::format::seal::Opener;
use crate::history::Kept;
use crate::model::entry::Kind;
use crate::model::release::key;
use crate::store::holds;

/// Manifests read together.
const BATCH: usize = 256;

/// Whether a store must keep a content that history names.
pub type Keeps<'a> = &'a dyn Fn(&Remote, &Kept) -> Result<bool>;

/// Every record that is needed, by the first eight bytes of its id: a false match only keeps
/// something dead.
pub struct Live(HashSet<u64>);

impl Live {
    /// Asks history and the store's holds.
    pub fn collect(folder: &Folder, remotes: &Remotes, remote: &Remote, keeps: Keeps) -> Result<Self> {
        let mut live = Self(HashSet::new());
        let (mut named, mut held) = (HashSet::new(), HashSet::new());
        folder.history.each_kept(&mut |kept| {
            let keep = keeps(remote, &kept)?;
            if keep || kept.body.kind == Kind::Manifest {
                live.add(&kept.body.id);
            }
            if keep && kept.body.kind == Kind::Manifest {
                named.insert(kept.body.id);
            }
            Ok(())
        })?;
        holds::held(remote.packs.bucket().as_ref(), |_, body| {
            live.add(&body.id);
            if body.kind == Kind::Manifest && !named.contains(&body.id) {
                held.insert(body.id);
            }
        })?;
        let mut opener = Opener::new(&folder.keys)?;
        live.add_chunks(folder, remotes, held, &mut opener, true)?;
        live.add_chunks(folder, remotes, named, &mut opener, false)?;
        Ok(live)
    }

    /// Whether a record is needed.
    pub fn has(&self, id: &RecordId) -> bool {
        self.0.contains(&key(id))
    }

    fn add(&mut self, id: &RecordId) {
        self.0.insert(key(id));
    }

    /// Adds the chunks of these manifests.
    fn add_chunks(
        &mut self,
        folder: &Folder,
        remotes: &Remotes,
        manifests: HashSet<RecordId>,
        opener: &mut Opener,
        held: bool,
    ) -> Result<()> {
        let all: Vec<RecordId> = manifests.into_iter().collect();
        for batch in all.chunks(BATCH) {
            folder.context.cancel.check()?;
            let mut again = Vec::new();
            remotes.get(batch, &mut |id, got| {
                match got.and_then(|sealed| opener.open(&sealed)) {
                    Ok(raw) => manifest::decode_any(&raw)?.data().for_each(|(_, id, _)| self.add(&id)),
                    Err(_) => again.push(id),
                }
                Ok(())
            })?;
            for id in again {
                match remotes.read(id, opener) {
                    Ok(raw) => manifest::decode_any(&raw)?.data().for_each(|(_, id, _)| self.add(&id)),
                    // Recorded while no store was reachable: there is nothing of it to protect.
                    Err(Error::Missing(_)) if !held => {}
                    // It may say which chunks are needed here.
                    Err(e @ Error::Offline { .. }) => return Err(e),
                    Err(e) => {
                        return Err(Error::Refused(format!("gc is not safe: a manifest is unreadable: {e}")));
                    }
                }
            }
        }
        Ok(())
    }
}
