//! Files that are not plain: sizes, times, kinds, links, ignored ones, and what cannot be read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixListener;

use crate::support::content::noise;
use crate::support::say;
use crate::support::shell::Shell;
use crate::support::tree::hash_file;

#[test]
fn sizes_from_nothing_to_huge() {
    let shell = Shell::with_store();
    for size in [0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 262_144, 262_145] {
        shell.write(format!("size-{size}"), &noise(size, size));
    }
    shell.ok("ddr config set stash.min_size 4097 && ddr stash .");
    let stubs = shell.ok("ddr ls | grep size- | awk '{print $NF, $1}' | sort -V");
    insta::assert_snapshot!(stubs, @r"
    size-0 full
    size-1 full
    size-4095 full
    size-4096 full
    size-4097 stub
    size-16383 stub
    size-16384 stub
    size-16385 stub
    size-262144 stub
    size-262145 stub
    ");
    shell.ok("ddr checkout");
    for size in [0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 262_144, 262_145] {
        assert!(shell.read(format!("size-{size}")) == noise(size, size), "{size}");
    }
}

#[test]
fn sparse_files_stay_sparse() {
    let shell = Shell::with_store();
    let size: u64 = 2 << 30;
    let path = shell.at("sparse.img");
    let file = fs::File::create(&path).expect("sandbox file");
    file.write_all_at(&noise(4, 100_000), 1 << 30).expect("data");
    file.set_len(size).expect("size");
    drop(file);
    shell.ok("truncate -s 300M hole.img; truncate -s 50000 small-hole.img");
    let facts = |path: &std::path::Path| {
        let meta = fs::metadata(path).expect("there");
        (meta.len(), meta.mtime(), meta.mtime_nsec())
    };
    let before = facts(&path);
    shell.ok("ddr stash .");
    assert_eq!(facts(&path), before);
    assert!(fs::metadata(&path).expect("there").blocks() * 512 <= 16 << 10);
    let two = shell.other("two");
    two.ok("ddr clone ../../store . && ddr checkout");
    shell.ok("ddr checkout");
    for path in [path, two.at("sparse.img")] {
        assert_eq!(facts(&path), before);
        let file = fs::File::open(&path).expect("there");
        let mut bytes = vec![0; 100_002];
        file.read_exact_at(&mut bytes, (1 << 30) - 1).expect("readable");
        assert!(bytes[1..100_001] == noise(4, 100_000) && bytes[0] == 0 && bytes[100_001] == 0);
        let kept = file.metadata().expect("there").blocks() * 512;
        assert!(kept < 1 << 20, "{kept} bytes on the disk");
    }
    assert_eq!(fs::metadata(two.at("hole.img")).expect("there").len(), 300 << 20);
    assert!(fs::metadata(two.at("hole.img")).expect("there").blocks() < 100);
    let stored: u64 =
        shell.ok("du -sb --exclude=RESERVE ../../store | cut -f 1").trim().parse().expect("a number");
    assert!(stored < 1 << 20, "{stored} bytes in the store");
}

#[test]
fn times_before_1970_and_far_in_the_future() {
    let shell = Shell::with_store();
    let times = [
        (-1, 999_999_999),
        (-2_000_000_000, 1),
        (0, 0),
        (1, 123_456_789),
        (4_102_444_800, 999_999_999),
        (10_000_000_000, 5),
    ];
    let mut kept = Vec::new();
    for (i, (secs, nanos)) in times.into_iter().enumerate() {
        let name = format!("t{i}");
        shell.write(&name, &noise(i as u64, 20_000));
        let time = filetime::FileTime::from_unix_time(secs, nanos);
        filetime::set_file_mtime(shell.at(&name), time).expect("times");
        let meta = fs::metadata(shell.at(&name)).expect("there");
        // What this file system can keep.
        kept.push((name, meta.mtime(), meta.mtime_nsec()));
    }
    shell.ok("touch -h -d '1950-05-05 05:05:05.5' link && touch -d '1960-01-01' empty && ddr stash .");
    let check = |shell: &Shell| {
        for (name, secs, nanos) in &kept {
            let meta = fs::metadata(shell.at(name)).expect("there");
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (*secs, *nanos), "{name}");
        }
        let meta = fs::symlink_metadata(shell.at("link")).expect("there");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-620_420_095, 500_000_000));
    };
    check(&shell);
    let said = shell.ok("ddr status");
    assert!(said.contains("nothing changed"), "{said}");
    let two = shell.other("two");
    two.ok("ddr clone ../../store .");
    check(&two);
    two.ok("ddr checkout && ddr commit");
    check(&two);
    assert!(two.ok("ddr status").contains("nothing changed"));
    shell.ok("ddr checkout");
    check(&shell);
    insta::assert_snapshot!(shell.ok("ddr ls -l | grep ' t[0-9]' | awk '{print $NF, $6, $7}'"), @r"
    t0 1969-12-31 23:59
    t1 1906-08-16 20:26
    t2 1970-01-01 00:00
    t3 1970-01-01 00:00
    t4 2100-01-01 00:00
    t5 2286-11-20 17:46
    ");
}

#[test]
fn sockets_fifos_and_devices_are_reported_and_skipped() {
    let shell = Shell::with_store();
    let _socket = UnixListener::bind(shell.at("socket")).expect("a socket");
    shell.ok("mkfifo photos/fifo; mknod null c 1 3 2>/dev/null || ln -s /dev/null null");
    let said = shell.transcript(
        "ddr status | head -n 3
         ddr stash .
         ddr ls photos
         ddr stash photos/fifo
         ddr history photos/fifo
         rm socket null photos/fifo && ddr commit",
    );
    if rustix::process::geteuid().is_root() && said.contains("null:") {
        insta::assert_snapshot!(said, @r"
        $ ddr status | head -n 3
        A empty
        A link
        A note.txt
        ! null: unsupported: a device, which ddr does not keep
        ! photos/fifo: unsupported: a fifo, which ddr does not keep
        ! socket: unsupported: a socket, which ddr does not keep
        ! ddr: 3 files had problems
        $ ddr stash .
        stashed 2 files (376.0 KiB), freeing <n>; 1 placed but small, kept here
        ! null: unsupported: a device, which ddr does not keep
        ! photos/fifo: unsupported: a fifo, which ddr does not keep
        ! socket: unsupported: a socket, which ddr does not keep
        ! ddr: 3 files had problems
        [exit 3]
        $ ddr ls photos
        stub  1  293.0 KiB  beach.raw
        fifo  -          -  fifo
        $ ddr stash photos/fifo
        stashed 0 files (0 B), freeing <n>
        ! photos/fifo: unsupported: a fifo, which ddr does not keep
        ! ddr: 1 file had problems
        [exit 3]
        $ ddr history photos/fifo
        ! ddr: photos/fifo in history not found
        [exit 1]
        $ rm socket null photos/fifo && ddr commit
        nothing to record
        ");
    }
    assert!(said.contains("fifo") && said.contains("socket"), "{said}");
}

#[test]
fn hard_links_are_placed_and_stay() {
    let shell = Shell::with_store();
    shell.ok("ln report.txt photos/hard");
    let said = shell.transcript("ddr stash .\nddr ls . photos\nddr stash .\nddr status");
    insta::assert_snapshot!(said, @"
    $ ddr stash .
    stashed 1 file (293.0 KiB), freeing <n>; 1 placed but small, kept here
    ! photos/hard: refused: placed, but not stashed: it has 2 hard links
    ! report.txt: refused: placed, but not stashed: it has 2 hard links
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr ls . photos
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    full  1  83.0 KiB  report.txt
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here
    ! photos/hard: refused: placed, but not stashed: it has 2 hard links
    ! report.txt: refused: placed, but not stashed: it has 2 hard links
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 1 stub; <n> of 459.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    ");
    let (a, b) = (fs::metadata(shell.at("report.txt")), fs::metadata(shell.at("photos/hard")));
    let (a, b) = (a.expect("there"), b.expect("there"));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert!(shell.read("report.txt").starts_with(b"0001"));
}

#[test]
fn a_file_that_is_open_for_writing_is_placed_not_stashed() {
    let shell = Shell::with_store();
    let mut file = fs::File::options().append(true).open(shell.at("report.txt")).expect("there");
    let said = shell.transcript("ddr stash .\nddr ls report.txt");
    insta::assert_snapshot!(said, @r"
    $ ddr stash .
    stashed 1 file (293.0 KiB), freeing <n>; 1 placed but small, kept here
    ! report.txt: refused: placed, but not stashed: it is open for writing or mapped by another program
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr ls report.txt
    full  1  83.0 KiB  report.txt
    ");
    file.write_all(b"more\n").expect("written");
    drop(file);
    assert!(shell.read("report.txt").ends_with(b"more\n"));
    insta::assert_snapshot!(shell.transcript("ddr stash .\nddr history report.txt"), @r"
    $ ddr stash .
    stashed 1 file (83.0 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  83.0 KiB  <id>  folder
    ");
}

#[test]
fn ignored_files_are_silent_and_never_deletions() {
    let shell = Shell::with_store();
    shell.ok("mkdir -p build/deep && echo x > build/deep/x && echo o > a.o && echo k > keep.o");
    shell.ok("printf '*.o\\n!keep.o\\n/build/\\n' > .ddrignore && echo '*.raw' > photos/.ddrignore");
    let said = shell.transcript(
        "ddr status
         ddr commit
         ddr stash .
         ddr ls
         echo '*.txt' >> .ddrignore
         ddr status
         ddr commit
         ddr history note.txt
         ddr stash report.txt
         ddr ls report.txt
         rm .ddrignore photos/.ddrignore
         ddr status
         ddr commit
         ddr history note.txt",
    );
    insta::assert_snapshot!(said, @"
    $ ddr status
    A .ddrignore
    A empty
    A keep.o
    A link
    A note.txt
    A photos
    A photos/.ddrignore
    A report.txt
    folder: 5 files, 0 stubs; <n> of 83.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 8 paths (83.0 KiB read)
    $ ddr stash .
    stashed 1 file (83.0 KiB), freeing <n>; 4 placed but small, kept here
    $ ddr ls
    full  1      20 B  .ddrignore
    new   -       2 B  a.o
    dir   -         -  build/
    dir   -         -  empty/
    full  1       2 B  keep.o
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ echo '*.txt' >> .ddrignore
    $ ddr status
    M .ddrignore
    folder: 3 files, 0 stubs; <n> of 34 B local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (26 B read)
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B  eebf0db7  folder
    $ ddr stash report.txt
    stashed 0 files (0 B), freeing <n>
    ! report.txt: unsupported: ignored by a .ddrignore file, left alone
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr ls report.txt
    stub  1  83.0 KiB  report.txt
    $ rm .ddrignore photos/.ddrignore
    $ ddr status
    D .ddrignore
    A a.o
    A build
    A build/deep
    A build/deep/x
    D photos/.ddrignore
    A photos/beach.raw
    folder: 6 files, 1 stub; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 5 paths (293.0 KiB read), 2 gone (0 moved)
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B  eebf0db7  folder
    ");
}

#[test]
fn symlinks_are_kept_as_they_are() {
    let shell = Shell::with_store();
    shell.ok("ln -s /nowhere/at/all dangling; ln -s /etc/passwd absolute; ln -s . loop; ln -s ../../.. up");
    shell.ok(&format!("ln -s {} long; ln -s \"$(printf 'a\\nb\\377')\" odd", "x".repeat(4000)));
    shell.ok("touch -h -d @1704164645 dangling absolute loop up long odd && ddr stash .");
    let two = shell.other("two");
    two.ok("ddr clone ../../store . && ddr checkout");
    let list = "find . -name .ddr -prune -o -type l -printf '%P %m %T@ %l\\n' | sort | sha256sum";
    assert_eq!(two.ok(list), shell.ok(list));
    shell.ok("ln -sfn elsewhere dangling");
    insta::assert_snapshot!(shell.transcript("ddr status\nddr commit\nddr history dangling\nddr restore 'dangling#1'\nreadlink dangling"), @"
    $ ddr status
    M dangling
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr history dangling
    <----- now ---->  #1  link  -  -  folder
    <----- now ---->  #2  link  -  -  folder
    $ ddr restore 'dangling#1'
    restored dangling#1 (0 B) to /r/one/folder/dangling
    $ readlink dangling
    /nowhere/at/all
    ");
}

#[test]
fn replaced_and_removed_between_commits() {
    let shell = Shell::with_store();
    shell.write("tree/a", b"a");
    shell.write("tree/b/c", b"c");
    shell.ok("ddr commit");
    shell.ok("rm -r tree && echo file > tree && rm note.txt && mkdir note.txt && echo in > note.txt/in");
    shell.ok("rm link && mkdir link && rmdir empty && ln -s photos empty");
    insta::assert_snapshot!(shell.transcript("ddr status\nddr commit\nddr status"), @"
    $ ddr status
    M empty
    M link
    M note.txt
    A note.txt/in
    M tree
    D tree/a
    D tree/b
    D tree/b/c
    folder: 4 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 5 paths (8 B read), 3 gone (0 moved)
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    ");
    shell.ok("rm tree && mkdir -p tree/b && echo c2 > tree/b/c && rm -r note.txt && echo note > note.txt");
    insta::assert_snapshot!(shell.transcript("ddr status\nddr commit\nddr status\nddr history tree/b/c\nddr history tree"), @"
    $ ddr status
    M note.txt
    D note.txt/in
    M tree
    A tree/b
    A tree/b/c
    folder: 4 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 4 paths (8 B read), 1 gone (0 moved)
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history tree/b/c
    <----- now ---->  #1  file     1 B  ea7aa1fc  folder
    <----- now ---->  #2  deleted  -    -         folder
    <----- now ---->  #3  file     3 B  <id>  folder
    $ ddr history tree
    <----- now ---->  tree/b/c#3  file     3 B  <id>  folder
    <----- now ---->  tree/b#3    dir      -    -         folder
    <----- now ---->  tree#3      dir      -    -         folder
    <----- now ---->  tree/b/c#2  deleted  -    -         folder
    <----- now ---->  tree/b#2    deleted  -    -         folder
    <----- now ---->  tree/a#2    deleted  -    -         folder
    <----- now ---->  tree#2      file     5 B  <id>  folder
    <----- now ---->  tree/b/c#1  file     1 B  ea7aa1fc  folder
    <----- now ---->  tree/b#1    dir      -    -         folder
    <----- now ---->  tree/a#1    file     1 B  17762fdd  folder
    <----- now ---->  tree#1      dir      -    -         folder
    ");
    let two = shell.other("two");
    two.ok("ddr clone ../../store . && ddr checkout");
    let list = "find . -name .ddr -prune -o -printf '%P %y %s %l\\n' | grep -v ' d ' | sort";
    assert_eq!(two.ok(list), shell.ok(list));
}

/// A user without any power, for tests run as root; `None` if there is no way to be one.
fn ordinary(shell: &Shell) -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("");
    }
    let become_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    shell.ok("chown -R 65534:65534 ../..");
    let able = shell.run(&format!("{become_nobody} ddr --version")).code == Some(0);
    able.then_some(become_nobody)
}

#[test]
fn what_an_ordinary_user_cannot_read_is_not_deleted() {
    let shell = Shell::stashed();
    shell.ok("mkdir closed && echo in > closed/in && ddr commit");
    let Some(nobody) = ordinary(&shell) else { return say("not tested: no way to become an ordinary user") };
    shell.ok(&format!("{nobody} ddr commit"));
    shell.ok("chmod 000 closed note.txt; chmod 500 photos");
    let mut said = String::new();
    for line in ["ddr status", "ddr commit", "ddr stash .", "ddr checkout", "ddr history closed/in"] {
        let output = shell.run(&format!("{nobody} {line}"));
        said += &shell.plain(&format!("$ {line}\n{}{}", output.stdout, output.stderr));
    }
    shell.ok("chmod 755 closed photos && chmod 644 note.txt");
    insta::assert_snapshot!(said, @"
    $ ddr status
    P closed
    P note.txt
    P photos
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    closed: listing /r/one/folder/closed: Permission denied (os error 13)
    ddr: 1 file had problems
    $ ddr commit
    recorded 2 paths (0 B read)
    closed: listing /r/one/folder/closed: Permission denied (os error 13)
    note.txt: opening /r/one/folder/note.txt: Permission denied (os error 13)
    ddr: 2 files had problems
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already
    closed: listing /r/one/folder/closed: Permission denied (os error 13)
    note.txt: opening /r/one/folder/note.txt: Permission denied (os error 13)
    ddr: 2 files had problems
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    closed: listing /r/one/folder/closed: Permission denied (os error 13)
    ddr: 1 file had problems
    $ ddr history closed/in
    <----- now ---->  #1  file  3 B  <id>  folder
    ");
    assert!(shell.read("photos/beach.raw") == noise(1, 300_000), "a directory need not be writable");
    let said = shell.ok(&format!("{nobody} ddr status"));
    assert!(!said.contains("D "), "{said}");
    shell.ok(&format!("{nobody} ddr commit"));
    assert_eq!(shell.read("closed/in"), b"in\n");
}

#[test]
fn i3_permissions_and_times_survive_the_way_there_and_back() {
    let shell = Shell::with_store();
    shell.write("strict", &noise(6, 30_000));
    shell.write("open", &noise(7, 30_000));
    shell.ok("chmod 400 strict; chmod 777 open; chmod 700 photos; chmod 1777 empty");
    shell.date_all();
    let list = "find . -name .ddr -prune -o -printf '%P %y %m %s %T@ %l %i\\n' | sort";
    let before = shell.ok(list);
    shell.ok("ddr stash .");
    assert_eq!(shell.ok(list), before);
    shell.ok("ddr checkout");
    assert_eq!(shell.ok(list), before);
    assert!(hash_file(&shell.at("strict")).expect("readable") == blake3::hash(&noise(6, 30_000)));
    let marks = shell.run("command -v getfattr > /dev/null && getfattr -R -d . 2>/dev/null");
    assert_eq!(marks.stdout, "", "no attribute is left");
}

/// More stubs than are filled at once, and two names of one inode in different groups.
#[test]
fn a_stub_with_two_names_far_apart_is_filled_once() {
    let shell = Shell::with_store();
    for n in 0..4_100u64 {
        shell.write(format!("many/{n:04}"), &noise(n, 4_200));
    }
    shell.ok("ddr config set stash.min_size 4097 && ddr stash -q .");
    shell.ok("ln many/0000 many/zzzz && ln many/4099 many/0000-too");
    let said = shell.ok("ddr checkout many");
    assert!(said.contains("checked out 4,100 files"), "{said}");
    for (name, n) in [("0000", 0), ("0000-too", 4_099), ("2500", 2_500), ("4099", 4_099), ("zzzz", 0)] {
        assert!(shell.read(format!("many/{name}")) == noise(n, 4_200), "{name}");
    }
    assert_eq!(shell.ok("ddr ls many | grep -c stub || true").trim(), "0");
}
