//! Every shipped policy on a made-up home: quick, down to low water, nothing pinned or young touched, and
//! nothing left to do once it was done.
//!
//! `DDR_DRILL=134` with `DDR_DRILL_BIN` naming a release build is the full figure: 200,000 files.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

use ddr::base::path::RelPath;
use ddr::model::policy::rules::Policy;
use ddr::model::policy::shipped::{ALL, Shipped};
use serde_json::Value;

use super::home::{Made, build, imagine};
use crate::support::{Sandbox, say, scale};

/// Bytes of a file that a stub takes no more than.
const STUB: u64 = 8192;
const SHRINK: u64 = 16;

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

fn ok(sandbox: &Sandbox, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    sandbox.ok(&words).unwrap_or_else(|e| panic!("{e}")).stdout
}

fn plan(sandbox: &Sandbox) -> (Value, Duration) {
    let since = Instant::now();
    let said = ok(sandbox, "policy plan --json");
    let took = since.elapsed();
    let first = said.lines().find(|l| l.contains("\"type\":\"plan\"")).expect("a plan");
    (serde_json::from_str(first).expect("JSON"), took)
}

/// Bytes on the disk of every file of the home.
fn local(sandbox: &Sandbox, files: &[Made]) -> Vec<u64> {
    let bytes = |made: &Made| {
        let meta =
            std::fs::symlink_metadata(sandbox.folder().join(made.path.as_path())).expect("still there");
        meta.blocks() * 512
    };
    files.iter().map(bytes).collect()
}

fn try_one(shipped: &Shipped, files: &[Made]) -> String {
    let policy = Policy::new(shipped.name, &shipped.doc().expect("valid")).expect("valid");
    let sandbox = Sandbox::new();
    let built = now();
    build(&sandbox.folder(), files, SHRINK, built);
    sandbox.set_up().expect("a folder");
    let before = local(&sandbox, files);
    let used: u64 = before.iter().sum();
    // A disk (here: a budget, which is the same to the policy) that is 97 % full.
    let room = used * 100 / 97;
    ok(&sandbox, &format!("config set policy.use {}", shipped.name));
    if policy.water.is_some() {
        ok(&sandbox, &format!("config set policy.water.of {room}B"));
    }
    ok(&sandbox, "pin Music");
    let (first, took_new) = plan(&sandbox);
    ok(&sandbox, "commit");
    let (again, took) = plan(&sandbox);
    let ages: Vec<i64> =
        policy.rules.iter().flat_map(|r| [r.after, r.when_full]).flatten().map(|age| age.secs()).collect();
    // Only time does: some files come of age meanwhile.
    let came = || {
        let passed = now() - built + 1;
        let is_new = |f: &&Made| ages.iter().any(|age| (0..=passed).contains(&(age - f.idle)));
        files.iter().filter(is_new).count() as u64
    };
    let count = |plan: &Value| plan["files"].as_u64().expect("a number");
    let (few, many) = (count(&first), count(&again));
    assert!((few..=few + came()).contains(&many), "{}: recording makes {few} {many}", shipped.name);
    let since = Instant::now();
    let done: Value = serde_json::from_str(&ok(&sandbox, "stash --json")).expect("JSON");
    let stashed = since.elapsed();
    let gone = done["stashed"].as_u64().expect("a number");
    assert!((many..=many + came()).contains(&gone), "{}: {gone} of {many} stashed", shipped.name);

    let after = local(&sandbox, files);
    let pin = RelPath::new("Music").expect("valid");
    let youngest = ages.iter().min().map_or(i64::MAX, |age| age - (now() - built) - 1);
    for (made, (before, after)) in files.iter().zip(before.iter().zip(&after)) {
        if made.path.is_under(&pin) || made.idle < youngest {
            assert_eq!(before, after, "{}: {made:?} was touched", shipped.name);
        }
    }
    let left: u64 = after.iter().sum();
    if let Some(water) = policy.water {
        assert_eq!(again["short_bytes"], 0, "{}: the made-up home has enough to go", shipped.name);
        let low = water.low.of(room);
        assert!(left <= low, "{}: {left} bytes left, low water is {low}", shipped.name);
    }
    let (last, took_last) = plan(&sandbox);
    assert!(count(&last) <= came(), "{}: {last}", shipped.name);
    let stubs = before.iter().zip(&after).filter(|(b, a)| **a <= STUB && b > a).count();
    assert_eq!(done["stashed"], stubs, "{}", shipped.name);
    format!(
        "{:13} plan {:.2} s (unrecorded {:.2}, after {:.2}), {stubs} stashed in {:.1} s, {} -> {} MiB",
        shipped.name,
        took.as_secs_f64(),
        took_new.as_secs_f64(),
        took_last.as_secs_f64(),
        stashed.as_secs_f64(),
        used >> 20,
        left >> 20
    )
}

#[test]
fn every_shipped_policy_on_a_whole_home() {
    let count = 1500 * scale();
    let files = imagine(1, count);
    say(&format!(
        "{} files, {} MiB (shrunk {SHRINK} times)",
        files.len(),
        (files.iter().map(|f| f.size).sum::<u64>() / SHRINK) >> 20
    ));
    ALL.iter().for_each(|shipped| say(&try_one(shipped, &files)));
}

#[test]
fn a_home_is_the_same_for_the_same_seed() {
    let facts = |seed| imagine(seed, 500).into_iter().map(|f| (f.path, f.size, f.idle)).collect::<Vec<_>>();
    assert_eq!(facts(5), facts(5));
    assert_ne!(facts(5), facts(6));
}
