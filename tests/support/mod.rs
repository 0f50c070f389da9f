//! The real ddr in a sandbox: its own home, a folder, a store, and ways to run and stop it.
//!
//! Promises that nothing outside the sandbox is read or written, and that a hanging command fails
//! the test. Knows commands and exit codes, nothing of formats.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod content;
pub mod guarded;
pub mod mount;
pub mod peers;
pub mod proxy;
pub mod shell;
pub mod small;
pub mod sshd;
pub mod steps;
pub mod tree;

/// No command of a drill takes nearly this long (times the scale, up to ten); one that does hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// The program under test; `DDR_DRILL_BIN` names another build of it.
pub fn program() -> PathBuf {
    std::env::var_os("DDR_DRILL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_ddr").into(), PathBuf::from)
}

/// How many times as long as in CI the drills run: `DDR_DRILL`, 1 unless set.
pub fn scale() -> usize {
    std::env::var("DDR_DRILL").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Where random choices start: `DDR_DRILL_SEED`, 1 unless set.
pub fn seed() -> u64 {
    std::env::var("DDR_DRILL_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Says something past the test harness, which swallows what passing tests print.
pub fn say(text: &str) {
    // The test's result does not depend on whether anybody reads this.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What a command answered.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// An error unless the exit code is one of these.
    pub fn expect(self, codes: &[i32]) -> Result<Self, String> {
        if self.code.is_some_and(|c| codes.contains(&c)) {
            return Ok(self);
        }
        let Self { line, code, stdout, stderr } = self;
        Err(format!(
            "`{line}` ended with {code:?}, not one of {codes:?}\n--- stdout\n{stdout}--- stderr\n{stderr}"
        ))
    }

    /// The lines in which a command says what it mended after a crash.
    pub fn mended(&self) -> Vec<&str> {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        lines.filter(|l| l.to_lowercase().contains("mended")).collect()
    }
}

/// A machine of its own: home, folder and store below one directory.
pub struct Sandbox {
    root: PathBuf,
    machine: String,
    // Removes the directory when the sandbox goes.
    _temp: Option<tempfile::TempDir>,
}

impl Sandbox {
    /// In a new temporary directory.
    pub fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("ddr-drill-").tempdir().expect("a temporary directory");
        let sandbox = Self { root: temp.path().into(), machine: "one".into(), _temp: Some(temp) };
        sandbox.make_directories();
        sandbox
    }

    /// Below a directory that somebody else looks after, such as a mount point.
    pub fn at(root: &Path) -> Self {
        let sandbox = Self { root: root.into(), machine: "one".into(), _temp: None };
        sandbox.make_directories();
        sandbox
    }

    /// Another machine that can reach the same store.
    pub fn other_machine(&self, name: &str) -> Self {
        let sandbox = Self { root: self.root.clone(), machine: name.into(), _temp: None };
        sandbox.make_directories();
        sandbox
    }

    fn make_directories(&self) {
        for dir in [self.home(), self.folder()] {
            std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        }
    }

    /// The directory of all machines and stores.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the machine keeps what is nobody's file.
    pub fn home(&self) -> PathBuf {
        self.root.join(&self.machine).join("home")
    }

    /// The folder's tree.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.machine).join("folder")
    }

    /// Where a guard of this machine listens.
    pub fn guard_socket(&self) -> PathBuf {
        self.root.join(&self.machine).join("guard.sock")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The command, in the folder and in nobody's home but its own.
    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(program());
        command.args(args);
        self.settle(&mut command);
        command
    }

    /// Puts any command into the folder, and into nobody's home but its own.
    pub fn settle(&self, command: &mut Command) {
        let kept = std::env::vars_os().filter(|(k, _)| k == "PATH" || k == "TMPDIR");
        command.current_dir(self.folder()).env_clear().envs(kept);
        command.env("HOME", self.home()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("NO_COLOR", "1");
        for (name, dir) in [("CACHE", "cache"), ("STATE", "state"), ("CONFIG", "config"), ("DATA", "data")] {
            command.env(format!("XDG_{name}_HOME"), self.home().join(dir));
        }
        command.env("DDR_GUARD_SOCKET", self.guard_socket());
        // Where a server of `sshd` belongs to this sandbox.
        let ssh = self.root.join("ssh/config");
        if ssh.exists() {
            command.env("DDR_SSH_CONFIG", ssh);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Starts ddr; `fault` is the value of `DDR_FAULT`.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S], fault: Option<&str>) -> Running {
        let mut command = self.command(args);
        command.envs(fault.map(|f| ("DDR_FAULT", f)));
        let words = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>();
        Running::spawn(command, format!("ddr {}", words.join(" ")))
    }

    /// Runs ddr to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.start(args, None).wait()
    }

    /// Runs ddr; an error if it does not exit 0.
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output, String> {
        self.run(args).expect(&[0])
    }

    /// Makes the folder and its store.
    pub fn set_up(&self) -> Result<(), String> {
        self.set_up_on(&self.store())
    }

    /// Makes the folder, and its store elsewhere.
    pub fn set_up_on(&self, store: &Path) -> Result<(), String> {
        self.ok(&["init", "."])?;
        let store = store.as_os_str().to_owned();
        let add = ["remote", "add", "disk2"].map(OsString::from);
        let flags = ["--init", "--same-disk"].map(OsString::from);
        self.ok(&[&add[..], &[store], &flags].concat()).map(drop)
    }

    /// Clones the store to a new machine that has nothing else, and fills the clone.
    pub fn clone_and_fill(&self, name: &str) -> Result<Self, String> {
        self.clone_from(&self.store(), name)
    }

    /// The same from a store elsewhere.
    pub fn clone_from(&self, store: &Path, name: &str) -> Result<Self, String> {
        let other = self.other_machine(name);
        other.ok(&["clone".into(), store.as_os_str().to_owned(), other.folder().into_os_string()])?;
        other.ok(&["checkout", "."])?;
        Ok(other)
    }

    /// Removes what another machine had.
    pub fn remove_machine(&self, other: &Self) {
        assert_ne!(self.machine, other.machine, "a machine does not remove itself");
        // Left-overs only cost room in a directory that goes away at the end.
        let _ = std::fs::remove_dir_all(other.root.join(&other.machine));
    }

    /// Removes every SQLite file of this machine; they are found by their first bytes.
    pub fn remove_databases(&self) -> Result<usize, String> {
        let (mut todo, mut removed) = (vec![self.root.join(&self.machine)], 0);
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).map_err(|e| e.to_string())?.flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    todo.push(path);
                } else if is_database(&path) {
                    for suffix in ["", "-wal", "-shm"] {
                        let mut name = path.clone().into_os_string();
                        name.push(suffix);
                        // Not every database has a log beside it.
                        removed += usize::from(std::fs::remove_file(name).is_ok());
                    }
                }
            }
        }
        Ok(removed)
    }

    /// Whether `ddr COMMAND --help` names an option.
    pub fn knows_option(&self, command: &str, option: &str) -> bool {
        self.run(&[command, "--help"]).stdout.contains(option)
    }

    /// The words that collect garbage now instead of after days of grace.
    pub fn gc_words(&self) -> &'static [&'static str] {
        if self.knows_option("gc", "--grace") { &["gc", "--grace", "0s"] } else { &["gc"] }
    }
}

fn is_database(path: &Path) -> bool {
    let mut head = [0u8; 15];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head)).is_ok() && &head == b"SQLite format 3"
}

/// Held while this process starts another one, or has a user's file open for writing: a child holds
/// copies of all descriptors until it has become its program, and a ddr that another test runs would
/// find the file in use.
pub fn own_files() -> MutexGuard<'static, ()> {
    static GUARD: Mutex<()> = Mutex::new(());
    GUARD.lock().unwrap_or_else(|e| e.into_inner())
}

/// A pipe read to its end in the background, so that no command waits for its reader.
type Pipe = Option<JoinHandle<Vec<u8>>>;

fn drain(mut pipe: impl Read + Send + 'static) -> Pipe {
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error still counts as said.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

fn text(pipe: &mut Pipe) -> String {
    let bytes = pipe.take().map(|thread| thread.join().expect("a reading thread does not panic"));
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// A ddr that is at work; killed when this goes.
pub struct Running {
    child: Child,
    line: String,
    out: Pipe,
    err: Pipe,
    since: Instant,
}

impl Running {
    /// Starts a command whose outputs are piped.
    pub fn spawn(mut command: Command, line: String) -> Self {
        let guard = own_files();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("`{line}`: {e}"));
        drop(guard);
        let out = drain(child.stdout.take().expect("stdout is piped"));
        let err = drain(child.stderr.take().expect("stderr is piped"));
        Self { child, line, out, err, since: Instant::now() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_some()
    }

    /// Waits until it ends or the time is over.
    pub fn wait_at_most(&mut self, time: Duration) {
        let mut last = Instant::now();
        let mut until = last + time;
        while !self.ended() && last < until {
            std::thread::sleep(Duration::from_micros(200));
            let now = Instant::now();
            if now - last > Duration::from_secs(1) {
                // The drill itself did not run: somebody paused it, and what it started with it.
                until += now - last;
            }
            last = now;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // It may have ended just now.
        let _ = self.child.kill();
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits for its end; a hanging command fails the test.
    pub fn wait(mut self) -> Output {
        let limit = LIMIT * scale().min(10) as u32;
        self.wait_at_most(limit);
        let hangs = !self.ended();
        self.kill();
        let status = self.child.wait().expect("own child");
        let (stdout, stderr) = (text(&mut self.out), text(&mut self.err));
        assert!(!hangs, "`{}` still runs after {limit:?}\n{stdout}{stderr}", self.line);
        let code = status.signal().is_none().then(|| status.code()).flatten();
        Output { line: self.line.clone(), code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // Reaped, so that nothing of it holds a mount.
        let _ = self.child.wait();
    }
}
