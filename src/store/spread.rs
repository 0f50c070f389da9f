//! Records spread over members, each where a rule wants it: what a bundle and a chain are made of.
//!
//! Promises that a record taken by a member which fails before it is durable there is given to the
//! next one. Until then it is kept in memory; above a limit everything is flushed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::group::Group;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::seal::Sealed;

/// Stored bytes that may wait for a flush.
const MAX_WAITING: u64 = 128 << 20;

/// Records with the content they belong to.
type Waiting = HashMap<RecordId, (RecordId, Sealed)>;

/// The writing half of a bundle or a chain.
pub struct Spread {
    group: Group,
    /// Per member, what it took and is not known to be durable.
    waiting: Vec<Mutex<Waiting>>,
    bytes: AtomicU64,
    /// Held while records change members or become durable: nobody may count on a flush meanwhile.
    settling: Mutex<()>,
}

impl Spread {
    /// Over these members.
    pub fn new(group: Group) -> Self {
        let waiting = group.members().iter().map(|_| Mutex::default()).collect();
        Self { group, waiting, bytes: AtomicU64::default(), settling: Mutex::default() }
    }

    /// The members.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Per id, whether the rule wants nothing more for it, or it waits to be durable.
    pub fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        // Waiting first: what leaves it meanwhile is durable.
        let waiting: Vec<bool> = ids.iter().map(|id| self.is_waiting(id)).collect();
        let has = self.group.has(ids)?;
        Ok(has.into_iter().zip(waiting).map(|(has, waiting)| has || waiting).collect())
    }

    /// Makes these readable where they will stay.
    pub fn settle(&self, ids: &[RecordId]) -> Result<()> {
        match ids.iter().any(|id| self.is_waiting(id)) {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Makes everything that waits readable where it will stay.
    pub fn flush_waiting(&self) -> Result<()> {
        match self.bytes.load(Relaxed) {
            0 => Ok(()),
            _ => self.flush(),
        }
    }

    /// Takes a record.
    pub fn put(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        self.place(content, sealed)?;
        if self.bytes.load(Relaxed) > MAX_WAITING {
            return self.flush();
        }
        if self.has_stranded() {
            let _alone = lock(&self.settling);
            self.rescue()?;
        }
        self.group.check()
    }

    /// Makes everything put before durable, wherever it will be taken.
    pub fn flush(&self) -> Result<()> {
        let _alone = lock(&self.settling);
        loop {
            self.rescue()?;
            for (member, waiting) in self.group.members().iter().zip(&self.waiting) {
                let before: Vec<RecordId> = lock(waiting).keys().copied().collect();
                // What is not durable goes on waiting, for a rescue.
                if member.write(|store| store.flush())? {
                    before.iter().for_each(|id| self.forget(waiting, id));
                }
            }
            if !self.has_stranded() {
                return self.group.check();
            }
        }
    }

    /// Gives a record to the members that the rule wants to have it.
    fn place(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        let has = self.group.who_has(&[sealed.id])?.pop().unwrap_or_default();
        let wanted = self.group.rule().wanted(&content, sealed.kind, has, self.group.at_work());
        for i in wanted.iter() {
            // Before it is put: whoever flushes meanwhile must not miss it.
            if lock(&self.waiting[i]).insert(sealed.id, (content, sealed.clone())).is_none() {
                self.bytes.fetch_add(sealed.payload.len() as u64, Relaxed);
            }
            self.group.members()[i].write(|store| store.put(content, sealed.clone()))?;
        }
        match wanted.is_empty() && has.is_empty() {
            // Nobody to give it to.
            true => self.group.check(),
            false => Ok(()),
        }
    }

    fn is_waiting(&self, id: &RecordId) -> bool {
        self.waiting.iter().any(|waiting| lock(waiting).contains_key(id))
    }

    /// Whether a member that failed still has something nobody else has.
    fn has_stranded(&self) -> bool {
        let members = self.group.members().iter().zip(&self.waiting);
        members.filter(|(m, _)| !m.is_at_work()).any(|(_, waiting)| !lock(waiting).is_empty())
    }

    /// Gives what members took that failed since to others. Ends, for each turn needs one more failure.
    fn rescue(&self) -> Result<()> {
        while self.has_stranded() {
            self.group.check()?;
            for (member, waiting) in self.group.members().iter().zip(&self.waiting) {
                if member.is_at_work() {
                    continue;
                }
                let stranded: Vec<_> = lock(waiting).values().cloned().collect();
                for (content, sealed) in stranded {
                    // It waits here until it waits elsewhere: no flush may pass over it.
                    let id = sealed.id;
                    self.place(content, sealed)?;
                    self.forget(waiting, &id);
                }
            }
        }
        Ok(())
    }

    fn forget(&self, waiting: &Mutex<Waiting>, id: &RecordId) {
        if let Some((_, sealed)) = lock(waiting).remove(id) {
            self.bytes.fetch_sub(sealed.payload.len() as u64, Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
