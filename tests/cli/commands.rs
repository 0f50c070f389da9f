//! Every command once, as a transcript: what it says to people, with `--json`, and its exit code.

use crate::support::shell::Shell;

#[test]
fn a_folder_begins() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "ddr status
         ddr init
         ddr init
         ddr status
         ddr ls
         ddr stash .
         ddr history
         ddr history note.txt
         ddr whereis note.txt
         ddr remote list
         ddr commit -m 'as found'
         ddr status
         ddr history | sort
         ddr whereis note.txt
         ddr init --name laptop ../second",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr status
    ! ddr: no ddr folder at or above /r/one/folder
    !      run `ddr init` in the directory you want ddr to look after
    [exit 10]
    $ ddr init
    ddr looks after /r/one/folder now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    $ ddr init
    ! ddr: refused: /r/one/folder is a ddr folder already
    [exit 4]
    $ ddr status
    A empty
    A link
    A note.txt
    A photos
    A photos/beach.raw
    A report.txt
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    new   -       9 B  note.txt
    dir   -         -  photos/
    new   -  83.0 KiB  report.txt
    $ ddr stash .
    ! ddr: refused: there is no store to stash to; add one with: ddr remote add NAME /path/on/another/disk --init
    [exit 4]
    $ ddr history
    nothing recorded yet; `ddr commit` records the folder as it is
    $ ddr history note.txt
    ! ddr: note.txt in history not found
    [exit 1]
    $ ddr whereis note.txt
    ! ddr: note.txt in history (commit it first) not found
    [exit 1]
    $ ddr remote list
    no remotes yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr commit -m 'as found'
    recorded 6 paths (376.0 KiB read)
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr history | sort
    <----- now ---->  empty#1             dir   -          -         folder  "as found"
    <----- now ---->  link#1              link  -          -         folder  "as found"
    <----- now ---->  note.txt#1          file  9 B        eebf0db7  folder  "as found"
    <----- now ---->  photos#1            dir   -          -         folder  "as found"
    <----- now ---->  photos/beach.raw#1  file  293.0 KiB  f5fb425f  folder  "as found"
    <----- now ---->  report.txt#1        file  83.0 KiB   16aa3119  folder  "as found"
    $ ddr whereis note.txt
    note.txt: 9 B, full here
      content eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058
      own has it, verified <----- now ---->
    $ ddr init --name laptop ../second
    ddr looks after /r/one/second now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    "#);
}

#[test]
fn a_folder_begins_for_programs() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "ddr init --json
         ddr remote list --json
         ddr ls --json
         ddr commit --json -n
         ddr commit --json -m 'as found'
         ddr status --json
         ddr history --json note.txt",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr init --json
    {"folder":"<id>","path":"/r/one/folder","type":"init"}
    $ ddr remote list --json
    $ ddr ls --json
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"empty","pinned":false,"residency":"dir","size":null,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"link","pinned":false,"residency":"link","size":null,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"note.txt","pinned":false,"residency":"new","size":9,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"photos","pinned":false,"residency":"dir","size":null,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"report.txt","pinned":false,"residency":"new","size":85000,"type":"file"}
    $ ddr commit --json -n
    {"change":"A","path":"empty","type":"change"}
    {"change":"A","path":"link","type":"change"}
    {"change":"A","path":"note.txt","type":"change"}
    {"change":"A","path":"photos","type":"change"}
    {"change":"A","path":"photos/beach.raw","type":"change"}
    {"change":"A","path":"report.txt","type":"change"}
    $ ddr commit --json -m 'as found'
    {"deleted":0,"moved":0,"problems":0,"read_bytes":<n>,"recorded":6,"type":"commit","unsaved":false}
    $ ddr status --json
    {"changed":0,"files":3,"folder":"<id>","local_bytes":<n>,"logical_bytes":385009,"name":"folder","stubs":0,"type":"status","unseen":0}
    {"on":false,"type":"on-demand"}
    $ ddr history --json note.txt
    {"content":"eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058","message":"as found","moved_from":null,"moved_to":null,"n":1,"path":"note.txt","peer":"folder","saved":true,"size":9,"time":<n>,"type":"version","what":"file"}
    "#);
}

#[test]
fn remotes_are_added_listed_changed_and_removed() {
    let shell = Shell::with_files();
    shell.ok("ddr init");
    let said = shell.transcript(
        "ddr remote add disk2 ../../store
         ddr remote add disk2 ../../store --init
         ddr remote add disk2 ../../store --same-disk
         ddr remote add disk2 ../../store --same-disk --init
         ddr remote add disk2 ../../store --same-disk
         ddr remote add disk3 ../../store --same-disk --init
         ddr remote add disk3 -- -oProxyCommand=x:docs
         ddr remote add disk3 s3://nas/docs
         ddr remote add 'disk 3' /mnt/x
         ddr remote list
         ddr remote list --json
         ddr remote set disk2 --domain cupboard
         ddr remote set disk2 --url file:///nowhere
         ddr remote list
         ddr remote list --json
         ddr config list
         ddr remote set disk3
         ddr remote remove disk3
         ddr remote remove disk2
         ddr remote list",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr remote add disk2 ../../store
    ! ddr: refused: /r/store is on the same disk as the folder: it would be lost together with it; choose another disk, or add --same-disk
    [exit 4]
    $ ddr remote add disk2 ../../store --init
    ! ddr: refused: /r/store is on the same disk as the folder: it would be lost together with it; choose another disk, or add --same-disk
    [exit 4]
    $ ddr remote add disk2 ../../store --same-disk
    ! ddr: a store in /r/store (to make one there, add --init) not found
    [exit 1]
    $ ddr remote add disk2 ../../store --same-disk --init
    added remote disk2: /r/store
    Next: ddr stash PATH places files there and frees their space here
    $ ddr remote add disk2 ../../store --same-disk
    ! ddr: refused: there is a remote disk2 already; see `ddr remote list`
    [exit 4]
    $ ddr remote add disk3 ../../store --same-disk --init
    ! ddr: refused: /r/store holds a store already; add it without --init
    [exit 4]
    $ ddr remote add disk3 -- -oProxyCommand=x:docs
    ! ddr: "-oProxyCommand=x:docs" is no place for a store: "-oProxyCommand=x" is no host name
    [exit 2]
    $ ddr remote add disk3 s3://nas/docs
    ! ddr: unsupported: "s3://nas/docs": remotes are directories, ssh:// and sftp://, not s3://
    [exit 1]
    $ ddr remote add 'disk 3' /mnt/x
    ! ddr: "disk 3" is no name for a remote
    [exit 2]
    $ ddr remote list
    disk2  online  /r/store
    $ ddr remote list --json
    {"domain":<n>,"error":null,"name":"disk2","online":true,"type":"remote","url":"/r/store"}
    $ ddr remote set disk2 --domain cupboard
    changed remote disk2
    $ ddr remote set disk2 --url file:///nowhere
    changed remote disk2
    $ ddr remote list
    disk2  offline  file:///nowhere
    $ ddr remote list --json
    {"domain":<n>,"error":"disk2 is offline: /nowhere does not exist (is its disk mounted?)","name":"disk2","online":false,"type":"remote","url":"file:///nowhere"}
    $ ddr config list
    remote.disk2.domain = "cupboard"
    remote.disk2.same_disk = true
    remote.disk2.url = "file:///nowhere"
    $ ddr remote set disk3
    ! ddr: a remote called disk3 (see `ddr remote list`) not found
    [exit 1]
    $ ddr remote remove disk3
    ! ddr: a remote called disk3 (see `ddr remote list`) not found
    [exit 1]
    $ ddr remote remove disk2
    removed remote disk2; its store stays as it is
    $ ddr remote list
    no remotes yet; add one with: ddr remote add NAME /path/on/another/disk --init
    "#);
}

#[test]
fn a_remote_that_stubs_need_is_not_removed_by_the_way() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr remote remove disk2
         ddr remote remove disk2 --force
         ddr checkout report.txt
         ddr status
         ddr remote add disk2 ../../store --same-disk
         ddr checkout report.txt",
    );
    insta::assert_snapshot!(said, @"
    $ ddr remote remove disk2
    ! ddr: refused: 2 stubs here may need disk2; check them out first, or add --force
    [exit 4]
    $ ddr remote remove disk2 --force
    removed remote disk2; its store stays as it is
    $ ddr checkout report.txt
    checked out 0 files (0 B)
    ! report.txt: record <id> not found
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    some versions may be unsaved: no store was reachable, or it was removed; `ddr commit` places them
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr remote add disk2 ../../store --same-disk
    added remote disk2: /r/store
    Next: ddr stash PATH places files there and frees their space here
    $ ddr checkout report.txt
    checked out 1 file (83.0 KiB)
    ");
}

#[test]
fn contents_of_a_removed_remote_come_home_with_the_next_commit() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "ddr commit
         ddr remote remove disk2
         ddr status
         ddr commit
         ddr status
         ddr whereis report.txt",
    );
    insta::assert_snapshot!(said, @"
    $ ddr commit
    recorded 6 paths (376.0 KiB read)
    $ ddr remote remove disk2
    removed remote disk2; its store stays as it is
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    some versions may be unsaved: no store was reachable, or it was removed; `ddr commit` places them
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr commit
    nothing new to record (376.0 KiB read)
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, full here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      own has it, verified <----- now ---->
    ");
}

#[test]
fn stash_and_checkout() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "ddr stash -n .
         ddr stash note.txt
         ddr stash report.txt
         ddr ls
         ddr stash .
         ddr stash .
         ddr ls -l
         ddr ls photos report.txt
         ddr status
         head -n 2 report.txt
         ddr whereis report.txt note.txt
         ddr whereis empty
         ddr whereis nope
         ddr checkout -n
         ddr checkout report.txt
         ddr checkout nope
         ddr checkout
         ddr checkout
         head -n 2 report.txt",
    );
    insta::assert_snapshot!(said, @"
    $ ddr stash -n .
    would stash 2 files (376.0 KiB), freeing <n>; 1 placed but small, kept here
    $ ddr stash note.txt
    stashed 0 files (0 B), freeing <n>; 1 placed but small, kept here
    ! note.txt: unsupported: placed, but stays: 9 B is below stash.min_size (16.0 KiB), a stub would hardly free anything
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash report.txt
    stashed 1 file (83.0 KiB), freeing <n>
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr stash .
    stashed 1 file (293.0 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr ls -l
    dir   -         -  755  2024-01-02 03:04  -         empty/
    link  -         -  777  2024-01-02 03:04  -         link
    full  1       9 B  644  2024-01-02 03:04  eebf0db7  note.txt
    dir   -         -  755  2024-01-02 03:04  -         photos/
    stub  1  83.0 KiB  644  2024-01-02 03:04  16aa3119  report.txt
    $ ddr ls photos report.txt
    photos:
    stub  1  293.0 KiB  beach.raw
    stub  1  83.0 KiB  report.txt
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ head -n 2 report.txt
    This is a ddr stub: the content of this file is kept elsewhere.
    To bring it back, run: ddr checkout report.txt
    $ ddr whereis report.txt note.txt
    note.txt: 9 B, full here
      content eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058
      disk2 has it, verified <----- now ---->
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      disk2 has it, verified <----- now ---->
    $ ddr whereis empty
    ! ddr: empty is no regular file
    [exit 2]
    $ ddr whereis nope
    ! ddr: nope in history (commit it first) not found
    [exit 1]
    $ ddr checkout -n
    would check out 2 files (376.0 KiB)
    $ ddr checkout report.txt
    checked out 1 file (83.0 KiB)
    $ ddr checkout nope
    ! ddr: nope not found
    [exit 1]
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr checkout
    checked out 0 files (0 B)
    $ head -n 2 report.txt
    0001 of a report
    0002 of a report
    ");
}

#[test]
fn stash_and_checkout_for_programs() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "ddr stash --json -n .
         ddr stash --json note.txt
         ddr stash --json .
         ddr ls --json
         ddr status --json
         ddr du --json -s
         ddr whereis --json report.txt note.txt
         ddr checkout --json -n
         ddr checkout --json",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr stash --json -n .
    {"already":0,"deleted":0,"dry_run":true,"freed_bytes":<n>,"pinned":0,"problems":0,"recorded":6,"small":1,"stashed":2,"stashed_bytes":385000,"type":"stash"}
    $ ddr stash --json note.txt
    {"error":"unsupported: placed, but stays: 9 B is below stash.min_size (16.0 KiB), a stub would hardly free anything","path":"note.txt","type":"problem"}
    {"already":0,"deleted":0,"dry_run":false,"freed_bytes":<n>,"pinned":0,"problems":1,"recorded":1,"small":1,"stashed":0,"stashed_bytes":0,"type":"stash"}
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash --json .
    {"already":0,"deleted":0,"dry_run":false,"freed_bytes":<n>,"pinned":0,"problems":0,"recorded":5,"small":1,"stashed":2,"stashed_bytes":385000,"type":"stash"}
    $ ddr ls --json
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"empty","pinned":false,"residency":"dir","size":null,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"link","pinned":false,"residency":"link","size":null,"type":"file"}
    {"content":"eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058","copies":1,"local_bytes":<n>,"mtime":1704164645,"path":"note.txt","pinned":false,"residency":"full","size":9,"type":"file"}
    {"content":null,"copies":null,"local_bytes":<n>,"mtime":1704164645,"path":"photos","pinned":false,"residency":"dir","size":null,"type":"file"}
    {"content":"16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816","copies":1,"local_bytes":<n>,"mtime":1704164645,"path":"report.txt","pinned":false,"residency":"stub","size":85000,"type":"file"}
    $ ddr status --json
    {"changed":0,"files":3,"folder":"<id>","local_bytes":<n>,"logical_bytes":385009,"name":"folder","stubs":2,"type":"status","unseen":0}
    {"on":false,"type":"on-demand"}
    {"bytes_behind":null,"contents_behind":null,"entries_behind":0,"free_bytes":<n>,"name":"disk2","online":true,"type":"store"}
    $ ddr du --json -s
    {"local_bytes":<n>,"logical_bytes":385009,"path":".","type":"usage"}
    $ ddr whereis --json report.txt note.txt
    {"content":"eebf0db75f5e2418575b7af93a76af91106ce7b09f2c2fb769d9aa0bb2b50058","copies":[{"store":"disk2","tier":null,"verified":<n>,"whole":true}],"path":"note.txt","residency":"full","stores":["disk2"],"type":"whereis"}
    {"content":"16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816","copies":[{"store":"disk2","tier":null,"verified":<n>,"whole":true}],"path":"report.txt","residency":"stub","stores":["disk2"],"type":"whereis"}
    $ ddr checkout --json -n
    {"dry_run":true,"filled":2,"filled_bytes":385000,"problems":0,"type":"checkout"}
    $ ddr checkout --json
    {"dry_run":false,"filled":2,"filled_bytes":385000,"problems":0,"type":"checkout"}
    "#);
}

#[test]
fn copies_are_counted_over_all_remotes() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "ddr init
         ddr remote add disk2 ../../store --init --same-disk
         ddr remote add disk3 ../../store3 --init --same-disk
         ddr stash .
         ddr remote set disk3 --domain cupboard
         ddr stash --copies 3 .
         ddr stash --copies 1 report.txt
         ddr stash .
         ddr ls
         mv ../../store3 ../../unplugged
         ddr remote list
         ddr ls
         ddr whereis report.txt
         ddr checkout report.txt
         ddr stash report.txt
         ddr stash --copies 1 report.txt",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr init
    ddr looks after /r/one/folder now (folder <id>)
    Next: ddr remote add disk2 /path/on/another/disk --init
    $ ddr remote add disk2 ../../store --init --same-disk
    added remote disk2: /r/store
    Next: ddr stash PATH places files there and frees their space here
    $ ddr remote add disk3 ../../store3 --init --same-disk
    added remote disk3: /r/store3
    Next: ddr stash PATH places files there and frees their space here
    $ ddr stash .
    ! ddr: refused: 2 copies are required, but the remotes are only 1 failure domain(s); set stash.copies or remote.NAME.domain
    [exit 4]
    $ ddr remote set disk3 --domain cupboard
    changed remote disk3
    $ ddr stash --copies 3 .
    ! ddr: 3 copies asked for, but 2 remotes are configured
    [exit 2]
    $ ddr stash --copies 1 report.txt
    stashed 1 file (83.0 KiB), freeing <n>
    $ ddr stash .
    stashed 1 file (293.0 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  2       9 B  note.txt
    dir   -         -  photos/
    stub  2  83.0 KiB  report.txt
    $ mv ../../store3 ../../unplugged
    $ ddr remote list
    disk2  online   /r/store
    disk3  offline  /r/store3
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/
    stub  1  83.0 KiB  report.txt
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      disk2 has it, verified <----- now ---->
      disk3 is offline
    $ ddr checkout report.txt
    checked out 1 file (83.0 KiB)
    $ ddr stash report.txt
    ! ddr: disk3 is offline: /r/store3 does not exist (is its disk mounted?); 2 copies must exist before a file may become a stub
    !      mount or plug in its disk, or start its machine, then run the command again
    [exit 13]
    $ ddr stash --copies 1 report.txt
    stashed 1 file (83.0 KiB), freeing <n>
    ! ddr: disk3 is offline: /r/store3 does not exist (is its disk mounted?)
    ");
}

#[test]
fn du_compares_local_and_logical() {
    let shell = Shell::stashed();
    // Sizes on the disk are the file system's affair.
    let said = shell.transcript(
        "ddr du | tr -s ' ' | sed 's/ [0-9.]* [KM]*i*B/ N/g'
         ddr du -s photos | tr -s ' ' | sed 's/ [0-9.]* [KM]*i*B/ N/g'
         ddr du --json
         ddr du photos nope",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr du | tr -s ' ' | sed 's/ [0-9.]* [KM]*i*B/ N/g'
     local logical freed
     N N N note.txt
     N N N photos
     N N N report.txt
    12.0 KiB N N .
    $ ddr du -s photos | tr -s ' ' | sed 's/ [0-9.]* [KM]*i*B/ N/g'
     local logical freed
    4.0 KiB N N photos
    $ ddr du --json
    {"local_bytes":<n>,"logical_bytes":9,"path":"note.txt","type":"usage"}
    {"local_bytes":<n>,"logical_bytes":300000,"path":"photos","type":"usage"}
    {"local_bytes":<n>,"logical_bytes":85000,"path":"report.txt","type":"usage"}
    {"local_bytes":<n>,"logical_bytes":385009,"path":".","type":"usage"}
    $ ddr du photos nope
    ! ddr: nope not found
    [exit 1]
    "#);
}

#[test]
fn increment_is_commit() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "ddr increment -m first
         ddr commit
         echo more >> note.txt && rm photos/beach.raw && chmod 600 report.txt && ln -sf note.txt link
         mv empty vacant && touch -d @1704164645 new.txt
         ddr status
         ddr status note.txt photos
         ddr commit -n
         ddr commit note.txt
         ddr commit -m second
         ddr commit -m third nope
         ddr history | sort",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr increment -m first
    recorded 6 paths (376.0 KiB read)
    $ ddr commit
    nothing to record
    $ echo more >> note.txt && rm photos/beach.raw && chmod 600 report.txt && ln -sf note.txt link
    $ mv empty vacant && touch -d @1704164645 new.txt
    $ ddr status
    D empty
    M link
    A new.txt
    M note.txt
    D photos/beach.raw
    P report.txt
    A vacant
    folder: 3 files, 0 stubs; <n> of 83.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr status note.txt photos
    M note.txt
    D photos/beach.raw
    folder: 1 file, 0 stubs; <n> of 14 B local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit -n
    D empty
    M link
    A new.txt
    M note.txt
    D photos/beach.raw
    P report.txt
    A vacant
    $ ddr commit note.txt
    recorded 1 path (14 B read)
    $ ddr commit -m second
    recorded 4 paths (83.0 KiB read), 2 gone (0 moved)
    $ ddr commit -m third nope
    ! ddr: nope not found
    [exit 1]
    $ ddr history | sort
    <----- now ---->  empty#1             dir      -          -         folder  "first"
    <----- now ---->  empty#2             deleted  -          -         folder  "second"
    <----- now ---->  link#1              link     -          -         folder  "first"
    <----- now ---->  link#2              link     -          -         folder  "second"
    <----- now ---->  new.txt#1           file     0 B        <id>  folder  "second"
    <----- now ---->  note.txt#1          file     9 B        eebf0db7  folder  "first"
    <----- now ---->  note.txt#2          file     14 B       <id>  folder
    <----- now ---->  photos#1            dir      -          -         folder  "first"
    <----- now ---->  photos#2            dir      -          -         folder  "second"
    <----- now ---->  photos/beach.raw#1  file     293.0 KiB  f5fb425f  folder  "first"
    <----- now ---->  photos/beach.raw#2  deleted  -          -         folder  "second"
    <----- now ---->  report.txt#1        file     83.0 KiB   16aa3119  folder  "first"
    <----- now ---->  report.txt#2        file     83.0 KiB   16aa3119  folder  "second"
    <----- now ---->  vacant#1            dir      -          -         folder  "second"
    "#);
}

#[test]
fn history_and_restore() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "echo 'buy milk and bread' > note.txt
         ddr commit -m 'more to buy'
         ddr history note.txt
         ddr restore 'note.txt#1' -n
         ddr restore 'note.txt#1' --to old.txt
         cat old.txt
         ddr restore 'note.txt#1' --to old.txt
         ddr restore 'note.txt#1' --to old.txt --force --json
         ddr restore 'note.txt#1'
         cat note.txt
         ddr history note.txt
         rm note.txt report.txt
         ddr commit
         ddr history --deleted
         ddr history --deleted --json
         ddr history report.txt
         ddr restore 'report.txt#2'
         ddr restore report.txt
         head -n 1 report.txt
         ddr restore 'note.txt#9'
         ddr restore 'note.txt#0'
         ddr restore nope
         ddr history nope
         ddr history --limit 2",
    );
    insta::assert_snapshot!(said, @r#"
    $ echo 'buy milk and bread' > note.txt
    $ ddr commit -m 'more to buy'
    recorded 1 path (19 B read)
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  19 B  <id>  folder  "more to buy"
    $ ddr restore 'note.txt#1' -n
    would restore note.txt#1 (9 B) to /r/one/folder/note.txt
    $ ddr restore 'note.txt#1' --to old.txt
    restored note.txt#1 (9 B) to /r/one/folder/old.txt
    $ cat old.txt
    buy milk
    $ ddr restore 'note.txt#1' --to old.txt
    ! ddr: refused: /r/one/folder/old.txt exists; add --force to replace it
    [exit 4]
    $ ddr restore 'note.txt#1' --to old.txt --force --json
    {"dry_run":false,"n":1,"path":"note.txt","size":9,"to":"/r/one/folder/old.txt","type":"restore"}
    $ ddr restore 'note.txt#1'
    restored note.txt#1 (9 B) to /r/one/folder/note.txt
    $ cat note.txt
    buy milk
    $ ddr history note.txt
    <----- now ---->  #1  file  9 B   eebf0db7  folder
    <----- now ---->  #2  file  19 B  <id>  folder  "more to buy"
    <----- now ---->  #3  file  9 B   eebf0db7  folder  "restored version 1 of note.txt"
    $ rm note.txt report.txt
    $ ddr commit
    recorded 1 path (9 B read), 2 gone (1 moved)
    $ ddr history --deleted
    <----- now ---->       9 B  note.txt
    <----- now ---->  83.0 KiB  report.txt
    Bring one back with: ddr restore PATH
    $ ddr history --deleted --json
    {"path":"note.txt","size":9,"time":<n>,"type":"deleted"}
    {"path":"report.txt","size":85000,"time":<n>,"type":"deleted"}
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder
    $ ddr restore 'report.txt#2'
    ! ddr: version 2 of report.txt is its deletion
    [exit 2]
    $ ddr restore report.txt
    restored report.txt#1 (83.0 KiB) to /r/one/folder/report.txt
    $ head -n 1 report.txt
    0001 of a report
    $ ddr restore 'note.txt#9'
    ! ddr: version 9 of note.txt (see `ddr history`) not found
    [exit 1]
    $ ddr restore 'note.txt#0'
    ! ddr: versions are numbered from 1
    [exit 2]
    $ ddr restore nope
    ! ddr: nope in history (see `ddr history`) not found
    [exit 1]
    $ ddr history nope
    ! ddr: nope in history not found
    [exit 1]
    $ ddr history --limit 2
    <----- now ---->  report.txt#3  file     83.0 KiB  16aa3119  folder  "restored version 1 of report.txt"
    <----- now ---->  report.txt#2  deleted  -         -         folder
    "#);
}

#[test]
fn find_by_content() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "cp note.txt photos/note
         ddr find --same note.txt
         ddr commit
         ddr find --same note.txt
         ddr stash .
         ddr find --same report.txt --json
         echo more >> note.txt && ddr commit
         ddr find --same photos/note
         ddr find --content 0000000000000000000000000000000000000000000000000000000000000000
         ddr find --content abc
         ddr find
         ddr find --same empty",
    );
    insta::assert_snapshot!(said, @r#"
    $ cp note.txt photos/note
    $ ddr find --same note.txt
    ! ddr: note.txt in history (commit it first) not found
    [exit 1]
    $ ddr commit
    recorded 7 paths (376.0 KiB read)
    $ ddr find --same note.txt
    note.txt
    photos/note
    $ ddr stash .
    stashed 2 files (376.0 KiB), freeing <n>; 2 placed but small, kept here
    $ ddr find --same report.txt --json
    {"current":true,"path":"report.txt","size":85000,"type":"found"}
    $ echo more >> note.txt && ddr commit
    recorded 1 path (14 B read)
    $ ddr find --same photos/note
    note.txt  (older version)
    photos/note
    $ ddr find --content <id>
    ! ddr: content <id> not found
    [exit 1]
    $ ddr find --content abc
    ! ddr: "abc" is not 64 hex digits
    [exit 2]
    $ ddr find
    ! error: the following required arguments were not provided:
    !   <--content <B3SUM>|--same <PATH>>
    ! 
    ! Usage: ddr find <--content <B3SUM>|--same <PATH>>
    ! 
    ! For more information, try '--help'.
    [exit 2]
    $ ddr find --same empty
    ! ddr: empty is no regular file
    [exit 2]
    "#);
}

#[test]
fn gc_fsck_and_rebuild() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr gc -n
         ddr gc
         ddr gc --json
         ddr gc --grace soon
         ddr fsck
         ddr fsck --read-data
         ddr fsck --json
         ddr rebuild | head -n 1
         ddr rebuild --json",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr gc -n
    disk2: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr gc
    disk2: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr gc --json
    {"condemned":0,"condemned_bytes":0,"deleted":0,"deleted_bytes":0,"packs":1,"rewritten":0,"rewritten_bytes":0,"store":"disk2","type":"gc"}
    $ ddr gc --grace soon
    ! ddr: "soon" is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y
    [exit 2]
    $ ddr fsck
    disk2: 4 objects, <n> read
    own: 1 object, <n> read
    names and trailers are whole
    $ ddr fsck --read-data
    disk2: 4 objects, <n> read
    own: 1 object, <n> read
    everything is whole
    $ ddr fsck --json
    {"damaged":[],"missing":0,"objects":4,"open":0,"quarantined":0,"read_bytes":<n>,"repaired":0,"store":"disk2","type":"fsck"}
    {"damaged":[],"missing":0,"objects":1,"open":0,"quarantined":0,"read_bytes":<n>,"repaired":0,"store":"own","type":"fsck"}
    $ ddr rebuild | head -n 1
    rebuilt history (6 entries) and the index of 1 store; 0 paths recognised
    $ ddr rebuild --json
    {"entries":6,"recognised":0,"state":"<id>","stores":1,"type":"rebuild"}
    "#);
    let before = shell.ok("ddr debug state-hash");
    shell.ok("rm -r .ddr/history.db* ../home/cache && ddr rebuild -q");
    assert_eq!(shell.ok("ddr debug state-hash"), before);
    assert!(shell.ok("ddr debug state-hash --json").contains(before.trim()));
}

#[test]
fn fsck_names_what_is_damaged_and_repair_makes_it_whole() {
    let shell = Shell::with_files();
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    shell.ok("ddr remote add disk3 ../../store3 --init --same-disk --domain cupboard && ddr stash .");
    // In the middle of the largest pack.
    shell.ok("f=$(ls -S ../../store/store/data/* | head -n 1); \
              chmod u+w $f; printf XXXX | dd of=$f bs=1 seek=100000 conv=notrunc 2>/dev/null");
    let said = shell.transcript(
        "ddr fsck
         ddr fsck --read-data
         ddr fsck --read-data --json
         ddr fsck --read-data --repair
         ddr fsck --read-data
         ls -I RESERVE ../../store/store
         ddr checkout",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr fsck
    disk2: 3 objects, <n> read
    disk3: 3 objects, <n> read
    own: 1 object, <n> read
    names and trailers are whole
    $ ddr fsck --read-data
    data/<id>: corrupt record <id>: bytes do not hash to its id
    disk2: 3 objects, <n> read, 1 damaged, 1 content of history not whole here
    disk3: 3 objects, <n> read
    own: 1 object, <n> read
    ! ddr: 2 problems found; see the lines above
    !      `ddr fsck --read-data --repair` copies out what is whole and deletes nothing
    [exit 5]
    $ ddr fsck --read-data --json
    {"damaged":[{"error":"corrupt record <id>: bytes do not hash to its id","object":"data/<id>"}],"missing":1,"objects":3,"open":1,"quarantined":0,"read_bytes":<n>,"repaired":0,"store":"disk2","type":"fsck"}
    {"damaged":[],"missing":0,"objects":3,"open":0,"quarantined":0,"read_bytes":<n>,"repaired":0,"store":"disk3","type":"fsck"}
    {"damaged":[],"missing":0,"objects":1,"open":0,"quarantined":0,"read_bytes":<n>,"repaired":0,"store":"own","type":"fsck"}
    ! ddr: 2 problems found; see the lines above
    !      `ddr fsck --read-data --repair` copies out what is whole and deletes nothing
    [exit 5]
    $ ddr fsck --read-data --repair
    data/<id>: corrupt record <id>: bytes do not hash to its id
    disk2: 3 objects, <n> read, 1 damaged, 3 put back, 1 to quarantine
    disk3: 3 objects, <n> read
    own: 1 object, <n> read
    everything is whole
    $ ddr fsck --read-data
    disk2: 4 objects, <n> read
    disk3: 3 objects, <n> read
    own: 1 object, <n> read
    everything is whole
    $ ls -I RESERVE ../../store/store
    data
    folder
    gc
    holds
    log
    meta
    quarantine
    tmp
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    "#);
}

#[test]
fn settings() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        "ddr config path
         ddr config list
         ddr config get stash.min_size
         ddr config set stash.min_size 64KiB
         ddr config get stash.min_size
         ddr config get stash.min_size --json
         ddr config set stash.copies 1
         ddr config list --json
         ddr config set stash.copies many
         ddr config set stash.copies 0
         ddr config set stash.min_size 1KiB
         ddr config set gc.grace later
         ddr config set stash.min_sice 1MiB
         ddr config unset stash.min_size
         ddr config unset stash.min_size
         cat .ddr/config.toml",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr config path
    /r/one/folder/.ddr/config.toml
    $ ddr config list
    remote.disk2.same_disk = true
    remote.disk2.url = "/r/store"
    $ ddr config get stash.min_size
    ! ddr: stash.min_size (its default applies) not found
    [exit 1]
    $ ddr config set stash.min_size 64KiB
    $ ddr config get stash.min_size
    64KiB
    $ ddr config get stash.min_size --json
    {"key":"stash.min_size","type":"config","value":"64KiB"}
    $ ddr config set stash.copies 1
    $ ddr config list --json
    {"key":"remote.disk2.same_disk","type":"config","value":true}
    {"key":"remote.disk2.url","type":"config","value":"/r/store"}
    {"key":"stash.copies","type":"config","value":1}
    {"key":"stash.min_size","type":"config","value":"64KiB"}
    $ ddr config set stash.copies many
    ! ddr: TOML parse error at line 7, column 10
    !   |
    ! 7 | copies = "many"
    !   |          ^^^^^^
    ! invalid type: string "many", expected usize
    [exit 2]
    $ ddr config set stash.copies 0
    ! ddr: stash.copies must be at least 1
    [exit 2]
    $ ddr config set stash.min_size 1KiB
    ! ddr: stash.min_size must be at least 4097 bytes
    [exit 2]
    $ ddr config set gc.grace later
    ! ddr: "later" is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y
    [exit 2]
    $ ddr config set stash.min_sice 1MiB
    ! ddr: TOML parse error at line 8, column 1
    !   |
    ! 8 | min_sice = "1MiB"
    !   | ^^^^^^^^
    ! unknown field `min_sice`, expected one of `min_size`, `copies`, `verify_every`, `keep_deleted`, `guard`
    [exit 2]
    $ ddr config unset stash.min_size
    $ ddr config unset stash.min_size
    ! ddr: config key stash.min_size not found
    [exit 1]
    $ cat .ddr/config.toml
    [remote.disk2]
    url = "/r/store"
    same_disk = true

    [stash]
    copies = 1
    "#);
}

#[test]
fn a_mistake_in_the_settings_is_shown_with_its_place() {
    let shell = Shell::with_store();
    shell.ok("printf '# mine\\n[stash]\\n  min_sice = \"1MiB\"\\n' > .ddr/config.toml");
    let said = shell.transcript(
        "ddr status
         ddr stash .
         ddr config path
         ddr config list
         ddr config set stash.copies 1
         ddr config unset stash.min_sice
         ddr config set stash.copies 1
         cat .ddr/config.toml",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr status
    ! ddr: /r/one/folder/.ddr/config.toml: TOML parse error at line 3, column 3
    !   |
    ! 3 |   min_sice = "1MiB"
    !   |   ^^^^^^^^
    ! unknown field `min_sice`, expected one of `min_size`, `copies`, `verify_every`, `keep_deleted`, `guard`
    [exit 2]
    $ ddr stash .
    ! ddr: /r/one/folder/.ddr/config.toml: TOML parse error at line 3, column 3
    !   |
    ! 3 |   min_sice = "1MiB"
    !   |   ^^^^^^^^
    ! unknown field `min_sice`, expected one of `min_size`, `copies`, `verify_every`, `keep_deleted`, `guard`
    [exit 2]
    $ ddr config path
    /r/one/folder/.ddr/config.toml
    $ ddr config list
    stash.min_sice = "1MiB"
    $ ddr config set stash.copies 1
    ! ddr: stash.copies is changed, but there is more to mend in /r/one/folder/.ddr/config.toml: TOML parse error at line 3, column 3
    !   |
    ! 3 |   min_sice = "1MiB"
    !   |   ^^^^^^^^
    ! unknown field `min_sice`, expected one of `min_size`, `copies`, `verify_every`, `keep_deleted`, `guard`
    [exit 2]
    $ ddr config unset stash.min_sice
    $ ddr config set stash.copies 1
    $ cat .ddr/config.toml
    # mine
    [stash]
    copies = 1
    "#);
}

#[test]
fn words_the_program_does_not_know() {
    let shell = Shell::with_store();
    let said = shell.transcript(
        r#"ddr foo
         printf '#!/bin/sh\necho "foo in $(basename $PWD): $*"\nexit 7\n' > ../../bin/ddr-foo && chmod +x ../../bin/ddr-foo
         ddr foo -x --json 'a b'
         ddr -C photos foo
         ddr stash --unknown .
         ddr --wait never status"#,
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr foo
    ! ddr: there is no command `ddr foo`, and no ddr-foo in PATH that can be run; see `ddr help`
    [exit 2]
    $ printf '#!/bin/sh\necho "foo in $(basename $PWD): $*"\nexit 7\n' > ../../bin/ddr-foo && chmod +x ../../bin/ddr-foo
    $ ddr foo -x --json 'a b'
    foo in folder: -x --json a b
    [exit 7]
    $ ddr -C photos foo
    foo in photos: 
    [exit 7]
    $ ddr stash --unknown .
    ! error: unexpected argument '--unknown' found
    ! 
    !   tip: to pass '--unknown' as a value, use '-- --unknown'
    ! 
    ! Usage: ddr stash [OPTIONS] [PATHS]...
    ! 
    ! For more information, try '--help'.
    [exit 2]
    $ ddr --wait never status
    ! ddr: "never" is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y
    [exit 2]
    "#);
}

#[test]
fn help() {
    let shell = Shell::new();
    let said = shell.transcript("ddr help\nddr stash --help\nddr help remote add\nddr help nope");
    insta::assert_snapshot!(said, @"
    $ ddr help
    Keep every file's name, size and date where you work; keep its bytes where there is room

    Usage: ddr [OPTIONS] <COMMAND>

    Commands:
      init         Let ddr look after a directory
      clone        Make a folder from a store: the whole tree, as stubs
      remote       Add, list, change or remove stores
      tier         Group stores into tiers: mirrors and bundles, near to far
      sync         Bring history and contents of all stores level
      ping         Ask stores whether they answer, how fast, and how far they are behind
      stash        Place files on the stores and replace them by stubs
      checkout     Bring the content of stubs back
      pin          Keep files always on this device
      unpin        Let pinned files go again
      policy       Show or check policies, and what they would do
      why          Explain one file: last use, rule, copies, verdict
      guard        Bring stubs back when they are opened; needs root
      recalls      Show who waits for which stub, or let one wait no longer
      commit       Record what changed and place it on a store
      status       Show what changed, and how much is local
      ls           List files with residency and copies
      du           Local against logical size
      whereis      Show which stores have a file's content
      history      Show recorded versions
      diff         Show what changed since a commit, a version or a time
      restore      Write an old version out again, or a directory as it was
      find         Find files by content
      prune        Forget old versions, and free what they took
      gc           Free what nothing refers to in the stores
      fsck         Check the stores, and repair them
      rebuild      Make every index anew from the objects
      config       Read or change settings
      daemon       Look after all folders without being asked
      service      Install or remove the systemd units of daemon and guard
      tour         See ddr at work in a temporary folder
      completions  Print a completion script for a shell
      debug        Facts for tests and bug reports
      help         Print this message or the help of the given subcommand(s)

    Options:
      -C, --directory <DIR>  Run as if started in this directory
          --json             One JSON object per line on stdout
      -q, --quiet            Print only problems and errors
          --color <WHEN>     When to use colour: auto, always, never [default: auto] [possible values:
                             auto, always, never]
          --wait <DURATION>  How long to wait for another ddr that works on the folder [default: 5s]
      -h, --help             Print help
      -V, --version          Print version

    Exit codes: 0 ok, 1 failed, 2 usage, 3 some files had problems, 4 refused for safety,
    5 corruption found, 10 no folder here, 11 locked, 13 store or peer unreachable, 130 interrupted.
    Sizes are written 10MiB, durations 30d. An unknown `ddr foo` runs `ddr-foo` from PATH.
    $ ddr stash --help
    Place files on the stores and replace them by stubs

    Usage: ddr stash [OPTIONS] [PATHS]...

    Arguments:
      [PATHS]...  Files and directories (default: what the policy picks; see `ddr policy plan`)

    Options:
      -C, --directory <DIR>  Run as if started in this directory
      -n, --dry-run          Only show what would be done
          --copies <N>       Copies to insist on before freeing (default: one on every remote)
          --json             One JSON object per line on stdout
      -q, --quiet            Print only problems and errors
          --unguarded        Make stubs even while nothing brings them back when they are opened
          --color <WHEN>     When to use colour: auto, always, never [default: auto] [possible values:
                             auto, always, never]
          --wait <DURATION>  How long to wait for another ddr that works on the folder [default: 5s]
      -h, --help             Print help
    $ ddr help remote add
    Add a store under a name

    Usage: ddr remote add [OPTIONS] <NAME> <URL>

    Arguments:
      <NAME>  The name
      <URL>   /path, ssh://host/path or host:path (a machine with ddr), sftp://host/path (one without)

    Options:
      -C, --directory <DIR>  Run as if started in this directory
          --init             Make the store there
          --json             One JSON object per line on stdout
          --same-disk        Accept a store on the folder's own disk: it protects against mistakes, not
                             against losing the disk
          --domain <DOMAIN>  What fails together with this store (default: its device)
      -q, --quiet            Print only problems and errors
          --color <WHEN>     When to use colour: auto, always, never [default: auto] [possible values:
                             auto, always, never]
          --transport <HOW>  What carries ssh: ssh2 (in this process) or openssh (the ssh program)
                             [default: ssh2]
          --program <DDR>    What to run on the other machine (default: ddr)
          --wait <DURATION>  How long to wait for another ddr that works on the folder [default: 5s]
          --accept-new       Take the host key of a machine that is not known yet without asking
      -h, --help             Print help
    $ ddr help nope
    ! error: unrecognized subcommand 'nope'
    ! 
    ! Usage: ddr [OPTIONS] <COMMAND>
    ! 
    ! For more information, try '--help'.
    [exit 2]
    ");
    assert!(shell.ok("ddr --version").starts_with("ddr 0."));
    assert!(shell.code("ddr", 2).contains("Usage: ddr"));
}

#[test]
fn completions_for_every_shell() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = shell.ok(&format!("ddr completions {name}"));
        assert!(script.contains("checkout") && script.contains("whereis"), "{name}: {script}");
    }
    shell.ok("ddr completions bash > c && bash -n c");
    insta::assert_snapshot!(shell.transcript("ddr completions tcsh"), @r"
    $ ddr completions tcsh
    ! error: invalid value 'tcsh' for '<SHELL>'
    !   [possible values: bash, elvish, fish, powershell, zsh]
    ! 
    !   tip: a similar value exists: 'zsh'
    ! 
    ! For more information, try '--help'.
    [exit 2]
    ");
}

#[test]
fn the_tour_shows_the_whole_way() {
    let shell = Shell::with_files();
    let said = shell.ok("ddr tour");
    for part in ["ddr init", "remote add", "ddr stash", "stub", "ddr du", "ddr checkout", "identical", "fsck"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = shell.ok("ddr tour --keep . | tee out");
    assert!(said.contains("report.txt") && said.contains("everything is whole"), "{said}");
    assert!(!shell.at(".ddr").exists(), "a tour works on a copy");
    shell.ok("rm -r ${TMPDIR:-/tmp}/ddr-tour-$(grep -o 'ddr-tour-[0-9]*' out | head -n 1 | cut -d- -f3)");
}
