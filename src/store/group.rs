//! What all layouts have in common: members that are asked together and read one after another.
//!
//! Promises that a member which fails is left out and the others go on, and that nothing is said to
//! be missing while a member that may have it cannot be asked. Where records go is
//! [`crate::model::placement`]'s decision.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::member::Member;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::seal::Sealed;
use crate::model::entry::Kind;
use crate::model::placement::{Layout, MAX_SEATS, Members, Rule};

/// The members of a layout and what it wants of them.
pub struct Group {
    name: String,
    rule: Rule,
    members: Vec<Arc<Member>>,
    need: usize,
}

impl Group {
    /// `members` in the order of the rule's seats. With fewer than `need` failure domains at work
    /// nothing is written.
    pub fn new(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        if members.len() > MAX_SEATS || members.len() != rule.seats.len() {
            return Err(Error::Invalid(format!("{name}: {} stores, at most {MAX_SEATS}", members.len())));
        }
        Ok(Self { name: name.into(), rule, members, need: need.max(1) })
    }

    /// What it wants.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The members.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Those that can be written to.
    pub fn at_work(&self) -> Members {
        Members::of(self.members.len(), |i| self.members[i].is_at_work())
    }

    /// Fails if nobody can be asked.
    fn check_readable(&self) -> Result<()> {
        match self.members.iter().any(|m| m.is_readable()) {
            true => Ok(()),
            false => Err(self.why_out(0)),
        }
    }

    /// Fails if too few members are left to write to.
    pub fn check(&self) -> Result<()> {
        match self.rule.domains(self.at_work()) {
            left if left >= self.need => Ok(()),
            left => Err(self.why_out(left)),
        }
    }

    /// The first member's reason, in the words of the whole.
    fn why_out(&self, left: usize) -> Error {
        match self.members.iter().find_map(|m| Some((m.name(), m.why_out()?))) {
            // One store that is a group of its own needs no explanation around it.
            Some((_, e)) if self.members.len() == 1 => e,
            Some((name, Error::NoSpace(why))) => Error::NoSpace(format!("in {name} {why}")),
            Some((name, e)) => Error::Offline {
                name: name.into(),
                why: format!("{e}; {left} of {} copies possible in {}", self.need, self.name),
            },
            None => Error::Offline { name: self.name.clone(), why: "no store of it can be reached".into() },
        }
    }

    /// Per id, the members that have it.
    pub fn who_has(&self, ids: &[RecordId]) -> Result<Vec<Members>> {
        let mut has = vec![Members::default(); ids.len()];
        for (i, member) in self.members.iter().enumerate() {
            if let Some(answers) = member.ask(|store| store.has(ids))? {
                has.iter_mut().zip(answers).filter(|(_, yes)| *yes).for_each(|(m, _)| *m = m.with(i));
            }
        }
        Ok(has)
    }

    /// Per id, whether the rule wants nothing more for it.
    pub fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        let has = self.who_has(ids)?;
        self.check_readable()?;
        let at_work = self.at_work();
        Ok(has.into_iter().map(|has| self.rule.is_kept(has, at_work)).collect())
    }

    /// Members in the order in which they are read.
    fn readers(&self) -> Vec<&Arc<Member>> {
        let mut order: Vec<&Arc<Member>> = self.members.iter().collect();
        if self.rule.layout != Layout::Chain {
            order.sort_by_key(|m| m.distance());
        }
        order
    }

    /// Reads each record from the nearest member that has it whole.
    pub fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        let mut open: BTreeMap<RecordId, Option<Error>> = ids.iter().map(|id| (*id, None)).collect();
        for member in self.readers() {
            if open.is_empty() {
                break;
            }
            let wanted: Vec<RecordId> = open.keys().copied().collect();
            member.read(&wanted, &mut |id, got| match got {
                Ok(sealed) => {
                    open.remove(&id);
                    sink(id, Ok(sealed))
                }
                Err(e) => {
                    if let Some(first) = open.get_mut(&id) {
                        // Damage says more than absence.
                        *first = Some(first.take().filter(|f| !f.is_missing()).unwrap_or(e));
                    }
                    Ok(())
                }
            })?;
        }
        let out = || self.members.iter().find_map(|m| Some((m.name(), m.why_out()?)));
        open.into_iter().try_for_each(|(id, error)| {
            let error = match (error, out()) {
                (Some(e), _) if !e.is_missing() => e,
                (_, Some((_, e @ Error::Offline { .. }))) => e,
                (_, Some((name, e))) => Error::Offline { name: name.into(), why: e.to_string() },
                (Some(e), None) => e,
                (None, None) => Error::Missing(format!("record {}", id.short())),
            };
            sink(id, Err(error))
        })
    }

    /// Calls `sink` for every record that [`Group::has`] reports, in id order. A member that fails
    /// meanwhile ends the call: what it would have said is not known.
    pub fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        self.check_readable()?;
        let readable = Members::of(self.members.len(), |i| self.members[i].is_readable());
        let members: Vec<&Arc<Member>> = readable.iter().map(|i| &self.members[i]).collect();
        std::thread::scope(|scope| {
            let mut pipes: Vec<Pipe> = Vec::new();
            let mut threads = Vec::new();
            for member in &members {
                let (tx, rx) = bounded(4096);
                pipes.push(Pipe { next: None, rx });
                threads.push(scope.spawn(move || {
                    // The receiver is gone if the call has ended.
                    let mut put = |id, kind| tx.send((id, kind)).map_err(|_| Error::Interrupted);
                    member.ask(|store| store.list(&mut put))
                }));
            }
            let merged = self.merge(&mut pipes, readable, sink);
            drop(pipes);
            for (thread, member) in threads.into_iter().zip(&members) {
                let ended = thread.join().map_err(|_| Error::Invalid("a listing thread panicked".into()))?;
                match ended {
                    Ok(Some(())) => {}
                    Ok(None) => return Err(member.why_out().unwrap_or(Error::Interrupted)),
                    Err(e) => return merged.and(Err(e)),
                }
            }
            merged
        })
    }

    fn merge(
        &self,
        pipes: &mut [Pipe],
        readable: Members,
        sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>,
    ) -> Result<()> {
        let numbers: Vec<usize> = readable.iter().collect();
        let at_work = self.at_work();
        loop {
            let Some((id, kind)) = pipes.iter_mut().filter_map(Pipe::peek).min() else { return Ok(()) };
            let mut has = Members::default();
            for (pipe, number) in pipes.iter_mut().zip(&numbers) {
                if pipe.next.is_some_and(|(next, _)| next == id) {
                    has = has.with(*number);
                    pipe.next = None;
                }
            }
            if self.rule.is_kept(has, at_work) {
                sink(id, kind)?;
            }
        }
    }
}

/// One member's listing, looked at one ahead.
struct Pipe {
    next: Option<(RecordId, Kind)>,
    rx: Receiver<(RecordId, Kind)>,
}

impl Pipe {
    fn peek(&mut self) -> Option<(RecordId, Kind)> {
        if self.next.is_none() {
            self.next = self.rx.recv().ok();
        }
        self.next
    }
}
