//! gc's own objects: who owns gc of a store, and which packs are condemned.
//!
//! Promises that a damaged object is noticed. The highest number of each kind is the valid one;
//! the argument why condemning is safe is in `engine::gc`.

use minicbor::{Decode, Encode};

use super::wire;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId, PackId};
use crate::base::units::Time;

const OWNER_MAGIC: &[u8; 8] = b"ddrown01";
const MARK_MAGIC: &[u8; 8] = b"ddrmark1";

/// Who may condemn and delete; a takeover writes the next number.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Owner {
    /// Features a reader must know.
    #[n(0)]
    pub requires: Vec<String>,
    /// The folder.
    #[n(1)]
    pub folder: FolderId,
    /// The owner.
    #[n(2)]
    pub origin: OriginId,
    /// Ownership epoch, from 1.
    #[n(3)]
    pub epoch: u64,
    /// The owner's name, for messages.
    #[n(4)]
    pub name: String,
    /// Epoch of the owner's origin, so that it knows itself again after it had to start a new one.
    #[n(5)]
    pub peer_epoch: u64,
}

/// When something happened, by clocks that reveal a jump.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Instant {
    /// Wall clock.
    #[n(0)]
    pub wall: Time,
    /// Seconds since boot, sleep included.
    #[n(1)]
    pub uptime: u64,
    /// Which boot.
    #[n(2)]
    pub boot: String,
}

impl Instant {
    /// Within 30,000 years of 1970, so that durations between any two can be computed.
    fn validate(&self) -> Result<()> {
        const MAX: i64 = 1 << 40;
        let wall = (-MAX..MAX).contains(&self.wall.secs) && self.wall.nanos < 1_000_000_000;
        if wall && self.uptime < MAX as u64 {
            Ok(())
        } else {
            Err(Error::corrupt("gc mark", "time out of range"))
        }
    }
}

/// A pack that nothing reachable lies in.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Condemned {
    /// The pack.
    #[n(0)]
    pub pack: PackId,
    /// When it was first found dead, without being found live since.
    #[n(1)]
    pub since: Instant,
}

/// The whole gc state of a store after one run.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Mark {
    /// Features a reader must know.
    #[n(0)]
    pub requires: Vec<String>,
    /// The folder.
    #[n(1)]
    pub folder: FolderId,
    /// Number of the run, from 1.
    #[n(2)]
    pub number: u64,
    /// Ownership epoch it ran under.
    #[n(3)]
    pub owner_epoch: u64,
    /// When it ran.
    #[n(4)]
    pub at: Instant,
    /// Packs whose records count as absent and that a later run may delete.
    #[n(5)]
    pub condemned: Vec<Condemned>,
}

impl Owner {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::envelope(OWNER_MAGIC, &wire::to_cbor(self))
    }

    /// Reads an object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let owner: Self = wire::from_cbor("gc owner", wire::open_envelope("gc owner", OWNER_MAGIC, bytes)?)?;
        wire::check_requires("gc owner", &owner.requires)?;
        wire::check_number("gc owner", owner.epoch)?;
        Ok(owner)
    }
}

impl Mark {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::envelope(MARK_MAGIC, &wire::to_cbor(self))
    }

    /// Reads an object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mark: Self = wire::from_cbor("gc mark", wire::open_envelope("gc mark", MARK_MAGIC, bytes)?)?;
        wire::check_requires("gc mark", &mark.requires)?;
        wire::check_number("gc mark", mark.number)?;
        mark.at.validate()?;
        mark.condemned.iter().try_for_each(|c| c.since.validate())?;
        Ok(mark)
    }
}
