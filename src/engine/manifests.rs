//! Manifests of many contents, read together.
//!
//! Promises one answer per content, in their order, each decoded from verified bytes, at the cost of few
//! round trips: a store far away is asked for many at once. A copy that is damaged is looked for elsewhere.

use std::collections::HashMap;

use super::remotes::Remotes;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::manifest;
use crate::format::seal::Opener;
use crate::model::entry::{Body, Kind};
use crate::model::manifest::Manifest;

/// A content: what to read of it, and its size.
pub type Asked = (Body, u64);

/// The manifest of each content; `None` for those of one chunk, which have none.
pub fn manifests(
    remotes: &Remotes,
    contents: &[Asked],
    opener: &mut Opener,
) -> Result<Vec<Option<Result<Manifest>>>> {
    let mut places: HashMap<RecordId, Vec<usize>> = HashMap::new();
    for (i, (body, _)) in contents.iter().enumerate().filter(|(_, (body, _))| body.kind == Kind::Manifest) {
        places.entry(body.id).or_default().push(i);
    }
    let mut all: Vec<Option<Result<Manifest>>> = contents.iter().map(|_| None).collect();
    if places.is_empty() {
        return Ok(all);
    }
    let mut put = |id: &RecordId, raw: &Result<std::sync::Arc<Vec<u8>>>| {
        for i in places.get(id).into_iter().flatten() {
            let raw = raw.as_ref().map_err(|e| e.again());
            all[*i] = Some(raw.and_then(|raw| manifest::decode(raw, contents[*i].1)));
        }
    };
    let ids: Vec<RecordId> = places.keys().copied().collect();
    let mut again = Vec::new();
    remotes.get(&ids, &mut |id, got| {
        match got.and_then(|sealed| opener.open(&sealed)) {
            Ok(raw) => put(&id, &Ok(raw)),
            Err(_) => again.push(id),
        }
        Ok(())
    })?;
    for id in again {
        put(&id, &remotes.read(id, opener));
    }
    Ok(all)
}

/// Every record that each content needs: its only chunk, or its manifest and chunks.
pub fn records_of_all(
    remotes: &Remotes,
    contents: &[Asked],
    opener: &mut Opener,
) -> Result<Vec<Result<Vec<RecordId>>>> {
    let all = manifests(remotes, contents, opener)?;
    let records = |(manifest, (body, _)): (Option<Result<Manifest>>, &Asked)| {
        let mut ids = vec![body.id];
        if let Some(manifest) = manifest {
            ids.extend(manifest?.data().map(|(_, id, _)| id));
        }
        Ok(ids)
    };
    Ok(all.into_iter().zip(contents).map(records).collect())
}
