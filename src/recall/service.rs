//! The guard as a process: its socket, its workers, its end.
//!
//! Promises one worker per folder, run as the folder's owner and started again when it dies; an event
//! group that the service manager keeps over a restart, where there is one; and that an end is
//! announced with how much it leaves unguarded. Decides nothing about openers.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
    socketpair, sockopt,
};

use super::fanotify::{Event, Group};
use super::guard::{Guard, Options, Peer};
use super::handover;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::local::guard::kept_beside;

/// A folder to look after, and as whom.
#[derive(Clone, Debug)]
pub struct Charge {
    root: PathBuf,
    user: u32,
    group: u32,
    found: Found,
}

/// How a folder was found when the guard began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Good,
    /// Something is there that is refused now. An earlier guard may have taken it, and guarded its stubs.
    Refused,
    /// Nothing is there: its disk may come, with no mark on any file.
    Missing,
}

impl Charge {
    /// The folder with its root here.
    pub fn new(root: PathBuf) -> Result<Self> {
        let root = root.canonicalize().map_err(|e| Error::io("finding", &root, e))?;
        let look =
            |path: PathBuf| std::fs::symlink_metadata(&path).map_err(|e| Error::io("inspecting", path, e));
        let (meta, above) = (look(root.join(".ddr"))?, look(root.clone())?);
        let file = look(root.join(".ddr/folder.toml"))?;
        // Its worker runs as that user, on what lies there.
        if !meta.is_dir() || !file.is_file() || meta.uid() != above.uid() || meta.uid() != file.uid() {
            return Err(Error::Refused(format!("{} and its .ddr are not of one user", root.display())));
        }
        Ok(Self { root, user: meta.uid(), group: meta.gid(), found: Found::Good })
    }

    /// A folder that is to come here, or to be mended.
    pub fn awaited(root: PathBuf) -> Self {
        let none = std::fs::symlink_metadata(root.join(".ddr"))
            .is_err_and(|e| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory));
        let found = if none { Found::Missing } else { Found::Refused };
        Self { root, user: u32::MAX, group: u32::MAX, found }
    }

    /// Starts its worker, with the guard on standard input.
    fn start(&self, socket: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(OURSELVES);
        command.arg0("ddr").arg("worker").arg(&self.root).stdin(Stdio::from(socket)).current_dir(&self.root);
        command.env_remove("NOTIFY_SOCKET");
        if self.user != rustix::process::geteuid().as_raw() {
            command.uid(self.user).gid(self.group);
            let kept = ["PATH", "LANG", "LC_ALL", "DDR_GUARD_SOCKET", "DDR_FAULT"];
            let kept = kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
            command.env_clear().envs(kept.collect::<Vec<_>>());
            if let Some(home) = home_of(self.user) {
                command.env("HOME", home);
            }
        }
        let child = command.spawn()?;
        // A guard that is not to be killed for memory starts workers that are.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
        Ok(child)
    }
}

/// This very program: an update may have put another where it lay, or nothing yet.
pub(super) const OURSELVES: &str = "/proc/self/exe";

/// How long workers may finish what they have in hand when the guard ends.
const PARTING: Duration = Duration::from_secs(5);

/// How long those who are to start after the guard wait for folders to be looked through.
const BEGINNING: Duration = Duration::from_secs(10);

/// A user's home directory.
fn home_of(user: u32) -> Option<PathBuf> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&user.to_string()))?;
    line.split(':').nth(5).map(PathBuf::from)
}

/// Guards folders until a stop is asked for.
pub fn run(mut charges: Vec<Charge>, options: Options, cancel: &Cancel) -> Result<()> {
    charges.sort_by(|a, b| a.root.cmp(&b.root));
    charges.dedup_by(|a, b| a.root == b.root);
    let found = handover::take()?;
    let adopted = found.group.is_some();
    let group = group(found.group, &found.openers, options.accesses)?;
    let listener = listener(&options.socket)?;
    let places = charges.iter().map(|charge| charge.root.clone()).collect();
    let those = |fits: &dyn Fn(Found) -> bool| -> BTreeSet<usize> {
        (0..).zip(&charges).filter(|(_, charge)| fits(charge.found)).map(|(place, _)| place).collect()
    };
    let good = those(&|found| found == Found::Good);
    let awaited = those(&|found| adopted && found != Found::Missing);
    let guard = Arc::new(Guard::new(group, options.clone(), places, awaited));
    handover::leave_group(guard.group());
    found.openers.into_iter().for_each(|event| guard.opened(event));
    // A thread whose work never ends is a thread that ends with the process.
    spawn(&guard, |guard| watch(guard, false));
    spawn(&guard, |guard| guard.sweep());
    spawn(&guard, move |guard| accept(guard, &listener));
    for (place, charge) in charges.into_iter().enumerate() {
        spawn(&guard, move |guard| supervise(guard, &charge, place));
    }
    let (mut stuck, mut ready, since) = (None, false, Instant::now());
    while !cancel.is_cancelled() {
        // Whoever is to come after us comes when stubs are guarded; but no folder that cannot be keeps him for ever.
        if !ready && (guard.has_served(&good) || since.elapsed() > BEGINNING) {
            ready = sd_notify::notify(&[sd_notify::NotifyState::Ready]).is_ok();
        }
        std::thread::sleep(Duration::from_millis(100));
        let (now, helpers) = guard.is_stuck(stuck);
        stuck = now;
        (0..helpers).for_each(|_| spawn(&guard, |guard| watch(guard, true)));
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // The service manager keeps the group: a restart begins like any stop, and it alone knows which of both this is.
    if handover::is_managed() {
        guard.part(PARTING);
    }
    let left = guard.close();
    guard.dismiss(PARTING);
    guard.stop_reading(PARTING);
    if !handover::keeps(&options.socket) {
        let _ = std::fs::remove_file(&options.socket);
    }
    if left > 0 {
        eprintln!("ddr guard: stopped; {left} stubs are unguarded until it runs again");
    }
    Ok(())
}

fn watch(guard: &Guard, helps: bool) {
    if let Err(e) = guard.watch(helps) {
        // Going on would leave every opener waiting for ever.
        eprintln!("ddr guard: {e}");
        std::process::exit(1);
    }
}

fn spawn(guard: &Arc<Guard>, run: impl FnOnce(&Arc<Guard>) + Send + 'static) {
    let guard = Arc::clone(guard);
    // Without a thread the connection just ends.
    drop(std::thread::Builder::new().spawn(move || run(&guard)));
}

/// The group that the service manager kept for us, or a new one.
fn group(kept: Option<OwnedFd>, openers: &[Event], accesses: bool) -> Result<Group> {
    if let Some(fd) = kept {
        let adopted = Group::adopt(fd, accesses, openers);
        return adopted.map_err(|e| Error::io("taking over", "an event group", e));
    }
    Group::new(accesses).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => Error::Refused(
            "the kernel lets only root guard files, and containers only with CAP_SYS_ADMIN and fanotify_init; run: sudo ddr guard DIR, or: sudo ddr service install --system DIR".into(),
        ),
        Some(libc::EINVAL | libc::ENOSYS) => Error::Unsupported(
            "this kernel has no permission events (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)".into(),
        ),
        _ => Error::io("making", "an event group", e),
    })
}

fn listener(path: &Path) -> Result<OwnedFd> {
    let fail = |e: rustix::io::Errno| Error::io("listening at", path, e);
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        // Whatever the service's mask: every user's worker connects here.
        rustix::fs::chmod(dir, rustix::fs::Mode::from_raw_mode(0o755)).map_err(fail)?;
    }
    let flags = SocketFlags::CLOEXEC;
    let open = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(fail);
    let address = SocketAddrUnix::new(path).map_err(fail)?;
    if rustix::net::connect(&open()?, &address).is_ok() {
        return Err(Error::Locked(format!("another guard, at {}", path.display())));
    }
    // What a killed guard left.
    let _ = std::fs::remove_file(path);
    let kept = kept_beside(path);
    let _ = match handover::keeps(path) {
        true => std::fs::write(&kept, ""),
        false => std::fs::remove_file(&kept),
    };
    let socket = open()?;
    bind(&socket, &address).map_err(fail)?;
    // Everybody may ask; what about is decided by whose files they are.
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::chmod(path, mode).map_err(fail)?;
    listen(&socket, 64).map_err(fail)?;
    Ok(socket)
}

fn accept(guard: &Arc<Guard>, listener: &OwnedFd) {
    loop {
        let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let Ok(who) = sockopt::socket_peercred(&socket) else { continue };
        let peer = Peer { user: who.uid.as_raw(), process: who.pid.as_raw_nonzero().get(), worker: None };
        let socket = Arc::new(socket);
        spawn(guard, move |guard| guard.serve(&socket, peer));
    }
}

/// Keeps a folder's worker alive.
fn supervise(guard: &Arc<Guard>, charge: &Charge, place: usize) {
    const PAUSES: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_secs(5);
    let (mut pause, mut said) = (PAUSES.start, String::new());
    while !guard.is_closed() {
        let begun = Instant::now();
        // Its disk may have gone since, or come.
        let now = Charge::new(charge.root.clone()).map_err(|e| e.to_string());
        guard.note(place, now.is_ok());
        let done = now.and_then(|now| serve_once(guard, &now, place).map_err(|e| e.to_string()));
        let why = done.err().unwrap_or_default();
        if !why.is_empty() && why != said {
            eprintln!("ddr guard: the worker of {} did not start: {why}", charge.root.display());
        }
        said = why;
        pause = if begun.elapsed() > PAUSES.end { PAUSES.start } else { (pause * 2).min(PAUSES.end) };
        std::thread::sleep(pause);
    }
}

fn serve_once(guard: &Arc<Guard>, charge: &Charge, place: usize) -> io::Result<()> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut child = charge.start(theirs)?;
    let peer = Peer { user: charge.user, process: child.id() as i32, worker: Some(place) };
    guard.serve(&Arc::new(ours), peer);
    child.wait().map(|_| ())
}
