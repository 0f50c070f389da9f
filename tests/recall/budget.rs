//! A folder in a budget that is a part of what it has: written and read at random, with a guard and a daemon.
//!
//! What must be shown: no write ever meets a full disk, nothing is lost or wrong, and the files never take
//! more than the budget. The disk itself is hardly larger.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::content::{Random, noise};
use crate::support::guarded::{Guard, obstacle};
use crate::support::small::Small;
use crate::support::{Sandbox, own_files, say, scale, seed};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 100 * MIB;
/// Bytes a second that are written at first.
const RATE: u64 = 8 * MIB;
const POLICY: &str = "every = \"30s\"\n[water]\nof = \"100MiB\"\nhigh = \"65%\"\nlow = \"40%\"\n\
                      [[rule]]\ndo = \"stash\"\nafter = \"1h\"\nwhen_full = \"1s\"\n";
const CONFIG: &str = "\n[daemon]\nsettle = \"1s\"\n[recall]\nburst = 100000\n";

/// A folder alone on a small disk, looked after.
struct Kept {
    sandbox: Sandbox,
    peak: AtomicU64,
    over: AtomicBool,
}

/// A file, and which version of it must be there.
#[derive(Clone, Copy)]
struct Known {
    number: u64,
    version: u64,
    size: u64,
}

impl Known {
    fn content(&self) -> Vec<u8> {
        noise(self.number << 20 | self.version, 1024).repeat((self.size / 1024) as usize)
    }
}

impl Kept {
    fn write(&self, file: &Known) -> Result<(), String> {
        let ours = own_files();
        let written = std::fs::write(self.path(file.number), file.content());
        drop(ours);
        written.map_err(|e| format!("writing {}: {e}", file.number))
    }

    fn read(&self, file: &Known) -> Result<(), String> {
        let path = self.path(file.number);
        let bytes = std::fs::read(path).map_err(|e| format!("reading {}: {e}", file.number))?;
        if bytes == file.content() { Ok(()) } else { Err(format!("{} has other bytes", file.number)) }
    }

    fn path(&self, number: u64) -> std::path::PathBuf {
        self.sandbox.folder().join(format!("{number:04}"))
    }

    /// Looks how much the files take until everything is over.
    fn watch(&self) {
        while !self.over.load(Ordering::Relaxed) {
            self.peak.fetch_max(taken(&self.sandbox.folder()), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Files one after the other, no faster than the rate.
    fn fill(&self, bytes: u64) -> Result<Vec<Known>, String> {
        let (since, mut made, mut files) = (Instant::now(), 0, Vec::new());
        while made < bytes {
            let number = files.len() as u64;
            let file = Known { number, version: 0, size: (1 + number % 4) * MIB };
            self.write(&file)?;
            files.push(file);
            made += file.size;
            let due = Duration::from_millis(made * 1000 / RATE);
            std::thread::sleep(due.saturating_sub(since.elapsed()));
        }
        Ok(files)
    }

    /// Reads and rewrites its files at random, the first of them most often.
    fn stir(&self, files: &mut [Known], seed: u64, time: Duration) -> Result<(), String> {
        let (mut random, since) = (Random::new(seed), Instant::now());
        while since.elapsed() < time {
            let most = 1 + random.below(files.len() as u64);
            let file = &mut files[random.below(most) as usize];
            match random.below(5) {
                0 => {
                    *file = Known { version: file.version + 1, ..*file };
                    self.write(file)?;
                }
                _ => self.read(file)?,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn run(&self) -> Result<(), String> {
        let mut files = self.fill(200 * MIB * scale() as u64)?;
        let time = Duration::from_secs(6 * scale() as u64);
        let half = files.len() / 2;
        let (first, second) = files.split_at_mut(half);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| self.stir(first, seed(), time));
            self.stir(second, seed() + 1, time)?;
            other.join().map_err(|_| "a thread panicked".to_string())?
        })?;
        files.iter().try_for_each(|file| self.read(file))
    }
}

/// Bytes that the files of a flat folder take on the disk.
fn taken(folder: &Path) -> u64 {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = names.filter_map(|name| name.metadata().ok()).filter(|meta| meta.is_file());
    files.map(|meta| meta.blocks() * 512).sum()
}

fn keep(kind: &'static str) -> Result<u64, String> {
    let told = |e: std::io::Error| e.to_string();
    let temp = tempfile::Builder::new().prefix("ddr-kept-").tempdir().map_err(told)?;
    let small = Small::of(kind, &temp.path().join("small"), 320)?;
    let sandbox = Sandbox::at(small.point());
    sandbox.set_up_on(&temp.path().join("store"))?;
    let own = sandbox.folder().join(".ddr");
    std::fs::write(own.join("budget.toml"), POLICY).map_err(told)?;
    sandbox.ok(&["config", "set", "policy.file", ".ddr/budget.toml"])?;
    let text = std::fs::read_to_string(own.join("config.toml")).map_err(told)?;
    std::fs::write(own.join("config.toml"), text + CONFIG).map_err(told)?;
    let mut guard = Guard::start(&sandbox, &[]);
    let daemon = sandbox.start(&["daemon"], None);
    let kept = Kept { sandbox, peak: AtomicU64::new(0), over: AtomicBool::new(false) };
    let result = std::thread::scope(|scope| {
        scope.spawn(|| kept.watch());
        let result = kept.run();
        kept.over.store(true, Ordering::Relaxed);
        result
    });
    let log = std::fs::read_to_string(kept.sandbox.home().join("state/ddr/log/daemon.log"));
    let stopped = kept.sandbox.ok(&["daemon", "stop"]);
    daemon.wait();
    let said = guard.stop();
    result.map_err(|why| format!("{why}\n{said:?}\n{}", log.unwrap_or_default()))?;
    stopped?;
    kept.sandbox.ok(&["commit"])?;
    kept.sandbox.ok(&["fsck"])?;
    Ok(kept.peak.load(Ordering::Relaxed))
}

#[test]
fn a_budget_is_kept_while_its_files_are_written_and_read() {
    for kind in ["ext4", "xfs"] {
        if let Some(why) = obstacle(&[kind]) {
            say(&format!("budget on {kind} skipped: {why}"));
            continue;
        }
        let peak = keep(kind).unwrap_or_else(|why| panic!("{kind}: {why}"));
        say(&format!("budget on {kind}: at most {} % of it was taken", peak * 100 / BUDGET));
        assert!(peak <= BUDGET, "{kind}: {} MiB were taken", peak / MIB);
    }
}
