//! The real daemon in a sandbox: what it does without being asked, beside commands, and across stops.
//!
//! Promises that every test ends its own daemon, and that what the daemon should do is waited for, not
//! slept for.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::content::noise;
use crate::support::shell::Shell;
use crate::support::{Output, Running};

mod manners;
mod policy;
mod service;
mod stores;
mod watching;

/// What the daemon does within seconds where nothing is in its way, on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

/// A running daemon.
struct Daemon<'s> {
    shell: &'s Shell,
    running: Running,
}

impl<'s> Daemon<'s> {
    /// Starts one that settles after a second, and waits until it has looked at the folder.
    fn start(shell: &'s Shell) -> Self {
        let mut daemon = Self::beginning(shell);
        daemon.until("it has looked at the folder", |d| {
            let state = d.state();
            // The first look is over when something else comes next.
            state["next"].is_string() && state["doing"].is_null()
        });
        daemon
    }

    /// Starts one.
    fn beginning(shell: &'s Shell) -> Self {
        shell.ok("ddr config set daemon.settle 1s");
        Self { shell, running: shell.sandbox.start(&["daemon"], None) }
    }

    /// How the folder stands; null while the daemon does not answer.
    fn state(&self) -> Value {
        let said = self.shell.run("ddr daemon status --json");
        let lines = said.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let root = self.shell.sandbox.folder().canonicalize().unwrap();
        let mut folders = lines.filter(|value| value["type"] == "served");
        folders.find(|value| value["path"] == *root.to_string_lossy()).unwrap_or(Value::Null)
    }

    /// Waits for something; fails the test if it does not come.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            assert!(!self.running.ended(), "the daemon ended before {what}\n{}", self.log());
            assert!(since.elapsed() < SOON, "never: {what}\n{}\n{}", self.state(), self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        log(self.shell)
    }

    /// Waits until nothing differs from what is recorded.
    fn until_committed(&mut self) {
        self.until("everything is committed", |d| changes(d.shell).is_empty());
    }

    /// A signal, and what it said in the end.
    fn end(mut self, signal: rustix::process::Signal) -> Output {
        let pid = rustix::process::Pid::from_raw(self.running.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        self.running.wait_at_most(SOON);
        self.running.wait()
    }
}

fn log(shell: &Shell) -> String {
    std::fs::read_to_string(shell.sandbox.home().join("state/ddr/log/daemon.log")).unwrap_or_default()
}

/// Lines of `ddr status` that name changed paths.
fn changes(shell: &Shell) -> Vec<String> {
    let said = shell.run("ddr status --json").stdout;
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|v| v["type"] == "change").map(|v| v["path"].to_string()).collect()
}

/// Whether a file is a stub.
fn is_stub(shell: &Shell, path: &str) -> bool {
    shell.ok(&format!("ddr ls -l {path}")).contains("stub")
}

/// A new machine made of the store has these bytes.
fn assert_in_store(shell: &Shell, machine: &str, path: &str, bytes: &[u8]) {
    let clone = shell.sandbox.clone_and_fill(machine).unwrap();
    assert_eq!(std::fs::read(clone.folder().join(path)).unwrap(), bytes, "{path}");
    shell.sandbox.remove_machine(&clone);
}

/// The used share of the file system a path lies on.
fn used_percent(path: &Path) -> u64 {
    let fs = rustix::fs::statvfs(path).unwrap();
    let used = fs.f_blocks - fs.f_bfree;
    used * 100 / (used + fs.f_bavail)
}

/// A shell with a folder and one store.
fn with_store() -> Shell {
    let shell = Shell::new();
    shell.write("first.bin", &noise(1, 50_000));
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    shell
}
