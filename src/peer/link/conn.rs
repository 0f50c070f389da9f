//! One stream, used by many threads at once.
//!
//! Promises that an answer reaches the request it belongs to whatever the order, that a side gone
//! silent is noticed, and that when the stream ends everybody who waits learns why. The reading thread never
//! waits for the writing one: so the other side can always get rid of what it has to say.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Timing;
use super::slot::{Slot, Trouble};
use crate::base::error::{Error, Result};
use crate::format::frame::{FrameKind, Head};
use crate::format::message::{Answer, Hello, REQUESTS, Request, VERSION, Welcome};
use crate::peer::pipe::{FrameReader, FrameWriter, Stop, prepare};
use crate::peer::stream::{End, Stream};

/// Puts at once before the other side has said how many it takes.
const PUTS: usize = 4;

/// A number of places.
struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Gate {
    fn new(places: usize) -> Self {
        Self { free: Mutex::new(places), freed: Condvar::new() }
    }

    fn enter(&self) {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    fn leave(&self) {
        *lock(&self.free) += 1;
        self.freed.notify_one();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that the reading thread knows.
struct Known {
    slot: Arc<Slot>,
    is_put: bool,
}

/// What the reading thread shares with the others.
struct Shared {
    place: String,
    writer: FrameWriter,
    slots: Mutex<HashMap<u32, Known>>,
    gates: [Gate; 2],
    dead: Mutex<Option<Error>>,
    is_dead: AtomicBool,
    received: AtomicU64,
    /// What the other side answered instead of a welcome.
    refusal: Mutex<Option<Error>>,
    end: Mutex<Option<Box<dyn End>>>,
}

/// An open stream.
pub struct Conn {
    shared: Arc<Shared>,
    next: AtomicU32,
    hello: Arc<Slot>,
    welcome: Mutex<Option<Welcome>>,
    reader: Option<JoinHandle<()>>,
    timing: Timing,
}

/// A request, taken back when this is dropped before its last answer came.
pub struct Call {
    shared: Arc<Shared>,
    /// Its number.
    pub id: u32,
    /// What has come for it.
    pub slot: Arc<Slot>,
}

impl Conn {
    /// Says hello; does not wait for the answer.
    pub fn open(stream: Stream, place: &str, hello: &Hello, timing: Timing) -> Result<Self> {
        let Stream { reader, writer, end } = stream;
        let fail = |e| Error::io("opening", place, e);
        prepare(&reader).and_then(|()| prepare(&writer)).map_err(fail)?;
        let shared = Arc::new(Shared {
            place: place.into(),
            writer: FrameWriter::new(writer, timing.silence),
            slots: Mutex::default(),
            gates: [Gate::new(REQUESTS), Gate::new(PUTS)],
            dead: Mutex::default(),
            is_dead: AtomicBool::new(false),
            received: AtomicU64::new(0),
            refusal: Mutex::default(),
            end: Mutex::new(Some(end)),
        });
        let first = Arc::new(Slot::plain());
        shared.gates[0].enter();
        lock(&shared.slots).insert(0, Known { slot: Arc::clone(&first), is_put: false });
        let work = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("link reader".into()).spawn(move || {
            let patience = |silent| work.patience(silent, timing);
            let mut input = FrameReader::new(reader, &work.received, Box::new(patience));
            let stop = work.read(&mut input);
            drop(input);
            work.bury(stop);
        });
        let reader = Some(spawned.map_err(|e| Error::io("starting a thread for", place, e))?);
        let conn =
            Self { shared, next: AtomicU32::new(1), hello: first, welcome: Mutex::default(), reader, timing };
        // If it fails, the reading thread finds out why.
        let _ = conn.shared.writer.greet(&Request::Hello(hello.clone()).encode());
        Ok(conn)
    }

    /// What the other side said first.
    pub fn welcome(&self) -> Result<Welcome, Trouble> {
        let mut welcome = lock(&self.welcome);
        if let Some(known) = &*welcome {
            return Ok(known.clone());
        }
        match self.hello.next(self.timing.hello)?.0 {
            Answer::Welcome(new) if new.version == 0 || new.version > VERSION => Err(Trouble::Final(
                Error::Unsupported(format!("{} speaks version {}", self.shared.place, new.version)),
            )),
            Answer::Welcome(new) => Ok(welcome.insert(new).clone()),
            _ => Err(Trouble::Final(Error::corrupt(&self.shared.place, "its first message is no welcome"))),
        }
    }

    /// Sends a request; waits while too many are under way.
    pub fn call(&self, slot: Slot, request: &Request) -> Result<Call, Trouble> {
        let is_put = matches!(request, Request::Put { .. });
        self.shared.gates[usize::from(is_put)].enter();
        let slot = Arc::new(slot);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.slots).insert(id, Known { slot: Arc::clone(&slot), is_put });
        let call = Call { shared: Arc::clone(&self.shared), id, slot };
        // Whoever died before it was known does not know it.
        self.check()?;
        call.send(request)?;
        Ok(call)
    }

    /// Fails if the stream has ended.
    pub fn check(&self) -> Result<(), Trouble> {
        match self.is_dead() {
            true => Err(Trouble::Cut(self.shared.why())),
            false => Ok(()),
        }
    }

    /// Whether the stream has ended.
    pub fn is_dead(&self) -> bool {
        self.shared.is_dead.load(Ordering::Acquire)
    }

    /// Bytes sent and received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.writer.total(), self.shared.received.load(Ordering::Relaxed))
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.shared.is_dead.store(true, Ordering::Release);
        self.shared.writer.close();
        let end = lock(&self.shared.end).take();
        drop(end);
        if let Some(reader) = self.reader.take()
            && reader.thread().id() != std::thread::current().id()
        {
            // A panic there has already failed every request.
            let _ = reader.join();
        }
    }
}

impl Call {
    /// Sends a message of this request.
    pub fn send(&self, request: &Request) -> Result<(), Trouble> {
        self.shared.writer.message(self.id, &request.encode()).map_err(|_| Trouble::Cut(self.shared.why()))
    }

    /// Sends bytes of this request.
    pub fn data(&self, parts: &[&[u8]]) -> Result<(), Trouble> {
        self.shared.writer.data(self.id, parts).map_err(|_| Trouble::Cut(self.shared.why()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let known = lock(&self.shared.slots).remove(&self.id);
        if let Some(known) = known {
            self.shared.gates[usize::from(known.is_put)].leave();
            // Without an answer yet: the other side need not go on. If this fails, it will not.
            let _ = self.shared.writer.message(self.id, &Request::Cancel.encode());
        }
    }
}

impl Shared {
    /// Looks after the silence: asks whether somebody is there, and gives up when nobody is.
    fn patience(&self, silent: Duration, timing: Timing) -> io::Result<()> {
        if self.is_dead.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if silent > timing.silence {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if silent > timing.ping {
            // The answer has no request; that it comes is enough.
            return self.writer.try_message(u32::MAX, &Request::Ping.encode());
        }
        Ok(())
    }

    /// Reads until the stream ends.
    fn read(&self, input: &mut FrameReader<'_>) -> Stop {
        let mut message = Vec::new();
        let mut step = |input: &mut FrameReader<'_>| -> Result<(), Stop> {
            let Head { len, kind, id } = input.head()?;
            let len = len as usize;
            let slot = lock(&self.slots).get(&id).map(|known| Arc::clone(&known.slot));
            match (kind, slot) {
                (FrameKind::Message, slot) => {
                    message.clear();
                    input.payload(len, &mut message)?;
                    let Some(slot) = slot else { return Ok(()) };
                    let answer = Answer::decode(&message).map_err(|e| Stop::Odd(e.to_string()))?;
                    if let (0, Answer::Failed(fault)) = (id, &answer) {
                        *lock(&self.refusal) = Some(fault.clone().into_error());
                        return Err(Stop::End);
                    }
                    if slot.answer(answer, len).map_err(|e| Stop::Odd(e.to_string()))? {
                        self.forget(id);
                    }
                    Ok(())
                }
                (FrameKind::Data, Some(slot)) => {
                    let mut data = slot.buffer(len).map_err(|e| Stop::Odd(e.to_string()))?;
                    let read = input.payload(len, &mut data);
                    slot.filled(data);
                    read
                }
                (FrameKind::Data, None) => {
                    message.clear();
                    input.payload(len, &mut message)
                }
            }
        };
        match input.magic() {
            Ok(()) => loop {
                if let Err(stop) = step(input) {
                    return stop;
                }
            },
            Err(Stop::Odd(said)) => Stop::Odd(format!("it does not speak ddr's protocol; it said: {said:?}")),
            Err(stop) => stop,
        }
    }

    fn forget(&self, id: u32) {
        if let Some(known) = lock(&self.slots).remove(&id) {
            self.gates[usize::from(known.is_put)].leave();
        }
    }

    /// The stream is over: tells everybody why.
    fn bury(&self, stop: Stop) {
        let offline = |why: String| Error::Offline { name: self.place.clone(), why };
        self.writer.close();
        let refusal = lock(&self.refusal).take();
        let said = refusal.or_else(|| lock(&self.end).as_mut().and_then(|end| end.why()));
        let why = match (stop, said) {
            // What it said last explains better why it said something odd.
            (_, Some(said)) if !matches!(said, Error::Offline { .. }) => said,
            (Stop::Odd(what), _) => Error::corrupt(format!("answer of {}", self.place), what),
            (_, Some(said)) => said,
            (Stop::End, None) => offline("it closed the connection".into()),
            (Stop::Broken(e), None) if e.kind() == io::ErrorKind::TimedOut => {
                offline("it has not said anything for too long".into())
            }
            (Stop::Broken(e), None) => offline(format!("the connection broke: {e}")),
        };
        *lock(&self.dead) = Some(why.again());
        self.is_dead.store(true, Ordering::Release);
        let slots: Vec<Known> = lock(&self.slots).drain().map(|(_, known)| known).collect();
        for known in slots {
            known.slot.cut(&why);
            self.gates[usize::from(known.is_put)].leave();
        }
    }

    /// Why the stream ended. The reading thread may be just about to find out.
    fn why(&self) -> Error {
        for _ in 0..250 {
            if let Some(why) = &*lock(&self.dead) {
                return why.again();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Error::Offline { name: self.place.clone(), why: "the connection broke".into() }
    }
}
