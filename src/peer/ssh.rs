//! A byte stream to the ddr on another machine, through libssh2.
//!
//! Promises what [`Dial`] promises. libssh2 serves one call at a time and cannot send while it waits
//! to receive, so a thread of its own pumps each session without ever blocking, between two pipes and
//! the channel. Knows nothing of what is said.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::host::{Connection, Host};
use super::pump::Pump;
use super::remote::{Verdict, Words, serve_command, verdict};
use super::stream::{Dial, End, Stream};
use crate::base::error::{Error, Result};

/// What the other side may send before we have read it. Larger windows make libssh2 search longer.
const WINDOW: u32 = 4 << 20;
/// Largest packet; OpenSSH sends no larger ones.
const PACKET: u32 = 32 << 10;
/// Room in each pipe; the most that an ordinary user may ask for.
const PIPE: usize = 1 << 20;
/// How long [`End::why`] waits for the session to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs `ddr serve PATH` on a host.
pub struct SshDial {
    host: Arc<Host>,
    program: Option<String>,
}

impl SshDial {
    /// `program`: what to run there instead of `ddr`.
    pub fn new(host: Arc<Host>, program: Option<String>) -> Self {
        Self { host, program }
    }
}

impl Dial for SshDial {
    fn dial(&self) -> Result<Stream> {
        let offline = |why: String| Error::Offline { name: self.place(), why };
        let config = self.host.config()?;
        let every = config.alive_interval.unwrap_or(super::remote::ALIVE_EVERY);
        let patience = every * config.alive_count.max(1);
        let Connection { session, socket, proxy } = self.host.connect()?;
        let fail = |doing: &str, e: ssh2::Error| offline(format!("{doing}: {}", e.message()));
        session.set_keepalive(true, every.as_secs() as u32);
        let mut channel = session
            .channel_open("session", WINDOW, PACKET, None)
            .map_err(|e| fail("it opens no channel", e))?;
        let command = serve_command(self.program.as_deref(), &self.host.address.path);
        channel.exec(&command).map_err(|e| fail("it runs no commands", e))?;
        session.set_blocking(false);
        let (up, writer) = pipe().map_err(|e| offline(format!("no pipe: {e}")))?;
        let (reader, down) = pipe().map_err(|e| offline(format!("no pipe: {e}")))?;
        let (stop, stopper) = pipe().map_err(|e| offline(format!("no pipe: {e}")))?;
        let outcome = Arc::new(Outcome::default());
        let pump = Pump { session, channel, socket, up, down, stop, every, patience };
        let told = Arc::clone(&outcome);
        let thread = std::thread::Builder::new().name("ssh".into()).spawn(move || {
            told.tell(pump.run());
            drop(proxy);
        });
        let thread = thread.map_err(|e| offline(format!("no thread: {e}")))?;
        let place = self.place();
        let end = SessionEnd { outcome, stopper: Some(stopper), thread: Some(thread), place };
        Ok(Stream { reader, writer, end: Box::new(end) })
    }

    fn place(&self) -> String {
        format!("ssh://{}", self.host.address)
    }
}

/// Reading and writing end, both non-blocking on our side once in use.
fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A smaller pipe is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(write.as_fd(), PIPE);
    Ok((read, write))
}

/// How a session ended, once it has.
#[derive(Default)]
struct Outcome {
    words: Mutex<Option<Words>>,
    told: Condvar,
}

impl Outcome {
    fn lock(&self) -> MutexGuard<'_, Option<Words>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, words: Words) {
        *self.lock() = Some(words);
        self.told.notify_all();
    }
}

/// A session that a thread looks after.
struct SessionEnd {
    outcome: Arc<Outcome>,
    /// Closing it tells the thread to stop.
    stopper: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    place: String,
}

impl End for SessionEnd {
    fn why(&mut self) -> Option<Error> {
        let words = self.outcome.lock();
        let waited = self.outcome.told.wait_timeout_while(words, PATIENCE, |w| w.is_none());
        let (words, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match verdict(words.as_ref()?, &self.place) {
            Verdict::Error(e) => Some(e),
            Verdict::Nothing => None,
        }
    }
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        drop(self.stopper.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}
