//! Moves bytes between two pipes and a channel of libssh2, both ways at once.
//!
//! Promises never to wait for one direction while the other could go on, to end within two seconds
//! when told to, and to notice a dead connection. libssh2 in non-blocking mode has one rule that shapes
//! this: a call that could not send its packet whole must be repeated before any other.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use ssh2::{BlockDirections, Channel, Session};

use super::remote::Words;

/// Bytes moved at a time.
const BUFFER: usize = 256 << 10;
/// How long the other side may take to end, once told to.
const LEAVE: Duration = Duration::from_secs(2);
/// How long a farewell may take.
const FAREWELL_MS: u32 = 500;
/// Lines of standard error that are kept, and bytes of each.
const LINES: usize = 10;
const LINE_BYTES: usize = 500;

/// What a pump works on.
pub struct Pump {
    /// In non-blocking mode.
    pub session: Session,
    /// With a command that runs.
    pub channel: Channel,
    /// Under the session.
    pub socket: Arc<OwnedFd>,
    /// What is to be sent.
    pub up: OwnedFd,
    /// Where what comes goes.
    pub down: OwnedFd,
    /// Closed on its other side when all is to end.
    pub stop: OwnedFd,
    /// How often to ask whether the other side is there.
    pub every: Duration,
    /// How long it may be silent.
    pub patience: Duration,
}

/// A call to libssh2 that has to be repeated before any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Write,
    Read,
    Eof,
    Alive,
}

/// How far it is.
struct State {
    up: Vec<u8>,
    /// Bytes of `up` that were sent.
    sent: usize,
    /// No more to send: the pipe ended, or nobody listens there.
    up_done: bool,
    eof_sent: bool,
    down: Vec<u8>,
    given: usize,
    /// Nothing more comes.
    down_done: bool,
    /// Nobody wants what comes.
    unheard: bool,
    owed: Option<Call>,
    heard: Instant,
    asked: Instant,
    leaving: Option<Instant>,
    errors: Vec<u8>,
}

/// Why it cannot go on.
struct Broken(String);

impl Pump {
    /// Until the command ended, the connection broke or all is told to end.
    pub fn run(mut self) -> Words {
        let now = Instant::now();
        let mut state = State {
            up: Vec::with_capacity(BUFFER),
            sent: 0,
            up_done: false,
            eof_sent: false,
            down: Vec::new(),
            given: 0,
            down_done: false,
            unheard: false,
            owed: None,
            heard: now,
            asked: now,
            leaving: None,
            errors: Vec::new(),
        };
        // Non-blocking on our side only: the other ends are the user's.
        let ready = [&self.up, &self.down].into_iter().try_for_each(|fd| rustix::io::ioctl_fionbio(fd, true));
        let broken = match ready {
            Ok(()) => self.work(&mut state).err().map(|b| b.0),
            Err(e) => Some(format!("pipes: {e}")),
        };
        let told_to_end = state.leaving.is_some();
        let exit = if broken.is_none() && !told_to_end { self.exit() } else { None };
        let said = lines(&state.errors);
        // So that the farewell of channel and session is sent.
        self.session.set_timeout(FAREWELL_MS);
        self.session.set_blocking(true);
        if told_to_end {
            // If it cannot be said any more, the end of the connection says it.
            let _ = self.session.disconnect(None, "done", None);
        }
        if broken.is_some() || told_to_end {
            // libssh2 would wait for an answer to its farewell, round trips long.
            let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        }
        Words { exit, said, broken }
    }

    fn work(&mut self, state: &mut State) -> Result<(), Broken> {
        loop {
            let mut moved = false;
            if state.owed.is_none_or(|c| c == Call::Write) {
                moved |= self.send(state)?;
            }
            if state.owed.is_none_or(|c| c == Call::Eof) {
                moved |= self.send_eof(state)?;
            }
            if state.owed.is_none_or(|c| c == Call::Read) {
                moved |= self.receive(state)?;
            }
            moved |= self.give(state);
            if state.owed.is_none_or(|c| c == Call::Alive) {
                self.keep_alive(state)?;
            }
            if state.leaving.is_some() && state.eof_sent && state.owed.is_none() {
                return Ok(());
            }
            let all_given = state.given == state.down.len();
            if (state.down_done && all_given) || (state.unheard && state.eof_sent) {
                return Ok(());
            }
            if state.leaving.is_some_and(|since| since.elapsed() > LEAVE) {
                return Err(Broken("it did not end".into()));
            }
            if !moved {
                self.wait(state)?;
            }
        }
    }

    /// From the pipe to the channel.
    fn send(&mut self, state: &mut State) -> Result<bool, Broken> {
        let mut moved = false;
        if state.sent == state.up.len() && !state.up_done {
            state.up.clear();
            state.sent = 0;
            match rustix::io::read(&self.up, rustix::buffer::spare_capacity(&mut state.up)) {
                Ok(0) => state.up_done = true,
                Ok(_) => moved = true,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => state.up_done = true,
            }
        }
        if state.sent == state.up.len() {
            return Ok(moved);
        }
        match self.channel.write(&state.up[state.sent..]) {
            Ok(n) => {
                state.owed = None;
                state.sent += n;
                Ok(moved || n > 0)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.owe(state, Call::Write);
                Ok(moved)
            }
            // The command reads no more; what it said last may still be on its way.
            Err(_) if self.channel.eof() => {
                (state.owed, state.up_done, state.eof_sent) = (None, true, true);
                state.sent = state.up.len();
                Ok(true)
            }
            Err(e) => Err(Broken(format!("sending: {e}"))),
        }
    }

    fn send_eof(&mut self, state: &mut State) -> Result<bool, Broken> {
        if !state.up_done || state.eof_sent || state.sent < state.up.len() {
            return Ok(false);
        }
        match self.channel.send_eof() {
            Ok(()) => {
                (state.owed, state.eof_sent) = (None, true);
                Ok(true)
            }
            Err(e) if would_block(&e) => {
                self.owe(state, Call::Eof);
                Ok(false)
            }
            Err(_) if self.channel.eof() => {
                (state.owed, state.eof_sent) = (None, true);
                Ok(true)
            }
            Err(e) => Err(Broken(format!("sending: {}", e.message()))),
        }
    }

    /// From the channel to our buffer; standard error, too. Reading that may take in what is ours: the last
    /// call before we wait for the socket must be one that reads the channel and finds nothing.
    fn receive(&mut self, state: &mut State) -> Result<bool, Broken> {
        if state.down_done || state.given < state.down.len() {
            return Ok(false);
        }
        if self.read(state)? {
            return Ok(true);
        }
        if state.owed.is_some() {
            return Ok(false);
        }
        self.overhear(state);
        self.read(state)
    }

    fn read(&mut self, state: &mut State) -> Result<bool, Broken> {
        state.down.resize(BUFFER, 0);
        state.given = 0;
        let got = self.channel.read(&mut state.down);
        state.down.truncate(*got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => {
                (state.owed, state.down_done) = (None, true);
                self.overhear(state);
                Ok(true)
            }
            Ok(_) => {
                (state.owed, state.heard) = (None, Instant::now());
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.owe(state, Call::Read);
                Ok(false)
            }
            Err(e) => Err(Broken(format!("receiving: {e}"))),
        }
    }

    /// What the command says on standard error.
    fn overhear(&mut self, state: &mut State) {
        let mut buffer = [0; 4096];
        // Whatever is wrong with it: the next read of the channel meets it, too.
        while let Ok(n @ 1..) = self.channel.stderr().read(&mut buffer) {
            state.errors.extend_from_slice(&buffer[..n]);
            let surplus = state.errors.len().saturating_sub(LINES * LINE_BYTES);
            state.errors.drain(..surplus);
        }
    }

    /// From our buffer to the pipe.
    fn give(&mut self, state: &mut State) -> bool {
        if state.given == state.down.len() {
            return false;
        }
        if state.unheard {
            state.given = state.down.len();
            return true;
        }
        match rustix::io::write(&self.down, &state.down[state.given..]) {
            Ok(n) => {
                state.given += n;
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => {
                state.unheard = true;
                true
            }
        }
    }

    fn keep_alive(&mut self, state: &mut State) -> Result<(), Broken> {
        let waits_for_us = state.given < state.down.len();
        if waits_for_us {
            state.heard = Instant::now();
        } else if state.heard.elapsed() > self.patience {
            return Err(Broken(format!("no answer for {} s", self.patience.as_secs())));
        }
        if state.owed != Some(Call::Alive) && state.asked.elapsed() < self.every {
            return Ok(());
        }
        match self.session.keepalive_send() {
            Ok(_) => {
                state.owed = None;
                state.asked = Instant::now();
                Ok(())
            }
            Err(e) if would_block(&e) => {
                self.owe(state, Call::Alive);
                Ok(())
            }
            Err(e) => Err(Broken(e.message().to_string())),
        }
    }

    /// A call that would block is owed if it is in the middle of a packet.
    fn owe(&self, state: &mut State, call: Call) {
        let outbound =
            matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
        state.owed = outbound.then_some(call);
    }

    /// Until something can be moved.
    fn wait(&mut self, state: &mut State) -> Result<(), Broken> {
        let flags = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let unsent = state.sent < state.up.len();
        let undelivered = state.given < state.down.len();
        // A window may open for what is unsent; what nobody takes yet stays in the socket.
        let socket = flags(state.owed.is_some(), PollFlags::OUT)
            | flags(!undelivered || unsent || state.owed.is_some(), PollFlags::IN);
        let mut fds = vec![PollFd::new(&*self.socket, socket)];
        if state.leaving.is_none() {
            fds.push(PollFd::new(&self.stop, PollFlags::IN));
        }
        let stop_at = 1;
        if undelivered {
            fds.push(PollFd::new(&self.down, PollFlags::OUT));
        }
        if !unsent && !state.up_done {
            fds.push(PollFd::new(&self.up, PollFlags::IN));
        }
        let most = if state.leaving.is_some() { Duration::from_millis(50) } else { self.every };
        let left = most.saturating_sub(state.asked.elapsed()).max(Duration::from_millis(10));
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Broken(format!("waiting: {e}"))),
        }
        if fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            state.heard = Instant::now();
        }
        if state.leaving.is_none() && !fds[stop_at].revents().is_empty() {
            state.leaving = Some(Instant::now());
        }
        Ok(())
    }

    /// The command's exit status, if it comes soon.
    fn exit(&mut self) -> Option<i32> {
        let since = Instant::now();
        while let Err(e) = self.channel.wait_close() {
            if !would_block(&e) || since.elapsed() > LEAVE {
                return None;
            }
            let time = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            // An error here is met by the next call.
            let _ = poll(&mut [PollFd::new(&self.socket.as_fd(), PollFlags::IN)], Some(&time));
        }
        self.channel.exit_status().ok()
    }
}

fn would_block(error: &ssh2::Error) -> bool {
    // LIBSSH2_ERROR_EAGAIN
    matches!(error.code(), ssh2::ErrorCode::Session(-37))
}

/// The last lines, each cut to a bearable length.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let cut = |line: &&str| line.chars().take(LINE_BYTES).collect();
    all[all.len().saturating_sub(LINES)..].iter().map(cut).collect()
}
