//! From a store alone to the whole tree, and histories that carry over: moves, deletions, versions.

use std::collections::BTreeSet;

use crate::support::content::noise;
use crate::support::shell::Shell;

pub const LIST: &str = "find . -name .ddr -prune -o -type d -printf '%P %y %m %T@\\n' \
                    -o -mindepth 1 -printf '%P %y %m %s %T@ %l\\n' | sort";

/// Lines of the listings that differ, so that a failure can be read.
fn same(one: &Shell, two: &Shell) {
    let (a, b) = (one.ok(LIST), two.ok(LIST));
    let lines = |text: &str| text.lines().map(str::to_string).collect::<BTreeSet<_>>();
    let differ: Vec<_> = lines(&a).symmetric_difference(&lines(&b)).cloned().collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

#[test]
fn a_clone_is_the_tree_as_stubs() {
    let shell = Shell::stashed();
    shell.ok("chmod 640 note.txt && chmod 700 photos && ddr commit -m 'stricter'");
    shell.date_all();
    shell.ok("ddr commit");
    let two = shell.other("two");
    let said = two.transcript(
        "ddr clone ../../store .
         ddr ls -l
         ddr status
         ddr history | sort
         ddr stash .
         ddr checkout
         ddr status
         ddr remote list",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr clone ../../store .
    cloned into /r/two/folder: 6 paths, of them 2 stubs (376.0 KiB); 9 B written
    Next: ddr checkout PATH brings content back
    $ ddr ls -l
    dir   -         -  755  2024-01-02 03:04  -         empty/
    link  -         -  777  2024-01-02 03:04  -         link
    full  1       9 B  640  2024-01-02 03:04  eebf0db7  note.txt
    dir   -         -  700  2024-01-02 03:04  -         photos/
    stub  1  83.0 KiB  644  2024-01-02 03:04  16aa3119  report.txt
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store origin: online, <n> free
    $ ddr history | sort
    <----- now ---->  empty#1             dir   -          -         folder
    <----- now ---->  link#1              link  -          -         folder
    <----- now ---->  note.txt#1          file  9 B        eebf0db7  folder
    <----- now ---->  note.txt#2          file  9 B        eebf0db7  folder  "stricter"
    <----- now ---->  photos#1            dir   -          -         folder
    <----- now ---->  photos#2            dir   -          -         folder  "stricter"
    <----- now ---->  photos/beach.raw#1  file  293.0 KiB  f5fb425f  folder
    <----- now ---->  report.txt#1        file  83.0 KiB   16aa3119  folder
    $ ddr stash .
    ! ddr: refused: origin lies on the folder's own disk and would be lost together with it; if you accept that, run: ddr remote set origin --same-disk
    [exit 4]
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store origin: online, <n> free
    $ ddr remote list
    origin  online  /r/store
    "#);
    shell.ok("ddr checkout");
    same(&two, &shell);
    assert!(two.read("report.txt") == shell.read("report.txt"));
    assert_eq!(two.ok("ddr debug state-hash"), shell.ok("ddr debug state-hash"));
}

#[test]
fn places_to_clone_to() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "cd .. && ddr clone ../store
         cd .. && ddr clone ../store
         cd .. && ddr clone ../store other --name nas --json
         cd ../other && ddr remote list
         ddr clone /nowhere ../x
         ddr clone . ../x
         ddr clone s3://nas/docs ../x
         mkdir ../full && echo x > ../full/x
         ddr clone ../../store ../full
         ls -A ../full
         ddr clone ../../store ../note
         ddr clone ../../store ../../store/below
         ddr clone ../../store note.txt
         ls ..",
    );
    insta::assert_snapshot!(said, @r#"
    $ cd .. && ddr clone ../store
    cloned into /r/one/store: 6 paths, of them 2 stubs (376.0 KiB); 9 B written
    Next: ddr checkout PATH brings content back
    $ cd .. && ddr clone ../store
    cloned into /r/one/store: 0 paths, of them 0 stubs (0 B); 0 B written
    $ cd .. && ddr clone ../store other --name nas --json
    {"made":6,"path":"/r/one/other","problems":0,"stub_bytes":385000,"stubs":2,"type":"clone","written_bytes":9}
    $ cd ../other && ddr remote list
    nas  online  /r/store
    $ ddr clone /nowhere ../x
    ! ddr: origin is offline: /nowhere does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr clone . ../x
    ! ddr: origin is offline: /r/one/folder holds no store (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr clone s3://nas/docs ../x
    ! ddr: unsupported: "s3://nas/docs": remotes are directories, ssh:// and sftp://, not s3://
    [exit 1]
    $ mkdir ../full && echo x > ../full/x
    $ ddr clone ../../store ../full
    ! ddr: refused: /r/one/full is not empty; clone into a new directory
    [exit 4]
    $ ls -A ../full
    x
    $ ddr clone ../../store ../note
    cloned into /r/one/note: 6 paths, of them 2 stubs (376.0 KiB); 9 B written
    Next: ddr checkout PATH brings content back
    $ ddr clone ../../store ../../store/below
    ! ddr: refused: /r/store/below lies inside the ddr folder /r/store
    [exit 4]
    $ ddr clone ../../store note.txt
    ! ddr: refused: /r/one/folder/note.txt lies inside the ddr folder /r/one/folder
    [exit 4]
    $ ls ..
    folder
    full
    home
    note
    other
    store
    "#);
}

#[test]
fn the_first_clone_may_come_before_the_first_stash() {
    let shell = Shell::with_store();
    let two = shell.other("two");
    let said = two.transcript("ddr clone ../../store .\nddr ls\nddr status");
    insta::assert_snapshot!(said, @"
    $ ddr clone ../../store .
    cloned into /r/two/folder: 0 paths, of them 0 stubs (0 B); 0 B written
    $ ddr ls
    $ ddr status
    nothing changed since the last commit
    folder: 0 files, 0 stubs; <n> of 0 B local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store origin: online, <n> free
    ");
    shell.ok("ddr commit");
    insta::assert_snapshot!(two.transcript("ddr clone ../../store .\nddr ls"), @r"
    $ ddr clone ../../store .
    cloned into /r/two/folder: 6 paths, of them 2 stubs (376.0 KiB); 9 B written
    Next: ddr checkout PATH brings content back
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    ");
}

#[test]
fn a_clone_continues_the_history() {
    let shell = Shell::with_store();
    shell.ok("ddr commit -m first && rm note.txt && ddr commit -m 'note gone'");
    let two = shell.other("two");
    two.ok("ddr clone ../../store . --same-disk");
    let said = two.transcript(
        "ddr history --deleted
         ddr restore note.txt
         cat note.txt
         ddr checkout report.txt
         echo 'one more line' >> report.txt
         ddr commit -m 'from the clone'
         ddr history report.txt
         ddr restore 'report.txt#1' --to ../old
         ddr stash .
         ddr ls",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr history --deleted
    <----- now ---->  9 B  note.txt
    Bring one back with: ddr restore PATH
    $ ddr restore note.txt
    restored note.txt#1 (9 B) to /r/two/folder/note.txt
    $ cat note.txt
    buy milk
    $ ddr checkout report.txt
    checked out 1 file (83.0 KiB)
    $ echo 'one more line' >> report.txt
    $ ddr commit -m 'from the clone'
    recorded 1 path (83.0 KiB read)
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder  "first"
    <----- now ---->  #2  file  83.0 KiB  <id>  folder  "from the clone"
    $ ddr restore 'report.txt#1' --to ../old
    restored report.txt#1 (83.0 KiB) to /r/two/old
    $ ddr stash .
    stashed 1 file (83.0 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    "#);
    assert!(two.read("../old") == shell.read("report.txt"));
}

#[test]
fn moves_place_nothing_anew() {
    let shell = Shell::stashed();
    shell.write("full.raw", &noise(8, 500_000));
    shell.ok("ddr commit");
    let data = "cd ../../store/store && ls data meta | sort | sha256sum";
    let before = shell.ok(data);
    shell.ok(
        "mkdir moved && mv report.txt moved/r.txt && mv full.raw moved/f.raw && mv photos moved/pictures",
    );
    let said = shell.transcript(
        "ddr status
         ddr commit
         ddr history moved/r.txt
         ddr history report.txt
         ddr history moved/f.raw
         ddr history moved/pictures/beach.raw
         ddr stash .
         ddr ls moved",
    );
    insta::assert_snapshot!(said, @"
    $ ddr status
    D full.raw
    A moved
    A moved/f.raw
    A moved/pictures
    A moved/pictures/beach.raw
    A moved/r.txt
    D photos
    D photos/beach.raw
    D report.txt
    folder: 4 files, 0 stubs; <n> of 864.3 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 5 paths (488.3 KiB read), 4 gone (3 moved)
    $ ddr history moved/r.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder  moved from report.txt
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder  moved to moved/r.txt
    $ ddr history moved/f.raw
    <----- now ---->  #1  file  488.3 KiB  6614b6ab  folder  moved from full.raw
    $ ddr history moved/pictures/beach.raw
    <----- now ---->  #1  file  293.0 KiB  f5fb425f  folder  moved from photos/beach.raw
    $ ddr stash .
    stashed 1 file (488.3 KiB), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr ls moved
    stub  1  488.3 KiB  f.raw
    dir   -          -  pictures/
    stub  1   83.0 KiB  r.txt
    ");
    assert_eq!(shell.ok(data), before, "no object of data or meta is new");
    shell.ok("ddr checkout");
    assert!(shell.read("moved/f.raw") == noise(8, 500_000));
    assert!(shell.read("moved/pictures/beach.raw") == noise(1, 300_000));
}

#[test]
fn the_same_content_twice_is_stored_once() {
    let shell = Shell::stashed();
    let size =
        || -> u64 { shell.ok("du -sb ../../store/store/data | cut -f 1").trim().parse().expect("a number") };
    let before = size();
    shell.write("again.raw", &noise(1, 300_000));
    shell.write("photos/again.raw", &noise(1, 300_000));
    shell.ok("ddr stash .");
    assert_eq!(size(), before);
    shell.ok("ddr checkout");
    assert!(shell.read("photos/again.raw") == noise(1, 300_000));
}

#[test]
fn deleted_files_come_back_with_their_mode_and_time() {
    let shell = Shell::with_store();
    shell.ok("chmod 640 report.txt && touch -d @1000000000.25 report.txt && ddr stash .");
    let before = shell.ok(LIST);
    let said = shell.transcript(
        "rm -r report.txt photos link empty
         ddr commit -m cleared
         ddr history --deleted
         ddr restore report.txt
         ddr restore photos/beach.raw
         ddr restore link
         ddr restore empty
         ddr restore photos
         ddr history --deleted
         ddr status",
    );
    insta::assert_snapshot!(said, @"
    $ rm -r report.txt photos link empty
    $ ddr commit -m cleared
    recorded 0 paths (0 B read), 5 gone (0 moved)
    $ ddr history --deleted
    <----- now ---->        0 B  empty
    <----- now ---->        0 B  link
    <----- now ---->        0 B  photos
    <----- now ---->  293.0 KiB  photos/beach.raw
    <----- now ---->   83.0 KiB  report.txt
    Bring one back with: ddr restore PATH
    $ ddr restore report.txt
    restored report.txt#1 (83.0 KiB) to /r/one/folder/report.txt
    $ ddr restore photos/beach.raw
    restored photos/beach.raw#1 (293.0 KiB) to /r/one/folder/photos/beach.raw
    $ ddr restore link
    restored link#1 (0 B) to /r/one/folder/link
    $ ddr restore empty
    restored empty#1 (0 B) to /r/one/folder/empty
    $ ddr restore photos
    restored photos#1 (0 B) to /r/one/folder/photos
    $ ddr history --deleted
    nothing was deleted
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    ");
    let no_dirs =
        |list: String| list.lines().filter(|l| !l.contains(" d ")).map(str::to_string).collect::<Vec<_>>();
    assert!(no_dirs(shell.ok(LIST)) == no_dirs(before));
}
