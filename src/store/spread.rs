//! Records spread over members, each where a rule wants it: bundles and chains.
//!
//! Promises what [`Store`] promises while `need` failure domains are at work, and that a record taken by a member which fails before it is durable there is given to the
//! next one. Until then it is kept in memory; above a limit everything is flushed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::group::Group;
use super::member::Member;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::seal::Sealed;
use crate::model::entry::Kind;
use crate::model::placement::{Layout, Rule};

/// Stored bytes that may wait for a flush.
const MAX_WAITING: u64 = 128 << 20;

/// Records with the content they belong to.
type Waiting = HashMap<RecordId, (RecordId, Sealed)>;

/// Stores that share records among them: a bundle or a chain.
pub struct Spread {
    group: Group,
    /// Per member, what it took and is not known to be durable.
    waiting: Vec<Mutex<Waiting>>,
    bytes: AtomicU64,
    /// Held while records change members or become durable: nobody may count on a flush meanwhile.
    settling: Mutex<()>,
}

impl Spread {
    /// Members that share the contents among them, like one large disk: a content's records lie
    /// together, on `copies` failure domains; manifests are on every member; what older weights placed
    /// is found and not placed again. `members` in the order of the rule's seats.
    pub fn bundle(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        Self::new(name, Rule { layout: Layout::Bundle, ..rule }, members, need)
    }

    /// Tiers, near to far: the nearest that takes a record keeps it, manifests go to all, reading asks
    /// the nearest first. Moving on to the next tier, by age, is the engine's business.
    pub fn chain(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        Self::new(name, Rule { layout: Layout::Chain, ..rule }, members, need)
    }

    fn new(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        let group = Group::new(name, rule, members, need)?;
        let waiting = group.members().iter().map(|_| Mutex::default()).collect();
        Ok(Self { group, waiting, bytes: AtomicU64::default(), settling: Mutex::default() })
    }

    /// Makes these readable where they will stay.
    fn settle(&self, ids: &[RecordId]) -> Result<()> {
        match ids.iter().any(|id| self.is_waiting(id)) {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Gives a record to the members that the rule wants to have it.
    fn place(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        let has = self.group.who_has(&[sealed.id])?.pop().unwrap_or_default();
        let wanted = self.group.rule().wanted(&content, sealed.kind, has, self.group.at_work());
        for i in wanted.iter() {
            // Before it is put, so that whoever flushes meanwhile does not miss it; and after, for who flushed
            // in between took it for durable.
            self.await_flush(i, content, &sealed);
            self.group.members()[i].write(|store| store.put(content, sealed.clone()))?;
            self.await_flush(i, content, &sealed);
        }
        match wanted.is_empty() && has.is_empty() {
            // Nobody to give it to.
            true => self.group.check(),
            false => Ok(()),
        }
    }

    /// Notes that member `i` takes a record which is not durable there yet.
    fn await_flush(&self, i: usize, content: RecordId, sealed: &Sealed) {
        if let Entry::Vacant(place) = lock(&self.waiting[i]).entry(sealed.id) {
            place.insert((content, sealed.clone()));
            self.bytes.fetch_add(sealed.payload.len() as u64, Relaxed);
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

impl Store for Spread {
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        // Waiting first: what leaves it meanwhile is durable.
        let waiting: Vec<bool> = ids.iter().map(|id| self.is_waiting(id)).collect();
        let has = self.group.has(ids)?;
        Ok(has.into_iter().zip(waiting).map(|(has, waiting)| has || waiting).collect())
    }

    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        self.settle(ids)?;
        self.group.get(ids, sink)
    }

    fn put(&self, content: RecordId, sealed: Sealed) -> Result<()> {
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

    fn flush(&self) -> Result<()> {
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

    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        if self.bytes.load(Relaxed) > 0 {
            self.flush()?;
        }
        self.group.list(sink)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
