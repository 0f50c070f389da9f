//! Clones with all their bytes, and clones that end before they are done.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::clone::LIST;
use crate::support::content::noise;
use crate::support::shell::Shell;
use crate::support::{say, scale};

/// Exit code of a process whose next operation was to be its last.
const LAST: i32 = 86;
/// Ends tried in CI, spread evenly; times `DDR_DRILL`.
const ENDS: usize = 25;

#[test]
fn a_full_clone_has_every_byte() {
    let shell = Shell::stashed();
    let two = shell.other("two");
    insta::assert_snapshot!(two.transcript("ddr clone --full ../../store .\nddr status\nddr clone --full ../../store ."), @r"
    $ ddr clone --full ../../store .
    cloned into /r/two/folder: 6 paths, of them 0 stubs (0 B); 376.0 KiB written
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 0 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store origin: online, <n> free
    $ ddr clone --full ../../store .
    cloned into /r/two/folder: 0 paths, of them 0 stubs (0 B); 0 B written
    ");
    same(&two, &shell);
    // What an earlier clone made as stubs gets its bytes, too.
    let three = shell.other("three");
    insta::assert_snapshot!(three.transcript("ddr clone ../../store .\nddr clone --full ../../store . --json"), @r#"
    $ ddr clone ../../store .
    cloned into /r/three/folder: 6 paths, of them 2 stubs (376.0 KiB); 9 B written
    Next: ddr checkout PATH brings content back
    $ ddr clone --full ../../store . --json
    {"made":0,"path":"/r/three/folder","problems":0,"stub_bytes":0,"stubs":0,"type":"clone","written_bytes":385000}
    "#);
    same(&three, &shell);
}

/// Names, sizes, modes, times and bytes.
fn same(one: &Shell, two: &Shell) {
    two.ok("ddr checkout");
    assert_eq!(one.ok(LIST), two.ok(LIST));
    let all = "find . -name .ddr -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";
    assert_eq!(one.ok(all), two.ok(all));
}

/// What a power cut may leave of what was made and not made durable: names without all of their bytes, and a disk
/// that was mounted anew.
fn cut_the_power(machine: &Shell) -> Vec<PathBuf> {
    let mut torn = Vec::new();
    let pending = std::fs::read_dir(machine.at(".ddr/intents")).into_iter().flatten().flatten();
    if pending.filter(|entry| entry.path().extension().is_none()).count() == 0 {
        // Nothing is on its way, or all of it is durable by now.
        return torn;
    }
    let db = rusqlite::Connection::open(machine.at(".ddr/history.db")).unwrap();
    db.execute("UPDATE meta SET value = 'another mount' WHERE key = 'materialising'", []).unwrap();
    for name in machine.ok("find . -name .ddr -prune -o -type f -printf '%P\\n'").lines() {
        let known = db.query_row("SELECT 1 FROM local WHERE path = ?1", [name.as_bytes()], |_| Ok(()));
        if known.is_err() {
            tear(&machine.at(name));
            torn.push(machine.at(name));
        }
    }
    torn
}

/// Takes the second half of a file, and the size with it or not.
fn tear(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    let (size, time) = (file.metadata().unwrap().len(), file.metadata().unwrap().modified().unwrap());
    file.set_len(size / 2).unwrap();
    if size % 2 == 0 {
        file.set_len(size).unwrap();
    }
    file.set_modified(time).unwrap();
}

/// Ends a clone at its operations in turn, and has the same command go on.
fn ended_anywhere(words: &str, after: &dyn Fn(&Shell)) {
    let shell = Shell::with_store();
    for (i, size) in [5_000, 5_001, 60_000, 60_001, 2_000_000].into_iter().enumerate() {
        shell.write(format!("more/{i}"), &noise(i as u64, size));
    }
    shell.date_all();
    shell.ok("ddr stash .");
    let count = shell.other("count").ok(&format!("DDR_FAULT=count {words}"));
    let count: usize = count.lines().find_map(|l| l.strip_prefix("operations: ")?.parse().ok()).unwrap();
    let step = (count / (ENDS * scale())).max(1);
    for end in (1..=count).step_by(step) {
        let two = shell.other(&format!("machine-{end}"));
        let code = two.run(&format!("DDR_FAULT=last:{end} {words}")).code;
        assert!(matches!(code, Some(0 | LAST)), "{words} that ends at operation {end}: {code:?}");
        after(&two);
        let again = two.run(words).expect(&[0]);
        again.unwrap_or_else(|e| panic!("{words} after one that ended at operation {end}: {e}"));
        two.ok("ddr checkout");
        same(&two, &shell);
        assert_eq!(two.ok("ddr commit"), "nothing to record\n", "after an end at operation {end}");
    }
    say(&format!("{words}: ended at {} of {count} operations", count.div_ceil(step)));
}

#[test]
fn a_clone_that_ends_anywhere_is_continued() {
    ended_anywhere("ddr clone ../../store .", &|_| {});
    ended_anywhere("ddr clone --full ../../store .", &|_| {});
}

#[test]
fn what_a_power_cut_tears_of_a_clone_is_made_again() {
    ended_anywhere("ddr clone ../../store .", &|machine| drop(cut_the_power(machine)));
    ended_anywhere("ddr clone --full ../../store .", &|machine| drop(cut_the_power(machine)));
}

#[test]
fn what_could_not_be_judged_when_a_clone_went_on_is_not_taken_for_whole_later() {
    let shell = Shell::stashed();
    let words = "ddr clone --full ../../store .";
    let mut seen = 0;
    for end in (40..140).step_by(3) {
        let two = shell.other(&format!("machine-{end}"));
        if two.run(&format!("DDR_FAULT=last:{end} {words}")).code != Some(LAST) {
            break;
        }
        // Somebody has them open: no lease can be had.
        let open: Vec<File> = cut_the_power(&two).iter().map(|path| File::open(path).unwrap()).collect();
        seen += open.len();
        for again in [20, 30, 40, 50, 60] {
            two.run(&format!("DDR_FAULT=last:{again} {words}"));
        }
        two.run("ddr status").expect(&[0, 3]).unwrap_or_else(|e| panic!("{e}"));
        drop(open);
        two.run(words).expect(&[0]).unwrap_or_else(|e| panic!("ended at operation {end}: {e}"));
        same(&two, &shell);
    }
    assert!(seen > 3, "nothing was torn");
}
