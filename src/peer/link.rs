//! A lasting connection to another ddr: dialled when it is needed, and again when it is cut.
//!
//! Promises that a request which may be sent twice is sent again until it is answered, that what was
//! done of it is not done twice, and that a place which cannot be reached is given up after a bounded
//! time. Knows requests, not what they are for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::conn::Conn;
pub use self::slot::Trouble;
use super::stream::Dial;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::message::{Answer, Hello, Info, NewPeer, Request, VERSION};

mod conn;
pub mod get;
mod list;
pub mod put;
mod slot;

/// Cuts without any progress after which a request is given up.
const CUTS: u32 = 8;
/// How long a place that was given up is not tried again.
const REST: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts to dial.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first answer.
    pub hello: Duration,
    /// Silence after which the other side is asked whether it is there.
    pub ping: Duration,
    /// Silence after which the stream counts as cut.
    pub silence: Duration,
    /// Any one step of an answer, though the other side is there.
    pub answer: Duration,
    /// Dialling again after a cut.
    pub again: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(30),
            ping: Duration::from_secs(10),
            silence: Duration::from_secs(40),
            answer: Duration::from_secs(600),
            again: Duration::from_secs(60),
        }
    }
}

/// What went over a link, all its streams together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Streams dialled.
    pub dials: u64,
}

#[derive(Default)]
struct State {
    conn: Option<Arc<Conn>>,
    /// It worked once: a cut is worth waiting for.
    was_up: bool,
    gave_up: Option<(Error, Instant)>,
    traffic: Traffic,
}

/// A connection to one place.
pub struct Link {
    dial: Arc<dyn Dial>,
    hello: Hello,
    timing: Timing,
    state: Mutex<State>,
    /// Bytes of requests under way.
    load: AtomicU64,
    /// Whether it is open, or was when it was used last.
    up: AtomicBool,
    warming: AtomicBool,
}

impl Link {
    /// Nothing is dialled yet. `folder`: the one that is meant, if it is known.
    pub fn new(dial: Arc<dyn Dial>, folder: Option<FolderId>, timing: Timing) -> Self {
        let hello = Hello { version: VERSION, features: vec![], program: super::program(), folder };
        let (up, warming) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { dial, hello, timing, state: Mutex::default(), load: AtomicU64::new(0), up, warming }
    }

    /// Whether a request can go out without dialling first.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Dials in the background, unless it is open. Nobody is told if that fails: whoever uses it is.
    pub fn warm(self: &Arc<Self>) {
        if self.is_up() || self.warming.swap(true, Ordering::Relaxed) {
            return;
        }
        let link = Arc::clone(self);
        // Without a thread it is dialled when it is used.
        let _ = std::thread::Builder::new().name("dial".into()).spawn(move || {
            let _ = link.conn();
            link.warming.store(false, Ordering::Relaxed);
        });
    }

    /// What went over it so far.
    pub fn traffic(&self) -> Traffic {
        let state = self.state();
        let (sent, received) = state.conn.as_ref().map_or((0, 0), |conn| conn.bytes());
        let past = state.traffic;
        Traffic { sent: past.sent + sent, received: past.received + received, ..past }
    }

    /// Bytes of requests under way.
    pub fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    /// Asks for an answer and does nothing else: how long it takes is the round trip.
    pub fn ping(&self) -> Result<()> {
        self.ask(|_| Request::Ping).map(drop)
    }

    /// What the other side says about itself.
    pub fn info(&self) -> Result<Info> {
        match self.ask(|_| Request::Info)? {
            Answer::Info(info) => Ok(info),
            _ => Err(Error::corrupt(self.dial.place(), "it did not answer what it was asked")),
        }
    }

    /// Makes a bare peer at the place.
    pub fn create(&self, new: &NewPeer) -> Result<()> {
        self.ask(|again| Request::Create(NewPeer { again: again || new.again, ..new.clone() })).map(drop)
    }

    /// Removes an object.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.ask(|_| Request::Delete { name: name.into() }).map(drop)
    }

    /// A request that one message answers.
    fn ask(&self, request: impl Fn(bool) -> Request) -> Result<Answer> {
        self.run(&mut |conn, again| {
            let call = conn.call(slot::Slot::plain(), &request(again))?;
            Ok(call.slot.next(self.timing.answer)?.0)
        })
    }

    /// Does work over a connection, and again over the next one while it is cut.
    fn run<T>(&self, work: &mut dyn FnMut(&Conn, bool) -> Result<T, Trouble>) -> Result<T> {
        let mut cuts = Cuts::default();
        loop {
            let conn = self.conn()?;
            match work(&conn, cuts.any) {
                Ok(done) => return Ok(done),
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Cut(e)) => {
                    self.part(&conn);
                    cuts.count(e, 0)?;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection; dials if there is none. Others wait meanwhile, and share what comes of it.
    fn conn(&self) -> Result<Arc<Conn>> {
        let mut state = self.state();
        if let Some(conn) = state.conn.as_ref().filter(|conn| !conn.is_dead()) {
            return Ok(Arc::clone(conn));
        }
        self.up.store(false, Ordering::Relaxed);
        state.retire();
        if let Some((why, at)) = &state.gave_up
            && at.elapsed() < REST
        {
            return Err(why.again());
        }
        let since = Instant::now();
        let mut pause = PAUSES.0;
        let dialled = loop {
            state.traffic.dials += 1;
            let place = self.dial.place();
            let opened =
                self.dial.dial().and_then(|stream| Conn::open(stream, &place, &self.hello, self.timing));
            match opened {
                Err(Error::Offline { .. }) if state.was_up && since.elapsed() + pause < self.timing.again => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                other => break other,
            }
        };
        match dialled {
            Ok(conn) => {
                let conn = Arc::new(conn);
                state.conn = Some(Arc::clone(&conn));
                self.up.store(true, Ordering::Relaxed);
                state.gave_up = None;
                Ok(conn)
            }
            Err(e) => {
                state.gave_up = Some((e.again(), Instant::now()));
                Err(e)
            }
        }
    }

    /// Leaves a connection that was cut.
    fn part(&self, conn: &Conn) {
        let mut state = self.state();
        if state.conn.as_ref().is_some_and(|current| std::ptr::eq(current.as_ref(), conn)) {
            self.up.store(false, Ordering::Relaxed);
            state.retire();
        }
    }
}

impl State {
    fn retire(&mut self) {
        if let Some(conn) = self.conn.take() {
            let (sent, received) = conn.bytes();
            self.traffic.sent += sent;
            self.traffic.received += received;
            // Only a stream on which something was said shows that dialling again makes sense.
            self.was_up |= received > 0;
        }
    }
}

/// Counts how often a request was cut.
#[derive(Default)]
struct Cuts {
    any: bool,
    in_vain: u32,
    progress: u64,
}

impl Cuts {
    /// One more; the error if it is final, or there were too many without progress.
    fn count(&mut self, why: Error, progress: u64) -> Result<()> {
        self.any = true;
        self.in_vain = if progress > self.progress { 0 } else { self.in_vain + 1 };
        self.progress = self.progress.max(progress);
        match why {
            Error::Offline { .. } if self.in_vain < CUTS => Ok(()),
            why => Err(why),
        }
    }
}
