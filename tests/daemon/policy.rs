//! The policy runs by itself: by age, and at once where the disk is above high water.

use std::time::Instant;

use super::{Daemon, is_stub, used_percent, with_store};
use crate::support::content::noise;
use crate::support::mount::obstacle;
use crate::support::shell::Shell;
use crate::support::small::Small;
use crate::support::{Sandbox, say};

#[test]
fn what_is_old_enough_is_stashed_unasked() {
    let shell = with_store();
    shell.ok("printf 'every = \"1s\"\\n[[rule]]\\ndo = \"stash\"\\nafter = \"30d\"\\n' > ../policy.toml && ddr config set policy.file ../policy.toml");
    shell.write("old.bin", &noise(3, 200_000));
    shell.ok("touch -d '60 days ago' old.bin");
    let mut daemon = Daemon::start(&shell);
    daemon.until("the old file is a stub", |d| is_stub(d.shell, "old.bin"));
    assert!(!is_stub(&shell, "first.bin"), "it is young");
    // One that comes while it runs.
    shell.write("late.bin", &noise(4, 200_000));
    shell.ok("touch -d '60 days ago' late.bin");
    daemon.until("the late one is, too", |d| is_stub(d.shell, "late.bin"));
    assert!(daemon.state()["last_policy"].is_i64());
    shell.ok("ddr checkout late.bin");
    assert_eq!(shell.read("late.bin"), noise(4, 200_000));
}

#[test]
fn above_high_water_room_is_made_at_once() {
    if let Some(why) = obstacle(&["ext4"]) {
        return say(&format!("high water: passed over, {why}"));
    }
    let temp = tempfile::tempdir().unwrap();
    let small = Small::new(&temp.path().join("small"), 96).unwrap();
    let shell = Shell::on(Sandbox::at(small.point()));
    let store = temp.path().join("store");
    shell.ok(&format!(
        "ddr init && ddr remote add disk2 {} --init --same-disk \
         && printf 'every = \"1d\"\\n[[rule]]\\ndo = \"stash\"\\nwhen_full = \"0s\"\\n[water]\\nhigh = \"70%%\"\\nlow = \"50%%\"\\n' > ../policy.toml \
         && ddr config set policy.file ../policy.toml",
        store.display()
    ));
    let mut daemon = Daemon::start(&shell);
    let size = 2 << 20;
    let mut n = 0;
    while used_percent(small.point()) <= 70 {
        shell.write(format!("f{n}"), &noise(n, size));
        n += 1;
    }
    let since = Instant::now();
    daemon.until("there is room again", |_| used_percent(small.point()) <= 55);
    say(&format!("high water: {n} files, room again after {:?}", since.elapsed()));
    daemon.until_committed();
    shell.ok("ddr fsck");
    assert_eq!(shell.ok("ddr daemon stop").trim().split(' ').next_back(), Some("stopped"));
    // What went is in the store, byte for byte.
    let stub = (0..n).find(|i| is_stub(&shell, &format!("f{i}"))).expect("something went");
    shell.ok(&format!("ddr checkout f{stub}"));
    assert_eq!(shell.read(format!("f{stub}")), noise(stub, size));
}

#[test]
fn a_budget_is_kept_soon_after_the_tree_has_grown() {
    let shell = with_store();
    shell.ok("printf 'every = \"1d\"\n[[rule]]\ndo = \"stash\"\nwhen_full = \"0s\"\n[water]\nof = \"4MiB\"\nhigh = \"80%%\"\nlow = \"50%%\"\n' > ../policy.toml && ddr config set policy.file ../policy.toml");
    let mut daemon = Daemon::start(&shell);
    for n in 0..8 {
        shell.write(format!("f{n}"), &noise(n, 1 << 20));
    }
    daemon.until("some are stubs", |d| {
        let local: u64 = (0..8).filter(|n| !is_stub(d.shell, &format!("f{n}"))).count() as u64;
        local <= 2
    });
    daemon.until_committed();
    // The newest stay: least recently used first.
    assert!(!is_stub(&shell, "f7"));
}
