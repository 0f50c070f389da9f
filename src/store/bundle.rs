//! A store whose members share the contents among them, like one large disk.
//!
//! Promises what [`Store`] promises while `need` failure domains are at work, and that
//! a content's records lie together, on `copies` failure domains; manifests are on every member;
//! a full or missing member is worked around. What older weights placed is found and not placed again.

use std::sync::Arc;

use super::Store;
use super::group::Group;
use super::member::Member;
use super::spread::Spread;
use crate::base::error::Result;
use crate::base::id::RecordId;
use crate::format::seal::Sealed;
use crate::model::entry::Kind;
use crate::model::placement::{Layout, Rule};

/// Stores that share the contents among them.
pub struct Bundle(Spread);

impl Bundle {
    /// `members` in the order of the rule's seats; see `Group::new`.
    pub fn new(name: &str, rule: Rule, members: Vec<Arc<Member>>, need: usize) -> Result<Self> {
        let rule = Rule { layout: Layout::Bundle, ..rule };
        Group::new(name, rule, members, need).map(|group| Self(Spread::new(group)))
    }
}

impl Store for Bundle {
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        self.0.has(ids)
    }

    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        self.0.settle(ids)?;
        self.0.group().get(ids, sink)
    }

    fn put(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        self.0.put(content, sealed)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        self.0.flush_waiting()?;
        self.0.group().list(sink)
    }
}
