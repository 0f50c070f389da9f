//! A store whose members each keep everything.
//!
//! Promises what [`Store`] promises as long as `need` failure domains are at work; a member that
//! fails is left out of the run and catches up later. Durable means: on every member at work.

use std::sync::Arc;

use super::Store;
use super::group::Group;
use super::member::Member;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::seal::Sealed;
use crate::model::entry::Kind;
use crate::model::placement::{Layout, Rule};

/// Stores that each keep everything.
pub struct Mirror(Group);

impl Mirror {
    /// `members` in the order of the rule's seats; see `Group::new`.
    pub fn new(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        Group::new(name, Rule { layout: Layout::Mirror, ..rule }, members, need).map(Self)
    }
}

impl Store for Mirror {
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        self.0.has(ids)
    }

    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        self.0.get(ids, sink)
    }

    fn put(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        let members = self.0.members();
        for member in members {
            member.write(|store| {
                // The caller asked whether all have it; who lacks it is only of interest among several.
                let known = members.len() > 1 && store.has(&[sealed.id])?[0];
                if known { Ok(()) } else { store.put(content, sealed.clone()) }
            })?;
        }
        self.0.check()
    }

    fn flush(&self) -> Result<()> {
        for member in self.0.members() {
            member.write(|store| store.flush())?;
        }
        self.0.check()
    }

    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        self.0.list(sink)
    }
}
