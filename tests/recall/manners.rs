//! Who may have stubs brought back, in which order, and how one is given up.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::races::{guarded, waiting};
use crate::support::content::noise;
use crate::support::guarded::{Guarded, is_stub, wait_until};
use crate::support::{Output, Running};

/// Runs a program of the system on a file of the folder.
fn by(guarded: &Guarded, words: &[&str]) -> (Output, Duration) {
    let mut command = std::process::Command::new(words[0]);
    guarded.sandbox.settle(&mut command);
    command.args(&words[1..]);
    let start = Instant::now();
    let output = Running::spawn(command, words.join(" ")).wait();
    (output, start.elapsed())
}

/// A guard that goes by this configuration.
fn configured(lines: &str) -> Option<Guarded> {
    let mut guarded = guarded(&[])?;
    guarded.configure(lines);
    guarded.start(&[]);
    Some(guarded)
}

fn stub(guarded: &Guarded, name: &str, size: u64) -> PathBuf {
    guarded.write(name, &noise(size + name.len() as u64, size));
    guarded.at(name)
}

fn right(guarded: &Guarded, name: &str, size: u64) {
    assert!(std::fs::read(guarded.at(name)).unwrap() == noise(size + name.len() as u64, size), "{name}");
}

#[test]
fn a_program_that_is_refused_gets_an_error_and_others_the_content() {
    let Some(guarded) = configured("[[recall.rule]]\nprogram = \"**/cat\"\naction = \"refuse\"") else {
        return;
    };
    let file = stub(&guarded, "file", 100_000);
    guarded.stash();
    let (output, _) = by(&guarded, &["cat", "file"]);
    assert!(output.code == Some(1) && output.stdout.is_empty(), "{output:?}");
    assert!(output.stderr.contains("Operation not permitted"), "{output:?}");
    assert!(is_stub(&file));
    right(&guarded, "file", 100_000);
}

#[test]
fn a_program_in_a_burst_is_slowed_and_named_and_others_are_not() {
    let Some(guarded) = configured("[recall]\nburst = 4\nslow = \"1s\"") else { return };
    let sizes: Vec<u64> = (0..8).map(|i| 50_000 + i).collect();
    sizes.iter().for_each(|size| drop(stub(&guarded, &format!("f{size}"), *size)));
    guarded.stash();
    let read = |program: &str, size: u64| by(&guarded, &[program, "-c", "1", &format!("f{size}")]).1;
    let times: Vec<Duration> = sizes[..6].iter().map(|size| read("head", *size)).collect();
    let slow = Duration::from_secs(1);
    assert!(times[..4].iter().all(|time| *time < slow), "{times:?}");
    assert!(times[4..].iter().all(|time| *time >= slow), "{times:?}");
    let said = guarded.guard().said();
    let named = said.iter().filter(|line| line.contains("head opens many stubs")).count();
    assert_eq!(named, 1, "{said:?}");
    assert!(read("tail", sizes[6]) < slow, "another program is not slowed");
    sizes.iter().for_each(|size| right(&guarded, &format!("f{size}"), *size));
}

/// Files by when they were used last, the most recent first.
fn by_last_use(guarded: &Guarded, names: &[String]) -> Vec<String> {
    let said =
        guarded
            .sandbox
            .ok(&[&["why", "--json"][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    let said = said.unwrap().stdout;
    let rows = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let row = |row: serde_json::Value| Some((row["last_use"].as_i64()?, row["path"].as_str()?.to_string()));
    let mut all: Vec<_> = rows.filter_map(row).collect();
    all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    all.into_iter().map(|(_, path)| path).collect()
}

#[test]
fn a_search_through_everything_does_not_change_the_order_of_last_use() {
    let Some(guarded) = configured("[recall]\nburst = 10\nslow = \"0s\"\n[daemon]\nsettle = \"1s\"") else {
        return;
    };
    let names: Vec<String> = (0..40).map(|n| format!("f{n:02}")).collect();
    for (age, name) in names.iter().enumerate() {
        stub(&guarded, name, 50_000);
        by(&guarded, &["touch", "-d", &format!("{} days ago", age + 2), name]);
    }
    // A half of them stubs, a half full.
    let stashed: Vec<&str> = names.iter().step_by(2).map(String::as_str).collect();
    guarded.sandbox.ok(&[&["stash"][..], &stashed].concat()).unwrap();
    guarded.sandbox.ok(&["commit"]).unwrap();
    assert_eq!(by_last_use(&guarded, &names), names);
    let daemon = guarded.sandbox.start(&["daemon"], None);
    let idle = || {
        let said = guarded.sandbox.run(&["daemon", "status", "--json"]).stdout;
        let rows = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        rows.into_iter().any(|row| row["next"].is_string() && row["doing"].is_null())
    };
    wait_until("the daemon has looked at the folder", idle);
    std::thread::sleep(Duration::from_secs(1));
    // Two are really used: a stub and a full file.
    right(&guarded, "f38", 50_000);
    right(&guarded, "f21", 50_000);
    std::thread::sleep(Duration::from_secs(6));
    let (found, _) = by(&guarded, &["grep", "-r", "--exclude-dir=.ddr", "-c", "no such text", "."]);
    assert_eq!((found.code, found.stdout.lines().count()), (Some(1), 40), "{found:?}");
    assert!(names.iter().all(|name| !is_stub(&guarded.at(name))), "all was brought back");
    guarded.sandbox.ok(&["daemon", "stop"]).unwrap();
    assert_eq!(daemon.wait().code, Some(0));
    let mut expected = names.clone();
    expected.retain(|name| name != "f38" && name != "f21");
    let order = by_last_use(&guarded, &names);
    assert_eq!(order[2..], expected, "the search counted as use");
    assert!(order[..2].iter().all(|name| name == "f38" || name == "f21"), "{order:?}");
}

#[test]
fn who_waits_is_listed_and_can_be_given_up() {
    let Some(guarded) = guarded(&[]) else { return };
    let file = stub(&guarded, "file", 100_000);
    guarded.stash();
    guarded.guard().freeze(true);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || std::fs::read(file))
        })
        .collect();
    wait_until("both wait", || waiting(&guarded).len() == 2);
    let rows = waiting(&guarded);
    let program = std::env::current_exe().unwrap();
    for (_, row) in &rows {
        assert_eq!(row["program"], program.to_str().unwrap());
        assert_eq!(row["path"], file.to_str().unwrap());
        assert_eq!(row["size"], 100_000);
    }
    guarded.sandbox.ok(&["recalls", "--cancel", &rows[0].0.to_string()]).unwrap();
    wait_until("one has his answer", || readers.iter().any(|reader| reader.is_finished()));
    assert_eq!(waiting(&guarded).len(), 1);
    let unknown = guarded.sandbox.run(&["recalls", "--cancel", &rows[0].0.to_string()]);
    assert_ne!(unknown.code, Some(0), "he waits no more");
    guarded.guard().freeze(false);
    let results: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(errors.len() == 1 && errors[0].raw_os_error() == Some(libc::EIO), "{errors:?}");
    assert!(results.iter().flatten().all(|seen| *seen == noise(100_004, 100_000)));
    wait_until("nobody waits", || waiting(&guarded).is_empty());
}

/// Bytes that a process has read from files.
fn read_by(process: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn many_who_open_one_file_are_one_recall() {
    let Some(guarded) = guarded(&[]) else { return };
    const SIZE: u64 = 16 << 20;
    let file = stub(&guarded, "file", SIZE);
    stub(&guarded, "first", 100_000);
    guarded.stash();
    // The store was opened anew by then.
    right(&guarded, "first", 100_000);
    let worker = guarded.guard().workers()[0];
    let before = read_by(worker);
    guarded.guard().freeze(true);
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || std::fs::read(file).unwrap() == noise(SIZE + 4, SIZE))
        })
        .collect();
    wait_until("all wait", || waiting(&guarded).len() == 16);
    guarded.guard().freeze(false);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    let read = read_by(worker) - before;
    assert!(read < SIZE * 3 / 2, "{read} bytes were read for {SIZE}");
}

#[test]
fn small_files_overtake_large_ones() {
    let Some(guarded) = configured("[recall]\nparallel = 1") else { return };
    let sizes = [("first", 40u64 << 20), ("large", 40 << 20), ("small", 20_000)];
    sizes.iter().for_each(|(name, size)| drop(stub(&guarded, name, *size)));
    guarded.stash();
    guarded.guard().freeze(true);
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (i, (name, _)) in sizes.iter().enumerate() {
            let (path, order) = (guarded.at(name), &order);
            scope.spawn(move || {
                let file = std::fs::File::open(path).unwrap();
                order.lock().unwrap().push(*name);
                drop(file);
            });
            wait_until("it waits", || waiting(&guarded).len() == i + 1);
        }
        guarded.guard().freeze(false);
    });
    let order = order.into_inner().unwrap();
    let place = |name: &str| order.iter().position(|one| *one == name);
    assert!(place("small") < place("large"), "{order:?}");
}

#[test]
fn past_the_deadline_an_opener_gets_an_error_and_the_next_one_the_content() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.start(&["--deadline", "1s"]);
    let file = stub(&guarded, "file", 100_000);
    guarded.stash();
    guarded.guard().freeze(true);
    let start = Instant::now();
    let error = std::fs::read(&file).expect_err("the worker does not answer");
    let time = start.elapsed();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(time >= Duration::from_millis(900) && time < Duration::from_secs(20), "{time:?}");
    guarded.guard().freeze(false);
    right(&guarded, "file", 100_000);
}

#[test]
fn each_folder_says_how_long_its_openers_wait_as_far_as_the_guard_allows() {
    let late = |lines: &str, flags: &[&str]| {
        let mut guarded = guarded(&[])?;
        guarded.configure(lines);
        guarded.start(flags);
        let file = stub(&guarded, "file", 100_000);
        guarded.stash();
        guarded.guard().freeze(true);
        let start = Instant::now();
        let error = std::fs::read(&file).expect_err("the worker does not answer");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        guarded.guard().freeze(false);
        Some(start.elapsed())
    };
    let soon = Duration::from_millis(900)..Duration::from_secs(20);
    let Some(own) = late("[recall]\ndeadline = \"1s\"", &[]) else { return };
    let bounded = late("[recall]\ndeadline = \"9h\"", &["--deadline", "1s"]).unwrap();
    assert!(soon.contains(&own) && soon.contains(&bounded), "{own:?} {bounded:?}");
}

#[test]
fn a_worker_that_was_killed_leaves_its_deadline_to_the_next() {
    let Some(guarded) = configured("[recall]\ndeadline = \"2s\"") else { return };
    let file = stub(&guarded, "file", 100_000);
    guarded.stash();
    guarded.store_away();
    guarded.guard().freeze(true);
    let reader = std::thread::spawn(move || (std::fs::read(file), Instant::now()));
    let start = Instant::now();
    wait_until("it waits", || !waiting(&guarded).is_empty());
    guarded.guard().kill_workers();
    wait_until("a new one is there", || !guarded.guard().workers().is_empty());
    guarded.guard().freeze(true);
    let (seen, end) = reader.join().unwrap();
    guarded.guard().freeze(false);
    let time = end.duration_since(start);
    assert!(seen.is_err() && time < Duration::from_secs(20), "{time:?}");
}

#[test]
fn neighbours_are_fetched_ahead_within_the_budget() {
    let Some(guarded) = configured("[recall]\nahead = \"150KiB\"") else { return };
    let names = ["photo-1.raw", "photo-2.raw", "photo-3.raw"];
    let files: Vec<PathBuf> = names.iter().map(|name| stub(&guarded, name, 100_000)).collect();
    guarded.stash();
    right(&guarded, names[0], 100_000);
    wait_until("the next one is there", || !is_stub(&files[1]));
    right(&guarded, names[1], 100_000);
    assert!(is_stub(&files[2]), "it is above the budget");
}
