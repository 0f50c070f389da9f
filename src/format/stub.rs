//! Stubs: the 4 KiB header block that stands in for a content, and the mark on its inode.
//!
//! Promises that a header is accepted only if every byte of it is as written (MAC under the folder
//! key, exact padding), and that a person who opens a stub without ddr reads what it is.

use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId, RecordId};
use crate::base::path::escape;
use crate::base::units::Time;
use crate::format::key::Keys;
use crate::model::entry::{Body, Kind};

/// Bytes of the header block; a stub is always longer than this.
pub const HEADER_LEN: usize = 4096;
/// Smallest content that can become a stub.
pub const MIN_STUB: u64 = HEADER_LEN as u64 + 1;
/// Name of the extended attribute that marks a stub's inode.
pub const XATTR: &str = "user.ddr";
/// How every stub begins.
pub const FIRST_LINE: &[u8] = b"This is a ddr stub: the content of this file is kept elsewhere.\n";
const MARK_LINE: &str = "ddr-stub 1";

/// What a stub says about the content it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StubHead {
    /// The folder.
    pub folder: FolderId,
    /// The content.
    pub content: ContentId,
    /// Where its bytes are.
    pub body: Body,
    /// Size of the content and of the stub.
    pub size: u64,
    /// Modification time of the content.
    pub mtime: Time,
}

impl StubHead {
    /// The header block; `name` is the file's name, for the reader's convenience only.
    pub fn encode(&self, keys: &Keys, name: &[u8]) -> [u8; HEADER_LEN] {
        let kind = match self.body.kind {
            Kind::Chunk => "chunk",
            Kind::Manifest => "manifest",
        };
        let mut text = String::from_utf8_lossy(FIRST_LINE).into_owned();
        text.push_str(&format!("To bring it back, run: ddr checkout {}\n\n{MARK_LINE}\n", shorten(name)));
        text.push_str(&format!(
            "folder {}\ncontent {}\nbody {kind} {}\n",
            self.folder, self.content, self.body.id
        ));
        text.push_str(&format!("size {}\nmtime {} {}\n", self.size, self.mtime.secs, self.mtime.nanos));
        let mac = keys.stub_mac(text.as_bytes());
        text.push_str(&format!("mac {}\n", RecordId(mac)));
        let mut block = [b'\n'; HEADER_LEN];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    /// Reads a header block of this folder; any deviation is an error that says which.
    pub fn decode(block: &[u8], keys: &Keys, folder: FolderId) -> Result<Self> {
        let bad = |why: &str| Error::corrupt("stub header", why);
        if block.len() != HEADER_LEN || !looks_like_stub(block) {
            return Err(bad("truncated"));
        }
        let at = block.windows(5).position(|w| w == b"\nmac ").ok_or_else(|| bad("no mac"))? + 1;
        let (text, tail) = block.split_at(at);
        let head = parse(text).ok_or_else(|| bad("unreadable fields"))?;
        if head.folder != folder {
            return Err(Error::Refused(format!("it is a stub of another folder ({})", head.folder)));
        }
        let expect = format!("mac {}\n", RecordId(keys.stub_mac(text)));
        let padding = tail.strip_prefix(expect.as_bytes()).ok_or_else(|| bad("its mac does not match"))?;
        if padding.iter().any(|b| *b != b'\n') {
            return Err(bad("its padding was changed"));
        }
        if head.size < MIN_STUB {
            return Err(bad("size out of range"));
        }
        Ok(head)
    }
}

/// Whether bytes begin like a stub, whole, truncated or forged: such bytes are never content.
pub fn looks_like_stub(bytes: &[u8]) -> bool {
    bytes.starts_with(FIRST_LINE)
}

/// Whether a block still carries the middle of a stub header although its first line is gone.
pub fn has_stub_remains(bytes: &[u8]) -> bool {
    let line = format!("\n{MARK_LINE}\nfolder ");
    bytes.windows(line.len()).any(|w| w == line.as_bytes())
}

fn parse(text: &[u8]) -> Option<StubHead> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, fields) = text.split_once(&format!("\n{MARK_LINE}\n"))?;
    let mut lines = fields.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let folder = FolderId::from_hex(field("folder")?).ok()?;
    let content = ContentId::from_hex(field("content")?).ok()?;
    let (kind, id) = field("body")?.split_once(' ')?;
    let kind = match kind {
        "chunk" => Kind::Chunk,
        "manifest" => Kind::Manifest,
        _ => return None,
    };
    let body = Body { kind, id: RecordId::from_hex(id).ok()? };
    let size = field("size")?.parse().ok()?;
    let (secs, nanos) = field("mtime")?.split_once(' ')?;
    let mtime = Time { secs: secs.parse().ok()?, nanos: nanos.parse().ok().filter(|n| *n < 1_000_000_000)? };
    lines.next().is_none().then_some(StubHead { folder, content, body, size, mtime })
}

/// A name that fits the header however long its escaped form is.
fn shorten(name: &[u8]) -> String {
    let text = escape(name);
    if text.chars().count() <= 300 { text } else { text.chars().take(300).chain("...".chars()).collect() }
}

/// State recorded in the inode's mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkState {
    /// The file is (becoming) a stub.
    Stub,
    /// Its content is being written back.
    Filling,
    /// All of it was, and whoever waited may use the file; it is not known to be durable yet.
    Filled,
}

/// A mount of a file system, as good as unique: 0 for none.
pub type MountId = [u8; 6];

/// The 64-byte extended attribute: small enough to stay inside the inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InodeMark {
    /// How far it is.
    pub state: MarkState,
    /// Whether the body is a manifest.
    pub kind: Kind,
    /// In which mount of its file system it is being filled, or was. 0 where that is unknown, and in a stub's mark.
    pub mount: MountId,
    /// The folder (its first 6 bytes).
    pub folder: [u8; 6],
    /// The body.
    pub body: RecordId,
    /// Modification time to restore when filled.
    pub mtime: Time,
    /// Low half of the number of the inode that is being filled: copied along with a file that was full
    /// already, the mark says nothing about the copy. 0 in a stub's mark.
    pub inode: u32,
}

impl InodeMark {
    /// The mark that goes with a header.
    pub fn of(head: &StubHead, state: MarkState) -> Self {
        let mut folder = [0; 6];
        folder.copy_from_slice(&head.folder.0[..6]);
        let (kind, body) = (head.body.kind, head.body.id);
        Self { state, kind, mount: MountId::default(), folder, body, mtime: head.mtime, inode: 0 }
    }

    /// Whether it is one of this folder's.
    pub fn is_of(&self, folder: FolderId) -> bool {
        folder.0.starts_with(&self.folder)
    }

    /// Version, state, kind, 0; folder 6; mount 6; body 32; seconds 8; nanoseconds 4; inode 4.
    pub fn encode(&self) -> [u8; 64] {
        let mut out = [0u8; 64];
        out[0] = 1;
        out[1] = match self.state {
            MarkState::Stub => 1,
            MarkState::Filling => 2,
            MarkState::Filled => 3,
        };
        out[2] = self.kind.byte();
        out[4..10].copy_from_slice(&self.folder);
        out[10..16].copy_from_slice(&self.mount);
        out[16..48].copy_from_slice(&self.body.0);
        out[48..56].copy_from_slice(&self.mtime.secs.to_le_bytes());
        out[56..60].copy_from_slice(&self.mtime.nanos.to_le_bytes());
        out[60..64].copy_from_slice(&self.inode.to_le_bytes());
        out
    }

    /// Reads a mark.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = super::wire::Reader::new("stub mark", bytes);
        let bad = |why: &str| Error::corrupt("stub mark", why);
        if r.u8()? != 1 {
            return Err(Error::Unsupported("stub mark of a newer format; use a newer ddr".into()));
        }
        let state = match r.u8()? {
            1 => MarkState::Stub,
            2 => MarkState::Filling,
            3 => MarkState::Filled,
            _ => return Err(bad("unknown state")),
        };
        let kind = Kind::from_byte(r.u8()?)?;
        let zero = r.u8()?;
        let folder = r.array()?;
        let mount = r.array()?;
        let body = RecordId(r.array()?);
        let secs = i64::from_le_bytes(r.array()?);
        let nanos = r.u32()?;
        let inode = r.u32()?;
        if zero != 0 || nanos >= 1_000_000_000 {
            return Err(bad("fields out of range"));
        }
        r.end()?;
        Ok(Self { state, kind, folder, mount, body, mtime: Time { secs, nanos }, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::FolderKey;

    fn head() -> StubHead {
        StubHead {
            folder: FolderId([2; 16]),
            content: ContentId([3; 32]),
            body: Body { kind: Kind::Manifest, id: RecordId([4; 32]) },
            size: 1 << 40,
            mtime: Time { secs: -5, nanos: 999_999_999 },
        }
    }

    #[test]
    fn headers_round_trip_with_any_name_and_any_changed_byte_is_refused() {
        let keys = Keys::new(&FolderKey([9; 32]));
        for name in
            [b"a".as_slice(), b"\nddr-stub 1\n\xff\x00", &[0xff; 255], "\u{85}".repeat(120).as_bytes()]
        {
            let block = head().encode(&keys, name);
            assert_eq!(StubHead::decode(&block, &keys, FolderId([2; 16])).expect("own header"), head());
            for at in (0..HEADER_LEN).step_by(7) {
                let mut bad = block;
                bad[at] ^= 1;
                assert!(StubHead::decode(&bad, &keys, FolderId([2; 16])).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_header_of_another_key_or_folder_is_refused() {
        let block = head().encode(&Keys::new(&FolderKey([9; 32])), b"a");
        assert!(StubHead::decode(&block, &Keys::new(&FolderKey([8; 32])), FolderId([2; 16])).is_err());
        assert!(StubHead::decode(&block, &Keys::new(&FolderKey([9; 32])), FolderId([1; 16])).is_err());
    }

    #[test]
    fn marks_round_trip_in_64_bytes() {
        for state in [MarkState::Stub, MarkState::Filling, MarkState::Filled] {
            let mark = InodeMark { mount: [7; 6], inode: 9, ..InodeMark::of(&head(), state) };
            assert_eq!(InodeMark::decode(&mark.encode()).expect("own mark"), mark);
        }
    }
}
