//! A run that may only place so much at a time gets on whatever is in its way.

use std::fs::File;
use std::sync::Arc;

use ddr::engine::apply::{Applied, apply_on};
use ddr::engine::policy::plan::plan;
use ddr::engine::stash::Run;
use ddr::local::lease::{Lease, LeaseKind};

use crate::support::content::noise;
use crate::support::own_files;
use crate::support::shell::Shell;

const MIB: u64 = 1 << 20;

/// Files that are old enough to go, by name and MiB.
fn old(shell: &Shell, files: &[(&str, u64)]) {
    for (name, mib) in files {
        shell.write(name, &noise(*mib, mib * MIB));
        shell.ok(&format!("touch -d '9 days ago' {name}"));
    }
}

fn shell() -> Shell {
    let shell = Shell::new();
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    shell.ok("printf '[[rule]]\\ndo = \"stash\"\\nafter = \"5d\"\\n' > ../policy.toml && ddr config set policy.file ../policy.toml");
    shell
}

/// Carries the plan out in this process.
fn run(shell: &Shell, most: u64) -> Applied {
    let mut folder = shell.open();
    let mut plan = plan(&folder).unwrap();
    let run = Run::open(&folder, None).unwrap();
    apply_on(&mut folder, &mut plan, run, most * MIB).unwrap()
}

#[test]
fn what_lies_on_the_stores_goes_at_once_and_of_the_rest_a_slice() {
    let shell = shell();
    old(&shell, &[("a", 3), ("b", 3)]);
    shell.ok("ddr commit");
    old(&shell, &[("c", 1), ("d", 1), ("e", 1), ("f", 1)]);
    assert_eq!(run(&shell, 2).stats.stashed, 4);
    assert_eq!(run(&shell, 1).stats.stashed, 1);
    assert_eq!(run(&shell, 9).stats.stashed, 1);
}

#[test]
fn a_large_file_that_cannot_be_read_does_not_use_the_slice_up() {
    let shell = shell();
    old(&shell, &[("a", 5), ("b", 1), ("c", 1), ("d", 1)]);
    let guard = own_files();
    // Until the kernel takes it back, after 45 s, nobody opens the file.
    let held = Lease::take(&Arc::new(File::open(shell.at("a")).unwrap()), LeaseKind::Write).unwrap();
    let done = run(&shell, 2);
    drop(held);
    drop(guard);
    assert_eq!((done.stats.problems, done.stats.stashed, done.stopped), (1, 2, None));
}
