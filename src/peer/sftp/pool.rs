//! Sessions of sftp, as many as there is work for side by side.
//!
//! Promises that a cut session is replaced by a new one and its work repeated, for up to half a minute;
//! that work which the server answered with an error is not repeated; and that one session serves one
//! caller at a time. A write over one session is bounded by the server's window for each round trip,
//! so several sessions are faster on long links.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ssh2::{ErrorCode, Sftp};

use crate::base::error::{Error, Result};
use crate::peer::host::{Connection, Host};

/// Most sessions at once; servers take ten or more.
const SESSIONS: usize = 4;
/// Waits before each further attempt, in milliseconds.
const WAITS: [u64; 6] = [0, 250, 1000, 2000, 4000, 8000];
/// How long one call may take: a sync of a slow disk, a window of bytes over a slow line.
const CALL: Duration = Duration::from_secs(120);

// Codes of libssh2 and of the protocol.
const SFTP_PROTOCOL: i32 = -31;
const FX_NO_SUCH_FILE: i32 = 2;
const FX_PERMISSION_DENIED: i32 = 3;
const FX_NO_CONNECTION: i32 = 6;
const FX_CONNECTION_LOST: i32 = 7;
const FX_UNSUPPORTED: i32 = 8;
const FX_NO_SUCH_PATH: i32 = 10;
const FX_EXISTS: i32 = 11;
const FX_NO_SPACE: i32 = 14;
const FX_QUOTA: i32 = 15;

/// Why a call failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection is gone or out of step.
    Cut(String),
    /// The server said so.
    Answer(Answer, String),
    /// Something else, which repeating will not help.
    Final(Error),
}

/// What a server says, as far as it makes a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// There is no such file.
    Missing,
    /// It is not allowed.
    Denied,
    /// There is one already.
    Exists,
    /// The disk or quota is full.
    Full,
    /// It does not know how.
    Unsupported,
    /// Some other failure; OpenSSH says this of most things.
    Failed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<ssh2::Error> for Failure {
    fn from(error: ssh2::Error) -> Self {
        let said = error.message().to_string();
        let ErrorCode::SFTP(code) = error.code() else { return Self::Cut(said) };
        let answer = match code {
            FX_NO_SUCH_FILE | FX_NO_SUCH_PATH => Answer::Missing,
            FX_PERMISSION_DENIED => Answer::Denied,
            FX_EXISTS => Answer::Exists,
            FX_NO_SPACE | FX_QUOTA => Answer::Full,
            FX_UNSUPPORTED => Answer::Unsupported,
            FX_NO_CONNECTION | FX_CONNECTION_LOST => return Self::Cut(said),
            _ => Answer::Failed,
        };
        Self::Answer(answer, said)
    }
}

/// One session.
pub struct Link {
    /// Calls of sftp.
    pub sftp: Sftp,
    /// Whether the server is known never to rename over an existing file.
    pub renames_safely: bool,
    connection: Connection,
}

impl Link {
    fn open(host: &Host) -> Result<Self> {
        let connection = host.connect()?;
        let session = &connection.session;
        session.set_timeout(CALL.as_millis() as u32);
        session.set_keepalive(true, 30);
        let sftp = session.sftp().map_err(|e| Error::Offline {
            name: host.address.host.clone(),
            why: format!("it offers no sftp: {}", e.message()),
        })?;
        let renames_safely = session.banner().is_some_and(|b| b.contains("OpenSSH"));
        Ok(Self { sftp, renames_safely, connection })
    }

    /// What an error of reading or writing a file was.
    pub fn failure(&self, error: &std::io::Error) -> Failure {
        match ssh2::Error::last_session_error(&self.connection.session).map(|e| e.code()) {
            Some(ErrorCode::Session(SFTP_PROTOCOL)) => Failure::Answer(Answer::Failed, error.to_string()),
            _ => Failure::Cut(error.to_string()),
        }
    }
}

#[derive(Default)]
struct State {
    idle: Vec<Link>,
    open: usize,
    /// Whether the host was ever reached: then a cut is worth some patience.
    reached: bool,
}

/// The sessions of one bucket.
pub struct Pool {
    host: Arc<Host>,
    state: Mutex<State>,
    freed: Condvar,
}

impl Pool {
    /// No session yet.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, state: Mutex::default(), freed: Condvar::new() }
    }

    /// The host they go to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Does some work with a session; once more with a new one each time it is cut.
    pub fn with<T>(&self, work: &mut dyn FnMut(&Link) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut last = Error::Interrupted;
        for wait in WAITS {
            std::thread::sleep(Duration::from_millis(wait));
            let link = match self.take() {
                Ok(link) => link,
                Err(e @ Error::Offline { .. }) if self.state().reached => {
                    last = e;
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            match work(&link) {
                Err(Failure::Cut(why)) => {
                    last = Error::Offline { name: self.host.address.host.clone(), why };
                    self.discard(link);
                }
                done => {
                    self.give_back(link);
                    return done;
                }
            }
        }
        Err(last.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session nobody uses, a new one, or the next that becomes free.
    fn take(&self) -> Result<Link> {
        let mut state = self.state();
        loop {
            if let Some(link) = state.idle.pop() {
                return Ok(link);
            }
            if state.open < SESSIONS {
                state.open += 1;
                break;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let link = Link::open(&self.host);
        let mut state = self.state();
        match &link {
            Ok(_) => state.reached = true,
            Err(_) => {
                state.open -= 1;
                self.freed.notify_one();
            }
        }
        link
    }

    fn give_back(&self, link: Link) {
        self.state().idle.push(link);
        self.freed.notify_one();
    }

    /// One that was cut; those that idle meanwhile were most likely cut with it.
    fn discard(&self, link: Link) {
        let mut state = self.state();
        let idle = std::mem::take(&mut state.idle);
        state.open -= 1 + idle.len();
        drop(state);
        for link in idle.into_iter().chain([link]) {
            // Else the farewell would be waited for.
            let _ = rustix::net::shutdown(&*link.connection.socket, rustix::net::Shutdown::Both);
        }
        self.freed.notify_all();
    }
}
