//! What the fuzz targets share: fixed keys, a reader of the fuzzer's bytes, and the seeds.
//!
//! Seeds are made when a target starts, so that no corpus has to be kept with the source.

use std::path::Path;

use ddr::base::id::{ContentId, FolderId, OriginId, RecordId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::format::key::{FolderKey, Keys};
use ddr::model::entry::{Body, Dot, Entry, FileKind, Kind, Op, Runs, Version};

/// The folder everything valid belongs to.
pub const FOLDER: FolderId = FolderId([0x11; 16]);
/// The secret that signs.
pub const SECRET: [u8; 32] = [0x22; 32];

/// The folder's keys.
pub fn keys() -> Keys {
    Keys::new(&FolderKey([0x33; 32]))
}

/// Writes the seeds of a target where cargo-fuzz looks for its corpus.
pub fn seed(target: &str, seeds: &[Vec<u8>]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("the corpus directory can be made");
    for (i, bytes) in seeds.iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{i}")), bytes).expect("a seed can be written");
    }
}

/// Takes values from the front of the fuzzer's bytes; zeros once they are used up.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Four bytes.
    pub fn int(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &[u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// A content that lies in a manifest.
pub fn body() -> Body {
    Body { kind: Kind::Manifest, id: RecordId([5; 32]) }
}

/// Entries that use every field.
pub fn entries() -> Vec<Entry> {
    let path = |text: &str| RelPath::new(text).expect("a plain path is valid");
    let version = |kind, content, body, size, target| Version {
        kind,
        content,
        body,
        size,
        mtime: Time { secs: -1, nanos: 999_999_999 },
        mode: 0o644,
        target,
    };
    let put = |path, version, moved_from| Entry {
        hlc: 1 << 56,
        path,
        op: Op::Put(version),
        seen: vec![Dot { origin: OriginId([6; 32]), number: 7 }],
        base: Some(ContentId([8; 32])),
        moved_from,
        moved_to: None,
    };
    let file = version(FileKind::File, Some(ContentId([4; 32])), Some(body()), 5 << 20, None);
    vec![
        put(path("a/b"), file, Some(path("a/c"))),
        put(path("d"), version(FileKind::Dir, None, None, 0, None), None),
        put(path("l"), version(FileKind::Symlink, None, None, 0, Some(b"a/b".to_vec())), None),
        Entry {
            op: Op::Del,
            moved_to: Some(path("a/b")),
            ..put(path("a/c"), version(FileKind::Dir, None, None, 0, None), None)
        },
        put(RelPath::root(), version(FileKind::Dir, None, None, 0, None), None),
        Entry {
            op: Op::Forget(vec![Runs::of(OriginId([6; 32]), [2, 3, 7])]),
            ..put(RelPath::root(), version(FileKind::Dir, None, None, 0, None), None)
        },
    ]
}
