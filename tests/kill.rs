//! Kill drill: the real ddr ended by SIGKILL at random moments of random commands.
//!
//! Promises that after every kill the next command succeeds, every file is still listed as it was
//! and holds its bytes or a clean stub; and that at the end of each round every byte is back,
//! everything ever acknowledged can be restored, and the store alone gives the tree to a new
//! machine. `DDR_DRILL=50` makes 500 kills. The page cache survives a kill: what a lost sync does
//! is the power-cut drill's business.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::support::content::Random;
use crate::support::steps::{Acked, Step, Verb};
use crate::support::tree::{Model, Node, hash_file, read};
use crate::support::{Output, Sandbox, say, scale, seed};

/// Kills per round; `DDR_DRILL` is the number of rounds.
const KILLS: usize = 10;
/// Paths per round whose old versions are all restored.
const HISTORIES: usize = 8;

struct Round {
    sandbox: Sandbox,
    model: Model,
    random: Random,
    acked: Acked,
    /// Every content the user ever wrote.
    written: BTreeSet<String>,
    /// How long each command takes when nobody kills it.
    usual: BTreeMap<Verb, Duration>,
    json: bool,
    gc: &'static [&'static str],
    log: Vec<String>,
    kills: usize,
    mended: usize,
}

impl Round {
    fn new(seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let sandbox = Sandbox::new();
        sandbox.set_up()?;
        let json = sandbox.knows_option("stash", "--json");
        let gc = sandbox.gc_words();
        let model = Model::grow(&sandbox.folder(), 12, &mut random);
        let mut round = Self {
            sandbox,
            model,
            random,
            acked: Acked::default(),
            written: BTreeSet::new(),
            usual: BTreeMap::new(),
            json,
            gc,
            log: vec![],
            kills: 0,
            mended: 0,
        };
        round.note_written();
        Ok(round)
    }

    fn note_written(&mut self) {
        let hash = |node: &Node| match node {
            Node::File { hash, .. } => Some(hash.to_hex().to_string()),
            _ => None,
        };
        self.written.extend(self.model.nodes.values().filter_map(hash));
    }

    fn edit(&mut self) -> Result<(), String> {
        for _ in 0..self.random.below(4) {
            let what = self.model.edit(&mut self.random).map_err(|e| format!("the drill's own edit: {e}"))?;
            self.log.push(what);
        }
        self.note_written();
        Ok(())
    }

    /// Runs a command and may kill it on the way; whether it did.
    fn interrupt(&mut self, step: &Step) -> Result<bool, String> {
        let mut step = step.clone();
        if self.json && step.verb == Verb::Stash && self.random.below(2) == 0 {
            step.args.push("--json".into());
        }
        let usual = *self.usual.entry(step.verb).or_insert(Duration::from_millis(150));
        let delay = Duration::from_micros(self.random.below(usual.as_micros() as u64 * 5 / 4));
        let mut running = self.sandbox.start(&step.args, None);
        running.wait_at_most(delay);
        let killed = !running.ended();
        if killed {
            running.kill();
        } else {
            self.usual.insert(step.verb, (usual + running.age()) / 2);
        }
        let output = running.wait();
        self.log.push(format!("{} -> {:?} after {delay:?}", step.line(), output.code));
        self.acked.said(&output.stdout, &self.model);
        if killed {
            // Patience, or a first guess that is too short would never see a command end.
            self.usual.insert(step.verb, usual + usual / 20);
            return Ok(output.code.is_none());
        }
        let output = output.expect(step.fine())?;
        if output.code == Some(0) {
            self.acked.finished(&step, &self.model);
        }
        Ok(false)
    }

    /// The next command after a kill: it must succeed and leave everything in order.
    fn mend(&mut self) -> Result<(), String> {
        let step = match self.random.below(6) {
            0 => Step::of(Verb::Stash, &["stash", "."]),
            1 => Step::of(Verb::Checkout, &["checkout", "."]),
            2 => Step::of(Verb::Commit, &["commit", "-m", "after a kill"]),
            _ => Step::of(Verb::Checkout, &["status"]),
        };
        let output: Output = self.sandbox.run(&step.args);
        self.log.push(format!("{} -> {:?}", step.line(), output.code));
        let output = output.expect(&[0, 3])?;
        self.mended += usize::from(!output.mended().is_empty());
        if output.code == Some(0) {
            self.acked.finished(&step, &self.model);
        }
        Ok(())
    }

    /// What a restore, killed or not, left in its file becomes the model's.
    fn follow_restore(&mut self, path: &Path) -> Result<(), String> {
        self.sandbox.ok(&[OsString::from("checkout"), Path::new(".").join(path).into()])?;
        let full = self.sandbox.folder().join(path);
        let found = hash_file(&full).map_err(|e| format!("{path:?} after restore: {e}"))?;
        if !self.written.contains(found.to_hex().as_str()) {
            return Err(format!("{path:?} after restore holds {found}, which nobody wrote"));
        }
        let before = match self.model.nodes.get(path) {
            Some(Node::File { hash, .. }) => *hash,
            _ => found,
        };
        if before != found {
            // The user's bytes that gave way must be in the history, saved before or not.
            self.acked.remember(path, before);
        }
        self.model.observe(path, Some(found)).map_err(|e| e.to_string())
    }

    fn play(&mut self) -> Result<(), String> {
        while self.kills < KILLS {
            self.edit()?;
            let step = Step::random(&mut self.random, &self.model, self.gc, true);
            self.kills += usize::from(self.interrupt(&step)?);
            self.mend()?;
            if step.verb == Verb::Restore {
                self.follow_restore(&step.paths[0])?;
            }
            self.model.check_listing()?;
        }
        self.settle()
    }

    /// The whole account at the end of a round.
    fn settle(&mut self) -> Result<(), String> {
        let commit = Step::of(Verb::Commit, &["commit", "-m", "the end"]);
        self.sandbox.ok(&commit.args)?;
        self.acked.finished(&commit, &self.model);
        self.sandbox.ok(&["checkout", "."])?;
        self.model.check_bytes()?;
        self.no_marks()?;
        self.sandbox.ok(&["fsck", "--read-data"])?;
        self.histories()?;
        let other = self.sandbox.clone_and_fill("two")?;
        let clone = read(&other.folder()).map_err(|e| e.to_string())?;
        self.acked.check_clone(&clone, &self.model.nodes)?;
        if clone == self.model.nodes {
            return Ok(());
        }
        let differs = |(path, node): &(_, _)| clone.get(*path) != Some(*node);
        let wrong: Vec<_> =
            self.model.nodes.iter().filter(differs).map(|(p, n)| format!("{p:?} {n:?}")).collect();
        Err(format!("the clone of a settled folder is not the same tree:\n{}", wrong.join("\n")))
    }

    fn no_marks(&self) -> Result<(), String> {
        for path in self.model.files() {
            let full = self.sandbox.folder().join(&path);
            let mut value = [0u8; 256];
            if rustix::fs::lgetxattr(&full, ddr::format::stub::XATTR, &mut value[..]).is_ok() {
                return Err(format!("{path:?} is full and still marked"));
            }
        }
        Ok(())
    }

    /// Every acknowledged version of some paths is among those `restore` gives back.
    fn histories(&mut self) -> Result<(), String> {
        let paths: Vec<_> = self.acked.ever.keys().cloned().collect();
        for _ in 0..HISTORIES.min(paths.len()) {
            let path = self.random.pick(&paths).clone();
            let lost: Vec<_> = self.acked.ever[&path].difference(&self.restorable(&path)?).cloned().collect();
            if !lost.is_empty() {
                return Err(format!("{path:?}: acknowledged and not restorable: {lost:?}"));
            }
        }
        Ok(())
    }

    /// Contents of all versions that `history` lists for a path, as `restore` writes them.
    fn restorable(&self, path: &Path) -> Result<BTreeSet<String>, String> {
        let dotted = Path::new(".").join(path).into_os_string();
        let history = self.sandbox.ok(&["history".into(), "--json".into(), dotted.clone()])?;
        let temp = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut found = BTreeSet::new();
        for number in 1..=history.stdout.lines().count() {
            let mut word = dotted.clone();
            word.push(format!("#{number}"));
            let to = temp.path().join(number.to_string());
            // A version may be a removal, which restores to nothing.
            self.sandbox.run(&["restore".into(), word, "--to".into(), to.clone().into_os_string()]);
            found.extend(hash_file(&to).map(|h| h.to_hex().to_string()));
        }
        Ok(found)
    }
}

#[test]
fn i6_nothing_is_lost_when_killed_at_random_moments() {
    let (mut kills, mut mended) = (0, 0);
    for number in 0..scale() as u64 {
        let seed = seed() + number;
        let mut round = Round::new(seed).unwrap_or_else(|why| panic!("setting up: {why}"));
        if let Err(why) = round.play() {
            panic!("DDR_DRILL_SEED={seed}, after:\n  {}\n{why}", round.log.join("\n  "));
        }
        kills += round.kills;
        mended += round.mended;
    }
    say(&format!(
        "kill drill: {kills} kills, {mended} times the next command mended something, nothing lost"
    ));
}

/// Every operation of a restore that changes names (with `DDR_DRILL` above 1 every one) as its last:
/// the name has the old or the new file, and nothing else is there.
#[test]
fn i6_a_restore_cut_short_leaves_the_old_or_the_new_file() {
    if !cfg!(debug_assertions) {
        return say("restore drill skipped: a release build has no faults");
    }
    let kind = if scale() > 1 { "last" } else { "link-last" };
    let ended = |fault: &String| cut_restore(fault).unwrap_or_else(|why| panic!("{fault}: {why}"));
    let tried = (1..).map(|k| format!("{kind}:{k}")).take_while(|fault| !ended(fault)).count();
    assert!(tried > 5, "a restore has more than {tried} operations");
    say(&format!("restore drill: cut short at {tried} operations, nothing lost"));
}

/// Whether the fault came too late to matter.
fn cut_restore(fault: &str) -> Result<bool, String> {
    let sandbox = Sandbox::new();
    sandbox.set_up()?;
    let path = sandbox.folder().join("file");
    let write = |text: &str| std::fs::write(&path, text).map_err(|e| e.to_string());
    write("the first version")?;
    sandbox.ok(&["commit", "-m", "one"])?;
    write("the second version, which is longer")?;
    let output = sandbox.start(&["restore", "file#1"], Some(fault)).wait().expect(&[0, 86])?;
    sandbox.ok(&["status"])?;
    let names = crate::support::tree::walk(&sandbox.folder()).map_err(|e| e.to_string())?;
    let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let wanted = text == "the first version" || (output.code != Some(0) && text.starts_with("the second"));
    if names != [Path::new("file")] || !wanted {
        return Err(format!("the tree is {names:?}, the file holds {text:?}"));
    }
    sandbox.ok(&["commit", "-m", "two"])?;
    sandbox.ok(&["restore", "file#2"])?;
    sandbox.ok(&["fsck", "--read-data"])?;
    let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
    if !text.starts_with("the second") {
        return Err(format!("version 2 is lost: {text:?}"));
    }
    Ok(output.code == Some(0))
}

/// What is gone from the tree is in no log: a rebuild that ends early must not make ddr forget it.
#[test]
fn i6_a_rebuild_cut_short_still_knows_what_was_deleted() {
    if !cfg!(debug_assertions) {
        return say("rebuild drill skipped: a release build has no faults");
    }
    let ended = |fault: &String| cut_rebuild(fault).unwrap_or_else(|why| panic!("{fault}: {why}"));
    let tried = (1..).map(|k| format!("last:{k}")).take_while(|fault| !ended(fault)).count();
    assert!(tried > 2, "a rebuild has more than {tried} operations");
}

/// Whether the fault came too late to matter.
fn cut_rebuild(fault: &str) -> Result<bool, String> {
    let sandbox = Sandbox::new();
    sandbox.set_up()?;
    for name in ["kept", "gone"] {
        std::fs::write(sandbox.folder().join(name), name).map_err(|e| e.to_string())?;
    }
    sandbox.ok(&["commit", "-m", "both"])?;
    std::fs::remove_file(sandbox.folder().join("gone")).map_err(|e| e.to_string())?;
    let output = sandbox.start(&["rebuild"], Some(fault)).wait().expect(&[0, 86])?;
    let status = sandbox.ok(&["status"])?;
    if status.stdout.lines().filter(|l| l.starts_with("D gone") || l.starts_with("A ")).count() != 1 {
        return Err(format!("status says {}{}", status.stdout, status.stderr));
    }
    sandbox.ok(&["commit", "-m", "one"])?;
    let clone = sandbox.clone_and_fill("two")?;
    if clone.folder().join("gone").exists() || !clone.folder().join("kept").exists() {
        return Err("the clone has not the same files".into());
    }
    Ok(output.code == Some(0))
}

/// Only stubs carry a mark: a tool that copies attributes would spread it.
#[test]
fn the_mark_of_a_stub_that_was_written_over_goes_with_the_next_commit() {
    let sandbox = Sandbox::new();
    sandbox.set_up().unwrap();
    let marked = |name: &str| {
        let path = sandbox.folder().join(name);
        rustix::fs::lgetxattr(&path, ddr::format::stub::XATTR, &mut [0u8; 256][..]).is_ok()
    };
    for name in ["long", "empty"] {
        std::fs::write(sandbox.folder().join(name), name.repeat(20_000)).unwrap();
    }
    sandbox.ok(&["stash", "."]).unwrap();
    assert!(marked("long") && marked("empty"));
    std::fs::write(sandbox.folder().join("long"), "new".repeat(20_000)).unwrap();
    std::fs::write(sandbox.folder().join("empty"), "").unwrap();
    sandbox.ok(&["commit"]).unwrap();
    assert!(!marked("long") && !marked("empty"));
    // What was recorded is what is there: the next run has nothing to look at again.
    assert!(sandbox.ok(&["status"]).unwrap().stdout.contains("nothing changed"));
}
