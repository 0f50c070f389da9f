//! The guard: owns the kernel's event group, answers every opener, keeps a worker per folder alive.
//!
//! Promises that nobody who opens a marked stub is let in before a worker said that its content is
//! there or the deadline has passed with an error, that a dead worker is replaced and asked anew, and
//! that a client may only have its own user's files guarded. Reads no file, knows no store and no
//! history, and parses nothing but the kernel's events and the frames of `local::guard`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Stat};

use super::desk::{Client, Desk, Inode, Verdict};
use super::fanotify::{Event, Group};
use super::opener::{Opener, belongs, truncates};
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::units::count;
use crate::local::guard::{Frame, Verb, receive, send, try_send};

/// How the guard is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an opener waits at most.
    pub deadline: Duration,
    /// Whether accesses are guarded beside opens, where the kernel can.
    pub accesses: bool,
    /// Where clients connect.
    pub socket: PathBuf,
}

/// Somebody who waits.
struct Waiter {
    event: Event,
    opener: Opener,
    done: u64,
    total: u64,
}

/// A folder's worker.
struct Worker {
    socket: Arc<OwnedFd>,
    user: u32,
}

#[derive(Default)]
struct State {
    desk: Desk<Waiter>,
    /// Files that clients hold, to change their marks when they are released.
    held: HashMap<Inode, OwnedFd>,
    workers: HashMap<FolderId, Worker>,
    /// ddr's own processes: they see stubs as what they are.
    processes: HashMap<Client, i32>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its user.
    pub user: u32,
    /// Its process.
    pub process: i32,
    /// Whether the guard started it as a worker.
    pub worker: bool,
}

/// Shared by all threads of the guard.
pub struct Guard {
    group: Group,
    state: Mutex<State>,
    clients: AtomicU64,
    start: Instant,
    options: Options,
}

impl Guard {
    /// A guard over this group.
    pub fn new(group: Group, options: Options) -> Self {
        let (clients, start) = (AtomicU64::new(1), Instant::now());
        Self { group, state: Mutex::default(), clients, start, options }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole before anything that could panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Reads events for ever. A thread of its own: making an event's descriptor may wait for a lease.
    pub fn watch(&self) -> Result<()> {
        loop {
            match self.group.read(&mut |event| self.opened(event)) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::EPROTO) => {
                    return Err(Error::io("reading", "the kernel's events", e));
                }
                // An event whose file could not be opened: the kernel has refused it already.
                Err(_) => {}
            }
        }
    }

    fn opened(&self, event: Event) {
        let Ok(stat) = rustix::fs::fstat(&event.file) else { return self.group.allow(&event) };
        let inode = inode_of(&stat);
        let mut state = self.state();
        if state.processes.values().any(|process| belongs(event.thread, *process)) {
            return self.group.allow(&event);
        }
        // Who throws the content away need not wait for it.
        if event.opens && !state.desk.is_held(inode) && truncates(event.thread) {
            return self.group.allow(&event);
        }
        let opener = Opener::of(event.thread);
        let waiter = Waiter { event, opener, done: 0, total: stat.st_size as u64 };
        match state.desk.event(inode, self.now(), waiter) {
            Verdict::Allow(waiter) => {
                let _ = self.group.unmark(&waiter.event.file);
                self.group.allow(&waiter.event);
            }
            Verdict::Wait(number, true) => self.ask(&mut state, &[number]),
            Verdict::Wait(_, false) => {}
        }
    }

    /// Asks workers about tickets; what none can take now is asked later.
    fn ask(&self, state: &mut State, numbers: &[u64]) {
        for number in numbers {
            let State { desk, workers, .. } = state;
            let Some(ticket) = desk.ask(*number) else { continue };
            let Some(worker) = workers.get(&ticket.folder) else {
                desk.unask(*number);
                continue;
            };
            let waiter = &ticket.event;
            let owner = rustix::fs::fstat(&waiter.event.file).map_or(u32::MAX, |stat| stat.st_uid);
            if worker.user != 0 && owner != worker.user {
                // Given away since it was marked: not the worker's to see.
                let (inode, ended) = (ticket.inode, desk.end(*number));
                desk.forget(inode);
                ended.into_iter().for_each(|ticket| {
                    let _ = self.group.unmark(&ticket.event.event.file);
                    self.group.allow(&ticket.event.event);
                });
                continue;
            }
            let frame = Frame {
                flag: waiter.event.opens.into(),
                code: waiter.event.thread,
                ticket: *number,
                folder: ticket.folder,
                number: waiter.total,
                other: waiter.opener.user.into(),
                text: waiter.opener.program.clone().into_bytes(),
                ..Frame::new(Verb::Ask)
            };
            let sent = try_send(worker.socket.as_fd(), &frame, &[waiter.event.file.as_fd()]);
            if sent.is_err() {
                desk.unask(*number);
            }
        }
    }

    /// Refuses whom the deadline has overtaken, and asks about whom nobody was asked. For ever.
    pub fn sweep(&self) {
        let limit = self.options.deadline.as_millis() as u64;
        loop {
            std::thread::sleep(Duration::from_millis(250).min(self.options.deadline / 2));
            let mut state = self.state();
            for number in state.desk.older_than(self.now().saturating_sub(limit)) {
                if let Some(ticket) = state.desk.end(number) {
                    self.group.refuse(&ticket.event.event, libc::EIO);
                }
            }
            let folders: Vec<FolderId> = state.workers.keys().copied().collect();
            for folder in folders {
                let numbers = state.desk.for_worker(folder);
                self.ask(&mut state, &numbers);
            }
        }
    }

    /// Serves one connection until it ends, and lets go what it held.
    pub fn serve(&self, socket: &Arc<OwnedFd>, peer: Peer) {
        let client = self.clients.fetch_add(1, Ordering::Relaxed);
        self.state().processes.insert(client, peer.process);
        let mut folder = None;
        while let Ok(Some((frame, files))) = receive(socket.as_fd()) {
            let hello = frame.verb == Verb::Hello;
            if hello && peer.worker {
                folder = Some(frame.folder);
            }
            let Some(answer) = self.handle(socket, client, peer, &frame, files) else { continue };
            if send(socket.as_fd(), &answer, &[]).is_err() {
                break;
            }
        }
        let mut state = self.state();
        state.processes.remove(&client);
        if let Some(folder) = folder {
            state.workers.remove(&folder);
            state.desk.worker_gone(folder);
        }
        let (inodes, numbers) = state.desk.gone(client);
        for inode in inodes {
            if let Some(file) = state.held.remove(&inode) {
                let _ = self.group.mark(&file, true);
            }
        }
        self.ask(&mut state, &numbers);
    }

    fn handle(
        &self,
        socket: &Arc<OwnedFd>,
        client: Client,
        peer: Peer,
        frame: &Frame,
        files: Vec<OwnedFd>,
    ) -> Option<Frame> {
        let done = Frame::new(Verb::Done);
        let mut state = self.state();
        match frame.verb {
            Verb::Hello if peer.worker => {
                let worker = Worker { socket: Arc::clone(socket), user: peer.user };
                state.workers.insert(frame.folder, worker);
                let numbers = state.desk.for_worker(frame.folder);
                self.ask(&mut state, &numbers);
                None
            }
            Verb::Hello => {
                let flag = state.workers.contains_key(&frame.folder).into();
                Some(Frame { flag, number: state.desk.marked() as u64, ..done })
            }
            Verb::Mark => {
                let holder = (frame.flag == 1).then_some(client);
                let marked = files
                    .into_iter()
                    .try_for_each(|file| self.mark(&mut state, file, frame.folder, holder, peer));
                let code = marked.err().and_then(|e| e.raw_os_error()).unwrap_or(0);
                Some(Frame { code, ..done })
            }
            Verb::Release => {
                self.release(&mut state, client, frame);
                Some(done)
            }
            Verb::Answer if peer.worker => {
                self.answer(&mut state, frame);
                None
            }
            Verb::Progress if peer.worker => {
                if let Some(ticket) = state.desk.ticket_mut(frame.ticket) {
                    ticket.event.done = frame.number;
                }
                None
            }
            Verb::Ready if peer.worker => {
                eprintln!("ddr guard: {} guarded ({})", count(frame.number, "stub"), text_of(frame));
                None
            }
            Verb::List => {
                self.list(&state, peer).iter().try_for_each(|row| send(socket.as_fd(), row, &[])).ok()?;
                Some(done)
            }
            Verb::Cancel => {
                let theirs = state.desk.ticket(frame.ticket).is_some_and(|t| may(peer, owner(&t.event)));
                let ended = theirs.then(|| state.desk.end(frame.ticket)).flatten();
                let code = if ended.is_some() { 0 } else { libc::ENOENT };
                ended.into_iter().for_each(|ticket| self.group.refuse(&ticket.event.event, libc::EIO));
                Some(Frame { code, ..done })
            }
            _ => Some(Frame { code: libc::EINVAL, ..done }),
        }
    }

    fn mark(
        &self,
        state: &mut State,
        file: OwnedFd,
        folder: FolderId,
        holder: Option<Client>,
        peer: Peer,
    ) -> std::io::Result<()> {
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !may(peer, stat.st_uid) {
            return Err(std::io::Error::from_raw_os_error(libc::EPERM));
        }
        let inode = inode_of(&stat);
        // Whoever changes the file under a hold must not raise events on it: the kernel would open it for
        // us, and wait for the lease of the one who waits for our answer.
        self.group.mark(&file, holder.is_none() && !state.desk.is_held(inode))?;
        state.desk.mark(inode, folder, holder);
        if holder.is_some() {
            state.held.insert(inode, file);
        }
        Ok(())
    }

    fn release(&self, state: &mut State, client: Client, frame: &Frame) {
        let still = frame.flag == 1;
        for pair in frame.text.chunks_exact(16) {
            let (dev, ino) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            let inode = (number(dev), number(ino));
            let numbers = state.desk.release(inode, client, still);
            if !state.desk.is_held(inode)
                && let Some(file) = state.held.remove(&inode)
            {
                let _ = if still { self.group.mark(&file, true) } else { self.group.unmark(&file) };
            }
            self.ask(state, &numbers);
        }
    }

    fn answer(&self, state: &mut State, frame: &Frame) {
        let Some(ticket) = state.desk.end(frame.ticket) else { return };
        let event = &ticket.event.event;
        if frame.code != 0 {
            return self.group.refuse(event, frame.code);
        }
        if frame.flag == 1 && !state.desk.is_held(ticket.inode) {
            state.desk.forget(ticket.inode);
            let _ = self.group.unmark(&event.file);
        }
        self.group.allow(event);
    }

    fn list(&self, state: &State, peer: Peer) -> Vec<Frame> {
        let shown = state.desk.waiting().filter(|(_, ticket)| may(peer, owner(&ticket.event)));
        shown
            .map(|(number, ticket)| {
                let waiter = &ticket.event;
                let name = std::fs::read_link(format!("/proc/self/fd/{}", raw(&waiter.event.file)));
                let name = name.map(|n| n.into_os_string().into_encoded_bytes()).unwrap_or_default();
                let text = [waiter.opener.program.as_bytes(), b"\0", &name].concat();
                Frame {
                    flag: ticket.asked.into(),
                    code: waiter.event.thread,
                    ticket: number,
                    number: waiter.done,
                    other: waiter.total,
                    folder: ticket.folder,
                    text,
                    ..Frame::new(Verb::Waiting)
                }
            })
            .collect()
    }

    /// Ends it: whoever waits gets an error rather than the stub. Yields how many stubs are unguarded
    /// from here on.
    pub fn close(&self) -> usize {
        let mut state = self.state();
        let numbers: Vec<u64> = state.desk.waiting().map(|(number, _)| number).collect();
        for ticket in numbers.into_iter().filter_map(|number| state.desk.end(number)) {
            self.group.refuse(&ticket.event.event, libc::EIO);
        }
        state.desk.marked()
    }

    /// The group, for the service manager to keep.
    pub fn group(&self) -> BorrowedFd<'_> {
        self.group.fd().as_fd()
    }
}

fn inode_of(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// A client may have its own user's files guarded, and see who waits for them.
fn may(peer: Peer, owner: u32) -> bool {
    peer.user == 0 || peer.user == owner
}

fn owner(waiter: &Waiter) -> u32 {
    rustix::fs::fstat(&waiter.event.file).map_or(u32::MAX, |stat| stat.st_uid)
}

fn raw(file: &File) -> i32 {
    use std::os::fd::AsRawFd;
    file.as_raw_fd()
}

fn text_of(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.text).into_owned()
}
