//! Files that are opened, stashed and brought back all at once: every open sees the whole content.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::trouble::{Touched, same};
use crate::support::content::{Random, noise};
use crate::support::guarded::{Guarded, is_stub, obstacle};
use crate::support::{own_files, say, scale, seed};

const FILES: u64 = 60;
const READERS: u64 = 8;
/// Opens in CI; times `DDR_DRILL`.
const OPENS: usize = 2_500;

/// A file that says what it must hold: its content follows from its number.
pub struct File {
    pub path: PathBuf,
    pub content: Vec<u8>,
}

/// The files of one folder.
pub fn files(guarded: &Guarded) -> Vec<File> {
    let make = |i: u64| {
        let content = noise(i, 20_000 + i * 7_919);
        guarded.write(format!("{i}"), &content);
        File { path: guarded.at(i.to_string()), content }
    };
    (0..FILES).map(make).collect()
}

/// Opens one in one of several ways.
pub fn open(file: &File, way: u64) -> Touched {
    match way {
        0..=3 => same(&std::fs::read(&file.path)?, &file.content),
        4 | 5 => {
            // The end first, which is hole in a stub.
            let open = std::fs::File::open(&file.path)?;
            let (mut seen, at) = (vec![0; 9_000], file.content.len() - 9_000);
            open.read_exact_at(&mut seen, at as u64)?;
            same(&seen, &file.content[at..])
        }
        6 => {
            let open = std::fs::File::options().read(true).write(true).open(&file.path)?;
            let mut seen = vec![0; file.content.len()];
            open.read_exact_at(&mut seen, 0)?;
            same(&seen, &file.content)
        }
        _ => {
            let mut command = std::process::Command::new("cat");
            command.arg(&file.path).stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::null());
            let ours = own_files();
            let child = command.spawn()?;
            drop(ours);
            same(&child.wait_with_output()?.stdout, &file.content)
        }
    }
}

/// A program that changes what it reads, in its own files.
pub fn write(guarded: &Guarded, number: u64, over: &AtomicBool) -> Touched {
    let path = guarded.at(format!("own-{number}"));
    let (mut round, mut content) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        match round % 4 {
            0 => {
                content = noise(number + round * 31, 30_000 + round % 7 * 1000);
                std::fs::write(&path, &content)?;
            }
            // What is there is longer or shorter: it is written over in place.
            1 => {
                content = noise(number + round * 31, 30_000 + round % 7 * 1000);
                let file = std::fs::File::options().write(true).open(&path)?;
                file.write_all_at(&content, 0)?;
                file.set_len(content.len() as u64)?;
            }
            // Zeros look like what is missing: in front, and in the middle.
            part => {
                let at = if part == 2 { 0 } else { 9_000 };
                content[at..at + 5_000].fill(0);
                std::fs::File::options().write(true).open(&path)?.write_all_at(&[0; 5_000], at as u64)?;
            }
        }
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(20));
            same(&std::fs::read(&path)?, &content)?;
        }
        round += 1;
    }
    Ok(())
}

fn churn(kind: &str, flags: &[&str]) {
    let mut guarded = Guarded::unguarded(kind, 2 << 30).unwrap_or_else(|e| panic!("{e}"));
    // Nobody is slowed here.
    guarded.configure("[recall]\nburst = 1000000");
    guarded.start(flags);
    let files = files(&guarded);
    let (opens, over, stashed) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let (limit, found) = (OPENS * scale(), AtomicUsize::new(0));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let readers = (0..READERS).map(|reader| {
            let (files, opens, over, found) = (&files, &opens, &over, &found);
            scope.spawn(move || -> Result<(), String> {
                let mut random = Random::new(seed() * 100 + reader);
                while opens.fetch_add(1, Ordering::Relaxed) < limit && !over.load(Ordering::Relaxed) {
                    let (file, way) = (random.pick(files), random.below(8));
                    // Or hardly anything could be stashed.
                    std::thread::sleep(Duration::from_micros(random.below(8_000)));
                    found.fetch_add(usize::from(is_stub(&file.path)), Ordering::Relaxed);
                    open(file, way).map_err(|e| {
                        over.store(true, Ordering::Relaxed);
                        format!("{} in way {way}: {e}", file.path.display())
                    })?;
                }
                Ok(())
            })
        });
        let readers: Vec<_> = readers.collect();
        let writers: Vec<_> = (0..2)
            .map(|number| {
                let (guarded, over) = (&guarded, &over);
                scope.spawn(move || write(guarded, number, over).map_err(|e| format!("writer {number}: {e}")))
            })
            .collect();
        let stasher = scope.spawn(|| -> Result<(), String> {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                // Whatever is open stays.
                let words: &[&str] = if round % 5 == 4 { &["checkout", "."] } else { &["stash", "."] };
                let output = guarded.sandbox.run(words).expect(&[0, 3])?;
                let count = output
                    .stdout
                    .strip_prefix("stashed ")
                    .and_then(|rest| rest.split(' ').next()?.parse().ok());
                stashed.fetch_add(count.unwrap_or(0), Ordering::Relaxed);
                round += 1;
            }
            Ok(())
        });
        let mut results: Vec<Result<(), String>> = Vec::new();
        for reader in readers {
            results.push(reader.join().unwrap());
        }
        over.store(true, Ordering::Relaxed);
        results.extend(writers.into_iter().map(|writer| writer.join().unwrap()));
        results.push(stasher.join().unwrap());
        results.into_iter().filter_map(Result::err).collect()
    });
    let said = guarded.guard().said();
    assert!(
        wrong.is_empty(),
        "{kind}: {}\nafter {:?} opens; the guard said {said:#?}",
        wrong.join("\n"),
        opens
    );
    let stashed = stashed.into_inner();
    assert!(stashed > FILES as usize, "only {stashed} files were stashed meanwhile");
    assert!(found.load(Ordering::Relaxed) > FILES as usize, "only {found:?} stubs were opened");
    say(&format!(
        "churn on {kind} {flags:?}: {limit} opens right, {found:?} of stubs, while {stashed} files were stashed"
    ));
    // What is left is as it was, and known to be.
    std::thread::sleep(Duration::from_secs(1));
    guarded.sandbox.ok(&["stash", "."]).unwrap();
    guarded.sandbox.ok(&["fsck", "--read-data"]).unwrap();
    for file in &files {
        same(&std::fs::read(&file.path).unwrap(), &file.content).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn files_are_whole_while_they_are_stashed_and_brought_back_underneath() {
    for kind in ["ext4", "xfs", "btrfs"] {
        match obstacle(&[kind]) {
            Some(why) => say(&format!("churn was passed over on {kind}: {why}")),
            None => churn(kind, &[]),
        }
    }
}

#[test]
fn with_opens_alone_files_are_whole_underneath_too() {
    match obstacle(&["ext4"]) {
        Some(why) => say(&format!("churn was passed over: {why}")),
        None => churn("ext4", &["--opens-only"]),
    }
}
