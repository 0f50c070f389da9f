//! The power goes while files are recalled on open.
//!
//! Promises that after each cut the next command, or the next guard, leaves every file either a right stub
//! or full of the right bytes, with its size and time; how snapshots are taken is told in `powercut`.
//! `DDR_DRILL=50` makes 300 cuts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::trouble::same;
use crate::powercut::Noise;
use crate::support::content::{Random, noise};
use crate::support::guarded::{Guard, is_stub, is_unsettled, obstacle};
use crate::support::mount::Rig;
use crate::support::{Sandbox, own_files, say, scale, seed};

/// Cuts per file system; times `DDR_DRILL`.
const CUTS: usize = 2;
const FILES: u64 = 30;

/// A file, what it holds, and its time.
struct File {
    name: String,
    content: Vec<u8>,
    mtime: (i64, i64),
}

struct Drill {
    sandbox: Sandbox,
    files: Vec<File>,
    random: Random,
    /// Files that were half filled when the power went.
    half: usize,
    rig: Rig,
}

fn time_of(path: &Path) -> Result<(i64, i64), String> {
    std::fs::metadata(path).map(|meta| (meta.mtime(), meta.mtime_nsec())).map_err(|e| e.to_string())
}

impl Drill {
    fn new(kind: &str) -> Result<Self, String> {
        let rig = Rig::new(kind)?;
        let sandbox = Sandbox::at(&rig.point());
        sandbox.set_up()?;
        let make = |i: u64| {
            let (name, content) = (i.to_string(), noise(i, 17_000 + i * i * 5_003));
            let path = sandbox.folder().join(&name);
            let ours = own_files();
            std::fs::write(&path, &content).map_err(|e| e.to_string())?;
            drop(ours);
            Ok(File { name, content, mtime: time_of(&path)? })
        };
        let files = (0..FILES).map(make).collect::<Result<_, String>>()?;
        Ok(Self { sandbox, files, random: Random::new(seed()), half: 0, rig })
    }

    /// Recalls everything, and cuts the power somewhere in the middle.
    fn cut(&mut self, number: usize) -> Result<(), String> {
        let mut guard = Guard::start(&self.sandbox, &[]);
        // What the last cut's life left may still be on its way.
        self.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        self.rig.inner.as_ref().ok_or("not mounted")?.sync()?;
        let other = Noise::start(self.rig.point().join("noise"), Random::new(self.random.next()));
        let mut order: Vec<&File> = self.files.iter().collect();
        order.rotate_left(self.random.below(FILES) as usize);
        let (next, pause) = (Mutex::new(order), Duration::from_millis(self.random.below(500)));
        let image = std::thread::scope(|scope| {
            let read = || -> Result<(), String> {
                loop {
                    let Some(file) = next.lock().unwrap().pop() else { return Ok(()) };
                    let seen = std::fs::read(self.sandbox.folder().join(&file.name));
                    let seen = seen.map_err(|e| format!("{}: {e}", file.name))?;
                    same(&seen, &file.content).map_err(|e| format!("{}: {e}", file.name))?;
                }
            };
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
            std::thread::sleep(pause);
            let image = self.rig.cut(number);
            readers.into_iter().try_for_each(|reader| reader.join().unwrap())?;
            image
        })?;
        drop(other);
        guard.stop();
        let Self { sandbox, files, half, rig, .. } = self;
        rig.with_cut(&image, || {
            *half += files.iter().filter(|file| is_unsettled(&sandbox.folder().join(&file.name))).count();
            after(sandbox, files, number.is_multiple_of(2))
        })
    }
}

/// The account after a cut, on the mounted snapshot: by a command, or by a guard alone.
fn after(sandbox: &Sandbox, files: &[File], command: bool) -> Result<(), String> {
    let at = |file: &File| sandbox.folder().join(&file.name);
    if command {
        let said = sandbox.run(&["status"]).expect(&[0, 3])?;
        for file in files {
            let seen = std::fs::read(at(file)).map_err(|e| format!("{}: {e}", file.name))?;
            let stub = is_stub(&at(file)) && seen.starts_with(b"This is a ddr stub");
            if !stub || seen.len() != file.content.len() {
                same(&seen, &file.content)
                    .map_err(|e| format!("{}: {e}; `ddr status` had said {said:?}", file.name))?;
            }
        }
    }
    let mut guard = Guard::start(sandbox, &[]);
    for file in files {
        let seen = std::fs::read(at(file)).map_err(|e| format!("{}: {e}; {:?}", file.name, guard.said()))?;
        same(&seen, &file.content).map_err(|e| format!("{}: {e}; {:?}", file.name, guard.said()))?;
        let mtime = time_of(&at(file))?;
        if mtime != file.mtime {
            return Err(format!("{} is of {mtime:?} instead of {:?}", file.name, file.mtime));
        }
    }
    guard.stop();
    sandbox.ok(&["fsck", "--read-data"]).map(drop)
}

#[test]
fn i6_power_cuts_while_files_are_recalled_lose_nothing() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some(why) = obstacle(&["xfs", kind]) {
            say(&format!("power cuts under recalls were passed over on {kind}: {why}"));
            continue;
        }
        let cuts = CUTS * scale();
        let mut drill = Drill::new(kind).unwrap_or_else(|why| panic!("setting up on {kind}: {why}"));
        for number in 0..cuts {
            drill.cut(number).unwrap_or_else(|why| panic!("cut {number} on {kind}, seed {}: {why}", seed()));
        }
        let half = drill.half;
        say(&format!(
            "power cuts under recalls on {kind}: {cuts}, with {half} files half filled, nothing lost"
        ));
    }
}
