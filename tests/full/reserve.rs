//! A disk that is full to the last byte is relieved all the same: by stash, by the daemon, by gc and prune.
//!
//! On each file system, for each gives up room in its own way. What must be shown is that nothing has to
//! be freed by hand, and that afterwards there is a reserve for the next time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{On, World, full_or_done};
use crate::support::mount::obstacle;
use crate::support::{say, seed};

const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Large enough for a reserve of some MiB.
const MIB: u64 = 320;

fn on_each(name: &str, run: impl Fn(&'static str) -> Result<(), String>) {
    for kind in KINDS {
        match obstacle(&[kind]) {
            Some(why) => say(&format!("{name} on {kind} skipped: {why}")),
            None => run(kind).unwrap_or_else(|why| panic!("{kind}, DDR_DRILL_SEED={}: {why}", seed())),
        }
    }
}

/// Bytes that can be written to a disk, once what was removed is so for good.
fn free(path: &Path) -> u64 {
    rustix::fs::syncfs(std::fs::File::open(path).unwrap()).unwrap();
    let fs = rustix::fs::statvfs(path).unwrap();
    fs.f_bavail * fs.f_frsize
}

impl World {
    fn reserve_of(&self, on: On) -> PathBuf {
        let store = if on == On::Store { self.store.clone() } else { self.sandbox.folder().join(".ddr") };
        store.join("store/RESERVE")
    }

    /// The reserve is there, and takes room.
    fn has_reserve(&self, on: On) -> Result<u64, String> {
        let path = self.reserve_of(on);
        let meta = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        match meta.len() >= 1 << 20 && meta.blocks() * 512 >= meta.len() {
            true => Ok(meta.len()),
            false => Err(format!("the reserve is {} bytes in {} blocks", meta.len(), meta.blocks())),
        }
    }

    /// Fills the disk to the last byte, with something written by nobody of us.
    fn cram(&self) -> Result<(), String> {
        self.small.fill(0)?;
        let left = free(self.small.point());
        if left < 1 << 20 { Ok(()) } else { Err(format!("{left} bytes are left")) }
    }
}

#[test]
fn a_stash_frees_a_disk_that_is_full_to_the_last_byte() {
    on_each("stash on a full disk", |kind| {
        let mut world = World::of(kind, On::Folder, MIB)?;
        let size = world.has_reserve(On::Folder)?;
        for recorded in [true, false] {
            world.add(12)?;
            if recorded {
                world.sandbox.ok(&["commit"])?;
            }
            world.cram()?;
            world.sandbox.ok(&["stash", "."])?;
            let now = free(world.small.point());
            if now < 2 * size.min(2 << 20) {
                return Err(format!("only {now} bytes are free after the stash"));
            }
            world.model.check_listing()?;
            world.small.relieve()?;
            world.sandbox.ok(&["commit"])?;
            assert_eq!(world.has_reserve(On::Folder)?, size, "made again");
        }
        world.settle()
    });
}

#[test]
fn without_a_verb_that_frees_the_reserve_is_left_alone() {
    on_each("commit on a full disk", |kind| {
        let mut world = World::of(kind, On::Folder, MIB)?;
        let size = world.has_reserve(On::Folder)?;
        world.add(3)?;
        world.cram()?;
        let dry = [
            &["stash", "-n"][..],
            &["stash", "-n", "."],
            &["gc", "-n"],
            &["prune", "-n", "--keep-last", "1"],
        ];
        // Who only looks needs no room.
        for words in [&["status"][..], &["ls"], &["du"], &["diff"], &["policy", "plan"]] {
            world.sandbox.run(words).expect(&[0, 1])?;
            assert_eq!(world.has_reserve(On::Folder)?, size, "{kind}: {words:?}");
        }
        for words in [&["commit"][..], &["checkout", "."]].into_iter().chain(dry) {
            full_or_done(&world.sandbox.run(words))?;
            assert_eq!(world.has_reserve(On::Folder)?, size, "{kind}: {words:?}");
        }
        world.sandbox.ok(&["stash", "."])?;
        world.small.relieve()?;
        world.settle()
    });
}

#[test]
fn the_daemon_frees_a_disk_that_is_full_to_the_last_byte() {
    on_each("daemon on a full disk", |kind| {
        let mut world = World::of(kind, On::Folder, MIB)?;
        let policy = "every = \"1d\"\n[[rule]]\ndo = \"stash\"\nwhen_full = \"0s\"\n[water]\nhigh = \"90%\"\nlow = \"80%\"\n";
        std::fs::write(world.sandbox.home().join("policy.toml"), policy).map_err(|e| e.to_string())?;
        let file = world.sandbox.home().join("policy.toml");
        world.sandbox.ok(&["config", "set", "policy.file", &file.to_string_lossy()])?;
        world.add(12)?;
        world.cram()?;
        // Even one that begins there.
        let mut daemon = world.sandbox.start(&["daemon"], None);
        let since = Instant::now();
        while free(world.small.point()) < 6 << 20 {
            if since.elapsed() > Duration::from_secs(60) || daemon.ended() {
                let log = std::fs::read_to_string(world.sandbox.home().join("state/ddr/log/daemon.log"));
                let said = if daemon.ended() { daemon.wait().stderr } else { String::new() };
                return Err(format!("the daemon frees nothing: {said} {}", log.unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        say(&format!("a full {kind} was relieved after {:?}", since.elapsed()));
        world.small.relieve()?;
        world.sandbox.ok(&["daemon", "stop"])?;
        daemon.wait();
        world.model.check_listing()?;
        world.settle()
    });
}

#[test]
fn the_daemon_gives_nothing_away_where_nothing_can_go() {
    if let Some(why) = obstacle(&["ext4"]) {
        return say(&format!("reserve of a daemon skipped: {why}"));
    }
    for (when_full, is_away, told) in [("0s", true, "make room: "), ("30d", false, "\"last_policy\":1")] {
        let mut world = World::new(On::Folder, MIB).unwrap();
        let size = world.has_reserve(On::Folder).unwrap();
        let policy = format!(
            "every = \"1d\"\n[[rule]]\ndo = \"stash\"\nwhen_full = \"{when_full}\"\n[water]\nhigh = \"90%\"\nlow = \"80%\"\n"
        );
        let file = world.sandbox.home().join("policy.toml");
        std::fs::write(&file, policy).unwrap();
        world.sandbox.ok(&["config", "set", "policy.file", &file.to_string_lossy()]).unwrap();
        world.add(3).unwrap();
        world.sandbox.ok(&["commit"]).unwrap();
        if is_away {
            std::fs::rename(&world.store, world.store.with_extension("away")).unwrap();
        }
        // Room for notes, and no more.
        world.small.fill(2 << 20).unwrap();
        let daemon = world.sandbox.start(&["daemon"], None);
        let since = Instant::now();
        let said = || world.sandbox.run(&["daemon", "status", "--json"]).stdout;
        while !said().contains(told) {
            assert!(since.elapsed() < Duration::from_secs(60), "{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
        world.sandbox.ok(&["daemon", "stop"]).unwrap();
        daemon.wait();
        assert_eq!(world.has_reserve(On::Folder).unwrap(), size, "{told}");
    }
}

#[test]
fn a_store_that_is_full_to_the_last_byte_is_pruned_and_collected() {
    on_each("gc of a full store", |kind| {
        let mut world = World::of(kind, On::Store, MIB)?;
        let size = world.has_reserve(On::Store)?;
        // Old versions of a file that goes on.
        let path = world.sandbox.folder().join("much");
        for n in 0..4 {
            std::fs::write(&path, crate::support::content::noise(n, 6 << 20)).map_err(|e| e.to_string())?;
            world.sandbox.ok(&["commit"])?;
        }
        std::fs::remove_file(&path).map_err(|e| e.to_string())?;
        world.cram()?;
        world.add(1)?;
        full_or_done(&world.sandbox.run(&["stash", "."]))?;
        let after = world.has_reserve(On::Store)?;
        assert!(size - after <= 2 << 20, "{kind}: contents take nothing of the reserve: {after} of {size}");
        world.sandbox.ok(&["config", "set", "stash.keep_deleted", "0s"])?;
        world.sandbox.ok(&["prune", "--keep-last", "1"])?;
        world.sandbox.ok(&["gc", "--grace", "0s"])?;
        let now = free(world.small.point());
        if now < 8 << 20 {
            return Err(format!("only {now} bytes are free after gc"));
        }
        world.sandbox.ok(&["fsck"])?;
        world.small.relieve()?;
        world.sandbox.ok(&["stash", "."])?;
        assert_eq!(world.has_reserve(On::Store)?, size, "made again");
        world.settle()
    });
}
