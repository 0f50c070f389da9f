//! Folders, stores and processes that get in each other's way.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use ddr::format::store::StoreHead;
use rustix::fs::{FlockOperation, flock};

use crate::support::say;
use crate::support::shell::Shell;

#[test]
fn a_folder_inside_a_folder() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr init photos
         cd photos && ddr init
         ddr init --bare empty/store
         ddr clone ../../store photos/clone --same-disk
         ddr clone ../../store .
         mkdir ../own && ddr init ../own && mv ../own inner
         ddr status
         ddr commit
         ddr ls
         ddr stash inner
         ddr -C inner status
         ddr init ..
         cd .. && ddr status",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr init photos
    ! ddr: refused: /r/one/folder/photos lies inside the ddr folder /r/one/folder; a folder inside a folder would be kept twice
    [exit 4]
    $ cd photos && ddr init
    ! ddr: refused: /r/one/folder/photos lies inside the ddr folder /r/one/folder; a folder inside a folder would be kept twice
    [exit 4]
    $ ddr init --bare empty/store
    ! ddr: refused: /r/one/folder/empty/store lies inside the ddr folder /r/one/folder; a folder inside a folder would be kept twice
    [exit 4]
    $ ddr clone ../../store photos/clone --same-disk
    ! ddr: refused: /r/one/folder/photos/clone lies inside the ddr folder /r/one/folder
    [exit 4]
    $ ddr clone ../../store .
    ! ddr: refused: /r/one/folder is a peer of this folder already; to use one more store, run: ddr remote add NAME /r/store
    [exit 4]
    $ mkdir ../own && ddr init ../own && mv ../own inner
    ddr looks after /r/one/own now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    ! inner: refused: a ddr folder of its own, left alone
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! inner: refused: a ddr folder of its own, left alone
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr ls
    dir   -         -  empty/
    dir   -         -  inner/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr stash inner
    stashed 0 files (0 B), freeing <n>
    ! inner: refused: a ddr folder of its own, left alone
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr -C inner status
    nothing changed since the last commit
    own: 0 files, 0 stubs; <n> of 0 B local
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr init ..
    ddr looks after /r/one now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    $ cd .. && ddr status
    A home
    A home/cache
    A home/cache/ddr
    A home/cache/ddr/index
    A home/cache/ddr/index/<id>.db
    A home/cache/ddr/index/<id>.lock
    A home/state
    A home/state/ddr
    A home/state/ddr/instances
    A home/state/ddr/instances/<id>-<id>.toml
    one: 3 files, 0 stubs; <n> of 20.1 KiB local
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    ! folder: refused: a ddr folder of its own, left alone
    ! ddr: 1 file had problems
    [exit 3]
    ");
}

#[test]
fn a_store_inside_the_folder_or_the_reverse() {
    let shell = Shell::with_files();
    shell.ok("ddr init && ln -s folder/photos ../detour");
    let said = shell.transcript(
        "ddr remote add disk2 . --init --same-disk
         ddr remote add disk2 photos/store --init --same-disk
         ddr remote add disk2 ../detour/store --init --same-disk
         ddr remote add disk2 ../detour/../photos/store --init --same-disk
         ddr remote add disk2 file://$PWD/photos/store --init --same-disk
         ddr remote add disk2 .ddr/store --same-disk
         ddr remote add disk2 .. --init --same-disk
         ddr remote add disk2 / --same-disk
         ddr remote add disk2 ../home --init --same-disk
         ddr remote list",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr remote add disk2 . --init --same-disk
    ! ddr: refused: /r/one/folder lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 photos/store --init --same-disk
    ! ddr: refused: /r/one/folder/photos/store lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 ../detour/store --init --same-disk
    ! ddr: refused: /r/one/folder/photos/store lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 ../detour/../photos/store --init --same-disk
    ! ddr: refused: /r/one/folder/photos/store lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 file://$PWD/photos/store --init --same-disk
    ! ddr: refused: /r/one/folder/photos/store lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 .ddr/store --same-disk
    ! ddr: refused: /r/one/folder/.ddr/store lies inside the folder itself
    [exit 4]
    $ ddr remote add disk2 .. --init --same-disk
    ! ddr: refused: the folder lies inside /r/one
    [exit 4]
    $ ddr remote add disk2 / --same-disk
    ! ddr: refused: the folder lies inside /
    [exit 4]
    $ ddr remote add disk2 ../home --init --same-disk
    ! ddr: refused: /r/one/home is not empty; name a new directory
    [exit 4]
    $ ddr remote list
    no remotes yet; add one with: ddr remote add NAME /path/on/another/disk --init
    ");
}

#[test]
fn a_store_of_another_folder() {
    let shell = Shell::stashed();
    shell.ok("mkdir ../second && cp note.txt ../second && ddr init ../second");
    let said = shell.transcript(
        "ddr -C ../second remote add disk2 ../../store --same-disk
         ddr -C ../second remote add disk2 ../../store --same-disk --init
         ddr -C ../second remote add disk2 ../../other --same-disk --init
         mv ../../store ../../set-aside && mv ../../other ../../store
         ddr status
         ddr stash .
         ddr checkout
         mv ../../store ../../other && mv ../../set-aside ../../store
         ddr checkout",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr -C ../second remote add disk2 ../../store --same-disk
    ! ddr: refused: /r/store is a store of another folder (store)
    [exit 4]
    $ ddr -C ../second remote add disk2 ../../store --same-disk --init
    ! ddr: refused: /r/store holds a store already; add it without --init
    [exit 4]
    $ ddr -C ../second remote add disk2 ../../other --same-disk --init
    added remote disk2: /r/other
    Next: ddr stash PATH places files there and frees their space here
    $ mv ../../store ../../set-aside && mv ../../other ../../store
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    ! ddr: refused: disk2 is a store of another folder (other)
    [exit 4]
    $ ddr stash .
    ! ddr: refused: disk2 is a store of another folder (other)
    [exit 4]
    $ ddr checkout
    ! ddr: refused: disk2 is a store of another folder (other)
    [exit 4]
    $ mv ../../store ../../other && mv ../../set-aside ../../store
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
}

/// Everything in the store that a write would change.
const LIST_STORE: &str = "find ../../store -printf '%P %s %T@\\n' | sort";

#[test]
fn formats_of_the_future() {
    let shell = Shell::stashed();
    let object = shell.sandbox.store().join("store/folder");
    let old = std::fs::read(&object).expect("a store");
    let mut head = StoreHead::decode(&old).expect("a store's head");
    head.format += 1;
    shell.ok("chmod u+w ../../store/store/folder");
    std::fs::write(&object, head.encode()).expect("sandbox file");
    let before = shell.ok(LIST_STORE);
    let said = shell.transcript(
        "ddr status\nddr checkout\nddr stash .\nddr commit\nddr gc\nddr clone ../../store ../clone",
    );
    assert_eq!(shell.ok(LIST_STORE), before, "something was written");
    insta::assert_snapshot!(said, @r"
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    ! ddr: unsupported: disk2: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    $ ddr checkout
    ! ddr: unsupported: disk2: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    $ ddr stash .
    ! ddr: unsupported: disk2: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    $ ddr commit
    ! ddr: unsupported: disk2: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    $ ddr gc
    ! ddr: unsupported: disk2: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    $ ddr clone ../../store ../clone
    ! ddr: unsupported: this store has format 2, this ddr reads up to 1; use a newer ddr
    [exit 1]
    ");
    std::fs::write(&object, old).expect("sandbox file");
    let said = shell.transcript(
        "ddr ls note.txt
         sed -i 's/^format = 1/format = 2/' .ddr/folder.toml
         ddr status
         ddr checkout
         ddr init
         sed -i 's/^format = 2/format = 1/' .ddr/folder.toml
         ddr checkout",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr ls note.txt
    full  1  9 B  note.txt
    $ sed -i 's/^format = 1/format = 2/' .ddr/folder.toml
    $ ddr status
    ! ddr: unsupported: this folder has format 2, this ddr knows up to 1; use a newer ddr
    [exit 1]
    $ ddr checkout
    ! ddr: unsupported: this folder has format 2, this ddr knows up to 1; use a newer ddr
    [exit 1]
    $ ddr init
    ! ddr: refused: /r/one/folder is a ddr folder already
    [exit 4]
    $ sed -i 's/^format = 2/format = 1/' .ddr/folder.toml
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
}

#[test]
fn a_folder_without_its_file_is_no_empty_folder() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "mv .ddr/folder.toml ../aside
         ddr status
         ddr commit
         ddr init
         mv ../aside .ddr/folder.toml
         ddr status
         mv .ddr/keys ../aside
         ddr status
         mv ../aside .ddr/keys
         ddr checkout",
    );
    insta::assert_snapshot!(said, @r"
    $ mv .ddr/folder.toml ../aside
    $ ddr status
    ! ddr: no ddr folder at or above /r/one/folder
    !      run `ddr init` in the directory you want ddr to look after
    [exit 10]
    $ ddr commit
    ! ddr: no ddr folder at or above /r/one/folder
    !      run `ddr init` in the directory you want ddr to look after
    [exit 10]
    $ ddr init
    ! ddr: refused: /r/one/folder/.ddr holds history, but its folder.toml is missing; put it back, or clone one of its stores elsewhere
    [exit 4]
    $ mv ../aside .ddr/folder.toml
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    $ mv .ddr/keys ../aside
    $ ddr status
    ! ddr: reading /r/one/folder/.ddr/keys: No such file or directory (os error 2)
    [exit 1]
    $ mv ../aside .ddr/keys
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
}

/// Holds a folder's lock as another ddr would.
fn hold(shell: &Shell) -> File {
    let mut file =
        File::options().write(true).create(true).truncate(true).open(shell.at(".ddr/lock")).expect("a lock");
    flock(&file, FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
    writeln!(file, "pid 4242: ddr stash").expect("written");
    file
}

#[test]
fn a_second_process_says_who_holds_the_lock() {
    let shell = Shell::stashed();
    let lock = hold(&shell);
    let said = shell.transcript(
        "ddr --wait 0s commit
         ddr --wait 1s stash .
         ddr checkout --wait 0s
         ddr gc --wait 0s
         ddr fsck --wait 0s
         ddr rebuild --wait 0s
         ddr restore note.txt --to ../x --wait 0s
         ddr config set stash.copies 1 --wait 0s
         ddr remote remove disk2 --force --wait 0s
         ddr status
         ddr ls
         ddr history note.txt
         ddr whereis note.txt",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr --wait 0s commit
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr --wait 1s stash .
    ! ddr: waiting for pid <n>: ddr stash
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr checkout --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr gc --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr fsck --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr rebuild --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr restore note.txt --to ../x --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr config set stash.copies 1 --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr remote remove disk2 --force --wait 0s
    ! ddr: locked by pid <n>: ddr stash
    !      wait for it to finish, or pass --wait 1m
    [exit 11]
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B  eebf0db7  folder
    $ ddr whereis note.txt
    note.txt: 9 B, full here
      content eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058
      disk2 has it, verified <----- now ---->
    ");
    drop(lock);
    shell.ok("ddr --wait 0s commit");
}

#[test]
fn a_second_process_waits_for_the_first() {
    let shell = Shell::stashed();
    let lock = hold(&shell);
    let begin = Instant::now();
    let waiting = shell.start("ddr --wait 20s checkout");
    std::thread::sleep(Duration::from_millis(1200));
    drop(lock);
    let output = waiting.wait().expect(&[0]).expect("it waited");
    assert!(begin.elapsed() < Duration::from_secs(15), "{output:?}");
    assert!(output.stderr.contains("waiting for pid 4242: ddr stash"), "{output:?}");
    assert!(output.stdout.contains("checked out 2 files"), "{output:?}");
}

#[test]
fn many_processes_at_once() {
    let shell = Shell::with_store();
    let lines = ["ddr stash .", "ddr checkout", "ddr commit", "ddr stash photos", "ddr status", "ddr ls"];
    let running: Vec<_> = lines.iter().map(|line| shell.start(&format!("{line} --wait 100s"))).collect();
    for running in running {
        running.wait().expect(&[0]).expect("all of them");
    }
    shell.ok("ddr checkout && ddr commit && ddr fsck --read-data");
    assert_eq!(shell.read("note.txt"), b"buy milk\n");
    assert!(shell.read("photos/beach.raw") == crate::support::content::noise(1, 300_000));
}

#[test]
fn two_folders_share_a_store() {
    let one = Shell::stashed();
    let two = one.other("two");
    two.ok("ddr clone ../../store . && ddr remote set origin --same-disk");
    two.ok("ddr checkout report.txt && echo from two > two.txt && ddr commit -m 'from two'");
    one.ok("echo from one > one.txt && ddr commit -m 'from one'");
    let busy = [one.start("ddr stash ."), two.start("ddr stash .")];
    busy.into_iter().for_each(|b| drop(b.wait().expect(&[0]).expect("both")));
    let said = one.transcript(
        "ddr status
         ddr history two.txt
         ddr restore two.txt
         cat two.txt
         ddr history --limit 100 | grep txt | sort -k 3",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    $ ddr history two.txt
    <----- now ---->  #1  file  9 B  <id>  folder  "from two"
    $ ddr restore two.txt
    restored two.txt#1 (9 B) to /r/one/folder/two.txt
    $ cat two.txt
    from two
    $ ddr history --limit 100 | grep txt | sort -k 3
    <----- now ---->  note.txt#1          file  9 B        eebf0db7  folder
    <----- now ---->  one.txt#1           file  9 B        <id>  folder  "from one"
    <----- now ---->  report.txt#1        file  83.0 KiB   16aa3119  folder
    <----- now ---->  two.txt#1           file  9 B        <id>  folder  "from two"
    "#);
    // Both know the same in the end.
    two.ok("ddr commit");
    one.ok("ddr commit");
    two.ok("ddr commit");
    assert_eq!(one.ok("ddr debug state-hash"), two.ok("ddr debug state-hash"));
    one.ok("ddr checkout && ddr fsck --read-data");
    two.ok("ddr checkout && ddr fsck --read-data");
    assert!(one.read("report.txt") == two.read("report.txt"));
}

#[test]
fn gc_of_one_folder_spares_what_another_one_holds() {
    let one = Shell::stashed();
    let two = one.other("two");
    two.ok("ddr clone ../../store . && ddr remote set origin --same-disk");
    two.write("only-two.raw", &crate::support::content::noise(9, 200_000));
    two.ok("ddr stash .");
    one.ok("rm -r photos report.txt && ddr commit && ddr gc --grace 0s && ddr gc --grace 0s");
    two.ok("ddr checkout && ddr fsck --read-data");
    assert!(two.read("only-two.raw") == crate::support::content::noise(9, 200_000));
    assert!(two.read("photos/beach.raw") == crate::support::content::noise(1, 300_000));
}

#[test]
fn a_store_that_is_not_there_is_offline_not_empty() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "mv ../../store ../../away
         ddr status
         ddr ls
         ddr whereis report.txt
         ddr history report.txt
         ddr checkout
         ddr checkout report.txt
         ddr stash .
         ddr restore 'report.txt#1' --to ../x
         ddr gc
         ddr fsck
         ddr clone ../../store ../clone
         mkdir ../../store
         ddr stash .
         ddr checkout report.txt
         ls -A ../../store
         ddr remote add disk3 ../../store --same-disk
         echo more > new.txt && ddr commit
         ddr status
         ddr history new.txt
         ddr rebuild | head -n 1
         rmdir ../../store && mv ../../away ../../store
         ddr commit
         ddr status
         ddr history new.txt
         ddr whereis new.txt
         ddr checkout",
    );
    insta::assert_snapshot!(said, @r"
    $ mv ../../store ../../away
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: offline: /r/store does not exist (is its disk mounted?)
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  0       9 B  note.txt
    dir   -         -  photos/
    stub  0  83.0 KiB  report.txt
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      disk2 is offline
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder  on no reachable store
    $ ddr checkout
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr checkout report.txt
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr stash .
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?); 1 copy must exist before a file may become a stub
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr restore 'report.txt#1' --to ../x
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr gc
    own: 0 packs looked at, 0 newly condemned, 0 deleted (0 B)
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr fsck
    own: 2 objects, <n> read
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr clone ../../store ../clone
    ! ddr: origin is offline: /r/store does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ mkdir ../../store
    $ ddr stash .
    ! ddr: disk2 is offline: /r/store holds no store (is its disk mounted?); 1 copy must exist before a file may become a stub
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr checkout report.txt
    ! ddr: disk2 is offline: /r/store holds no store (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ls -A ../../store
    $ ddr remote add disk3 ../../store --same-disk
    ! ddr: a store in /r/store (to make one there, add --init) not found
    [exit 1]
    $ echo more > new.txt && ddr commit
    recorded 1 path (5 B read)
    no store took their contents: these versions are unsaved until the next commit
    ! ddr: disk2 is offline: /r/store holds no store (is its disk mounted?)
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 2 stubs; <n> of 376.0 KiB local
    some versions may be unsaved: no store was reachable, or it was removed; `ddr commit` places them
    store disk2: offline: /r/store holds no store (is its disk mounted?), missed up to 1 content (5 B)
    $ ddr history new.txt
    <----- now ---->  #1  file  5 B  <id>  folder  on no reachable store
    $ ddr rebuild | head -n 1
    rebuilt history (7 entries) and the index of 1 store; 0 paths recognised
    $ rmdir ../../store && mv ../../away ../../store
    $ ddr commit
    nothing new to record (5 B read)
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 2 stubs; <n> of 376.0 KiB local
    store disk2: online, <n> free
    $ ddr history new.txt
    <----- now ---->  #1  file  5 B  <id>  folder
    $ ddr whereis new.txt
    new.txt: 5 B, full here
      content <id>
      disk2 has it, verified <----- now ---->
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
}

#[test]
fn versions_recorded_without_a_store_are_placed_later_part_by_part() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "mv ../../store ../../away
         echo a > a.txt && echo b > b.txt && ddr commit
         mv ../../away ../../store
         ddr commit a.txt
         ddr history a.txt
         ddr history b.txt
         ddr status | grep unsaved
         ddr commit
         ddr history b.txt
         ddr status | grep unsaved",
    );
    insta::assert_snapshot!(said, @r"
    $ mv ../../store ../../away
    $ echo a > a.txt && echo b > b.txt && ddr commit
    recorded 2 paths (4 B read)
    no store took their contents: these versions are unsaved until the next commit
    ! ddr: disk2 is offline: /r/store does not exist (is its disk mounted?)
    $ mv ../../away ../../store
    $ ddr commit a.txt
    nothing new to record (2 B read)
    $ ddr history a.txt
    <----- now ---->  #1  file  2 B  <id>  folder
    $ ddr history b.txt
    <----- now ---->  #1  file  2 B  <id>  folder  unsaved
    $ ddr status | grep unsaved
    some versions may be unsaved: no store was reachable, or it was removed; `ddr commit` places them
    $ ddr commit
    nothing new to record (2 B read)
    $ ddr history b.txt
    <----- now ---->  #1  file  2 B  <id>  folder
    $ ddr status | grep unsaved
    [exit 1]
    ");
}

#[test]
fn a_store_that_cannot_be_written_to() {
    let shell = Shell::stashed();
    shell.write("new.raw", &[7; 40_000]);
    let body = "ddr status; ddr checkout report.txt; ddr stash .; ddr commit; ddr gc";
    let line = if rustix::process::geteuid().is_root() {
        let mount = "mount --bind ../../store ../../store && mount -o remount,ro,bind ../../store";
        if shell.run(&format!("unshare -m sh -c '{mount}'")).code != Some(0) {
            return say("no read-only store: mounting is not allowed here");
        }
        format!("unshare -m sh -c '{mount} && cd $PWD && {{ {body}; }}'")
    } else {
        shell.ok("chmod -R a-w ../../store");
        body.to_string()
    };
    let output = shell.run(&line);
    let said = shell.plain(&format!("{}{}", output.stdout, output.stderr));
    shell.ok("chmod -R u+w ../../store");
    assert!(said.contains("checked out 1 file"), "{said}");
    assert!(said.contains("Read-only file system") || said.contains("Permission denied"), "{said}");
    assert!(!said.contains("stashed"), "{said}");
    assert!(said.contains("recorded 1 path") && said.contains("unsaved until the next commit"), "{said}");
    assert!(shell.ok("ddr history new.raw").contains("unsaved"));
    assert!(shell.ok("ddr status").contains("may be unsaved"));
    assert_eq!(shell.read("new.raw"), [7; 40_000]);
    shell.ok("ddr stash . && ddr checkout && ddr fsck --read-data");
    assert_eq!(shell.read("new.raw"), [7; 40_000]);
}
