//! Disks that are full, read-only or gone, on small loop mounts.
//!
//! Promises that a full disk is a clear error (exit code 1, "no space left"), that a store whose disk
//! is not there is one, too (exit code 13) and never taken for empty, that in both cases nothing is
//! lost and nothing half done stays, and that the same command goes on once there is room, or the
//! disk is back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::content::{Content, Random, noise};
use crate::support::mount::obstacle;
use crate::support::small::Small;
use crate::support::tree::{Model, hash_file, read};
use crate::support::{Output, Sandbox, say, scale, seed};

mod reserve;

/// A sandbox, a store, and a small file system that holds one of both.
struct World {
    sandbox: Sandbox,
    store: PathBuf,
    model: Model,
    random: Random,
    small: Small,
    // Last: the mount goes before its directory.
    _temp: tempfile::TempDir,
}

/// What lies on the small file system.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Store,
    Folder,
    Neither,
}

impl World {
    /// A folder with some history, everything stashed.
    fn new(on: On, mib: u64) -> Result<Self, String> {
        Self::of("ext4", on, mib)
    }

    fn of(kind: &'static str, on: On, mib: u64) -> Result<Self, String> {
        let temp = tempfile::Builder::new().prefix("ddr-full-").tempdir().map_err(|e| e.to_string())?;
        let small = Small::of(kind, &temp.path().join("small"), mib)?;
        let place = |here: bool| if here { small.point().to_path_buf() } else { temp.path().to_path_buf() };
        let sandbox = Sandbox::at(&place(on == On::Folder));
        let store = place(on == On::Store).join("store");
        sandbox.set_up_on(&store)?;
        let mut random = Random::new(seed());
        let model = Model::grow(&sandbox.folder(), 4, &mut random);
        let mut world = Self { sandbox, store, model, random, small, _temp: temp };
        world.add(3)?;
        world.sandbox.ok(&["stash", "."])?;
        Ok(world)
    }

    /// So many more files of several chunks.
    fn add(&mut self, files: usize) -> Result<(), String> {
        for _ in 0..files {
            let name = format!("noise-{}", self.random.next());
            let size = self.random.between(600 << 10, 1 << 20);
            let content = Content { size, runs: vec![(0, noise(self.random.next(), size))] };
            let path = self.sandbox.folder().join(&name);
            let told = |e: std::io::Error| e.to_string();
            content.write(&path).map_err(told)?;
            self.model.observe(Path::new(&name), Some(hash_file(&path).map_err(told)?)).map_err(told)?;
        }
        Ok(())
    }

    /// With this much room left the command says so, or succeeds; nothing is lost in any case.
    fn with_room(&self, leave: u64, words: &[&str]) -> Result<bool, String> {
        self.small.fill(leave)?;
        let output = self.sandbox.run(words);
        let told = |why: String| format!("{leave} bytes left: {why}\n{}{}", output.stdout, output.stderr);
        self.model.check_listing().map_err(told)?;
        self.no_litter().map_err(told)?;
        full_or_done(&output).map_err(told)
    }

    /// Nothing unfinished stays behind where nobody would ever look for it.
    fn no_litter(&self) -> Result<(), String> {
        let own = self.sandbox.folder().join(".ddr");
        for dir in [self.store.join("store/tmp"), own.join("store/tmp"), own.join("intents"), own.join("tmp")]
        {
            let names: Vec<_> = std::fs::read_dir(&dir).map_err(|e| e.to_string())?.flatten().collect();
            if !names.is_empty() {
                return Err(format!("left in {}: {names:?}", dir.display()));
            }
        }
        Ok(())
    }

    /// Everything is there: here, in the store, and on a new machine.
    fn settle(&self) -> Result<(), String> {
        self.sandbox.ok(&["stash", "."])?;
        self.sandbox.ok(&["checkout", "."])?;
        self.model.check_bytes()?;
        self.sandbox.ok(&["fsck", "--read-data"])?;
        self.same_elsewhere()
    }

    fn same_elsewhere(&self) -> Result<(), String> {
        let other = self.sandbox.clone_from(&self.store, "two")?;
        let clone = read(&other.folder()).map_err(|e| e.to_string())?;
        self.sandbox.remove_machine(&other);
        if clone == self.model.nodes { Ok(()) } else { Err("a clone is another tree".into()) }
    }

    /// No file is taken for deleted, and the store not for empty.
    fn is_told_offline(&self) -> Result<(), String> {
        let status = self.sandbox.ok(&["status"])?;
        if status.stdout.lines().any(|l| l.starts_with("D ")) || !status.stdout.contains("offline") {
            return Err(format!("status says {}{}", status.stdout, status.stderr));
        }
        self.model.check_listing()
    }
}

/// Whether a command succeeded; anything else must be about room.
fn full_or_done(output: &Output) -> Result<bool, String> {
    match output.code {
        Some(0) => Ok(true),
        Some(1) if output.stderr.contains("no space left") => Ok(false),
        code => Err(format!("`{}` ended with {code:?}: {}", output.line, output.stderr)),
    }
}

fn with_mounts(name: &str, run: impl FnOnce() -> Result<(), String>) {
    match obstacle(&["ext4"]) {
        Some(why) => say(&format!("{name} skipped: {why}")),
        None => run().unwrap_or_else(|why| panic!("DDR_DRILL_SEED={}: {why}", seed())),
    }
}

/// Bytes left on a disk, from nothing to enough.
const ROOM: [u64; 7] = [0, 4 << 10, 20 << 10, 80 << 10, 320 << 10, 1200 << 10, 8 << 20];

#[test]
fn a_full_store_stops_a_stash_and_loses_nothing() {
    with_mounts("full store", || {
        let mut world = World::new(On::Store, 64)?;
        let mut done = vec![];
        for leave in ROOM {
            world.add(3)?;
            done.push(world.with_room(leave, &["stash", "."])?);
            world.sandbox.ok(&["status"])?;
            // What was stashed before comes back from a full store, too.
            world.sandbox.ok(&["checkout", "."])?;
            world.model.check_bytes()?;
            world.small.relieve()?;
            world.sandbox.ok(&["stash", "."])?;
        }
        assert!(!done[0] && !done[3] && done[6], "{done:?}");
        world.settle()
    });
}

#[test]
fn a_full_folder_stops_a_checkout_and_its_stubs_stay_stubs() {
    with_mounts("full folder", || {
        let mut world = World::new(On::Folder, 96)?;
        world.add(9)?;
        world.sandbox.ok(&["stash", "."])?;
        let mut done = vec![];
        for leave in [0, 4 << 10, 200 << 10, 2 << 20, 5 << 20, 40 << 20] {
            done.push(world.with_room(leave, &["checkout", "."])?);
            world.small.relieve()?;
            world.sandbox.ok(&["checkout", "."])?;
            world.model.check_bytes()?;
            world.sandbox.ok(&["stash", "."])?;
        }
        assert!(!done[0] && !done[3] && done[5], "{done:?}");
        world.settle()
    });
}

#[test]
fn a_folder_without_room_for_its_own_records_loses_nothing() {
    with_mounts("full .ddr", || {
        for command in [&["commit", "-m", "a message"][..], &["stash", "."], &["rebuild"], &["gc"]] {
            let mut world = World::new(On::Folder, 96)?;
            let mut done = vec![];
            for leave in ROOM {
                world.add(2)?;
                let told = |why: String| format!("{command:?}: {why}");
                done.push(world.with_room(leave, command).map_err(told)?);
                full_or_done(&world.sandbox.run(&["status"])).map_err(told)?;
                world.small.relieve()?;
                world.sandbox.ok(&["status"])?;
                world.sandbox.ok(&["commit", "-m", "there is room"]).map_err(told)?;
            }
            assert!(done[6], "{command:?}: {done:?}");
            world.settle()?;
        }
        Ok(())
    });
}

#[test]
fn a_clone_onto_a_disk_that_is_too_small_goes_on_when_there_is_room() {
    with_mounts("clone onto a full disk", || {
        let world = World::new(On::Neither, 64)?;
        let mut done = vec![];
        for leave in ROOM {
            let other = Sandbox::at(&world.small.point().join(leave.to_string()));
            let (store, folder) = (world.store.clone().into_os_string(), other.folder().into_os_string());
            let clone = ["clone".into(), store, folder];
            world.small.fill(leave)?;
            let output = other.run(&clone);
            done.push(
                full_or_done(&output).map_err(|why| format!("{leave} left: {why}: {}", output.stderr))?,
            );
            world.small.relieve()?;
            other.ok(&clone).map_err(|why| format!("after {leave} left: {why}"))?;
            other.ok(&["checkout", "."])?;
            if read(&other.folder()).map_err(|e| e.to_string())? != world.model.nodes {
                return Err(format!("the clone begun with {leave} left is another tree"));
            }
            std::fs::remove_dir_all(other.folder()).map_err(|e| e.to_string())?;
        }
        assert!(!done[0] && !done[1] && done[6], "{done:?}");
        Ok(())
    });
}

#[test]
fn a_read_only_store_is_good_for_reading() {
    with_mounts("read-only store", || {
        let mut world = World::new(On::Store, 64)?;
        world.small.read_only(true)?;
        world.sandbox.ok(&["fsck", "--read-data"])?;
        world.sandbox.ok(&["checkout", "."])?;
        world.model.check_bytes()?;
        world.same_elsewhere()?;
        world.add(2)?;
        // A commit is recorded all the same; that its contents are on no store is told.
        for (words, done) in
            [(&["stash", "."][..], false), (&["gc", "--grace", "0s"], false), (&["commit"], true)]
        {
            let output = world.sandbox.run(words);
            let clear = output.stderr.to_lowercase().contains("read-only");
            if (output.code == Some(0)) != done || !clear {
                return Err(format!("`{}`: {:?} {}", output.line, output.code, output.stderr));
            }
            world.model.check_listing()?;
        }
        if !world.sandbox.ok(&["status"])?.stdout.contains("unsaved") {
            return Err("status does not say that contents are unsaved".into());
        }
        world.small.read_only(false)?;
        world.settle()
    });
}

#[test]
fn a_store_that_is_not_mounted_is_offline_and_nothing_is_deleted() {
    with_mounts("unplugged store", || {
        let mut world = World::new(On::Store, 64)?;
        world.small.unplug()?;
        world.is_told_offline()?;
        for words in [&["stash", "."][..], &["checkout", "."]] {
            world.sandbox.run(words).expect(&[13])?;
            world.is_told_offline()?;
        }
        // Commits need no store; what they could not place is told.
        world.add(2)?;
        let commit = world.sandbox.ok(&["commit", "-m", "offline"])?;
        assert!(format!("{}{}", commit.stdout, commit.stderr).contains("offline"));
        assert!(world.sandbox.ok(&["status"])?.stdout.contains("unsaved"));
        for words in [&["gc"][..], &["rebuild"], &["fsck"], &["history"]] {
            world.sandbox.run(words).expect(&[0, 13])?;
        }
        world.is_told_offline()?;
        let empty = std::fs::read_dir(world.small.point()).map_err(|e| e.to_string())?.next().is_none();
        assert!(empty, "something was written where the store's disk was");
        world.small.plug()?;
        world.settle()?;
        assert!(!world.sandbox.ok(&["status"])?.stdout.contains("unsaved"));
        Ok(())
    });
}

#[test]
fn a_store_that_is_unplugged_in_the_middle_loses_nothing() {
    with_mounts("store unplugged in the middle", || {
        let mut world = World::new(On::Store, 128)?;
        let (mut usual, mut hit) = (Duration::from_millis(300), 0);
        let rounds = 4 * scale();
        for _ in 0..rounds {
            world.add(2)?;
            let all: [&[&str]; 3] = [&["stash", "."], &["checkout", "."], &["commit"]];
            let words = *world.random.pick(&all);
            let mut running = world.sandbox.start(words, None);
            running.wait_at_most(Duration::from_micros(world.random.below(usual.as_micros() as u64)));
            world.small.unplug()?;
            let output = running.wait();
            usual = (usual + Duration::from_millis(200)) / 2;
            hit += usize::from(output.code == Some(13));
            output.expect(&[0, 13])?;
            world.is_told_offline()?;
            world.small.plug()?;
            world.sandbox.ok(&["stash", "."])?;
            world.sandbox.ok(&["checkout", "."])?;
            world.model.check_bytes()?;
            world.sandbox.ok(&["fsck", "--read-data"])?;
        }
        say(&format!("unplugging drill: {rounds} times, {hit} noticed by the command, nothing lost"));
        world.settle()
    });
}

#[test]
fn a_folder_that_is_not_mounted_is_no_folder() {
    with_mounts("unplugged folder", || {
        let mut world = World::new(On::Folder, 64)?;
        world.small.unplug()?;
        std::fs::create_dir_all(world.sandbox.folder()).map_err(|e| e.to_string())?;
        for words in [&["stash", "."][..], &["commit"], &["status"]] {
            world.sandbox.run(words).expect(&[10])?;
        }
        std::fs::remove_dir_all(world.small.point().join("one")).map_err(|e| e.to_string())?;
        world.small.plug()?;
        world.settle()
    });
}
