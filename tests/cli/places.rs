//! Paths are those of the user: relative to where he is, with `..`, absolute, or under `-C`.

use crate::support::shell::Shell;

#[test]
fn paths_count_from_where_the_user_is() {
    let shell = Shell::with_store();
    shell.write("photos/2024/a.raw", &[7; 40_000]);
    shell.date_all();
    let said = shell.transcript(
        "cd photos && ddr status
         cd photos && ddr stash beach.raw
         cd photos && ddr ls
         cd photos && ddr ls .. | head -n 3
         cd photos && ddr commit -m all
         cd photos/2024 && ddr stash ../../report.txt ./a.raw
         cd photos/2024 && ddr history ../beach.raw
         cd photos/2024 && ddr whereis ../beach.raw
         cd photos/2024 && ddr restore ../../note.txt --to copy.txt && cat copy.txt
         cd photos/2024 && ddr restore ../../note.txt --to .. && ls ..
         cd photos && ddr checkout
         cd photos && ddr ls -q . 2024
         ddr stash $PWD/photos/2024/a.raw photos/2024/../2024
         ddr ls photos/2024",
    );
    insta::assert_snapshot!(said, @"
    $ cd photos && ddr status
    A empty
    A link
    A note.txt
    A photos
    A photos/2024
    A photos/2024/a.raw
    A photos/beach.raw
    A report.txt
    folder: 4 files, 0 stubs; <n> of 415.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ cd photos && ddr stash beach.raw
    stashed 1 file (293.0 KiB), freeing <n>
    $ cd photos && ddr ls
    dir   -          -  2024/
    stub  1  293.0 KiB  beach.raw
    $ cd photos && ddr ls .. | head -n 3
    dir   -         -  empty/
    link  -         -  link
    new   -       9 B  note.txt
    $ cd photos && ddr commit -m all
    recorded 7 paths (122.1 KiB read)
    $ cd photos/2024 && ddr stash ../../report.txt ./a.raw
    stashed 2 files (122.1 KiB), freeing <n>
    $ cd photos/2024 && ddr history ../beach.raw
    <----- now ---->  #1  file  293.0 KiB  f5fb425f  folder
    $ cd photos/2024 && ddr whereis ../beach.raw
    photos/beach.raw: 293.0 KiB, stub here
      content f5fb425f83042d558be2e1a79b455cdac5dd2d58ed4930a08840a48122c3dd85
      disk2 has it, verified <----- now ---->
    $ cd photos/2024 && ddr restore ../../note.txt --to copy.txt && cat copy.txt
    restored note.txt#1 (9 B) to /r/one/folder/photos/2024/copy.txt
    buy milk
    $ cd photos/2024 && ddr restore ../../note.txt --to .. && ls ..
    restored note.txt#1 (9 B) to /r/one/folder/photos/note.txt
    2024
    beach.raw
    note.txt
    $ cd photos && ddr checkout
    checked out 2 files (332.0 KiB)
    $ cd photos && ddr ls -q . 2024
    dir   -          -  2024/
    full  1  293.0 KiB  beach.raw
    new   -        9 B  note.txt
    $ ddr stash $PWD/photos/2024/a.raw photos/2024/../2024
    stashed 1 file (39.1 KiB), freeing <n>; 1 placed but small, kept here
    $ ddr ls photos/2024
    stub  1  39.1 KiB  a.raw
    full  1       9 B  copy.txt
    ");
}

#[test]
fn another_directory_with_dash_c() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "cd / && ddr -C $OLDPWD ls note.txt
         ddr -C photos ls
         ddr ls -C photos
         ddr -C photos checkout
         ddr -C .. status
         ddr -C nope status
         ddr -C note.txt status",
    );
    insta::assert_snapshot!(said, @r"
    $ cd / && ddr -C $OLDPWD ls note.txt
    full  1  9 B  note.txt
    $ ddr -C photos ls
    stub  1  293.0 KiB  beach.raw
    $ ddr ls -C photos
    stub  1  293.0 KiB  beach.raw
    $ ddr -C photos checkout
    checked out 1 file (293.0 KiB)
    $ ddr -C .. status
    ! ddr: no ddr folder at or above /r/one
    !      run `ddr init` in the directory you want ddr to look after
    [exit 10]
    $ ddr -C nope status
    ! ddr: entering /r/one/folder/nope: No such file or directory (os error 2)
    [exit 1]
    $ ddr -C note.txt status
    ! ddr: /r/one/folder/note.txt is not a directory
    [exit 2]
    ");
}

#[test]
fn paths_that_are_not_the_folders() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr ls ..
         ddr stash /etc/passwd
         ddr stash .ddr
         ddr checkout .ddr/keys
         ddr stash ''
         ddr stash nope
         ddr stash report.txt nope
         ddr stash note.txt/below
         ddr stash -- -n
         ddr status nope
         cd .ddr && ddr status
         cd .ddr/store && ddr checkout",
    );
    insta::assert_snapshot!(said, @"
    $ ddr ls ..
    ! ddr: .. is outside of the folder /r/one/folder
    [exit 2]
    $ ddr stash /etc/passwd
    ! ddr: /etc/passwd is outside of the folder /r/one/folder
    [exit 2]
    $ ddr stash .ddr
    ! ddr: path .ddr: `.ddr` is ddr's own directory
    [exit 2]
    $ ddr checkout .ddr/keys
    ! ddr: path .ddr/keys: `.ddr` is ddr's own directory
    [exit 2]
    $ ddr stash ''
    ! error: a value is required for '[PATHS]...' but none was supplied
    ! 
    ! For more information, try '--help'.
    [exit 2]
    $ ddr stash nope
    ! ddr: nope not found
    [exit 1]
    $ ddr stash report.txt nope
    ! ddr: nope not found
    [exit 1]
    $ ddr stash note.txt/below
    ! ddr: note.txt/below not found
    [exit 1]
    $ ddr stash -- -n
    ! ddr: -n not found
    [exit 1]
    $ ddr status nope
    ! ddr: nope not found
    [exit 1]
    $ cd .ddr && ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ cd .ddr/store && ddr checkout
    ! ddr: path .ddr/store: `.ddr` is ddr's own directory
    [exit 2]
    ");
}

#[test]
fn i7_a_link_is_named_not_followed() {
    let shell = Shell::with_store();
    shell.ok("ln -s photos pictures && ln -s /etc etc && ddr commit");
    let said = shell.transcript(
        "ddr stash link
         ddr stash pictures
         ddr stash pictures/beach.raw
         ddr stash etc/passwd
         ddr ls pictures etc
         cd -P pictures && ddr ls
         ddr history link",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr stash link
    stashed 0 files (0 B), freeing <n>
    $ ddr stash pictures
    stashed 0 files (0 B), freeing <n>
    $ ddr stash pictures/beach.raw
    ! ddr: refused: pictures is a symbolic link
    [exit 4]
    $ ddr stash etc/passwd
    ! ddr: refused: etc is a symbolic link
    [exit 4]
    $ ddr ls pictures etc
    link  -  -  etc
    link  -  -  pictures
    $ cd -P pictures && ddr ls
    full  1  293.0 KiB  beach.raw
    $ ddr history link
    <----- now ---->  #1  link  -  -  folder
    ");
}
