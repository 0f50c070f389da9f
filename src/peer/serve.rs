//! Serving a store to another ddr over a byte stream.
//!
//! Promises that nothing outside the store is read or written whatever is asked; that what is
//! answered is durable; that one slow request holds up no other; that memory is bounded; and that
//! serving ends when the stream does, or when the other side falls silent. A place that is no store, one
//! of another folder and one that may not be seen give the same answers (I10).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use self::incoming::Incoming;
use self::store::Served;
use super::pipe::{FrameReader, FrameWriter, Stop, prepare};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::frame::{FrameKind, Head};
use crate::format::message::{Answer, Fault, Hello, NewPeer, OLDEST, REQUESTS, Request, VERSION, Welcome};
use crate::store::dir::DirBucket;

mod answer;
mod check;
mod incoming;
mod store;
mod window;

/// Bytes of one put that may be under way: enough for a long line, and little enough to keep.
const WINDOW: u64 = 8 << 20;
/// Puts at once.
const PUTS: usize = 8;
/// Buffers of data frames that are kept for use again.
const SPARE: usize = 64;
/// Silence after which the other side counts as gone; it asks every ten seconds whether we are there.
pub const SILENCE: Duration = Duration::from_secs(60);

/// What is served.
pub enum Source {
    /// The store of the peer in this directory, if there is one.
    Peer(PathBuf),
    /// An open bucket, whatever is in it.
    Bucket(Arc<DirBucket>),
}

/// Makes a bare peer at a path.
pub type Create<'a> = &'a (dyn Fn(&std::path::Path, &NewPeer) -> Result<()> + Sync);

/// An offer to whoever is at the other end.
pub struct Offer<'a> {
    /// What is served.
    pub source: Source,
    /// Makes a peer there when asked to.
    pub create: Create<'a>,
    /// Silence after which it ends.
    pub silence: Duration,
    /// Ends it early.
    pub cancel: Cancel,
}

/// Serves until the stream ends. An error says what was wrong with the other side, or with the stream.
pub fn serve(reader: OwnedFd, writer: OwnedFd, offer: &Offer<'_>) -> Result<()> {
    let fail = |e: io::Error| Error::io("opening", "the stream", e);
    prepare(&reader).and_then(|()| prepare(&writer)).map_err(fail)?;
    let received = AtomicU64::new(0);
    let patience = |silent: Duration| match silent > offer.silence || offer.cancel.is_cancelled() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(()),
    };
    let mut input = FrameReader::new(reader, &received, Box::new(patience));
    let session = Session {
        offer,
        writer: FrameWriter::new(writer, offer.silence),
        folder: OnceLock::new(),
        served: Mutex::default(),
        active: Mutex::default(),
        spare: Mutex::default(),
        bulk: window::Queue::new(2),
        checking: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let stop = session.run(scope, &mut input);
        session.end();
        match stop {
            Stop::End => Ok(()),
            Stop::Broken(e) if is_gone(&e) => Ok(()),
            Stop::Broken(e) => Err(Error::io("reading", "the stream", e)),
            Stop::Odd(what) => Err(Error::corrupt("the stream", what)),
        }
    })
}

/// The usual ways in which a stream ends.
fn is_gone(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionReset | TimedOut | UnexpectedEof)
}

/// A request under way.
#[derive(Clone)]
enum Active {
    Put(Arc<Incoming>),
    Other(Arc<window::Window>),
}

impl Active {
    fn cancel(&self) {
        match self {
            Self::Put(incoming) => incoming.close(),
            Self::Other(window) => window.close(),
        }
    }
}

/// One stream being served.
struct Session<'a> {
    offer: &'a Offer<'a>,
    writer: FrameWriter,
    /// The folder the other side means; set by its first message.
    folder: OnceLock<Option<FolderId>>,
    served: Mutex<Option<Arc<Served>>>,
    active: Mutex<HashMap<u32, Active>>,
    spare: Mutex<Vec<Vec<u8>>>,
    /// Large answers go out in the order in which they were asked for, two at a time.
    bulk: window::Queue,
    /// Objects are looked into one at a time: some take much memory.
    checking: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Session<'a> {
    /// Reads requests and starts what they ask for, until the stream ends.
    fn run<'s>(&'s self, scope: &'s Scope<'s, '_>, input: &mut FrameReader<'_>) -> Stop {
        if let Err(stop) = input.magic() {
            return stop;
        }
        let mut step = || -> Result<(), Stop> {
            let head = input.head()?;
            match head.kind {
                FrameKind::Data => self.data(head, input),
                FrameKind::Message => {
                    let mut message = Vec::new();
                    input.payload(head.len as usize, &mut message)?;
                    let request = Request::decode(&message).map_err(|e| Stop::Odd(e.to_string()))?;
                    match self.folder.get() {
                        None => self.greet(request),
                        Some(_) => self.start(scope, head.id, request),
                    }
                }
            }
        };
        loop {
            if let Err(stop) = step() {
                return stop;
            }
        }
    }

    /// Answers the first message.
    fn greet(&self, request: Option<Request>) -> Result<(), Stop> {
        let Some(Request::Hello(Hello { version, folder, .. })) = request else {
            return Err(Stop::Odd("the first message is no hello".into()));
        };
        let known = version >= OLDEST;
        let answer = match known {
            true => Answer::Welcome(Welcome {
                version: version.min(VERSION),
                features: vec![],
                program: super::program(),
                window: WINDOW,
                puts: PUTS as u32,
                silence: self.offer.silence.as_secs().min(u32::MAX.into()) as u32,
            }),
            false => Answer::Failed(Fault::new(&Error::Unsupported(format!(
                "this ddr speaks versions {OLDEST} to {VERSION} of the protocol, the other side up to {version}; \
                 use the same ddr on both"
            )))),
        };
        self.writer.greet(&answer.encode()).map_err(Stop::Broken)?;
        if !known {
            return Err(Stop::End);
        }
        // Set once, by the thread that reads.
        let _ = self.folder.set(folder);
        Ok(())
    }

    /// Bytes of a put. Those of one that has failed are let go.
    fn data(&self, head: Head, input: &mut FrameReader<'_>) -> Result<(), Stop> {
        let mut bytes = lock(&self.spare).pop().unwrap_or_default();
        bytes.clear();
        let read = input.payload(head.len as usize, &mut bytes);
        let incoming = match lock(&self.active).get(&head.id) {
            Some(Active::Put(incoming)) => Some(Arc::clone(incoming)),
            _ => None,
        };
        match incoming {
            Some(incoming) => {
                // The part of a frame that was cut is as good as any other bytes.
                let pushed = incoming.push(bytes, read.is_err()).map_err(|e| Stop::Odd(e.to_string()));
                read.and(pushed)
            }
            None => {
                self.give_back(bytes);
                read
            }
        }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE {
            spare.push(bytes);
        }
    }

    /// Starts a request on a thread of its own: their number is bounded.
    fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, id: u32, request: Option<Request>) -> Result<(), Stop> {
        let Some(request) = request else {
            let what = "the peer's ddr does not know this request; use the same ddr on both sides";
            return self.answer(id, &Answer::Failed(Fault::new(&Error::Unsupported(what.into()))));
        };
        let active = match &request {
            Request::Hello(_) => return Err(Stop::Odd("a second hello".into())),
            Request::Ping => return self.answer(id, &Answer::Done),
            Request::Credit { bytes } => {
                if let Some(Active::Other(window)) = lock(&self.active).get(&id) {
                    window.add(*bytes).map_err(|e| Stop::Odd(e.to_string()))?;
                }
                return Ok(());
            }
            Request::Cancel => {
                if let Some(active) = lock(&self.active).get(&id) {
                    active.cancel();
                }
                return Ok(());
            }
            Request::Put { objects, again } => {
                let sizes: Vec<u64> = objects.iter().map(|o| o.size).collect();
                Active::Put(Arc::new(Incoming::new(if *again { vec![] } else { sizes }, WINDOW)))
            }
            _ => Active::Other(Arc::default()),
        };
        self.admit(id, active.clone())?;
        let spawned =
            std::thread::Builder::new().name(format!("request {id}")).spawn_scoped(scope, move || {
                let result = self.work(id, request, &active);
                lock(&self.active).remove(&id);
                let answer = result.unwrap_or_else(|e| Answer::Failed(Fault::new(&e)));
                // If nobody hears it any more, the reading thread will notice.
                let _ = self.answer(id, &answer);
            });
        spawned.map(drop).map_err(Stop::Broken)
    }

    /// Refuses more requests at once than were agreed on, and two with one number.
    fn admit(&self, id: u32, new: Active) -> Result<(), Stop> {
        let mut active = lock(&self.active);
        let is_put = |a: &Active| matches!(a, Active::Put(_));
        let same = active.values().filter(|a| is_put(a) == is_put(&new)).count();
        // A request leaves the table just before its answer goes out, so an honest count is never more.
        if same >= if is_put(&new) { PUTS } else { REQUESTS } {
            return Err(Stop::Odd("too many requests at once".into()));
        }
        if active.contains_key(&id) {
            return Err(Stop::Odd(format!("two requests with the number {id}")));
        }
        active.insert(id, new);
        Ok(())
    }

    fn answer(&self, id: u32, answer: &Answer) -> Result<(), Stop> {
        self.writer.message(id, &answer.encode()).map_err(Stop::Broken)
    }

    /// The stream is over: whatever waits for it must not.
    fn end(&self) {
        self.writer.close();
        lock(&self.active).values().for_each(Active::cancel);
    }

    /// The store, opened when it is first asked for. Whatever is wrong with the place, the answer is one.
    fn served(&self) -> Result<Arc<Served>> {
        let mut served = lock(&self.served);
        if let Some(served) = &*served {
            return Ok(Arc::clone(served));
        }
        let found = match &self.offer.source {
            Source::Bucket(bucket) => Some(Served::bucket(Arc::clone(bucket))),
            Source::Peer(path) => Served::at(path, self.folder.get().copied().flatten()),
        };
        match found {
            Some(found) => Ok(Arc::clone(served.insert(Arc::new(found)))),
            None => Err(Error::Missing(match &self.offer.source {
                Source::Peer(path) => format!("a ddr folder that you may use at {}", path.display()),
                Source::Bucket(_) => "the bucket".into(),
            })),
        }
    }

    fn create(&self, new: &NewPeer) -> Result<()> {
        let Source::Peer(path) = &self.offer.source else {
            return Err(Error::Refused("there is a bucket already".into()));
        };
        let mut served = lock(&self.served);
        *served = None;
        if new.again && Served::at(path, Some(new.folder)).is_some() {
            return Ok(());
        }
        match (self.offer.create)(path, new) {
            Ok(()) => Ok(()),
            Err(e @ Error::NoSpace(_)) => Err(e),
            // Why not would tell what is there.
            Err(_) => Err(Error::Refused(format!(
                "no folder can be made at {}: there is something already, or you may not write there",
                path.display()
            ))),
        }
    }
}
