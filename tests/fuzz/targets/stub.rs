//! Stub headers and inode marks: raw bytes, and texts with a proper MAC.
#![no_main]

use ddr::base::id::{ContentId, FolderId, RecordId};
use ddr::base::units::Time;
use ddr::format::stub::{
    FIRST_LINE, HEADER_LEN, InodeMark, MIN_STUB, MarkState, StubHead, has_stub_remains, looks_like_stub,
};
use ddr_fuzz::{FOLDER, Source, body, keys, seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seed("stub", &seeds()),
    |data: &[u8]| {
        header(data);
        header(&signed(data));
        made(data);
        if let Ok(mark) = InodeMark::decode(data) {
            assert_eq!(mark.encode().as_slice(), data);
        }
    }
);

fn header(block: &[u8]) {
    let keys = keys();
    let _ = has_stub_remains(block);
    let Ok(head) = StubHead::decode(block, &keys, FOLDER) else { return };
    assert!(looks_like_stub(block) && has_stub_remains(block) && block.len() == HEADER_LEN);
    assert!(head.size >= MIN_STUB && head.folder == FOLDER);
    let again = head.encode(&keys, b"name");
    assert_eq!(StubHead::decode(&again, &keys, FOLDER).expect("own header"), head);
    for state in [MarkState::Stub, MarkState::Filling] {
        let mark = InodeMark::of(&head, state);
        assert_eq!(InodeMark::decode(&mark.encode()).expect("own mark"), mark);
    }
}

/// The fuzzer's text with a MAC that fits. A first byte above 127 leaves out the fixed first line.
fn signed(data: &[u8]) -> Vec<u8> {
    let mut text = match data.first() {
        Some(b) if *b > 127 => Vec::new(),
        _ => FIRST_LINE.to_vec(),
    };
    text.extend_from_slice(&data[..data.len().min(HEADER_LEN - 200)]);
    text.push(b'\n');
    let mac = RecordId(keys().stub_mac(&text));
    text.extend_from_slice(format!("mac {mac}\n").as_bytes());
    text.resize(HEADER_LEN, b'\n');
    text
}

/// A header from the fuzzer's values and name reads back, and is no header under another folder.
fn made(data: &[u8]) {
    let mut source = Source(data);
    let size = MIN_STUB.saturating_add(u64::from(source.int()) << (source.byte() % 40));
    let secs = i64::from(source.int() as i32) << (source.byte() % 32);
    let mtime = Time { secs, nanos: source.int() % 1_000_000_000 };
    let head =
        StubHead { folder: FOLDER, content: ContentId([source.byte(); 32]), body: body(), size, mtime };
    let block = head.encode(&keys(), source.0);
    assert_eq!(StubHead::decode(&block, &keys(), FOLDER).expect("own header"), head);
    assert!(StubHead::decode(&block, &keys(), FolderId([0; 16])).is_err());
}

fn seeds() -> Vec<Vec<u8>> {
    let mtime = Time { secs: 1_700_000_000, nanos: 5 };
    let head = StubHead { folder: FOLDER, content: ContentId([4; 32]), body: body(), size: 1 << 30, mtime };
    let block = head.encode(&keys(), b"name");
    let at = block.windows(5).position(|w| w == b"\nmac ").expect("a header has a mac");
    vec![
        block.to_vec(),
        block[FIRST_LINE.len()..at].to_vec(),
        InodeMark::of(&head, MarkState::Filling).encode().to_vec(),
    ]
}
