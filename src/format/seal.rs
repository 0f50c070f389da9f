//! Sealing: one chunk or manifest as it lies in a pack, compressed where that pays.
//!
//! Promises that [`Opener::open`] returns only bytes that hash to the record's id, within the
//! declared length. One flags byte leaves room for encryption.

use std::sync::Arc;

use super::key::Keys;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::model::entry::Kind;

/// The payload is one zstd frame.
pub const FLAG_ZSTD: u8 = 1;
/// Largest decoded chunk (the chunker's upper limit, whatever the folder's setting).
pub const MAX_CHUNK: usize = 16 << 20;
/// Largest decoded manifest: enough for a content of about 1.5 TiB.
pub const MAX_MANIFEST: usize = 64 << 20;
const LEVEL: i32 = 1;
/// Below this size compression is simply tried; above, samples decide whether to try.
const SAMPLE_FROM: usize = 64 << 10;

/// One sealed record. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Name: keyed hash of the decoded bytes.
    pub id: RecordId,
    /// Chunk or manifest.
    pub kind: Kind,
    /// [`FLAG_ZSTD`] or 0.
    pub flags: u8,
    /// Decoded length.
    pub raw_len: u32,
    /// Stored bytes.
    pub payload: Arc<Vec<u8>>,
}

impl Sealed {
    /// First eight bytes of BLAKE3 over a compressed payload; 0 for a raw one, whose id says it all.
    pub fn check(&self) -> u64 {
        check(self.flags, &self.payload)
    }
}

/// [`Sealed::check`] of a payload that is not copied yet.
pub fn check(flags: u8, payload: &[u8]) -> u64 {
    if flags & FLAG_ZSTD == 0 {
        return 0;
    }
    let hash = blake3::hash(payload);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

/// Compresses; keeps its context between records. One per thread.
pub struct Sealer {
    zstd: zstd::bulk::Compressor<'static>,
    sample: zstd::bulk::Compressor<'static>,
    /// Room for the worst case, used again and again.
    buffer: Vec<u8>,
}

impl Sealer {
    /// Allocates the compression contexts.
    pub fn new() -> Result<Self> {
        let make =
            |level| zstd::bulk::Compressor::new(level).map_err(|e| Error::Unsupported(format!("zstd: {e}")));
        Ok(Self { zstd: make(LEVEL)?, sample: make(1)?, buffer: Vec::new() })
    }

    /// Seals bytes whose id is already known.
    pub fn seal(&mut self, id: RecordId, kind: Kind, raw: Vec<u8>) -> Sealed {
        let raw_len = raw.len() as u32;
        let (flags, payload) = match self.compress(&raw) {
            Some(packed) => (FLAG_ZSTD, packed),
            None => (0, raw),
        };
        Sealed { id, kind, flags, raw_len, payload: Arc::new(payload) }
    }

    /// The compressed form, where it saves at least 3 %.
    fn compress(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        if raw.len() >= SAMPLE_FROM && !self.looks_compressible(raw) {
            return None;
        }
        let limit = zstd::zstd_safe::compress_bound(raw.len());
        if self.buffer.len() < limit {
            self.buffer.resize(limit, 0);
        }
        let len = self.zstd.compress_to_buffer(raw, &mut self.buffer[..limit]).ok()?;
        // An exact copy: records wait in memory until their pack is full.
        (len + raw.len() / 33 < raw.len()).then(|| self.buffer[..len].to_vec())
    }

    /// Compresses three samples at the fastest level: already packed data shows at once.
    fn looks_compressible(&mut self, raw: &[u8]) -> bool {
        const SAMPLE: usize = 8 << 10;
        let at = [0, (raw.len() - SAMPLE) / 2, raw.len() - SAMPLE];
        at.iter().any(|at| {
            let part = &raw[*at..at + SAMPLE];
            let limit = zstd::zstd_safe::compress_bound(SAMPLE);
            self.buffer.resize(self.buffer.len().max(limit), 0);
            let packed = self.sample.compress_to_buffer(part, &mut self.buffer[..limit]);
            packed.is_ok_and(|len| len + SAMPLE / 33 < SAMPLE)
        })
    }
}

/// Decompresses and verifies; keeps its context between records. One per thread.
pub struct Opener {
    zstd: zstd::bulk::Decompressor<'static>,
    keys: Keys,
    /// For bytes that are only checked, used again and again.
    buffer: Vec<u8>,
}

impl Opener {
    /// Allocates the decompression context.
    pub fn new(keys: &Keys) -> Result<Self> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::Unsupported(format!("zstd: {e}")))?;
        Ok(Self { zstd, keys: keys.clone(), buffer: Vec::new() })
    }

    /// The decoded bytes, after checking length and hash.
    pub fn open(&mut self, sealed: &Sealed) -> Result<Arc<Vec<u8>>> {
        if sealed.flags & FLAG_ZSTD == 0 {
            self.check(sealed, &sealed.payload)?;
            return Ok(Arc::clone(&sealed.payload));
        }
        let raw = self.decompress(sealed)?;
        self.check(sealed, &raw)?;
        Ok(Arc::new(raw))
    }

    /// Checks without keeping the bytes (no copy of a raw payload).
    pub fn verify(&mut self, sealed: &Sealed) -> Result<()> {
        if sealed.flags & FLAG_ZSTD == 0 {
            return self.check(sealed, &sealed.payload);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let done =
            self.decompress_into(sealed, &mut buffer).and_then(|len| self.check(sealed, &buffer[..len]));
        self.buffer = buffer;
        done
    }

    /// Decompresses to the front of a buffer that only ever grows.
    fn decompress_into(&mut self, sealed: &Sealed, buffer: &mut Vec<u8>) -> Result<usize> {
        check_bounds(sealed)?;
        let len = sealed.raw_len as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        self.zstd
            .decompress_to_buffer(&sealed.payload, &mut buffer[..len])
            .map_err(|e| Error::corrupt(name(sealed), format!("zstd: {e}")))
    }

    fn decompress(&mut self, sealed: &Sealed) -> Result<Vec<u8>> {
        check_bounds(sealed)?;
        self.zstd
            .decompress(&sealed.payload, sealed.raw_len as usize)
            .map_err(|e| Error::corrupt(name(sealed), format!("zstd: {e}")))
    }

    fn check(&self, sealed: &Sealed, raw: &[u8]) -> Result<()> {
        if sealed.flags & !FLAG_ZSTD != 0 {
            return Err(Error::Unsupported(format!("record {} has unknown flags", sealed.id.short())));
        }
        if raw.len() != sealed.raw_len as usize {
            return Err(Error::corrupt(name(sealed), "length differs from the declared one"));
        }
        if self.keys.record_id(sealed.kind, raw) != sealed.id {
            return Err(Error::corrupt(name(sealed), "bytes do not hash to its id"));
        }
        Ok(())
    }
}

/// Flags and declared length, before anything is allocated.
fn check_bounds(sealed: &Sealed) -> Result<()> {
    if sealed.flags & !FLAG_ZSTD != 0 {
        return Err(Error::Unsupported(format!("record {} has unknown flags", sealed.id.short())));
    }
    if sealed.raw_len as usize > max_raw(sealed.kind) {
        return Err(Error::corrupt(name(sealed), "declared length out of range"));
    }
    Ok(())
}

/// Largest decoded length of a kind of record.
pub fn max_raw(kind: Kind) -> usize {
    match kind {
        Kind::Chunk => MAX_CHUNK,
        Kind::Manifest => MAX_MANIFEST,
    }
}

fn name(sealed: &Sealed) -> String {
    format!("record {}", sealed.id.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::FolderKey;

    #[test]
    fn what_was_sealed_opens_and_a_changed_payload_does_not() {
        let keys = Keys::new(&FolderKey([7; 32]));
        let (mut sealer, mut opener) = (Sealer::new().expect("zstd"), Opener::new(&keys).expect("zstd"));
        let text = b"all work and no play ".repeat(5000);
        let noise: Vec<u8> =
            (0..100_000u32).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..4].to_vec()).collect();
        for raw in [b"".to_vec(), b"x".to_vec(), text, noise] {
            let sealed = sealer.seal(keys.record_id(Kind::Chunk, &raw), Kind::Chunk, raw.clone());
            assert_eq!(*opener.open(&sealed).expect("opens"), raw);
            if !raw.is_empty() {
                let mut bad = sealed.payload.as_ref().clone();
                let middle = bad.len() / 2;
                bad[middle] ^= 1;
                let damaged = Sealed { payload: Arc::new(bad), ..sealed };
                assert!(opener.open(&damaged).is_err() || damaged.check() != 0);
            }
        }
    }
}
