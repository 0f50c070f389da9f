//! Reading records back to be sure of them: what a dedup hit needs before it counts as a copy.
//!
//! Promises that a record is reported good only if one of its places was decoded and hashed within
//! the given age, and that a place which fails is remembered and no longer counts.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::key::Keys;
use crate::format::seal::Opener;
use crate::store::Bucket;
use crate::store::index::{BAD, Location};
use crate::store::packs::catalog::Catalog;
use crate::store::packs::reader::{missing, read_places};

/// Verifies those of the records whose last check is too old; returns those that failed everywhere.
pub fn verify_stale(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    keys: &Keys,
    ids: &[RecordId],
    now: i64,
    max_age_secs: i64,
) -> Result<Vec<(RecordId, Error)>> {
    let mut opener = Opener::new(keys)?;
    let mut todo = ids.to_vec();
    todo.sort_unstable();
    todo.dedup();
    let mut failed = BTreeMap::new();
    // Each round rules out at least one place of every record still in doubt.
    while !todo.is_empty() {
        let mut stale = Vec::new();
        for (id, places) in todo.iter().zip(catalog.places(&todo)?) {
            let lost = if places.is_empty() { missing(*id) } else { doubtful(*id) };
            match places.into_iter().find(|place| catalog.counts(place)) {
                Some(place) if is_fresh(&place, now, max_age_secs) => drop(failed.remove(id)),
                Some(place) => stale.push(place),
                None => drop(failed.entry(*id).or_insert(lost)),
            }
        }
        todo = check_places(bucket, catalog, &mut opener, stale, now, &mut failed)?;
    }
    Ok(failed.into_iter().collect())
}

/// A verification time in the future comes from a clock that jumped, and proves nothing.
fn is_fresh(place: &Location, now: i64, max_age_secs: i64) -> bool {
    place.verified > 0 && place.verified <= now && now - place.verified <= max_age_secs
}

fn doubtful(id: RecordId) -> Error {
    Error::corrupt(format!("record {}", id.short()), "it failed its last check, or its pack is condemned")
}

/// Reads places, notes what came of it, and returns the records whose place failed.
fn check_places(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    opener: &mut Opener,
    places: Vec<Location>,
    now: i64,
    failed: &mut BTreeMap<RecordId, Error>,
) -> Result<Vec<RecordId>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    read_places(bucket, catalog, places, &mut |place, got| {
        let id = place.row.id;
        failed.remove(&id);
        match got.and_then(|sealed| opener.verify(&sealed)) {
            Ok(()) => good.push((id, place.pack)),
            Err(e) => {
                bad.push((id, place.pack));
                failed.insert(id, e);
            }
        }
        Ok(())
    })?;
    catalog.index().set_verified(&good, now)?;
    catalog.index().set_verified(&bad, BAD)?;
    Ok(bad.into_iter().map(|(id, _)| id).collect())
}
