//! Packs of which only a part is needed.

use std::collections::BTreeSet;

use ddr::base::id::RecordId;
use ddr::engine::gc::{GcOptions, GcStats, gc};
use ddr::engine::remotes::Remotes;
use ddr::format::seal::Sealer;
use ddr::model::entry::Kind;
use ddr::store::Store;

use super::{bytes, objects};
use crate::support::content::noise;
use crate::support::shell::Shell;

/// A folder of 30 files of one chunk each, whose store has them in packs together with twice as much
/// that nothing refers to: `packs` packs, with all of them in each.
fn padded(packs: u64) -> Shell {
    let shell = Shell::new();
    (0..30).for_each(|n| shell.write(format!("f{n}"), &noise(n, 20_000)));
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk && ddr stash .");
    let old = objects(&shell, "data/");
    let folder = shell.open();
    for n in 0..packs {
        let remotes = Remotes::open(&folder).unwrap();
        let store = &remotes.online[0].packs;
        let mut good = Vec::new();
        store.get(&ids(store.as_ref()), &mut |_, got| got.map(|sealed| good.push(sealed))).unwrap();
        for sealed in good {
            store.put(sealed.id, sealed).unwrap();
        }
        for k in 0..60 {
            let raw = noise(1_000_000 + 100 * n + k, 20_000);
            let id = folder.keys.record_id(Kind::Chunk, &raw);
            store.put(id, Sealer::new().unwrap().seal(id, Kind::Chunk, raw)).unwrap();
        }
        store.flush().unwrap();
    }
    for (name, _) in old {
        std::fs::remove_file(shell.sandbox.store().join("store").join(name)).unwrap();
    }
    shell
}

/// The chunks of the folder's files.
fn ids(store: &dyn Store) -> Vec<RecordId> {
    let mut all = Vec::new();
    store
        .list(&mut |id, _| {
            all.push(id);
            Ok(())
        })
        .unwrap();
    all
}

fn collect(shell: &Shell, grace: u64) -> GcStats {
    let options = GcOptions { grace: Some(std::time::Duration::from_secs(grace)), ..GcOptions::default() };
    gc(&mut shell.open(), &options).unwrap().0.remove(0)
}

/// The folder's files are all there, on this machine and on a new one.
fn assert_whole(shell: &Shell) {
    shell.ok("ddr fsck --read-data");
    let other = shell.other("two");
    other.ok("ddr clone ../../store . && ddr checkout .");
    (0..30).for_each(|n| assert_eq!(other.read(format!("f{n}")), noise(n, 20_000)));
    shell.sandbox.remove_machine(&other.sandbox);
}

#[test]
fn what_is_needed_of_a_sparse_pack_is_written_anew_before_it_is_condemned() {
    let shell = padded(1);
    assert!(bytes(&shell, "data/") > 1_700_000);
    let first = collect(&shell, 0);
    assert_eq!((first.rewritten, first.condemned, first.deleted), (1, 1, 0));
    assert_eq!(objects(&shell, "data/").len(), 2, "nothing is deleted in the run that condemns");
    let kept = collect(&shell, 3600);
    assert_eq!((kept.rewritten, kept.deleted), (0, 0), "nor before its time");
    assert_whole(&shell);
    let second = collect(&shell, 0);
    assert_eq!((second.rewritten, second.condemned, second.deleted), (0, 0, 1));
    let left = bytes(&shell, "data/");
    assert!((600_000..630_000).contains(&left), "{left} bytes left");
    assert_whole(&shell);
}

#[test]
fn of_what_several_packs_have_one_copy_stays() {
    let shell = padded(3);
    collect(&shell, 0);
    collect(&shell, 0);
    let left = bytes(&shell, "data/");
    assert!((600_000..630_000).contains(&left), "{left} bytes left");
    assert_whole(&shell);
    assert_eq!(collect(&shell, 0).condemned, 0, "and that is the end of it");
}

/// What was in the condemned pack alone, and is needed again, stays there.
#[test]
fn a_pack_whose_new_copy_is_lost_is_not_deleted() {
    let shell = padded(1);
    let old: BTreeSet<String> = objects(&shell, "data/").into_iter().map(|(name, _)| name).collect();
    collect(&shell, 0);
    let new = objects(&shell, "data/").into_iter().find(|(name, _)| !old.contains(name)).unwrap().0;
    std::fs::remove_file(shell.sandbox.store().join("store").join(new)).unwrap();
    let second = collect(&shell, 0);
    assert_eq!(second.deleted, 0);
    assert_whole(&shell);
    collect(&shell, 0);
    collect(&shell, 0);
    let left = bytes(&shell, "data/");
    assert!((600_000..630_000).contains(&left), "{left} bytes left");
    assert_whole(&shell);
}

#[test]
fn a_damaged_record_stops_the_rewriting_not_the_reader() {
    let shell = padded(1);
    let pack = shell.sandbox.store().join("store").join(&objects(&shell, "data/")[0].0);
    // Every record's first bytes: at least one of them is needed.
    let mut all = std::fs::read(&pack).unwrap();
    all[1000] ^= 1;
    (20..90).for_each(|n| all[n * 20_000] ^= 1);
    std::fs::write(&pack, &all).unwrap();
    let error = gc(&mut shell.open(), &GcOptions::default()).unwrap_err();
    assert!(matches!(error, ddr::base::error::Error::Refused(_)), "{error}");
    assert_eq!(objects(&shell, "data/").len(), 1);
}
