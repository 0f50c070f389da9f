//! Frames: what a stream between two ddr is cut into.
//!
//! Promises that a length is checked before anything is allocated for it. Knows no messages and does
//! no I/O.

use super::wire::Reader;
use crate::base::error::{Error, Result};

/// What each side says first, before any frame. Its last byte changes if frames ever do.
pub const MAGIC: &[u8; 8] = b"ddrwire1";
/// Bytes of a frame's head.
pub const HEAD_LEN: usize = 12;
/// Most bytes behind a head: so little that frames of other requests never wait long.
pub const MAX_PAYLOAD: usize = 256 << 10;
/// Fewest bytes in a frame of data that is not the last of its object.
pub const MIN_DATA: usize = 4 << 10;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// One message in CBOR.
    Message,
    /// Bytes of objects, as they are.
    Data,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Bytes that follow.
    pub len: u32,
    /// What they are.
    pub kind: FrameKind,
    /// The request they belong to; 0 for what belongs to none.
    pub id: u32,
}

impl Head {
    /// The head of a frame with this payload.
    pub fn of(kind: FrameKind, id: u32, payload: usize) -> Result<Self> {
        if payload > MAX_PAYLOAD {
            return Err(Error::Invalid(format!("a frame of {payload} bytes is too long to send")));
        }
        Ok(Self { len: payload as u32, kind, id })
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[..4].copy_from_slice(&self.len.to_le_bytes());
        out[4] = match self.kind {
            FrameKind::Message => 1,
            FrameKind::Data => 2,
        };
        out[8..].copy_from_slice(&self.id.to_le_bytes());
        out
    }

    /// Reads a head; one with a length out of range, an unknown kind or reserved bytes is corrupt.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self> {
        let mut r = Reader::new("frame", bytes);
        let len = r.u32()?;
        let kind = match r.u8()? {
            1 => FrameKind::Message,
            2 => FrameKind::Data,
            other => return Err(Error::corrupt("frame", format!("unknown kind {other}"))),
        };
        let reserved = (r.u8()?, r.u16()?);
        let id = r.u32()?;
        if reserved != (0, 0) {
            return Err(Error::corrupt("frame", "reserved bytes are set"));
        }
        if len as usize > MAX_PAYLOAD || (len == 0 && kind == FrameKind::Data) {
            return Err(Error::corrupt("frame", format!("a length of {len} is out of range")));
        }
        Ok(Self { len, kind, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_its_bytes_are_frozen() {
        let head = Head::of(FrameKind::Data, 0x0102_0304, 0x2_1000).expect("in range");
        let bytes = head.encode();
        assert_eq!(bytes, [0, 0x10, 2, 0, 2, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(Head::decode(&bytes).expect("own bytes"), head);
        let message = Head::of(FrameKind::Message, 7, 5).expect("in range");
        assert_eq!(message.encode(), [5, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn lengths_kinds_and_reserved_bytes_are_checked() {
        assert!(Head::of(FrameKind::Data, 1, MAX_PAYLOAD + 1).is_err());
        let good = Head::of(FrameKind::Data, 1, MAX_PAYLOAD).expect("in range").encode();
        assert!(Head::decode(&good).is_ok());
        for (at, value) in [(0, 1), (3, 1), (4, 0), (4, 3), (5, 1), (6, 1), (7, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Head::decode(&bad).is_err(), "byte {at}");
        }
        let empty = Head { len: 0, kind: FrameKind::Data, id: 1 };
        assert!(Head::decode(&empty.encode()).is_err());
    }
}
