//! Drills over several stores: one member killed, full or corrupted in the middle of stash and
//! checkout; tiers that move, drain and lose stores.
//!
//! Promises an independent count: packs are decoded here, without ddr's index, and no stub may have a
//! content with fewer good copies than its tier requires. `DDR_DRILL=10` makes 100 random schedules.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ddr::base::id::{FolderId, RecordId};
use ddr::format::key::Keys;
use ddr::format::pack;
use ddr::format::seal::Opener;
use ddr::format::stub::{HEADER_LEN, StubHead, looks_like_stub};
use ddr::model::entry::Kind;

use crate::support::content::Random;
use crate::support::small::Small;
use crate::support::tree::{Model, walk};
use crate::support::{Sandbox, mount, say, scale, seed};

/// Schedules per layout; times `DDR_DRILL`.
const SCHEDULES: usize = 5;

/// A folder with several stores, each in a directory and a failure domain of its own.
struct Many {
    sandbox: Sandbox,
    stores: Vec<PathBuf>,
    /// The first store's disk, where loop mounts are possible.
    small: Option<Small>,
    model: Model,
    random: Random,
}

impl Many {
    fn new(stores: usize, seed: u64, small: bool) -> Result<Self, String> {
        Self::of(stores, seed, small, 8)
    }

    fn of(stores: usize, seed: u64, small: bool, files: usize) -> Result<Self, String> {
        let sandbox = Sandbox::new();
        let mut random = Random::new(seed);
        let small = match small && mount::obstacle(&["ext4"]).is_none() {
            true => Some(Small::new(&sandbox.root().join("small"), 64)?),
            false => None,
        };
        sandbox.ok(&["init", "."])?;
        let mut places = Vec::new();
        for n in 0..stores {
            let place = match (&small, n) {
                (Some(small), 0) => small.point().join("s"),
                _ => sandbox.root().join(format!("s{n}")),
            };
            let (name, path) = (format!("s{n}"), place.to_string_lossy().into_owned());
            sandbox.ok(&["remote", "add", &name, &path, "--init", "--same-disk", "--domain", &name])?;
            places.push(place);
        }
        let model = Model::grow(&sandbox.folder(), files, &mut random);
        Ok(Self { sandbox, stores: places, small, model, random })
    }

    fn keys(&self) -> Result<(Keys, FolderId), String> {
        let dir = self.sandbox.folder().join(".ddr");
        let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(|e| e.to_string());
        let keys: ddr::engine::instance::KeysFile =
            toml::from_str(&read("keys")?).map_err(|e| e.to_string())?;
        let folder: ddr::engine::instance::FolderFile =
            toml::from_str(&read("folder.toml")?).map_err(|e| e.to_string())?;
        let (key, _) = keys.secrets().map_err(|e| e.to_string())?;
        Ok((Keys::new(&key), FolderId::from_hex(&folder.folder).map_err(|e| e.to_string())?))
    }

    /// Every good record of a store, read from its packs; manifests with their bytes.
    fn records(&self, store: &Path, keys: &Keys, folder: FolderId) -> Result<Records, String> {
        let mut records = Records::default();
        let mut opener = Opener::new(keys).map_err(|e| e.to_string())?;
        for area in ["data", "meta"] {
            for entry in fs::read_dir(store.join("store").join(area)).map_err(|e| e.to_string())?.flatten() {
                let bytes = fs::read(entry.path()).map_err(|e| e.to_string())?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(id) = ddr::base::id::PackId::from_hex(&name) else { continue };
                let Some(at) = bytes.len().checked_sub(pack::FOOT_LEN) else { continue };
                let Ok(foot) = pack::Foot::decode(&bytes[at..]) else { continue };
                let Some(at) = bytes.len().checked_sub(foot.trailer_len() as usize) else { continue };
                let (head, size) = (&bytes[..pack::HEAD_LEN], bytes.len() as u64);
                let Ok(rows) = pack::decode_table(head, &bytes[at..], size, folder, id) else { continue };
                for row in rows {
                    let record = &bytes[row.offset as usize..row.end() as usize];
                    let Ok(raw) = pack::decode_record(record, &row).and_then(|s| opener.open(&s)) else {
                        continue;
                    };
                    records.ids.insert(row.id);
                    if row.kind == Kind::Manifest {
                        records.manifests.insert(row.id, raw.to_vec());
                    }
                }
            }
        }
        Ok(records)
    }

    /// No stub has a content with fewer than `copies` good copies.
    fn count(&self, copies: usize) -> Result<usize, String> {
        let (keys, folder) = self.keys()?;
        let mut stores = Vec::new();
        for store in &self.stores {
            stores.push(self.records(store, &keys, folder)?);
        }
        let mut stubs = 0;
        let root = self.sandbox.folder();
        for path in walk(&root).map_err(|e| e.to_string())? {
            let full = root.join(&path);
            let Ok(meta) = fs::symlink_metadata(&full) else { continue };
            if !meta.is_file() || meta.len() < HEADER_LEN as u64 {
                continue;
            }
            let bytes = fs::read(&full).map_err(|e| e.to_string())?;
            if !looks_like_stub(&bytes) {
                continue;
            }
            let head = StubHead::decode(&bytes[..HEADER_LEN], &keys, folder).map_err(|e| e.to_string())?;
            stubs += 1;
            let mut ids = vec![head.body.id];
            if head.body.kind == Kind::Manifest {
                let raw = stores.iter().find_map(|s| s.manifests.get(&head.body.id));
                let raw = raw.ok_or_else(|| format!("{path:?}: its manifest is nowhere"))?;
                let manifest = ddr::format::manifest::decode(raw, head.size).map_err(|e| e.to_string())?;
                ids.extend(manifest.data().map(|(_, id, _)| id));
            }
            for id in ids {
                let have = stores.iter().filter(|s| s.ids.contains(&id)).count();
                if have < copies {
                    return Err(format!("{path:?}: record {} has {have} of {copies} copies", id.short()));
                }
            }
        }
        Ok(stubs)
    }

    fn pause(&mut self) {
        let millis = self.random.below(120);
        std::thread::sleep(Duration::from_millis(millis));
    }
}

#[derive(Default)]
struct Records {
    ids: HashSet<RecordId>,
    manifests: HashMap<RecordId, Vec<u8>>,
}

/// What happens to one store, and how it is undone.
#[derive(Debug)]
enum Harm {
    Killed(PathBuf, PathBuf),
    Full,
    Corrupted(PathBuf, Vec<u8>),
    None,
}

impl Many {
    fn harm(&mut self) -> Result<Harm, String> {
        let told = |e: std::io::Error| e.to_string();
        let kind = self.random.below(3);
        if kind == 0
            && let Some(small) = &self.small
        {
            small.fill(self.random.below(200_000))?;
            return Ok(Harm::Full);
        }
        let victim = self.random.below(self.stores.len() as u64) as usize;
        let victim = if victim == 0 && self.small.is_some() {
            self.stores[1].clone()
        } else {
            self.stores[victim].clone()
        };
        if kind == 1 {
            let away = victim.with_extension("away");
            fs::rename(&victim, &away).map_err(told)?;
            return Ok(Harm::Killed(victim, away));
        }
        let area = if self.random.below(4) == 0 { "meta" } else { "data" };
        let packs: Vec<PathBuf> = fs::read_dir(victim.join("store").join(area))
            .map_err(told)?
            .flatten()
            .map(|e| e.path())
            .collect();
        if packs.is_empty() {
            return Ok(Harm::None);
        }
        let path = self.random.pick(&packs).clone();
        let before = fs::read(&path).map_err(told)?;
        let mut after = before.clone();
        for _ in 0..4 {
            let at = self.random.below(after.len() as u64) as usize;
            after[at] ^= 0x55;
        }
        fs::write(&path, after).map_err(told)?;
        Ok(Harm::Corrupted(path, before))
    }

    fn undo(&self, harm: Harm) -> Result<(), String> {
        let told = |e: std::io::Error| e.to_string();
        match harm {
            Harm::Killed(place, away) => fs::rename(away, place).map_err(told),
            Harm::Full => self.small.as_ref().map_or(Ok(()), |s| s.relieve()),
            // What was moved away by nobody is still there; bytes as they were.
            Harm::Corrupted(path, before) => fs::write(path, before).map_err(told),
            Harm::None => Ok(()),
        }
    }

    /// One schedule: edits, a stash and a checkout, one of them harmed in the middle.
    fn schedule(&mut self, copies: usize) -> Result<String, String> {
        for _ in 0..4 {
            self.model.edit(&mut self.random).map_err(|e| e.to_string())?;
        }
        let in_stash = self.random.below(2) == 0;
        if !in_stash {
            self.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        }
        let verb = if in_stash { "stash" } else { "checkout" };
        let running = self.sandbox.start(&[verb, "."], None);
        self.pause();
        let harm = self.harm()?;
        let what = format!("{verb} with {harm:?}").chars().take(90).collect::<String>();
        // A clear error, or done; never a crash.
        let said = running.wait().expect(&[0, 1, 3, 4, 5, 13])?;
        let explained = said.code == Some(0) || !said.stderr.is_empty();
        if !explained {
            return Err(format!("{what}: ended with {:?} and said nothing", said.code));
        }
        self.model.check_listing().map_err(|e| format!("{what}: {e}"))?;
        // Once more while it is harmed: what there is must do, or say why it does not.
        self.sandbox.run(&["checkout", "."]).expect(&[0, 1, 3, 5, 13])?;
        self.model.check_listing().map_err(|e| format!("{what}, then checkout: {e}"))?;
        self.undo(harm)?;
        self.count(copies).map_err(|e| format!("{what}: {e}"))?;
        self.sandbox.run(&["checkout", "."]).expect(&[0])?;
        self.model.check_bytes().map_err(|e| format!("{what}, when all is well again: {e}"))?;
        self.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        self.count(copies).map_err(|e| format!("{what}, stashed again: {e}"))?;
        Ok(what)
    }
}

fn drill(stores: usize, copies: usize, tier: &[&str]) -> Result<(), String> {
    for n in 0..SCHEDULES * scale() {
        let seed = seed() * 1000 + n as u64;
        let mut many = Many::new(stores, seed, true)?;
        if !tier.is_empty() {
            many.sandbox.ok(tier)?;
        }
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        if many.count(copies)? == 0 {
            return Err("the drill needs stubs".into());
        }
        let what = many.schedule(copies).map_err(|e| format!("seed {seed}: {e}"))?;
        if scale() > 1 {
            say(&format!("  {stores} stores, seed {seed}: {what}"));
        }
    }
    Ok(())
}

#[test]
fn a_mirror_of_two_survives_a_killed_full_or_corrupted_member() {
    if let Some(why) = mount::obstacle(&["ext4"]) {
        say(&format!("without a full store: {why}"));
    }
    drill(2, 1, &["tier", "add", "near", "s0", "s1", "--copies", "1"]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_bundle_of_four_survives_a_killed_full_or_corrupted_member() {
    let tier = ["tier", "add", "disks", "s0", "s1", "s2", "s3", "--layout", "bundle", "--copies", "2"];
    drill(4, 2, &tier).unwrap_or_else(|e| panic!("{e}"));
}

fn passes(test: impl FnOnce() -> Result<(), String>) {
    test().unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_machine_is_lost_and_a_clone_of_one_mirror_member_gives_back_every_file() {
    passes(|| {
        let many = Many::new(2, 7, false)?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        fs::remove_dir_all(many.sandbox.folder()).map_err(|e| e.to_string())?;
        fs::remove_dir_all(&many.stores[0]).map_err(|e| e.to_string())?;
        let other = many.sandbox.other_machine("new");
        let (store, to) = (many.stores[1].to_string_lossy().into_owned(), other.folder());
        other.ok(&["clone", "--same-disk", &store, &to.to_string_lossy()])?;
        other.ok(&["checkout", "."])?;
        let found = crate::support::tree::read(&to).map_err(|e| e.to_string())?;
        for (path, node) in &many.model.nodes {
            let same = match (node, found.get(path)) {
                (crate::support::tree::Node::Dir(_), Some(_)) => true,
                (node, found) => found == Some(node),
            };
            if !same {
                return Err(format!("{path:?}: {:?} instead of {node:?}", found.get(path)));
            }
        }
        Ok(())
    });
}

#[test]
fn content_ages_to_the_far_tier_the_edge_is_emptied_and_it_is_checked_out_again() {
    passes(|| {
        let many = Many::new(2, 8, false)?;
        many.sandbox.ok(&["tier", "add", "edge", "s0", "--keep", "0s"])?;
        many.sandbox.ok(&["tier", "add", "far", "s1"])?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        let (keys, folder) = many.keys()?;
        let chunks = |n: usize| -> Result<usize, String> {
            let records = many.records(&many.stores[n], &keys, folder)?;
            Ok(records.ids.len() - records.manifests.len())
        };
        let on_edge = chunks(0)?;
        if on_edge == 0 || chunks(1)? != 0 {
            return Err("new contents go to the edge, and nowhere else".into());
        }
        // Ages are whole seconds.
        std::thread::sleep(Duration::from_millis(2100));
        let planned = many.sandbox.ok(&["tier", "move", "-n"])?;
        if !planned.stdout.contains("would be moved") || chunks(1)? != 0 {
            return Err(format!("a dry run moves nothing: {}", planned.stdout));
        }
        many.sandbox.ok(&["tier", "move"])?;
        if chunks(1)? < on_edge {
            return Err("the far tier has everything before the edge is emptied".into());
        }
        for _ in 0..3 {
            many.sandbox.ok(&["gc", "--grace", "0s"])?;
        }
        if chunks(0)? != 0 {
            return Err(format!("{} of {on_edge} chunks are still on the edge", chunks(0)?));
        }
        many.count(1)?;
        let again = many.sandbox.ok(&["tier", "check"])?;
        many.sandbox.ok(&["checkout", "."]).map_err(|e| format!("{e}\n{}", again.stdout))?;
        many.model.check_bytes()
    });
}

#[test]
fn the_policy_sends_contents_to_a_tier_and_moves_them_on_by_age() {
    passes(|| {
        let many = Many::new(2, 6, false)?;
        many.sandbox.ok(&["tier", "add", "edge", "s0"])?;
        many.sandbox.ok(&["tier", "add", "far", "s1"])?;
        let rules = "[class.big]\nmin_size = \"64KiB\"\n[[rule]]\nclass = \"big\"\ndo = \"stash\"\nafter = \"0s\"\n\
                     tier = \"far\"\n[[rule]]\ndo = \"stash\"\nafter = \"0s\"\n";
        let file = many.sandbox.folder().join(".ddr/mine.toml");
        std::fs::write(&file, rules).map_err(|e| e.to_string())?;
        many.sandbox.ok(&["config", "set", "policy.file", ".ddr/mine.toml"])?;
        let (keys, folder) = many.keys()?;
        let chunks = |n: usize| -> Result<usize, String> {
            let records = many.records(&many.stores[n], &keys, folder)?;
            Ok(records.ids.len() - records.manifests.len())
        };
        std::thread::sleep(Duration::from_millis(2100));
        let done = many.sandbox.run(&["stash"]).expect(&[0, 3])?;
        let (edge, far) = (chunks(0)?, chunks(1)?);
        if far == 0 || far >= edge || !done.stdout.contains("moved on to the next tier") {
            return Err(format!("{edge} chunks on the edge, {far} on the far tier: {}", done.stdout));
        }
        if many.sandbox.run(&["stash"]).expect(&[0, 3])?.stdout.contains("moved on") {
            return Err("what lies where it should moves again".into());
        }
        // Now all of it, by age.
        many.sandbox.ok(&["config", "set", "policy.tier.edge.keep", "1s"])?;
        std::thread::sleep(Duration::from_millis(2100));
        let planned = many.sandbox.ok(&["policy", "plan"])?;
        if !planned.stdout.contains("would be moved on") || chunks(1)? != far {
            return Err(format!("a plan moves nothing, and says what would: {}", planned.stdout));
        }
        many.sandbox.run(&["stash"]).expect(&[0, 3])?;
        if chunks(1)? < edge {
            return Err(format!("{} of {edge} chunks on the far tier", chunks(1)?));
        }
        for _ in 0..3 {
            many.sandbox.ok(&["gc", "--grace", "0s"])?;
        }
        if chunks(0)? != 0 {
            return Err("the edge is not emptied".into());
        }
        many.count(1)?;
        many.sandbox.ok(&["checkout", "."])?;
        many.model.check_bytes()
    });
}

#[test]
fn gc_of_the_edge_keeps_what_the_far_tier_lacks() {
    passes(|| {
        let many = Many::new(2, 9, false)?;
        many.sandbox.ok(&["tier", "add", "edge", "s0", "--keep", "0s"])?;
        many.sandbox.ok(&["tier", "add", "far", "s1"])?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        for _ in 0..3 {
            many.sandbox.ok(&["gc", "--grace", "0s"])?;
        }
        many.count(1)?;
        many.sandbox.ok(&["checkout", "."])?;
        many.model.check_bytes()
    });
}

#[test]
fn a_drained_member_gives_up_its_share_only() {
    passes(|| {
        let many = Many::new(3, 10, false)?;
        many.sandbox.ok(&["tier", "add", "disks", "s0", "s1", "s2", "--layout", "bundle"])?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        let (keys, folder) = many.keys()?;
        let before: Vec<HashSet<RecordId>> = many
            .stores
            .iter()
            .map(|s| many.records(s, &keys, folder).map(|r| r.ids))
            .collect::<Result<_, _>>()?;
        many.sandbox.ok(&["tier", "drain", "s0"])?;
        for _ in 0..3 {
            many.sandbox.ok(&["gc", "--grace", "0s"])?;
        }
        let drained = many.records(&many.stores[0], &keys, folder)?;
        if drained.ids.len() != drained.manifests.len() {
            return Err("the drained store still has chunks".into());
        }
        for n in [1, 2] {
            let now = many.records(&many.stores[n], &keys, folder)?.ids;
            if !before[n].is_subset(&now)
                || !now.iter().all(|id| before[n].contains(id) || before[0].contains(id))
            {
                return Err(format!("store {n} got or lost more than the share of the drained one"));
            }
        }
        many.count(1)?;
        many.sandbox.ok(&["remote", "remove", "s0", "--force"])?;
        many.sandbox.ok(&["checkout", "."])?;
        many.model.check_bytes()
    });
}

#[test]
fn a_store_that_was_away_catches_up_without_being_asked() {
    passes(|| {
        let mut many = Many::new(2, 11, false)?;
        many.sandbox.ok(&["config", "set", "stash.copies", "1"])?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        let away = many.stores[1].with_extension("away");
        fs::rename(&many.stores[1], &away).map_err(|e| e.to_string())?;
        for _ in 0..6 {
            many.model.edit(&mut many.random).map_err(|e| e.to_string())?;
        }
        fs::write(many.sandbox.folder().join("new.dat"), crate::support::content::noise(99, 400_000))
            .map_err(|e| e.to_string())?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        let said = many.sandbox.ok(&["status"])?;
        if !said.stdout.contains("missed up to") {
            return Err(format!("status says how far s1 is behind: {}", said.stdout));
        }
        fs::rename(&away, &many.stores[1]).map_err(|e| e.to_string())?;
        let logs = |n: usize| walk(&many.stores[n].join("store/log")).map_err(|e| e.to_string());
        // Reading is contact enough for the history.
        many.sandbox.ok(&["status"])?;
        if logs(0)? != logs(1)? {
            return Err("the logs are not level".into());
        }
        let said = many.sandbox.ok(&["commit"])?;
        let all = said.stdout + &said.stderr;
        if !all.contains("caught up") {
            return Err(format!("the next command brings what it missed: {all}"));
        }
        many.count(2)?;
        many.sandbox.ok(&["tier", "check"]).map(drop)
    });
}

#[test]
fn a_lost_store_is_replaced_from_what_is_left() {
    passes(|| {
        // Store ids are random: of many files the lost store surely has some.
        let many = Many::of(3, 12, false, 60)?;
        many.sandbox
            .ok(&["tier", "add", "disks", "s0", "s1", "s2", "--layout", "bundle", "--copies", "2"])?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        many.count(2)?;
        many.sandbox.run(&["remote", "lost", "s1"]).expect(&[4])?;
        fs::remove_dir_all(&many.stores[1]).map_err(|e| e.to_string())?;
        let plan = many.sandbox.ok(&["remote", "lost", "s1", "-n"])?;
        if !plan.stdout.contains("would be copied") {
            return Err(format!("the plan says what is short: {}", plan.stdout));
        }
        many.sandbox.ok(&["remote", "lost", "s1"])?;
        let left = Many { stores: vec![many.stores[0].clone(), many.stores[2].clone()], ..many };
        left.count(2)?;
        left.sandbox.ok(&["tier", "check"])?;
        left.sandbox.ok(&["checkout", "."])?;
        left.model.check_bytes()
    });
}

#[test]
fn a_damaged_copy_found_on_the_way_is_repaired_from_a_good_one() {
    passes(|| {
        let many = Many::new(2, 13, false)?;
        many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
        let data = many.stores[0].join("store/data");
        for entry in fs::read_dir(&data).map_err(|e| e.to_string())?.flatten() {
            let mut bytes = fs::read(entry.path()).map_err(|e| e.to_string())?;
            let end = bytes.len() / 2;
            bytes[pack::HEAD_LEN..end].iter_mut().for_each(|b| *b ^= 1);
            fs::write(entry.path(), bytes).map_err(|e| e.to_string())?;
        }
        // Twice: whichever store is read first, the damaged one is met.
        let said = many.sandbox.ok(&["checkout", "."])?;
        many.model.check_bytes()?;
        if said.stderr.contains("repaired") {
            many.sandbox.run(&["stash", "."]).expect(&[0, 3])?;
            many.count(2)?;
        }
        Ok(())
    });
}
