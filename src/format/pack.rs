//! Packs: immutable objects of sealed records with a table at the end.
//!
//! Promises that a pack can be read through its trailer, or without it by a forward scan that
//! loses only damaged records; that its name covers the table, and each record's id (raw) or check
//! (compressed) covers its payload, so that no flipped bit goes unnoticed. Knows no store.

use std::sync::Arc;

use super::seal::{self, FLAG_ZSTD, Sealed, max_raw};
use super::wire::Reader;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, PackId, RecordId};
use crate::model::entry::Kind;

/// Bytes before the first record.
pub const HEAD_LEN: usize = 40;
/// Bytes before each payload.
pub const RECORD_LEN: usize = 56;
/// Bytes of a table row.
pub const ROW_LEN: usize = 48;
/// Bytes after the table.
pub const FOOT_LEN: usize = 48;
/// Packs are closed when they reach this size.
pub const TARGET: usize = 32 << 20;
/// Most rows in a table, so that a footer cannot ask for much memory.
const MAX_ROWS: u32 = 1 << 20;

/// Times its own length that a pack may cost a scan in payloads that prove to be none.
const SALVAGE_WASTE: usize = 8;

const HEAD_MAGIC: &[u8; 8] = b"ddrpack1";
const RECORD_MAGIC: &[u8; 4] = b"ddrr";
const FOOT_MAGIC: &[u8; 8] = b"ddrtail1";

/// One row of the table: where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The record.
    pub id: RecordId,
    /// Chunk or manifest.
    pub kind: Kind,
    /// Seal flags.
    pub flags: u8,
    /// Offset of the record head in the pack.
    pub offset: u32,
    /// Payload bytes.
    pub stored: u32,
    /// Decoded bytes.
    pub raw: u32,
}

impl Row {
    /// Offset just behind the record.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + RECORD_LEN as u64 + u64::from(self.stored)
    }
}

/// A finished pack, ready to be put: its parts in order make the object.
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// Its table.
    pub rows: Vec<Row>,
    /// The bytes, in parts; large payloads are shared, not copied.
    pub parts: Vec<Arc<Vec<u8>>>,
}

impl Pack {
    /// Size of the object.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|p| p.len() as u64).sum()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Collects records for one pack.
pub struct PackWriter {
    head: Vec<u8>,
    records: Vec<Sealed>,
    len: usize,
}

impl PackWriter {
    /// Starts a pack; `nonce` makes its name unlike any other's.
    pub fn new(folder: FolderId, nonce: u64) -> Self {
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(HEAD_MAGIC);
        head.extend_from_slice(&folder.0);
        head.extend_from_slice(&nonce.to_le_bytes());
        head.extend_from_slice(&[0; 8]);
        Self { head, records: Vec::new(), len: HEAD_LEN }
    }

    /// Adds a record.
    pub fn push(&mut self, sealed: Sealed) {
        self.len += RECORD_LEN + sealed.payload.len();
        self.records.push(sealed);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no record was added.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records added so far.
    pub fn records(&self) -> &[Sealed] {
        &self.records
    }

    /// Whether the pack should be closed before a record of `next` more bytes.
    pub fn is_full(&self, next: usize) -> bool {
        !self.records.is_empty() && self.len + RECORD_LEN + next > TARGET
    }

    /// Lays the records out and computes the table and the name.
    pub fn finish(self) -> Pack {
        const SHARE_FROM: usize = 64 << 10;
        let mut parts = Vec::new();
        let mut rows = Vec::with_capacity(self.records.len());
        let mut table = Vec::with_capacity(self.records.len() * ROW_LEN);
        let mut run = self.head.clone();
        let mut offset = HEAD_LEN as u32;
        for sealed in self.records {
            let row = Row {
                id: sealed.id,
                kind: sealed.kind,
                flags: sealed.flags,
                offset,
                stored: sealed.payload.len() as u32,
                raw: sealed.raw_len,
            };
            run.extend_from_slice(&record_head(&sealed));
            if sealed.payload.len() >= SHARE_FROM {
                parts.push(Arc::new(std::mem::take(&mut run)));
                parts.push(sealed.payload);
            } else {
                run.extend_from_slice(&sealed.payload);
            }
            offset = row.end() as u32;
            table.extend_from_slice(&encode_row(&row));
            rows.push(row);
        }
        let id = name(&self.head, &table);
        run.extend_from_slice(&table);
        run.extend_from_slice(&(rows.len() as u32).to_le_bytes());
        run.extend_from_slice(&[0; 4]);
        run.extend_from_slice(&id.0);
        run.extend_from_slice(FOOT_MAGIC);
        parts.push(Arc::new(run));
        Pack { id, rows, parts }
    }
}

fn name(head: &[u8], table: &[u8]) -> PackId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head);
    hasher.update(table);
    PackId(*hasher.finalize().as_bytes())
}

fn record_head(sealed: &Sealed) -> [u8; RECORD_LEN] {
    let mut out = [0u8; RECORD_LEN];
    out[..4].copy_from_slice(RECORD_MAGIC);
    out[4] = sealed.kind.byte();
    out[5] = sealed.flags;
    out[8..12].copy_from_slice(&(sealed.payload.len() as u32).to_le_bytes());
    out[12..16].copy_from_slice(&sealed.raw_len.to_le_bytes());
    out[16..48].copy_from_slice(&sealed.id.0);
    out[48..].copy_from_slice(&sealed.check().to_le_bytes());
    out
}

fn encode_row(row: &Row) -> [u8; ROW_LEN] {
    let mut out = [0u8; ROW_LEN];
    out[..32].copy_from_slice(&row.id.0);
    out[32..36].copy_from_slice(&row.offset.to_le_bytes());
    out[36..40].copy_from_slice(&row.stored.to_le_bytes());
    out[40..44].copy_from_slice(&row.raw.to_le_bytes());
    out[44] = row.kind.byte();
    out[45] = row.flags;
    out
}

/// What the last [`FOOT_LEN`] bytes of a pack say.
pub struct Foot {
    /// Rows in the table.
    pub count: u32,
    /// The pack's name.
    pub id: PackId,
}

impl Foot {
    /// Reads the footer.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("pack footer", bytes);
        let count = r.u32()?;
        let reserved = r.u32()?;
        let id = PackId(r.array()?);
        let magic: [u8; 8] = r.array()?;
        r.end()?;
        if &magic != FOOT_MAGIC || reserved != 0 {
            return Err(Error::corrupt("pack footer", "wrong magic"));
        }
        if count > MAX_ROWS {
            return Err(Error::corrupt("pack footer", "row count out of range"));
        }
        Ok(Self { count, id })
    }

    /// Bytes of table and footer together.
    pub fn trailer_len(&self) -> u64 {
        u64::from(self.count) * ROW_LEN as u64 + FOOT_LEN as u64
    }
}

/// Reads and checks a pack's table: `head` are its first [`HEAD_LEN`] bytes, `trailer` table and
/// footer, `size` the object's size, `expect` the name it was listed under.
pub fn decode_table(
    head: &[u8],
    trailer: &[u8],
    size: u64,
    folder: FolderId,
    expect: PackId,
) -> Result<Vec<Row>> {
    let bad = |why: &str| Err(Error::corrupt(format!("pack {}", expect.short()), why));
    let Some(at) = trailer.len().checked_sub(FOOT_LEN) else { return bad("too short") };
    let (table, foot) = trailer.split_at(at);
    let foot = Foot::decode(foot)?;
    if table.len() != foot.count as usize * ROW_LEN {
        return bad("table length does not fit its count");
    }
    if name(head, table) != expect || foot.id != expect {
        return bad("head and table do not hash to its name");
    }
    // Only now: a flipped bit in the folder's id is damage, not another folder's pack.
    check_head(head, folder)?;
    let mut rows = Vec::with_capacity(foot.count as usize);
    let mut next = HEAD_LEN as u64;
    for row in table.chunks_exact(ROW_LEN) {
        let row = decode_row(row)?;
        if u64::from(row.offset) != next || row.raw as usize > max_raw(row.kind) {
            return bad("table rows overlap or leave gaps");
        }
        next = row.end();
        rows.push(row);
    }
    if next + trailer.len() as u64 != size {
        return bad("size does not fit the table");
    }
    Ok(rows)
}

fn check_head(head: &[u8], folder: FolderId) -> Result<()> {
    let mut r = Reader::new("pack head", head);
    if &r.array::<8>()? != HEAD_MAGIC {
        return Err(Error::corrupt("pack head", "wrong magic"));
    }
    if FolderId(r.array()?) != folder {
        return Err(Error::Refused("the pack belongs to another folder".into()));
    }
    r.u64()?;
    if r.u64()? != 0 {
        return Err(Error::corrupt("pack head", "reserved bytes are set"));
    }
    r.end()
}

fn decode_row(bytes: &[u8]) -> Result<Row> {
    let mut r = Reader::new("pack table", bytes);
    let id = RecordId(r.array()?);
    let (offset, stored, raw) = (r.u32()?, r.u32()?, r.u32()?);
    let (kind, flags) = (Kind::from_byte(r.u8()?)?, r.u8()?);
    if r.u16()? != 0 {
        return Err(Error::corrupt("pack table", "reserved bytes are set"));
    }
    Ok(Row { id, kind, flags, offset, stored, raw })
}

/// Reads one record at `row` from `bytes` (head and payload); checks it against the row, not yet
/// its hash (see [`super::seal::Opener`]).
pub fn decode_record(bytes: &[u8], row: &Row) -> Result<Sealed> {
    let record = Record::parse(bytes)?;
    let sealed = record.to_sealed();
    let fits = sealed.id == row.id
        && sealed.kind == row.kind
        && sealed.flags == row.flags
        && sealed.payload.len() == row.stored as usize
        && sealed.raw_len == row.raw;
    if !fits || bytes.len() != RECORD_LEN + sealed.payload.len() {
        return Err(Error::corrupt(format!("record {}", row.id.short()), "its head differs from the table"));
    }
    if sealed.check() != record.check {
        return Err(Error::corrupt(format!("record {}", row.id.short()), "checksum does not match"));
    }
    Ok(sealed)
}

/// The record at the front of some bytes, not copied yet.
struct Record<'a> {
    id: RecordId,
    kind: Kind,
    flags: u8,
    raw_len: u32,
    check: u64,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new("pack record", bytes);
        if &r.array::<4>()? != RECORD_MAGIC {
            return Err(Error::corrupt("pack record", "wrong magic"));
        }
        let (kind, flags) = (Kind::from_byte(r.u8()?)?, r.u8()?);
        let reserved = r.u16()?;
        let (stored, raw_len) = (r.u32()?, r.u32()?);
        let id = RecordId(r.array()?);
        let check = r.u64()?;
        let payload = r.bytes(stored as usize)?;
        if reserved != 0 || raw_len as usize > max_raw(kind) || (flags & FLAG_ZSTD == 0 && stored != raw_len)
        {
            return Err(Error::corrupt("pack record", "fields out of range"));
        }
        Ok(Self { id, kind, flags, raw_len, check, payload })
    }

    fn to_sealed(&self) -> Sealed {
        let payload = Arc::new(self.payload.to_vec());
        Sealed { id: self.id, kind: self.kind, flags: self.flags, raw_len: self.raw_len, payload }
    }
}

/// Every readable record of a pack whose trailer is lost or damaged, found by its magic; records
/// still have to be opened, which checks their hash.
///
/// Work is bounded by the pack's length: damage makes few false heads, but a hostile pack can hold
/// one every few bytes, each with a payload up to the end. After too many the scan gives up.
pub fn salvage(bytes: &[u8]) -> Vec<Sealed> {
    let mut found = Vec::new();
    let (mut at, mut in_vain) = (0, 0);
    while let Some(step) = bytes.get(at..).and_then(|rest| find(rest, RECORD_MAGIC)) {
        at += step;
        let Ok(record) = Record::parse(&bytes[at..]) else {
            at += 1;
            continue;
        };
        if seal::check(record.flags, record.payload) == record.check {
            at += RECORD_LEN + record.payload.len();
            found.push(record.to_sealed());
            continue;
        }
        at += 1;
        in_vain += record.payload.len();
        if in_vain > SALVAGE_WASTE * bytes.len() {
            break;
        }
    }
    found
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::{FolderKey, Keys};
    use crate::format::seal::{Opener, Sealer};

    const FOLDER: FolderId = FolderId([3; 16]);

    fn sample() -> (Keys, Pack, Vec<u8>) {
        let keys = Keys::new(&FolderKey([1; 32]));
        let mut sealer = Sealer::new().expect("zstd");
        let mut writer = PackWriter::new(FOLDER, 9);
        for n in 0..5u8 {
            let raw = vec![n; 100 + usize::from(n) * 70_000];
            writer.push(sealer.seal(keys.record_id(Kind::Chunk, &raw), Kind::Chunk, raw));
        }
        let pack = writer.finish();
        let bytes = pack.parts.iter().flat_map(|p| p.iter().copied()).collect();
        (keys, pack, bytes)
    }

    fn read_all(keys: &Keys, bytes: &[u8], id: PackId) -> Result<usize> {
        let foot = Foot::decode(bytes.get(bytes.len().saturating_sub(FOOT_LEN)..).unwrap_or_default())?;
        let at = (bytes.len() as u64)
            .checked_sub(foot.trailer_len())
            .ok_or_else(|| Error::corrupt("pack", "short"))?;
        let head = bytes.get(..HEAD_LEN).unwrap_or_default();
        let rows = decode_table(head, &bytes[at as usize..], bytes.len() as u64, FOLDER, id)?;
        let mut opener = Opener::new(keys)?;
        for row in &rows {
            let record = &bytes[row.offset as usize..row.end() as usize];
            opener.verify(&decode_record(record, row)?)?;
        }
        Ok(rows.len())
    }

    #[test]
    fn a_pack_reads_back_through_its_trailer() {
        let (keys, pack, bytes) = sample();
        assert_eq!(read_all(&keys, &bytes, pack.id).expect("own pack"), 5);
        assert_eq!(pack.len(), bytes.len() as u64);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (keys, pack, bytes) = sample();
        for bit in (0..bytes.len() * 8).step_by(11) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = read_all(&keys, &bad, pack.id).expect_err("damage");
            assert!(found.is_corruption(), "bit {bit}: {found}");
        }
    }

    #[test]
    fn a_forward_scan_loses_only_the_damaged_record() {
        let (_, _, mut bytes) = sample();
        let end = bytes.len() - FOOT_LEN;
        bytes.truncate(end);
        assert_eq!(salvage(&bytes).len(), 5);
        bytes[HEAD_LEN + 8] ^= 0xff;
        assert_eq!(salvage(&bytes).len(), 4);
    }
}
