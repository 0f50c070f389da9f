//! Little-endian fields and self-checking envelopes that several formats share.
//!
//! Promises bounds-checked reads: a short input is an error, never a panic.

use crate::base::error::{Error, Result};

/// Reads fields from the front of a slice.
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `what` names the format in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.rest.split_at_checked(n).ok_or_else(|| Error::corrupt(self.what, "too short"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Everything not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Fails unless everything was read.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::corrupt(self.what, "trailing bytes")) }
    }
}

/// Wraps a small object: 8 bytes of magic, the body, 32 bytes of BLAKE3 over both.
pub fn envelope(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + body.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(body);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

/// The body of an [`envelope`], after checking magic and hash.
pub fn open_envelope<'a>(what: &'static str, magic: &[u8; 8], bytes: &'a [u8]) -> Result<&'a [u8]> {
    let at =
        bytes.len().checked_sub(32).filter(|at| *at >= 8).ok_or_else(|| Error::corrupt(what, "too short"))?;
    let (head, hash) = bytes.split_at(at);
    if &head[..8] != magic {
        return Err(Error::corrupt(what, "wrong magic"));
    }
    if blake3::hash(head).as_bytes() != hash {
        return Err(Error::corrupt(what, "checksum does not match"));
    }
    Ok(&head[8..])
}

/// Decodes one CBOR value that must fill the input.
pub fn from_cbor<'b, T: minicbor::Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|e| Error::corrupt(what, e.to_string()))?;
    if decoder.position() == bytes.len() { Ok(value) } else { Err(Error::corrupt(what, "trailing bytes")) }
}

/// Encodes one value as CBOR.
pub fn to_cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("because writing to a Vec cannot fail")
}

/// Features that objects may require, by what the object is.
const KNOWN: [(&str, &str); 2] = [("log", FORGET), ("log", ROOT)];

/// What a batch requires that has [`crate::model::entry::Op::Forget`] in it.
pub const FORGET: &str = "forget";

/// What a batch requires that records the folder's root directory itself.
pub const ROOT: &str = "root";

/// Refuses an object that requires a feature this build does not know.
pub fn check_requires(what: &'static str, requires: &[String]) -> Result<()> {
    match requires.iter().find(|name| !KNOWN.contains(&(what, name.as_str()))) {
        None => Ok(()),
        Some(name) => {
            Err(Error::Unsupported(format!("{what} requires the feature {name:?}; use a newer ddr")))
        }
    }
}

/// Refuses a sequence number that no honest writer reaches: they start at 1, and must leave room
/// for signed integers and for the next one.
pub fn check_number(what: &'static str, number: u64) -> Result<()> {
    if (1..i64::MAX as u64).contains(&number) {
        Ok(())
    } else {
        Err(Error::corrupt(what, "number out of range"))
    }
}
