//! The objects of another ddr, as a bucket.
//!
//! Promises what [`Bucket`] promises, across cuts of the connection: an answer means that it is so at the
//! peer. Large requests go over several connections where there are several. Knows nothing of
//! what the objects are.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::link::get::{self, Fetch};
use super::link::put::Outgoing;
use super::link::{Link, Timing, Traffic};
use super::stream::Dial;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::message::{Info, MAX_OBJECTS, NewPeer};
use crate::store::{Bucket, names};

/// Bytes that are asked for ahead of the one who takes them, by each open connection.
const AHEAD: u64 = 16 << 20;
/// Connections that one reader uses, unless the line is long.
const READING: usize = 4;
/// Round trip of a long line, in microseconds.
const LONG: u64 = 10_000;
/// An answer of so few bytes shows how long the line is.
const SMALL: usize = 4 << 10;
/// Requests that are made ahead.
const AHEAD_COUNT: usize = 48;
/// Deletions under way at once.
const DELETIONS: usize = 16;
/// Bytes of objects in one request, unless one is larger.
const BATCH: u64 = 16 << 20;

/// A peer's bucket.
pub struct RemoteBucket {
    name: String,
    links: Vec<Arc<Link>>,
    /// The quickest answer so far, in microseconds; the largest number before the first.
    trip: AtomicU64,
}

impl RemoteBucket {
    /// `name` is what messages call it. Nothing is dialled yet. `folder` is the one that is meant: a
    /// peer that has another, or none, says that there is nothing. `sessions`: how many connections large
    /// transfers may use (at least 1).
    pub fn new(
        name: &str,
        dial: Arc<dyn Dial>,
        folder: Option<FolderId>,
        sessions: usize,
        timing: Timing,
    ) -> Self {
        let link = |_| Arc::new(Link::new(Arc::clone(&dial), folder, timing));
        Self {
            name: name.into(),
            links: (0..sessions.max(1)).map(link).collect(),
            trip: AtomicU64::new(u64::MAX),
        }
    }

    /// What the peer says about its store: one round trip.
    pub fn info(&self) -> Result<Info> {
        self.named(self.links[0].info())
    }

    /// How long an answer takes.
    pub fn ping(&self) -> Result<Duration> {
        let since = Instant::now();
        self.named(self.links[0].ping())?;
        Ok(since.elapsed())
    }

    /// Makes a bare peer at the place. `Refused` if there is anything already.
    pub fn create(&self, new: &NewPeer) -> Result<()> {
        self.named(self.links[0].create(new))
    }

    /// What went over the connections so far.
    pub fn traffic(&self) -> Traffic {
        self.links.iter().map(|link| link.traffic()).fold(Traffic::default(), |a, b| Traffic {
            sent: a.sent + b.sent,
            received: a.received + b.received,
            dials: a.dials + b.dials,
        })
    }

    /// The connection with the least to do; it may have to be dialled first.
    fn link(&self) -> &Link {
        self.links.iter().min_by_key(|link| link.load()).unwrap_or(&self.links[0])
    }

    /// The open connection with the least to do.
    fn open_link(&self) -> &Link {
        let open = self.links.iter().filter(|link| link.is_up());
        open.min_by_key(|link| link.load()).unwrap_or(&self.links[0])
    }

    /// Opens more connections in the background, where there is work for them.
    fn warm(&self, work: u64) {
        let is_long = (LONG..u64::MAX).contains(&self.trip.load(Ordering::Relaxed));
        let most = if is_long { self.links.len() } else { READING };
        let wanted = usize::try_from(work / AHEAD).unwrap_or(usize::MAX).min(most);
        self.links.iter().take(wanted).for_each(Link::warm);
    }

    /// Bytes that may be asked for ahead now.
    fn ahead(&self) -> u64 {
        AHEAD * self.links.iter().filter(|link| link.is_up()).count().max(1) as u64
    }

    /// An unreachable place goes by the name that the user gave it.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| match e {
            Error::Offline { why, .. } => Error::Offline { name: self.name.clone(), why },
            e => e,
        })
    }
}

impl Bucket for RemoteBucket {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        names::check(name)?;
        let object = Outgoing::new(name, parts)?;
        self.named(self.link().put(&[object]))
    }

    fn put_all(&self, objects: &[(String, Vec<u8>)]) -> Result<()> {
        objects.iter().try_for_each(|(name, _)| names::check(name))?;
        let (mut batch, mut size) = (Vec::new(), 0);
        for (name, bytes) in objects {
            let object = Outgoing::new(name, &[bytes])?;
            if !batch.is_empty() && (batch.len() == MAX_OBJECTS || size + object.size() > BATCH) {
                self.named(self.link().put(&std::mem::take(&mut batch)))?;
                size = 0;
            }
            size += object.size();
            batch.push(object);
        }
        if batch.is_empty() { Ok(()) } else { self.named(self.link().put(&batch)) }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        names::check(name)?;
        let (link, since) = (self.open_link(), Instant::now());
        let was_up = link.is_up();
        let got = self.named(Fetch::new(link, name, range).finish())?;
        if was_up && got.len() <= SMALL {
            let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.trip.fetch_min(took, Ordering::Relaxed);
        }
        Ok(got)
    }

    /// Asks for several ranges before the first has come.
    fn get_all(
        &self,
        wanted: &[(String, Range<u64>)],
        sink: &mut dyn FnMut(usize, Result<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        let mut under_way: VecDeque<Result<Fetch<'_>>> = VecDeque::new();
        let (mut ahead, mut asked) = (0, 0);
        self.warm(wanted.iter().map(|(_, range)| get::expected(range)).sum());
        for at in 0..wanted.len() {
            while asked < wanted.len()
                && (asked == at || (ahead < self.ahead() && under_way.len() < AHEAD_COUNT))
            {
                let (name, range) = &wanted[asked];
                let fetch = names::check(name).and_then(|()| {
                    let mut fetch = Fetch::new(self.open_link(), name, range.clone());
                    fetch.start().map(|()| fetch)
                });
                ahead += fetch.as_ref().map_or(0, Fetch::expected);
                under_way.push_back(fetch);
                asked += 1;
            }
            let Some(first) = under_way.pop_front() else { break };
            ahead -= first.as_ref().map_or(0, Fetch::expected);
            let got = self.named(first.and_then(Fetch::finish));
            // After a cut those behind it must be asked for again, all together.
            // If that fails, so will their end, and then it is told.
            let _ = under_way.iter_mut().flatten().try_for_each(Fetch::start);
            sink(at, got)?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        self.named(self.links[0].list(prefix, sink))
    }

    fn delete(&self, name: &str) -> Result<()> {
        names::check(name)?;
        self.named(self.links[0].delete(name))
    }

    fn delete_all(&self, objects: &[String]) -> Result<()> {
        objects.iter().try_for_each(|name| names::check(name))?;
        let share = objects.len().div_ceil(DELETIONS).max(1);
        let ended: Vec<Result<()>> = std::thread::scope(|scope| {
            let work = |part: &[String]| part.iter().try_for_each(|name| self.delete(name));
            let threads: Vec<_> = objects.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
            let panicked = |_| Err(Error::Changed("deleting objects failed unexpectedly".into()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        ended.into_iter().collect()
    }

    fn room(&self) -> Result<Option<u64>> {
        self.info().map(|info| Some(info.free))
    }
}
