//! Questions about the history as a whole: knowledge, state hash, counts, gc roots.
//!
//! Promises that the state hash depends only on which entries were applied.

use std::collections::BTreeSet;

use super::db::History;
use super::forgotten::is_forgotten;
use super::log::Tail;
use super::origins;
use super::row::columns;
use super::sql::{self, db, int};
use crate::base::error::Result;
use crate::base::id::{ContentId, OriginId};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::format::wire;
use crate::model::entry::{self, Body, Dot, FileKind, MAX_HLC, Version};
use crate::model::version::Vector;

/// What a folder holds, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Paths that exist.
    pub paths: u64,
    /// Of those, regular files,
    pub files: u64,
    /// directories,
    pub dirs: u64,
    /// and symlinks.
    pub symlinks: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// Entries retained.
    pub entries: u64,
}

/// Every entry of a range of paths, in path order.
pub(super) const ENTRIES: &str =
    concat!("SELECT ", columns!(), " FROM entries e WHERE e.path >= ?1 AND e.path < ?2 ORDER BY e.path");
const BY_CONTENT: &str =
    concat!("SELECT ", columns!(), " FROM entries e WHERE e.content = ?1 ORDER BY e.path");

const DELETED_SINCE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM entries e WHERE e.kind IS NULL AND e.moved_to IS NULL AND e.hlc >= ?1 ORDER BY e.path"
);

const KEPT: &str = concat!(
    "SELECT e.body_kind, e.body, e.size, e.content FROM entries e WHERE e.body IS NOT NULL AND NOT ",
    is_forgotten!()
);

/// A content that a retained entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The content.
    pub content: ContentId,
    /// Where its bytes are.
    pub body: Body,
    /// How many there are.
    pub size: u64,
}

impl History {
    /// Where the applied entries of an origin end; zeros when it is unknown.
    pub fn tail(&self, origin: &OriginId) -> Result<Tail> {
        origins::tail(&self.conn, origin)
    }

    /// Per origin the highest entry applied, in origin order.
    pub fn knowledge(&self) -> Result<Vec<Dot>> {
        let known = origins::known(&self.conn)?;
        Ok(known.into_iter().map(|(origin, tail)| Dot { origin, number: tail.number }).collect())
    }

    /// The highest clock value of any entry applied.
    pub fn clock(&self) -> Result<u64> {
        Ok(origins::known(&self.conn)?.iter().map(|(_, tail)| tail.hlc).max().unwrap_or_default())
    }

    /// The clock value that the next entry has to be above; `since` is when this peer was made.
    pub fn believed_clock(&self, now: Time, since: Time) -> Result<u64> {
        let newest = self.clock()?;
        let (here, ahead) = entry::bounds(now);
        if newest <= ahead {
            return Ok(newest);
        }
        let sums = "SELECT max(hlc) FILTER (WHERE hlc <= ?1), count(*) FILTER (WHERE hlc > ?1 AND hlc <= ?2) \
                    FROM entries";
        let (past, soon): (Option<i64>, i64) = self
            .conn
            .query_row(sums, [here as i64, ahead as i64], |r| Ok((r.get(0)?, r.get(1)?)))
            .map_err(db)?;
        let past = past.map(|past| past as u64).or((since <= now).then_some(0));
        Ok(entry::believed(now, newest, past, soon == 0))
    }

    /// BLAKE3 over knowledge, entries, heads and what is forgotten: equal on all peers that applied the same entries,
    /// in whatever order. The local table has no part in it.
    pub fn state_hash(&self) -> Result<[u8; 32]> {
        let mut hash = blake3::Hasher::new_derive_key("ddr 2026-11 history state");
        let known = origins::known(&self.conn)?;
        hash.update(&(known.len() as u64).to_le_bytes());
        for (origin, tail) in known {
            hash.update(&origin.0).update(&tail.number.to_le_bytes()).update(&tail.hash);
        }
        self.grouped(ENTRIES, &RelPath::root(), &mut |path, all| {
            let heads = self.head_numbers(&path)?;
            let mut all = all.into_iter().map(|s| Ok((self.dot(&s)?, s))).collect::<Result<Vec<_>>>()?;
            all.sort_by_key(|(dot, _)| *dot);
            for (dot, stored) in all {
                let entry = wire::to_cbor(&stored.entry);
                hash.update(&dot.origin.0).update(&dot.number.to_le_bytes());
                hash.update(&(entry.len() as u64).to_le_bytes()).update(&entry);
                hash.update(&[u8::from(heads.contains(&(stored.origin, stored.number)))]);
            }
            Ok(())
        })?;
        for (first, last) in self.forgotten_ranges()? {
            hash.update(&first.origin.0).update(&first.number.to_le_bytes()).update(&last.to_le_bytes());
        }
        Ok(*hash.finalize().as_bytes())
    }

    /// Calls `sink` for every entry with this content, in path order: path, entry, version, and
    /// whether it is a head. Reads the whole table.
    pub fn by_content(
        &self,
        content: &ContentId,
        sink: &mut dyn FnMut(RelPath, Dot, Version, bool) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.conn.prepare_cached(BY_CONTENT).map_err(db)?;
        let mut rows = statement.query([&content.0]).map_err(db)?;
        while let Some(row) = rows.next().map_err(db)? {
            let stored = super::row::read(row)?;
            let dot = self.dot(&stored)?;
            let Some(version) = stored.entry.version() else { continue };
            let is_head = self.head_numbers(&stored.entry.path)?.contains(&(stored.origin, stored.number));
            sink(stored.entry.path.clone(), dot, version.clone(), is_head)?;
        }
        Ok(())
    }

    /// Calls `sink` with every content that a retained entry names and that has bytes: what gc must
    /// keep. A content of several entries comes several times.
    pub fn each_kept(&self, sink: &mut dyn FnMut(Kept) -> Result<()>) -> Result<()> {
        let mut statement = self.conn.prepare_cached(KEPT).map_err(db)?;
        let mut rows = statement.query([]).map_err(db)?;
        while let Some(row) = rows.next().map_err(db)? {
            if let (Some(body), Some(content)) = (sql::body(row, 0)?, sql::content(row, 3)?) {
                sink(Kept { content, body, size: int(row, 2)? as u64 })?;
            }
        }
        Ok(())
    }

    /// The same, with body and content size alone.
    pub fn each_body(&self, sink: &mut dyn FnMut(Body, u64) -> Result<()>) -> Result<()> {
        self.each_kept(&mut |kept| sink(kept.body, kept.size))
    }

    /// Calls `sink` with what was at each path that was deleted after `since` and not moved: its last
    /// version before that.
    pub fn deleted_since(
        &self,
        since: Time,
        sink: &mut dyn FnMut(RelPath, Time, Version) -> Result<()>,
    ) -> Result<()> {
        let low = since.millis().saturating_mul(1 << 16).min(MAX_HLC);
        let mut statement = self.conn.prepare_cached(DELETED_SINCE).map_err(db)?;
        let mut rows = statement.query([low as i64]).map_err(db)?;
        while let Some(row) = rows.next().map_err(db)? {
            let gone = super::row::read(row)?.entry;
            let seen = Vector::from_dots(&gone.seen);
            let before = |p: &&super::Past| seen.covers(p.dot) && p.entry.version().is_some();
            let versions = self.versions(&gone.path)?;
            if let Some(version) = versions.iter().rev().find(before).and_then(|p| p.entry.version()) {
                sink(gone.path.clone(), gone.time(), version.clone())?;
            }
        }
        Ok(())
    }

    /// How much there is.
    pub fn counts(&self) -> Result<Counts> {
        let entries: i64 = self
            .conn
            .query_row("SELECT count(*) FROM entries WHERE path > x''", [], |r| r.get(0))
            .map_err(db)?;
        let mut counts = Counts { entries: entries as u64, ..Counts::default() };
        self.each_head(&RelPath::root(), &mut |_, head| {
            counts.paths += 1;
            match head.version.kind {
                FileKind::File => counts.files += 1,
                FileKind::Dir => counts.dirs += 1,
                FileKind::Symlink => counts.symlinks += 1,
            }
            counts.bytes = counts.bytes.saturating_add(head.version.size);
            Ok(())
        })?;
        Ok(counts)
    }

    /// Origin number and entry number of a path's heads.
    fn head_numbers(&self, path: &RelPath) -> Result<BTreeSet<(i64, i64)>> {
        let mut statement =
            self.conn.prepare_cached("SELECT origin, number FROM heads WHERE path = ?1").map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        let mut all = BTreeSet::new();
        while let Some(row) = rows.next().map_err(db)? {
            all.insert((int(row, 0)?, int(row, 1)?));
        }
        Ok(all)
    }
}
