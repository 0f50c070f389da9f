//! Workers that their users drive, against a guard in this process: what they say harms nobody else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ddr::base::id::{FolderId, RecordId};
use ddr::base::units::Time;
use ddr::format::stub::{InodeMark, MarkState, XATTR};
use ddr::local::guard::{Frame, Standing, Verb, receive, send};
use ddr::model::entry::Kind;
use ddr::recall::fanotify::Group;
use ddr::recall::guard::{Guard, Limits, Options, Peer};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::users::OTHER;
use crate::support::guarded::obstacle;
use crate::support::{own_files, say};

const FOLDER: FolderId = FolderId([1; 16]);
const SOON: Duration = Duration::from_secs(5);

/// A guard of two places. Nobody waits any more when it goes.
struct Driven {
    guard: Arc<Guard>,
    temp: tempfile::TempDir,
}

impl Driven {
    fn new() -> Option<Self> {
        Self::after(&[], &[])
    }

    /// After one that had marked these files, while these places are `awaited`.
    fn after(files: &[&str], awaited: &[usize]) -> Option<Self> {
        if let Some(why) = obstacle(&[]) {
            say(&format!("a test of the guard was passed over: {why}"));
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let places: Vec<PathBuf> = ["0", "1"].map(|name| temp.path().join(name)).into();
        places.iter().for_each(|place| std::fs::create_dir(place).unwrap());
        let group = Group::new(false).unwrap();
        for name in files {
            let path = temp.path().join(name);
            std::fs::write(&path, [7; 9000]).unwrap();
            group.mark(std::fs::File::open(&path).unwrap(), false).unwrap();
        }
        let limits = Limits { connections: 9, stubs: 9, files: 9 };
        let socket = temp.path().join("socket");
        let options = Options { deadline: Duration::from_secs(60), accesses: false, socket, limits };
        let awaited = awaited.iter().copied().collect();
        let guard = Arc::new(Guard::new(group, options, places, awaited));
        let watching = Arc::clone(&guard);
        std::thread::spawn(move || watching.watch(false));
        Some(Self { guard, temp })
    }

    /// A worker in a place that has named nothing, and is ready.
    fn worker(&self, place: usize, folder: u8) -> OwnedFd {
        let (socket, _) = self.connect(NOBODY + place as i32, Some(place));
        ask(&socket, &hello(folder), None);
        tell(&socket, &Frame { folder: FolderId([folder; 16]), ..Frame::new(Verb::Ready) });
        socket
    }

    fn open(&self, name: &str) -> JoinHandle<std::io::Result<Vec<u8>>> {
        open(self.temp.path().join(name))
    }

    /// Gives a file the mark of a stub of this folder.
    fn make_stub(&self, name: &str, folder: u8) {
        let mark = InodeMark {
            state: MarkState::Stub,
            kind: Kind::Chunk,
            mount: Default::default(),
            folder: [folder; 6],
            body: RecordId([0; 32]),
            mtime: Time { secs: 1, nanos: 0 },
            inode: 0,
        };
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(self.temp.path().join(name), XATTR, &mark.encode(), flags).unwrap();
    }

    /// A connection of a process, which is a worker if it has a place; and the guard's end of it.
    fn connect(&self, process: i32, worker: Option<usize>) -> (OwnedFd, JoinHandle<()>) {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let (guard, peer) = (Arc::clone(&self.guard), Peer { user: 0, process, worker });
        (theirs, std::thread::spawn(move || guard.serve(&Arc::new(ours), peer)))
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        std::fs::write(&path, [7; 9000]).unwrap();
        path
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.guard.close();
    }
}

/// A process that there is not, and the next.
const NOBODY: i32 = i32::MAX - 9;

fn hello(folder: u8) -> Frame {
    Frame { folder: FolderId([folder; 16]), ..Frame::new(Verb::Hello) }
}

fn is_ready(socket: &OwnedFd, for_what: PollFlags) -> bool {
    let time = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(socket, for_what)], Some(&time)).unwrap() > 0
}

fn is_readable(socket: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)).unwrap() > 0
}

/// The next frame, which comes soon.
fn next(socket: &OwnedFd) -> Frame {
    assert!(is_ready(socket, PollFlags::IN), "nothing comes");
    receive(socket.as_fd()).unwrap().expect("a frame").0
}

fn ask(socket: &OwnedFd, frame: &Frame, file: Option<&OwnedFd>) -> Frame {
    let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    send(socket.as_fd(), frame, &files).unwrap();
    next(socket)
}

/// Says something that is not answered, and waits until it was heard.
fn tell(socket: &OwnedFd, frame: &Frame) {
    send(socket.as_fd(), frame, &[]).unwrap();
    assert_eq!(ask(socket, &Frame::new(Verb::List), None).code, libc::EINVAL);
}

fn open(path: PathBuf) -> JoinHandle<std::io::Result<Vec<u8>>> {
    std::thread::spawn(move || std::fs::read(path))
}

#[test]
fn a_worker_introduces_itself_first_and_once_and_leaves_no_descriptors() {
    let Some(driven) = Driven::new() else { return };
    let (socket, served) = driven.connect(NOBODY, Some(0));
    assert_eq!(ask(&socket, &Frame::new(Verb::Ready), None).code, libc::EINVAL);
    let say = |folder: u8| {
        let ours = own_files();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(ours);
        (ask(&socket, &hello(folder), Some(&write)).code, read)
    };
    let (codes, pipes): (Vec<i32>, Vec<OwnedFd>) = (0..20).map(say).unzip();
    let kept = pipes.iter().filter(|pipe| !is_ready(pipe, PollFlags::empty())).count();
    assert_eq!((codes[0], kept), (0, 0), "what it names as its root is not where it was started");
    assert!(codes[1..].iter().all(|code| *code == libc::EINVAL), "{codes:?}");
    drop(socket);
    served.join().unwrap();
}

#[test]
fn one_worker_cannot_stand_for_another_that_is_awaited() {
    let Some(driven) = Driven::after(&["file"], &[0, 1]) else { return };
    let opener = open(driven.temp.path().join("file"));
    // It drives one that names two folders, and one in the place of that.
    for folders in [1..3, 3..4] {
        let (socket, served) = driven.connect(NOBODY, Some(0));
        for folder in folders {
            ask(&socket, &hello(folder), None);
            tell(&socket, &Frame { folder: FolderId([folder; 16]), ..Frame::new(Verb::Ready) });
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(!opener.is_finished(), "it is let in before its own worker has looked around");
        drop(socket);
        served.join().unwrap();
    }
    let (socket, _) = driven.connect(NOBODY, Some(1));
    ask(&socket, &hello(1), None);
    tell(&socket, &Frame { folder: FOLDER, ..Frame::new(Verb::Ready) });
    assert_eq!(opener.join().unwrap().unwrap().len(), 9000);
}

/// Whether somebody still waits after a while.
fn waits(opener: &JoinHandle<std::io::Result<Vec<u8>>>) -> bool {
    std::thread::sleep(Duration::from_millis(400));
    !opener.is_finished()
}

#[test]
fn a_place_that_is_not_awaited_cannot_stand_for_one_that_is() {
    let Some(driven) = Driven::after(&["file"], &[0]) else { return };
    let opener = driven.open("file");
    let _one = driven.worker(1, 2);
    assert!(waits(&opener), "it is let in before its own worker has looked around");
    let _other = driven.worker(0, 1);
    assert_eq!(opener.join().unwrap().unwrap().len(), 9000);
}

#[test]
fn a_place_that_is_never_served_keeps_nobody_from_the_files_of_another() {
    let files = ["0/plain", "0/own", "0/moved", "plain"];
    let Some(driven) = Driven::after(&files, &[0, 1]) else { return };
    driven.make_stub("0/own", 1);
    driven.make_stub("0/moved", 2);
    let openers = files.map(|name| driven.open(name));
    assert!(openers.iter().all(waits));
    let (worker, _) = driven.connect(NOBODY, Some(0));
    ask(&worker, &hello(1), None);
    send(worker.as_fd(), &Frame { folder: FOLDER, ..Frame::new(Verb::Ready) }, &[]).unwrap();
    let asked = next(&worker);
    assert_eq!(asked.verb, Verb::Ask);
    tell(&worker, &Frame { ticket: asked.ticket, flag: 1, folder: FOLDER, ..Frame::new(Verb::Answer) });
    let [plain, own, moved, outside] = openers;
    assert!([plain, own].into_iter().all(|opener| opener.join().unwrap().is_ok()));
    assert!(waits(&moved) && waits(&outside), "they may be the other's");
}

#[test]
fn a_stub_that_nobody_has_named_is_for_roots_worker_too_where_it_lies_in_its_folder() {
    let files = ["0/own", "0/others", "others"];
    let Some(driven) = Driven::after(&files, &[0]) else { return };
    files.iter().for_each(|name| driven.make_stub(name, 1));
    for name in &files[1..] {
        std::os::unix::fs::chown(driven.temp.path().join(name), Some(OTHER), None).unwrap();
    }
    let worker = driven.worker(0, 1);
    for name in &files[..2] {
        let opener = driven.open(name);
        let asked = next(&worker);
        assert_eq!((asked.verb, asked.flag), (Verb::Ask, 1), "{name}: somebody may have it open");
        tell(&worker, &Frame { ticket: asked.ticket, flag: 1, folder: FOLDER, ..Frame::new(Verb::Answer) });
        assert!(opener.join().unwrap().is_ok());
    }
    // Its owner wrote the mark, and gets nothing of root's for that.
    assert!(driven.open("others").join().unwrap().is_ok());
    assert!(!is_readable(&worker), "nobody asks for it");
}

#[test]
fn nobody_waits_for_the_worker_of_a_place_that_is_not_there() {
    let Some(driven) = Driven::new() else { return };
    let (client, _) = driven.connect(NOBODY, None);
    let comes = || ask(&client, &hello(1), None).flag == 2;
    driven.guard.note(0, false);
    assert!(comes(), "the other may be its");
    driven.guard.note(1, false);
    assert!(!comes());
    driven.guard.note(0, true);
    assert!(comes());
}

#[test]
fn what_a_dead_worker_had_marked_and_not_judged_is_looked_at_by_the_next() {
    let Some(driven) = Driven::new() else { return };
    let (worker, served) = driven.connect(NOBODY, Some(0));
    ask(&worker, &hello(1), None);
    // Its other connection outlives it by a moment.
    let (client, _) = driven.connect(NOBODY, None);
    let mark = |name: &str| {
        let ours = own_files();
        let file = OwnedFd::from(std::fs::File::open(driven.file(name)).unwrap());
        drop(ours);
        let frame = Frame { number: 1, folder: FOLDER, ..Frame::new(Verb::Mark) };
        let answer = ask(&client, &frame, Some(&file));
        assert_eq!((answer.code, answer.text), (0, vec![Standing::New as u8]), "{name}");
    };
    mark("before");
    drop(worker);
    served.join().unwrap();
    let (worker, _) = driven.connect(NOBODY + 1, Some(0));
    ask(&worker, &hello(1), None);
    mark("after");
    for name in ["before", "after"] {
        let opener = open(driven.temp.path().join(name));
        let asked = next(&worker);
        assert_eq!((asked.verb, asked.flag), (Verb::Ask, 1), "{name}: somebody may have it open");
        let answer = Frame { ticket: asked.ticket, flag: 1, folder: FOLDER, ..Frame::new(Verb::Answer) };
        send(worker.as_fd(), &answer, &[]).unwrap();
        assert_eq!(opener.join().unwrap().unwrap().len(), 9000);
    }
}
