//! Fetching: contents come from stores as records, are verified, and handed on in pieces.
//!
//! Promises that every byte handed on was decoded and hashed to its id, that pieces of one content
//! may come in any order and from several threads, and that memory is bounded by the queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::bounded;

use super::manifests::{Asked, manifests};
use super::remotes::Remotes;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::key::Keys;
use crate::format::seal::{Opener, Sealed};
use crate::model::entry::Body;
use crate::model::manifest::Run;

/// A content somebody wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where its bytes are; `None` for an empty one.
    pub body: Option<Body>,
    /// Its size.
    pub size: u64,
}

/// Receives the pieces of the contents wanted, by their place in the list.
pub trait Sink: Sync {
    /// Told once, before any piece of content `i`: these ranges (start, length) will not come.
    fn holes(&self, _i: usize, _holes: &[(u64, u64)]) {}
    /// Verified bytes at an offset of content `i`. An error gives the content up.
    fn piece(&self, i: usize, bytes: &[u8], offset: u64) -> Result<()>;
    /// All pieces of content `i` were handed on; `holes` were not.
    fn whole(&self, i: usize, holes: &[(u64, u64)]) -> Result<()>;
    /// Content `i` cannot be had.
    fn failed(&self, i: usize, error: Error);
    /// Whether there is any use in going on.
    fn wants_more(&self) -> bool {
        true
    }
}

/// Progress of one content.
struct Part {
    left: AtomicUsize,
    holes: Vec<(u64, u64)>,
    failed: std::sync::atomic::AtomicBool,
}

/// Places where a record's bytes belong: content and offset.
type Uses = HashMap<RecordId, Vec<(usize, u64)>>;

/// Fetches every content of the list.
pub fn fetch(
    remotes: &Remotes,
    keys: &Keys,
    cancel: &Cancel,
    list: &[Wanted],
    sink: &dyn Sink,
) -> Result<()> {
    let mut uses: Uses = HashMap::new();
    // In the order of first use: the store sorts by place, this only fixes what is asked for when.
    let mut order = Vec::new();
    let mut opener = Opener::new(keys)?;
    let mut parts = Vec::with_capacity(list.len());
    for (i, runs) in layouts(remotes, list, &mut opener)?.into_iter().enumerate() {
        let runs = match runs {
            Ok(runs) => runs,
            Err(e) => {
                sink.failed(i, e);
                parts.push(Arc::new(Part {
                    left: AtomicUsize::new(usize::MAX),
                    holes: vec![],
                    failed: true.into(),
                }));
                continue;
            }
        };
        let (mut at, mut count, mut holes) = (0u64, 0, Vec::new());
        for run in &runs {
            match run {
                Run::Data { id, .. } => {
                    let slot = uses.entry(*id).or_default();
                    if slot.is_empty() {
                        order.push(*id);
                    }
                    slot.push((i, at));
                    count += 1;
                }
                Run::Hole { len } => holes.push((at, *len)),
            }
            at += run.len();
        }
        sink.holes(i, &holes);
        if count == 0 {
            finish(sink, i, &holes);
        }
        parts.push(Arc::new(Part { left: AtomicUsize::new(count), holes, failed: false.into() }));
    }
    pump(remotes, keys, cancel, &order, &Work { uses, parts, sink })
}

fn finish(sink: &dyn Sink, i: usize, holes: &[(u64, u64)]) {
    if let Err(e) = sink.whole(i, holes) {
        sink.failed(i, e);
    }
}

/// The runs of every content, or why they are not known.
fn layouts(remotes: &Remotes, list: &[Wanted], opener: &mut Opener) -> Result<Vec<Result<Vec<Run>>>> {
    let asked: Vec<Asked> = list.iter().filter_map(|w| Some((w.body?, w.size))).collect();
    let mut found = manifests(remotes, &asked, opener)?.into_iter();
    let layout = |wanted: &Wanted| {
        let Some(Body { id, .. }) = wanted.body else { return Ok(vec![]) };
        match found.next().flatten() {
            Some(manifest) => manifest.map(|m| m.runs),
            None => {
                let len = u32::try_from(wanted.size)
                    .map_err(|_| Error::corrupt("stub", "one chunk larger than 4 GiB"))?;
                Ok(vec![Run::Data { id, len }])
            }
        }
    };
    Ok(list.iter().map(layout).collect())
}

/// What the writing threads share.
struct Work<'a> {
    uses: Uses,
    parts: Vec<Arc<Part>>,
    sink: &'a dyn Sink,
}

impl Work<'_> {
    /// Opens a record and hands its bytes to everyone who wants them.
    fn deliver(&self, id: RecordId, opened: &Result<Arc<Vec<u8>>>) {
        for (i, offset) in self.uses.get(&id).into_iter().flatten() {
            let part = &self.parts[*i];
            if part.failed.load(Ordering::Acquire) {
                continue;
            }
            let done = match opened {
                Ok(bytes) => self.sink.piece(*i, bytes, *offset),
                Err(e) => Err(e.again()),
            };
            match done {
                Ok(()) => {
                    if part.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        finish(self.sink, *i, &part.holes);
                    }
                }
                Err(e) => {
                    if !part.failed.swap(true, Ordering::AcqRel) {
                        self.sink.failed(*i, e);
                    }
                }
            }
        }
    }
}

/// Reads on this thread, opens and delivers on others.
fn pump(remotes: &Remotes, keys: &Keys, cancel: &Cancel, order: &[RecordId], work: &Work) -> Result<()> {
    if let [only] = order {
        // Somebody waits for it, and threads take longer to start.
        let mut opener = Opener::new(keys)?;
        return remotes.get(order, &mut |_, got| {
            work.deliver(*only, &open(remotes, *only, got, &mut opener));
            Ok(())
        });
    }
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
    let (tx, rx) = bounded::<(RecordId, Result<Sealed>)>(threads * 4);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let rx = rx.clone();
                scope.spawn(move || -> Result<()> {
                    let mut opener = Opener::new(keys)?;
                    for (id, got) in rx.iter() {
                        work.deliver(id, &open(remotes, id, got, &mut opener));
                    }
                    Ok(())
                })
            })
            .collect();
        drop(rx);
        let read = remotes.get(order, &mut |id, got| {
            cancel.check()?;
            if !work.sink.wants_more() {
                return Err(Error::Interrupted);
            }
            tx.send((id, got)).map_err(|_| Error::Interrupted)
        });
        drop(tx);
        let mut result = read;
        for worker in workers {
            let ended = worker.join().map_err(|_| Error::Invalid("a worker thread panicked".into()));
            result = result.and(ended.and_then(|r| r));
        }
        result
    })
}

/// A record's bytes, verified.
fn open(remotes: &Remotes, id: RecordId, got: Result<Sealed>, opener: &mut Opener) -> Result<Arc<Vec<u8>>> {
    match got.and_then(|sealed| opener.open(&sealed)) {
        // A record damaged in one place may be whole in another, or another store.
        Err(e) if e.is_corruption() || remotes.online.len() > 1 => remotes.read(id, opener),
        opened => opened,
    }
}
