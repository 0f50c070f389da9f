//! Reading records back: sorted by place, neighbours in one read.
//!
//! Promises one answer per record, and that a record which cannot be read in one pack is looked for
//! in the others that hold it. Bytes are checked against the pack's table, not yet hashed.

use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::pack::decode_record;
use crate::format::seal::Sealed;
use crate::store::index::Location;
use crate::store::packs::catalog::Catalog;
use crate::store::{Bucket, names};

/// Unwanted bytes between two records that are cheaper to read than to skip.
const MAX_GAP: u64 = 64 << 10;
/// Most bytes in one read, unless one record is longer.
const MAX_SPAN: u64 = 8 << 20;

/// Receives a place and what was read there.
type PlaceSink<'a> = &'a mut dyn FnMut(Location, Result<Sealed>) -> Result<()>;

/// Reads each distinct record from its best place, or where that fails from any other.
pub fn read(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    ids: &[RecordId],
    sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
) -> Result<()> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut best = Vec::with_capacity(ids.len());
    for (id, places) in ids.iter().zip(catalog.places(&ids)?) {
        match places.first() {
            Some(place) => best.push(*place),
            None => sink(*id, Err(missing(*id)))?,
        }
    }
    read_places(bucket, catalog, best, &mut |place, got| {
        let got = match got {
            Err(e) if !matches!(e, Error::Offline { .. }) => read_elsewhere(bucket, catalog, &place, e)?,
            other => other,
        };
        sink(place.row.id, got)
    })
}

/// Reads given places; an unreachable bucket ends the call.
pub fn read_places(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    mut places: Vec<Location>,
    sink: PlaceSink,
) -> Result<()> {
    places.sort_unstable_by_key(|p| (p.pack, p.row.offset));
    let (mut spans, mut wanted) = (Vec::new(), Vec::new());
    let mut rest = places.as_slice();
    while !rest.is_empty() {
        let (span, after) = rest.split_at(span_len(rest));
        rest = after;
        let Some(pack) = catalog.pack(span[0].pack) else {
            span.iter().try_for_each(|place| sink(*place, Err(gone())))?;
            continue;
        };
        let start = u64::from(span[0].row.offset);
        let end = span.iter().map(|p| p.row.end()).max().unwrap_or(start);
        wanted.push((names::pack(pack.kind, pack.name), start..end));
        spans.push(span);
    }
    bucket.get_all(&wanted, &mut |i, got| hand_on(bucket, catalog, spans[i], wanted[i].1.start, got, sink))
}

/// How many of the first places make one read.
fn span_len(places: &[Location]) -> usize {
    let first = &places[0];
    let start = u64::from(first.row.offset);
    let mut end = first.row.end();
    let joined = places[1..].iter().take_while(|place| {
        let near = place.pack == first.pack && u64::from(place.row.offset) <= end + MAX_GAP;
        end = end.max(place.row.end());
        near && end - start <= MAX_SPAN
    });
    1 + joined.count()
}

/// Hands on the records of one read.
fn hand_on(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    span: &[Location],
    start: u64,
    got: Result<Vec<u8>>,
    sink: PlaceSink,
) -> Result<()> {
    match got {
        Ok(bytes) => {
            for place in span {
                let from = (u64::from(place.row.offset) - start) as usize;
                let to = (place.row.end() - start) as usize;
                let record = bytes.get(from..to).ok_or_else(|| truncated(place));
                sink(*place, record.and_then(|record| decode_record(record, &place.row)))?;
            }
            Ok(())
        }
        Err(e @ Error::Offline { .. }) => Err(e),
        Err(e) if span.len() == 1 => sink(span[0], Err(e)),
        // Perhaps one bad sector: the others need not suffer.
        Err(_) => span.iter().try_for_each(|place| sink(*place, read_one(bucket, catalog, place))),
    }
}

fn read_one(bucket: &dyn Bucket, catalog: &Catalog, place: &Location) -> Result<Sealed> {
    let bytes = get(bucket, catalog, place.pack, place.row.offset.into(), place.row.end())?;
    if (bytes.len() as u64) < place.row.end() - u64::from(place.row.offset) {
        return Err(truncated(place));
    }
    decode_record(&bytes, &place.row)
}

/// Tries the record's other places, and the same once more; else the first error stands.
fn read_elsewhere(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    failed: &Location,
    first: Error,
) -> Result<Result<Sealed>> {
    let places = catalog.places(&[failed.row.id])?.pop().unwrap_or_default();
    for place in &places {
        match read_one(bucket, catalog, place) {
            Ok(sealed) => return Ok(Ok(sealed)),
            Err(e @ Error::Offline { .. }) => return Err(e),
            Err(_) => {}
        }
    }
    Ok(Err(first))
}

fn get(bucket: &dyn Bucket, catalog: &Catalog, pack: i64, start: u64, end: u64) -> Result<Vec<u8>> {
    match catalog.pack(pack) {
        Some(pack) => bucket.get(&names::pack(pack.kind, pack.name), start..end),
        None => Err(gone()),
    }
}

fn gone() -> Error {
    Error::Missing("the record's pack".into())
}

/// What is said of a record that no pack holds.
pub fn missing(id: RecordId) -> Error {
    Error::Missing(format!("record {}", id.short()))
}

fn truncated(place: &Location) -> Error {
    Error::corrupt(format!("record {}", place.row.id.short()), "its pack is shorter than its table says")
}
