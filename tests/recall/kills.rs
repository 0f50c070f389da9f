//! Worker, daemon and both killed while programs read what the policy stashes underneath.
//!
//! Promises that every open ends with the right bytes and without an error, whatever is killed but the
//! guard. `DDR_DRILL=34` makes 204 kills.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::churn::{File, files, open, write};
use super::trouble::same;
use crate::support::content::Random;
use crate::support::guarded::{Guarded, is_stub, obstacle};
use crate::support::{Running, say, scale, seed};

const READERS: u64 = 4;
/// Kills in CI, in turn of each kind; times `DDR_DRILL`.
const KILLS: usize = 6;

/// What happened so far.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    opens: AtomicUsize,
    stubs: AtomicUsize,
}

/// Opens files at random until told to stop.
fn read(files: &[File], number: u64, tally: &Tally) -> Result<(), String> {
    let mut random = Random::new(seed() * 1000 + number);
    while !tally.over.load(Ordering::Relaxed) {
        let (file, way) = (random.pick(files), random.below(8));
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
        tally.stubs.fetch_add(usize::from(is_stub(&file.path)), Ordering::Relaxed);
        open(file, way).map_err(|e| {
            tally.over.store(true, Ordering::Relaxed);
            format!("{} in way {way}: {e}", file.path.display())
        })?;
        tally.opens.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Kills in turn; how many workers and daemons, and how often both at once.
fn kill(guarded: &Guarded, tally: &Tally) -> Result<[usize; 3], String> {
    let mut random = Random::new(seed());
    let daemon = || guarded.sandbox.start(&["daemon"], None);
    let mut running: Running = daemon();
    let mut killed = [0; 3];
    for turn in 0..KILLS * scale() {
        // Until there is load: something was stashed since, and opened.
        let (before, start) = (tally.stubs.load(Ordering::Relaxed), std::time::Instant::now());
        while tally.stubs.load(Ordering::Relaxed) < before + 5 && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(random.below(150)));
        if tally.over.load(Ordering::Relaxed) {
            break;
        }
        if turn % 3 != 1 {
            killed[0] += guarded.guard().kill_workers();
        }
        if turn % 3 != 0 {
            if running.ended() {
                return Err(format!("the daemon ended by itself: {:?}", running.wait()));
            }
            running.kill();
            // Its lock goes with it.
            running.wait();
            killed[1] += 1;
            running = daemon();
        }
        killed[2] += usize::from(turn % 3 == 2);
    }
    running.kill();
    Ok(killed)
}

fn drill(kind: &str) {
    let mut guarded = Guarded::unguarded(kind, 2 << 30).unwrap_or_else(|e| panic!("{e}"));
    let policy = guarded.beside().join("policy.toml");
    std::fs::write(&policy, "every = \"1s\"\n[[rule]]\ndo = \"stash\"\nafter = \"0s\"\n").unwrap();
    guarded.sandbox.ok(&["config", "set", "policy.file", policy.to_str().unwrap()]).unwrap();
    guarded.sandbox.ok(&["config", "set", "daemon.settle", "1s"]).unwrap();
    guarded.sandbox.ok(&["config", "set", "recall.burst", "1000000"]).unwrap();
    guarded.start(&[]);
    let files = files(&guarded);
    let tally = Tally::default();
    let (killed, wrong) = std::thread::scope(|scope| {
        let (files, tally, guarded) = (&files, &tally, &guarded);
        let readers: Vec<_> =
            (0..READERS).map(|number| scope.spawn(move || read(files, number, tally))).collect();
        let writer = scope.spawn(|| write(guarded, 0, &tally.over).map_err(|e| format!("the writer: {e}")));
        let killed = kill(guarded, tally);
        tally.over.store(true, Ordering::Relaxed);
        let mut results: Vec<Result<(), String>> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        results.push(writer.join().unwrap());
        let killed = killed.unwrap_or_else(|why| {
            results.push(Err(why));
            [0; 3]
        });
        (killed, results.into_iter().filter_map(Result::err).collect::<Vec<_>>())
    });
    let [workers, daemons, both] = killed;
    let said = format!(
        "{workers} workers and {daemons} daemons killed on {kind}, {both} times both: {:?} opens, {:?} of stubs, {} wrong or failed",
        tally.opens,
        tally.stubs,
        wrong.len()
    );
    say(&said);
    assert!(wrong.is_empty(), "{said}\n{}\nthe guard said {:#?}", wrong.join("\n"), guarded.guard().said());
    assert!(tally.stubs.into_inner() > KILLS, "hardly a stub was opened");
    // What is left is as it was, and known to be.
    std::thread::sleep(Duration::from_secs(1));
    guarded.sandbox.run(&["stash", "."]).expect(&[0, 3]).unwrap();
    guarded.sandbox.ok(&["fsck", "--read-data"]).unwrap();
    for file in &files {
        same(&std::fs::read(&file.path).unwrap(), &file.content).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn worker_daemon_and_both_killed_under_load_harm_no_reader() {
    match obstacle(&["ext4"]) {
        Some(why) => say(&format!("the drill of kills was passed over: {why}")),
        None => drill("ext4"),
    }
}
