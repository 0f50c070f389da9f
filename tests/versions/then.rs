//! What was when: `ddr diff`, and `ddr restore --at`.

use crate::support::shell::Shell;

/// Three commits, a second and more apart, and edits that are not recorded.
fn edited() -> Shell {
    let shell = Shell::new();
    shell.ok("ddr init --name laptop && ddr remote add disk2 ../../store --init --same-disk");
    shell.ok(
        "mkdir -p d/e && echo one > a && echo two > d/b && echo deep > d/e/c && ln -s a link && ddr commit",
    );
    shell.ok("sleep 1.1 && date +%s > ../when && sleep 1.1");
    shell.ok("echo longer >> a && mv d/b moved && rm d/e/c && echo new > n && ddr commit");
    shell.ok("sleep 1.1 && date +%s > ../later && sleep 1.1 && echo third > t && ddr commit");
    shell
}

#[test]
fn diff_shows_what_changed_since_a_time_a_version_or_an_entry() {
    let shell = edited();
    let said = shell.transcript(
        "ddr diff
         echo more >> a; rm moved; echo fresh > fresh; chmod 600 n
         ddr diff
         ddr diff --since @$(cat ../when)
         ddr diff --since @$(cat ../when) --until @$(cat ../later)
         ddr diff --since @$(cat ../when) --until @$(cat ../later) d
         ddr diff --since @$(cat ../when) --until @$(cat ../later) --json
         ddr diff --since a#1 --until laptop:8
         ddr diff --since 1h
         ddr diff --since soon
         ddr diff --since nobody:3
         ddr diff --since a#9",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr diff
    no differences
    $ echo more >> a; rm moved; echo fresh > fresh; chmod 600 n
    $ ddr diff
    M a  11 B -> 16 B
    A fresh  6 B
    D moved  4 B
    M n  4 B
    4 differences
    $ ddr diff --since @$(cat ../when)
    M a  4 B -> 16 B
    A fresh  6 B
    A n  4 B
    A t  6 B
    D d/b  4 B
    D d/e/c  5 B
    6 differences
    $ ddr diff --since @$(cat ../when) --until @$(cat ../later)
    M a  4 B -> 11 B
    D d/e/c  5 B
    R d/b -> moved  4 B
    A n  4 B
    4 differences
    $ ddr diff --since @$(cat ../when) --until @$(cat ../later) d
    D d/b  4 B
    D d/e/c  5 B
    2 differences
    $ ddr diff --since @$(cat ../when) --until @$(cat ../later) --json
    {"change":"changed","content":"<id>","from":null,"old_content":"<id>","old_size":4,"path":"a","size":11,"type":"difference"}
    {"change":"deleted","content":null,"from":null,"old_content":"<id>","old_size":5,"path":"d/e/c","size":null,"type":"difference"}
    {"change":"moved","content":"<id>","from":"d/b","old_content":"<id>","old_size":4,"path":"moved","size":4,"type":"difference"}
    {"change":"added","content":"<id>","from":null,"old_content":null,"old_size":null,"path":"n","size":4,"type":"difference"}
    $ ddr diff --since a#1 --until laptop:8
    M a  4 B -> 11 B
    A d
    A d/b  4 B
    A d/e
    A d/e/c  5 B
    A link
    6 differences
    $ ddr diff --since 1h
    A a  16 B
    A d
    A d/e
    A fresh  6 B
    A link
    A n  4 B
    A t  6 B
    7 differences
    $ ddr diff --since soon
    ! ddr: "soon" is no time: write 2d (ago), 2026-11-24, '<----- now ---->' or ORIGIN:N
    [exit 2]
    $ ddr diff --since nobody:3
    ! ddr: entry nobody:3 not found
    [exit 1]
    $ ddr diff --since a#9
    ! ddr: version 9 of a not found
    [exit 1]
    "#);
}

#[test]
fn a_directory_is_restored_as_it_was_and_what_stands_there_is_recorded_first() {
    let shell = edited();
    let said = shell.transcript(
        "echo unrecorded > a
         ddr restore --at @$(cat ../when) . -n | cut -d@ -f1 | sort
         ddr restore --at @$(cat ../when) . | cut -d@ -f1
         find . -name .ddr -prune -o -type f -print | sort | xargs tail -v -n9
         ddr history a | cut -c19- | cut -d@ -f1
         ddr restore --at @$(cat ../when) d a link --to ../out | cut -d@ -f1
         ddr restore --at @$(cat ../when) d --to ../out | tail -1 | cut -d@ -f1
         find ../out | sort
         ddr restore --at @$(cat ../when) d/e/c --to ../c | cut -d@ -f1
         cat ../c
         ddr restore --at 2001-01-01 d
         ddr restore --at @$(cat ../later) n a | cut -d@ -f1",
    );
    insta::assert_snapshot!(said, @r#"
    $ echo unrecorded > a
    $ ddr restore --at @$(cat ../when) . -n | cut -d@ -f1 | sort
    would restore 3 files (13 B) as of 
    would restore a#1 (4 B)
    would restore d/b#1 (4 B)
    would restore d/e/c#1 (5 B)
    $ ddr restore --at @$(cat ../when) . | cut -d@ -f1
    restored 3 files (13 B) as of 
    $ find . -name .ddr -prune -o -type f -print | sort | xargs tail -v -n9
    ==> ./a <==
    one

    ==> ./d/b <==
    two

    ==> ./d/e/c <==
    deep

    ==> ./moved <==
    two

    ==> ./n <==
    new

    ==> ./t <==
    third
    $ ddr history a | cut -c19- | cut -d@ -f1
    #1  file  4 B   <id>  laptop
    #2  file  11 B  <id>  laptop
    #3  file  11 B  <id>  laptop  "before a restore"
    #4  file  4 B   <id>  laptop  "restored as of 
    $ ddr restore --at @$(cat ../when) d a link --to ../out | cut -d@ -f1
    restored 4 files (13 B) as of 
    $ ddr restore --at @$(cat ../when) d --to ../out | tail -1 | cut -d@ -f1
    restored 0 files (0 B) as of 
    ! d/b: refused: /r/one/folder/../out/d/b exists; add --force to replace it
    ! d/e/c: refused: /r/one/folder/../out/d/e/c exists; add --force to replace it
    ! ddr: 2 files had problems
    $ find ../out | sort
    ../out
    ../out/a
    ../out/d
    ../out/d/b
    ../out/d/e
    ../out/d/e/c
    ../out/link
    $ ddr restore --at @$(cat ../when) d/e/c --to ../c | cut -d@ -f1
    restored 1 file (5 B) as of 
    $ cat ../c
    deep
    $ ddr restore --at 2001-01-01 d
    ! ddr: d as of 2001-01-01 not found
    [exit 1]
    $ ddr restore --at @$(cat ../later) n a | cut -d@ -f1
    restored 1 file (11 B) as of 
    "#);
}

#[test]
fn a_pruned_version_is_not_restored_and_the_others_are() {
    let shell = edited();
    shell.ok("ddr prune --keep-last 1");
    shell.code("ddr restore --at @$(cat ../when) .", 3);
    assert_eq!(shell.read("d/b"), b"two\n", "its content lives on at another path");
    assert_eq!(shell.read("a"), b"one\nlonger\n");
    shell.ok("ddr fsck --read-data");
}

#[test]
fn a_commit_of_a_clock_that_was_years_ahead_does_not_date_what_comes_after() {
    if !cfg!(debug_assertions) {
        return;
    }
    let shell = edited();
    shell.ok("echo mad >> a && DDR_CLOCK=315360000 ddr commit");
    assert!(shell.ok("ddr history a | tail -1").starts_with("203"), "{}", shell.ok("ddr history a"));
    // Known for what it is: nothing is judged by its age.
    shell.ok("ddr prune --keep-last 9");
    shell.ok("sleep 1.1 && date +%s > ../mended && echo sane >> a && ddr commit && rm t && ddr commit");
    let said = shell
        .ok("sleep 1.1 && ddr history a && ddr history t && ddr restore --at 1s a --to ../a && cat ../a");
    assert!(!said.contains("203") && said.contains("mad\nsane"), "{said}");
    let then = shell.ok("ddr restore --at @$(cat ../mended) a --to ../b && cat ../b");
    assert!(then.contains("longer"), "{then}");
    // What was created and changed under that clock is kept after its deletion like anything else.
    assert!(shell.ok("ddr history --deleted").contains('t'));
    let state = shell.ok("ddr debug state-hash");
    shell.ok("ddr rebuild");
    assert_eq!(shell.ok("ddr debug state-hash"), state);
    shell.ok("ddr prune --keep-last 1");
    // A clock that is behind everything is not believed instead.
    shell.ok("echo early >> a && DDR_CLOCK=-1500000000 ddr commit");
    assert!(!shell.ok("ddr history a").contains("\n19"), "{}", shell.ok("ddr history a"));
}

#[test]
fn a_clock_that_jumps_makes_policy_and_gc_rest() {
    if !cfg!(debug_assertions) {
        return;
    }
    let shell = edited();
    shell.ok("ddr stash && ddr gc");
    let said = shell.code("DDR_CLOCK=315360000 ddr stash", 4);
    assert!(said.contains("the clock has jumped"), "{said}");
    let said = shell.code("ddr stash", 4);
    assert!(said.contains("the policy rests"), "{said}");
    shell.ok("ddr stash .");
}
