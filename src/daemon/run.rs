//! The daemon as a whole: its lock, its folders, its socket, its end.
//!
//! Promises one daemon per user, that a change of the list of folders is followed while it runs, and
//! that a stop lets every folder finish what is in hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use super::log::Log;
use super::memory;
use super::socket::{self, Answer, Ask};
use super::state::wall;
use super::tend::{Tended, tend};
use crate::base::error::{Error, Result};
use crate::engine::folder::{Context, lock, make_room};
use crate::engine::registry;

/// How long the socket is waited for before everything else is looked at.
const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// A folder and the thread that looks after it.
struct Served {
    tended: Arc<Tended>,
    thread: JoinHandle<()>,
}

/// Where the daemon keeps its lock.
pub fn lock_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("daemon")
}

/// Serves until `context.cancel`, or until it is asked to stop.
pub fn run(context: &Context) -> Result<()> {
    memory::keep_little();
    let (_alone, log, path, listener) = match open(context) {
        Err(Error::NoSpace(_)) => {
            // Its own files may lie on the very disk that it is to relieve.
            let roots = registry::list(&context.state_dir)?;
            roots.iter().for_each(|root| make_room(&root.join(".ddr")));
            open(context)?
        }
        opened => opened?,
    };
    let log = Arc::new(log);
    let mut daemon = Daemon { context, log, served: BTreeMap::new(), stamp: None, since: wall() };
    daemon.log.line("ddr daemon", &format!("starts, pid {}", std::process::id()));
    daemon.follow_list(true);
    tell_systemd(NotifyState::Ready);
    let beats = sd_notify::watchdog_enabled().is_some();
    while !context.cancel.is_cancelled() {
        let mut fds = [PollFd::new(&listener, PollFlags::IN)];
        // A signal ends the wait; then there is something to look at.
        if poll(&mut fds, Some(&TURN)).is_ok_and(|n| n > 0) {
            socket::serve(&listener, |ask| daemon.answer(ask));
        }
        daemon.follow_list(false);
        daemon.revive();
        if beats {
            tell_systemd(NotifyState::Watchdog);
        }
    }
    tell_systemd(NotifyState::Stopping);
    daemon.stop();
    // Nobody answers there any more; one that stays is a dead one's, and is removed at the next start.
    let _ = std::fs::remove_file(&path);
    Ok(())
}

/// The daemon's lock, log and socket.
fn open(context: &Context) -> Result<(File, Log, PathBuf, UnixListener)> {
    let dir = lock_dir(&context.state_dir);
    std::fs::create_dir_all(&dir).map_err(|e| Error::io("creating", &dir, e))?;
    let at_once = Context { wait: Duration::ZERO, ..context.clone() };
    let alone = lock(&dir, &at_once)?;
    let log = Log::open(&context.state_dir.join("log"))?;
    let path = socket::path(&context.state_dir);
    let listener = socket::listen(&path, &context.state_dir)?;
    Ok((alone, log, path, listener))
}

/// Best effort: without systemd there is nobody to tell.
fn tell_systemd(state: NotifyState) {
    let _ = sd_notify::notify(&[state]);
}

struct Daemon<'a> {
    context: &'a Context,
    log: Arc<Log>,
    served: BTreeMap<PathBuf, Served>,
    stamp: Option<SystemTime>,
    since: i64,
}

impl Daemon<'_> {
    /// Begins with folders that were added to the list, and leaves those that were removed.
    fn follow_list(&mut self, first: bool) {
        let file = registry::file(&self.context.state_dir);
        let stamp = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok();
        if !first && stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        let roots = match registry::list(&self.context.state_dir) {
            Ok(roots) => roots,
            // Folders that are served stay so.
            Err(e) => return self.log.line("ddr daemon", &e.to_string()),
        };
        let gone: Vec<PathBuf> = self.served.keys().filter(|root| !roots.contains(root)).cloned().collect();
        for root in gone {
            if let Some(served) = self.served.remove(&root) {
                served.tended.leave();
                self.log.line(&root.display().to_string(), "is no longer served");
                end(&self.log, served);
            }
        }
        for root in roots {
            if !self.served.contains_key(&root) {
                self.begin(root);
            }
        }
    }

    /// A folder whose thread ended without being asked to is begun with anew.
    fn revive(&mut self) {
        let ended = self.served.iter().filter(|(_, s)| s.thread.is_finished());
        for root in ended.map(|(root, _)| root.clone()).collect::<Vec<_>>() {
            if !self.context.cancel.is_cancelled()
                && let Some(served) = self.served.remove(&root)
            {
                end(&self.log, served);
                self.begin(root);
            }
        }
    }

    fn begin(&mut self, root: PathBuf) {
        let (tended, rung) = Tended::new(&root, self.context, self.log.clone());
        let (mine, context) = (tended.clone(), self.context.clone());
        let thread =
            std::thread::Builder::new().name("folder".into()).spawn(move || tend(mine, &rung, &context));
        match thread {
            Ok(thread) => drop(self.served.insert(root, Served { tended, thread })),
            Err(e) => self.log.line(&root.display().to_string(), &format!("cannot be served: {e}")),
        }
    }

    fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Status => {}
            Ask::Poke => self.served.values().for_each(|s| s.tended.poke()),
            Ask::Stop => self.context.cancel.cancel(),
        }
        Answer {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            since: self.since,
            folders: self.served.values().map(|s| s.tended.state()).collect(),
        }
    }

    fn stop(&mut self) {
        self.log.line("ddr daemon", "stops, as soon as what is in hand is done");
        self.served.values().for_each(|s| s.tended.wake());
        for (_, served) in std::mem::take(&mut self.served) {
            end(&self.log, served);
        }
        self.log.line("ddr daemon", "stopped");
    }
}

fn end(log: &Log, served: Served) {
    if served.thread.join().is_err() {
        log.line(
            &served.tended.root.display().to_string(),
            "its thread ended unexpectedly; please report it",
        );
    }
}
