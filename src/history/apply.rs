//! Entries into the index: from log objects, or at hand because this process has just made them.
//!
//! Promises that an origin's entries are applied in order, without a gap and only along a verified
//! chain; that applying anything twice changes nothing; and that heads depend only on which entries
//! were applied. A sick origin is reported and left where it was; the others go on (I8).

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::db::History;
use super::local::{self, LocalRow};
use super::log::{self, Identity, LogObject, Tail};
use super::origins::{self, Origins};
use super::reader::LogReader;
use super::sql::{db, int};
use super::{forgotten, row, survey};
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::format::log::Batch;
use crate::model::entry::{Dot, Entry, Op, rising};
use crate::model::version::{self, Vector};
use crate::store::Bucket;

/// Entries applied in one transaction while catching up.
const GROUP: usize = 8000;

/// What [`History::catch_up`] did.
#[derive(Debug, Default)]
pub struct CatchUp {
    /// Entries applied.
    pub entries: u64,
    /// Why an origin could not be followed to its end.
    pub problems: Vec<(OriginId, Error)>,
}

impl History {
    /// Applies the log objects of `bucket` beyond what is known of each origin.
    ///
    /// An error means that the bucket or the database is unusable; trouble with one origin's log
    /// is in [`CatchUp::problems`].
    pub fn catch_up(&mut self, bucket: &dyn Bucket, folder: FolderId) -> Result<CatchUp> {
        let found = survey::survey(bucket)?;
        let mut done = CatchUp::default();
        for (name, origin) in &found.odd {
            done.problems.extend(origin.map(|o| (o, survey::odd_name(name))));
        }
        for (origin, objects) in &found.origins {
            self.follow((bucket, folder, origin), objects, &mut done)?;
        }
        Ok(done)
    }

    /// Applies entries that were just appended to the log: `first` is the number of the first,
    /// `tail` what [`log::append`] returned. In the same transaction writes `local` rows, and
    /// removes those of paths that the entries delete.
    ///
    /// Knows no message and no name; see [`History::apply_commit`].
    pub fn apply_own(
        &mut self,
        origin: &OriginId,
        first: u64,
        entries: &[Entry],
        tail: &Tail,
        local: &[LocalRow],
    ) -> Result<()> {
        self.apply_at_hand(origin, &Group { name: None, message: None, first, entries, tail }, local)
    }

    /// [`History::apply_own`] with the commit's message and the peer's name, which listings show.
    pub fn apply_commit(
        &mut self,
        who: &Identity,
        message: Option<&str>,
        first: u64,
        entries: &[Entry],
        tail: &Tail,
        local: &[LocalRow],
    ) -> Result<()> {
        let group = Group { name: Some(&who.name), message, first, entries, tail };
        self.apply_at_hand(&who.origin(), &group, local)
    }

    fn apply_at_hand(&mut self, origin: &OriginId, group: &Group, local: &[LocalRow]) -> Result<()> {
        let is_empty = group.entries.is_empty();
        if !is_empty && group.first + group.entries.len() as u64 - 1 != group.tail.number {
            return Err(Error::Invalid("entries do not end at the tail".into()));
        }
        self.write(|conn, origins| {
            let known = origins::tail(conn, origin)?.number;
            if !is_empty && group.first > known + 1 {
                return Err(Error::Changed("history.db is behind its log; catch up first".into()));
            }
            let mut drop = local::prepare_drop(conn)?;
            if !is_empty && group.tail.number > known {
                Writer::new(conn, origins)?.group(origin, group)?;
            }
            for gone in group.entries.iter().filter(|e| e.op == Op::Del) {
                local::remove(&mut drop, &gone.path)?;
            }
            local::put(conn, origins, local)
        })
    }

    /// Applies one origin's objects as far as they can be followed.
    fn follow(
        &mut self,
        (bucket, folder, origin): (&dyn Bucket, FolderId, &OriginId),
        objects: &[LogObject],
        done: &mut CatchUp,
    ) -> Result<()> {
        let mut tail = origins::tail(&self.conn, origin)?;
        let mut group: Vec<(Batch, Tail)> = Vec::new();
        let (mut entries, mut raw) = (0, 0);
        let news = objects.partition_point(|o| o.from <= tail.number);
        // Objects that begin below what is known matter only if they reach beyond it.
        let mut left: Vec<&LogObject> = objects[..news].iter().filter(|o| o.to > tail.number).collect();
        left.extend(&objects[news..]);
        let before = done.problems.len();
        let mut reader = LogReader::new(bucket, folder, origin, left.iter().copied());
        let mut left = left.as_slice();
        while let [object, rest @ ..] = left {
            left = rest;
            match next(&mut reader, object, rest, &tail) {
                Step::Batch(batch) => {
                    tail = tail.after(&batch);
                    (entries, raw) = (entries + batch.entries.len(), raw + batch.head.raw_len as usize);
                    group.push((*batch, tail));
                }
                Step::Skip(e) => done.problems.push((*origin, e)),
                // A gap behind a damaged object needs no second word.
                Step::Gap(_) if done.problems.len() > before => break,
                Step::Gap(e) | Step::Stop(e) => {
                    done.problems.push((*origin, e));
                    break;
                }
                Step::Fail(e) => return Err(e),
            }
            if entries >= GROUP || raw >= crate::format::log::SOFT_RAW {
                done.entries += self.apply_batches(origin, &group)?;
                group.clear();
                (entries, raw) = (0, 0);
            }
        }
        done.entries += self.apply_batches(origin, &group)?;
        Ok(())
    }

    fn apply_batches(&mut self, origin: &OriginId, batches: &[(Batch, Tail)]) -> Result<u64> {
        if batches.is_empty() {
            return Ok(0);
        }
        self.write(|conn, origins| {
            let mut writer = Writer::new(conn, origins)?;
            for (batch, tail) in batches {
                let group = Group {
                    name: Some(&batch.head.name),
                    message: batch.head.message.as_deref(),
                    first: batch.head.from,
                    entries: &batch.entries,
                    tail,
                };
                writer.group(origin, &group)?;
            }
            Ok(batches.iter().map(|(b, _)| b.entries.len() as u64).sum())
        })
    }
}

/// What to do with the next object of a log.
enum Step {
    /// Apply it.
    Batch(Box<Batch>),
    /// It is damaged; another object may stand for it.
    Skip(Error),
    /// Entries before it are missing.
    Gap(Error),
    /// The log cannot be followed beyond here.
    Stop(Error),
    /// The bucket itself is in trouble.
    Fail(Error),
}

/// Reads the next object, if it follows.
fn next(reader: &mut LogReader, object: &LogObject, rest: &[&LogObject], tail: &Tail) -> Step {
    if object.from > tail.number + 1 {
        return Step::Gap(log::gap(reader.origin, tail.number + 1, object.from - 1));
    }
    let batch = match reader.load(object) {
        Ok((batch, _)) => batch,
        Err(e) if log::is_fatal(&e) => return Step::Fail(e),
        Err(e) => return Step::Skip(e),
    };
    // A second signed batch for the same numbers: neither can be trusted to be the one that
    // others have, so nothing from here on is applied.
    let twins = rest.iter().take_while(|o| o.from == object.from);
    let twin = twins.copied().find(|o| reader.load(o).is_ok());
    if object.from <= tail.number || batch.head.prev != tail.hash || twin.is_some() {
        return Step::Stop(log::unchained(&object.name));
    }
    Step::Batch(Box::new(batch))
}

/// Consecutive entries of one origin.
struct Group<'a> {
    name: Option<&'a str>,
    message: Option<&'a str>,
    first: u64,
    entries: &'a [Entry],
    tail: &'a Tail,
}

/// Statements of one transaction.
struct Writer<'c, 'o> {
    conn: &'c Connection,
    origins: &'o mut Origins,
    add_entry: CachedStatement<'c>,
    heads: CachedStatement<'c>,
    add_head: CachedStatement<'c>,
    drop_head: CachedStatement<'c>,
    covered: CachedStatement<'c>,
    cover: CachedStatement<'c>,
}

impl<'c, 'o> Writer<'c, 'o> {
    fn new(conn: &'c Connection, origins: &'o mut Origins) -> Result<Self> {
        let prepare = |sql| conn.prepare_cached(sql).map_err(db);
        Ok(Self {
            conn,
            origins,
            add_entry: row::prepare(conn)?,
            heads: prepare("SELECT origin, number FROM heads WHERE path = ?1")?,
            add_head: prepare("INSERT OR IGNORE INTO heads VALUES (?1, ?2, ?3)")?,
            drop_head: prepare("DELETE FROM heads WHERE path = ?1 AND origin = ?2 AND number = ?3")?,
            covered: prepare("SELECT seen FROM covered WHERE path = ?1")?,
            cover: prepare("INSERT OR REPLACE INTO covered VALUES (?1, ?2)")?,
        })
    }

    fn group(&mut self, origin: &OriginId, group: &Group) -> Result<()> {
        let num = self.origins.num_or_new(self.conn, origin)?;
        let clocks = rising(group.entries);
        self.lower(origin, num, group.first, clocks.first().copied())?;
        for ((number, entry), hlc) in (group.first..).zip(group.entries).zip(clocks) {
            if let Op::Forget(all) = &entry.op {
                forgotten::add(self.conn, self.origins, all)?;
                continue;
            }
            // Present already: so is what followed from it.
            if row::write(&mut self.add_entry, num, number, entry, hlc)? {
                self.settle(num, Dot { origin: *origin, number }, entry)?;
            }
        }
        if let Some(message) = group.message {
            self.conn
                .prepare_cached("INSERT OR REPLACE INTO messages VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut s| {
                    s.execute(params![num, group.first as i64, group.tail.number as i64, message])
                })
                .map_err(db)?;
        }
        origins::set_tail(self.conn, num, group.tail, group.name)
    }

    /// Brings the heads of the entry's path up to date.
    /// What an origin recorded before was not recorded later than this, though its clock was ahead then.
    fn lower(&self, origin: &OriginId, num: i64, first: u64, clock: Option<u64>) -> Result<()> {
        let known = origins::tail(self.conn, origin)?;
        let Some(clock) = clock.filter(|clock| first > known.number && known.hlc >= *clock) else {
            return Ok(());
        };
        let lower = "UPDATE entries SET hlc = max(0, ?2 - (?3 - number)) \
                     WHERE origin = ?1 AND hlc > max(0, ?2 - (?3 - number))";
        self.conn.execute(lower, params![num, clock as i64, first as i64]).map_err(db).map(drop)
    }

    fn settle(&mut self, num: i64, dot: Dot, entry: &Entry) -> Result<()> {
        let path = entry.path.as_bytes();
        let seen = Vector::from_dots(&entry.seen);
        let covered = self.cover(path, &seen)?;
        let heads = self.heads_of(path)?;
        let dots: Vec<(Dot, Vector)> = heads.iter().map(|(_, dot)| (*dot, Vector::default())).collect();
        let outcome = version::apply(&dots, dot, &seen, entry.op != Op::Del);
        for i in outcome.superseded {
            let (num, head) = heads[i];
            self.drop_head.execute(params![path, num, head.number as i64]).map_err(db)?;
        }
        if outcome.is_head && !covered.covers(dot) {
            self.add_head.execute(params![path, num, dot.number as i64]).map_err(db)?;
        }
        Ok(())
    }

    /// Adds `seen` to what the path's entries had seen; returns what they had seen before.
    fn cover(&mut self, path: &[u8], seen: &Vector) -> Result<Vector> {
        let old: Option<Vec<u8>> = self.covered.query_row([path], |r| r.get(0)).optional().map_err(db)?;
        let old = Vector::from_dots(&old.map_or(Ok(vec![]), |bytes| row::unpack(&bytes))?);
        let mut new = old.clone();
        seen.dots().into_iter().for_each(|d| new.add(d));
        if new != old {
            self.cover.execute(params![path, row::pack(&new.dots())]).map_err(db)?;
        }
        Ok(old)
    }

    fn heads_of(&mut self, path: &[u8]) -> Result<Vec<(i64, Dot)>> {
        let mut rows = self.heads.query([path]).map_err(db)?;
        let mut heads = Vec::new();
        while let Some(row) = rows.next().map_err(db)? {
            let num = int(row, 0)?;
            heads.push((num, self.origins.dot(self.conn, num, int(row, 1)?)?));
        }
        Ok(heads)
    }
}
