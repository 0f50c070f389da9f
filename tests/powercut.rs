//! Power-cut drill: what is left of folder and store if the power goes at a random moment.
//!
//! Folder, store and home lie in an inner file system (ext4, xfs, btrfs) on a loop device. Its
//! image file lies on an outer xfs that can share blocks between files. While ddr works, the image
//! is copied with `cp --reflink=always`: the clone holds the image's lock, so it is the image at
//! one moment, with every write the loop device had completed by then and none after; and since
//! the loop device is not in direct mode, its completed writes are in the image's page cache, which
//! the clone flushes first. What the inner file system still holds in its own page cache is not in
//! the copy: exactly what a power cut loses. The inner file system is never synced for the
//! snapshot; only the drill's own edits are, before ddr starts, so that the user's bytes are known.
//! Mounting the copy at the same place replays its journal, as the next boot would.
//!
//! Two things make it hard: metadata is committed every second (ext4, btrfs), and another program
//! keeps syncing a file of its own, so that metadata reaches the disk long before unsynced data.
//! Not simulated: a disk that loses writes it has completed but not flushed.
//!
//! Promises that after each cut the next commands succeed, every file is full or a clean stub with
//! its name, size, times and mode, `checkout` brings back every byte, and the store alone gives a
//! new machine all that was acknowledged before the cut. The same drill with syncs turned off
//! (`DDR_FAULT=nosync`) must lose something, or it proves nothing. `DDR_DRILL=50` makes 300 cuts.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::content::Random;
use crate::support::mount::{Rig, obstacle};
use crate::support::steps::{Acked, Step, Verb};
use crate::support::tree::{Model, Nodes, read};
use crate::support::{Sandbox, say, scale, seed};

/// Cuts per file system; times `DDR_DRILL`, times three file systems.
const CUTS: usize = 2;
/// Cuts of the drill that must fail.
const CUTS_NOSYNC: usize = 4;
/// Commands between two looks at the snapshots.
const STEPS: usize = 3;

/// Another program that syncs its own small file again and again.
pub struct Noise {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Noise {
    /// Begins, and goes on until it is dropped.
    pub fn start(path: PathBuf, mut random: Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let write = File::create(&path).and_then(|mut f| {
                    f.write_all(b"somebody else's file")?;
                    f.sync_all()
                });
                write.expect("the noise file can be written");
                std::thread::sleep(Duration::from_millis(random.between(2, 40)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed; the mount must be left free in any case.
            let _ = thread.join();
        }
    }
}

/// A snapshot and what must be found in it.
struct Cut {
    image: PathBuf,
    tree: Nodes,
    acked: Acked,
    during: String,
}

struct Drill {
    sandbox: Sandbox,
    model: Model,
    random: Random,
    acked: Acked,
    usual: Duration,
    gc: &'static [&'static str],
    fault: Option<&'static str>,
    taken: usize,
    checked: usize,
    losses: Vec<String>,
    // Last, so that nothing uses the mount when it goes.
    rig: Rig,
}

impl Drill {
    fn new(kind: &str, fault: Option<&'static str>) -> Result<Self, String> {
        let mut random = Random::new(seed());
        let rig = Rig::new(kind)?;
        let sandbox = Sandbox::at(&rig.point());
        sandbox.set_up()?;
        let model = Model::grow(&sandbox.folder(), 10, &mut random);
        let usual = Duration::from_millis(200);
        let gc = sandbox.gc_words();
        let (acked, losses) = (Acked::default(), vec![]);
        Ok(Self { sandbox, model, random, acked, usual, gc, fault, taken: 0, checked: 0, losses, rig })
    }

    /// Commands with edits between them, cut twice each: somewhere in the middle, and right after.
    fn live(&mut self, wanted: usize) -> Result<Vec<Cut>, String> {
        let mut cuts = Vec::new();
        for number in 0..STEPS {
            for _ in 0..self.random.below(4) {
                self.model.edit(&mut self.random).map_err(|e| format!("the drill's own edit: {e}"))?;
            }
            self.rig.inner.as_ref().ok_or("the inner file system is not mounted")?.sync()?;
            let step = match number {
                // The first in each life has something to lose.
                0 => Step::of(Verb::Stash, &["stash", "."]),
                _ => Step::random(&mut self.random, &self.model, self.gc, false),
            };
            let noise = Noise::start(self.rig.point().join("noise"), Random::new(self.random.next()));
            let mut running = self.sandbox.start(&step.args, self.fault);
            running.wait_at_most(Duration::from_micros(self.random.below(self.usual.as_micros() as u64)));
            if cuts.len() < wanted {
                let acked = self.acked.clone();
                cuts.push(self.cut(&format!("during {}", step.line()), acked)?);
            }
            while !running.ended() {
                std::thread::sleep(Duration::from_micros(200));
            }
            self.usual = (self.usual + running.age()) / 2;
            running.wait().expect(step.fine())?;
            self.acked.finished(&step, &self.model);
            if cuts.len() < wanted {
                std::thread::sleep(Duration::from_millis(self.random.below(60)));
                let acked = self.acked.clone();
                cuts.push(self.cut(&format!("after {}", step.line()), acked)?);
            }
            drop(noise);
        }
        Ok(cuts)
    }

    fn cut(&mut self, during: &str, acked: Acked) -> Result<Cut, String> {
        self.taken += 1;
        let image = self.rig.cut(self.taken)?;
        Ok(Cut { image, tree: self.model.nodes.clone(), acked, during: during.into() })
    }

    /// Lives and cuts until `wanted` snapshots were checked.
    fn play(&mut self, wanted: usize) -> Result<(), String> {
        while self.checked < wanted {
            for cut in self.live(wanted - self.checked)? {
                let Self { rig, sandbox, model, .. } = &mut *self;
                let now = std::mem::replace(&mut model.nodes, cut.tree.clone());
                let result = rig.with_cut(&cut.image, || after(sandbox, model, &cut.acked));
                model.nodes = now;
                self.checked += 1;
                self.losses.extend(result.err().map(|why| format!("cut {}: {why}", cut.during)));
            }
        }
        Ok(())
    }
}

/// The account after a cut, on the mounted snapshot.
fn after(sandbox: &Sandbox, model: &Model, acked: &Acked) -> Result<(), String> {
    let next = sandbox.run(&["status"]).expect(&[0, 3])?;
    let said = |why: String| format!("{why}\n`ddr status` had said: {}{}", next.stdout, next.stderr);
    model.check_listing().map_err(said)?;
    sandbox.ok(&["checkout", "."])?;
    model.check_bytes().map_err(|why| format!("after checkout: {why}"))?;
    sandbox.ok(&["fsck", "--read-data"])?;
    let other = sandbox.clone_and_fill("two")?;
    let clone = read(&other.folder()).map_err(|e| e.to_string())?;
    acked.check_clone(&clone, &model.nodes)
}

/// Plays the drill, or says why it cannot; `None` if it could not.
fn play(kind: &str, fault: Option<&'static str>, cuts: usize) -> Option<Drill> {
    if let Some(why) = obstacle(&["xfs", kind]) {
        say(&format!("power-cut drill on {kind} skipped: {why}"));
        return None;
    }
    let mut drill = Drill::new(kind, fault).unwrap_or_else(|why| panic!("setting up on {kind}: {why}"));
    drill.play(cuts).unwrap_or_else(|why| panic!("{kind}, without any cut: {why}"));
    Some(drill)
}

fn nothing_is_lost(kind: &str) {
    let Some(drill) = play(kind, None, CUTS * scale()) else { return };
    let seed = seed();
    assert!(drill.losses.is_empty(), "{kind}, DDR_DRILL_SEED={seed}:\n{}", drill.losses.join("\n\n"));
    say(&format!("power-cut drill on {kind}: {} cuts, nothing lost", drill.checked));
}

fn lost_syncs_are_noticed(kind: &str) {
    if !cfg!(debug_assertions) {
        return say("power-cut drill without syncs skipped: a release build cannot turn them off");
    }
    let Some(drill) = play(kind, Some("nosync"), CUTS_NOSYNC) else { return };
    let (losses, checked) = (drill.losses.len(), drill.checked);
    assert!(losses > 0, "{kind}: {checked} cuts without syncs lost nothing: the drill is worthless");
    say(&format!(
        "power-cut drill on {kind} without syncs: {losses} of {checked} cuts lost something, as they must"
    ));
}

#[test]
fn i6_power_cuts_on_ext4_lose_nothing() {
    nothing_is_lost("ext4");
}

#[test]
fn i6_power_cuts_on_xfs_lose_nothing() {
    nothing_is_lost("xfs");
}

#[test]
fn i6_power_cuts_on_btrfs_lose_nothing() {
    nothing_is_lost("btrfs");
}

#[test]
fn power_cuts_without_syncs_are_noticed_on_ext4() {
    lost_syncs_are_noticed("ext4");
}

#[test]
fn power_cuts_without_syncs_are_noticed_on_xfs() {
    lost_syncs_are_noticed("xfs");
}

#[test]
fn power_cuts_without_syncs_are_noticed_on_btrfs() {
    lost_syncs_are_noticed("btrfs");
}

/// The rig itself: what was synced before a cut is in the snapshot, what was not is lost, and the
/// live file system goes on.
#[test]
fn a_cut_keeps_what_was_synced_and_only_that() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some(why) = obstacle(&["xfs", kind]) {
            say(&format!("power-cut rig on {kind} skipped: {why}"));
            continue;
        }
        check_rig(kind).unwrap_or_else(|why| panic!("{kind}: {why}"));
    }
}

fn check_rig(kind: &str) -> Result<(), String> {
    let mut rig = Rig::new(kind)?;
    let (synced, unsynced) = (rig.point().join("synced"), rig.point().join("unsynced"));
    let write = |path: &Path| std::fs::write(path, vec![7u8; 1 << 20]).map_err(|e| e.to_string());
    write(&synced)?;
    rig.inner.as_ref().ok_or("not mounted")?.sync()?;
    write(&unsynced)?;
    let cut = rig.cut(1)?;
    rig.with_cut(&cut, || {
        let kept = std::fs::read(&synced).map_err(|e| format!("synced: {e}"))?;
        assert_eq!(kept, vec![7u8; 1 << 20]);
        let lost = std::fs::read(&unsynced).map_or(true, |bytes| bytes.len() < 1 << 20);
        assert!(lost, "data that was never synced is in the snapshot");
        Ok(())
    })?;
    let alive = std::fs::read(&unsynced).map_err(|e| format!("the live file system: {e}"))?;
    assert_eq!(alive.len(), 1 << 20);
    Ok(())
}
