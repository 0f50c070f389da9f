//! A folder's worker: fills the stubs that the guard asks about. Runs as the folder's owner.
//!
//! Promises that every ticket it was shown is answered, and that nothing of it need outlive it: killed
//! at any moment, the next one is asked the same. Does not answer the kernel; the guard does.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::desk::Inode;
use super::found::{Found, Look, is_marked, readable};
use super::probe::Probe;
use super::queue::{Job, Queue};
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::engine::ahead::Ahead;
use crate::engine::folder::Context;
use crate::engine::recall::{Filled, Progress, Recaller};
use crate::local::guard::{Frame, Guard, MOST_FDS, Standing, Verb, listing, receive, send};
use crate::local::lease::{Lease, LeaseKind};
use crate::local::root::Root;
use crate::local::scan::{Scan, Seen};
use crate::local::stat::FileType;
use crate::model::manners::{Action, Manners};

/// How the worker is to behave.
pub struct Settings {
    /// Recalls at a time.
    pub parallel: usize,
    /// How long a slowed opener waits beforehand.
    pub slow: Duration,
    /// How long an opener may wait, as far as the guard allows.
    pub deadline: Duration,
    /// Bytes of neighbours fetched ahead of a file, when there is nothing else to do.
    pub ahead: u64,
    /// Who may do what.
    pub manners: Manners,
}

/// How many stubs are marked together, while as many are looked for: each is two descriptors.
const TOGETHER: usize = MOST_FDS / 4;
/// How many filled files are made durable together, and as many may wait: each holds a descriptor.
const UNSETTLED: usize = 16;
/// So long a recall waits for the daemon to make room on the disk, and in the budget, which is no wall.
const DISK_WAIT: Duration = Duration::from_secs(30);
const BUDGET_WAIT: Duration = Duration::from_secs(10);
const ROOM_PAUSE: Duration = Duration::from_millis(50);
/// How long a filled file may wait to be made durable.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the tree is searched for stubs that came without ddr's doing.
const RESCAN: Duration = Duration::from_secs(600);
/// How long openers hear at once that the disk is full, before a worker tries anew.
const FULL: Duration = Duration::from_secs(5);
/// A stub takes no more on disk: header, attributes, and what a file system rounds up to.
const STUB_BLOCKS: u64 = (16 << 10) / 512;

struct Worker {
    socket: OwnedFd,
    recaller: Recaller,
    queue: Queue,
    settings: Mutex<Settings>,
    start: Instant,
    /// Files on their way to be made durable; `None` after the last.
    filled: Sender<Option<Filled>>,
    /// The self-test at work.
    probe: Mutex<Option<Arc<Probe>>>,
    /// Paths to be fetched before anybody asks.
    ahead: Mutex<Vec<RelPath>>,
    /// Stubs we are asked about that somebody had open before they were guarded: he may write at any moment.
    loud: Mutex<HashSet<Inode>>,
}

/// Works until the guard hangs up.
pub fn work(dir: &Path, socket: OwnedFd, context: Context, settings: Settings) -> Result<()> {
    let mut early = Vec::new();
    let recaller = Recaller::open(dir, context, &mut |id, tree| {
        early = introduce(socket.as_fd(), id, tree, settings.deadline)?;
        Ok(())
    });
    if let Err(Error::NoSpace(_)) = &recaller {
        refuse(socket.as_fd(), std::mem::take(&mut early));
    }
    let recaller = recaller?;
    let parallel = settings.parallel.max(1);
    let (filled, rest) = bounded(UNSETTLED);
    let worker = Arc::new(Worker {
        socket,
        recaller,
        queue: Queue::default(),
        settings: Mutex::new(settings),
        start: Instant::now(),
        filled,
        probe: Mutex::default(),
        ahead: Mutex::default(),
        loud: Mutex::default(),
    });
    let spawn = |run: fn(&Worker)| {
        let worker = Arc::clone(&worker);
        std::thread::spawn(move || run(&worker))
    };
    let mut threads: Vec<_> = (0..parallel).map(|_| spawn(Worker::fill_all)).collect();
    if lock(&worker.settings).ahead > 0 {
        threads.push(spawn(Worker::fetch_ahead));
    }
    let settler = {
        let worker = Arc::clone(&worker);
        std::thread::spawn(move || worker.settle_all(&rest))
    };
    // It ends with the process.
    drop(spawn(Worker::mark_all));
    let later = std::iter::from_fn(|| receive(worker.socket.as_fd()).ok().flatten());
    for (frame, files) in early.into_iter().chain(later) {
        match files.into_iter().next() {
            Some(file) if frame.verb == Verb::Ask => worker.asked(&frame, readable(file)),
            // There was no room for its descriptor.
            None if frame.verb == Verb::Ask => worker.answer(frame.ticket, libc::EIO, false),
            _ => {}
        }
    }
    worker.queue.close();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    // It is still there, since it waits for this.
    let _ = worker.filled.send(None);
    if settler.join().is_ok() {
        worker.recaller.end();
    }
    Ok(())
}

/// A frame of the guard's, and what came with it.
type Received = (Frame, Vec<OwnedFd>);

/// Says who we are, and waits until the guard knows; what it asks meanwhile is for later.
fn introduce(socket: BorrowedFd, folder: FolderId, tree: &Root, deadline: Duration) -> Result<Vec<Received>> {
    let fail = |e| Error::io("telling", "the guard", e);
    let hello = Frame { folder, number: deadline.as_millis() as u64, ..Frame::new(Verb::Hello) };
    send(socket, &hello, &[tree.as_fd()]).map_err(fail)?;
    let mut early = Vec::new();
    loop {
        match receive(socket).map_err(fail)? {
            None => return Err(Error::Refused("the guard hung up".into())),
            Some((frame, _)) if frame.verb == Verb::Done => return Ok(early),
            Some(other) => early.push(other),
        }
    }
}

/// Tells those who ask, for a while, that the disk is too full to look after them; then the next worker tries.
fn refuse(socket: BorrowedFd, early: Vec<Received>) {
    let over = Instant::now() + FULL;
    let is_due = || {
        let left = over.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        poll(&mut polled, Some(&wait)).is_ok_and(|ready| ready > 0)
    };
    let later = std::iter::from_fn(|| is_due().then(|| receive(socket).ok().flatten()).flatten());
    for (frame, _) in early.into_iter().chain(later).filter(|(frame, _)| frame.verb == Verb::Ask) {
        let answer = Frame { ticket: frame.ticket, code: libc::ENOSPC, ..Frame::new(Verb::Answer) };
        if send(socket, &Frame { folder: frame.folder, ..answer }, &[]).is_err() {
            return;
        }
    }
}

impl Worker {
    /// Somebody opens a file.
    fn asked(&self, frame: &Frame, file: File) {
        let program = String::from_utf8_lossy(&frame.text).into_owned();
        let (action, slow, burst) = {
            let mut settings = lock(&self.settings);
            let now = self.start.elapsed().as_millis() as u64;
            let decision = settings.manners.decide(&program, frame.other as u32, now);
            if decision.news {
                eprintln!("ddr: {program} opens many stubs; it is slowed (see `ddr recalls`)");
            }
            (decision.action, settings.slow, decision.burst)
        };
        if action == Action::Refuse {
            return self.answer(frame.ticket, libc::EPERM, false);
        }
        let Ok(stat) = rustix::fs::fstat(&file) else { return self.answer(frame.ticket, libc::EIO, false) };
        if let Some(probe) = lock(&self.probe).as_ref().filter(|p| p.inode() == (stat.st_dev, stat.st_ino)) {
            let code = if probe.fill().is_ok() { 0 } else { libc::EIO };
            return self.answer(frame.ticket, code, true);
        }
        // The guard knows it also where an earlier worker looked.
        match frame.flag {
            1 => lock(&self.loud).insert((stat.st_dev, stat.st_ino)),
            _ => lock(&self.loud).remove(&(stat.st_dev, stat.st_ino)),
        };
        let from = Instant::now() + if action == Action::Slow { slow } else { Duration::ZERO };
        self.queue.push((stat.st_dev, stat.st_ino), frame.ticket, file, frame.number, from, burst);
    }

    fn fill_all(&self) {
        while let Some((inode, job)) = self.queue.take() {
            let size = job.size;
            let (code, full) = match self.fill(inode, job) {
                Ok(()) => (0, true),
                Err(e) => {
                    eprintln!("ddr: a file of {size} bytes could not be brought back: {e}");
                    (errno_of(&e), false)
                }
            };
            for ticket in self.queue.done(inode) {
                self.answer(ticket, code, full);
            }
        }
    }

    fn fill(&self, inode: Inode, job: Job) -> Result<()> {
        if lock(&self.loud).contains(&inode) && !is_unwritten(&job.file) {
            return Err(Error::Refused(
                "a program has had it open for writing since before it was guarded".into(),
            ));
        }
        let shown = Mutex::new(Instant::now());
        let progress = |done: u64| {
            let mut last = lock(&shown);
            if last.elapsed() < Duration::from_millis(250) {
                return;
            }
            *last = Instant::now();
            for ticket in self.queue.tickets(inode) {
                // The next one will do as well.
                let _ = self.tell(&Frame { ticket, number: done, ..Frame::new(Verb::Progress) });
            }
        };
        let beside = job.file.try_clone().ok();
        if let Some(filled) = self.recall(job, &progress)? {
            self.hand_over(filled);
            beside.iter().for_each(|file| self.note_neighbours(file));
        }
        if lock(&self.loud).remove(&inode) {
            self.judge(&[inode], false);
        }
        Ok(())
    }

    /// Brings the content back. Where there is no room, on the disk or in the budget, and a daemon that makes
    /// some, waits for that: to a program that reads, a full disk would be an odd error.
    fn recall(&self, job: Job, progress: Progress) -> Result<Option<Filled>> {
        let since = Instant::now();
        let may_wait = |most| self.recaller.is_tended() && since.elapsed() < most;
        while !self.recaller.has_room(job.size) && may_wait(BUDGET_WAIT) {
            std::thread::sleep(ROOM_PAUSE);
        }
        loop {
            let file = job.file.try_clone().map_err(|e| Error::io("using", "a stub", e))?;
            match self.recaller.recall(file, job.cold, progress) {
                Err(Error::NoSpace(_)) if may_wait(DISK_WAIT) => std::thread::sleep(ROOM_PAUSE),
                done => return done,
            }
        }
    }

    /// Notes what may be wanted next; only the newest guess counts.
    fn note_neighbours(&self, file: &File) {
        let budget = lock(&self.settings).ahead;
        if budget > 0 && self.queue.is_idle() {
            *lock(&self.ahead) = self.recaller.neighbours(file, budget).unwrap_or_default();
        }
    }

    /// Fetches what may be wanted next, while nobody waits for anything.
    fn fetch_ahead(&self) {
        while !self.queue.is_closed() {
            std::thread::sleep(Duration::from_millis(20));
            if !self.queue.is_idle() {
                continue;
            }
            let mut next = lock(&self.ahead);
            let path = if next.is_empty() { continue } else { next.remove(0) };
            drop(next);
            // Whoever needs it will hear what is wrong with it.
            if let Ok(Some(filled)) = self.recaller.recall_ahead(&path) {
                self.hand_over(filled);
            }
        }
    }

    /// Waits while too many are not durable yet: each holds a descriptor.
    fn hand_over(&self, filled: Filled) {
        // The other end goes only after all who send.
        let _ = self.filled.send(Some(filled));
    }

    /// Makes filled files durable, some at a time, until told to stop.
    fn settle_all(&self, rest: &Receiver<Option<Filled>>) {
        let mut batch: Vec<Filled> = Vec::new();
        let mut stops = false;
        while !stops {
            let until = Instant::now() + SETTLE;
            while batch.len() < UNSETTLED && !stops {
                match rest.recv_deadline(until) {
                    Ok(Some(filled)) => batch.push(filled),
                    Err(RecvTimeoutError::Timeout) => break,
                    Ok(None) | Err(RecvTimeoutError::Disconnected) => stops = true,
                }
            }
            self.recaller.settle(&batch);
            batch.clear();
        }
    }

    /// Has every stub of the tree guarded, now and again: copies of stubs come by any way.
    fn mark_all(&self) {
        // Soon again at first: what was stashed by a command that began before the guard is not marked yet.
        let mut pause = Duration::from_secs(5);
        if let Err(e) = self.test() {
            // Without it no stub would be safe; the guard says that nobody serves this folder.
            eprintln!("ddr: {}: {e}", self.recaller.tree().path().display());
            std::process::exit(1);
        }
        let mut first = true;
        loop {
            match self.mark_tree(first) {
                Ok(number) if first => {
                    let text = self.recaller.tree().path().as_os_str().as_encoded_bytes().to_vec();
                    let _ = self.tell(&Frame { number, text, ..Frame::new(Verb::Ready) });
                    first = false;
                }
                Ok(_) => {}
                Err(e) => eprintln!("ddr: not all stubs are guarded: {e}"),
            }
            std::thread::sleep(pause);
            pause = (pause * 5).min(RESCAN);
        }
    }

    /// Whether opening a file here waits for its content at all.
    fn test(&self) -> Result<()> {
        let guard = self.guard()?;
        let probe = Arc::new(Probe::new(&self.recaller.temp_dir(), &guard)?);
        *lock(&self.probe) = Some(Arc::clone(&probe));
        self.judge(&[probe.inode()], false);
        let good = probe.check();
        *lock(&self.probe) = None;
        good
    }

    fn guard(&self) -> Result<Guard> {
        Guard::connect(self.recaller.id()).ok_or_else(|| Error::Refused("the guard does not answer".into()))
    }

    /// At `first` each stub is opened; later only those that are new, or that an old writer may have let go.
    fn mark_tree(&self, first: bool) -> Result<u64> {
        let guard = self.guard()?;
        let tree = self.recaller.tree();
        let (mut batch, mut marked) = (Vec::new(), 0);
        // The guard marks one batch while the next is looked for.
        std::thread::scope(|scope| {
            let (mut ahead, guard) = (Ahead::new(scope), &guard);
            for seen in Scan::new(tree, &RelPath::root(), self.recaller.scan_options())? {
                let Seen::Entry(path, stat) = seen? else { continue };
                let large = stat.kind == FileType::File && stat.size > 4096;
                let is_left = first && self.recaller.is_unmended(&path);
                let fits = large
                    && (stat.blocks <= STUB_BLOCKS
                        || is_left && is_marked(tree, &path)
                        || self.recaller.is_recorded_stub(&path));
                // Gone meanwhile.
                let Some(found) = (if fits { Found::open(tree, &path, first, is_left)? } else { None })
                else {
                    continue;
                };
                marked += 1;
                batch.push(found);
                if batch.len() == TOGETHER {
                    let found = std::mem::take(&mut batch);
                    ahead.start(move || self.mark(guard, found, first))?.transpose()?;
                }
            }
            ahead.wait()?.transpose()?;
            self.mark(guard, batch, first)
        })?;
        Ok(marked)
    }

    fn mark(&self, guard: &Guard, found: Vec<Found>, first: bool) -> Result<()> {
        let is_left: Vec<bool> = found.iter().map(|one| one.is_left).collect();
        let (names, files): (Vec<OwnedFd>, Vec<Option<File>>) =
            found.into_iter().map(|one| (one.name, one.file)).unzip();
        let before = if first { Vec::new() } else { guard.look(&names)? };
        let begin = |(i, file): (usize, Option<File>)| {
            let name = || names[i].try_clone().map(readable);
            let known = is_left[i] || before.get(i) == Some(&Standing::Quiet);
            (!known).then(|| file.map_or_else(name, Ok).ok().map(Look::begin)).flatten()
        };
        let looks: Vec<Option<Look>> = files.into_iter().enumerate().map(begin).collect();
        let known = guard.mark(&names);
        let (mut loud, mut quiet) = (Vec::new(), Vec::new());
        for (i, (name, look)) in names.into_iter().zip(looks).enumerate() {
            let Ok(stat) = rustix::fs::fstat(&name) else { continue };
            // Of those that were marked in spite of an error no openers are to wait for ever.
            if known.as_ref().ok().and_then(|known| known.get(i)) == Some(&Standing::Quiet) {
                continue;
            }
            // What was left is looked at when somebody asks for it.
            let is_loud = is_left[i] || look.unwrap_or_else(|| Look::begin(readable(name))).is_loud();
            if is_loud { &mut loud } else { &mut quiet }.push((stat.st_dev, stat.st_ino));
        }
        self.judge(&loud, true);
        self.judge(&quiet, false);
        known.map(|_| ())
    }

    /// Tells the guard whether somebody had these open for writing before they were guarded.
    fn judge(&self, inodes: &[Inode], loud: bool) {
        // A guard that is gone needs no answer.
        let _ = listing(Verb::Judge, loud, inodes).try_for_each(|frame| self.tell(&frame));
    }

    fn answer(&self, ticket: u64, code: i32, full: bool) {
        // A guard that is gone needs no answer.
        let _ = self.tell(&Frame { ticket, code, flag: full.into(), ..Frame::new(Verb::Answer) });
    }

    fn tell(&self, frame: &Frame) -> Result<()> {
        let frame = Frame { folder: self.recaller.id(), ..frame.clone() };
        send(self.socket.as_fd(), &frame, &[]).map_err(|e| Error::io("telling", "the guard", e))
    }
}

/// Whether nobody has it open for writing.
fn is_unwritten(file: &File) -> bool {
    file.try_clone().is_ok_and(|file| Lease::take(&Arc::new(file), LeaseKind::Read).is_ok())
}

/// What an opener is told; only some numbers are taken by the kernel.
fn errno_of(error: &Error) -> i32 {
    match error {
        Error::NoSpace(_) => libc::ENOSPC,
        Error::Refused(_) | Error::Changed(_) => libc::EBUSY,
        _ => libc::EIO,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread leaves is a whole value.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
