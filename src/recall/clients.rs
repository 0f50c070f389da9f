//! The guard's side of its connections: workers, and every other ddr process.
//!
//! Promises that a client may only have its own user's files guarded, and only where a worker fills them, that a hold ends with its
//! connection, and that what one user takes of the guard is bounded. Does not look at the kernel's events.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;

use super::desk::{Client, Home, Inode};
use super::guard::{Guard, Peer, State, Worker, inode_of, owner, raw};
use super::handle::Birth;
use crate::base::id::FolderId;
use crate::base::units::count;
use crate::local::guard::{Frame, Standing, Verb, listed, receive, send, try_send};

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
            let hello = frame.verb == Verb::Hello;
            if hello {
                home = peer.worker.map(|place| (peer.user, frame.folder, place));
            }
            let Some(answer) = self.handle(socket, client, peer, &frame, files) else { continue };
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
    ) -> Option<Frame> {
        let done = Frame::new(Verb::Done);
        let mut state = self.state();
        if let Some(place) = peer.worker {
            let home = (peer.user, frame.folder, place);
            return self.handle_worker(&mut state, socket, home, frame, files);
        }
        match frame.verb {
            Verb::Hello => {
                let serves = state.served.iter().any(|home| may_serve(peer, frame.folder, *home));
                let flag = match state.parted.is_none() {
                    true if serves => 1,
                    true => 2 * u8::from(self.may_come(&state, peer, frame.folder)),
                    // The next one, soon.
                    false => 2,
                };
                let (flag, number) = (flag, state.desk.marked_of(peer.user) as u64);
                Some(Frame { flag, number, ..done })
            }
            // The kernel drops those that there is no room for.
            Verb::Mark if frame.number != files.len() as u64 => Some(Frame { code: libc::EMFILE, ..done }),
            Verb::Mark if frame.flag == 2 => {
                let known = |file: &OwnedFd| look(&state, file) as u8;
                Some(Frame { text: files.iter().map(known).collect(), ..done })
            }
            Verb::Mark => {
                let (code, text) = self.mark_all(&mut state, client, peer, frame, files);
                Some(Frame { code, text, ..done })
            }
            Verb::Release => {
                self.release(&mut state, client, frame);
                Some(done)
            }
            Verb::List => {
                let rows = self.list(&state, peer);
                // Who does not read must not keep everybody else waiting: he hears how many there are.
                let _ = rows.iter().try_for_each(|row| try_send(socket.as_fd(), row, &[]));
                Some(Frame { number: rows.len() as u64, ..done })
            }
            Verb::Cancel => {
                let theirs = state.desk.ticket(frame.ticket).is_some_and(|t| may(peer, owner(&t.event)));
                let ended = theirs.then(|| state.desk.give_up(frame.ticket)).flatten();
                let code = if ended.is_some() { 0 } else { libc::ENOENT };
                ended.into_iter().for_each(|ticket| self.group.refuse(&ticket.event.event, libc::EIO));
                Some(Frame { code, ..done })
            }
            _ => Some(Frame { code: libc::EINVAL, ..done }),
        }
    }

    /// Whether a worker that has not looked around yet may be one of this folder.
    fn may_come(&self, state: &State, peer: Peer, folder: FolderId) -> bool {
        let mut unserved =
            (0..self.places.len()).filter(|place| !state.served.iter().any(|home| home.2 == *place));
        unserved.any(|place| {
            let its = state.workers.keys().find(|home| home.2 == place);
            its.is_none_or(|home| may_serve(peer, folder, *home))
        })
    }

    /// What a worker says, and what it is answered.
    fn handle_worker(
        &self,
        state: &mut State,
        socket: &Arc<OwnedFd>,
        home: Home,
        frame: &Frame,
        files: Vec<OwnedFd>,
    ) -> Option<Frame> {
        match frame.verb {
            Verb::Hello => {
                let (root, socket) = (files.into_iter().next(), Arc::clone(socket));
                state.deadlines.insert(home, self.within(frame.number));
                state.workers.insert(home, Worker { socket, root });
                let numbers = state.desk.for_worker(home);
                self.ask(state, &numbers);
                // From now on it may have files guarded.
                return Some(Frame::new(Verb::Done));
            }
            Verb::Answer => self.answer(state, home, frame),
            Verb::Progress => {
                let ticket = state.desk.ticket_mut(frame.ticket);
                if let Some(ticket) = ticket.filter(|ticket| ticket.home == home) {
                    ticket.event.done = frame.number;
                }
            }
            Verb::Ready => {
                state.served.insert(home);
                eprintln!("ddr guard: {} guarded ({})", count(frame.number, "stub"), text_of(frame));
                self.introduce(state);
            }
            Verb::Judge => self.judge(state, home, frame),
            _ => return Some(Frame { code: libc::EINVAL, ..Frame::new(Verb::Done) }),
        }
        None
    }

    /// Marks files; what was known of each. With an errno nothing of it is held.
    fn mark_all(
        &self,
        state: &mut State,
        client: Client,
        peer: Peer,
        frame: &Frame,
        files: Vec<OwnedFd>,
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
            match self.mark(state, file, frame.folder, holder, peer) {
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
        file: OwnedFd,
        folder: FolderId,
        holder: Option<Client>,
        peer: Peer,
    ) -> std::io::Result<(Inode, Standing)> {
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !may(peer, stat.st_uid) {
            return Err(std::io::Error::from_raw_os_error(libc::EPERM));
        }
        // Nobody would ever fill it, and whoever opens it would wait in vain.
        let Some(home) = self.home_of(state, peer, folder, &file, stat.st_uid) else {
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
        let known = state.desk.mark(inode, Birth::of(&file), home, holder);
        if holder.is_some() {
            state.held.insert(inode, file);
        }
        Ok((inode, known))
    }

    /// Whose worker is to fill a client's file: its own, if it is one; else that of the place where it lies.
    /// Root works on anybody's folder: the file's owner's, if he has one there; else root's; else whose the
    /// folder is.
    pub(super) fn home_of(
        &self,
        state: &State,
        peer: Peer,
        folder: FolderId,
        file: &impl AsRawFd,
        owner: u32,
    ) -> Option<Home> {
        let known = state.workers.keys().chain(&state.served).copied();
        let mut fits: Vec<Home> = known.filter(|home| may_serve(peer, folder, *home)).collect();
        fits.sort_unstable();
        fits.dedup();
        if fits.len() < 2 {
            return fits.pop();
        }
        let same = state.processes.values().filter(|other| other.process == peer.process);
        let own = same.filter_map(|other| other.worker).next();
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        let lies = |place: usize| {
            let root = self.places.get(place).filter(|root| name.starts_with(root));
            root.map(|root| root.as_os_str().len())
        };
        fits.into_iter().max_by_key(|home| (Some(home.2) == own, home.0 == owner, home.0 == 0, lies(home.2)))
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

/// What is known of a file.
fn look(state: &State, file: &OwnedFd) -> Standing {
    let stat = rustix::fs::fstat(file);
    stat.map_or(Standing::New, |stat| state.desk.look(inode_of(&stat), Birth::of(file)))
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
