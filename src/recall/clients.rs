//! The guard's side of its connections: workers, and every other ddr process.
//!
//! Promises that a client may only have its own user's files guarded, and only where a worker fills them, that a hold ends with its
//! connection, and that what one user takes of the guard is bounded. A worker is its user's to drive: it speaks
//! for one folder, in the place it was started for. Of a client's files nothing is asked under the guard's lock before it is known
//! that they lie on a folder's file system, or a local one: another may never answer. Does not look at the kernel's events.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Stat};

use super::desk::{Client, Home, Inode};
use super::device::{device_of, inode_of, is_local, root_at};
use super::guard::{Guard, Peer, State, Worker, owner, raw};
use super::handle::Birth;
use super::homes::{above, home_of, place_of};
use crate::base::id::FolderId;
use crate::base::units::count;
use crate::local::guard::{Frame, Standing, Verb, listed, receive, send, try_send};

/// What is known of a client's file before anything is done about it.
struct Known {
    file: OwnedFd,
    stat: Stat,
    birth: Birth,
    /// Whose worker is to fill it, if anybody's.
    home: Option<Home>,
}

impl Guard {
    /// Serves one connection until it ends, and lets go what it held.
    pub fn serve(&self, socket: &Arc<OwnedFd>, peer: Peer) {
        let client = self.clients.fetch_add(1, Ordering::Relaxed);
        if !self.admit(client, peer) {
            let full = Frame { code: libc::EUSERS, ..Frame::new(Verb::Done) };
            // Whoever does not read it sees that the connection ends.
            let _ = try_send(socket.as_fd(), &full, &[]);
            return;
        }
        let mut home: Option<Home> = None;
        while let Ok(Some((frame, files))) = receive(socket.as_fd()) {
            let answer = match peer.worker {
                Some(place) => self.handle_worker(socket, (peer.user, place), &mut home, &frame, files),
                None => Some(self.handle(socket, client, peer, &frame, files)),
            };
            let Some(answer) = answer else { continue };
            if send(socket.as_fd(), &answer, &[]).is_err() {
                break;
            }
        }
        let mut state = self.state();
        state.processes.remove(&client);
        if let Some(home) = home {
            state.workers.remove(&home);
            state.desk.worker_gone(home);
        }
        let (inodes, numbers) = state.desk.gone(client);
        for inode in inodes {
            if let Some(file) = state.held.remove(&inode) {
                let _ = self.group.mark(&file, true);
            }
        }
        self.ask(&mut state, &numbers);
    }

    /// Takes a client in, unless its user has too many.
    fn admit(&self, client: Client, peer: Peer) -> bool {
        let mut state = self.state();
        let theirs =
            state.processes.values().filter(|other| other.user == peer.user && other.worker.is_none());
        let full = theirs.count() >= self.options.limits.connections;
        if full && peer.user != 0 && peer.worker.is_none() {
            return false;
        }
        state.processes.insert(client, peer);
        true
    }

    fn handle(
        &self,
        socket: &Arc<OwnedFd>,
        client: Client,
        peer: Peer,
        frame: &Frame,
        files: Vec<OwnedFd>,
    ) -> Frame {
        let done = Frame::new(Verb::Done);
        // The kernel drops those that there is no room for.
        if frame.verb == Verb::Mark && frame.number != files.len() as u64 {
            return Frame { code: libc::EMFILE, ..done };
        }
        let files =
            if frame.verb == Verb::Mark { self.look_at(peer, frame.folder, files) } else { Vec::new() };
        let mut state = self.state();
        match frame.verb {
            Verb::Hello => {
                let serves = state.served.values().any(|home| may_serve(peer, frame.folder, *home));
                let flag = match state.parted.is_none() {
                    true if serves => 1,
                    true => 2 * u8::from(self.may_come(&state, peer, frame.folder)),
                    // The next one, soon.
                    false => 2,
                };
                Frame { flag, number: state.desk.marked_of(peer.user) as u64, ..done }
            }
            Verb::Mark if frame.flag == 2 => {
                let look = |file: &Known| state.desk.look(inode_of(&file.stat), file.birth);
                let standing = |file: &Option<Known>| file.as_ref().map_or(Standing::New, look) as u8;
                Frame { text: files.iter().map(standing).collect(), ..done }
            }
            Verb::Mark => {
                let (code, text) = self.mark_all(&mut state, client, peer, frame, files);
                Frame { code, text, ..done }
            }
            Verb::Release => {
                self.release(&mut state, client, frame);
                done
            }
            Verb::List => {
                let rows = self.list(&state, peer);
                // Who does not read must not keep everybody else waiting: he hears how many there are.
                let _ = rows.iter().try_for_each(|row| try_send(socket.as_fd(), row, &[]));
                Frame { number: rows.len() as u64, ..done }
            }
            Verb::Cancel => {
                let theirs = state.desk.ticket(frame.ticket).is_some_and(|t| may(peer, owner(&t.event)));
                let ended = theirs.then(|| state.desk.give_up(frame.ticket)).flatten();
                let code = if ended.is_some() { 0 } else { libc::ENOENT };
                ended.into_iter().for_each(|ticket| self.group.refuse(&ticket.event.event, libc::EIO));
                Frame { code, ..done }
            }
            _ => Frame { code: libc::EINVAL, ..done },
        }
    }

    /// Whether a worker that has not looked around yet may be one of this folder.
    fn may_come(&self, state: &State, peer: Peer, folder: FolderId) -> bool {
        let is_open = |place: &usize| !state.served.contains_key(place) && !state.absent.contains(place);
        (0..self.places.len()).filter(is_open).any(|place| {
            let its = state.workers.keys().find(|home| home.2 == place);
            its.is_none_or(|home| may_serve(peer, folder, *home))
        })
    }

    /// What a worker says, and what it is answered. It introduces itself first, and once.
    fn handle_worker(
        &self,
        socket: &Arc<OwnedFd>,
        (user, place): (u32, usize),
        home: &mut Option<Home>,
        frame: &Frame,
        files: Vec<OwnedFd>,
    ) -> Option<Frame> {
        let done = Frame::new(Verb::Done);
        let Some(home) = *home else {
            if frame.verb != Verb::Hello {
                return Some(Frame { code: libc::EINVAL, ..done });
            }
            let its = *home.insert((user, frame.folder, place));
            self.welcome(socket, its, frame, files);
            // From now on it may have files guarded.
            return Some(done);
        };
        let mut state = self.state();
        match frame.verb {
            Verb::Answer => self.answer(&mut state, home, frame),
            Verb::Progress => {
                let ticket = state.desk.ticket_mut(frame.ticket);
                if let Some(ticket) = ticket.filter(|ticket| ticket.home == home) {
                    ticket.event.done = frame.number;
                }
            }
            Verb::Ready => {
                state.served.insert(place, home);
                eprintln!("ddr guard: {} guarded ({})", count(frame.number, "stub"), text_of(frame));
                self.introduce(&mut state);
            }
            Verb::Judge => self.judge(&mut state, home, frame),
            _ => return Some(Frame { code: libc::EINVAL, ..done }),
        }
        None
    }

    /// Takes a worker in.
    fn welcome(&self, socket: &Arc<OwnedFd>, home: Home, frame: &Frame, files: Vec<OwnedFd>) {
        let place = home.2;
        let found = self.places.get(place).and_then(|path| root_at(path));
        // The guard asks things of it under its lock.
        let is_it = |root: &OwnedFd| found.is_some_and(|(device, _)| device_of(root) == Some(device));
        let root = files.into_iter().next().filter(is_it);
        let mut state = self.state();
        match found {
            Some(found) => state.roots.insert(place, found),
            None => state.roots.remove(&place),
        };
        state.deadlines.insert(place, self.within(frame.number));
        state.workers.insert(home, Worker { socket: Arc::clone(socket), root });
        let numbers = state.desk.for_worker(home);
        self.ask(&mut state, &numbers);
    }

    /// Looks at a client's files; `None` for what lies on a file system that may not answer.
    fn look_at(&self, peer: Peer, folder: FolderId, files: Vec<OwnedFd>) -> Vec<Option<Known>> {
        let state = self.state();
        let roots = state.roots.clone();
        let known = state.workers.keys().chain(state.served.values()).copied();
        let mut fits: Vec<Home> = known.filter(|home| may_serve(peer, folder, *home)).collect();
        let same = state.processes.values().filter(|other| other.process == peer.process);
        let own = same.filter_map(|other| other.worker).next();
        drop(state);
        fits.sort_unstable();
        fits.dedup();
        let look = |file: OwnedFd| {
            let device = device_of(&file)?;
            // A folder may go on in other file systems.
            (roots.values().any(|root| root.0 == device) || is_local(&file)).then_some(())?;
            let stat = rustix::fs::fstat(&file).ok()?;
            let home =
                home_of(&fits, own, stat.st_uid, || place_of(above(peer.process, file.as_fd()), &roots));
            Some(Known { stat, birth: Birth::of(&file), home, file })
        };
        files.into_iter().map(look).collect()
    }

    /// Marks files; what was known of each. With an errno nothing of it is held.
    fn mark_all(
        &self,
        state: &mut State,
        client: Client,
        peer: Peer,
        frame: &Frame,
        files: Vec<Option<Known>>,
    ) -> (i32, Vec<u8>) {
        let holder = (frame.flag == 1).then_some(client);
        let limits = self.options.limits;
        let theirs = |(other, who): (&Client, &Peer)| (who.user == peer.user).then_some(*other);
        let clients: Vec<Client> = state.processes.iter().filter_map(theirs).collect();
        let holds = holder.map_or(0, |_| state.desk.holds_of(&clients) + files.len());
        if holds > limits.files && peer.user != 0 {
            return (libc::EUSERS, Vec::new());
        }
        let mut marked: Vec<(Inode, Standing)> = Vec::with_capacity(files.len());
        for file in files {
            match self.mark(state, file, holder, peer) {
                Ok(one) => marked.push(one),
                Err(e) => {
                    let was = |known: &Standing| *known != Standing::New;
                    marked.iter().for_each(|(inode, known)| self.let_go(state, client, *inode, was(known)));
                    return (e.raw_os_error().unwrap_or(libc::EIO), Vec::new());
                }
            }
        }
        (0, marked.into_iter().map(|(_, known)| known as u8).collect())
    }

    fn mark(
        &self,
        state: &mut State,
        file: Option<Known>,
        holder: Option<Client>,
        peer: Peer,
    ) -> std::io::Result<(Inode, Standing)> {
        let his = |file: &Known| {
            FileType::from_raw_mode(file.stat.st_mode) == FileType::RegularFile && may(peer, file.stat.st_uid)
        };
        // Without a home nobody would ever fill it, and whoever opens it would wait in vain.
        let Some(Known { file, stat, birth, home: Some(home) }) = file.filter(his) else {
            return Err(std::io::Error::from_raw_os_error(libc::EPERM));
        };
        let inode = inode_of(&stat);
        let full = state.desk.marked_of(peer.user) >= self.options.limits.stubs;
        if full && peer.user != 0 && !state.desk.knows(inode) {
            return Err(std::io::Error::from_raw_os_error(libc::EUSERS));
        }
        // Whoever changes the file under a hold must not raise events on it: the kernel would open it for
        // us, and wait for the lease of the one who waits for our answer.
        self.group.mark(&file, holder.is_none() && !state.desk.is_held(inode))?;
        let known = state.desk.mark(inode, birth, home, holder);
        // Only a worker says who had it open, and only as long as it lives; else the next looks when asked.
        let is_worker = |other: &Peer| other.process == peer.process && other.worker.is_some();
        let judged = holder.is_some() || known != Standing::New || state.processes.values().any(is_worker);
        if !judged {
            let numbers = state.desk.judge(inode, |_| true, true);
            self.ask(state, &numbers);
        }
        if holder.is_some() {
            state.held.insert(inode, file);
        }
        Ok((inode, known))
    }

    fn release(&self, state: &mut State, client: Client, frame: &Frame) {
        listed(frame).for_each(|inode| self.let_go(state, client, inode, frame.flag == 1));
    }

    /// A worker says who has stubs of its folder open; who waited for that goes on.
    fn judge(&self, state: &mut State, home: Home, frame: &Frame) {
        // Root's worker has others' files guarded, too, and clones may share one.
        let its = |other: Home| other.1 == home.1 && (home.0 == 0 || home.0 == other.0);
        let numbers: Vec<u64> =
            listed(frame).flat_map(|inode| state.desk.judge(inode, its, frame.flag == 1)).collect();
        self.ask(state, &numbers);
    }

    fn let_go(&self, state: &mut State, client: Client, inode: Inode, still: bool) {
        let numbers = state.desk.release(inode, client, still);
        if !state.desk.is_held(inode)
            && let Some(file) = state.held.remove(&inode)
        {
            let _ = if still { self.group.mark(&file, true) } else { self.group.unmark(&file) };
        }
        self.ask(state, &numbers);
    }

    fn answer(&self, state: &mut State, home: Home, frame: &Frame) {
        let Some(ticket) = state.desk.answered(frame.ticket, home) else { return };
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
                    folder: ticket.home.1,
                    text,
                    ..Frame::new(Verb::Waiting)
                }
            })
            .collect()
    }
}

/// A client may have its own user's files guarded, and see who waits for them.
fn may(peer: Peer, owner: u32) -> bool {
    peer.user == 0 || peer.user == owner
}

/// Whether a client's stubs of this folder may be filled by the workers of this home.
fn may_serve(peer: Peer, folder: FolderId, home: Home) -> bool {
    home.1 == folder && (peer.user == 0 || peer.user == home.0)
}

fn text_of(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.text).into_owned()
}
