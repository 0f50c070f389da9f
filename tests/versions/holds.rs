//! When a hold goes, and when it does not.

use super::{held, objects};
use crate::support::content::noise;
use crate::support::shell::Shell;

/// Three stubs of one chunk each.
fn three() -> Shell {
    let shell = Shell::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        shell.write(name, &noise(seed, 20_000));
    }
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk && ddr stash .");
    assert_eq!(held(&shell).len(), 3);
    shell
}

#[test]
fn a_hold_goes_once_its_stub_is_checked_out_or_overwritten() {
    let shell = three();
    shell.ok("ddr gc");
    assert_eq!(held(&shell).len(), 3, "stubs need theirs");
    shell.ok("ddr checkout a && echo new > b && ddr commit && ddr gc -n");
    assert_eq!(held(&shell).len(), 3, "a dry run changes nothing");
    shell.ok("ddr gc");
    assert_eq!(held(&shell).len(), 1);
    shell.ok("ddr stash a && ddr gc && ddr checkout . && ddr gc");
    assert!(held(&shell).is_empty());
    shell.ok("ddr restore b#1 && ddr fsck --read-data");
    assert_eq!(shell.read("b"), noise(2, 20_000), "history keeps what nobody holds");
}

#[test]
fn i11_a_deleted_or_moved_away_stub_stays_held_for_a_while() {
    let shell = three();
    shell.ok("rm a && mv b ../elsewhere && ddr gc");
    assert_eq!(held(&shell).len(), 3, "gone, but nobody said so yet");
    shell.ok("ddr commit && ddr gc");
    assert_eq!(held(&shell).len(), 3, "kept after its deletion");
    assert_eq!(shell.ok("ddr history --deleted --json").lines().count(), 2);
    shell.ok("mv c d && ddr commit && ddr checkout d && ddr gc");
    assert_eq!(held(&shell).len(), 2, "what was moved within the folder is not deleted");
    shell.ok("ddr config set stash.keep_deleted 1s && sleep 2 && ddr gc");
    assert!(held(&shell).is_empty());
    shell.ok("ddr restore a");
    assert_eq!(shell.read("a"), noise(1, 20_000));
}

/// A copy of a stub is in no table before it is recorded, and after a crash or a loss of the database
/// no stub is.
#[test]
fn stubs_that_no_table_knows_stay_held() {
    let shell = three();
    shell.ok("cp a copy && ddr checkout a && cp --sparse=never b full-of-zeros && ddr checkout b && ddr gc");
    assert_eq!(held(&shell).len(), 3);
    shell.ok("rm copy full-of-zeros && ddr gc");
    assert_eq!(held(&shell).len(), 1);
    shell.ok("rm .ddr/history.db* && ddr gc");
    assert_eq!(held(&shell).len(), 1);
    shell.ok("echo written >> c");
    shell.ok("ddr gc");
    assert_eq!(held(&shell).len(), 1, "somebody wrote into it, that is not settled yet");
}

#[test]
fn nothing_is_released_while_a_part_of_the_tree_cannot_be_seen() {
    let shell = three();
    shell.ok("ddr checkout a && mkdir dir && ddr commit && touch .ddr/intents/x");
    let intents = shell.at(".ddr/intents");
    std::fs::write(intents.join("001"), b"not an intent").unwrap();
    shell.run("ddr gc");
    assert_eq!(held(&shell).len(), 3);
    std::fs::remove_file(intents.join("001")).unwrap();
    shell.ok("ddr gc");
    assert_eq!(held(&shell).len(), 2);
}

#[test]
fn each_peer_releases_its_own_holds_only() {
    let shell = three();
    let other = shell.other("two");
    other.ok("ddr clone ../../store .");
    shell.ok("ddr checkout . && ddr gc");
    assert_eq!(held(&shell).len(), 3, "the other machine has stubs");
    other.code("ddr checkout . && ddr gc", 4);
    assert!(held(&shell).is_empty(), "released, although gc belongs to the first");
}

/// Batches do not pile up for ever, and whoever saw the old ones does not miss them.
#[test]
fn batches_are_compacted_and_not_missed() {
    let shell = three();
    let other = shell.other("two");
    other.ok("ddr clone ../../store .");
    for round in 0..12 {
        shell.ok("ddr checkout a && ddr gc && ddr stash a");
        if round == 3 {
            other.ok("ddr fsck");
        }
    }
    let batches = objects(&shell, "holds/").len();
    assert!(batches < 12, "{batches} batches");
    assert_eq!(held(&shell).len(), 3);
    shell.ok("ddr fsck");
    other.ok("ddr fsck");
    let mine = shell.open().origin();
    let newest = objects(&shell, &format!("holds/{mine}/")).pop().unwrap().0;
    std::fs::remove_file(shell.sandbox.store().join("store").join(newest)).unwrap();
    shell.code("ddr fsck", 5);
    shell.ok("ddr fsck --repair && ddr fsck && ddr gc");
}

/// A peer that only cloned has no entry in any log; its hold is missed all the same.
#[test]
fn a_lost_hold_of_a_peer_without_history_is_found() {
    let one = three();
    let holds = one.sandbox.store().join("store/holds");
    let origins = || -> std::collections::BTreeSet<_> {
        std::fs::read_dir(&holds).expect("readable").map(|e| e.expect("entry").path()).collect()
    };
    let before = origins();
    one.other("two").ok("ddr clone ../../store .");
    let of_two: Vec<_> = origins().difference(&before).cloned().collect();
    assert_eq!(of_two.len(), 1);
    one.ok("ddr fsck");
    std::fs::remove_dir_all(&of_two[0]).expect("removable");
    let said = one.code("ddr fsck", 5);
    assert!(said.contains("hold"), "{said}");
    one.ok("ddr fsck --repair && ddr fsck");
}
