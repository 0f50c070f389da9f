//! Asking the guard: the privileged process that holds every opener of a stub until its content is
//! there.
//!
//! Promises that a file counts as guarded only after the guard said so, that a hold ends with
//! the connection, and that a guard which is silent for 15 seconds is one that refuses us. Knows the frames that travel between the guard, its workers and every other ddr
//! process, and nothing of what the guard does with them; `recall::guard` is the other end.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, shutdown, socket_with, sockopt,
};

use crate::base::error::{Error, Result};
use crate::base::id::FolderId;

/// Descriptors in one frame; the kernel takes at most 253.
pub const MOST_FDS: usize = 128;
/// Bytes in one frame.
pub const FRAME: usize = 512;
/// What both ends must speak. A guard outlives an update of the program: whoever speaks another version is no
/// guard to a client, and no client to a guard.
pub const VERSION: u8 = 2;

/// How long a guard may take to answer. Nothing that it does for a client takes long.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the guard listens unless `DDR_GUARD_SOCKET` says otherwise.
pub fn socket_path() -> PathBuf {
    std::env::var_os("DDR_GUARD_SOCKET").map_or_else(|| PathBuf::from("/run/ddr/guard.sock"), PathBuf::from)
}

/// What lies beside a guard's socket as long as a service manager keeps that for the next guard. Without it a socket
/// where nobody listens is what a killed guard left, and may stay for ever.
pub fn kept_beside(socket: &Path) -> PathBuf {
    socket.with_extension("kept")
}

/// What a frame is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// A process introduces itself and names its folder; it hears whether that is served (`flag` 1), or will be (2). A worker sends the folder's root and, in `number`, for
    /// how many milliseconds an opener may wait (0: as long as is usual); it may have files guarded once that
    /// was answered.
    Hello = 1,
    /// The files that come along (`number`) are stubs, or are about to be: guard them. With `flag` 1 whoever
    /// opens one waits until this connection releases it. With `flag` 2 nothing is done but to tell what is known.
    Mark = 2,
    /// The files (`text`: pairs of device and inode) are held no longer; `flag` 1 if still stubs.
    Release = 3,
    /// A worker's verdict on a ticket: `code` is 0 or an errno; `flag` 1 if the file is full now.
    Answer = 4,
    /// The guard asks its worker to decide about an opener; the file comes along. `flag` 1 if it is
    /// [`Standing::Loud`].
    Ask = 5,
    /// Yes, or why not: `code` is 0 or an errno. To a mark, `text` has a [`Standing`] for each file; to an
    /// introduction, `flag` is 1 if the folder has a worker, and `number` of the user's files are guarded.
    Done = 6,
    /// Lists who waits: one `Waiting` each, as many as the socket takes, then `Done` with their `number`.
    List = 7,
    /// One who waits; `text` is the file's name.
    Waiting = 8,
    /// How far a ticket's file is: `number` of `other` bytes.
    Progress = 9,
    /// Gives a ticket up.
    Cancel = 10,
    /// A worker has marked every stub it found: `number` of them.
    Ready = 11,
    /// A worker has looked whether anybody had these files (`text`, as for a release) open for writing
    /// before they were guarded: `flag` 1 if so.
    Judge = 12,
}

/// What the guard knows of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nobody had it open for writing when it was first guarded.
    Quiet = 0,
    /// Nothing: it is guarded from now on.
    New = 1,
    /// Somebody had: he waits for nobody, and may write at any moment.
    Loud = 2,
    /// Its worker has not said yet which of both; openers wait for that.
    Unjudged = 3,
}

impl Standing {
    fn of(byte: u8) -> Self {
        use Standing::*;
        // What we do not know is to be looked at.
        [Quiet, New, Loud].into_iter().find(|one| *one as u8 == byte).unwrap_or(Unjudged)
    }
}

impl Verb {
    fn of(byte: u8) -> Option<Self> {
        use Verb::*;
        [Hello, Mark, Release, Answer, Ask, Done, List, Waiting, Progress, Cancel, Ready, Judge]
            .into_iter()
            .find(|verb| *verb as u8 == byte)
    }
}

/// One message: verb, flag, version, a zero, code (4 bytes), ticket (8), folder (16), number (8), other (8),
/// then `text`. Little-endian, since both ends are on one machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it is about.
    pub verb: Verb,
    /// See the verb.
    pub flag: u8,
    /// An errno, or the thread that opens.
    pub code: i32,
    /// Which opener.
    pub ticket: u64,
    /// Which folder.
    pub folder: FolderId,
    /// See the verb.
    pub number: u64,
    /// See the verb.
    pub other: u64,
    /// A path or a list; at most [`FRAME`] less 48 bytes.
    pub text: Vec<u8>,
}

const FIXED: usize = 48;

impl Frame {
    /// An empty message of this verb.
    pub fn new(verb: Verb) -> Self {
        let folder = FolderId([0; 16]);
        Self { verb, flag: 0, code: 0, ticket: 0, folder, number: 0, other: 0, text: Vec::new() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.verb as u8, self.flag, VERSION, 0];
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&self.ticket.to_le_bytes());
        out.extend_from_slice(&self.folder.0);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.other.to_le_bytes());
        out.extend_from_slice(&self.text[..self.text.len().min(FRAME - FIXED)]);
        out
    }

    /// `None` for anything that is not a frame.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if *bytes.get(2)? != VERSION {
            return None;
        }
        Some(Self {
            verb: Verb::of(*bytes.first()?)?,
            flag: *bytes.get(1)?,
            code: i32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?),
            ticket: number(8)?,
            folder: FolderId(bytes.get(16..32)?.try_into().ok()?),
            number: number(32)?,
            other: number(40)?,
            text: bytes[FIXED..].to_vec(),
        })
    }
}

/// Frames that say something of these inodes (device, number).
pub fn listing(verb: Verb, flag: bool, inodes: &[(u64, u64)]) -> impl Iterator<Item = Frame> {
    inodes.chunks((FRAME - FIXED) / 16).map(move |some| {
        let text = some.iter().flat_map(|(dev, ino)| [dev.to_le_bytes(), ino.to_le_bytes()]);
        Frame { flag: flag.into(), text: text.flatten().collect(), ..Frame::new(verb) }
    })
}

/// The inodes that a frame tells of.
pub fn listed(frame: &Frame) -> impl Iterator<Item = (u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    frame.text.chunks_exact(16).map(move |pair| (number(&pair[..8]), number(&pair[8..])))
}

/// Sends one frame with descriptors.
pub fn send(socket: BorrowedFd, frame: &Frame, files: &[BorrowedFd]) -> rustix::io::Result<()> {
    send_with(socket, frame, files, SendFlags::NOSIGNAL)
}

/// The same, but fails rather than wait for the other end to read.
pub fn try_send(socket: BorrowedFd, frame: &Frame, files: &[BorrowedFd]) -> rustix::io::Result<()> {
    send_with(socket, frame, files, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(
    socket: BorrowedFd,
    frame: &Frame,
    files: &[BorrowedFd],
    flags: SendFlags,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    let bytes = frame.encode();
    loop {
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Receives one frame; `None` when the other end is gone or sent something that is no frame.
pub fn receive(socket: BorrowedFd) -> rustix::io::Result<Option<(Frame, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; FRAME];
    let len = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    Ok(Frame::decode(&bytes[..len]).map(|frame| (frame, files)))
}

/// A file whose openers a guard keeps waiting, as long as it is there.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    /// Device and inode number.
    pub inode: (u64, u64),
    connection: &'a Mutex<OwnedFd>,
}

impl<'a> Hold<'a> {
    /// A hold that ends with this connection.
    pub fn new(inode: (u64, u64), connection: &'a Mutex<OwnedFd>) -> Self {
        Self { inode, connection }
    }

    /// Fails once the guard is gone: the next one knows nothing of the hold, and has let openers in or will.
    pub fn check(&self) -> Result<()> {
        let socket = lock(self.connection);
        let mut ends = [PollFd::new(&*socket, PollFlags::RDHUP)];
        match rustix::event::poll(&mut ends, Some(&Timespec::default())) {
            Ok(0) => Ok(()),
            _ => Err(lost(rustix::io::Errno::PIPE)),
        }
    }
}

/// A connection to the guard that looks after a folder. As long as it is open, this process reads
/// stubs as what they are.
#[derive(Debug)]
pub struct Guard {
    socket: Mutex<OwnedFd>,
    folder: FolderId,
    serves: bool,
    comes: bool,
    guarded: u64,
    /// Why it does not talk to us.
    refusal: Option<String>,
}

impl Guard {
    /// Connects; `None` if no guard runs. One that does not talk to us serves nobody.
    pub fn connect(folder: FolderId) -> Option<Self> {
        Self::connect_at(&SocketAddrUnix::new(socket_path()).ok()?, folder, PATIENCE)
    }

    fn connect_at(address: &SocketAddrUnix, folder: FolderId, patience: Duration) -> Option<Self> {
        let (socket, joined) = dial(address, patience).ok()?;
        let hello = match joined {
            Ok(()) => None,
            Err(rustix::io::Errno::AGAIN) => Some(Err(lost(rustix::io::Errno::AGAIN))),
            Err(_) => return None,
        };
        let socket = Mutex::new(socket);
        let mut guard = Self { socket, folder, serves: false, comes: false, guarded: 0, refusal: None };
        match hello.unwrap_or_else(|| guard.ask(&Frame::new(Verb::Hello), &[])) {
            Ok(answer) => {
                (guard.serves, guard.comes) = (answer.flag == 1, answer.flag == 2);
                guard.guarded = answer.number;
            }
            Err(Error::Refused(why)) => guard.refusal = Some(why),
            Err(e) => guard.refusal = Some(e.to_string()),
        }
        Some(guard)
    }

    /// Whether it guards this folder, with a worker that can fill stubs.
    pub fn serves(&self) -> bool {
        self.serves
    }

    /// Whether it is about to: a worker that may be the folder's has not looked around yet.
    pub fn comes(&self) -> bool {
        self.comes
    }

    /// Whether there is none at this moment, but one is about to come: its manager has kept the place where
    /// the last one listened.
    pub fn is_restarting() -> bool {
        let path = socket_path();
        let dialled = || SocketAddrUnix::new(&path).and_then(|address| dial(&address, PATIENCE));
        let refused = || dialled().is_ok_and(|(_, joined)| joined == Err(rustix::io::Errno::CONNREFUSED));
        kept_beside(&path).exists() && refused()
    }

    /// Why it does not talk to us, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// How many files of this user it guarded when it was connected to.
    pub fn guarded(&self) -> u64 {
        self.guarded
    }

    /// Marks files (opened in any way), and makes whoever opens one wait until [`Self::release`].
    /// Yields which were not guarded before; on an error nothing is held that was not before.
    pub fn hold(&self, files: &[OwnedFd]) -> Result<Vec<bool>> {
        let known = self.mark_as(files, 1)?;
        Ok(known.into_iter().map(|standing| standing == Standing::New).collect())
    }

    /// That a file is held, where [`Self::hold`] said so.
    pub fn held(&self, inode: (u64, u64)) -> Hold<'_> {
        Hold::new(inode, &self.socket)
    }

    /// Marks files that are stubs already; what was known of them. Who opens one that is new waits until its
    /// worker has judged it.
    pub fn mark(&self, files: &[OwnedFd]) -> Result<Vec<Standing>> {
        self.mark_as(files, 0)
    }

    /// What is known of files; nothing is done to them.
    pub fn look(&self, files: &[OwnedFd]) -> Result<Vec<Standing>> {
        self.mark_as(files, 2)
    }

    fn mark_as(&self, files: &[OwnedFd], flag: u8) -> Result<Vec<Standing>> {
        let mut known = Vec::with_capacity(files.len());
        for some in files.chunks(MOST_FDS) {
            let fds: Vec<BorrowedFd> = some.iter().map(AsFd::as_fd).collect();
            let answer =
                self.ask(&Frame { flag, number: fds.len() as u64, ..Frame::new(Verb::Mark) }, &fds)?;
            known.extend(answer.text.iter().map(|byte| Standing::of(*byte)));
        }
        Ok(known)
    }

    /// Lets those who wait for these inodes (device, number) in, if they are stubs by way of a recall.
    pub fn release(&self, inodes: &[(u64, u64)], stubs: bool) -> Result<()> {
        let mut frames = listing(Verb::Release, stubs, inodes);
        frames.try_for_each(|frame| self.ask(&frame, &[]).map(|_| ()))
    }

    /// Everybody who waits for a stub of ours, and since how many milliseconds (`number`, `other`:
    /// bytes done and in all; `ticket`, `code`: thread; `flag` 1 if at work; `text`: the file), and how many
    /// there are, should they not all be told.
    pub fn waiting(&self) -> Result<(Vec<Frame>, u64)> {
        let socket = lock(&self.socket);
        let mut out = Vec::new();
        send(socket.as_fd(), &self.signed(&Frame::new(Verb::List)), &[]).map_err(lost)?;
        loop {
            match receive(socket.as_fd()).map_err(|e| hang_up(&socket, e))? {
                Some((frame, _)) if frame.verb == Verb::Waiting => out.push(frame),
                Some((done, _)) => return Ok((out, done.number)),
                None => return Err(lost(rustix::io::Errno::PIPE)),
            }
        }
    }

    /// Gives up one who waits: he gets an error.
    pub fn cancel(&self, ticket: u64) -> Result<()> {
        self.ask(&Frame { ticket, ..Frame::new(Verb::Cancel) }, &[]).map(|_| ())
    }

    fn ask(&self, frame: &Frame, files: &[BorrowedFd]) -> Result<Frame> {
        let socket = lock(&self.socket);
        let sent = send(socket.as_fd(), &self.signed(frame), files);
        // Whoever is turned away is told so behind the news that nobody listens to him.
        let answer = match receive(socket.as_fd()) {
            Err(rustix::io::Errno::CONNRESET) => receive(socket.as_fd()),
            other => other,
        };
        let answer = answer.map_err(|e| hang_up(&socket, e))?;
        if answer.is_none() {
            sent.map_err(lost)?;
        }
        match answer {
            Some((answer, _)) if answer.code == 0 => Ok(answer),
            Some((answer, _)) if answer.code == libc::EUSERS => Err(Error::Refused(
                "the guard has as many connections, stubs or files in hand of this user as it takes (see `ddr guard --help`)"
                    .into(),
            )),
            Some((answer, _)) => {
                let why = std::io::Error::from_raw_os_error(answer.code);
                Err(Error::Refused(format!("the guard does not guard it: {why}")))
            }
            None => Err(lost(rustix::io::Errno::PIPE)),
        }
    }

    fn signed(&self, frame: &Frame) -> Frame {
        Frame { folder: self.folder, ..frame.clone() }
    }
}

fn lock(socket: &Mutex<OwnedFd>) -> MutexGuard<'_, OwnedFd> {
    // A panic elsewhere leaves the socket as usable as it was.
    socket.lock().unwrap_or_else(|e| e.into_inner())
}

/// A socket, and whether the guard at this address took us in.
fn dial(
    address: &SocketAddrUnix,
    patience: Duration,
) -> rustix::io::Result<(OwnedFd, rustix::io::Result<()>)> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Sending, since that is what connecting to one that takes nobody in any more waits by.
    for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, direction, Some(patience))?;
    }
    let joined = connect(&socket, address);
    Ok((socket, joined))
}

/// Ends a connection on which no answer came. One that came later would be taken for that to another question.
fn hang_up(socket: &OwnedFd, e: rustix::io::Errno) -> Error {
    let _ = shutdown(socket, Shutdown::Both);
    lost(e)
}

fn lost(e: rustix::io::Errno) -> Error {
    if e == rustix::io::Errno::AGAIN {
        return Error::Refused(
            "the guard does not answer: it is stopped or hangs; whoever opens a stub waits for it, too"
                .into(),
        );
    }
    Error::Refused(format!("the guard went away ({e}); run the command again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listens, and does nothing.
    fn silent() -> (tempfile::TempDir, SocketAddrUnix, OwnedFd) {
        let temp = tempfile::tempdir().expect("a directory");
        let address = SocketAddrUnix::new(temp.path().join("guard")).expect("an address");
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        rustix::net::bind(&socket, &address).expect("bound");
        rustix::net::listen(&socket, 1).expect("listening");
        (temp, address, socket)
    }

    #[test]
    fn a_silent_guard_is_one_that_refuses_us_and_no_guard_is_none() {
        let (_temp, address, listener) = silent();
        let folder = FolderId([1; 16]);
        let join = || Guard::connect_at(&address, folder, Duration::from_millis(50));
        // More than it has room for before it takes them in.
        let guards: Vec<_> = (0..5).map(|_| join().expect("somebody listens")).collect();
        assert!(guards.iter().all(|guard| !guard.serves()));
        assert!(
            guards.iter().all(|guard| guard.refusal().is_some_and(|why| why.contains("does not answer")))
        );
        drop(listener);
        assert!(join().is_none());
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_another() {
        let (_temp, address, listener) = silent();
        let guard = Guard::connect_at(&address, FolderId([1; 16]), Duration::from_millis(50));
        let guard = guard.expect("somebody listens");
        let socket = rustix::net::accept(&listener).expect("a connection");
        let late = send(socket.as_fd(), &Frame::new(Verb::Done), &[]);
        assert!(late.is_err() && guard.cancel(1).is_err() && guard.waiting().is_err());
    }

    #[test]
    fn frames_round_trip_and_anything_shorter_is_none() {
        let frame = Frame {
            flag: 1,
            code: -5,
            ticket: 1 << 60,
            number: 7,
            other: 9,
            text: b"a name".to_vec(),
            ..Frame::new(Verb::Ask)
        };
        let bytes = frame.encode();
        assert_eq!(Frame::decode(&bytes), Some(frame));
        assert!((0..FIXED).all(|len| Frame::decode(&bytes[..len]).is_none()));
        assert_eq!(Frame::decode(&[99; FIXED]), None);
        let other = [&bytes[..2], &[VERSION + 1], &bytes[3..]].concat();
        assert_eq!(Frame::decode(&other), None);
    }
}
