//! Log objects: raw bytes, and the fuzzer's head and entries in a proper signature.
#![no_main]

use ddr::format::log::{self, Batch, BatchHead};
use ddr::format::wire;
use ddr::model::entry::Entry;
use ddr_fuzz::{FOLDER, SECRET, Source, entries, seed};
use ed25519_dalek::{Signer, SigningKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seed("log", &seeds()),
    |data: &[u8]| {
        check(data);
        let mut source = Source(data);
        match source.byte() % 3 {
            // The fuzzer's head, any body.
            0 => {
                let len = usize::from(source.short());
                let head = source.take(len).to_vec();
                check(&seal(&head, source.0));
            }
            // The fuzzer's entries, counted and measured.
            1 => check(&seal(&wire::to_cbor(&head_for(source.0)), &zstd::bulk::compress(source.0, 1).unwrap_or_default())),
            // The fuzzer's bytes as the compressed body.
            _ => {
                let mut head = head_for(&[]);
                head.raw_len = source.int() & 0x1ff_ffff;
                check(&seal(&wire::to_cbor(&head), source.0));
            }
        }
    }
);

fn check(bytes: &[u8]) {
    let head = log::decode_head(bytes);
    let Ok(batch) = log::decode(bytes) else { return };
    assert_eq!(head.expect("what decodes whole has a head"), batch.head);
    assert_eq!(batch.entries.len(), batch.head.count as usize);
    assert!(batch.head.to() >= batch.head.from);
    let secret = if batch.head.key == public() { SECRET } else { return };
    let (again, hash) =
        log::encode(batch.head.clone(), &batch.entries, &secret).expect("it was within bounds");
    let back = log::decode(&again).expect("own bytes");
    // A foreign encoder may have used more bytes than ours for the same entries, and named less of what
    // they require.
    assert!(back.head.requires.starts_with(&batch.head.requires));
    let BatchHead { raw_len, requires, .. } = back.head.clone();
    let head = BatchHead { raw_len, requires, ..batch.head };
    assert_eq!(back, Batch { head, entries: batch.entries, hash });
}

fn public() -> [u8; 32] {
    SigningKey::from_bytes(&SECRET).verifying_key().to_bytes()
}

/// Puts head and body into an object signed by the known key.
fn seal(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = b"ddrlog01".to_vec();
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
    let signature = SigningKey::from_bytes(&SECRET).sign(blake3::hash(&out).as_bytes());
    out.extend_from_slice(&signature.to_bytes());
    out
}

/// A head that fits these encoded entries.
fn head_for(raw: &[u8]) -> BatchHead {
    let mut decoder = minicbor::Decoder::new(raw);
    let mut count = 0;
    while decoder.position() < raw.len() && decoder.decode::<Entry>().is_ok() {
        count += 1;
    }
    BatchHead {
        requires: vec![],
        folder: FOLDER,
        key: public(),
        epoch: 3,
        from: 1,
        count: count.max(1),
        prev: [0; 32],
        raw_len: raw.len() as u32,
        message: Some("message".into()),
        name: "peer".into(),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let raw: Vec<u8> = entries().iter().flat_map(wire::to_cbor).collect();
    let head = wire::to_cbor(&head_for(&raw));
    let body = zstd::bulk::compress(&raw, 3).expect("zstd");
    let mut as_head = vec![0];
    as_head.extend_from_slice(&(head.len() as u16).to_le_bytes());
    as_head.extend_from_slice(&head);
    as_head.extend_from_slice(&body);
    let mut as_body = vec![2];
    as_body.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    as_body.extend_from_slice(&body);
    vec![seal(&head, &body), as_head, [&[1], raw.as_slice()].concat(), as_body]
}
