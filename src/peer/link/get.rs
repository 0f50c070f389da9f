//! Reading objects, several at once.
//!
//! Promises exactly the bytes that were asked for, or an error; after a cut only the rest is asked
//! for again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::conn::{Call, Conn};
use super::slot::Slot;
use super::{Cuts, Link, Trouble};
use crate::base::error::{Error, Result};
use crate::format::message::{Answer, Request};

/// Room that is made before the size of an object is known.
const GUESS: u64 = 1 << 20;
/// Most bytes that are read without knowing their number beforehand.
const MAX_GET: u64 = 256 << 20;

/// A range on its way.
pub struct Fetch<'a> {
    link: &'a Link,
    name: String,
    range: Range<u64>,
    size: Option<u64>,
    got: Vec<u8>,
    cuts: Cuts,
    running: Option<(Arc<Conn>, Call)>,
}

impl<'a> Fetch<'a> {
    /// Nothing is sent yet.
    pub fn new(link: &'a Link, name: &str, range: Range<u64>) -> Self {
        let range = range.start..range.end.max(range.start);
        link.load.fetch_add(expected(&range), Ordering::Relaxed);
        Self { link, name: name.into(), range, size: None, got: vec![], cuts: Cuts::default(), running: None }
    }

    /// Bytes that are likely to come.
    pub fn expected(&self) -> u64 {
        expected(&self.range)
    }

    /// Asks for what has not come yet, unless that was done. Fails only where [`Fetch::finish`] would.
    pub fn start(&mut self) -> Result<()> {
        let is_cut = |call: &Call| call.slot.is_cut();
        if self.running.as_ref().is_some_and(|(_, call)| !is_cut(call)) {
            return Ok(());
        }
        let link = self.link;
        loop {
            self.leave();
            let conn = link.conn()?;
            let from = self.range.start + self.got.len() as u64;
            let room = (self.range.end - from).min(MAX_GET);
            let slot = Slot::get(room, room.min(expected(&(from..self.range.end))) as usize);
            let request = Request::Get { name: self.name.clone(), from, to: self.range.end };
            match conn.call(slot, &request) {
                Ok(call) => {
                    self.running = Some((conn, call));
                    return Ok(());
                }
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Cut(e)) => {
                    link.part(&conn);
                    self.cuts.count(e, self.got.len() as u64)?;
                }
            }
        }
    }

    /// Waits for all of it.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        loop {
            self.start()?;
            let Some((conn, call)) = self.running.as_ref() else { continue };
            let waited = wait(self.link, call);
            let conn = Arc::clone(conn);
            match waited {
                Ok(size) => {
                    self.leave();
                    return self.check(size);
                }
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Cut(e)) => {
                    self.link.part(&conn);
                    self.leave();
                    self.cuts.count(e, self.got.len() as u64)?;
                }
            }
        }
    }

    /// Takes what has come of a request that is over.
    fn leave(&mut self) {
        let Some((_, call)) = self.running.take() else { return };
        let data = call.slot.take_data();
        match self.got.is_empty() {
            true => self.got = data,
            false => self.got.extend_from_slice(&data),
        }
    }

    fn check(&mut self, size: u64) -> Result<Vec<u8>> {
        let wanted = self.range.end.min(size).saturating_sub(self.range.start);
        let bytes = std::mem::take(&mut self.got);
        if self.size.is_some_and(|before| before != size) || bytes.len() as u64 != wanted {
            return Err(Error::corrupt(&self.name, "the peer sent fewer or more bytes than there are"));
        }
        Ok(bytes)
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.link.load.fetch_sub(expected(&self.range), Ordering::Relaxed);
    }
}

/// The object's size, once all bytes are here.
fn wait(link: &Link, call: &Call) -> Result<u64, Trouble> {
    let Answer::Size(size) = call.slot.next(link.timing.answer)?.0 else { return Err(odd(link)) };
    match call.slot.next(link.timing.answer)?.0 {
        Answer::Done => Ok(size),
        _ => Err(odd(link)),
    }
}

fn odd(link: &Link) -> Trouble {
    Trouble::Final(Error::corrupt(link.dial.place(), "it did not answer what it was asked"))
}

/// Bytes of a range that are likely to come.
pub fn expected(range: &Range<u64>) -> u64 {
    let range = range.start..range.end.max(range.start);
    match range.end - range.start {
        len if len > MAX_GET => GUESS,
        len => len,
    }
}
