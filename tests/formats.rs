//! Every format, byte by byte: what released versions wrote must decode to the same values, and the
//! same values must encode to the same bytes. `DDR_BLESS=1` writes files that are missing; one that
//! exists is never written again, because a store out there looks like it.
//!
//! Compressed bytes may differ between versions of zstd, so those are only decoded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ddr::base::error::{Error, Result};
use ddr::base::id::{ContentId, FolderId, OriginId, PackId, RecordId, StoreId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::format::hold::Hold;
use ddr::format::key::{FolderKey, Keys, origin_id};
use ddr::format::log::{self, BatchHead};
use ddr::format::manifest;
use ddr::format::mark::{Condemned, Instant, Mark, Owner};
use ddr::format::pack::{self, FOOT_LEN, Foot, HEAD_LEN, Pack, PackWriter};
use ddr::format::seal::{FLAG_ZSTD, Opener, Sealed, Sealer};
use ddr::format::store::{FORMAT, StoreHead};
use ddr::format::stub::{InodeMark, MarkState, StubHead};
use ddr::format::wire;
use ddr::local::intent::{self, Intent, Item, Task};
use ddr::model::entry::{Body, Dot, Entry, FileKind, Kind, Op, Runs, Version};
use ddr::model::manifest::{Cutting, Manifest, Run};

const FOLDER: FolderId = FolderId([0x11; 16]);
const SECRET: [u8; 32] = [0x22; 32];
const PUBLIC: &str = "a09aa5f47a6759802ff955f8dc2d2a14a5c99d23be97f864127ff9383455a4f0";
const ORIGIN: OriginId = OriginId([0x66; 32]);

fn keys() -> Keys {
    Keys::new(&FolderKey([0x33; 32]))
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// A golden file. A missing one is written from `now` where that is asked for.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = dir().join(name);
    if !path.exists() && std::env::var_os("DDR_BLESS").is_some() {
        std::fs::create_dir_all(dir()).unwrap();
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; DDR_BLESS=1 writes it", path.display()))
}

fn same(name: &str, golden: &[u8], now: &[u8]) {
    let at = golden.iter().zip(now).position(|(a, b)| a != b);
    assert!(
        golden == now,
        "{name}: encoding changed at byte {at:?}; lengths {} and {}",
        golden.len(),
        now.len()
    );
}

/// Both ways, for formats whose encoding is fixed.
fn both<T: PartialEq + std::fmt::Debug>(
    name: &str,
    golden: &[u8],
    value: &T,
    now: &[u8],
    decode: impl Fn(&[u8]) -> Result<T>,
) {
    same(name, golden, now);
    assert_eq!(decode(golden).unwrap(), *value, "{name}");
    for len in 0..golden.len() {
        assert!(decode(&golden[..len]).is_err(), "{name} cut to {len} bytes");
    }
}

fn pack_of(records: &[Sealed]) -> Pack {
    let mut writer = PackWriter::new(FOLDER, 0x0102_0304_0506_0708);
    records.iter().for_each(|sealed| writer.push(sealed.clone()));
    writer.finish()
}

fn raw_record(kind: Kind, raw: &[u8]) -> Sealed {
    let (raw_len, payload) = (raw.len() as u32, Arc::new(raw.to_vec()));
    Sealed { id: keys().record_id(kind, raw), kind, flags: 0, raw_len, payload }
}

fn bytes_of(pack: &Pack) -> Vec<u8> {
    pack.parts.iter().flat_map(|part| part.iter().copied()).collect()
}

/// Name and opened records of a pack.
type Opened = (PackId, Vec<(Kind, Vec<u8>)>);

/// Reads a pack through its trailer.
fn read_pack(bytes: &[u8]) -> Result<Opened> {
    let short = || Error::corrupt("pack", "too short");
    let foot_at = bytes.len().checked_sub(FOOT_LEN).ok_or_else(short)?;
    let foot = Foot::decode(&bytes[foot_at..])?;
    let at = (bytes.len() as u64).checked_sub(foot.trailer_len()).ok_or_else(short)? as usize;
    let head = bytes.get(..HEAD_LEN).ok_or_else(short)?;
    let rows = pack::decode_table(head, &bytes[at..], bytes.len() as u64, FOLDER, foot.id)?;
    let mut opener = Opener::new(&keys())?;
    let open = |row: &pack::Row| {
        let sealed = pack::decode_record(&bytes[row.offset as usize..row.end() as usize], row)?;
        Ok((row.kind, opener.open(&sealed)?.to_vec()))
    };
    Ok((foot.id, rows.iter().map(open).collect::<Result<_>>()?))
}

#[test]
fn a_pack_of_raw_records_is_frozen() {
    let records = [raw_record(Kind::Chunk, b"one chunk"), raw_record(Kind::Chunk, b"")];
    let made = pack_of(&records);
    let golden = golden("pack-raw.bin", &bytes_of(&made));
    let value = (made.id, vec![(Kind::Chunk, b"one chunk".to_vec()), (Kind::Chunk, Vec::new())]);
    both("pack-raw.bin", &golden, &value, &bytes_of(&made), read_pack);
    let salvaged = pack::salvage(&golden[..golden.len() - FOOT_LEN]);
    assert_eq!(salvaged, records);
}

#[test]
fn a_pack_of_compressed_records_still_reads() {
    let text = b"all work and no play makes jack a dull boy; ".repeat(20);
    let raw = raw_record(Kind::Manifest, b"not compressed");
    let mut sealer = Sealer::new().unwrap();
    let packed = sealer.seal(keys().record_id(Kind::Manifest, &text), Kind::Manifest, text.clone());
    assert_eq!(packed.flags, FLAG_ZSTD);
    let made = pack_of(&[packed, raw]);
    let golden = golden("pack-zstd.bin", &bytes_of(&made));
    let (_, records) = read_pack(&golden).unwrap();
    assert_eq!(records, [(Kind::Manifest, text), (Kind::Manifest, b"not compressed".to_vec())]);
}

#[test]
fn manifests_are_frozen() {
    let data = |byte, len| Run::Data { id: RecordId([byte; 32]), len };
    let runs = vec![data(1, 1 << 20), Run::Hole { len: 1 << 36 }, data(2, 77)];
    let value = Manifest { cutting: Cutting::default(), runs };
    let now = manifest::encode(&value);
    let golden = golden("manifest.bin", &now);
    both("manifest.bin", &golden, &value, &now, |b| manifest::decode(b, (1 << 20) + (1 << 36) + 77));
}

fn body(kind: Kind) -> Body {
    Body { kind, id: RecordId([5; 32]) }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Entries that use every field and every kind.
fn entries() -> Vec<Entry> {
    let file = Version {
        kind: FileKind::File,
        content: Some(ContentId([4; 32])),
        body: Some(body(Kind::Manifest)),
        size: 5 << 20,
        mtime: Time { secs: -2, nanos: 999_999_999 },
        mode: 0o644,
        target: None,
    };
    let empty = Version { content: Some(ContentId([3; 32])), body: None, size: 0, ..file.clone() };
    let dir =
        Version { kind: FileKind::Dir, content: None, body: None, size: 0, mode: 0o755, ..file.clone() };
    let link = Version { kind: FileKind::Symlink, target: Some(b"a/\xff".to_vec()), ..dir.clone() };
    let put = |name: &str, version| Entry {
        hlc: 0x0190_0000_0000_0001,
        path: path(name),
        op: Op::Put(version),
        seen: vec![],
        base: None,
        moved_from: None,
        moved_to: None,
    };
    vec![
        Entry {
            seen: vec![Dot { origin: ORIGIN, number: 7 }],
            base: Some(ContentId([8; 32])),
            moved_from: Some(path("old/name")),
            ..put("new/name", file)
        },
        Entry { op: Op::Del, moved_to: Some(path("new/name")), ..put("old/name", dir.clone()) },
        put("empty", empty),
        put("dir", dir),
        put("link", link),
    ]
}

fn batch_head() -> BatchHead {
    let key = ContentId::from_hex(PUBLIC).unwrap().0;
    BatchHead {
        requires: vec![],
        folder: FOLDER,
        key,
        epoch: 0x0a0b_0c0d_0e0f_1011,
        from: 41,
        count: 5,
        prev: [9; 32],
        raw_len: 0,
        message: Some("what and why".into()),
        name: "laptop".into(),
    }
}

#[test]
fn entries_are_frozen() {
    let now: Vec<u8> = entries().iter().flat_map(wire::to_cbor).collect();
    let golden = golden("entries.bin", &now);
    same("entries.bin", &golden, &now);
    let mut decoder = minicbor::Decoder::new(&golden);
    let back: Vec<Entry> = (0..5).map(|_| decoder.decode().unwrap()).collect();
    assert_eq!((back, decoder.position()), (entries(), golden.len()));
}

#[test]
fn logs_still_read_and_their_heads_are_frozen() {
    let (now, _) = log::encode(batch_head(), &entries(), &SECRET).unwrap();
    let golden = golden("log.bin", &now);
    let batch = log::decode(&golden).unwrap();
    assert_eq!(batch.entries, entries());
    assert_eq!(batch.head, BatchHead { raw_len: batch.head.raw_len, ..batch_head() });
    assert_eq!(batch.head.origin(), origin_id(&batch.head.key, batch.head.epoch));
    assert_eq!((batch.head.to(), batch.hash), (45, *blake3::hash(&golden).as_bytes()));
    // Magic, length and head come before the compressed part.
    let head_end = 12 + u32::from_le_bytes(golden[8..12].try_into().unwrap()) as usize;
    same("log.bin (head)", &golden[..head_end], &now[..head_end]);
    for len in 0..golden.len() {
        assert!(log::decode(&golden[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn forgetting_is_frozen() {
    let runs = vec![Runs::of(ORIGIN, [1, 2, 3, 7, 9, 10])];
    assert_eq!(runs[0].runs, [0, 3, 3, 1, 1, 2]);
    assert_eq!(runs[0].ranges().collect::<Vec<_>>(), [(1, 3), (7, 7), (9, 10)]);
    let (base, moved_from, moved_to) = (None, None, None);
    let entry = |runs| {
        let (path, op) = (RelPath::root(), Op::Forget(runs));
        Entry {
            hlc: 9,
            path,
            op,
            seen: vec![],
            base,
            moved_from: moved_from.clone(),
            moved_to: moved_to.clone(),
        }
    };
    let value = entry(runs.clone());
    let now = wire::to_cbor(&value);
    both("forget.bin", &golden("forget.bin", &now), &value, &now, |bytes| wire::from_cbor("entry", bytes));
    value.validate().unwrap();
    for bad in [vec![1], vec![0, 0], vec![1, 1, 0, 1], vec![1, u64::MAX], vec![1, i64::MAX as u64]] {
        assert!(entry(vec![Runs { origin: ORIGIN, runs: bad }]).validate().is_err());
    }
    assert!(Entry { path: RelPath::new("a").unwrap(), ..value.clone() }.validate().is_err());
    assert!(Entry { op: Op::Del, ..value.clone() }.validate().is_err());
    let head = BatchHead {
        requires: vec![],
        folder: FOLDER,
        key: Default::default(),
        epoch: 1,
        from: 1,
        count: 0,
        prev: [0; 32],
        raw_len: 0,
        message: None,
        name: "nas".into(),
    };
    let (bytes, _) = log::encode(head, &[value], &SECRET).unwrap();
    assert_eq!(log::decode_head(&bytes).unwrap().requires, ["forget"]);
}

#[test]
fn holds_are_frozen() {
    let value = Hold {
        requires: vec![],
        folder: FOLDER,
        origin: ORIGIN,
        number: 300,
        adds: vec![body(Kind::Chunk), body(Kind::Manifest)],
        releases: vec![Body { kind: Kind::Chunk, id: RecordId([6; 32]) }],
        since: None,
    };
    both("hold.bin", &golden("hold.bin", &value.encode()), &value, &value.encode(), Hold::decode);
    let value = Hold { since: Some(299), releases: vec![], ..value };
    let golden = golden("hold-since.bin", &value.encode());
    both("hold-since.bin", &golden, &value, &value.encode(), Hold::decode);
    for since in [0, 301] {
        assert!(Hold::decode(&Hold { since: Some(since), ..value.clone() }.encode()).is_err());
    }
}

#[test]
fn gc_owners_are_frozen() {
    let value = Owner {
        requires: vec![],
        folder: FOLDER,
        origin: ORIGIN,
        epoch: 2,
        name: "nas".into(),
        peer_epoch: 3,
    };
    both("gc-owner.bin", &golden("gc-owner.bin", &value.encode()), &value, &value.encode(), Owner::decode);
}

#[test]
fn gc_marks_are_frozen() {
    let wall = Time { secs: 1_790_000_000, nanos: 123_456_789 };
    let at = Instant { wall, uptime: 4242, boot: "5d5b4c1e-0000-4000-8000-000000000000".into() };
    let value = Mark {
        requires: vec![],
        folder: FOLDER,
        number: 9,
        owner_epoch: 2,
        at: at.clone(),
        condemned: vec![Condemned { pack: PackId([0xcc; 32]), since: at }],
    };
    both("gc-mark.bin", &golden("gc-mark.bin", &value.encode()), &value, &value.encode(), Mark::decode);
}

#[test]
fn store_heads_are_frozen() {
    let store = StoreId([0x77; 16]);
    let key = Some([0x33; 32]);
    let value =
        StoreHead { format: FORMAT, requires: vec![], folder: FOLDER, store, key, name: "docs".into() };
    both(
        "store-head.bin",
        &golden("store-head.bin", &value.encode()),
        &value,
        &value.encode(),
        StoreHead::decode,
    );
    let keyless = StoreHead { key: None, ..value };
    assert_eq!(StoreHead::decode(&keyless.encode()).unwrap(), keyless);
}

fn stub_head() -> StubHead {
    StubHead {
        folder: FOLDER,
        content: ContentId([4; 32]),
        body: body(Kind::Manifest),
        size: 5 << 30,
        mtime: Time { secs: -2, nanos: 999_999_999 },
    }
}

#[test]
fn stub_headers_are_frozen() {
    let now = stub_head().encode(&keys(), b"holiday film\n\xff.mkv");
    let golden = golden("stub-header.bin", &now);
    both("stub-header.bin", &golden, &stub_head(), &now, |b| StubHead::decode(b, &keys(), FOLDER));
}

#[test]
fn inode_marks_are_frozen() {
    let of = |state| InodeMark { mount: [0x11; 6], ..InodeMark::of(&stub_head(), state) };
    let (filling, filled) = (of(MarkState::Filling), of(MarkState::Filled));
    let bytes = golden("inode-mark.bin", &filling.encode());
    both("inode-mark.bin", &bytes, &filling, &filling.encode(), InodeMark::decode);
    let bytes = golden("inode-mark-filled.bin", &filled.encode());
    both("inode-mark-filled.bin", &bytes, &filled, &filled.encode(), InodeMark::decode);
}

#[test]
fn intents_are_frozen() {
    let small = StubHead { body: body(Kind::Chunk), size: 4097, ..stub_head() };
    let items = [
        Item { path: path("a/film.mkv"), head: stub_head(), mode: 0o640, ino: None },
        Item { path: path("b"), head: small, mode: 0o444, ino: None },
    ];
    let temp = tempfile::tempdir().unwrap();
    Intent::begin(temp.path(), Task::Fill, &items).unwrap();
    let now = std::fs::read(temp.path().join("001")).unwrap();
    let golden = golden("intent.bin", &now);
    let decode = |bytes: &[u8]| {
        std::fs::write(temp.path().join("001"), bytes).unwrap();
        let (_, task, items) = intent::pending(temp.path())?.remove(0);
        Ok((task, items))
    };
    both("intent.bin", &golden, &(Task::Fill, items.to_vec()), &now, decode);
    // Since 0.2: items that name the inode as well.
    let items = items.map(|item| Item { ino: Some(0x1234_5678_9abc), ..item });
    std::fs::remove_file(temp.path().join("001")).unwrap();
    Intent::begin(temp.path(), Task::Stash, &items).unwrap();
    let now = std::fs::read(temp.path().join("001")).unwrap();
    let golden = self::golden("intent-inode.bin", &now);
    both("intent-inode.bin", &golden, &(Task::Stash, items.to_vec()), &now, decode);
}

#[test]
fn derived_ids_are_frozen() {
    let key = ContentId::from_hex(PUBLIC).unwrap().0;
    let mut now = Vec::new();
    now.extend_from_slice(&keys().record_id(Kind::Chunk, b"abc").0);
    now.extend_from_slice(&keys().record_id(Kind::Manifest, b"abc").0);
    now.extend_from_slice(&keys().stub_mac(b"abc"));
    now.extend_from_slice(&origin_id(&key, 0x0a0b_0c0d_0e0f_1011).0);
    same("ids.bin", &golden("ids.bin", &now), &now);
}

#[test]
fn every_golden_file_is_used() {
    let source = include_str!("formats.rs");
    let messages = include_str!("peer/golden.rs");
    for entry in std::fs::read_dir(dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_used = source.contains(&format!("golden(\"{name}\""))
            || messages.contains(&format!("golden/v1/{name}\""));
        assert!(is_used, "no test reads {name}");
    }
}

/// What fuzzing and reading found; each case once panicked, or cost far more than its input.
mod regressions {
    use super::*;

    #[test]
    fn a_manifest_with_absurd_chunk_sizes_is_refused() {
        // 1 << 255 overflows as soon as somebody asks for the smallest chunk.
        let good = manifest::encode(&Manifest { cutting: Cutting::default(), runs: vec![] });
        for (at, value) in [(9, 255), (10, 64), (11, 25), (9, 21), (10, 17), (11, 19), (9, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(manifest::decode_any(&bad).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn a_manifest_with_a_chunk_longer_than_any_is_refused() {
        let runs = vec![Run::Data { id: RecordId([1; 32]), len: (16 << 20) + 1 }];
        let bytes = manifest::encode(&Manifest { cutting: Cutting::default(), runs });
        assert!(manifest::decode_any(&bytes).is_err());
    }

    #[test]
    fn a_pack_full_of_false_heads_is_scanned_in_time() {
        // Each head claims a compressed payload up to the end: hashing them all would be quadratic.
        let len = 8 << 20;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() + 56 <= len {
            let left = (len - bytes.len() - 56) as u32;
            bytes.extend_from_slice(b"ddrr\x02\x01\0\0");
            bytes.extend_from_slice(&left.to_le_bytes());
            bytes.extend_from_slice(&left.to_le_bytes());
            bytes.extend_from_slice(&[0; 40]);
        }
        bytes.resize(len, 0);
        let begun = std::time::Instant::now();
        assert!(pack::salvage(&bytes).is_empty());
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_clock_beyond_its_end_is_refused() {
        // The next value of every peer that had seen it would have been one no peer accepts.
        for (hlc, ok) in [(i64::MAX as u64, true), (1 << 63, false), (u64::MAX, false)] {
            let entries = [Entry { hlc, ..entries().remove(1) }];
            let bytes = log::encode(batch_head(), &entries, &SECRET).unwrap().0;
            assert_eq!(log::decode(&bytes).is_ok(), ok, "{hlc:#x}");
        }
    }

    #[test]
    fn gc_marks_between_whose_times_nothing_can_be_computed_are_refused() {
        let at = |secs, uptime| Instant { wall: Time { secs, nanos: 0 }, uptime, boot: String::new() };
        let mark =
            |at| Mark { requires: vec![], folder: FOLDER, number: 1, owner_epoch: 1, at, condemned: vec![] };
        assert!(Mark::decode(&mark(at(0, 0)).encode()).is_ok());
        for bad in [at(i64::MIN, 0), at(i64::MAX, 0), at(0, u64::MAX)] {
            assert!(Mark::decode(&mark(bad).encode()).is_err());
        }
    }

    #[test]
    fn sequence_numbers_without_a_successor_are_refused() {
        let hold = |number| Hold {
            requires: vec![],
            folder: FOLDER,
            origin: ORIGIN,
            number,
            adds: vec![],
            releases: vec![],
            since: None,
        };
        assert!(Hold::decode(&hold(1).encode()).is_ok());
        for bad in [0, i64::MAX as u64, u64::MAX] {
            assert!(Hold::decode(&hold(bad).encode()).is_err());
            let owner = Owner {
                requires: vec![],
                folder: FOLDER,
                origin: ORIGIN,
                epoch: bad,
                name: "a".into(),
                peer_epoch: 3,
            };
            assert!(Owner::decode(&owner.encode()).is_err());
        }
        let far = BatchHead { from: i64::MAX as u64 - 5, ..batch_head() };
        assert!(log::decode(&log::encode(far, &entries(), &SECRET).unwrap().0).is_err());
    }
}
