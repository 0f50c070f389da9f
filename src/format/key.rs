//! The folder key and what is derived from it: record ids and the stub's MAC.
//!
//! Promises that ids of chunks and manifests can never be confused, and that nobody without the
//! folder key can compute them. Keys are derived with BLAKE3's `derive_key`.

use crate::base::id::{OriginId, RecordId};
use crate::model::entry::Kind;

/// The 256-bit secret of a folder; everything keyed in it comes from here.
#[derive(Clone)]
pub struct FolderKey(pub [u8; 32]);

impl std::fmt::Debug for FolderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FolderKey(..)")
    }
}

/// Subkeys of one folder, derived once.
#[derive(Clone)]
pub struct Keys {
    chunk: [u8; 32],
    manifest: [u8; 32],
    stub: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Derives all subkeys.
    pub fn new(key: &FolderKey) -> Self {
        let derive = |context| blake3::derive_key(context, &key.0);
        Self {
            chunk: derive("ddr 2026-11 chunk id"),
            manifest: derive("ddr 2026-11 manifest id"),
            stub: derive("ddr 2026-11 stub mac"),
        }
    }

    /// The id of a record with these (decoded) bytes.
    pub fn record_id(&self, kind: Kind, raw: &[u8]) -> RecordId {
        let key = match kind {
            Kind::Chunk => &self.chunk,
            Kind::Manifest => &self.manifest,
        };
        RecordId(*blake3::keyed_hash(key, raw).as_bytes())
    }

    /// The MAC of a stub header's text.
    pub fn stub_mac(&self, text: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.stub, text).as_bytes()
    }
}

/// The id of one incarnation (`epoch`) of the peer with this ed25519 public key.
pub fn origin_id(public: &[u8; 32], epoch: u64) -> OriginId {
    let mut input = [0u8; 40];
    input[..32].copy_from_slice(public);
    input[32..].copy_from_slice(&epoch.to_le_bytes());
    OriginId(blake3::derive_key("ddr 2026-11 origin", &input))
}
