//! Commands a drill may interrupt, and what their answers promise.
//!
//! Promises that a content counts as acknowledged only once ddr said so: by exit code 0 of a
//! command that places it, or by a line of `--json` output that names its path.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::content::Random;
use super::tree::{Hash, Model, Node, Nodes};

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verb {
    /// Place and make stubs.
    Stash,
    /// Fill stubs.
    Checkout,
    /// Place and record.
    Commit,
    /// Free what nothing refers to.
    Gc,
    /// Forget old versions.
    Prune,
    /// Make the indexes anew.
    Rebuild,
    /// Write an old version.
    Restore,
}

/// One command.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does.
    pub verb: Verb,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The paths it was given; empty means all.
    pub paths: Vec<PathBuf>,
}

impl Step {
    /// A command of fixed words on the whole tree.
    pub fn of(verb: Verb, words: &[&str]) -> Self {
        Self { verb, args: words.iter().map(OsString::from).collect(), paths: vec![] }
    }

    fn on(verb: Verb, word: &str, paths: Vec<PathBuf>) -> Self {
        let args = paths.iter().map(|p| Path::new(".").join(p).into_os_string());
        Self { verb, args: [word.into()].into_iter().chain(args).collect(), paths }
    }

    /// A random one; `gc` are the words for that, `restore` only where the drill can follow it.
    pub fn random(random: &mut Random, model: &Model, gc: &[&str], restore: bool) -> Self {
        let some = |random: &mut Random| {
            let mut paths: Vec<_> = (0..random.between(1, 3)).map(|_| model.pick(random)).collect();
            paths.sort();
            paths.dedup();
            paths
        };
        match random.below(if restore { 14 } else { 12 }) {
            0..=2 => Self::of(Verb::Stash, &["stash", "."]),
            3 => Self::on(Verb::Stash, "stash", some(random)),
            4 | 5 => Self::of(Verb::Checkout, &["checkout", "."]),
            6 => Self::on(Verb::Checkout, "checkout", some(random)),
            7 | 8 => Self::of(Verb::Commit, &["commit", "-m", "a message"]),
            9 => Self::of(Verb::Gc, gc),
            10 | 11 => Self::of(Verb::Rebuild, &["rebuild"]),
            _ => Self::restore(random, model),
        }
    }

    fn restore(random: &mut Random, model: &Model) -> Self {
        let path = model.pick(random);
        let mut word = Path::new(".").join(&path).into_os_string();
        word.push(format!("#{}", random.between(1, 3)));
        Self { verb: Verb::Restore, args: vec!["restore".into(), word], paths: vec![path] }
    }

    /// Exit codes that are no failure when nothing interrupts the command.
    pub fn fine(&self) -> &'static [i32] {
        match self.verb {
            // There may be no such version, or the current one is not saved yet.
            Verb::Restore => &[0, 1, 2, 3, 4],
            // Named files that are too small for a stub say so.
            Verb::Stash if !self.paths.is_empty() => &[0, 3],
            _ => &[0],
        }
    }

    /// Whether exit code 0 says that contents are safe.
    pub fn acknowledges(&self) -> bool {
        matches!(self.verb, Verb::Stash | Verb::Commit)
    }

    /// The command line.
    pub fn line(&self) -> String {
        let words: Vec<_> = self.args.iter().map(|a| format!("{a:?}")).collect();
        words.join(" ")
    }
}

/// Contents that ddr said are safe.
#[derive(Clone, Default, Debug)]
pub struct Acked {
    /// Per path, the last one.
    pub last: BTreeMap<PathBuf, Hash>,
    /// All of them, by path; hashes in hex, which have an order.
    pub ever: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Acked {
    /// A command ended with exit code 0.
    pub fn finished(&mut self, step: &Step, model: &Model) {
        if !step.acknowledges() {
            return;
        }
        if step.paths.is_empty() {
            self.last.clear();
        }
        let covered = |path: &Path| step.paths.is_empty() || step.paths.iter().any(|p| p == path);
        for (path, hash) in hashes(&model.nodes).filter(|(p, _)| covered(p)) {
            self.last.insert(path.clone(), hash);
            self.remember(path, hash);
        }
    }

    /// One more version that must stay restorable.
    pub fn remember(&mut self, path: &Path, hash: Hash) {
        self.ever.entry(path.into()).or_default().insert(hash.to_hex().to_string());
    }

    /// Lines of `--json` output: each path said to be placed or stashed must stay restorable.
    pub fn said(&mut self, text: &str, model: &Model) {
        // A line without its end was cut off by the kill: it was never said.
        for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
            let Ok(serde_json::Value::Object(object)) = serde_json::from_str(line) else { continue };
            let safe = object.values().any(|v| matches!(v.as_str(), Some("placed" | "stashed" | "stub")));
            let path = object.get("path").and_then(|p| p.as_str()).map(PathBuf::from);
            if let (true, Some(path)) = (safe, path)
                && let Some(Node::File { hash, .. }) = model.nodes.get(&path)
            {
                self.remember(&path, *hash);
            }
        }
    }

    /// Whether what a store gave to a new machine has everything that was acknowledged. A command
    /// that was cut off may have recorded newer contents of `current`, or removals, as well.
    pub fn check_clone(&self, clone: &Nodes, current: &Nodes) -> Result<(), String> {
        let got: BTreeMap<_, _> = hashes(clone).collect();
        let now: BTreeMap<_, _> = hashes(current).collect();
        let mut wrong = Vec::new();
        for (path, hash) in &self.last {
            match got.get(path) {
                Some(found) if found == hash || now.get(path) == Some(found) => {}
                Some(found) => wrong.push(format!("{path:?}: the clone holds {found} instead of {hash}")),
                None if !now.contains_key(path) => {}
                None => wrong.push(format!("{path:?}: acknowledged, and not in the clone")),
            }
        }
        for (path, found) in got.iter().filter(|(p, _)| !self.last.contains_key(**p)) {
            if now.get(path) != Some(found) {
                wrong.push(format!("{path:?}: the clone holds {found}, which nobody wrote there"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

fn hashes(nodes: &Nodes) -> impl Iterator<Item = (&PathBuf, Hash)> {
    nodes.iter().filter_map(|(path, node)| match node {
        Node::File { hash, .. } => Some((path, *hash)),
        _ => None,
    })
}

#[test]
fn a_clone_that_lacks_or_invents_something_is_caught() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut random = Random::new(5);
    let mut model = Model::grow(temp.path(), 6, &mut random);
    let mut acked = Acked::default();
    acked.finished(&Step::of(Verb::Checkout, &["checkout", "."]), &model);
    assert!(acked.last.is_empty());
    acked.finished(&Step::of(Verb::Stash, &["stash", "."]), &model);
    let before = model.nodes.clone();
    acked.check_clone(&before, &before).expect("the clone is the tree");
    let victim = model.files().remove(0);
    let mut lacking = before.clone();
    lacking.remove(&victim);
    assert!(acked.check_clone(&lacking, &before).is_err());
    assert!(acked.check_clone(&lacking, &lacking).is_ok(), "a removal may be recorded already");
    for _ in 0..20 {
        model.edit(&mut random).expect("edit");
    }
    acked.check_clone(&before, &model.nodes).expect("the acknowledged state is enough");
    acked.check_clone(&model.nodes, &model.nodes).expect("the newer state is fine too");
    let mut invented = before.clone();
    invented.insert("invented".into(), before[&victim].clone());
    assert!(acked.check_clone(&invented, &model.nodes).is_err());
}
