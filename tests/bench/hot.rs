//! `cargo bench`: the loops that every byte, entry or file of a folder goes through.
//!
//! Promises the same data in every run. Whole commands beside other tools: `tests/bench/compare`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ddr::base::id::{ContentId, FolderId, StoreId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::format::chunker;
use ddr::format::key::{FolderKey, Keys};
use ddr::format::log::{self, BatchHead};
use ddr::format::seal::{Opener, Sealer};
use ddr::format::store::{FORMAT, StoreHead};
use ddr::format::stub::StubHead;
use ddr::model::entry::{Body, Entry, FileKind, Kind, Op, Version};
use ddr::model::manifest::Cutting;
use ddr::model::policy::choose::{Bounds, Candidate, Rank, choose};
use ddr::store::Store;
use ddr::store::memory::MemoryBucket;
use ddr::store::packs::Packs;

const FOLDER: FolderId = FolderId([1; 16]);
const MIB: usize = 1 << 20;

fn keys() -> Keys {
    Keys::new(&FolderKey([7; 32]))
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines that compress like text.
fn text(len: usize) -> Vec<u8> {
    (0u64..).flat_map(|i| format!("{i} {} of a report\n", i * i % 977).into_bytes()).take(len).collect()
}

fn chunks(c: &mut Criterion) {
    let (keys, cutting, bytes) = (keys(), Cutting::default(), noise(1, 16 * MIB));
    let mut group = c.benchmark_group("content");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("cut", |b| {
        b.iter(|| {
            let (mut at, mut count) = (0, 0);
            while at < bytes.len() {
                at += chunker::cut(&cutting, &bytes[at..]);
                count += 1;
            }
            black_box(count)
        })
    });
    group.bench_function("hash as content and as chunks", |b| {
        b.iter(|| {
            black_box(blake3::hash(&bytes));
            for chunk in bytes.chunks(MIB) {
                black_box(keys.record_id(Kind::Chunk, chunk));
            }
        })
    });
    group.finish();
}

fn seal(c: &mut Criterion) {
    let keys = keys();
    let mut group = c.benchmark_group("record of 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    for (what, raw) in [("noise", noise(2, MIB)), ("text", text(MIB))] {
        let id = keys.record_id(Kind::Chunk, &raw);
        let mut sealer = Sealer::new().expect("a sealer");
        group.bench_function(format!("seal {what}"), |b| {
            b.iter_batched(|| raw.clone(), |raw| sealer.seal(id, Kind::Chunk, raw), BatchSize::LargeInput)
        });
        let sealed = sealer.seal(id, Kind::Chunk, raw);
        let mut opener = Opener::new(&keys).expect("an opener");
        group.bench_function(format!("open {what}"), |b| {
            b.iter(|| black_box(opener.open(&sealed).expect("whole")))
        });
    }
    group.finish();
}

fn packs(c: &mut Criterion) {
    let keys = keys();
    let head = StoreHead {
        format: FORMAT,
        requires: vec![],
        folder: FOLDER,
        store: StoreId([3; 16]),
        key: None,
        name: "bench".into(),
    };
    let mut sealer = Sealer::new().expect("a sealer");
    let records: Vec<_> = (0..512)
        .map(|n| {
            let raw = noise(n, 64 << 10);
            sealer.seal(keys.record_id(Kind::Chunk, &raw), Kind::Chunk, raw)
        })
        .collect();
    let ids: Vec<_> = records.iter().map(|sealed| sealed.id).collect();
    let open = || {
        let temp = tempfile::tempdir().expect("a directory for the index");
        let bucket = MemoryBucket::default();
        Packs::init(&bucket, &head).expect("a store");
        let packs = Packs::open("bench", Arc::new(bucket), FOLDER, &keys, temp.path()).expect("a store");
        (temp, packs)
    };
    let fill = |packs: &Packs| {
        records.iter().try_for_each(|sealed| packs.put(sealed.id, sealed.clone())).expect("room");
        packs.flush().expect("room");
    };
    let mut group = c.benchmark_group("512 records of 64 KiB in memory");
    group.throughput(Throughput::Bytes((records.len() * (64 << 10)) as u64));
    group.sample_size(10);
    group.bench_function("write", |b| {
        b.iter_batched(
            open,
            |(temp, packs)| {
                fill(&packs);
                (temp, packs)
            },
            BatchSize::PerIteration,
        )
    });
    let (_temp, full) = open();
    fill(&full);
    group.bench_function("read", |b| {
        b.iter(|| full.get(&ids, &mut |_, got| got.map(|sealed| drop(black_box(sealed)))).expect("whole"))
    });
    group.finish();
}

fn version(n: u64) -> Version {
    let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
    Version {
        kind: FileKind::File,
        content: Some(ContentId(id)),
        body: Some(Body { kind: Kind::Chunk, id: keys().record_id(Kind::Chunk, &id) }),
        size: n + 1,
        mtime: Time { secs: n as i64, nanos: 5 },
        mode: 0o644,
        target: None,
    }
}

fn stubs(c: &mut Criterion) {
    let (keys, version) = (keys(), version(9));
    let head = StubHead {
        folder: FOLDER,
        content: version.content.expect("a file"),
        body: version.body.expect("a file"),
        size: 1 << 20,
        mtime: version.mtime,
    };
    let block = head.encode(&keys, b"name.raw");
    c.bench_function("stub header: encode with MAC", |b| {
        b.iter(|| black_box(head.encode(&keys, b"name.raw")))
    });
    c.bench_function("stub header: decode and check", |b| {
        b.iter(|| black_box(StubHead::decode(&block, &keys, FOLDER).expect("whole")))
    });
}

fn logs(c: &mut Criterion) {
    let secret = [5; 32];
    let head = BatchHead {
        requires: vec![],
        folder: FOLDER,
        key: ed25519_dalek::SigningKey::from_bytes(&secret).verifying_key().to_bytes(),
        epoch: 7,
        from: 1,
        count: 0,
        prev: [0; 32],
        raw_len: 0,
        message: None,
        name: "bench".into(),
    };
    let entry = |n: u64| Entry {
        hlc: n + 1,
        path: RelPath::new(format!("directory/{}/file-{n}.txt", n / 50)).expect("a path"),
        op: Op::Put(version(n)),
        seen: vec![],
        base: None,
        moved_from: None,
        moved_to: None,
    };
    let entries: Vec<_> = (0..1000).map(entry).collect();
    let (bytes, _) = log::encode(head.clone(), &entries, &secret).expect("encodes");
    let mut group = c.benchmark_group("log of 1,000 entries");
    group.throughput(Throughput::Elements(entries.len() as u64));
    group.bench_function("encode and sign", |b| {
        b.iter(|| black_box(log::encode(head.clone(), &entries, &secret).expect("encodes")))
    });
    group.bench_function("verify and decode", |b| b.iter(|| black_box(log::decode(&bytes).expect("whole"))));
    group.finish();
}

fn policy(c: &mut Criterion) {
    let candidate = |nth: u64| {
        let random = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rank = Rank { used: (random >> 34) as i64, size: random & 0xf_ffff, nth };
        Candidate { rank, frees: rank.size, go: nth.is_multiple_of(5) }
    };
    let all: Vec<Candidate> = (0..200_000).map(candidate).collect();
    let half = all.iter().map(|c| c.frees).sum::<u64>() / 2;
    let mut group = c.benchmark_group("policy");
    group.throughput(Throughput::Elements(all.len() as u64));
    group.bench_function("choose among 200,000 files", |b| {
        b.iter(|| {
            let pass = &mut |sink: &mut dyn FnMut(&Candidate)| {
                all.iter().for_each(sink);
                Ok(())
            };
            black_box(choose(half, Bounds::default(), pass).expect("no I/O")).short
        })
    });
    group.finish();
}

criterion_group!(hot, chunks, seal, packs, stubs, logs, policy);
criterion_main!(hot);
