//! Frames over file descriptors: reading with patience, writing in turn.
//!
//! Promises that frames of several threads go out whole and in the order in which they were asked
//! for, and that a side which has gone silent is noticed. Used by both sides; knows no messages.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::format::frame::{FrameKind, HEAD_LEN, Head, MAGIC};

/// How often somebody who waits looks up.
const TICK: Duration = Duration::from_millis(500);
/// Room for heads and small frames, so that they cost one read together; little, for what is read of
/// a payload with its head is copied.
const BUFFER: usize = 4 << 10;
/// What a pipe should hold; an unprivileged user may be refused it.
const PIPE: usize = 1 << 20;

/// Why nothing more comes or goes.
#[derive(Debug)]
pub enum Stop {
    /// The other side closed the stream between two frames.
    End,
    /// The stream broke, within a frame perhaps.
    Broken(io::Error),
    /// What came is no frame.
    Odd(String),
}

impl From<Errno> for Stop {
    fn from(e: Errno) -> Self {
        Self::Broken(e.into())
    }
}

/// Makes a descriptor ready for this module.
pub fn prepare(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    // Only pipes have a size, and it only matters for speed.
    let _ = rustix::pipe::fcntl_setpipe_size(fd, PIPE);
    Ok(())
}

/// Waits for a descriptor; false if nothing happened for a tick.
fn wait(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<bool> {
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&tick)) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// The reading half of a stream.
pub struct FrameReader<'a> {
    fd: OwnedFd,
    buffer: Vec<u8>,
    at: usize,
    heard: Instant,
    /// Asked every half second of silence, with how long it has lasted; an error ends the reading.
    patience: Box<dyn Fn(Duration) -> io::Result<()> + Send + 'a>,
    total: &'a AtomicU64,
}

impl<'a> FrameReader<'a> {
    /// `total` counts all bytes read.
    pub fn new(
        fd: OwnedFd,
        total: &'a AtomicU64,
        patience: Box<dyn Fn(Duration) -> io::Result<()> + Send + 'a>,
    ) -> Self {
        Self { fd, buffer: Vec::with_capacity(BUFFER), at: 0, heard: Instant::now(), patience, total }
    }

    /// Reads into `into` what there is room for; 0 at the end of the stream.
    fn some(&mut self, into: &mut Vec<u8>, room: usize) -> Result<usize, Stop> {
        loop {
            let spare = into.spare_capacity_mut();
            let room = room.min(spare.len());
            match rustix::io::read(&self.fd, &mut spare[..room]) {
                Ok((filled, _)) => {
                    let n = filled.len();
                    // SAFETY: the kernel has just filled the first `n` bytes of the spare capacity.
                    unsafe { into.set_len(into.len() + n) };
                    self.heard = Instant::now();
                    self.total.fetch_add(n as u64, Ordering::Relaxed);
                    return Ok(n);
                }
                Err(Errno::AGAIN) => {
                    if !wait(self.fd.as_fd(), PollFlags::IN).map_err(Stop::Broken)? {
                        (self.patience)(self.heard.elapsed()).map_err(Stop::Broken)?;
                    }
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// At least `n` bytes in the buffer; `End` only if there are none at all.
    fn fill(&mut self, n: usize) -> Result<(), Stop> {
        if self.buffer.len() - self.at >= n {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.drain(..self.at);
        self.at = 0;
        let mut result = Ok(());
        while buffer.len() < n && result.is_ok() {
            result = match self.some(&mut buffer, BUFFER) {
                Ok(0) if buffer.is_empty() => Err(Stop::End),
                Ok(0) => Err(Stop::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => Ok(()),
                Err(e) => Err(e),
            };
        }
        self.buffer = buffer;
        result
    }

    /// Reads the bytes that come before the first frame.
    pub fn magic(&mut self) -> Result<(), Stop> {
        let filled = self.fill(MAGIC.len());
        let said = &self.buffer[..self.buffer.len().min(200)];
        if !said.starts_with(&MAGIC[..MAGIC.len().min(said.len())]) {
            return Err(Stop::Odd(String::from_utf8_lossy(said).trim().to_string()));
        }
        filled?;
        self.at += MAGIC.len();
        Ok(())
    }

    /// The head of the next frame; its payload must be read next.
    pub fn head(&mut self) -> Result<Head, Stop> {
        self.fill(HEAD_LEN)?;
        let mut head = [0; HEAD_LEN];
        head.copy_from_slice(&self.buffer[self.at..self.at + HEAD_LEN]);
        self.at += HEAD_LEN;
        Head::decode(&head).map_err(|e| Stop::Odd(e.to_string()))
    }

    /// Adds a payload to `into`, without a copy where it did not come together with its head.
    pub fn payload(&mut self, len: usize, into: &mut Vec<u8>) -> Result<(), Stop> {
        let have = (self.buffer.len() - self.at).min(len);
        into.extend_from_slice(&self.buffer[self.at..self.at + have]);
        self.at += have;
        let end = into.len() + len - have;
        // Exactly: the room behind may be another frame's.
        into.reserve(len - have);
        while into.len() < end {
            let room = end - into.len();
            if self.some(into, room)? == 0 {
                return Err(Stop::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }
}

/// A queue at a door: whoever came first goes first.
#[derive(Default)]
struct Turns {
    state: Mutex<(u64, u64)>,
    next: Condvar,
}

impl Turns {
    fn enter(&self) {
        let mut state = lock(&self.state);
        let mine = state.0;
        state.0 += 1;
        while state.1 != mine {
            state = self.next.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Only if nobody is there.
    fn try_enter(&self) -> bool {
        let mut state = lock(&self.state);
        let free = state.0 == state.1;
        state.0 += u64::from(free);
        free
    }

    fn leave(&self) {
        lock(&self.state).1 += 1;
        self.next.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writing half of a stream; many threads may use it.
pub struct FrameWriter {
    fd: Mutex<Option<OwnedFd>>,
    turns: Turns,
    closed: AtomicBool,
    /// Longest time in which not a single byte is taken.
    limit: Duration,
    total: AtomicU64,
}

impl FrameWriter {
    /// Gives up when the other side takes nothing for `limit`.
    pub fn new(fd: OwnedFd, limit: Duration) -> Self {
        let (turns, closed, total) = (Turns::default(), AtomicBool::new(false), AtomicU64::new(0));
        Self { fd: Mutex::new(Some(fd)), turns, closed, limit, total }
    }

    /// Says the magic bytes and a first message.
    pub fn greet(&self, message: &[u8]) -> io::Result<()> {
        let head = Head::of(FrameKind::Message, 0, message.len()).map_err(io::Error::other)?.encode();
        self.turns.enter();
        self.write_in_turn(&[MAGIC, &head, message])
    }

    /// Sends a message.
    pub fn message(&self, id: u32, message: &[u8]) -> io::Result<()> {
        self.frame(FrameKind::Message, id, &[message])
    }

    /// Sends a message unless somebody is writing.
    pub fn try_message(&self, id: u32, message: &[u8]) -> io::Result<()> {
        let head = Head::of(FrameKind::Message, id, message.len()).map_err(io::Error::other)?.encode();
        match self.turns.try_enter() {
            true => self.write_in_turn(&[&head, message]),
            false => Ok(()),
        }
    }

    /// Sends one frame of data that lies in several parts.
    pub fn data(&self, id: u32, parts: &[&[u8]]) -> io::Result<()> {
        self.frame(FrameKind::Data, id, parts)
    }

    /// Bytes written so far.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Nothing more will be said; whoever is in the middle of it is interrupted.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.turns.enter();
        if let Some(fd) = lock(&self.fd).take() {
            // Of a socket the other half stays open; of anything else there is none.
            let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Write);
        }
        self.turns.leave();
    }

    fn frame(&self, kind: FrameKind, id: u32, parts: &[&[u8]]) -> io::Result<()> {
        let len = parts.iter().map(|p| p.len()).sum();
        let head = Head::of(kind, id, len).map_err(io::Error::other)?.encode();
        let mut all: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
        all.push(&head);
        all.extend(parts);
        self.turns.enter();
        self.write_in_turn(&all)
    }

    /// Writes everything and leaves the turn that the caller has entered.
    fn write_in_turn(&self, parts: &[&[u8]]) -> io::Result<()> {
        let result = match &*lock(&self.fd) {
            Some(fd) => self.write(fd, parts),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if result.is_err() {
            // Half a frame may have gone out: nothing that follows would be understood.
            self.closed.store(true, Ordering::Release);
        }
        self.turns.leave();
        result
    }

    fn write(&self, fd: &OwnedFd, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        let mut taken = Instant::now();
        while !rest.is_empty() {
            if self.closed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let some = rest.len().min(1024);
            match rustix::io::writev(fd, &rest[..some]) {
                Ok(n) => {
                    self.total.fetch_add(n as u64, Ordering::Relaxed);
                    IoSlice::advance_slices(&mut rest, n);
                    taken = Instant::now();
                }
                Err(Errno::AGAIN) => {
                    if !wait(fd.as_fd(), PollFlags::OUT)? && taken.elapsed() > self.limit {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        prepare(&reader).and_then(|()| prepare(&writer)).expect("a pipe");
        (reader, writer)
    }

    fn reader(fd: OwnedFd, total: &AtomicU64) -> FrameReader<'_> {
        FrameReader::new(fd, total, Box::new(|_| Ok(())))
    }

    #[test]
    fn frames_of_several_threads_arrive_whole() {
        let (from, to) = pipe();
        let writer = Arc::new(FrameWriter::new(to, Duration::from_secs(9)));
        writer.greet(b"hello").expect("there is room");
        let threads: Vec<_> = (1..=4u8)
            .map(|n| {
                let writer = Arc::clone(&writer);
                std::thread::spawn(move || {
                    let (a, b) = (vec![n; 100_000], vec![n; usize::from(n)]);
                    for _ in 0..20 {
                        writer.data(n.into(), &[&a, b"", &b]).expect("it is read");
                        writer.message(n.into(), &[n]).expect("it is read");
                    }
                })
            })
            .collect();
        let total = AtomicU64::new(0);
        let mut from = reader(from, &total);
        from.magic().expect("the greeting comes first");
        for _ in 0..161 {
            let head = from.head().expect("a frame");
            let mut bytes = Vec::new();
            from.payload(head.len as usize, &mut bytes).expect("its payload");
            assert!(head.id == 0 || bytes.iter().all(|b| u32::from(*b) == head.id));
        }
        threads.into_iter().for_each(|t| t.join().expect("no panic"));
        assert_eq!(total.load(Ordering::Relaxed), writer.total());
        drop(writer);
        assert!(matches!(from.head(), Err(Stop::End)));
    }

    #[test]
    fn what_is_no_greeting_is_told() {
        let (from, to) = pipe();
        rustix::io::write(&to, b"Welcome to this host!\n").expect("room");
        drop(to);
        let total = AtomicU64::new(0);
        match reader(from, &total).magic() {
            Err(Stop::Odd(text)) => assert_eq!(text, "Welcome to this host!"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_side_that_takes_nothing_is_given_up() {
        let (_from, to) = pipe();
        let writer = FrameWriter::new(to, Duration::from_millis(100));
        let bytes = vec![0; 200_000];
        let failed = (0..20).find_map(|_| writer.data(1, &[&bytes]).err());
        assert_eq!(failed.map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
        assert!(writer.message(1, b"x").is_err(), "half a frame is out");
    }

    #[test]
    fn patience_ends_the_reading() {
        let (from, _to) = pipe();
        let total = AtomicU64::new(0);
        let mut from = FrameReader::new(from, &total, Box::new(|_| Err(io::ErrorKind::TimedOut.into())));
        assert!(matches!(from.head(), Err(Stop::Broken(_))));
    }
}
