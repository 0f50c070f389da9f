//! Bringing an index up to date with what a bucket holds.
//!
//! Promises that packs which vanished take their records with them, that a new pack's table is
//! checked before its rows are believed, and that a damaged pack costs only itself. A listing that
//! fails changes nothing.

use std::collections::{HashMap, HashSet};

use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, PackId};
use crate::format::pack::{FOOT_LEN, Foot, HEAD_LEN, Row, decode_table};
use crate::model::entry::Kind;
use crate::store::index::{KnownPack, NewPack};
use crate::store::packs::catalog::Catalog;
use crate::store::{Bucket, marks, names};

/// The end of a pack that is read first: enough for the table of most.
const TAIL: u64 = 64 << 10;
/// Rows collected before they go into the index.
const BATCH_ROWS: usize = 100_000;

/// What a look at the store found.
#[derive(Debug, Default)]
pub struct OpenStats {
    /// Packs that were not there before.
    pub new_packs: u64,
    /// Packs that are gone.
    pub vanished_packs: u64,
    /// Every object that is known to be damaged or could not be read, and why.
    pub damaged: Vec<(String, Error)>,
}

/// A pack as it is listed.
struct Listed {
    kind: Kind,
    name: PackId,
    size: u64,
}

/// A pack whose table was read, or why not.
struct Loaded {
    pack: Listed,
    rows: std::result::Result<Vec<Row>, String>,
}

/// Lists the store and makes the catalog say what is there.
pub fn refresh(bucket: &dyn Bucket, folder: FolderId, catalog: &Catalog) -> Result<OpenStats> {
    // What is known must be asked before what is there: a pack written in between is then listed
    // but not known, never known but not listed.
    let known = catalog.index().packs()?;
    let listed = list_packs(bucket)?;
    let mut stats = OpenStats::default();

    let sizes: HashMap<(Kind, PackId), u64> = listed.iter().map(|p| ((p.kind, p.name), p.size)).collect();
    let is_same = |p: &KnownPack| sizes.get(&(p.kind, p.name)) == Some(&p.size);
    let gone: Vec<i64> = known.iter().filter(|p| !is_same(p)).map(|p| p.num).collect();
    stats.vanished_packs = known.iter().filter(|p| !sizes.contains_key(&(p.kind, p.name))).count() as u64;
    catalog.index().remove(&gone)?;

    let have: HashSet<(Kind, PackId)> =
        known.iter().filter(|p| is_same(p)).map(|p| (p.kind, p.name)).collect();
    load_new(bucket, folder, catalog, listed, &have, &mut stats)?;
    let unreadable_mark = apply_mark(bucket, folder, catalog)?;
    catalog.reload()?;
    for pack in catalog.packs() {
        if let Some(why) = pack.damaged {
            let name = names::pack(pack.kind, pack.name);
            stats.damaged.push((name.clone(), Error::corrupt(name, why)));
        }
    }
    stats.damaged.extend(unreadable_mark);
    Ok(stats)
}

fn list_packs(bucket: &dyn Bucket) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for kind in [Kind::Chunk, Kind::Manifest] {
        bucket.list(names::area(kind), &mut |name, size| {
            if let Some((kind, name)) = names::parse_pack(name) {
                listed.push(Listed { kind, name, size });
            }
            Ok(())
        })?;
    }
    Ok(listed)
}

/// Reads the tables of packs that are not known yet.
fn load_new(
    bucket: &dyn Bucket,
    folder: FolderId,
    catalog: &Catalog,
    listed: Vec<Listed>,
    have: &HashSet<(Kind, PackId)>,
    stats: &mut OpenStats,
) -> Result<()> {
    let mut batch: Vec<Loaded> = Vec::new();
    let mut rows_in_batch = 0;
    for pack in listed.into_iter().filter(|p| !have.contains(&(p.kind, p.name))) {
        let object = names::pack(pack.kind, pack.name);
        let rows = match read_table(bucket, folder, pack.kind, pack.name, pack.size) {
            Ok(rows) => Ok(rows),
            // Deleted since it was listed.
            Err(Error::Missing(_)) => continue,
            Err(e @ (Error::Corrupt { .. } | Error::Refused(_) | Error::Unsupported(_))) => {
                Err(e.to_string())
            }
            Err(e @ Error::Io { .. }) => {
                // One unreadable object; perhaps it can be read next time.
                stats.damaged.push((object, e));
                continue;
            }
            Err(e) => return Err(e),
        };
        stats.new_packs += 1;
        rows_in_batch += rows.as_ref().map_or(1, Vec::len);
        batch.push(Loaded { pack, rows });
        if rows_in_batch >= BATCH_ROWS {
            add_batch(catalog, &batch)?;
            batch.clear();
            rows_in_batch = 0;
        }
    }
    add_batch(catalog, &batch)
}

fn add_batch(catalog: &Catalog, batch: &[Loaded]) -> Result<()> {
    let packs: Vec<NewPack> = batch
        .iter()
        .map(|loaded| {
            let Listed { kind, name, size } = loaded.pack;
            let rows = loaded.rows.as_deref().map_err(String::as_str);
            NewPack { name, kind, size, rows, verified: 0 }
        })
        .collect();
    if packs.is_empty() { Ok(()) } else { catalog.index().add(&packs).map(drop) }
}

/// Sets the condemned flags as the newest mark says. An unreadable mark is returned: until it is
/// mended nobody can say which packs will stay.
fn apply_mark(bucket: &dyn Bucket, folder: FolderId, catalog: &Catalog) -> Result<Option<(String, Error)>> {
    let condemned: HashSet<PackId> = match marks::newest(bucket) {
        Ok(None) => HashSet::new(),
        Ok(Some(mark)) if mark.folder == folder => mark.condemned.iter().map(|c| c.pack).collect(),
        Ok(Some(mark)) => {
            let why = "it belongs to another folder";
            catalog.set_doubt(Some(why.into()));
            return Ok(Some((names::mark(mark.number), Error::Refused(why.into()))));
        }
        Err(e @ (Error::Corrupt { .. } | Error::Unsupported(_) | Error::Io { .. })) => {
            catalog.set_doubt(Some(e.to_string()));
            return Ok(Some((names::GC.into(), e)));
        }
        Err(e) => return Err(e),
    };
    let changed: Vec<(i64, bool)> = catalog
        .index()
        .packs()?
        .iter()
        .map(|p| (p.num, p.condemned, condemned.contains(&p.name)))
        .filter(|(_, was, is)| was != is)
        .map(|(num, _, is)| (num, is))
        .collect();
    catalog.index().set_condemned(&changed)?;
    catalog.set_doubt(None);
    Ok(None)
}

/// A pack's table, checked. What looks corrupt is read once more: a bad cable is not a bad disk.
pub fn read_table(
    bucket: &dyn Bucket,
    folder: FolderId,
    kind: Kind,
    id: PackId,
    size: u64,
) -> Result<Vec<Row>> {
    match try_read_table(bucket, folder, kind, id, size) {
        Err(e) if e.is_corruption() => try_read_table(bucket, folder, kind, id, size),
        other => other,
    }
}

fn try_read_table(
    bucket: &dyn Bucket,
    folder: FolderId,
    kind: Kind,
    id: PackId,
    size: u64,
) -> Result<Vec<Row>> {
    let object = names::pack(kind, id);
    let bad = |why: &str| Error::corrupt(object.as_str(), why);
    let smallest = (HEAD_LEN + FOOT_LEN) as u64;
    if size < smallest {
        return Err(bad("too short for a pack"));
    }
    let read = |from: u64, to: u64| {
        let bytes = bucket.get(&object, from..to)?;
        if bytes.len() as u64 == to - from { Ok(bytes) } else { Err(bad("shorter than it was listed")) }
    };
    let start = size.saturating_sub(TAIL);
    let tail = read(start, size)?;
    let trailer_len = Foot::decode(&tail[tail.len() - FOOT_LEN..])?.trailer_len();
    if trailer_len + HEAD_LEN as u64 > size {
        return Err(bad("row count does not fit its size"));
    }
    let head = if start == 0 { tail[..HEAD_LEN].to_vec() } else { read(0, HEAD_LEN as u64)? };
    let rows = if trailer_len <= tail.len() as u64 {
        decode_table(&head, &tail[tail.len() - trailer_len as usize..], size, folder, id)?
    } else {
        decode_table(&head, &read(size - trailer_len, size)?, size, folder, id)?
    };
    match rows.iter().all(|row| row.kind == kind) {
        true => Ok(rows),
        false => Err(bad("it holds records that do not belong in its area")),
    }
}
