//! Sending objects.
//!
//! Promises that bytes which the other side holds are not sent again, and that no more is under way
//! than it allows.

use std::sync::atomic::Ordering;

use super::conn::{Call, Conn};
use super::slot::Slot;
use super::{Cuts, Link, PAUSES, Trouble};
use crate::base::error::{Error, Result};
use crate::format::frame::MAX_PAYLOAD;
use crate::format::message::{Answer, MAX_OBJECT, NewObject, Request};

/// An object to be sent.
pub struct Outgoing<'a> {
    object: NewObject,
    parts: Vec<&'a [u8]>,
}

impl<'a> Outgoing<'a> {
    /// Hashes the parts.
    pub fn new(name: &str, parts: &[&'a [u8]]) -> Result<Self> {
        let size = parts.iter().map(|p| p.len() as u64).sum();
        if size > MAX_OBJECT {
            return Err(Error::Invalid(format!("{name} is larger than {MAX_OBJECT} bytes")));
        }
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let object = NewObject { name: name.into(), size, hash: *hasher.finalize().as_bytes() };
        Ok(Self { object, parts: parts.to_vec() })
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.object.size
    }
}

impl Link {
    /// Makes objects there, in this order; durable on return.
    pub fn put(&self, objects: &[Outgoing<'_>]) -> Result<()> {
        let size: u64 = objects.iter().map(Outgoing::size).sum();
        self.load.fetch_add(size, Ordering::Relaxed);
        let result = self.put_until_done(objects);
        self.load.fetch_sub(size, Ordering::Relaxed);
        result
    }

    fn put_until_done(&self, objects: &[Outgoing<'_>]) -> Result<()> {
        let mut cuts = Cuts::default();
        loop {
            let conn = self.conn()?;
            let mut held = 0;
            match self.put_once(&conn, objects, cuts.any, &mut held) {
                Ok(()) => return Ok(()),
                // What it held was not what was sent; it has forgotten it.
                Err(Trouble::Final(e @ Error::Corrupt { .. })) if cuts.any && held > 0 => {
                    cuts.count(Error::Offline { name: self.dial.place(), why: e.to_string() }, 0)?;
                }
                // An earlier attempt of our own is about to end.
                Err(Trouble::Final(e @ Error::Locked(_))) if cuts.any => {
                    std::thread::sleep(PAUSES.0);
                    cuts.count(Error::Offline { name: self.dial.place(), why: e.to_string() }, 0)?;
                }
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Cut(e)) => {
                    self.part(&conn);
                    cuts.count(e, held)?;
                }
            }
        }
    }

    fn put_once(
        &self,
        conn: &Conn,
        objects: &[Outgoing<'_>],
        again: bool,
        held: &mut u64,
    ) -> Result<(), Trouble> {
        let odd = |what: &str| Trouble::Final(Error::corrupt(self.dial.place(), what));
        let window = conn.welcome()?.window;
        if window < MAX_PAYLOAD as u64 {
            return Err(odd("its window is too small"));
        }
        let request = Request::Put { objects: objects.iter().map(|o| o.object.clone()).collect(), again };
        let call = conn.call(Slot::put(window), &request)?;
        let mut starts = vec![0; objects.len()];
        if again {
            match call.slot.next(self.timing.answer)?.0 {
                Answer::Held(there) => starts = there,
                _ => return Err(odd("it does not say what it holds")),
            }
        }
        if starts.len() != objects.len() || starts.iter().zip(objects).any(|(n, o)| *n > o.size()) {
            return Err(odd("it holds more than there is"));
        }
        *held = starts.iter().sum();
        for (object, start) in objects.iter().zip(starts) {
            if !self.send(&call, object, start)? {
                break;
            }
        }
        match call.slot.next(self.timing.answer)?.0 {
            Answer::Done => Ok(()),
            _ => Err(odd("it did not answer what it was asked")),
        }
    }

    /// Sends an object from an offset; false if the answer is there before the end.
    fn send(&self, call: &Call, object: &Outgoing<'_>, start: u64) -> Result<bool, Trouble> {
        let (mut skip, mut left) = (start as usize, object.size() - start);
        let mut parts = object.parts.iter().map(|part| {
            let from = skip.min(part.len());
            skip -= from;
            &part[from..]
        });
        let mut part: &[u8] = &[];
        while left > 0 {
            let len = left.min(MAX_PAYLOAD as u64) as usize;
            if !call.slot.spend(len as u64, self.timing.answer)? {
                return Ok(false);
            }
            let (mut frame, mut room) = (Vec::new(), len);
            while room > 0 {
                while part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let (now, rest) = part.split_at(room.min(part.len()));
                frame.push(now);
                room -= now.len();
                part = rest;
            }
            call.data(&frame)?;
            left -= len as u64;
        }
        Ok(true)
    }
}
