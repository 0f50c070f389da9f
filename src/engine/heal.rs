//! Mending copies that were found damaged while reading, from good ones.
//!
//! Promises that nothing unverified is put, and that a damaged pack stays where it is: only its bad
//! records no longer count. Taking damaged packs away is `ddr fsck --repair`.

use std::collections::BTreeSet;

use super::folder::Folder;
use super::remotes::Remotes;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::seal::{Opener, Sealed};
use crate::store::Store;

/// A verified copy of a record, from whichever store has one.
pub fn good_copy(remotes: &Remotes, id: RecordId, opener: &mut Opener) -> Result<Option<Sealed>> {
    let mut good = None;
    good_copies(remotes, &[id], opener, &mut |sealed| {
        good = Some(sealed);
        Ok(())
    })?;
    Ok(good)
}

/// Verified copies of records, in any order, from whichever stores have them; what none has is left out.
pub fn good_copies(
    remotes: &Remotes,
    ids: &[RecordId],
    opener: &mut Opener,
    sink: &mut dyn FnMut(Sealed) -> Result<()>,
) -> Result<()> {
    let mut left: BTreeSet<RecordId> = ids.iter().copied().collect();
    for remote in remotes.readers() {
        if left.is_empty() {
            break;
        }
        let wanted: Vec<RecordId> = left.iter().copied().collect();
        remote.member.read(&wanted, &mut |id, got| match got {
            Ok(sealed) if opener.verify(&sealed).is_ok() => {
                left.remove(&id);
                sink(sealed)
            }
            Ok(_) => {
                remote.member.note_damaged(id);
                Ok(())
            }
            Err(_) => Ok(()),
        })?;
    }
    Ok(())
}

/// Repairs the copies that were found damaged in this run, from good ones elsewhere; returns how many.
pub fn heal(folder: &Folder, remotes: &Remotes) -> Result<u64> {
    let mut opener = Opener::new(&folder.keys)?;
    let mut healed = 0;
    for remote in &remotes.online {
        let mut put = 0u64;
        for id in remote.member.take_damaged() {
            let Some(sealed) = good_copy(remotes, id, &mut opener)? else { continue };
            remote.member.write(|store| {
                // It may have been read from another place of the same store.
                if let Some(place) = remote.packs.locate(&id)? {
                    remote.packs.mark_verified(&[(id, place.pack)], crate::store::index::BAD)?;
                }
                if remote.packs.has(&[id])?[0] { Ok(()) } else { store.put(id, sealed) }
            })?;
            put += 1;
        }
        if put > 0 && remote.member.write(|store| store.flush())? {
            let what = crate::base::units::count(put, "damaged record");
            folder.context.progress.note(&format!("{}: repaired {what} from good copies", remote.name));
            healed += put;
        }
    }
    Ok(healed)
}
