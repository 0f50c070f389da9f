//! Log objects: a signed batch of one origin's entries, chained to the batch before it.
//!
//! Promises that a decoded batch was signed by its origin's key, is unchanged, and lies within
//! bounds. Whether it follows the batch before it is the reader's check (`prev`, `from`).

use std::io::Read;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};

use super::key::origin_id;
use super::wire::{self, Reader};
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::model::entry::{Entry, Op};

const MAGIC: &[u8; 8] = b"ddrlog01";
/// Most entries in a batch.
pub const MAX_ENTRIES: usize = 1000;
/// Most decoded bytes in a batch.
pub const MAX_RAW: usize = 16 << 20;
/// Entries of a batch should stay below this, so that one long path more still fits.
pub const SOFT_RAW: usize = 8 << 20;
const MAX_HEAD: usize = 64 << 10;
const LEVEL: i32 = 3;

/// What a batch says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct BatchHead {
    /// Features a reader must know.
    #[n(0)]
    pub requires: Vec<String>,
    /// The folder.
    #[n(1)]
    pub folder: FolderId,
    /// Public key of the origin.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Epoch of the origin.
    #[n(3)]
    pub epoch: u64,
    /// Number of the first entry, from 1.
    #[n(4)]
    pub from: u64,
    /// Number of entries.
    #[n(5)]
    pub count: u32,
    /// BLAKE3 of the origin's previous log object; zeros for the first.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub prev: [u8; 32],
    /// Decoded length of the entries.
    #[n(7)]
    pub raw_len: u32,
    /// What the user said of this commit.
    #[n(8)]
    pub message: Option<String>,
    /// Name of the peer, for people.
    #[n(9)]
    pub name: String,
}

impl BatchHead {
    /// The origin.
    pub fn origin(&self) -> OriginId {
        origin_id(&self.key, self.epoch)
    }

    /// Number of the last entry.
    pub fn to(&self) -> u64 {
        self.from + u64::from(self.count) - 1
    }
}

/// A decoded log object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its head.
    pub head: BatchHead,
    /// Its entries; the first has number `head.from`.
    pub entries: Vec<Entry>,
    /// BLAKE3 of the whole object.
    pub hash: [u8; 32],
}

/// Signs entries into an object; returns its bytes and hash. `head.count` and `head.raw_len` are
/// filled in here.
pub fn encode(mut head: BatchHead, entries: &[Entry], secret: &[u8; 32]) -> Result<(Vec<u8>, [u8; 32])> {
    let raw: Vec<u8> = entries.iter().flat_map(wire::to_cbor).collect();
    if entries.is_empty() || entries.len() > MAX_ENTRIES || raw.len() > MAX_RAW {
        return Err(Error::Invalid(format!("a log batch of {} entries", entries.len())));
    }
    let forgets = |e: &Entry| matches!(e.op, Op::Forget(_));
    let needs =
        [(wire::FORGET, entries.iter().any(forgets)), (wire::ROOT, entries.iter().any(Entry::is_of_root))];
    for (name, needed) in needs {
        if needed && !head.requires.iter().any(|there| there == name) {
            head.requires.push(name.into());
        }
    }
    head.count = entries.len() as u32;
    head.raw_len = raw.len() as u32;
    let body = zstd::bulk::compress(&raw, LEVEL).map_err(|e| Error::Unsupported(format!("zstd: {e}")))?;
    let head = wire::to_cbor(&head);
    let mut out = Vec::with_capacity(12 + head.len() + body.len() + 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&body);
    let signature = SigningKey::from_bytes(secret).sign(blake3::hash(&out).as_bytes());
    out.extend_from_slice(&signature.to_bytes());
    let hash = *blake3::hash(&out).as_bytes();
    Ok((out, hash))
}

/// Reads the head alone, unverified: enough to see whose batch it is.
pub fn decode_head(bytes: &[u8]) -> Result<BatchHead> {
    parse(bytes).map(|(head, _, _)| head)
}

/// Reads and verifies an object.
pub fn decode(bytes: &[u8]) -> Result<Batch> {
    let (head, body, signature) = parse(bytes)?;
    let signed = &bytes[..bytes.len() - 64];
    let bad = |why: &str| Error::corrupt("log object", why);
    let key = VerifyingKey::from_bytes(&head.key).map_err(|_| bad("invalid origin key"))?;
    key.verify_strict(blake3::hash(signed).as_bytes(), &Signature::from_bytes(signature))
        .map_err(|_| bad("signature does not match"))?;
    let raw = inflate(body, head.raw_len as usize)?;
    let mut decoder = minicbor::Decoder::new(&raw);
    let mut entries = Vec::with_capacity(head.count as usize);
    for _ in 0..head.count {
        let entry: Entry = decoder.decode().map_err(|e| Error::corrupt("log entry", e.to_string()))?;
        entry.validate()?;
        entries.push(entry);
    }
    if decoder.position() != raw.len() {
        return Err(bad("trailing bytes"));
    }
    Ok(Batch { head, entries, hash: *blake3::hash(bytes).as_bytes() })
}

/// Splits an object into head, body and signature, checking bounds.
fn parse(bytes: &[u8]) -> Result<(BatchHead, &[u8], &[u8; 64])> {
    let bad = |why: &str| Error::corrupt("log object", why);
    let mut r = Reader::new("log object", bytes);
    if &r.array::<8>()? != MAGIC {
        return Err(bad("wrong magic"));
    }
    let head_len = r.u32()? as usize;
    if head_len > MAX_HEAD {
        return Err(bad("head too long"));
    }
    let head: BatchHead = wire::from_cbor("log head", r.bytes(head_len)?)?;
    wire::check_requires("log", &head.requires)?;
    let (body, signature) = r.rest().split_last_chunk::<64>().ok_or_else(|| bad("too short"))?;
    let count_ok = head.count > 0 && head.count as usize <= MAX_ENTRIES;
    let end = head.from.checked_add(u64::from(head.count));
    let range_ok = head.from > 0 && end.is_some_and(|end| end < i64::MAX as u64);
    if !count_ok || !range_ok || head.raw_len as usize > MAX_RAW {
        return Err(bad("numbers out of range"));
    }
    Ok((head, body, signature))
}

/// Decompresses to exactly `len` bytes; allocation grows with what is really there.
fn inflate(body: &[u8], len: usize) -> Result<Vec<u8>> {
    let bad = |why: String| Error::corrupt("log object", why);
    let mut raw = Vec::with_capacity(len.min(1 << 20));
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(body).map_err(|e| bad(format!("zstd: {e}")))?;
    // A frame may ask for a window of 128 MiB; no batch needs more than its own length.
    decoder.window_log_max(MAX_RAW.ilog2()).map_err(|e| bad(format!("zstd: {e}")))?;
    let mut limited = decoder.single_frame().take(len as u64 + 1);
    limited.read_to_end(&mut raw).map_err(|e| bad(format!("zstd: {e}")))?;
    if raw.len() == len { Ok(raw) } else { Err(bad("decoded length differs from the declared one".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;

    fn batch() -> (BatchHead, Vec<Entry>) {
        let secret = SigningKey::from_bytes(&[5; 32]);
        let head = BatchHead {
            requires: vec![],
            folder: FolderId([1; 16]),
            key: secret.verifying_key().to_bytes(),
            epoch: 7,
            from: 1,
            count: 0,
            prev: [0; 32],
            raw_len: 0,
            message: Some("first".into()),
            name: "laptop".into(),
        };
        let entry = Entry {
            hlc: 1,
            path: RelPath::new("a/b").expect("valid"),
            op: Op::Del,
            seen: vec![],
            base: None,
            moved_from: None,
            moved_to: None,
        };
        (head, vec![entry])
    }

    #[test]
    fn batches_round_trip_and_any_changed_byte_is_refused() {
        let (head, entries) = batch();
        let (bytes, hash) = encode(head, &entries, &[5; 32]).expect("encodes");
        let back = decode(&bytes).expect("own bytes");
        assert_eq!((back.entries, back.hash), (entries, hash));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn another_key_cannot_sign_for_an_origin() {
        let (head, entries) = batch();
        let (bytes, _) = encode(head, &entries, &[6; 32]).expect("encodes");
        assert!(decode(&bytes).is_err());
    }
}
