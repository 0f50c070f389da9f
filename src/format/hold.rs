//! Hold objects: which contents an origin's stubs depend on, so that gc keeps them.
//!
//! Promises that a damaged hold is noticed. Knows no store; the set of all of an origin's objects,
//! applied in order, is what it holds.

use minicbor::{Decode, Encode};

use super::wire;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::model::entry::Body;

const MAGIC: &[u8; 8] = b"ddrhold1";

/// One batch of changes to what an origin holds.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Hold {
    /// Features a reader must know.
    #[n(0)]
    pub requires: Vec<String>,
    /// The folder.
    #[n(1)]
    pub folder: FolderId,
    /// Who holds.
    #[n(2)]
    pub origin: OriginId,
    /// Place in the origin's sequence, from 1.
    #[n(3)]
    pub number: u64,
    /// Contents now depended on.
    #[n(4)]
    pub adds: Vec<Body>,
    /// Contents no longer depended on.
    #[n(5)]
    pub releases: Vec<Body>,
    /// What the origin holds follows from the batches from this number on; older ones are void.
    #[n(6)]
    pub since: Option<u64>,
}

impl Hold {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::envelope(MAGIC, &wire::to_cbor(self))
    }

    /// Reads an object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let hold: Self = wire::from_cbor("hold", wire::open_envelope("hold", MAGIC, bytes)?)?;
        wire::check_requires("hold", &hold.requires)?;
        wire::check_number("hold", hold.number)?;
        if hold.since.is_some_and(|since| since == 0 || since > hold.number) {
            return Err(Error::corrupt("hold", "it voids itself"));
        }
        Ok(hold)
    }
}
