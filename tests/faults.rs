//! Fault drill: every operation that persists bytes fails, finds the disk full, or is the last.
//!
//! Counts the operations of a command first (`DDR_FAULT=count`), then runs it once per operation
//! and kind of fault, each time on a new sandbox. Promises that the command never panics, that
//! after the fault the next command mends, the same command then succeeds, every byte is there, and
//! a new machine gets everything from the store. `DDR_DRILL=1` tries a few operations of each
//! command, spread evenly; a large enough value tries every one.

use crate::support::content::Random;
use crate::support::steps::{Acked, Step, Verb};
use crate::support::tree::{Model, read};
use crate::support::{Output, Sandbox, say, scale, seed};

/// Operations tried per command and kind of fault; times `DDR_DRILL`.
const POINTS: usize = 3;
/// Exit code with which `last:K` ends the process.
const LAST: i32 = 86;

/// What happened before a command, each followed by some edits.
#[derive(Clone, Copy)]
enum Before {
    /// A command that succeeded.
    Done(Words),
    /// A stash that ended after its first pack: nothing refers to what it left in the store.
    Torn,
    /// Garbage collection without grace.
    Collected,
    /// Old versions are forgotten and packs rewritten.
    Pruned,
}

type Words = &'static [&'static str];

/// A command and what happened before it.
struct Scenario {
    name: &'static str,
    before: &'static [Before],
    verb: Verb,
    command: Words,
}

const STASH: Words = &["stash", "."];
const PRUNE: Words = &["prune", "--keep-last", "1"];
const COMMIT: Words = &["commit", "-m", "a message"];

impl Scenario {
    /// A new sandbox, up to the command.
    fn prepare(&self) -> Result<(Sandbox, Model), String> {
        let mut random = Random::new(seed());
        let sandbox = Sandbox::new();
        sandbox.set_up()?;
        let mut model = Model::grow(&sandbox.folder(), 8, &mut random);
        for (i, before) in self.before.iter().enumerate() {
            match before {
                Before::Done(words) => drop(sandbox.ok(words)?),
                Before::Torn => drop(sandbox.start(STASH, Some("link-last:5")).wait().expect(&[0, LAST])?),
                Before::Collected => drop(sandbox.ok(sandbox.gc_words())?),
                Before::Pruned => drop(sandbox.ok(PRUNE)?),
            }
            // Without databases nobody can tell a deletion from a file that never arrived.
            let edits = if self.verb == Verb::Rebuild && i + 1 == self.before.len() { 0 } else { 3 };
            for _ in 0..edits {
                model.edit(&mut random).map_err(|e| format!("the drill's own edit: {e}"))?;
            }
        }
        if self.verb == Verb::Rebuild {
            sandbox.remove_databases()?;
        }
        Ok((sandbox, model))
    }

    fn words(&self, sandbox: &Sandbox) -> Words {
        if self.verb == Verb::Gc { sandbox.gc_words() } else { self.command }
    }

    /// Number of operations of the command without any fault.
    fn operations(&self) -> Result<u64, String> {
        let (sandbox, _) = self.prepare()?;
        let output = sandbox.start(self.words(&sandbox), Some("count")).wait().expect(&[0])?;
        let count = output.stderr.lines().find_map(|l| l.strip_prefix("operations: ")?.trim().parse().ok());
        count.ok_or_else(|| format!("no `operations: N` in {:?}", output.stderr))
    }

    fn with_fault(&self, fault: &str) -> Result<(), String> {
        let (sandbox, model) = self.prepare()?;
        let words = self.words(&sandbox);
        let mut acked = Acked::default();
        let faulty = sandbox.start(words, Some(fault)).wait();
        check_manners(&faulty, fault)?;
        if faulty.code == Some(0) {
            acked.finished(&Step::of(self.verb, words), &model);
        }
        let told =
            |why: String| format!("{why}\nthe faulty command had said: {}{}", faulty.stdout, faulty.stderr);
        sandbox.run(&["status"]).expect(&[0, 3]).map_err(told)?;
        model.check_listing().map_err(told)?;
        if !acked.last.is_empty() {
            check_store(&sandbox, &acked, &model).map_err(told)?;
        }
        sandbox.ok(words).map_err(told)?;
        sandbox.ok(COMMIT).map_err(told)?;
        acked.finished(&Step::of(Verb::Commit, COMMIT), &model);
        sandbox.ok(&["checkout", "."]).map_err(told)?;
        model.check_bytes().map_err(told)?;
        sandbox.ok(&["fsck", "--read-data"]).map_err(told)?;
        check_store(&sandbox, &acked, &model).map_err(told)
    }

    /// Tries the faults; what went wrong in each run that failed.
    fn play(&self) -> Result<(), String> {
        let operations = self.operations()?;
        let points = spread(operations, POINTS * scale());
        let mut wrong = Vec::new();
        for kind in ["fail", "full", "last"] {
            for k in &points {
                let fault = format!("{kind}:{k}");
                let result = self.with_fault(&fault);
                wrong.extend(result.err().map(|why| format!("{} with {fault}: {why}", self.name)));
            }
        }
        say(&format!("fault drill: {}: {operations} operations, {} tried", self.name, points.len()));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n\n")) }
    }
}

/// A failing disk is an error with an exit code, never a panic; a lost operation ends the process.
fn check_manners(output: &Output, fault: &str) -> Result<(), String> {
    let allowed: &[i32] = if fault.starts_with("last") { &[LAST, 0] } else { &[0, 1, 3, 4, 5, 11, 13] };
    let panicked = output.stderr.contains("panicked at");
    if panicked || !output.code.is_some_and(|c| allowed.contains(&c)) {
        return Err(format!("ended with {:?}: {}{}", output.code, output.stdout, output.stderr));
    }
    Ok(())
}

/// A new machine gets everything acknowledged from the store alone.
fn check_store(sandbox: &Sandbox, acked: &Acked, model: &Model) -> Result<(), String> {
    let other = sandbox.clone_and_fill("two")?;
    let clone = read(&other.folder()).map_err(|e| e.to_string())?;
    sandbox.remove_machine(&other);
    acked.check_clone(&clone, &model.nodes)
}

/// Up to `wanted` numbers of 1..=n, evenly spread, the first and the last among them.
fn spread(n: u64, wanted: usize) -> Vec<u64> {
    let wanted = (wanted as u64).clamp(1, n.max(1));
    let mut out: Vec<u64> = (0..wanted).map(|i| 1 + i * n.saturating_sub(1) / (wanted - 1).max(1)).collect();
    out.dedup();
    out
}

fn drill(name: &'static str, before: &'static [Before], verb: Verb, command: Words) {
    if !cfg!(debug_assertions) {
        return say(&format!("fault drill: {name} skipped: a release build has no faults"));
    }
    let scenario = Scenario { name, before, verb, command };
    scenario.play().unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn i6_a_fault_in_stash_loses_nothing() {
    drill("stash", &[], Verb::Stash, STASH);
}

#[test]
fn i6_a_fault_in_a_second_stash_loses_nothing() {
    drill("second stash", &[Before::Done(STASH)], Verb::Stash, STASH);
}

#[test]
fn i6_a_fault_in_checkout_loses_nothing() {
    drill("checkout", &[Before::Done(STASH)], Verb::Checkout, &["checkout", "."]);
}

#[test]
fn i6_a_fault_in_commit_loses_nothing() {
    drill("commit", &[Before::Done(COMMIT)], Verb::Commit, COMMIT);
}

#[test]
fn i6_a_fault_in_gc_loses_nothing() {
    let before = &[Before::Done(STASH), Before::Torn, Before::Collected, Before::Done(COMMIT)];
    drill("gc", before, Verb::Gc, &[]);
}

/// Packs that are dead in part are rewritten on the way.
#[test]
fn i6_a_fault_in_prune_loses_nothing() {
    let before = &[Before::Done(STASH), Before::Done(COMMIT), Before::Done(COMMIT)];
    drill("prune", before, Verb::Prune, PRUNE);
}

#[test]
fn i6_a_fault_in_gc_after_prune_loses_nothing() {
    let before = &[Before::Done(STASH), Before::Done(COMMIT), Before::Pruned];
    drill("gc after prune", before, Verb::Gc, &[]);
}

#[test]
fn i6_a_fault_in_rebuild_loses_nothing() {
    drill("rebuild", &[Before::Done(STASH), Before::Done(COMMIT)], Verb::Rebuild, &["rebuild"]);
}

/// Every write of a stash and of a checkout of one file fails, one after the other: what that leaves
/// half-way is mended by the next command.
#[test]
fn i6_a_failed_write_to_a_file_is_mended_by_the_next_command() {
    if !cfg!(debug_assertions) {
        return say("failed writes skipped: a release build has no faults");
    }
    let mended = fail_every_write().unwrap_or_else(|why| panic!("{why}"));
    assert!(mended > 0, "no failed write left anything to mend");
}

/// Whichever operation of a stash fails: a store has the history that names a content before the file's bytes
/// go, and the next command brings it level.
#[test]
fn i1_a_file_is_freed_only_when_a_store_has_its_history() {
    if !cfg!(debug_assertions) {
        return say("failed logs skipped: a release build has no faults");
    }
    let kept = fail_every_operation().unwrap_or_else(|why| panic!("{why}"));
    assert!(kept > 0, "no failed log kept a file that was placed");
}

/// How often a file whose content was placed stayed.
fn fail_every_operation() -> Result<usize, String> {
    let mut kept = 0;
    for k in 1.. {
        let sandbox = Sandbox::new();
        sandbox.set_up()?;
        let file = sandbox.folder().join("file");
        std::fs::write(&file, crate::support::content::noise(seed(), 100_000)).map_err(|e| e.to_string())?;
        let faulty = sandbox.start(STASH, Some(&format!("fail:{k}"))).wait();
        let objects = |kind: &str| {
            let dir = sandbox.store().join("store").join(kind);
            crate::support::tree::walk(&dir)
                .map_or(0, |all| all.iter().filter(|p| dir.join(p).is_file()).count())
        };
        let stub = ddr::format::stub::looks_like_stub(&std::fs::read(&file).map_err(|e| e.to_string())?);
        let told = |why: &str| format!("operation {k}: {why}\n{}{}", faulty.stdout, faulty.stderr);
        match (stub, objects("log") > 0) {
            (true, false) => return Err(told("freed, and no history in the store")),
            (false, false) if objects("data") > 0 => kept += 1,
            _ => {}
        }
        sandbox.ok(&["status"])?;
        if sandbox.run(&["history", "file"]).code == Some(0) && objects("log") == 0 {
            return Err(told("the next command leaves the store without history"));
        }
        if faulty.code == Some(0) {
            break;
        }
    }
    Ok(kept)
}

/// How often the next command mended something.
fn fail_every_write() -> Result<usize, String> {
    const CHECKOUT: Words = &["checkout", "."];
    let sandbox = Sandbox::new();
    sandbox.set_up()?;
    let mut model = Model::grow(&sandbox.folder(), 0, &mut Random::new(seed()));
    let bytes = crate::support::content::noise(seed(), 100_000);
    std::fs::write(sandbox.folder().join("file"), &bytes).map_err(|e| e.to_string())?;
    model.observe("file".as_ref(), Some(blake3::hash(&bytes))).map_err(|e| e.to_string())?;
    sandbox.ok(COMMIT)?;
    let mut mended = 0;
    for (words, back) in [(STASH, CHECKOUT), (CHECKOUT, STASH)] {
        for k in 1.. {
            let faulty = sandbox.start(words, Some(&format!("write-fail:{k}"))).wait();
            let told =
                |why: String| format!("{words:?}, write {k}: {why}\n{}{}", faulty.stdout, faulty.stderr);
            let status = sandbox.ok(&["status"]).map_err(told)?;
            model.check_listing().map_err(told)?;
            if status.stdout.lines().any(|l| l.ends_with(" file") && !l.starts_with("T")) {
                return Err(told(format!("status says {}", status.stdout)));
            }
            mended += status.mended().len();
            sandbox.ok(words).map_err(told)?;
            if faulty.code == Some(0) {
                break;
            }
            sandbox.ok(back).map_err(told)?;
        }
    }
    model.check_bytes()?;
    Ok(mended)
}

/// A file that a commit cut short had recorded already, or not, and that is deleted before the next
/// command, does not come back.
#[test]
fn i6_a_file_deleted_after_a_commit_cut_short_stays_deleted() {
    if !cfg!(debug_assertions) {
        return say("deleted files skipped: a release build has no faults");
    }
    delete_after_every_operation().unwrap_or_else(|why| panic!("{why}"));
}

fn delete_after_every_operation() -> Result<(), String> {
    let sandbox = Sandbox::new();
    sandbox.set_up()?;
    let told = |e: std::io::Error| e.to_string();
    for k in 1.. {
        let path = sandbox.folder().join(format!("file-{k}"));
        std::fs::write(&path, format!("content {k}")).map_err(told)?;
        let faulty = sandbox.start(COMMIT, Some(&format!("last:{k}"))).wait();
        std::fs::remove_file(&path).map_err(told)?;
        sandbox.ok(COMMIT)?;
        if faulty.code == Some(0) {
            break;
        }
    }
    let other = sandbox.clone_and_fill("two")?;
    let names = read(&other.folder()).map_err(|e| e.to_string())?.len();
    if names == 0 { Ok(()) } else { Err(format!("{names} deleted files came back in a clone")) }
}

/// A file that is renamed between the end of the process in the middle of its conversion and the next
/// command is found by its inode.
#[test]
fn i6_a_file_renamed_before_it_could_be_mended_is_found() {
    if !cfg!(debug_assertions) {
        return say("renamed files skipped: a release build has no faults");
    }
    let mended = rename_after_every_write().unwrap_or_else(|why| panic!("{why}"));
    assert!(mended > 0, "nothing was ever half-way");
}

/// How often the next command mended something.
fn rename_after_every_write() -> Result<usize, String> {
    const CHECKOUT: Words = &["checkout", "."];
    let sandbox = Sandbox::new();
    sandbox.set_up()?;
    let bytes = crate::support::content::noise(seed(), 100_000);
    let names = ["dir/other", "file"].map(|name| sandbox.folder().join(name));
    let told = |e: std::io::Error| e.to_string();
    std::fs::create_dir(sandbox.folder().join("dir")).map_err(told)?;
    std::fs::write(&names[0], &bytes).map_err(told)?;
    sandbox.ok(COMMIT)?;
    let (mut mended, mut turn) = (0, 0);
    for (words, back) in [(STASH, CHECKOUT), (CHECKOUT, STASH)] {
        for k in 1.. {
            let faulty = sandbox.start(words, Some(&format!("write-last:{k}"))).wait();
            let (from, to) = (&names[turn % 2], &names[(turn + 1) % 2]);
            turn += 1;
            std::fs::rename(from, to).map_err(told)?;
            let at = |why: String| format!("{words:?}, write {k}: {why}");
            mended += sandbox.ok(&["status"]).map_err(at)?.mended().len();
            sandbox.ok(COMMIT).map_err(at)?;
            sandbox.ok(CHECKOUT).map_err(at)?;
            if std::fs::read(to).map_err(told)? != bytes {
                return Err(at("other bytes under the new name".into()));
            }
            if faulty.code == Some(0) {
                break;
            }
            if words == CHECKOUT {
                sandbox.ok(back).map_err(at)?;
            }
        }
        sandbox.ok(back)?;
    }
    Ok(mended)
}

#[test]
fn faults_are_spread_over_all_operations() {
    assert_eq!(spread(100, 3), [1, 50, 100]);
    assert_eq!(spread(4, 50), [1, 2, 3, 4]);
    assert_eq!(spread(1, 3), [1]);
    assert_eq!(spread(10, 1), [1]);
}
