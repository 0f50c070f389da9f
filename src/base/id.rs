//! Identifiers: fixed-size byte strings that cannot be mixed up.
//!
//! Promises lower-case hex for people and files, and a total order. Knows nothing of how an id is
//! computed; that is `format::key`.

use std::fmt;

use super::error::{Error, Result};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes an id from exactly [`Self::LEN`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                <[u8; $len]>::try_from(bytes).map(Self).map_err(|_| {
                    Error::corrupt(stringify!($name), format!("{} bytes instead of {}", bytes.len(), $len))
                })
            }

            /// Reads the full lower- or upper-case hex form.
            pub fn from_hex(text: &str) -> Result<Self> {
                let mut out = [0u8; $len];
                decode_hex(text, &mut out)
                    .then_some(Self(out))
                    .ok_or_else(|| Error::Invalid(format!("{text:?} is not {} hex digits", $len * 2)))
            }

            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_string()
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> std::result::Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> std::result::Result<Self, minicbor::decode::Error> {
                let bytes = d.bytes()?;
                <[u8; $len]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| minicbor::decode::Error::message("wrong id length"))
            }
        }
    };
}

id_type!(
    /// A folder: random, shared by all its peers.
    FolderId, 16
);
id_type!(
    /// A store: random, written once into its `folder` object.
    StoreId, 16
);
id_type!(
    /// The bytes of one file version: plain BLAKE3, what `b3sum` prints.
    ContentId, 32
);
id_type!(
    /// A record in a pack, that is a chunk or a manifest: BLAKE3 keyed with the folder key.
    RecordId, 32
);
id_type!(
    /// A pack: BLAKE3 of its header and trailer table.
    PackId, 32
);
id_type!(
    /// An origin of history entries: one incarnation (epoch) of one peer key.
    OriginId, 32
);

fn decode_hex(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return false;
    }
    let digit = |c: u8| (c as char).to_digit(16);
    for (slot, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (Some(hi), Some(lo)) = (digit(pair[0]), digit(pair[1])) else { return false };
        *slot = (hi * 16 + lo) as u8;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects_other_lengths() {
        let id = FolderId([0xa7; 16]);
        assert_eq!(FolderId::from_hex(&id.to_string()).expect("own hex"), id);
        assert!(FolderId::from_hex("a7").is_err());
        assert!(FolderId::from_hex(&"zz".repeat(16)).is_err());
    }
}
