//! Writing into stubs (I5), case by case, as a user or his programs do it without on-demand access.
//!
//! Promises for each case that what the user wrote is never overwritten, freed or lost, that stub
//! bytes never become content, and that the program says what it made of the file.

use std::os::unix::fs::MetadataExt;

use ddr::format::stub::looks_like_stub;

use crate::support::shell::Shell;
use crate::support::tree::hash_file;

/// Everything that looks at a stub or touches it.
const COMMANDS: [&str; 7] = [
    "ddr status",
    "ddr commit",
    "ddr stash .",
    "ddr checkout",
    "ddr commit",
    "ddr status",
    "ddr history report.txt",
];

/// Does something to the stubs of a stashed folder, then runs all commands; files in `kept` must hold
/// the same bytes after each of them.
fn after(doing: &str, kept: &[&str]) -> (Shell, String) {
    let shell = Shell::stashed();
    let stub = shell.read("report.txt");
    shell.ok(doing);
    let bytes: Vec<_> = kept.iter().map(|path| shell.read(path)).collect();
    let mut said = String::new();
    for command in COMMANDS {
        said += &shell.transcript(command);
        for (path, bytes) in kept.iter().zip(&bytes) {
            assert!(shell.read(path) == *bytes, "`{command}` changed {path} after `{doing}`");
        }
    }
    no_stub_is_content(&shell, &stub);
    (shell, said)
}

/// Reads every version back from the store: none is the text of a stub, and each is what its id says.
fn no_stub_is_content(shell: &Shell, stub: &[u8]) {
    let forbidden = [stub, &stub[..4096]].map(|bytes| blake3::hash(bytes).to_string());
    for line in shell.ok("ddr history --json --limit 1000").lines() {
        let version: serde_json::Value = serde_json::from_str(line).expect("an object per line");
        let Some(content) = version["content"].as_str() else { continue };
        assert!(!forbidden.contains(&content.to_string()), "{line}");
        let path = version["path"].as_str().expect("a path");
        shell.ok(&format!("ddr restore -q --force '{path}#{}' --to ../version", version["n"]));
        let bytes = shell.read("../version");
        assert!(!looks_like_stub(&bytes), "{line}");
        assert_eq!(blake3::hash(&bytes).to_string(), content, "{line}");
    }
    shell.ok("ddr fsck -q --read-data");
}

fn original() -> Vec<u8> {
    Shell::with_files().read("report.txt")
}

#[test]
fn overwritten_by_a_redirection() {
    let (shell, said) = after("echo new > report.txt", &["report.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (4 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 2 placed but small, kept here
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  4 B       <id>  folder
    ");
    shell.ok("ddr restore 'report.txt#1'");
    assert!(shell.read("report.txt") == original());
}

#[test]
fn overwritten_by_a_copy_of_another_file() {
    let shell = Shell::stashed();
    shell.write("../big", &[7; 50_000]);
    shell.ok("cp ../big report.txt");
    let said = shell.transcript(&COMMANDS.join("\n"));
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 341.8 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (48.8 KiB read)
    $ ddr stash .
    stashed 1 file (48.8 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (341.8 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 341.8 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  48.8 KiB  c87aff59  folder
    ");
    assert_eq!(shell.read("report.txt"), [7; 50_000]);
    shell.ok("ddr restore 'report.txt#1' --to ../old");
    assert!(shell.read("../old") == original());
}

#[test]
fn replaced_as_an_editor_saves() {
    let (shell, said) = after("echo new > .new && mv .new report.txt", &["report.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (4 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 2 placed but small, kept here
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  4 B       <id>  folder
    ");
    shell.ok("ddr restore 'report.txt#1'");
    assert!(shell.read("report.txt") == original());
}

#[test]
fn i5_appended_to() {
    let (shell, said) = after("echo more >> report.txt", &["report.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    nothing to record
    ! report.txt: refused: it is a stub whose size was changed from 85000 to 85005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here
    ! report.txt: refused: it is a stub whose size was changed from 85000 to 85005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    ! report.txt: refused: it is a stub whose size was changed from 85000 to 85005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! report.txt: refused: it is a stub whose size was changed from 85000 to 85005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr status
    M report.txt
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
    // What the message says to do.
    let said = shell.transcript(
        "ddr restore report.txt
         ddr history --deleted
         tail -c 5 report.txt > ../kept && rm report.txt
         ddr restore report.txt
         cat ../kept >> report.txt
         ddr commit",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr restore report.txt
    ! report.txt: refused: it is a stub whose size was changed from 85000 to 85005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: refused: report.txt has changes that could not be saved first; add --force to lose them
    [exit 4]
    $ ddr history --deleted
    nothing was deleted
    $ tail -c 5 report.txt > ../kept && rm report.txt
    $ ddr restore report.txt
    restored report.txt#1 (83.0 KiB) to /r/one/folder/report.txt
    $ cat ../kept >> report.txt
    $ ddr commit
    recorded 1 path (83.0 KiB read)
    ");
    assert!(shell.read("report.txt") == [&original()[..], b"more\n"].concat());
}

#[test]
fn i5_edited_in_the_middle() {
    let (shell, said) =
        after("printf XXXX | dd of=report.txt bs=1 seek=50000 conv=notrunc 2>/dev/null", &["report.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    nothing to record
    ! report.txt: refused: something was written into the stub at byte 50000; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here
    ! report.txt: refused: something was written into the stub at byte 50000; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    ! report.txt: refused: something was written into the stub at byte 50000; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! report.txt: refused: something was written into the stub at byte 50000; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr status
    M report.txt
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
    shell.ok("cp report.txt ../kept && rm report.txt && ddr restore report.txt");
    assert!(shell.read("report.txt") == original());
}

/// What every command says to a stub that something was written into.
fn is_odd(doing: &str, why: &str) {
    let (_, said) = after(doing, &["report.txt"]);
    let line = format!("! report.txt: refused: {why}");
    let told = said.lines().filter(|l| l.starts_with(&line) && l.contains("`ddr restore`")).count();
    assert_eq!((told, said.matches("[exit 3]").count()), (4, 4), "`{doing}`:\n{said}");
    assert_eq!(said.matches("M report.txt\n").count(), 2, "`{doing}`:\n{said}");
}

#[test]
fn edited_in_the_header() {
    let write = |at: u32| format!("printf XXXX | dd of=report.txt bs=1 seek={at} conv=notrunc 2>/dev/null");
    is_odd(&write(0), "its stub header was written over in part");
    is_odd(&write(120), "it begins like a stub, but its header is damaged: unreadable fields");
    is_odd(&write(4000), "it begins like a stub, but its header is damaged: its padding was changed");
}

#[test]
fn edited_in_place_by_sed() {
    // A new inode without a mark.
    let why = "it begins like a stub, but its header is damaged: its mac does not match";
    is_odd("sed -i 's/To bring it back/To take it back/' report.txt", why);
}

#[test]
fn its_header_block_replaced_by_other_bytes() {
    let (shell, said) =
        after("head -c 4096 /dev/zero | tr '\\0' x | dd of=report.txt conv=notrunc 2>/dev/null", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (83.0 KiB read)
    $ ddr stash .
    stashed 1 file (83.0 KiB), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  83.0 KiB  <id>  folder
    ");
    let bytes = shell.read("report.txt");
    assert!(bytes[..4096].iter().all(|b| *b == b'x') && bytes[4096..].iter().all(|b| *b == 0));
}

#[test]
fn truncated() {
    let resized = |size: u32| format!("it is a stub whose size was changed from 85000 to {size} bytes");
    for size in [50_000, 84_999, 4096, 200_000] {
        is_odd(&format!("truncate -s {size} report.txt"), &resized(size));
    }
    is_odd("truncate -s 100 report.txt", "it begins like a stub, but its header is damaged: truncated");
    is_odd("truncate -s 20 report.txt", "its stub header was written over in part");
}

#[test]
fn emptied() {
    let (shell, said) = after("truncate -s 0 report.txt", &["report.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 2 placed but small, kept here
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  0 B       <id>  folder
    ");
    shell.ok("ddr restore 'report.txt#1'");
    assert!(shell.read("report.txt") == original());
}

#[test]
fn moved_within_the_folder() {
    let (shell, said) = after("mv report.txt photos/moved.txt", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    A photos/moved.txt
    D report.txt
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read), 1 gone (1 moved)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder  moved to photos/moved.txt
    ");
    assert!(shell.read("photos/moved.txt") == original());
    insta::assert_snapshot!(shell.transcript("ddr history photos/moved.txt\nddr history report.txt"), @r"
    $ ddr history photos/moved.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder  moved from report.txt
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder  moved to photos/moved.txt
    ");
}

#[test]
fn moved_out_and_back_in() {
    let (shell, said) = after("mv report.txt ../outside", &["../outside"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    D report.txt
    folder: 2 files, 1 stub; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 0 paths (0 B read), 1 gone (0 moved)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 2 files, 0 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder
    ");
    let said = shell.transcript(
        "ddr history --deleted
         mv ../outside back.txt
         ddr status
         ddr commit
         ddr ls back.txt
         ddr checkout back.txt
         head -n 1 back.txt
         ddr commit",
    );
    insta::assert_snapshot!(said, @"
    $ ddr history --deleted
    <----- now ---->  83.0 KiB  report.txt
    Bring one back with: ddr restore PATH
    $ mv ../outside back.txt
    $ ddr status
    A back.txt
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr ls back.txt
    stub  1  83.0 KiB  back.txt
    $ ddr checkout back.txt
    checked out 1 file (83.0 KiB)
    $ head -n 1 back.txt
    0001 of a report
    $ ddr commit
    nothing to record
    ");
    assert!(shell.read("back.txt") == original());
}

#[test]
fn moved_out_checked_out_and_moved_back() {
    let shell = Shell::stashed();
    shell.ok("mv report.txt ../outside && ddr commit && mv ../outside report.txt && ddr checkout");
    assert!(shell.read("report.txt") == original());
    shell.ok("ddr commit");
    insta::assert_snapshot!(shell.transcript("ddr status\nddr history report.txt"), @"
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder
    <----- now ---->  #3  file     83.0 KiB  16aa3119  folder
    ");
}

#[test]
fn copied() {
    for copy in [
        "cp report.txt copy.txt",
        "cp -a report.txt copy.txt",
        "cp --sparse=always report.txt copy.txt",
        "cp --sparse=never report.txt copy.txt",
        "cat report.txt > copy.txt",
        "tar cf - report.txt | tar xf - --transform s/report/copy/",
        "tar cSf - report.txt | tar xf - --transform s/report/copy/",
    ] {
        let (shell, _) = after(copy, &[]);
        for path in ["report.txt", "copy.txt"] {
            assert!(shell.read(path) == original(), "{path} after `{copy}`");
        }
        let said = shell.ok("ddr find --same report.txt");
        assert_eq!(said, "copy.txt\nreport.txt\n", "{copy}");
    }
    let (_, said) = after("cp report.txt copy.txt", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    A copy.txt
    folder: 4 files, 2 stubs; <n> of 459.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 3 stubs already; 1 placed but small, kept here
    $ ddr checkout
    checked out 3 files (459.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 0 stubs; <n> of 459.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
}

#[test]
fn cut_pasted_and_joined() {
    let (_, said) = after(
        "head -c 5000 report.txt > part; head -c 100 report.txt > bit; cat report.txt note.txt > both",
        &["part", "bit", "both"],
    );
    insta::assert_snapshot!(said, @"
    $ ddr status
    A bit
    A both
    A part
    folder: 6 files, 2 stubs; <n> of 464.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    nothing to record
    ! bit: refused: it begins like a stub, but its header is damaged: truncated; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! both: refused: it is a stub whose size was changed from 85000 to 85009 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! part: refused: it is a stub whose size was changed from 85000 to 5000 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 3 files had problems
    [exit 3]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already; 1 placed but small, kept here
    ! bit: refused: it begins like a stub, but its header is damaged: truncated; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! both: refused: it is a stub whose size was changed from 85000 to 85009 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! part: refused: it is a stub whose size was changed from 85000 to 5000 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 3 files had problems
    [exit 3]
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ! part: refused: it is a stub whose size was changed from 85000 to 5000 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! bit: refused: it begins like a stub, but its header is damaged: truncated; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! both: refused: it is a stub whose size was changed from 85000 to 85009 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! part: refused: it is a stub whose size was changed from 85000 to 5000 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 3 files had problems
    [exit 3]
    $ ddr status
    A bit
    A both
    A part
    folder: 6 files, 0 stubs; <n> of 464.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
}

#[test]
fn touched() {
    let (shell, said) = after("touch -d @1000000000.5 report.txt", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    M report.txt
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  83.0 KiB  16aa3119  folder
    ");
    assert!(shell.read("report.txt") == original());
    let meta = std::fs::metadata(shell.at("report.txt")).expect("there");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 500_000_000));
}

#[test]
fn its_mode_changed() {
    let (shell, said) = after("chmod 640 report.txt", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    P report.txt
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 1 path (0 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    <----- now ---->  #2  file  83.0 KiB  16aa3119  folder
    ");
    assert!(shell.read("report.txt") == original());
    assert_eq!(std::fs::metadata(shell.at("report.txt")).expect("there").mode() & 0o7777, 0o640);
}

#[test]
fn read_only() {
    let (shell, said) = after("chmod 400 report.txt", &[]);
    assert!(said.contains("checked out 2 files"), "{said}");
    assert!(shell.read("report.txt") == original());
    assert_eq!(std::fs::metadata(shell.at("report.txt")).expect("there").mode() & 0o7777, 0o400);
}

#[test]
fn removed() {
    let (shell, said) = after("rm report.txt", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    D report.txt
    folder: 2 files, 1 stub; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 0 paths (0 B read), 1 gone (0 moved)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here
    $ ddr checkout
    checked out 1 file (293.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 2 files, 0 stubs; <n> of 293.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file     83.0 KiB  16aa3119  folder
    <----- now ---->  #2  deleted  -         -         folder
    ");
    insta::assert_snapshot!(
        shell.transcript("ddr history --deleted\nddr restore report.txt\nddr gc --grace 0s\nddr gc --grace 0s"),
        @r"
    $ ddr history --deleted
    <----- now ---->  83.0 KiB  report.txt
    Bring one back with: ddr restore PATH
    $ ddr restore report.txt
    restored report.txt#1 (83.0 KiB) to /r/one/folder/report.txt
    $ ddr gc --grace 0s
    disk2: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr gc --grace 0s
    disk2: 1 pack looked at, 0 newly condemned, 0 deleted (0 B)
    "
    );
    assert!(shell.read("report.txt") == original());
}

#[test]
fn linked() {
    let (shell, said) = after("ln report.txt hard; ln -s report.txt soft", &[]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    A hard
    T report.txt
    A soft
    folder: 4 files, 2 stubs; <n> of 459.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 2 paths (0 B read)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 3 stubs already; 1 placed but small, kept here
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 4 files, 0 stubs; <n> of 459.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
    assert!(shell.read("report.txt") == original() && shell.read("hard") == original());
}

#[test]
fn of_another_folder() {
    let other = Shell::stashed();
    let theirs = other.at("report.txt").display().to_string();
    let line = format!("cp -a {theirs} foreign.txt; cp {theirs} note.txt");
    let (shell, said) = after(&line, &["foreign.txt", "note.txt"]);
    insta::assert_snapshot!(said, @"
    $ ddr status
    A foreign.txt
    M note.txt
    folder: 4 files, 2 stubs; <n> of 542.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    nothing to record
    ! foreign.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! note.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 2 stubs already
    ! foreign.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! note.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ! foreign.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! note.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! foreign.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! note.txt: refused: it is a stub of another folder (<id>); check it out there, then copy it again
    ! ddr: 2 files had problems
    [exit 3]
    $ ddr status
    A foreign.txt
    M note.txt
    folder: 4 files, 0 stubs; <n> of 542.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
    assert!(looks_like_stub(&shell.read("foreign.txt")), "never filled");
}

#[test]
fn replaced_by_a_directory_and_the_reverse() {
    let (shell, said) = after(
        "rm report.txt && mkdir report.txt && echo in > report.txt/in; rm -r photos && echo file > photos",
        &["report.txt/in", "photos"],
    );
    insta::assert_snapshot!(said, @"
    $ ddr status
    M photos
    D photos/beach.raw
    M report.txt
    A report.txt/in
    folder: 3 files, 0 stubs; <n> of 17 B local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr commit
    recorded 3 paths (8 B read), 1 gone (0 moved)
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 3 placed but small, kept here
    $ ddr checkout
    checked out 0 files (0 B)
    $ ddr commit
    nothing to record
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 17 B local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  report.txt/in#1  file  3 B       <id>  folder
    <----- now ---->  report.txt#2     dir   -         -         folder
    <----- now ---->  report.txt#1     file  83.0 KiB  16aa3119  folder
    ");
    shell.ok("ddr restore 'report.txt#1' --to ../old");
    assert!(shell.read("../old") == original());
}

#[test]
fn i5_the_database_does_not_decide() {
    // Residency is read from the bytes: with every index gone, stubs are stubs, copies are copies
    // and what was written into is the user's.
    let shell = Shell::stashed();
    shell.ok("cp report.txt copy.txt; cp -a photos/beach.raw b.raw; echo more >> b.raw; echo mine > link2");
    let written = shell.read("b.raw");
    shell.ok("rm -r .ddr/history.db* ../home/cache");
    let said = shell.transcript(&COMMANDS.join("\n"));
    insta::assert_snapshot!(said, @"
    $ ddr status
    A b.raw
    A copy.txt
    A link2
    folder: 6 files, 2 stubs; <n> of 752.0 KiB local
    6 paths not compared since history.db was lost; `ddr commit` does that
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    ! ddr: history.db was damaged or missing: rebuilt from the log
    $ ddr commit
    recorded 2 paths (14 B read)
    ! b.raw: refused: it is a stub whose size was changed from 300000 to 300005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 3 stubs already; 2 placed but small, kept here
    ! b.raw: refused: it is a stub whose size was changed from 300000 to 300005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr checkout
    checked out 3 files (459.0 KiB)
    ! b.raw: refused: it is a stub whose size was changed from 300000 to 300005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr commit
    nothing to record
    ! b.raw: refused: it is a stub whose size was changed from 300000 to 300005 bytes; to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr status
    A b.raw
    folder: 6 files, 0 stubs; <n> of 752.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    $ ddr history report.txt
    <----- now ---->  #1  file  83.0 KiB  16aa3119  folder
    ");
    assert!(shell.read("report.txt") == original() && shell.read("copy.txt") == original());
    assert!(shell.read("b.raw") == written);
    assert_eq!(
        hash_file(&shell.at("photos/beach.raw")).expect("readable"),
        blake3::hash(&crate::support::content::noise(1, 300_000))
    );
}
