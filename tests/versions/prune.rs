//! Forgetting old versions: what goes, what stays, and that it stays gone.

use super::{bytes, held};
use crate::support::content::noise;
use crate::support::shell::Shell;

/// A file with five versions, all of them on the store, and one that never changes.
fn five() -> Shell {
    let shell = Shell::new();
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    shell.write("same", &noise(99, 20_000));
    for n in 1..=5 {
        shell.write("file", &noise(n, 20_000));
        shell.ok("ddr commit");
    }
    shell
}

fn state(shell: &Shell) -> String {
    shell.ok("ddr debug state-hash")
}

#[test]
fn what_no_rule_keeps_is_forgotten_and_what_it_took_is_freed() {
    let shell = five();
    let before = bytes(&shell, "data/");
    let said = shell.transcript(
        "ddr prune
         ddr prune --keep-last 2 -n
         ddr prune --keep-last 2 --json -n
         ddr prune --keep-last 2 -v same file
         ddr history file
         ddr restore file#2
         ddr restore file#4 --to ../old
         ddr prune --keep-last 2
         ddr gc --grace 0
         ddr fsck --read-data | tail -1",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr prune
    ! ddr: nothing says what to keep; for example: ddr prune --keep-within 90d
    [exit 2]
    $ ddr prune --keep-last 2 -n
    would forget 3 versions (58.6 KiB), 3 stay (58.6 KiB)
    $ ddr prune --keep-last 2 --json -n
    {"keep":false,"n":1,"over_size":false,"path":"file","reasons":[],"size":20000,"time":<n>,"type":"version"}
    {"keep":false,"n":2,"over_size":false,"path":"file","reasons":[],"size":20000,"time":<n>,"type":"version"}
    {"keep":false,"n":3,"over_size":false,"path":"file","reasons":[],"size":20000,"time":<n>,"type":"version"}
    {"keep":true,"n":4,"over_size":false,"path":"file","reasons":["last"],"size":20000,"time":<n>,"type":"version"}
    {"keep":true,"n":5,"over_size":false,"path":"file","reasons":["current","last"],"size":20000,"time":<n>,"type":"version"}
    {"keep":true,"n":1,"over_size":false,"path":"same","reasons":["current","last"],"size":20000,"time":<n>,"type":"version"}
    {"dry_run":true,"forgotten":3,"forgotten_bytes":60000,"kept":3,"kept_bytes":60000,"type":"prune"}
    $ ddr prune --keep-last 2 -v same file
    <----- now ---->  file#1  19.5 KiB  forget  no rule keeps it
    <----- now ---->  file#2  19.5 KiB  forget  no rule keeps it
    <----- now ---->  file#3  19.5 KiB  forget  no rule keeps it
    <----- now ---->  file#4  19.5 KiB  keep    last
    <----- now ---->  file#5  19.5 KiB  keep    current, last
    <----- now ---->  same#1  19.5 KiB  keep    current, last
    forgot 3 versions (58.6 KiB), 3 stay (58.6 KiB)
    disk2: 5 packs looked at, 3 newly condemned (1 of them rewritten, 19.5 KiB), 0 deleted (0 B)
    78.8 KiB will be freed by `ddr gc`, not before 7d are over
    $ ddr history file
    <----- now ---->  #4  file  19.5 KiB  420c12bd  folder
    <----- now ---->  #5  file  19.5 KiB  5ef9815d  folder
    3 versions more, pruned
    $ ddr restore file#2
    ! ddr: the content of version 2 of file, which was pruned, not found
    [exit 1]
    $ ddr restore file#4 --to ../old
    restored file#4 (19.5 KiB) to /r/one/old
    $ ddr prune --keep-last 2
    forgot 0 versions (0 B), 3 stay (58.6 KiB)
    disk2: 6 packs looked at, 0 newly condemned, 0 deleted (0 B)
    78.8 KiB will be freed by `ddr gc`, not before 7d are over
    $ ddr gc --grace 0
    disk2: 6 packs looked at, 0 newly condemned, 3 deleted (78.8 KiB)
    $ ddr fsck --read-data | tail -1
    everything is whole
    "#);
    assert!(bytes(&shell, "data/") < before / 2 + 1000);
    assert_eq!(std::fs::read(shell.at("../old")).unwrap(), noise(4, 20_000));
}

#[test]
fn forgotten_versions_stay_forgotten_on_every_peer_and_after_a_rebuild() {
    let shell = five();
    let other = shell.other("two");
    other.ok("ddr clone ../../store . && ddr checkout .");
    shell.ok("ddr prune --keep-last 1 && ddr gc --grace 0");
    let hash = state(&shell);
    shell.ok("ddr rebuild");
    assert_eq!(state(&shell), hash);
    other.write("new", b"new");
    other.ok("ddr commit && ddr fsck --read-data");
    assert_eq!(other.ok("ddr history file --json").lines().count(), 1);
    shell.ok("echo more > more && ddr commit && ddr gc");
    other.ok("ddr commit");
    assert_eq!(state(&shell), state(&other), "both know the same");
    let third = shell.other("three");
    third.ok("ddr clone ../../store . && ddr checkout .");
    assert_eq!(state(&third), state(&shell));
    assert_eq!(third.read("file"), noise(5, 20_000));
    shell.code("ddr restore file#1", 1);
}

#[test]
fn what_a_stub_or_hold_of_any_peer_needs_is_not_forgotten() {
    let shell = five();
    let other = shell.other("two");
    other.ok("ddr clone ../../store .");
    assert_eq!(held(&shell).len(), 2);
    shell.write("file", &noise(6, 20_000));
    shell.ok("ddr commit && ddr prune --keep-last 1 && ddr gc --grace 0 && ddr gc --grace 0");
    let left = shell.ok("ddr history file --json");
    assert!(left.contains("\"n\":5") && left.contains("\"n\":6") && left.lines().count() == 2, "{left}");
    other.ok("ddr checkout file");
    assert_eq!(other.read("file"), noise(5, 20_000));
}

#[test]
fn i11_a_deleted_file_can_be_restored_until_its_time_is_over() {
    let shell = five();
    shell.ok("ddr stash . && rm file && ddr commit && ddr prune --keep-last 1 && ddr gc --grace 0");
    assert_eq!(shell.ok("ddr history --deleted --json").lines().count(), 1);
    shell.ok("ddr restore file --to ../again");
    assert_eq!(std::fs::read(shell.at("../again")).unwrap(), noise(5, 20_000));
    shell
        .ok("ddr config set stash.keep_deleted 1s && sleep 2 && ddr prune --keep-last 1 && ddr gc --grace 0");
    assert_eq!(shell.ok("ddr history --deleted --json"), "");
    shell.code("ddr restore file", 1);
    shell.ok("ddr fsck --read-data && ddr checkout .");
}

#[test]
fn a_limit_on_size_takes_the_oldest_of_all_paths() {
    let shell = five();
    for n in 1..=3 {
        shell.write("other", &noise(50 + n, 30_000));
        shell.ok("ddr commit");
    }
    let versions = |path: &str| shell.ok(&format!("ddr history {path} --json")).lines().count();
    shell.ok("ddr prune --max-size 150000");
    assert_eq!((versions("file"), versions("other"), versions("same")), (2, 3, 1));
    shell.ok("ddr prune --max-size 1");
    assert_eq!((versions("file"), versions("other"), versions("same")), (1, 1, 1), "current ones stay");
}
