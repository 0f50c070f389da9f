//! Packs: raw bytes into every decoder, then the same bytes as records of a pack whose hashes fit.
#![no_main]

use std::sync::Arc;

use ddr::base::id::{PackId, RecordId};
use ddr::format::pack::{self, FOOT_LEN, Foot, HEAD_LEN, PackWriter, RECORD_LEN, ROW_LEN};
use ddr::format::seal::{FLAG_ZSTD, Opener, Sealed, Sealer};
use ddr::model::entry::Kind;
use ddr_fuzz::{FOLDER, Source, keys, seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seed("pack", &seeds()),
    |data: &[u8]| {
        raw(data);
        let Some(made) = build(data) else { return };
        whole(&made);
    }
);

/// Nothing is known of these bytes.
fn raw(data: &[u8]) {
    let _ = Foot::decode(data);
    if let Some((head, rest)) = data.split_at_checked(HEAD_LEN) {
        if let Some(foot) = rest.len().checked_sub(FOOT_LEN).and_then(|at| Foot::decode(&rest[at..]).ok()) {
            let at = (data.len() as u64).saturating_sub(foot.trailer_len()) as usize;
            let _ = pack::decode_table(head, &data[at..], data.len() as u64, FOLDER, foot.id);
        }
        let _ = pack::decode_table(head, rest, data.len() as u64, FOLDER, PackId([0; 32]));
    }
    open_all(&pack::salvage(data));
}

fn open_all(found: &[Sealed]) {
    let keys = keys();
    let mut opener = Opener::new(&keys).expect("zstd");
    for sealed in found {
        let verified = opener.verify(sealed).is_ok();
        match opener.open(sealed) {
            Ok(raw) => {
                assert!(verified && raw.len() == sealed.raw_len as usize);
                assert_eq!(keys.record_id(sealed.kind, &raw), sealed.id);
            }
            Err(_) => assert!(!verified),
        }
    }
}

/// A pack whose lengths, checks and hashes fit, while kinds, flags, payloads and the declared
/// lengths are the fuzzer's. Also says whether its foot and rows were left valid.
fn build(data: &[u8]) -> Option<Vec<u8>> {
    let mut source = Source(data);
    let (count, damage) = (source.byte() % 8, source.short());
    let mut out = Vec::new();
    out.extend_from_slice(b"ddrpack1");
    out.extend_from_slice(&FOLDER.0);
    out.extend_from_slice(&[7; 8]);
    out.extend_from_slice(&[0; 8]);
    let mut table = Vec::new();
    for _ in 0..count {
        let offset = out.len() as u32;
        let sealed = record(&mut source);
        out.extend_from_slice(b"ddrr");
        out.extend_from_slice(&[sealed.kind.byte(), sealed.flags, 0, 0]);
        out.extend_from_slice(&(sealed.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&sealed.raw_len.to_le_bytes());
        out.extend_from_slice(&sealed.id.0);
        out.extend_from_slice(&sealed.check().to_le_bytes());
        out.extend_from_slice(&sealed.payload);
        table.extend_from_slice(&sealed.id.0);
        table.extend_from_slice(&offset.to_le_bytes());
        table.extend_from_slice(&(sealed.payload.len() as u32).to_le_bytes());
        table.extend_from_slice(&sealed.raw_len.to_le_bytes());
        table.extend_from_slice(&[sealed.kind.byte(), sealed.flags, 0, 0]);
    }
    // Damage to the table that its hash does not reveal.
    if damage != 0 && !table.is_empty() {
        let at = usize::from(damage >> 3) % table.len();
        table[at] ^= 1 << (damage & 7);
    }
    let id = blake3::Hasher::new().update(&out[..HEAD_LEN]).update(&table).finalize();
    out.extend_from_slice(&table);
    out.extend_from_slice(&u32::from(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"ddrtail1");
    Some(out)
}

fn record(source: &mut Source) -> Sealed {
    let shape = source.byte();
    let kind = if shape & 1 == 0 { Kind::Chunk } else { Kind::Manifest };
    let (declared, len) = (source.int(), usize::from(source.short()));
    let bytes = source.take(len).to_vec();
    let (flags, raw_len, payload, raw) = match shape >> 1 & 7 {
        // A raw record.
        0 | 1 => (0, bytes.len() as u32, bytes.clone(), bytes),
        // A proper frame of the fuzzer's bytes.
        2 => (FLAG_ZSTD, bytes.len() as u32, zstd::bulk::compress(&bytes, 3).unwrap_or_default(), bytes),
        // A proper frame of another length than declared.
        3 => (FLAG_ZSTD, declared, zstd::bulk::compress(&bytes, 3).unwrap_or_default(), bytes),
        // The fuzzer's bytes as a frame.
        4 => (FLAG_ZSTD, declared & 0xf_ffff, bytes, Vec::new()),
        _ => (shape >> 4, declared, bytes.clone(), bytes),
    };
    let id = if shape & 0x80 == 0 { keys().record_id(kind, &raw) } else { RecordId([9; 32]) };
    Sealed { id, kind, flags, raw_len, payload: Arc::new(payload) }
}

/// Reads the pack as `fsck` does; one whose every record reads must be written again alike.
fn whole(bytes: &[u8]) {
    let foot = Foot::decode(&bytes[bytes.len() - FOOT_LEN..]).expect("the foot was made well");
    assert_eq!(foot.trailer_len(), u64::from(foot.count) * ROW_LEN as u64 + FOOT_LEN as u64);
    let at = bytes.len() - foot.trailer_len() as usize;
    let size = bytes.len() as u64;
    let salvaged = pack::salvage(&bytes[..at]);
    open_all(&salvaged);
    let Ok(rows) = pack::decode_table(&bytes[..HEAD_LEN], &bytes[at..], size, FOLDER, foot.id) else {
        return;
    };
    let mut writer = PackWriter::new(FOLDER, u64::from_le_bytes([7; 8]));
    for row in &rows {
        let record = &bytes[row.offset as usize..row.end() as usize];
        assert!(record.len() >= RECORD_LEN);
        let Ok(sealed) = pack::decode_record(record, row) else { return };
        writer.push(sealed);
    }
    open_all(writer.records());
    let again = writer.finish();
    assert_eq!(again.id, foot.id);
    assert_eq!(again.rows, rows);
    assert_eq!(again.parts.concat_bytes(), bytes);
    assert!(salvaged.len() >= rows.len(), "a forward scan finds whatever the table does");
}

trait Concat {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl Concat for Vec<Arc<Vec<u8>>> {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|part| part.iter().copied()).collect()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let keys = keys();
    let mut sealer = Sealer::new().expect("zstd");
    let mut writer = PackWriter::new(FOLDER, u64::from_le_bytes([7; 8]));
    for raw in [b"raw".to_vec(), vec![b'z'; 300], Vec::new()] {
        writer.push(sealer.seal(keys.record_id(Kind::Chunk, &raw), Kind::Chunk, raw));
    }
    let mut shapes = vec![5, 0, 0];
    for shape in [0u8, 1, 4, 6, 8] {
        shapes.push(shape);
        shapes.extend_from_slice(&20u32.to_le_bytes());
        shapes.extend_from_slice(&20u16.to_le_bytes());
        shapes.extend_from_slice(&[b'a'; 20]);
    }
    vec![writer.finish().parts.concat_bytes(), shapes]
}
