//! A folder on a file system of its own whose stubs are guarded by a real `ddr guard`.
//!
//! Promises that the guard and its workers are ended by their ids before the file system goes, so that
//! nobody is left waiting in an open. Finds out whether this machine allows any of that, and says why
//! not.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mount::{self, Mounted};
use super::{Sandbox, own_files, program};

/// A guard that takes longer to be ready hangs.
const START: Duration = Duration::from_secs(30);

/// Why stubs cannot be guarded on such file systems here, if so.
pub fn obstacle(kinds: &[&str]) -> Option<String> {
    mount::obstacle(kinds).or_else(|| {
        // SAFETY: no pointers; a descriptor that was made is closed again.
        let fd = unsafe { libc::fanotify_init(libc::FAN_CLASS_PRE_CONTENT | libc::FAN_CLOEXEC, 0) };
        if fd >= 0 {
            // SAFETY: ours alone.
            unsafe { libc::close(fd) };
            return None;
        }
        Some(format!("the kernel refuses an event group: {}", std::io::Error::last_os_error()))
    })
}

/// A guard at work; told to stop when this goes.
pub struct Guard {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts one for the sandbox's folder and waits until it has guarded what it found.
    pub fn start(sandbox: &Sandbox, flags: &[&str]) -> Self {
        let mut command = Command::new(program());
        sandbox.settle(&mut command);
        command.arg("guard").args(flags).arg(sandbox.folder());
        let guard = Self::spawn(command);
        guard.wait_for(" guarded (");
        guard
    }

    /// Starts one from a command that is settled in a sandbox.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null());
        let ours = own_files();
        let mut child = command.spawn().expect("ddr guard starts");
        drop(ours);
        let stderr = child.stderr.take().expect("stderr is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().expect("no panic under it").push(line);
            }
        });
        Self { child, said, reader: Some(reader) }
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it and its workers have said so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("no panic under it").clone()
    }

    /// Waits until a line with this text was said; a guard that does not say it fails the test.
    pub fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.said().iter().any(|line| line.contains(text)) {
            assert!(start.elapsed() < START, "the guard did not say {text:?}: {:?}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its workers that live.
    pub fn workers(&self) -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        ids.filter(|id| parent(*id) == Some(self.id())).collect()
    }

    /// Kills its workers outright; how many there were.
    pub fn kill_workers(&self) -> usize {
        self.workers().into_iter().filter(|id| kill(*id, libc::SIGKILL)).count()
    }

    /// Freezes its workers, or lets them go on.
    pub fn freeze(&self, yes: bool) {
        for id in self.workers() {
            kill(id, if yes { libc::SIGSTOP } else { libc::SIGCONT });
        }
    }

    /// How many files it has marked in the kernel.
    pub fn marks(&self) -> usize {
        self.marked().len()
    }

    /// The inode numbers of the files it has marked in the kernel.
    pub fn marked(&self) -> Vec<u64> {
        let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", self.id())).into_iter().flatten().flatten();
        let text: String = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok()).collect();
        let marks = text.lines().filter_map(|line| line.strip_prefix("fanotify ino:")?.split(' ').next());
        marks.filter_map(|number| u64::from_str_radix(number, 16).ok()).collect()
    }

    /// Kills it outright. Its workers end by themselves.
    pub fn kill(&mut self) {
        let workers = self.workers();
        // It may have ended by itself.
        let _ = self.child.kill();
        self.end(&workers);
    }

    /// Tells it to stop, and waits for that; all that was said.
    pub fn stop(&mut self) -> Vec<String> {
        let workers = self.workers();
        kill(self.id(), libc::SIGTERM);
        let start = Instant::now();
        while self.child.try_wait().expect("own child").is_none() && start.elapsed() < START {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        self.end(&workers);
        self.said()
    }

    fn end(&mut self, workers: &[i32]) {
        let _ = self.child.wait();
        // One that was frozen notices now.
        workers.iter().for_each(|id| {
            kill(*id, libc::SIGCONT);
        });
        let start = Instant::now();
        let lives = |id: &i32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok();
        while workers.iter().any(lives) {
            if start.elapsed() > START {
                for id in workers {
                    kill(*id, libc::SIGKILL);
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reading thread does not panic");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.stop();
        }
    }
}

/// Sends a signal; whether there was somebody.
pub fn kill(id: i32, signal: i32) -> bool {
    // SAFETY: plain integers.
    unsafe { libc::kill(id, signal) == 0 }
}

fn parent(id: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, brackets too; a zombie is no worker any more.
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    (words.next()? != "Z").then(|| words.next()?.parse().ok()).flatten()
}

/// A sandbox on a file system of its own, with a folder, a store and a guard.
pub struct Guarded {
    // Fields are dropped in this order.
    /// The guard; `None` while there is none.
    pub guard: Option<Guard>,
    /// Home, folder and store.
    pub sandbox: Sandbox,
    /// Another file system than the folder's.
    pub far: PathBuf,
    _mounted: Mounted,
    temp: tempfile::TempDir,
}

impl Guarded {
    /// Makes everything but the guard.
    pub fn unguarded(kind: &str, size: u64) -> Result<Self, String> {
        let temp = tempfile::Builder::new().prefix("ddr-guard-").tempdir().map_err(|e| e.to_string())?;
        let (image, point, far) = (temp.path().join("img"), temp.path().join("m"), temp.path().join("far"));
        for dir in [&point, &far] {
            std::fs::create_dir(dir).map_err(|e| e.to_string())?;
        }
        mount::make(kind, &image, size)?;
        let mounted = Mounted::new(&image, &point, kind, None)?;
        let sandbox = Sandbox::at(&point);
        sandbox.set_up()?;
        Ok(Self { guard: None, sandbox, far, _mounted: mounted, temp })
    }

    /// Makes it with a guard.
    pub fn new(kind: &str, flags: &[&str]) -> Result<Self, String> {
        let mut guarded = Self::unguarded(kind, 2 << 30)?;
        guarded.start(flags);
        Ok(guarded)
    }

    /// Starts the guard.
    pub fn start(&mut self, flags: &[&str]) {
        self.guard = None;
        self.guard = Some(Guard::start(&self.sandbox, flags));
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        self.guard.as_ref().expect("a guard was started")
    }

    /// A path in the folder.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.sandbox.folder().join(path)
    }

    /// A directory on the folder's file system that is not in the folder.
    pub fn beside(&self) -> PathBuf {
        let dir = self.sandbox.root().join("beside");
        std::fs::create_dir_all(&dir).expect("sandbox directory");
        dir
    }

    /// Where things that are no part of either file system lie.
    pub fn outside(&self) -> &Path {
        self.temp.path()
    }

    /// Writes a file of the folder.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let full = self.at(path);
        std::fs::create_dir_all(full.parent().expect("a path in the folder")).expect("sandbox directory");
        let ours = own_files();
        std::fs::write(&full, bytes).expect("sandbox file");
        drop(ours);
    }

    /// Stashes everything and makes sure of it.
    pub fn stash(&self) {
        self.sandbox.ok(&["stash", "."]).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Adds lines to the folder's configuration; a guard that is started later goes by them.
    pub fn configure(&self, lines: &str) {
        let path = self.at(".ddr/config.toml");
        let text = std::fs::read_to_string(&path).expect("a configuration");
        std::fs::write(path, format!("{text}\n{lines}\n")).expect("a configuration");
    }

    /// Takes the store away.
    pub fn store_away(&self) {
        std::fs::rename(self.sandbox.store(), self.sandbox.root().join("away"))
            .expect("a store to take away");
    }

    /// Puts it back.
    pub fn store_back(&self) {
        std::fs::rename(self.sandbox.root().join("away"), self.sandbox.store()).expect("a store to put back");
    }
}

/// Waits until something holds; a test that waits too long fails.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < START, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a file is marked as being filled.
pub fn is_filling(path: &Path) -> bool {
    state(path) == Some(2)
}

/// Whether a file is being filled, or is not known to be durable since.
pub fn is_unsettled(path: &Path) -> bool {
    matches!(state(path), Some(2 | 3))
}

fn state(path: &Path) -> Option<u8> {
    let mut mark = [0u8; 256];
    rustix::fs::getxattr(path, c"user.ddr", &mut mark).ok().filter(|len| *len > 1).map(|_| mark[1])
}

/// Whether a file takes no more room than a stub, and would therefore be one.
pub fn is_stub(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.size() > 4096 && meta.blocks() * 512 <= 16 << 10)
}
