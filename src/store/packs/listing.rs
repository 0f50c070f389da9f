//! Bringing an index up to date with what a bucket holds.
//!
//! Promises that packs which vanished take their records with them, that a new pack's table is
//! checked before its rows are believed, and that a damaged pack costs only itself. A listing that
//! fails changes nothing.

use std::collections::{HashMap, HashSet};

use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, PackId};
use crate::format::mark::Mark;
use crate::format::pack::{FOOT_LEN, Foot, HEAD_LEN, Row, decode_table};
use crate::model::entry::Kind;
use crate::store::index::{KnownPack, NewPack};
use crate::store::packs::catalog::Catalog;
use crate::store::{Bucket, marks, names};

/// The end of a pack that is read first: enough for the table of most.
const TAIL: u64 = 64 << 10;
/// Packs whose tables are asked for together.
const TOGETHER: usize = 256;
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
#[derive(Clone, Copy)]
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
    let (listed, mark) = look(bucket)?;
    let mut stats = OpenStats::default();

    let sizes: HashMap<(Kind, PackId), u64> = listed.iter().map(|p| ((p.kind, p.name), p.size)).collect();
    let is_same = |p: &KnownPack| sizes.get(&(p.kind, p.name)) == Some(&p.size);
    let gone: Vec<i64> = known.iter().filter(|p| !is_same(p)).map(|p| p.num).collect();
    stats.vanished_packs = known.iter().filter(|p| !sizes.contains_key(&(p.kind, p.name))).count() as u64;
    catalog.index().remove(&gone)?;

    let have: HashSet<(Kind, PackId)> =
        known.iter().filter(|p| is_same(p)).map(|p| (p.kind, p.name)).collect();
    load_new(bucket, folder, catalog, listed, &have, &mut stats)?;
    let unreadable_mark = apply_mark(mark, folder, catalog)?;
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

/// Lists the packs and reads the newest mark, all at once: each is a round trip.
fn look(bucket: &dyn Bucket) -> Result<(Vec<Listed>, Result<Option<Mark>>)> {
    std::thread::scope(|scope| {
        let manifests = scope.spawn(|| list_packs(bucket, Kind::Manifest));
        let mark = scope.spawn(|| marks::newest(bucket));
        let mut listed = list_packs(bucket, Kind::Chunk)?;
        let broke = || Error::Changed("listing a store failed unexpectedly".into());
        listed.extend(manifests.join().map_err(|_| broke())??);
        Ok((listed, mark.join().map_err(|_| broke())?))
    })
}

fn list_packs(bucket: &dyn Bucket, kind: Kind) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    bucket.list(names::area(kind), &mut |name, size| {
        if let Some((kind, name)) = names::parse_pack(name) {
            listed.push(Listed { kind, name, size });
        }
        Ok(())
    })?;
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
    let new: Vec<Listed> = listed.into_iter().filter(|p| !have.contains(&(p.kind, p.name))).collect();
    let mut batch: Vec<Loaded> = Vec::new();
    let mut rows_in_batch = 0;
    for some in new.chunks(TOGETHER) {
        each_table(bucket, folder, some, &mut |pack, rows| {
            let rows = match rows {
                Ok(rows) => Ok(rows),
                // Deleted since it was listed.
                Err(Error::Missing(_)) => return Ok(()),
                Err(e @ (Error::Corrupt { .. } | Error::Refused(_) | Error::Unsupported(_))) => {
                    Err(e.to_string())
                }
                Err(e @ Error::Io { .. }) => {
                    // One unreadable object; perhaps it can be read next time.
                    stats.damaged.push((names::pack(pack.kind, pack.name), e));
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            stats.new_packs += 1;
            rows_in_batch += rows.as_ref().map_or(1, Vec::len);
            batch.push(Loaded { pack: *pack, rows });
            if rows_in_batch >= BATCH_ROWS {
                add_batch(catalog, &std::mem::take(&mut batch))?;
                rows_in_batch = 0;
            }
            Ok(())
        })?;
    }
    add_batch(catalog, &batch)
}

/// Receives a pack and its table.
type TableSink<'a> = &'a mut dyn FnMut(&Listed, Result<Vec<Row>>) -> Result<()>;

/// Reads the tables of several packs, whose ends are asked for together.
fn each_table(bucket: &dyn Bucket, folder: FolderId, packs: &[Listed], sink: TableSink<'_>) -> Result<()> {
    let (mut wanted, mut whose) = (Vec::new(), Vec::new());
    for pack in packs {
        let object = names::pack(pack.kind, pack.name);
        let tail = pack.size.saturating_sub(TAIL)..pack.size;
        if tail.start > 0 {
            wanted.push((object.clone(), 0..HEAD_LEN as u64));
            whose.push((pack, false));
        }
        wanted.push((object, tail));
        whose.push((pack, true));
    }
    let mut head = None;
    bucket.get_all(&wanted, &mut |i, got| {
        let (pack, is_tail) = whose[i];
        if !is_tail {
            head = Some(got);
            return Ok(());
        }
        let ends = match head.take() {
            None => got.map(|tail| (None, tail)),
            Some(head) => head.and_then(|head| Ok((Some(head), got?))),
        };
        let Listed { kind, name, size } = *pack;
        let rows = match ends.and_then(|ends| try_read_table(bucket, folder, pack, ends)) {
            // What looks corrupt is read once more.
            Err(e) if e.is_corruption() => read_table(bucket, folder, kind, name, size),
            other => other,
        };
        sink(pack, rows)
    })
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
fn apply_mark(
    mark: Result<Option<Mark>>,
    folder: FolderId,
    catalog: &Catalog,
) -> Result<Option<(String, Error)>> {
    let condemned: HashSet<PackId> = match mark {
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
    name: PackId,
    size: u64,
) -> Result<Vec<Row>> {
    let pack = Listed { kind, name, size };
    let attempt = || {
        let start = size.saturating_sub(TAIL);
        let head = if start == 0 { None } else { Some(read(bucket, &pack, 0, HEAD_LEN as u64)?) };
        try_read_table(bucket, folder, &pack, (head, read(bucket, &pack, start, size)?))
    };
    match attempt() {
        Err(e) if e.is_corruption() => attempt(),
        other => other,
    }
}

fn read(bucket: &dyn Bucket, pack: &Listed, from: u64, to: u64) -> Result<Vec<u8>> {
    bucket.get(&names::pack(pack.kind, pack.name), from..to)
}

/// A pack's table from its ends: the head where that is not part of the tail, and the tail.
fn try_read_table(
    bucket: &dyn Bucket,
    folder: FolderId,
    pack: &Listed,
    (head, tail): (Option<Vec<u8>>, Vec<u8>),
) -> Result<Vec<Row>> {
    let Listed { kind, name, size } = *pack;
    let bad = |why: &str| Error::corrupt(names::pack(kind, name), why);
    if size < (HEAD_LEN + FOOT_LEN) as u64 {
        return Err(bad("too short for a pack"));
    }
    if tail.len() as u64 != size.min(TAIL) || head.as_ref().is_some_and(|head| head.len() != HEAD_LEN) {
        return Err(bad("shorter than it was listed"));
    }
    let trailer_len = Foot::decode(&tail[tail.len() - FOOT_LEN..])?.trailer_len();
    if trailer_len + HEAD_LEN as u64 > size {
        return Err(bad("row count does not fit its size"));
    }
    let head = head.unwrap_or_else(|| tail[..HEAD_LEN].to_vec());
    let rows = if trailer_len <= tail.len() as u64 {
        decode_table(&head, &tail[tail.len() - trailer_len as usize..], size, folder, name)?
    } else {
        let trailer = read(bucket, pack, size - trailer_len, size)?;
        if trailer.len() as u64 != trailer_len {
            return Err(bad("shorter than it was listed"));
        }
        decode_table(&head, &trailer, size, folder, name)?
    };
    match rows.iter().all(|row| row.kind == kind) {
        true => Ok(rows),
        false => Err(bad("it holds records that do not belong in its area")),
    }
}
