//! The `folder` object: says that a bucket is a store, of which folder, in which format.
//!
//! Promises that a store of a newer format or another folder is recognised before anything is read.

use minicbor::{Decode, Encode};

use super::wire;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, StoreId};

const MAGIC: &[u8; 8] = b"ddrstor1";
/// Newest store format this build reads and writes.
pub const FORMAT: u32 = 1;

/// Written once when a store is made.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct StoreHead {
    /// Format number; a larger one than [`FORMAT`] is refused.
    #[n(0)]
    pub format: u32,
    /// Features a reader must know.
    #[n(1)]
    pub requires: Vec<String>,
    /// The folder whose store this is.
    #[n(2)]
    pub folder: FolderId,
    /// This store.
    #[n(3)]
    pub store: StoreId,
    /// The folder key, where the store is trusted with it.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub key: Option<[u8; 32]>,
    /// A name for people: that of the directory the folder was made in.
    #[n(5)]
    pub name: String,
}

impl StoreHead {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::envelope(MAGIC, &wire::to_cbor(self))
    }

    /// Reads the object; a newer format is [`Error::Unsupported`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let head: Self = wire::from_cbor("store head", wire::open_envelope("store head", MAGIC, bytes)?)?;
        if head.format > FORMAT {
            return Err(Error::Unsupported(format!(
                "this store has format {}, this ddr reads up to {FORMAT}; use a newer ddr",
                head.format
            )));
        }
        wire::check_requires("store", &head.requires)?;
        Ok(head)
    }
}
