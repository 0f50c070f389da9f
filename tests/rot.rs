//! Corruption drill: bytes of a store change, its objects get shorter or vanish.
//!
//! A tree with some history lies as stubs on two mirror stores. Per case one object of one of them
//! (a pack of data or of manifests, a log object, a hold, a gc mark; sometimes of the folder's own
//! store) gets a flipped bit, is cut short or is deleted. Promises that `ddr fsck --read-data` finds
//! it, with the object's name or by counting contents; that with the damaged store alone `checkout`
//! makes each file right or leaves a proper stub and says so; and that with the other store
//! `fsck --repair` mends everything and takes nothing away but into `quarantine/`. `DDR_DRILL=10`
//! makes 200 cases. Also: every SQLite file deleted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::support::content::{Content, Kind, Random};
use crate::support::tree::{Model, State, hash_file, read, state};
use crate::support::{Output, Sandbox, say, scale, seed};

/// Cases; times `DDR_DRILL`.
const CASES: usize = 20;
/// Every so many cases a new machine is made from the mended store alone.
const CLONES: usize = 7;

/// What happens to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Flip,
    Cut,
    Delete,
}

/// Bytes of every object of a store, by name.
type Objects = BTreeMap<String, Vec<u8>>;

struct Drill {
    sandbox: Sandbox,
    model: Model,
    random: Random,
    /// The stores: two mirrors, and the folder's own.
    stores: [(&'static str, PathBuf); 3],
    tried: BTreeMap<String, usize>,
}

impl Drill {
    /// A stashed tree with some history.
    fn new() -> Result<Self, String> {
        let mut random = Random::new(seed());
        let sandbox = Sandbox::new();
        sandbox.set_up()?;
        let (one, two) = (sandbox.store(), sandbox.store().with_file_name("second"));
        let add = ["remote", "add", "disk3"].map(OsString::from);
        let flags = ["--init", "--same-disk", "--domain", "third"].map(OsString::from);
        sandbox.ok(&[&add[..], &[two.clone().into_os_string()], &flags].concat())?;
        sandbox.ok(&["remote", "set", "disk2", "--domain", "second"])?;
        let model = Model::grow(&sandbox.folder(), 10, &mut random);
        let own = sandbox.folder().join(".ddr/store");
        let stores = [("disk2", one.join("store")), ("disk3", two.join("store")), ("own", own)];
        let mut drill = Self { sandbox, model, random, stores, tried: BTreeMap::new() };
        drill.big("big.dat", Kind::Noise)?;
        drill.big("sparse.dat", Kind::Sparse)?;
        for words in [&["stash", "."][..], &["commit", "-m", "two"], &["stash", "."], &["gc"]] {
            drill.sandbox.ok(words)?;
            drill.edit(4)?;
        }
        drill.sandbox.ok(&["stash", "."])?;
        Ok(drill)
    }

    fn big(&mut self, name: &str, kind: Kind) -> Result<(), String> {
        let path = self.sandbox.folder().join(name);
        let told = |e: std::io::Error| e.to_string();
        Content::of(kind, &mut self.random).write(&path).map_err(told)?;
        self.model.observe(Path::new(name), Some(hash_file(&path).map_err(told)?)).map_err(told)
    }

    fn edit(&mut self, times: u64) -> Result<(), String> {
        for _ in 0..times {
            self.model.edit(&mut self.random).map_err(|e| format!("the drill's own edit: {e}"))?;
        }
        Ok(())
    }

    /// An object of a store, chosen by its kind first: there are many more packs than marks.
    fn victim(&mut self) -> Result<(usize, String), String> {
        let store = *self.random.pick(&[0, 0, 0, 1, 1, 1, 2]);
        let objects = objects(&self.stores[store].1)?;
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in objects.keys().filter(|n| !n.starts_with("quarantine/") && *n != "folder") {
            kinds.entry(name.split('/').next().unwrap_or_default()).or_default().push(name);
        }
        let kinds: Vec<_> = kinds.into_iter().collect();
        let (_, names) = self.random.pick(&kinds);
        Ok((store, self.random.pick(names).to_string()))
    }

    /// A gc mark that is gone leaves no trace, and none is needed: gc begins anew.
    fn harm(&mut self, path: &Path, deletable: bool) -> Result<Harm, String> {
        let told = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut bytes = std::fs::read(path).map_err(told)?;
        let kinds = [Harm::Flip, Harm::Flip, Harm::Cut, Harm::Delete];
        let harm = *self.random.pick(if deletable { &kinds } else { &kinds[..3] });
        match harm {
            Harm::Flip => {
                let at = self.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
            }
            Harm::Cut => bytes.truncate(self.random.below(bytes.len() as u64) as usize),
            Harm::Delete => return std::fs::remove_file(path).map(|()| harm).map_err(told),
        }
        std::fs::write(path, bytes).map(|()| harm).map_err(told)
    }

    /// One case; what was done is in the error.
    fn case(&mut self, number: usize) -> Result<(), String> {
        let (store, name) = self.victim()?;
        let (label, dir) = self.stores[store].clone();
        let kind = name.split('/').next().unwrap_or_default();
        let harm = self.harm(&dir.join(&name), kind != "gc")?;
        *self.tried.entry(format!("{harm:?} {kind}").to_lowercase()).or_default() += 1;
        let what = format!("{harm:?} of {name} in {label}");
        // Shown if a command hangs.
        println!("case {number}: {what}");
        let told = |why: String| format!("{what}: {why}");
        self.find(store, &name).map_err(told)?;
        self.alone(store).map_err(told)?;
        self.mend(store).map_err(told)?;
        if number.is_multiple_of(CLONES) && store < 2 {
            self.clone_from(store).map_err(told)?;
        }
        self.edit(2)?;
        let next: &[&str] =
            if self.random.below(4) == 0 { &["gc", "--grace", "0s"] } else { &["stash", "."] };
        self.sandbox.ok(next).map_err(told)?;
        self.sandbox.ok(&["stash", "."]).map_err(told).map(drop)
    }

    /// fsck finds the damage and names it or counts what is gone with it; without `--read-data`
    /// nothing sound is found damaged either.
    fn find(&self, store: usize, name: &str) -> Result<(), String> {
        let label = self.stores[store].0;
        let output = self.sandbox.run(&["fsck", "--read-data", "--json"]).expect(&[5])?;
        let (mut found, mut others) = (false, vec![]);
        for object in json(&output) {
            if object["type"] != "fsck" {
                continue;
            }
            let damaged = object["damaged"].as_array().ok_or("no damaged objects in the answer")?;
            let missing = object["missing"].as_u64().ok_or("no missing contents in the answer")?;
            if object["store"] == label {
                found |= missing > 0 || damaged.iter().any(|d| d["object"] == name);
            } else if missing > 0 || !damaged.is_empty() {
                others.push(object);
            }
        }
        match (found, others.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("fsck did not find it:\n{}{}", output.stdout, output.stderr)),
            _ => Err(format!("fsck found damage in a sound store: {others:?}")),
        }
    }

    /// With the damaged store alone every file gets right, or stays a proper stub and is reported.
    fn alone(&self, store: usize) -> Result<(), String> {
        let others: Vec<&PathBuf> = (0..2).filter(|i| *i != store).map(|i| &self.stores[i].1).collect();
        let moved = |dir: &PathBuf| dir.with_file_name("away");
        for dir in others.iter().take(1) {
            std::fs::rename(dir, moved(dir)).map_err(|e| e.to_string())?;
        }
        let output = self.sandbox.run(&["checkout", ".", "--json"]);
        for dir in others.iter().take(1) {
            std::fs::rename(moved(dir), dir).map_err(|e| e.to_string())?;
        }
        let output = output.expect(&[0, 3])?;
        self.model.check_listing()?;
        let is_stub =
            |path: &&PathBuf| state(&self.sandbox.folder().join(path)).is_ok_and(|s| s == State::Stub);
        let files = self.model.files();
        let stubs = files.iter().filter(is_stub).count();
        let problems = json(&output).filter(|o| o["type"] == "problem").count();
        if stubs == problems && (stubs > 0) == (output.code == Some(3)) {
            return Ok(());
        }
        Err(format!("{stubs} stubs stayed, {problems} were reported: {}{}", output.stdout, output.stderr))
    }

    /// With the other store everything is mended, and nothing is gone but into quarantine.
    fn mend(&self, store: usize) -> Result<(), String> {
        let before = objects(&self.stores[store].1)?;
        self.sandbox.ok(&["fsck", "--read-data", "--repair"])?;
        let after = objects(&self.stores[store].1)?;
        for (name, bytes) in &before {
            let kept = |n: &String| n == name || n.starts_with(&format!("quarantine/{name}"));
            if !after.iter().any(|(n, b)| kept(n) && b == bytes) {
                return Err(format!("repair took {name} away"));
            }
        }
        self.sandbox.ok(&["fsck", "--read-data"])?;
        self.sandbox.ok(&["checkout", "."])?;
        self.model.check_bytes()?;
        self.sandbox.ok(&["stash", "."]).map(drop)
    }

    /// The mended store alone has everything.
    fn clone_from(&self, store: usize) -> Result<(), String> {
        let other = self.sandbox.clone_from(&self.stores[store].1, "two")?;
        let clone = read(&other.folder()).map_err(|e| e.to_string())?;
        self.sandbox.remove_machine(&other);
        if clone == self.model.nodes { Ok(()) } else { Err("the mended store gives another tree".into()) }
    }
}

fn json(output: &Output) -> impl Iterator<Item = serde_json::Value> + '_ {
    output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Every object of a store, but not what is unfinished, nor the reserve.
fn objects(dir: &Path) -> Result<Objects, String> {
    let told = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut found = Objects::new();
    for path in crate::support::tree::walk(dir).map_err(told)? {
        let full = dir.join(&path);
        if full.is_file() && !path.starts_with("tmp") && !path.starts_with("RESERVE") {
            found.insert(path.to_string_lossy().into_owned(), std::fs::read(full).map_err(told)?);
        }
    }
    Ok(found)
}

#[test]
fn rot_in_a_store_is_found_mended_and_never_checked_out() {
    let cases = CASES * scale();
    let mut drill = Drill::new().unwrap_or_else(|why| panic!("setting up: {why}"));
    for number in 1..=cases {
        drill.case(number).unwrap_or_else(|why| panic!("DDR_DRILL_SEED={}, case {number}: {why}", seed()));
    }
    say(&format!("corruption drill: {cases} cases found and mended: {:?}", drill.tried));
}

/// Every field of an object's head is covered, the folder's id too: with a flipped bit it is damaged, not
/// another folder's.
#[test]
fn a_flipped_bit_in_the_head_of_any_object_is_found_and_mended() {
    let drill = Drill::new().unwrap_or_else(|why| panic!("setting up: {why}"));
    let (store, dir) = (0, drill.stores[0].1.clone());
    let first = |kind: &str| {
        let objects = objects(&dir).unwrap_or_else(|why| panic!("{why}"));
        objects.into_keys().find(|name| name.starts_with(kind))
    };
    for kind in ["data/", "meta/", "log/", "holds/", "gc/"] {
        for at in [1, 12, 28, 40] {
            // A gc mark goes to quarantine, and gc begins anew.
            let Some(name) = first(kind) else { continue };
            let mut bytes = std::fs::read(dir.join(&name)).expect("an object");
            bytes[at] ^= 4;
            std::fs::write(dir.join(&name), bytes).expect("writable");
            let told = |why| panic!("byte {at} of {name}: {why}");
            drill.find(store, &name).unwrap_or_else(told);
            drill.mend(store).unwrap_or_else(told);
        }
    }
}

/// I9: every database can be deleted at any time.
#[test]
fn i9_without_any_database_the_state_is_the_same() {
    let drill = Drill::new().unwrap_or_else(|why| panic!("setting up: {why}"));
    drill.databases().unwrap_or_else(|why| panic!("DDR_DRILL_SEED={}: {why}", seed()));
}

impl Drill {
    fn databases(&self) -> Result<(), String> {
        let (facts, nothing) = (self.facts()?, "nothing changed");
        let delete = || match self.sandbox.remove_databases()? {
            0..=2 => Err("there were fewer databases than a history and two indexes".to_string()),
            _ => Ok(()),
        };
        delete()?;
        let status = self.sandbox.ok(&["status"])?;
        if !status.stdout.contains("stubs") {
            return Err(format!("status without databases: {}{}", status.stdout, status.stderr));
        }
        delete()?;
        self.sandbox.ok(&["rebuild"])?;
        let status = self.sandbox.ok(&["status"])?;
        if self.facts()? != facts || !status.stdout.contains(nothing) {
            return Err(format!("another state after rebuild: {}\nbefore: {facts:?}", status.stdout));
        }
        // Without rebuild as well: whatever comes next has what it needs.
        delete()?;
        self.sandbox.ok(&["stash", "."])?;
        delete()?;
        self.sandbox.ok(&["checkout", "."])?;
        self.model.check_bytes()?;
        if self.facts()? == facts { Ok(()) } else { Err("another state without rebuild".into()) }
    }

    /// State hash, all of history, and that of every path.
    fn facts(&self) -> Result<Vec<String>, String> {
        let hash = self.sandbox.ok(&["debug", "state-hash"])?.stdout;
        let all = self.sandbox.ok(&["history", "--json", "--limit", "100000"])?.stdout;
        let mut facts = vec![hash, all, self.sandbox.ok(&["history", "--deleted", "--json"])?.stdout];
        for path in self.model.files() {
            let path = Path::new(".").join(path).into_os_string();
            facts.push(self.sandbox.ok(&["history".into(), "--json".into(), path])?.stdout);
        }
        Ok(facts)
    }
}

/// A damaged batch in the own log keeps what follows out of a new store's log: contents there would have no name.
#[test]
fn i1_nothing_is_freed_whose_name_lies_behind_a_gap_in_the_log_of_a_store() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["init", "."]).unwrap();
    let names = ["one", "two", "three"];
    for (i, name) in names.iter().enumerate() {
        let content = crate::support::content::noise(i as u64, 100_000);
        std::fs::write(sandbox.folder().join(name), content).unwrap();
        sandbox.ok(&["commit"]).unwrap();
    }
    let own = sandbox.folder().join(".ddr/store");
    let mut logs: Vec<_> =
        objects(&own).unwrap().into_keys().filter(|name| name.starts_with("log/")).collect();
    logs.sort();
    let damaged = own.join(&logs[1]);
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&damaged, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&damaged, &bytes).unwrap();
    let store = sandbox.store().into_os_string();
    let add = ["remote", "add", "--init", "--same-disk", "disk2"].map(OsString::from);
    sandbox.ok(&[&add[..], &[store]].concat()).unwrap();
    let output = sandbox.run(&["stash", "."]);
    assert!(output.code != Some(0) && output.stderr.contains(&logs[1]), "{}{}", output.stdout, output.stderr);
    let is_stub =
        |name: &str| ddr::format::stub::looks_like_stub(&std::fs::read(sandbox.folder().join(name)).unwrap());
    assert_eq!(names.map(is_stub), [true, false, false]);
}
