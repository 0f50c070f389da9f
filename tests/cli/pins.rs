//! Pinning at the prompt, and neighbours that come along.

use crate::support::content::noise;
use crate::support::shell::Shell;

#[test]
fn pinned_files_come_and_stay() {
    let shell = Shell::stashed();
    let said = shell.transcript(
        "ddr pin
         ddr pin -n photos
         ddr pin photos
         ddr pin photos/beach.raw
         ddr pin nothing
         ddr pin
         ddr ls
         ddr ls --json photos
         ddr status
         ddr stash photos/beach.raw
         ddr stash .
         ddr unpin photos/beach.raw
         ddr unpin note.txt",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr pin
    nothing is pinned; pin with: ddr pin PATH
    $ ddr pin -n photos
    would pin photos
    would check out 1 file (293.0 KiB)
    $ ddr pin photos
    pinned photos
    checked out 1 file (293.0 KiB)
    $ ddr pin photos/beach.raw
    photos/beach.raw is pinned already
    $ ddr pin nothing
    ! ddr: nothing not found
    [exit 1]
    $ ddr pin
    photos
    $ ddr ls
    dir   -         -  empty/
    link  -         -  link
    full  1       9 B  note.txt
    dir   -         -  photos/ (pinned)
    stub  1  83.0 KiB  report.txt
    $ ddr ls --json photos
    {"content":"f5fb425f83042d558be2e1a79b455cdac5dd2d58ed4930a08840a48122c3dd85","copies":1,"local_bytes":<n>,"mtime":1704164645,"path":"photos/beach.raw","pinned":true,"residency":"full","size":300000,"type":"file"}
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 1 stub; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    pinned: photos
    store disk2: online, <n> free
    $ ddr stash photos/beach.raw
    ! ddr: refused: photos/beach.raw is pinned; to let it go run: ddr unpin photos
    [exit 4]
    $ ddr stash .
    stashed 0 files (0 B), freeing <n>; 1 stub already; 1 placed but small, kept here; 1 pinned, kept here
    $ ddr unpin photos/beach.raw
    ! ddr: refused: photos/beach.raw is pinned by photos; run: ddr unpin photos
    [exit 4]
    $ ddr unpin note.txt
    ! ddr: a pin at or below note.txt not found
    [exit 1]
    "#);
    // Also what is made there later.
    shell.write("photos/new/hill.raw", &noise(3, 50_000));
    assert!(shell.code("ddr stash photos/new", 4).contains("ddr unpin photos"));
    assert!(shell.ok("ddr stash --json .").contains("\"pinned\":2"));
    let said = shell.transcript(
        "mv photos pictures
         ddr status
         ddr unpin -n photos
         ddr unpin photos
         ddr unpin photos
         ddr stash pictures",
    );
    insta::assert_snapshot!(said, @"
    $ mv photos pictures
    $ ddr status
    D photos
    D photos/beach.raw
    D photos/new
    D photos/new/hill.raw
    A pictures
    A pictures/beach.raw
    A pictures/new
    A pictures/new/hill.raw
    folder: 4 files, 1 stub; <n> of 424.8 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    pinned: photos (nothing is there)
    store disk2: online, <n> free
    $ ddr unpin -n photos
    would unpin photos
    $ ddr unpin photos
    unpinned photos
    $ ddr unpin photos
    ! ddr: a pin at or below photos not found
    [exit 1]
    $ ddr stash pictures
    stashed 2 files (341.8 KiB), freeing <n>
    ");
}

#[test]
fn a_pin_without_checkout_leaves_the_stub() {
    let shell = Shell::stashed();
    shell.ok("ddr pin --no-checkout report.txt");
    let said =
        shell.transcript("ddr ls report.txt\nddr why report.txt | tail -1\ncat .ddr/config.toml | grep pins");
    insta::assert_snapshot!(said, @r#"
    $ ddr ls report.txt
    stub  1  83.0 KiB  report.txt (pinned)
    $ ddr why report.txt | tail -1
      verdict   pinned, but still a stub: `ddr checkout` brings it here
    $ cat .ddr/config.toml | grep pins
    pins = ["report.txt"]
    "#);
}

#[test]
fn names_that_are_no_text_can_be_pinned() {
    let shell = Shell::with_store();
    let name = std::ffi::OsStr::new("odd");
    shell.ok("printf x > \"$(printf 'a\\377\\\\b')\"");
    shell.write(name, &noise(1, 20_000));
    shell.ok("ddr pin a*");
    assert_eq!(shell.ok("ddr pin"), "a\\xff\\\\b\n");
    shell.ok("ddr unpin a*");
}

#[test]
fn neighbours_come_along_within_the_budget() {
    let shell = Shell::new();
    for n in 1..=4 {
        shell.write(format!("shoot/IMG_{n:04}.CR3"), &noise(n, 40_000));
        shell.write(format!("shoot/IMG_{n:04}.xmp"), &noise(n + 10, 20_000));
    }
    shell.write("shoot/notes.txt", &noise(30, 20_000));
    shell.write("other/IMG_0002.jpg", &noise(31, 20_000));
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk && ddr stash .");
    let said = shell.transcript(
        "ddr checkout -n --related shoot/IMG_0002.CR3
         ddr checkout --related --budget 60KB shoot/IMG_0002.CR3
         ddr checkout --related",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr checkout -n --related shoot/IMG_0002.CR3
    also shoot/IMG_0002.xmp (19.5 KiB): same stem
    also shoot/IMG_0003.CR3 (39.1 KiB): number +1
    also shoot/IMG_0001.CR3 (39.1 KiB): number -1
    also shoot/IMG_0004.CR3 (39.1 KiB): number +2
    also shoot/IMG_0001.xmp (19.5 KiB): same directory
    also shoot/IMG_0003.xmp (19.5 KiB): same directory
    also shoot/IMG_0004.xmp (19.5 KiB): same directory
    also shoot/notes.txt (19.5 KiB): same directory
    would check out 9 files (253.9 KiB)
    $ ddr checkout --related --budget 60KB shoot/IMG_0002.CR3
    also shoot/IMG_0002.xmp (19.5 KiB): same stem
    also shoot/IMG_0003.CR3 (39.1 KiB): number +1
    checked out 3 files (97.7 KiB)
    $ ddr checkout --related
    ! ddr: --related needs the files whose neighbours are wanted
    [exit 2]
    "#);
}
