//! Stores: one that was away catches up unasked, contents move on, damage is found slowly, gc runs where
//! it is ours.

use std::fs;
use std::path::PathBuf;

use super::{Daemon, assert_in_store, with_store};
use crate::support::content::noise;
use crate::support::shell::Shell;
use crate::support::sshd::Sshd;

#[test]
fn a_store_that_was_away_catches_up_unasked() {
    let shell = with_store();
    shell.ok("ddr remote add disk3 ../../store3 --init --same-disk --domain three");
    let mut daemon = Daemon::start(&shell);
    let (place, aside) = (shell.sandbox.root().join("store3"), shell.sandbox.root().join("aside"));
    fs::rename(&place, &aside).unwrap();
    let bytes = noise(5, 300_000);
    shell.write("while-away.bin", &bytes);
    daemon.until_committed();
    shell.ok("ddr daemon poke");
    daemon.until("it is known to be away", |d| d.state()["away"][0] == "disk3");
    assert!(shell.ok("ddr status").contains("disk3 is away"));
    fs::rename(&aside, &place).unwrap();
    daemon.until("it has caught up", |d| d.log().contains("disk3 caught up"));
    let clone = shell.sandbox.clone_from(&place, "two").unwrap();
    assert_eq!(fs::read(clone.folder().join("while-away.bin")).unwrap(), bytes);
}

#[test]
fn a_store_on_another_machine_that_does_not_answer_catches_up_and_holds_up_no_command() {
    let shell = with_store();
    let Some(mut sshd) = Sshd::start(&shell.sandbox.root().join("ssh")) else { return };
    shell.ok("ddr remote add nas ssh://nas$PWD/../../far --init --same-disk --domain nas");
    let mut daemon = Daemon::start(&shell);
    daemon.until("the first file is there", |d| !packs(d.shell, "far").is_empty());
    sshd.stop();
    let bytes = noise(11, 300_000);
    shell.write("while-away.bin", &bytes);
    daemon.until_committed();
    daemon.until("it is known to be away", |d| {
        d.shell.ok("ddr daemon poke");
        d.state()["away"].to_string().contains("nas")
    });
    shell.ok("ddr config set stash.min_size 20KiB");
    sshd.restart();
    daemon.until("it has caught up", |d| d.log().contains("nas caught up"));
    let clone = shell.sandbox.clone_from(&shell.sandbox.root().join("far"), "two").unwrap();
    assert_eq!(fs::read(clone.folder().join("while-away.bin")).unwrap(), bytes);
}

#[test]
fn what_was_recorded_without_any_store_is_placed_when_one_is_there() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    let (place, aside) = (shell.sandbox.store(), shell.sandbox.root().join("aside"));
    fs::rename(&place, &aside).unwrap();
    let bytes = noise(6, 300_000);
    shell.write("alone.bin", &bytes);
    daemon.until_committed();
    assert!(shell.ok("ddr status").contains("unsaved"));
    shell.ok("ddr daemon poke");
    daemon.until("it is known to be away", |d| d.state()["away"][0] == "disk2");
    fs::rename(&aside, &place).unwrap();
    daemon.until("nothing is unsaved", |d| !d.shell.ok("ddr status").contains("unsaved"));
    assert_in_store(&shell, "two", "alone.bin", &bytes);
}

/// Packs of contents in a store.
fn packs(shell: &Shell, store: &str) -> Vec<PathBuf> {
    let data = shell.sandbox.root().join(store).join("store/data");
    fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn total(packs: &[PathBuf]) -> u64 {
    // gc may take one away meanwhile.
    packs.iter().filter_map(|pack| fs::metadata(pack).ok()).map(|meta| meta.len()).sum()
}

#[test]
fn damage_is_found_by_scrubbing_and_put_back_from_another_store() {
    let shell = with_store();
    shell.ok("ddr remote add disk3 ../../store3 --init --same-disk --domain three && ddr commit && ddr sync");
    let pack = packs(&shell, "store").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&pack, mode).unwrap();
    fs::write(&pack, &bytes).unwrap();
    let mut daemon = Daemon::start(&shell);
    daemon.until("the damage is mended", |d| d.log().contains("put back from other stores"));
    let problems = daemon.state()["problems"].to_string();
    assert!(problems.contains("disk2"), "{problems}");
    // The damaged pack no longer counts, and the copy that does is good.
    assert_in_store(&shell, "two", "first.bin", &noise(1, 50_000));
}

#[test]
fn contents_move_on_along_the_tiers() {
    let shell = Shell::new();
    shell.write("old.bin", &noise(8, 200_000));
    shell.ok(
        "ddr init \
         && ddr remote add near ../../near --init --same-disk --domain n \
         && ddr remote add far ../../far --init --same-disk --domain f \
         && printf '\\n[[tier]]\\nname = \"near\"\\nstores = [\"near\"]\\nkeep = \"1s\"\\n[[tier]]\\nname = \"far\"\\nstores = [\"far\"]\\n[policy]\\nevery = \"1s\"\\n' >> .ddr/config.toml",
    );
    assert!(packs(&shell, "far").is_empty());
    let mut daemon = Daemon::start(&shell);
    daemon.until("its content is in the far tier", |d| !packs(d.shell, "far").is_empty());
    daemon.until("it is said", |d| d.log().contains("moved 1 content on"));
}

#[test]
fn gc_runs_where_this_peer_owns_it_and_only_there() {
    let shell = with_store();
    shell.write("large.bin", &noise(9, 3_000_000));
    shell.ok("ddr remote add disk3 ../../store3 --init --same-disk --domain three && ddr commit && ddr sync");
    shell.write("large.bin", &noise(10, 30_000));
    shell.ok("ddr commit");
    // gc of the store that is there while versions are pruned becomes this peer's, that of the other nobody's.
    let (place, aside) = (shell.sandbox.root().join("store3"), shell.sandbox.root().join("aside"));
    fs::rename(&place, &aside).unwrap();
    shell.run("ddr prune --keep-last 1");
    fs::rename(&aside, &place).unwrap();
    assert!(total(&packs(&shell, "store")) > 3_000_000, "it is condemned, not deleted yet");
    shell.ok("ddr config set gc.grace 0s && ddr config set daemon.gc 1s");
    let mut daemon = Daemon::start(&shell);
    daemon.until("what is not needed is gone", |d| total(&packs(d.shell, "store")) < 1_000_000);
    assert!(total(&packs(&shell, "store3")) > 3_000_000, "nobody asked for gc there");
    assert_eq!(fs::read_dir(place.join("store/gc")).unwrap().count(), 0, "and nobody owns it");
    assert_in_store(&shell, "two", "large.bin", &noise(10, 30_000));
}
