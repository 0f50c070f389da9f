//! Taking packs away: deletion for gc, quarantine for repair.
//!
//! Promises that a pack which is not condemned, or is damaged, is never deleted, and that an object
//! in quarantine is whole before the original goes. Why a pack is condemned is gc's business.

use crate::base::error::{Error, Result};
use crate::base::id::PackId;
use crate::store::packs::catalog::Catalog;
use crate::store::{Bucket, names};

/// Largest object that is moved; it must fit into memory. ddr writes none half as large.
const MAX_MOVE: u64 = 256 << 20;

/// Packs deleted together.
const TOGETHER: usize = 256;

/// Deletes condemned packs. Of some that went before an error the next look at the store tells.
pub fn remove(bucket: &dyn Bucket, catalog: &Catalog, packs: &[PackId]) -> Result<()> {
    catalog.check_doubt()?;
    let known: Vec<_> = packs.iter().flat_map(|name| catalog.named(*name)).collect();
    for pack in &known {
        if pack.damaged.is_some() {
            return Err(Error::Refused(format!(
                "pack {} is damaged; it is never deleted",
                pack.name.short()
            )));
        }
        if !pack.condemned {
            return Err(Error::Refused(format!("pack {} is not condemned", pack.name.short())));
        }
    }
    let mut gone = Vec::with_capacity(known.len());
    let deleted = known.chunks(TOGETHER).try_for_each(|some| {
        let objects: Vec<String> = some.iter().map(|pack| names::pack(pack.kind, pack.name)).collect();
        bucket.delete_all(&objects)?;
        gone.extend(some.iter().map(|pack| pack.num));
        Ok(())
    });
    catalog.remove(&gone)?;
    deleted
}

/// Moves the packs of a name to `quarantine/`; returns the new name (of the last, if several).
pub fn quarantine(bucket: &dyn Bucket, catalog: &Catalog, pack: PackId) -> Result<String> {
    let mut moved = Err(Error::Missing(format!("pack {}", pack.short())));
    for known in catalog.named(pack) {
        moved = Ok(move_away(bucket, &names::pack(known.kind, known.name))?);
        catalog.remove(&[known.num])?;
    }
    moved
}

/// Moves any object to `quarantine/`: copied whole, durable, compared, then deleted.
pub fn move_away(bucket: &dyn Bucket, name: &str) -> Result<String> {
    let bytes = bucket.get(name, 0..MAX_MOVE + 1)?;
    if bytes.len() as u64 > MAX_MOVE {
        return Err(Error::Refused(format!(
            "{name} is too large to be moved to quarantine; move it by hand"
        )));
    }
    let target = free_name(bucket, name, &bytes)?;
    bucket.delete(name)?;
    Ok(target)
}

/// Puts the bytes under the first name that is free, or already holds just them.
fn free_name(bucket: &dyn Bucket, name: &str, bytes: &[u8]) -> Result<String> {
    for n in 0..1000 {
        let target = match n {
            0 => format!("{}{name}", names::QUARANTINE),
            n => format!("{}{name}.{n}", names::QUARANTINE),
        };
        match bucket.get(&target, 0..MAX_MOVE + 1) {
            // An earlier attempt was interrupted between copying and deleting.
            Ok(there) if there == bytes => return Ok(target),
            Ok(_) => {}
            Err(Error::Missing(_)) => {
                bucket.put(&target, &[bytes])?;
                if bucket.get(&target, 0..MAX_MOVE + 1)? != bytes {
                    return Err(Error::corrupt(target, "the copy differs from the original"));
                }
                return Ok(target);
            }
            Err(e) => return Err(e),
        }
    }
    Err(Error::Refused(format!("quarantine holds {name} a thousand times")))
}
