//! The guard: owns the kernel's event group and answers every opener.
//!
//! Promises that nobody who opens a marked stub is let in before a worker said that its content is
//! there or the deadline has passed with an error, and that what a dead worker had in hand is asked of the
//! next. Nothing that may take long is done under its one lock: everybody's openers wait for that.
//! Reads no file (only whether one carries the mark of a stub), knows no store and no history, and parses nothing
//! but the kernel's events; what clients and workers say is `recall::clients`', that there are workers
//! `recall::service`'s.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, Stat, StatVfsMountFlags};

use super::desk::{Client, Desk, Home, Inode, Verdict};
use super::device::inode_of;
use super::fanotify::{Event, Group};
use super::handle::Birth;
use super::handover;
use super::homes::{above, home_of, place_of};
use super::opener::{Opener, Whereabouts, belongs, truncates, user_of, where_is};
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::stub::InodeMark;
use crate::local::guard::{Frame, Verb, try_send};
use crate::local::inspect::marked;

/// How the guard is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an opener waits at most, whatever a folder's worker says.
    pub deadline: Duration,
    /// Whether accesses are guarded beside opens, where the kernel can.
    pub accesses: bool,
    /// Where clients connect.
    pub socket: PathBuf,
    /// What one user may have of it.
    pub limits: Limits,
}

/// What one user may have of the guard; root may have more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Guarded files.
    pub stubs: usize,
    /// Files that wait to be opened or are being truncated; and as many that are held while they change. Each
    /// is a descriptor.
    pub files: usize,
}

/// How long an opener waits where the folder's worker does not say.
const USUAL: Duration = Duration::from_secs(300);

/// Threads that read events at most: so many leases can be waited for at once.
const READERS: usize = 256;
/// How long a thread that came to help stays without work.
const IDLE: Duration = Duration::from_secs(60);

/// Somebody who waits.
pub(super) struct Waiter {
    pub event: Event,
    pub opener: Opener,
    pub done: u64,
    pub total: u64,
}

/// A folder's worker.
pub(super) struct Worker {
    pub socket: Arc<OwnedFd>,
    /// The folder's root, as the worker sees it; only if it is the place's.
    pub root: Option<OwnedFd>,
}

/// Somebody who was let in to throw a file's content away, and may not have done so yet.
struct Truncating {
    inode: Inode,
    user: u32,
    since: Instant,
    /// The file, opened as a mere name.
    name: Option<OwnedFd>,
}

/// An opener, of a file that nothing may be known about yet.
struct Stranger {
    inode: Inode,
    since: u64,
    waiter: Waiter,
    /// What the file says of itself, if no worker had named it.
    traits: Option<Traits>,
}

/// What a file says of itself. Never to be asked under the lock.
struct Traits {
    mark: Result<Option<InodeMark>>,
    owner: u32,
    birth: Birth,
    /// The directories above it.
    above: Vec<Inode>,
}

impl Traits {
    fn of(file: &File, owner: u32) -> Self {
        let above = above(std::process::id() as i32, file.as_fd()).collect();
        Self { mark: marked(file), owner, birth: Birth::of(file), above }
    }

    /// Whether it may be a stub of this folder rather than of another: copies have no mark.
    fn may_be_of(&self, folder: FolderId) -> bool {
        self.mark.as_ref().is_ok_and(|mark| mark.is_none_or(|mark| mark.is_of(folder)))
    }
}

#[derive(Default)]
pub(super) struct State {
    pub desk: Desk<Waiter>,
    /// Files that clients hold, to change their marks when they are released.
    pub held: HashMap<Inode, OwnedFd>,
    pub workers: HashMap<Home, Worker>,
    /// The places whose worker has passed its test and marked every stub it found, and as which folder it did:
    /// served from then on, also while a dead worker is being replaced.
    pub served: HashMap<usize, Home>,
    /// The places that cannot have a worker now: missing, or refused.
    pub absent: BTreeSet<usize>,
    /// For how many milliseconds openers may wait, as the place's last worker said.
    pub deadlines: HashMap<usize, u64>,
    /// The root directory of each place, as the guard found it when the place's last worker came.
    pub roots: HashMap<usize, Inode>,
    /// Openers of files that an earlier guard marked, and that no worker has named yet.
    strangers: Vec<Stranger>,
    /// By thread: it is in one open at a time.
    truncating: HashMap<i32, Truncating>,
    /// Whose openers were left to the next guard, which is to come: `None` as long as this one stays.
    pub parted: Option<Vec<u32>>,
    /// ddr's own processes: they see stubs as what they are.
    pub processes: HashMap<Client, Peer>,
    /// Nobody is made to wait any more.
    closed: bool,
}

impl State {
    /// Whether anybody waits.
    fn is_waited_for(&self) -> bool {
        self.desk.waiting().next().is_some() || !self.strangers.is_empty()
    }

    /// How many openers of a user wait, known or not, or truncate.
    fn waits_of(&self, user: u32) -> usize {
        let strangers = self.strangers.iter().filter(|stranger| stranger.waiter.opener.user == user);
        let truncating = self.truncating.values().filter(|one| one.user == user);
        self.desk.waits_of(user) + strangers.count() + truncating.count()
    }

    /// Whether nobody holds a file, and nobody waits for it.
    fn is_alone(&self, inode: Inode) -> bool {
        !self.desk.is_held(inode) && !self.desk.is_wanted(inode)
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its user.
    pub user: u32,
    /// Its process.
    pub process: i32,
    /// Which place the guard started it for, if it is a worker.
    pub worker: Option<usize>,
}

/// Shared by all threads of the guard.
pub struct Guard {
    pub(super) group: Group,
    state: Mutex<State>,
    /// Somebody was let in to truncate.
    truncates: Condvar,
    pub(super) clients: AtomicU64,
    /// Threads that read events, and how often they did.
    readers: AtomicUsize,
    reads: AtomicU64,
    /// Shared from the reading of an event on until it is taken care of.
    turn: RwLock<()>,
    start: Instant,
    pub(super) options: Options,
    /// The roots of the folders it looks after.
    pub(super) places: Vec<PathBuf>,
    /// The places whose workers must have looked around before a file that none has named is let in.
    awaited: BTreeSet<usize>,
}

impl Guard {
    /// A guard over this group, of folders in these places. Where an earlier guard has marked files, those that come
    /// before the workers of some of them (`awaited`) have looked around must wait.
    pub fn new(group: Group, options: Options, places: Vec<PathBuf>, awaited: BTreeSet<usize>) -> Self {
        let (clients, start) = (AtomicU64::new(1), Instant::now());
        let (readers, reads) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (state, truncates, turn) = Default::default();
        Self { group, state, truncates, clients, readers, reads, turn, start, options, places, awaited }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole before anything that could panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Reads events, for ever or (`helps`) until there is nothing to do. A thread of its own: making an
    /// event's descriptor may wait for a lease.
    pub fn watch(&self, helps: bool) -> Result<()> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        while self.group.is_unread(IDLE) || !helps {
            let _turn = self.turn.read().unwrap_or_else(|e| e.into_inner());
            match self.group.read(&mut |event| self.opened(event)) {
                Err(e) if e.raw_os_error() == Some(libc::EPROTO) => {
                    return Err(Error::io("reading", "the kernel's events", e));
                }
                // If not read, another thread had it, it was a signal, or an event whose file could not be
                // opened: the kernel has refused it already.
                Ok(()) | Err(_) => self.reads.fetch_add(1, Ordering::Relaxed),
            };
        }
        self.readers.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// How many threads are to help reading: as many as there are, if nothing was read since `before`
    /// though there was something. To be asked again and again, with what it yielded last.
    pub fn is_stuck(&self, before: Option<u64>) -> (Option<u64>, usize) {
        let now = self.group.is_unread(Duration::ZERO).then(|| self.reads.load(Ordering::Relaxed));
        let readers = self.readers.load(Ordering::Relaxed);
        match now.is_some() && now == before {
            true => (None, readers.min(READERS.saturating_sub(readers))),
            false => (now, 0),
        }
    }

    /// Somebody opens a file.
    pub fn opened(&self, event: Event) {
        let Ok(stat) = rustix::fs::fstat(&event.file) else { return self.group.refuse(&event, libc::EIO) };
        let mut peers: Vec<Peer> = self.state().processes.values().copied().collect();
        peers.sort_unstable_by_key(|peer| peer.process);
        peers.dedup_by_key(|peer| peer.process);
        if peers.into_iter().any(|peer| is_of(event.thread, peer)) {
            return self.group.allow_at_once(event);
        }
        let (inode, opener) = (inode_of(&stat), Opener::of(event.thread));
        self.settle(Some(inode));
        let state = self.state();
        if state.parted.is_some() {
            drop(state);
            return self.leave(event, opener.user);
        }
        // Who throws the content away need not wait for it, unless it is on its way already.
        let mut free = event.opens && !state.closed && state.is_alone(inode);
        let is_strange = !self.awaited.is_empty() && !state.desk.knows(inode);
        drop(state);
        free = free && truncates(event.thread);
        let traits = is_strange.then(|| Traits::of(&event.file, stat.st_uid));
        let mut state = self.state();
        free &= state.is_alone(inode);
        if state.closed {
            return self.group.refuse(&event, libc::EIO);
        }
        if opener.user != 0 && state.waits_of(opener.user) >= self.options.limits.files {
            return self.group.refuse(&event, libc::EBUSY);
        }
        if free {
            return self.let_truncate(&mut state, event, inode, opener.user);
        }
        let waiter = Waiter { event, opener, done: 0, total: stat.st_size as u64 };
        let stranger = Stranger { inode, since: self.now(), waiter, traits };
        match self.is_settled(&state, &stranger) {
            true => self.admit_or_ask(&mut state, stranger),
            false => state.strangers.push(stranger),
        }
    }

    /// Whether all that was to be waited for is known of a stranger's file: its worker has named it, or the one
    /// that looks after where it lies has looked around and had not to name it, or all have.
    fn is_settled(&self, state: &State, stranger: &Stranger) -> bool {
        let mut unserved = self.awaited.iter().filter(|place| !state.served.contains_key(place)).peekable();
        if state.desk.knows(stranger.inode) || unserved.peek().is_none() {
            return true;
        }
        // A place that is never served is to keep nobody from files of another.
        let Some(traits) = &stranger.traits else { return false };
        let Some(place) = place_of(traits.above.iter().copied(), &state.roots) else { return false };
        let is_its = state.served.get(&place).is_some_and(|home| traits.may_be_of(home.1));
        is_its && !unserved.any(|other| self.places[*other].starts_with(&self.places[place]))
    }

    /// Leaves an opener to the next guard.
    fn leave(&self, event: Event, user: u32) {
        let mut state = self.state();
        let parted = state.parted.get_or_insert_default();
        if !handover::has_room(parted, user) {
            drop(state);
            return self.group.refuse(&event, libc::EBUSY);
        }
        parted.push(user);
        // The manager may take its time.
        drop(state);
        if let Err(event) = handover::leave_opener(event) {
            self.group.refuse(&event, libc::EIO);
        }
    }

    /// Lets an opener in whose file nobody guards, and asks about any other.
    fn admit_or_ask(&self, state: &mut State, stranger: Stranger) {
        let Stranger { inode, since, waiter, traits } = stranger;
        if let Some(traits) = traits.filter(|_| !state.desk.knows(inode)) {
            take_up(state, inode, &traits);
        }
        match state.desk.event(inode, waiter.opener.user, since, waiter) {
            Verdict::Allow(waiter) => {
                let _ = self.group.unmark(&waiter.event.file);
                self.group.allow_at_once(waiter.event);
            }
            Verdict::Wait(number, true) => self.ask(state, &[number]),
            Verdict::Wait(_, false) => {}
        }
    }

    fn let_truncate(&self, state: &mut State, event: Event, inode: Inode, user: u32) {
        let one = Truncating { inode, user, since: Instant::now(), name: name_of(&event.file) };
        if let Some(before) = state.truncating.insert(event.thread, one) {
            self.truncated(state, before);
        }
        self.truncates.notify_one();
        self.group.allow_at_once(event);
    }

    /// Takes up strangers that are known by now, and lets go those that nobody will know.
    pub(super) fn introduce(&self, state: &mut State) {
        let limit = self.now().saturating_sub(self.within(0));
        for stranger in std::mem::take(&mut state.strangers) {
            match self.is_settled(state, &stranger) {
                true => self.admit_or_ask(state, stranger),
                false if stranger.since < limit => self.group.refuse(&stranger.waiter.event, libc::EIO),
                false => state.strangers.push(stranger),
            }
        }
    }

    /// Asks workers about tickets; what none can take now is asked later.
    pub(super) fn ask(&self, state: &mut State, numbers: &[u64]) {
        for number in numbers {
            if self.show(state, *number).is_none() {
                state.desk.unask(*number);
            }
        }
    }

    /// Shows a ticket to its worker; `None` if that is not possible now.
    fn show(&self, state: &mut State, number: u64) -> Option<()> {
        let State { desk, workers, truncating, .. } = state;
        let loud = desk.ticket(number).is_some_and(|ticket| desk.is_loud(ticket.inode));
        let ticket = desk.ask(number)?;
        if truncating.values().any(|one| one.inode == ticket.inode) {
            return None;
        }
        let worker = workers.get(&ticket.home)?;
        let (waiter, user) = (&ticket.event, ticket.home.0);
        if user != 0 && owner(waiter) != user {
            // Given away since it was marked: not the worker's to see, and nobody's as a stub.
            let inode = ticket.inode;
            let stub = rustix::fs::fstat(&waiter.event.file).map_or(true, |stat| may_be_stub(&stat));
            desk.end(number).into_iter().for_each(|ticket| match stub {
                true => self.group.refuse(&ticket.event.event, libc::EPERM),
                false => self.group.allow(&ticket.event.event),
            });
            if !stub {
                desk.forget(inode);
            }
            return Some(());
        }
        let frame = Frame {
            flag: loud.into(),
            code: waiter.event.thread,
            ticket: number,
            folder: ticket.home.1,
            number: waiter.total,
            other: waiter.opener.user.into(),
            text: waiter.opener.program.clone().into_bytes(),
            ..Frame::new(Verb::Ask)
        };
        // Through a read-only mount the worker could not write.
        let own = worker.root.as_ref().and_then(|root| on_own_mount(&waiter.event.file, root));
        let file = own.as_ref().map_or(waiter.event.file.as_fd(), AsFd::as_fd);
        try_send(worker.socket.as_fd(), &frame, &[file]).ok()
    }

    /// Looks who has truncated, this file or any: they do not say.
    fn settle(&self, inode: Option<Inode>) {
        let fits = |one: &Truncating| inode.is_none_or(|inode| inode == one.inode);
        let state = self.state();
        let some = state.truncating.iter().filter(|(_, one)| fits(one));
        let some: Vec<(i32, Instant)> = some.map(|(thread, one)| (*thread, one.since)).collect();
        drop(state);
        let over: Vec<_> = some.into_iter().filter(|(thread, since)| is_over(*thread, *since)).collect();
        if over.is_empty() {
            return;
        }
        let mut state = self.state();
        for (thread, since) in over {
            // It may be in another one by now.
            let same = state.truncating.get(&thread).is_some_and(|one| one.since == since);
            if let Some(one) = same.then(|| state.truncating.remove(&thread)).flatten() {
                self.truncated(&mut state, one);
            }
        }
    }

    /// Takes the mark from what has been truncated: there is nothing left to bring back, and whoever takes a
    /// lease on it would make us wait for him. Who came meanwhile goes on.
    fn truncated(&self, state: &mut State, one: Truncating) {
        let Truncating { inode, name, .. } = one;
        let name = name.filter(|_| !state.desk.is_held(inode));
        if let Some(name) = name
            && rustix::fs::fstat(&name).is_ok_and(|stat| !may_be_stub(&stat))
        {
            state.desk.forget(inode);
            let _ = self.group.unmark(&name);
        }
        let numbers = state.desk.unasked_of(inode);
        self.ask(state, &numbers);
    }

    /// Looks at those who truncate, often while there are any, for so long.
    fn tend(&self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let state = self.state();
            match state.truncating.len() as u64 {
                0 => drop(self.truncates.wait_timeout(state, left)),
                // Many that do not get on must not keep us busy.
                many => {
                    drop(state);
                    std::thread::sleep(left.min(Duration::from_millis(5 + many / 10)));
                }
            }
            self.settle(None);
        }
    }

    /// Refuses whom the deadline has overtaken, and asks about whom nobody was asked. For ever.
    pub fn sweep(&self) {
        const PAUSE: Duration = Duration::from_millis(250);
        loop {
            self.tend(PAUSE.min(self.options.deadline / 2));
            let mut state = self.state();
            let limit = |home: Home| state.deadlines.get(&home.2).copied().unwrap_or(self.within(0));
            for number in state.desk.overdue(self.now(), limit) {
                if let Some(ticket) = state.desk.give_up(number) {
                    self.group.refuse(&ticket.event.event, libc::EIO);
                }
            }
            self.introduce(&mut state);
            forget_gone(&mut state);
            let homes: Vec<Home> = state.workers.keys().copied().collect();
            for home in homes {
                let numbers = state.desk.for_worker(home);
                self.ask(&mut state, &numbers);
            }
        }
    }

    /// How many milliseconds an opener may wait where a worker asks for so many.
    pub(super) fn within(&self, asked: u64) -> u64 {
        let wanted = if asked == 0 { USUAL.as_millis() as u64 } else { asked };
        wanted.min(self.options.deadline.as_millis() as u64)
    }

    /// Leaves who comes from now on to the next guard, and gives those who wait so long to be served.
    pub fn part(&self, patience: Duration) {
        let since = Instant::now();
        self.state().parted = Some(Vec::new());
        while since.elapsed() < patience && self.state().is_waited_for() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads no more events: what comes now, the next guard finds. Waits so long for a thread that is at one.
    pub fn stop_reading(&self, patience: Duration) {
        let since = Instant::now();
        while since.elapsed() < patience {
            if let Ok(turn) = self.turn.try_write() {
                // For as long as the process lasts.
                return std::mem::forget(turn);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it: whoever waits gets an error rather than the stub. Yields how many stubs are unguarded
    /// from here on.
    pub fn close(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        let numbers: Vec<u64> = state.desk.waiting().map(|(number, _)| number).collect();
        for ticket in numbers.into_iter().filter_map(|number| state.desk.end(number)) {
            self.group.refuse(&ticket.event.event, libc::EIO);
        }
        for stranger in std::mem::take(&mut state.strangers) {
            self.group.refuse(&stranger.waiter.event, libc::EIO);
        }
        state.desk.marked()
    }

    /// Lets workers finish what they have in hand, for so long at most. Where the service manager keeps the
    /// group nobody would answer them afterwards: they would neither go on nor end.
    pub fn dismiss(&self, patience: Duration) {
        for worker in self.state().workers.values() {
            let _ = rustix::net::shutdown(&worker.socket, rustix::net::Shutdown::Write);
        }
        let since = Instant::now();
        loop {
            let workers: Vec<Peer> =
                self.state().processes.values().filter(|p| p.worker.is_some()).copied().collect();
            if workers.is_empty() {
                return;
            }
            if since.elapsed() > patience {
                let ids = workers.iter().filter_map(|peer| rustix::process::Pid::from_raw(peer.process));
                return ids.for_each(|id| {
                    let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a place can have a worker.
    pub fn note(&self, place: usize, is_there: bool) {
        let absent = &mut self.state().absent;
        let _ = if is_there { absent.remove(&place) } else { absent.insert(place) };
    }

    /// Whether the workers of all these places have looked around.
    pub fn has_served(&self, places: &BTreeSet<usize>) -> bool {
        let state = self.state();
        places.iter().all(|place| state.served.contains_key(place))
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The group, for the service manager to keep.
    pub fn group(&self) -> BorrowedFd<'_> {
        self.group.fd().as_fd()
    }
}

/// Guards a file that no worker has named but that carries the mark of a stub: a command was just about to
/// make it one when the guard before us ended.
fn take_up(state: &mut State, inode: Inode, traits: &Traits) {
    let Ok(Some(mark)) = traits.mark else { return };
    let lies = place_of(traits.above.iter().copied(), &state.roots);
    // Root's worker fills anybody's file, but only in its folder: a mark is written by the file's owner, who is
    // not to be told by it what root has.
    let may = |home: &Home| home.0 == traits.owner || home.0 == 0 && lies == Some(home.2);
    let fits: Vec<Home> =
        state.served.values().filter(|home| may(home) && mark.is_of(home.1)).copied().collect();
    let Some(home) = home_of(&fits, None, traits.owner, || lies) else { return };
    state.desk.mark(inode, traits.birth, home, None);
    // Whether somebody had it open for writing before, nobody has looked.
    state.desk.judge(inode, |_| true, true);
}

/// Forgets, a few at a time, files that were deleted: the kernel has dropped their marks without a word.
fn forget_gone(state: &mut State) {
    let State { desk, workers, roots, .. } = state;
    for (inode, birth, home) in desk.slice() {
        let root = workers.get(&home).and_then(|worker| worker.root.as_ref());
        // Another file system's handles mean nothing there.
        let root = root.filter(|_| roots.get(&home.2).is_some_and(|root| root.0 == inode.0));
        if root.is_some_and(|root| birth.is_gone(root)) && !desk.is_wanted(inode) {
            desk.forget(inode);
        }
    }
}

/// Whether a thread is one of a ddr process of ours: of its process, and still of its user.
fn is_of(thread: i32, peer: Peer) -> bool {
    belongs(thread, peer.process) && (peer.user == 0 || user_of(thread) == peer.user)
}

/// Whether a truncating opener has done it, or failed. A thread that is computing does not tell where;
/// it is believed to be in the call for a while.
fn is_over(thread: i32, since: Instant) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    match where_is(thread) {
        Whereabouts::Truncating => false,
        Whereabouts::Computing => since.elapsed() > PATIENCE,
        Whereabouts::Elsewhere => true,
    }
}

/// The same file by the mount of the folder's root, where the event came through a read-only one.
fn on_own_mount(file: &File, root: &OwnedFd) -> Option<OwnedFd> {
    let read_only = rustix::fs::fstatvfs(file).ok()?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if read_only { super::handle::reopen(file, root) } else { None }
}

/// Whether a file may be a stub, half filled or not, as far as its size tells.
fn may_be_stub(stat: &Stat) -> bool {
    stat.st_size > 4096
}

/// The same file, opened as a mere name.
fn name_of(file: &File) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", raw(file));
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

pub(super) fn owner(waiter: &Waiter) -> u32 {
    rustix::fs::fstat(&waiter.event.file).map_or(u32::MAX, |stat| stat.st_uid)
}

pub(super) fn raw(file: &File) -> i32 {
    use std::os::fd::AsRawFd;
    file.as_raw_fd()
}
