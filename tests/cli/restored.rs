//! A `.ddr` put back from an older copy, copied, moved, or damaged in parts (I9, and epochs).

use crate::support::content::noise;
use crate::support::shell::Shell;

/// Entry numbers of every origin in the store's log, from the names of its objects.
fn log_ranges(shell: &Shell) -> Vec<(String, u64, u64)> {
    let said = shell.ok("cd ../../store/store/log && find . -type f | sort");
    let parse = |line: &str| {
        let (origin, range) = line.trim_start_matches("./").split_once('/').expect("origin/range");
        let (from, to) = range.split_once('-').expect("from-to");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("hex");
        (origin.to_string(), number(from), number(to))
    };
    said.lines().map(parse).collect()
}

/// No number of any origin was ever used twice, and none is missing.
fn check_numbers(shell: &Shell) -> usize {
    let mut next = std::collections::BTreeMap::<String, u64>::new();
    for (origin, from, to) in log_ranges(shell) {
        let next = next.entry(origin.clone()).or_insert(1);
        assert_eq!(from, *next, "{origin}");
        *next = to + 1;
    }
    next.len()
}

#[test]
fn put_back_from_an_older_copy() {
    let shell = Shell::stashed();
    shell.ok("cp -a .ddr ../backup");
    shell.write("later.raw", &noise(5, 100_000));
    shell.ok("echo later >> note.txt && ddr stash . && ddr checkout photos && rm link && ddr commit");
    assert_eq!(check_numbers(&shell), 1);
    shell.ok("touch -r . ../date && rm -r .ddr && cp -a ../backup .ddr && touch -r ../date .");
    let said = shell.transcript(
        "ddr status
         ddr commit
         ddr status
         ddr ls
         ddr checkout
         ddr commit
         ddr fsck --read-data
         ddr history note.txt
         ddr history later.raw",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr status
    A later.raw
    D link
    M note.txt
    T photos/beach.raw
    folder: 4 files, 2 stubs; <n> of 473.6 KiB local
    store disk2: online, <n> free
    $ ddr commit
    nothing new to record (293.0 KiB read)
    ! ddr: this copy of .ddr was moved, copied or restored: it continues under a new epoch
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 2 stubs; <n> of 473.6 KiB local
    store disk2: online, <n> free
    $ ddr ls
    dir   -         -  empty/
    stub  1  97.7 KiB  later.raw
    full  1      15 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr checkout
    checked out 2 files (180.7 KiB)
    $ ddr commit
    nothing to record
    $ ddr fsck --read-data
    disk2: 8 objects, <n> read
    own: 4 objects, <n> read
    everything is whole
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  15 B  <id>  folder
    $ ddr history later.raw
    <----- now ---->  #1  file  97.7 KiB  041472e1  folder
    ");
    assert!(shell.read("later.raw") == noise(5, 100_000));
    assert!(shell.read("photos/beach.raw") == noise(1, 300_000));
    assert_eq!(shell.read("note.txt"), b"buy milk\nlater\n");
    assert_eq!(check_numbers(&shell), 1, "what the store's log knows is not recorded again");
    shell.ok("echo last >> note.txt && ddr commit && ddr fsck --read-data");
    assert_eq!(check_numbers(&shell), 2, "a new epoch");
    let before = shell.ok("ddr debug state-hash");
    shell.ok("ddr rebuild -q");
    assert_eq!(shell.ok("ddr debug state-hash"), before);
}

#[test]
fn put_back_in_place_over_the_newer_one() {
    // As a backup program does: files are overwritten, directories keep their inodes.
    let shell = Shell::stashed();
    shell.ok("cp -a .ddr ../backup && echo later >> note.txt && ddr commit -m later");
    shell.ok("find .ddr -type f -delete && cp -a ../backup/. .ddr/");
    let said = shell.transcript("echo last >> note.txt\nddr commit -m last\nddr history note.txt");
    insta::assert_snapshot!(said, @r#"
    $ echo last >> note.txt
    $ ddr commit -m last
    recorded 1 path (20 B read)
    ! ddr: this copy of .ddr was moved, copied or restored: it continues under a new epoch
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  15 B  <id>  folder  "later"
    <----- now ---->  #3  file  20 B  <id>  folder  "last"
    "#);
    assert_eq!(check_numbers(&shell), 2, "a new epoch");
    shell.ok("ddr checkout && ddr fsck --read-data");
}

#[test]
fn copied_to_another_place() {
    let shell = Shell::stashed();
    shell.ok("cp -a . ../copy && echo here >> note.txt && ddr commit -m here");
    let said = shell.transcript(
        "cd ../copy && echo there >> note.txt && ddr commit -m there
         cd ../copy && ddr checkout
         cd ../copy && ddr commit
         ddr commit
         ddr checkout
         ddr fsck --read-data
         ddr history note.txt",
    );
    insta::assert_snapshot!(said, @r#"
    $ cd ../copy && echo there >> note.txt && ddr commit -m there
    recorded 1 path (15 B read)
    ! ddr: this copy of .ddr was moved, copied or restored: it continues under a new epoch
    $ cd ../copy && ddr checkout
    checked out 2 files (376.0 KiB)
    $ cd ../copy && ddr commit
    nothing to record
    $ ddr commit
    nothing to record
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr fsck --read-data
    disk2: 7 objects, <n> read
    own: 3 objects, <n> read
    everything is whole
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  14 B  <id>  folder  "here"
    <----- now ---->  #3  file  15 B  <id>  folder  "there"
    "#);
    assert_eq!(check_numbers(&shell), 2, "one epoch each");
    assert!(shell.read("report.txt") == shell.read("../copy/report.txt"));
    assert_eq!(shell.read("note.txt"), b"buy milk\nhere\n");
    assert_eq!(shell.read("../copy/note.txt"), b"buy milk\nthere\n");
}

#[test]
fn moved_or_under_another_home() {
    let shell = Shell::stashed();
    let epochs = check_numbers(&shell);
    // Renaming a folder is no reason for a new epoch.
    shell.ok("mv ../folder ../renamed && cd ../renamed && echo a >> note.txt && ddr commit && mv ../renamed ../folder");
    assert_eq!(check_numbers(&shell), epochs);
    // Another machine, or a lost state directory, is.
    shell.ok("rm -r ../home/state");
    let said = shell.transcript("echo b >> note.txt && ddr commit\nddr commit\nddr checkout");
    insta::assert_snapshot!(said, @r"
    $ echo b >> note.txt && ddr commit
    recorded 1 path (13 B read)
    ! ddr: this copy of .ddr was moved, copied or restored: it continues under a new epoch
    $ ddr commit
    nothing to record
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
    assert_eq!(check_numbers(&shell), epochs + 1);
}

#[test]
fn a_corrupt_database_is_set_aside() {
    let shell = Shell::stashed();
    let before = shell.ok("ddr debug state-hash");
    for damage in [
        "printf garbage > .ddr/history.db; rm -f .ddr/history.db-wal .ddr/history.db-shm",
        "head -c 100000 /dev/urandom | dd of=.ddr/history.db conv=notrunc bs=1 seek=100 2>/dev/null",
        "truncate -s 5000 .ddr/history.db",
        "rm .ddr/history.db*",
        "rm -r ../home/cache",
        "for f in ../home/cache/ddr/index/*.db; do printf garbage > $f; rm -f $f-wal $f-shm; done",
        "for f in ../home/cache/ddr/index/*.db; do truncate -s 3000 $f; done",
    ] {
        shell.ok(damage);
        let said = shell.code("ddr status", 0);
        let history = damage.contains("history.db");
        assert_eq!(said.contains("history.db was damaged or missing"), history, "`{damage}`: {said}");
        assert_eq!(shell.ok("ddr debug state-hash"), before, "{damage}");
        shell.ok("ddr commit && ddr stash . && ddr checkout && ddr stash .");
        assert_eq!(shell.ok("ddr debug state-hash"), before, "nothing new after `{damage}`");
    }
    shell.ok("ddr checkout && ddr fsck --read-data");
    assert!(shell.read("photos/beach.raw") == noise(1, 300_000));
}

#[test]
fn a_lost_database_is_said_and_nothing_is_shown_as_new() {
    let shell = Shell::stashed();
    shell.ok("ddr checkout photos && echo more >> note.txt && rm .ddr/history.db*");
    let said = shell.transcript(
        "ddr status | head -n 4
         ddr ls
         ddr whereis report.txt
         ddr commit -n
         ddr restore note.txt
         ddr history note.txt
         ddr commit
         ddr status | head -n 2",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr status | head -n 4
    M note.txt
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    5 paths not compared since history.db was lost; `ddr commit` does that
    store disk2: online, <n> free
    ! ddr: history.db was damaged or missing: rebuilt from the log
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    new   -      14 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      disk2 has it, verified <----- now ---->
    $ ddr commit -n
    M note.txt
    $ ddr restore note.txt
    restored note.txt#1 (9 B) to /r/one/folder/note.txt
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  14 B  <id>  folder  "before a restore"
    <----- now ---->  #3  file  9 B   eebf0db7  folder  "restored version 1 of note.txt"
    $ ddr commit
    nothing new to record (293.0 KiB read)
    $ ddr status | head -n 2
    nothing changed since the last commit
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    "#);
}

#[test]
fn a_damaged_own_log_is_taken_from_the_store() {
    let shell = Shell::stashed();
    let before = shell.ok("ddr debug state-hash");
    shell.ok("rm -r .ddr/store/log .ddr/history.db* && mkdir -m 700 .ddr/store/log");
    let said = shell.transcript("ddr status | tail -n 2\nddr commit\nddr checkout\nddr fsck");
    insta::assert_snapshot!(said, @r"
    $ ddr status | tail -n 2
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    $ ddr commit
    nothing new to record (9 B read)
    ! ddr: this copy of .ddr was moved, copied or restored: it continues under a new epoch
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr fsck
    disk2: 3 objects, <n> read
    own: 1 object, <n> read
    names and trailers are whole
    ");
    assert_eq!(shell.ok("ddr debug state-hash"), before);
}
