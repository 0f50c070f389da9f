//! Invariants of the contract that have no drill of their own, each stated once and by its number.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::support::content::noise;
use crate::support::shell::Shell;

/// Blocks of a file in the folder.
fn blocks(shell: &Shell, path: &str) -> u64 {
    std::fs::metadata(shell.at(path)).expect("a file").blocks()
}

/// Packs of data in the store.
fn packs(shell: &Shell) -> Vec<PathBuf> {
    let dir = shell.sandbox.store().join("store/data");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|e| e.expect("listed").path()).collect()
}

/// What a new machine makes of the file, from the store alone.
fn from_store(shell: &Shell, path: &str) -> Vec<u8> {
    let other = shell.sandbox.clone_and_fill("other").unwrap_or_else(|e| panic!("{e}"));
    let bytes = std::fs::read(other.folder().join(path)).expect("cloned");
    shell.sandbox.remove_machine(&other);
    bytes
}

#[test]
fn i1_nothing_is_freed_without_enough_failure_domains() {
    let shell = Shell::with_store();
    let full = blocks(&shell, "photos/beach.raw");
    shell.ok("ddr remote add disk3 ../../third --init --same-disk");
    let said = shell.code("ddr stash .", 4);
    assert!(said.contains("only 1 failure domain"), "{said}");
    shell.ok("mv ../../third ../../away");
    shell.code("ddr stash .", 13);
    assert_eq!(blocks(&shell, "photos/beach.raw"), full, "still here");
    shell.ok("mv ../../away ../../third && ddr remote set disk3 --domain third && ddr stash .");
    assert!(blocks(&shell, "photos/beach.raw") < full);
}

#[test]
fn i1_what_a_store_lost_since_the_commit_is_placed_again_before_anything_is_freed() {
    for harm in ["rm", "truncate -s 100", "dd if=/dev/urandom bs=1 count=9 seek=200000 conv=notrunc of="] {
        let shell = Shell::with_store();
        shell.ok("ddr commit && ddr config set stash.verify_every 0s");
        for pack in packs(&shell) {
            let space = if harm.ends_with('=') { "" } else { " " };
            shell.ok(&format!("{harm}{space}{} 2>&1", pack.display()));
        }
        // A copy counts as verified for the second in which it was written.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        // It may take a second run: the first finds out what is lost.
        if shell.run("ddr stash .").code != Some(0) {
            shell.ok("ddr stash .");
        }
        assert!(blocks(&shell, "photos/beach.raw") <= 16, "`{harm}`: stashed in the end");
        assert!(from_store(&shell, "photos/beach.raw") == noise(1, 300_000), "`{harm}`");
    }
}

#[test]
fn a_record_that_is_damaged_in_one_pack_is_read_from_the_other() {
    let shell = Shell::with_store();
    shell.ok("ddr commit && ddr config set stash.verify_every 0s");
    let harm = |pack: &PathBuf| {
        let mut bytes = std::fs::read(pack).expect("a pack");
        bytes[1000..200_000].iter_mut().for_each(|b| *b ^= 1);
        std::fs::write(pack, bytes).expect("written over");
    };
    let old = packs(&shell).remove(0);
    let whole = std::fs::read(&old).expect("a pack");
    harm(&old);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    if shell.run("ddr stash .").code != Some(0) {
        shell.ok("ddr stash .");
    }
    // Whichever of the two is tried first.
    assert!(from_store(&shell, "photos/beach.raw") == noise(1, 300_000));
    std::fs::write(&old, whole).expect("as it was");
    packs(&shell).iter().filter(|pack| **pack != old).for_each(harm);
    assert!(from_store(&shell, "photos/beach.raw") == noise(1, 300_000));
}

#[test]
fn i4_a_stub_says_in_words_what_it_is() {
    let shell = Shell::stashed();
    let said = shell.ok("head -n 2 photos/beach.raw");
    assert_eq!(
        said,
        "This is a ddr stub: the content of this file is kept elsewhere.\n\
         To bring it back, run: ddr checkout beach.raw\n"
    );
}

#[test]
fn i11_a_deleted_stub_stays_restorable_whatever_gc_does() {
    let shell = Shell::stashed();
    shell.ok("mv photos/beach.raw .. && rm report.txt && ddr commit");
    shell.ok("ddr gc --grace 0s && ddr gc --grace 0s && ddr gc --grace 0s");
    assert!(shell.ok("ddr history --deleted").contains("photos/beach.raw"));
    shell.ok("ddr restore photos/beach.raw && ddr restore report.txt");
    assert!(shell.read("photos/beach.raw") == noise(1, 300_000));
    assert!(shell.read("report.txt").starts_with(b"0001 of a report\n"));
}
