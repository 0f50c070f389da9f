//! The end of a guard and of its workers, wanted or not, and what comes after.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ddr::engine::held::PATIENCE;

use super::races::{guarded, waiting};
use super::trouble::same;
use crate::support::content::{Random, noise};
use crate::support::guarded::{Guard, Guarded, is_filling, is_stub, is_unsettled, kill, wait_until};
use crate::support::{scale, seed};

pub const SIZE: u64 = 300_001;

pub fn stubs(guarded: &Guarded, count: u64) {
    for i in 0..count {
        guarded.write(format!("{i}"), &noise(i, SIZE));
    }
    guarded.stash();
    assert!((0..count).all(|i| is_stub(&guarded.at(i.to_string()))));
}

#[test]
fn what_was_stashed_before_the_guard_began_is_guarded_too() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    stubs(&guarded, 5);
    guarded.start(&[]);
    assert_eq!(guarded.guard().marks(), 5);
    assert!((0..5).all(|i| std::fs::read(guarded.at(i.to_string())).unwrap() == noise(i, SIZE)));
    wait_until("no mark is left on what is full", || guarded.guard().marks() == 0);
}

#[test]
fn copies_of_stubs_with_all_their_zeros_are_guarded_once_they_are_recorded() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    stubs(&guarded, 1);
    let mut command = Command::new("sh");
    guarded.sandbox.settle(&mut command);
    command.args(["-c", "cp --sparse=never 0 copy && tar c 0 | tar x --transform s/0/unpacked/"]);
    assert!(command.status().unwrap().success());
    guarded.sandbox.ok(&["commit"]).unwrap();
    guarded.start(&[]);
    assert_eq!(guarded.guard().marks(), 3);
    for name in ["copy", "unpacked", "0"] {
        same(&std::fs::read(guarded.at(name)).unwrap(), &noise(0, SIZE))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_guard_that_is_told_to_stop_says_what_it_leaves_and_refuses_who_waits() {
    let Some(mut guarded) = guarded(&[]) else { return };
    stubs(&guarded, 3);
    guarded.guard().freeze(true);
    let file = guarded.at("0");
    let reader = std::thread::spawn(move || std::fs::read(file));
    wait_until("it waits", || !waiting(&guarded).is_empty());
    let said = guarded.guard.as_mut().unwrap().stop();
    assert!(said.iter().any(|line| line.contains("3 stubs are unguarded")), "{said:?}");
    let error = reader.join().unwrap().expect_err("rather an error than the stub");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

#[test]
fn a_guard_that_is_stopped_does_not_stop_commands() {
    let Some(guarded) = guarded(&[]) else { return };
    stubs(&guarded, 1);
    guarded.write("new", &noise(1, SIZE));
    kill(guarded.guard().id(), libc::SIGSTOP);
    let outputs = [&["status"][..], &["stash", "new"]].map(|words| guarded.sandbox.run(words));
    kill(guarded.guard().id(), libc::SIGCONT);
    let [status, stash] = outputs;
    assert!(status.stdout.contains("access is off: the guard does not answer"), "{status:?}");
    assert!(stash.code == Some(4) && stash.stderr.contains("does not answer"), "{stash:?}");
    assert!(!is_stub(&guarded.at("new")), "nobody would be told to wait for it");
    assert!(std::fs::read(guarded.at("0")).unwrap() == noise(0, SIZE));
    guarded.stash();
}

#[test]
fn a_killed_guard_leaves_stubs_that_say_what_they_are_until_the_next_one() {
    let Some(mut guarded) = guarded(&[]) else { return };
    stubs(&guarded, 3);
    guarded.guard.as_mut().unwrap().kill();
    let seen = std::fs::read(guarded.at("0")).unwrap();
    assert!(seen.starts_with(b"This is a ddr stub"), "without a guard a stub is its text");
    guarded.start(&[]);
    assert!((0..3).all(|i| std::fs::read(guarded.at(i.to_string())).unwrap() == noise(i, SIZE)));
}

#[test]
fn a_killed_guard_that_nobody_starts_again_keeps_no_stash_waiting() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard.as_mut().unwrap().kill();
    guarded.write("file", &noise(1, SIZE));
    let begun = Instant::now();
    guarded.stash();
    assert!(begun.elapsed() < PATIENCE, "its socket is there, and nobody is about to listen");
}

#[test]
fn a_guard_whose_program_was_replaced_still_starts_workers() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    stubs(&guarded, 2);
    let program = guarded.outside().join("ddr");
    assert!(Command::new("cp").arg(crate::support::program()).arg(&program).status().unwrap().success());
    let mut command = Command::new(&program);
    guarded.sandbox.settle(&mut command);
    command.arg("guard").arg(guarded.sandbox.folder());
    let guard = Guard::spawn(command);
    guard.wait_for(" guarded (");
    std::fs::remove_file(&program).unwrap();
    assert_eq!(guard.kill_workers(), 1);
    guarded.guard = Some(guard);
    let path = guarded.at("0");
    let reader = std::thread::spawn(move || std::fs::read(path));
    wait_until("it is served", || reader.is_finished());
    assert!(reader.join().unwrap().unwrap() == noise(0, SIZE));
}

#[test]
fn workers_killed_under_load_harm_no_reader() {
    let Some(guarded) = guarded(&[]) else { return };
    let mut random = Random::new(seed());
    let (mut kills, mut round) = (0, 0);
    while kills < 10 * scale() {
        // One large file that is likely to be in hand, and some small ones.
        let sizes = [20 << 20, 30_000, 300_000, 700_000, 20_000, 3 << 20];
        for (i, size) in sizes.iter().enumerate() {
            guarded.write(format!("{i}"), &noise(round * 10 + i as u64, *size));
        }
        // Not all may be closed yet that the worker filled.
        std::thread::sleep(Duration::from_millis(500));
        guarded.sandbox.run(&["stash", "."]).expect(&[0]).unwrap_or_else(|e| panic!("round {round}: {e}"));
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..sizes.len())
                .map(|i| {
                    (
                        i,
                        scope.spawn({
                            let path = guarded.at(i.to_string());
                            move || std::fs::read(path)
                        }),
                    )
                })
                .collect();
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(random.between(0, 120)));
                kills += guarded.guard().kill_workers();
            }
            for (i, reader) in readers {
                let seen = reader.join().unwrap().unwrap_or_else(|e| {
                    panic!("{i} in round {round} after {kills} kills: {e}; {:?}", guarded.guard().said())
                });
                let whole = same(&seen, &noise(round * 10 + i as u64, sizes[i]));
                whole.unwrap_or_else(|e| {
                    panic!("{i} in round {round} after {kills} kills: {e}; {:?}", guarded.guard().said())
                });
            }
        });
        round += 1;
    }
    wait_until("a worker is back", || !guarded.guard().workers().is_empty());
    std::thread::sleep(Duration::from_secs(1));
    guarded.sandbox.ok(&["stash", "."]).unwrap();
    guarded.sandbox.ok(&["fsck", "--read-data"]).unwrap();
}

type Reader<'s> = std::thread::ScopedJoinHandle<'s, std::io::Result<Vec<u8>>>;

/// Opens files and freezes the worker while it fills all of them.
fn caught<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    guarded: &Guarded,
    files: &'s [PathBuf],
) -> Vec<Reader<'s>> {
    for _ in 0..50 {
        let readers: Vec<_> = files.iter().map(|path| scope.spawn(move || std::fs::read(path))).collect();
        let all_filling = || files.iter().all(|path| is_filling(path));
        wait_until("all are being filled at once, or were", || {
            all_filling() || readers.iter().all(|reader| reader.is_finished())
        });
        guarded.guard().freeze(true);
        if all_filling() && !readers.iter().any(|reader| reader.is_finished()) {
            return readers;
        }
        // It was too fast.
        guarded.guard().freeze(false);
        readers.into_iter().for_each(|reader| drop(reader.join().unwrap().unwrap()));
        wait_until("all are durable", || !files.iter().any(|path| is_unsettled(path)));
        guarded.stash();
    }
    panic!("never were all of them being filled at once");
}

#[test]
fn what_a_killed_worker_was_filling_comes_by_the_next_one() {
    let Some(guarded) = guarded(&[]) else { return };
    let sizes = [64u64 << 20, 30 << 20, 20_000, 700_001];
    for (i, size) in sizes.iter().enumerate() {
        guarded.write(i.to_string(), &noise(i as u64, *size));
    }
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    std::fs::set_permissions(guarded.at("1"), read_only).unwrap();
    guarded.stash();
    let files: Vec<_> = (0..4).map(|i| guarded.at(i.to_string())).collect();
    std::thread::scope(|scope| {
        let mut readers = caught(scope, &guarded, &files[..2]);
        readers.extend(files[2..].iter().map(|path| scope.spawn(move || std::fs::read(path))));
        wait_until("all wait", || waiting(&guarded).len() == 4);
        guarded.guard().kill_workers();
        see_all(&guarded, readers, &sizes);
    });
    let said = guarded.guard().said();
    assert!(!said.iter().any(|line| line.contains("refused")), "the next worker mends by itself: {said:?}");
}

/// Every reader sees the noise of its number.
fn see_all(guarded: &Guarded, readers: Vec<Reader>, sizes: &[u64]) {
    for (i, (reader, size)) in readers.into_iter().zip(sizes).enumerate() {
        let seen =
            reader.join().unwrap().unwrap_or_else(|e| panic!("{i}: {e}; {:?}", guarded.guard().said()));
        same(&seen, &noise(i as u64, *size)).unwrap_or_else(|e| panic!("{i}: {e}"));
    }
}

#[test]
fn what_is_moved_away_or_removed_while_it_is_filled_comes_by_the_next_worker() {
    let Some(guarded) = guarded(&[]) else { return };
    let (files, sizes) = ([guarded.at("moved"), guarded.at("removed")], [64 << 20; 2]);
    for (i, path) in files.iter().enumerate() {
        guarded.write(path, &noise(i as u64, sizes[i]));
    }
    guarded.stash();
    std::thread::scope(|scope| {
        let readers = caught(scope, &guarded, &files);
        std::fs::rename(&files[0], guarded.beside().join("moved")).unwrap();
        std::fs::remove_file(&files[1]).unwrap();
        guarded.guard().kill_workers();
        see_all(&guarded, readers, &sizes);
    });
}

/// Has `file` half filled by a worker that is killed, together with its guard.
fn leave_half_filled(guarded: &mut Guarded, file: &Path) {
    let files = [file.to_path_buf()];
    std::thread::scope(|scope| {
        let readers = caught(scope, guarded, &files);
        let guard = guarded.guard.as_mut().unwrap();
        guard.kill_workers();
        guard.kill();
        // Whatever it saw: there was no guard any more.
        readers.into_iter().for_each(|reader| drop(reader.join().unwrap()));
    });
    guarded.guard = None;
}

/// A folder whose worker and guard were killed while they filled `file`, and what that holds.
fn half_filled() -> Option<(Guarded, Vec<u8>)> {
    let mut guarded = guarded(&[])?;
    let content = noise(1, 64 << 20);
    guarded.write("file", &content);
    guarded.stash();
    let file = guarded.at("file");
    leave_half_filled(&mut guarded, &file);
    Some((guarded, content))
}

#[test]
fn what_is_half_filled_is_found_where_nobody_noted_that_it_was_stashed() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    let (content, file) = (noise(1, 64 << 20), guarded.at("file"));
    guarded.write("file", &content);
    guarded.sandbox.ok(&["commit"]).unwrap();
    let (index, before) = (guarded.at(".ddr/history.db"), guarded.outside().join("history.db"));
    std::fs::copy(&index, &before).unwrap();
    guarded.start(&[]);
    guarded.stash();
    leave_half_filled(&mut guarded, &file);
    // As if whoever stashed it had died before it could write that down.
    for extra in ["history.db-wal", "history.db-shm"] {
        let _ = std::fs::remove_file(guarded.at(".ddr").join(extra));
    }
    std::fs::copy(&before, &index).unwrap();
    guarded.start(&[]);
    assert!(std::fs::read(&file).unwrap() == content);
}

#[test]
fn a_command_that_mends_leaves_the_trace_of_a_worker_that_lives() {
    let Some(guarded) = guarded(&[]) else { return };
    for i in 0..200 {
        guarded.write(i.to_string(), &noise(i, 20_000));
    }
    let pending = || {
        let mut names = std::fs::read_dir(guarded.at(".ddr/intents")).unwrap().flatten();
        names.any(|entry| entry.file_name().to_string_lossy().parse::<u64>().is_ok())
    };
    let mut stash = guarded.sandbox.start(&["stash", "."], None);
    wait_until("it says what it is about to do", pending);
    stash.kill();
    stash.wait();
    assert!(pending());
    let trace = guarded.at(".ddr/recalling");
    assert!(trace.exists());
    guarded.sandbox.ok(&["commit"]).unwrap();
    assert!(!pending(), "it has mended");
    assert!(trace.exists(), "what the worker fills next could not be told from the user's");
}

#[test]
fn what_is_half_filled_is_found_under_another_name() {
    let Some((mut guarded, content)) = half_filled() else { return };
    let moved = guarded.at("moved");
    std::fs::rename(guarded.at("file"), &moved).unwrap();
    guarded.start(&[]);
    assert!(std::fs::read(&moved).unwrap() == content);
}

#[test]
fn a_copy_made_at_the_moment_of_a_recall_is_a_file_like_any_other() {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write("file", &noise(1, SIZE));
    guarded.stash();
    let mut command = Command::new("cp");
    guarded.sandbox.settle(&mut command);
    // With the mark of the filling, where that is still there.
    assert!(command.args(["-a", "file", "copy"]).status().unwrap().success());
    guarded.sandbox.ok(&["commit"]).unwrap();
    guarded.sandbox.ok(&["stash", "copy"]).unwrap();
    assert!(is_stub(&guarded.at("copy")) && std::fs::read(guarded.at("copy")).unwrap() == noise(1, SIZE));
}

#[test]
fn what_is_half_filled_and_cannot_be_finished_is_guarded_too() {
    let Some((mut guarded, content)) = half_filled() else { return };
    let file = guarded.at("file");
    guarded.store_away();
    guarded.start(&[]);
    match std::fs::read(&file) {
        Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::EBUSY)), "{error}"),
        // The last byte was in, though nobody had been told.
        Ok(seen) => same(&seen, &content).unwrap_or_else(|e| panic!("{e}")),
    }
    guarded.store_back();
    same(&std::fs::read(&file).unwrap(), &content).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_worker_killed_while_it_fills_leaves_a_file_that_is_mended_without_a_guard() {
    let Some((guarded, content)) = half_filled() else { return };
    let file = guarded.at("file");
    guarded.sandbox.ok(&["checkout", "."]).unwrap();
    assert!(std::fs::read(&file).unwrap() == content);
    guarded.sandbox.ok(&["stash", "."]).unwrap();
    assert!(is_stub(&file));
}
