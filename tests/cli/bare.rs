//! A bare peer: history and a store, no files. What makes sense there works, inside its directory.

use crate::support::shell::Shell;

#[test]
fn inside_a_store_directory() {
    let shell = Shell::stashed();
    shell.ok("echo more >> note.txt && ddr commit -m 'one more'");
    let said = shell.transcript(
        "ddr -C ../../store status
         ddr -C ../../store status --json
         ddr -C ../../store history note.txt
         ddr -C ../../store du | sed 's/, .* stored/, N stored/'
         ddr -C ../../store du --json
         ddr -C ../../store whereis note.txt
         ddr -C ../../store fsck --read-data
         ddr -C ../../store rebuild | head -n 1
         ddr -C ../../store gc -n
         ddr -C ../../store restore 'note.txt#1'
         ddr -C ../../store restore 'note.txt#1' --to ../note
         cat ../../note
         ddr -C ../../store restore report.txt --to ../
         head -n 1 ../../report.txt
         ddr -C ../../store ls
         ddr -C ../../store stash .
         ddr -C ../../store checkout
         ddr -C ../../store commit
         ddr -C ../../store find --same note.txt
         ddr -C ../../store/store/data status | head -n 1",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr -C ../../store status
    store (bare): 6 paths, 376.0 KiB; 7 changes recorded
    $ ddr -C ../../store status --json
    {"bare":true,"entries":7,"folder":"<id>","logical_bytes":385014,"name":"store","paths":6,"type":"status"}
    $ ddr -C ../../store history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  14 B  <id>  folder  "one more"
    $ ddr -C ../../store du | sed 's/, .* stored/, N stored/'
    <n> of current files, N stored
    $ ddr -C ../../store du --json
    {"logical_bytes":385014,"stored_bytes":<n>,"type":"usage"}
    $ ddr -C ../../store whereis note.txt
    note.txt: 14 B, not here
      content <id>
      own has it, verified <----- now ---->
    $ ddr -C ../../store fsck --read-data
    own: 5 objects, <n> read
    everything is whole
    $ ddr -C ../../store rebuild | head -n 1
    rebuilt history (7 entries) and the index of 1 store; 0 paths recognised
    $ ddr -C ../../store gc -n
    own: 2 packs looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr -C ../../store restore 'note.txt#1'
    ! ddr: a bare peer has no files; say where to with --to DEST
    [exit 2]
    $ ddr -C ../../store restore 'note.txt#1' --to ../note
    restored note.txt#1 (9 B) to /r/note
    $ cat ../../note
    buy milk
    $ ddr -C ../../store restore report.txt --to ../
    restored report.txt#1 (83.0 KiB) to /r/report.txt
    $ head -n 1 ../../report.txt
    0001 of a report
    $ ddr -C ../../store ls
    ! ddr: unsupported: this is a bare peer: it has history and a store, but no files to work on
    [exit 1]
    $ ddr -C ../../store stash .
    ! ddr: unsupported: this is a bare peer: it has history and a store, but no files to work on
    [exit 1]
    $ ddr -C ../../store checkout
    ! ddr: unsupported: this is a bare peer: it has history and a store, but no files to work on
    [exit 1]
    $ ddr -C ../../store commit
    ! ddr: unsupported: this is a bare peer: it has history and a store, but no files to work on
    [exit 1]
    $ ddr -C ../../store find --same note.txt
    note.txt
    $ ddr -C ../../store/store/data status | head -n 1
    store (bare): 6 paths, 376.0 KiB; 7 changes recorded
    "#);
    let hash = shell.ok("ddr debug state-hash");
    assert_eq!(shell.ok("ddr -C ../../store debug state-hash"), hash);
    let content = blake3::hash(b"buy milk\n");
    assert!(shell.ok(&format!("ddr -C ../../store find --content {content}")).contains("note.txt"));
}

#[test]
fn a_bare_peer_made_first_is_not_a_store_of_another_folder() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "ddr init --bare ../../store
         ddr init --bare ../../store
         ddr init --bare .
         ddr -C ../../store status
         ddr -C ../../store history
         ddr -C ../../store fsck
         ddr -C ../../store rebuild | head -n 1
         ddr init
         ddr remote add disk2 ../../store --same-disk",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr init --bare ../../store
    ddr looks after /r/store now (folder <id>)
    $ ddr init --bare ../../store
    ! ddr: refused: /r/store is a ddr folder already
    [exit 4]
    $ ddr init --bare .
    ! ddr: refused: /r/one/folder is not empty
    [exit 4]
    $ ddr -C ../../store status
    store (bare): 0 paths, 0 B; 0 changes recorded
    $ ddr -C ../../store history
    nothing recorded yet; `ddr commit` records the folder as it is
    $ ddr -C ../../store fsck
    own: 0 objects, <n> read
    names and trailers are whole
    $ ddr -C ../../store rebuild | head -n 1
    rebuilt history (0 entries) and the index of 1 store; 0 paths recognised
    $ ddr init
    ddr looks after /r/one/folder now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    $ ddr remote add disk2 ../../store --same-disk
    ! ddr: refused: /r/store is a store of another folder (store)
    [exit 4]
    ");
}

#[test]
fn gc_belongs_to_one_peer() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr gc
         ddr -C ../../store gc
         ddr -C ../../store gc --take-over
         ddr gc
         ddr gc -n",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr gc
    disk2: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr -C ../../store gc
    ! ddr: refused: gc of own belongs to the peer folder (<id>); run it there, or take it over for good with --take-over
    [exit 4]
    $ ddr -C ../../store gc --take-over
    own: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr gc
    ! ddr: refused: gc of disk2 belongs to the peer store (<id>); run it there, or take it over for good with --take-over
    [exit 4]
    $ ddr gc -n
    ! ddr: refused: gc of disk2 belongs to the peer store (<id>); run it there, or take it over for good with --take-over
    [exit 4]
    ");
}
