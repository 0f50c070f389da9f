//! Messages between two ddr: requests, answers, and errors on the wire.
//!
//! Promises that what decodes lies within the limits below, that fields and messages added later are
//! told from damage, and that an error means the same on both sides. Every byte is in
//! docs/PROTOCOL.md. Does no I/O.

use minicbor::{Decode, Encode};

use super::frame::MAX_PAYLOAD;
use super::wire;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, StoreId};

mod fault;

pub use fault::Fault;

/// Newest version of the protocol that this build speaks.
pub const VERSION: u32 = 1;
/// Oldest version that it still speaks.
pub const OLDEST: u32 = 1;
/// Most objects in one [`Request::Put`].
pub const MAX_OBJECTS: usize = 64;
/// Largest object, in bytes.
pub const MAX_OBJECT: u64 = 16 << 30;
/// Longest name, prefix or text, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Requests other than puts that every serving side takes at once.
pub const REQUESTS: usize = 64;
/// Bytes of a listing's pages that may be under way.
pub const PAGES: u64 = 1 << 20;
/// Most names of features.
const MAX_FEATURES: usize = 64;

/// What the asking side says first.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Newest version it speaks.
    #[n(0)]
    pub version: u32,
    /// Features it knows.
    #[n(1)]
    pub features: Vec<String>,
    /// Program and version, for people.
    #[n(2)]
    pub program: String,
    /// The folder it means. None: whichever is there (it does not know one yet).
    #[n(3)]
    pub folder: Option<FolderId>,
}

/// What the serving side says first.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The version both speak.
    #[n(0)]
    pub version: u32,
    /// Features that both know.
    #[n(1)]
    pub features: Vec<String>,
    /// Program and version, for people.
    #[n(2)]
    pub program: String,
    /// Bytes of one put that may be under way.
    #[n(3)]
    pub window: u64,
    /// Puts that may be under way at once.
    #[n(4)]
    pub puts: u32,
    /// Seconds of silence after which it ends the connection.
    #[n(5)]
    pub silence: u32,
}

/// An object to be made.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct NewObject {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its size in bytes.
    #[n(1)]
    pub size: u64,
    /// BLAKE3 of its bytes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub hash: [u8; 32],
}

/// A bare peer to be made.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct NewPeer {
    /// The folder.
    #[n(0)]
    pub folder: FolderId,
    /// Its key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Name of the new peer, for people.
    #[n(2)]
    pub name: String,
    /// Asked before, but the answer did not come: one that is there is as good.
    #[n(3)]
    pub again: bool,
}

/// What a page of so many bytes takes of [`PAGES`]: something, even if it is empty.
pub fn page_cost(len: usize) -> u64 {
    (len as u64).max(64)
}

/// What a store and its machine say about themselves.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Info {
    /// The folder.
    #[n(0)]
    pub folder: FolderId,
    /// The store.
    #[n(1)]
    pub store: StoreId,
    /// Bytes that the serving user may still write.
    #[n(2)]
    pub free: u64,
    /// Bytes of the file system.
    #[n(3)]
    pub total: u64,
    /// The machine: equal for all stores on it, and to nobody else's.
    #[n(4)]
    pub host: String,
    /// What it fails together with on that machine: the number of a device, or of a file system.
    #[n(5)]
    pub device: u64,
    /// The serving process.
    #[n(6)]
    pub pid: u32,
    /// Program and version.
    #[n(7)]
    pub program: String,
    /// The running system: only processes on the same machine see the same.
    #[n(8)]
    pub boot: String,
}

/// What the asking side sends.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// The first message.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Are you there? Answered by `Done`.
    #[n(1)]
    Ping,
    /// Answered by `Info`.
    #[n(2)]
    Info,
    /// Make a bare peer where there is none. Answered by `Done`.
    #[n(3)]
    Create(#[n(0)] NewPeer),
    /// Make objects, which appear in this order. Their bytes follow as data, one object after the other;
    /// if `again`, only after `Held` and without what is held. Answered by `Done`.
    #[n(4)]
    Put {
        /// The objects.
        #[n(0)]
        objects: Vec<NewObject>,
        /// Sent before, but the answer did not come: what is held is told first, and an object that is
        /// there with the same bytes is as good.
        #[n(1)]
        again: bool,
    },
    /// Bytes of an object. Answered by `Size`, data, `Done`.
    #[n(5)]
    Get {
        /// Its name.
        #[n(0)]
        name: String,
        /// The first byte wanted.
        #[n(1)]
        from: u64,
        /// The byte after the last one wanted.
        #[n(2)]
        to: u64,
    },
    /// Names below a prefix in byte order. Answered by any number of `Page`, then `Done`.
    #[n(6)]
    List {
        /// Ends in `/`, or is empty.
        #[n(0)]
        prefix: String,
        /// Only names after this one.
        #[n(1)]
        after: Option<String>,
    },
    /// Answered by `Done`.
    #[n(7)]
    Delete {
        /// The object's name.
        #[n(0)]
        name: String,
    },
    /// So many more bytes of pages may come. Not answered.
    #[n(8)]
    Credit {
        /// How many.
        #[n(0)]
        bytes: u64,
    },
    /// Nobody waits for the answer any more. Not answered.
    #[n(9)]
    Cancel,
}

/// What the serving side sends.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Answer {
    /// The first message.
    #[n(0)]
    Welcome(#[n(0)] Welcome),
    /// It is done: all was sent, or is durable.
    #[n(1)]
    Done,
    /// It could not be done.
    #[n(2)]
    Failed(#[n(0)] Fault),
    /// Bytes held of each object of a `Put`.
    #[n(3)]
    Held(#[n(0)] Vec<u64>),
    /// Size of the object whose bytes follow.
    #[n(4)]
    Size(#[n(0)] u64),
    /// Names and sizes.
    #[n(5)]
    Page(#[n(0)] Vec<Listed>),
    /// So many more bytes of this put may come.
    #[n(6)]
    Credit(#[n(0)] u64),
    /// Facts.
    #[n(7)]
    Info(#[n(0)] Info),
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Listed {
    /// Name of an object.
    #[n(0)]
    pub name: String,
    /// Its size.
    #[n(1)]
    pub size: u64,
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_cbor(self)
    }

    /// Reads a message; `None` for one that was added to the protocol later.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let request: Option<Self> = decode("request", bytes)?;
        match &request {
            Some(Self::Hello(hello)) => {
                check_features("request", &hello.features)?;
                check_text("request", &hello.program)?;
            }
            Some(Self::Create(new)) => check_text("request", &new.name)?,
            Some(Self::Put { objects, .. }) => check_objects(objects)?,
            Some(Self::Get { name, .. } | Self::Delete { name }) => check_text("request", name)?,
            Some(Self::List { prefix, after }) => {
                check_text("request", prefix)?;
                after.as_deref().map_or(Ok(()), |after| check_text("request", after))?;
            }
            Some(Self::Ping | Self::Info | Self::Credit { .. } | Self::Cancel) | None => {}
        }
        Ok(request)
    }
}

impl Answer {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_cbor(self)
    }

    /// Reads a message; one that was added to the protocol later is `Unsupported`: nobody sends it to
    /// a side that did not ask for it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let unknown = || Error::Unsupported("the peer sent a message that this ddr does not know".into());
        let answer = decode("answer", bytes)?.ok_or_else(unknown)?;
        match &answer {
            Self::Welcome(welcome) => {
                check_features("answer", &welcome.features)?;
                check_text("answer", &welcome.program)?;
            }
            Self::Failed(fault) => fault.check()?,
            Self::Held(held) if held.len() > MAX_OBJECTS => return Err(long("answer")),
            Self::Page(page) => page.iter().try_for_each(|l| check_text("answer", &l.name))?,
            Self::Info(info) => {
                check_text("answer", &info.host)?;
                check_text("answer", &info.program)?;
                check_text("answer", &info.boot)?;
            }
            Self::Done | Self::Held(_) | Self::Size(_) | Self::Credit(_) => {}
        }
        Ok(answer)
    }
}

/// A message, or `None` if it is whole but of an unknown kind.
fn decode<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<Option<T>> {
    if bytes.len() > MAX_PAYLOAD {
        return Err(long(what));
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    match decoder.decode() {
        Ok(value) if decoder.position() == bytes.len() => Ok(Some(value)),
        Ok(_) => Err(Error::corrupt(what, "trailing bytes")),
        Err(e) if e.is_unknown_variant() => Ok(None),
        Err(e) => Err(Error::corrupt(what, e.to_string())),
    }
}

fn check_objects(objects: &[NewObject]) -> Result<()> {
    if objects.is_empty() || objects.len() > MAX_OBJECTS {
        return Err(Error::corrupt("request", format!("a put of {} objects", objects.len())));
    }
    for object in objects {
        check_text("request", &object.name)?;
        if object.size > MAX_OBJECT {
            return Err(Error::corrupt("request", format!("an object of {} bytes", object.size)));
        }
    }
    Ok(())
}

fn check_features(what: &'static str, features: &[String]) -> Result<()> {
    if features.len() > MAX_FEATURES {
        return Err(long(what));
    }
    features.iter().try_for_each(|f| check_text(what, f))
}

fn check_text(what: &'static str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT { Err(long(what)) } else { Ok(()) }
}

fn long(what: &'static str) -> Error {
    Error::corrupt(what, "longer than allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_later_version_is_not_damage() {
        let later = [0x82, 0x18, 99, 0x80];
        assert_eq!(Request::decode(&later).expect("whole"), None);
        assert!(matches!(Answer::decode(&later), Err(Error::Unsupported(_))));
        assert!(Request::decode(&later[..2]).is_err());
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        // Hello with a field 9 that says 1.
        let hello = Hello { version: 1, features: vec![], program: "x".into(), folder: None };
        let mut bytes = Request::Hello(hello.clone()).encode();
        let at = bytes.iter().position(|b| *b == 0xa3).expect("a map of three");
        bytes[at] = 0xa4;
        bytes.extend([9, 1]);
        assert_eq!(Request::decode(&bytes).expect("valid"), Some(Request::Hello(hello)));
    }

    #[test]
    fn lists_and_texts_have_limits() {
        let object = NewObject { name: "data/x".into(), size: 1, hash: [0; 32] };
        let put = |n: usize| Request::Put { objects: vec![object.clone(); n], again: false };
        assert!(Request::decode(&put(MAX_OBJECTS).encode()).is_ok());
        assert!(Request::decode(&put(MAX_OBJECTS + 1).encode()).is_err());
        assert!(Request::decode(&put(0).encode()).is_err());
        let huge = Request::Put { objects: vec![NewObject { size: MAX_OBJECT + 1, ..object }], again: false };
        assert!(Request::decode(&huge.encode()).is_err());
        let long = Request::Delete { name: "a".repeat(MAX_TEXT + 1) };
        assert!(Request::decode(&long.encode()).is_err());
        // An array that claims to be endless costs nothing.
        assert!(Answer::decode(&[0x82, 3, 0x81, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
        assert!(Answer::decode(&Answer::Held(vec![0; MAX_OBJECTS + 1]).encode()).is_err());
    }
}
