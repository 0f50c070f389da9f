//! Manifests: raw bytes, and runs behind a proper head.
#![no_main]

use ddr::base::id::RecordId;
use ddr::format::manifest::{decode, decode_any, encode};
use ddr::model::manifest::{Cutting, Manifest, Run};
use ddr_fuzz::{Source, seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seed("manifest", &seeds()),
    |data: &[u8]| {
        check(data);
        check(&build(data));
    }
);

fn check(bytes: &[u8]) {
    let _ = decode(bytes, bytes.len() as u64);
    let Ok(manifest) = decode_any(bytes) else { return };
    assert_eq!(encode(&manifest), bytes);
    let size = manifest.size();
    assert_eq!(decode(bytes, size).is_ok(), manifest.runs.iter().all(|run| !run.is_empty()));
    assert!(decode(bytes, size.wrapping_add(1)).is_err());
    let cutting = manifest.cutting;
    assert!(cutting.min() <= cutting.avg() && cutting.avg() <= cutting.max());
    assert!(manifest.data().all(|(at, _, len)| at + u64::from(len) <= size));
    // Cutting alike again must work with whatever was accepted.
    let sample = [7u8; 5000];
    assert!((1..=sample.len()).contains(&ddr::format::chunker::cut(&cutting, &sample)));
}

/// The fuzzer's runs, counted.
fn build(data: &[u8]) -> Vec<u8> {
    let mut source = Source(data);
    let mut out = b"ddrm\x01\0\0\0".to_vec();
    let cutting = if source.byte() & 1 == 0 { vec![1, 18, 20, 22] } else { source.take(4).to_vec() };
    out.extend_from_slice(&cutting);
    out.resize(16, 0);
    let mut count = 0u32;
    while !source.0.is_empty() {
        let tag = source.byte();
        out.push(if tag > 250 { tag } else { tag % 2 + 1 });
        let at = out.len();
        let len = if tag % 2 == 0 { 36 } else { 8 };
        let run = source.take(len).to_vec();
        out.extend_from_slice(&run);
        out.resize(at + len, 0);
        if tag < 200 && len == 36 {
            // Mostly lengths that a chunk can have.
            out[at + 3] = 0;
        }
        count += 1;
    }
    out[12..16].copy_from_slice(&count.to_le_bytes());
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let data = |byte, len| Run::Data { id: RecordId([byte; 32]), len };
    let runs = vec![data(1, 1 << 20), Run::Hole { len: 1 << 36 }, data(2, 5)];
    let empty = Manifest { cutting: Cutting::default(), runs: Vec::new() };
    vec![encode(&Manifest { cutting: Cutting::default(), runs }), encode(&empty)]
}
