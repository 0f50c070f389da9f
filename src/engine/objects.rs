//! Checking a store's small objects: logs, holds, gc's owners and marks.
//!
//! Promises that each is read whole and decoded, that a batch which follows a damaged or missing one
//! is not blamed for it, and that what this peer knows to have been there and is not is named.
//! Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::behind::pushed;
use super::folder::Folder;
use super::hold;
use super::remotes::{OWN, Remote};
use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::format::hold::Hold;
use crate::format::log as log_format;
use crate::format::mark::{Mark, Owner};
use crate::history::log;
use crate::store::names;

/// An object that is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// These entries of an origin.
    Log(OriginId, u64, u64),
    /// A batch of an origin's holds.
    Hold(OriginId, u64),
}

impl Lost {
    /// Its name; for entries, that of one object with all of them.
    pub fn name(&self) -> String {
        match self {
            Self::Log(origin, from, to) => log::object_name(origin, *from, *to),
            Self::Hold(origin, number) => names::hold(*origin, *number),
        }
    }

    fn error(&self) -> Error {
        Error::Missing(match self {
            Self::Log(..) => "log object".into(),
            Self::Hold(..) => "hold".into(),
        })
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Small {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Objects that are not what their names say.
    pub damaged: Vec<(String, Error)>,
    /// Objects that are gone.
    pub lost: Vec<Lost>,
    /// Whole batches that contradict the ones before them.
    pub forked: Vec<(String, Error)>,
}

impl Small {
    /// How many of all these there are.
    pub fn count(&self) -> u64 {
        (self.damaged.len() + self.lost.len() + self.forked.len()) as u64
    }

    /// Every name, and what is wrong.
    pub fn into_list(self) -> impl Iterator<Item = (String, Error)> {
        let lost = self.lost.into_iter().map(|l| (l.name(), l.error()));
        self.damaged.into_iter().chain(lost).chain(self.forked)
    }
}

/// Reads every small object of a store.
pub fn check(folder: &Folder, remote: &Remote) -> Result<Small> {
    let bucket = remote.packs.bucket().as_ref();
    let mut all = Vec::new();
    for prefix in [names::LOG, names::HOLDS, names::GC] {
        bucket.list(prefix, &mut |name, size| {
            all.push((name.to_string(), 0..size));
            Ok(())
        })?;
    }
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut found = Small::default();
    let mut chain = Chain::default();
    bucket.get_all(&all, &mut |i, got| {
        folder.context.cancel.check()?;
        let name = &all[i].0;
        found.objects += 1;
        let checked = got.and_then(|bytes| {
            found.read_bytes += bytes.len() as u64;
            look(folder, name, &bytes, &mut chain)
        });
        match checked {
            Ok(None) => {}
            Ok(Some(fork)) => found.forked.push((name.clone(), fork)),
            Err(e @ Error::Offline { .. }) => return Err(e),
            Err(e) => {
                chain.at.take();
                found.damaged.push((name.clone(), e));
            }
        }
        Ok(())
    })?;
    found.lost = lost_logs(folder, remote)?;
    found.lost.extend(hold::lost(folder, remote)?.into_iter().map(|(o, n)| Lost::Hold(o, n)));
    // A damaged object is there: it is not lost as well.
    let damaged: BTreeSet<&str> = found.damaged.iter().map(|(name, _)| name.as_str()).collect();
    found.lost.retain(|lost| !damaged.contains(lost.name().as_str()));
    Ok(found)
}

/// Where the chain of the origin being read has got to; nothing is known behind a damaged object.
#[derive(Default)]
struct Chain {
    at: Option<(OriginId, u64, [u8; 32])>,
}

impl Chain {
    /// Adds a batch; `Some` if it contradicts the one before it.
    fn add(&mut self, name: &str, batch: &log_format::Batch) -> Option<Error> {
        let (origin, from, prev) = (batch.head.origin(), batch.head.from, batch.head.prev);
        let before = self.at.replace((origin, batch.head.to(), batch.hash));
        let wrong = match before.filter(|(o, ..)| *o == origin) {
            Some((_, to, hash)) => from <= to || (from == to + 1 && prev != hash),
            None => from == 1 && prev != [0; 32],
        };
        wrong.then(|| Error::corrupt(name, "does not follow the batch before it: the history forked"))
    }
}

/// Decodes one object; `Some` if it is whole but does not fit the others.
fn look(folder: &Folder, name: &str, bytes: &[u8], chain: &mut Chain) -> Result<Option<Error>> {
    let (of, is_named) = if name.starts_with(names::LOG) {
        let batch = log_format::decode(bytes)?;
        let named = log::object_name(&batch.head.origin(), batch.head.from, batch.head.to());
        if batch.head.folder == folder.id && named == name {
            return Ok(chain.add(name, &batch));
        }
        (batch.head.folder, false)
    } else if name.starts_with(names::HOLDS) {
        let hold = Hold::decode(bytes)?;
        (hold.folder, name == names::hold(hold.origin, hold.number))
    } else if names::parse_owner(name).is_some() {
        let owner = Owner::decode(bytes)?;
        (owner.folder, name == names::owner(owner.epoch))
    } else {
        let mark = Mark::decode(bytes)?;
        (mark.folder, name == names::mark(mark.number))
    };
    match of == folder.id && is_named {
        true => Ok(None),
        false => Err(Error::corrupt(name, "is not what its name says")),
    }
}

/// Entries that were in this store's logs, or lie between others, and are not there.
fn lost_logs(folder: &Folder, remote: &Remote) -> Result<Vec<Lost>> {
    let there = log::survey(remote.packs.bucket().as_ref())?;
    let mut reached: BTreeMap<OriginId, u64> = there.keys().map(|origin| (*origin, 0)).collect();
    for dot in folder.history.knowledge()? {
        let number = match remote.name == OWN {
            true => dot.number,
            false => pushed(&folder.history, remote.packs.id(), dot.origin)?,
        };
        reached.insert(dot.origin, number);
    }
    let mut out = Vec::new();
    for (origin, reached) in reached {
        let mut next = 1;
        for object in there.get(&origin).into_iter().flatten() {
            if object.from > next {
                out.push(Lost::Log(origin, next, object.from - 1));
            }
            next = next.max(object.to.saturating_add(1));
        }
        if next <= reached {
            out.push(Lost::Log(origin, next, reached));
        }
    }
    Ok(out)
}
