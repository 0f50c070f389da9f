//! The index is only an index: deletable, shareable, rebuilt when damaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ddr::base::error::Error;
use ddr::format::seal::Sealed;
use ddr::store::Store;

use super::{Place, STORE, assert_reads_back, chunk, ids, list, manifest, memory, put_all, stores};

fn records(count: u64) -> Vec<Sealed> {
    (0..count).map(|n| if n % 10 == 9 { manifest(n) } else { chunk(n, 200) }).collect()
}

fn file(place: &Place) -> PathBuf {
    place.index().join(format!("{STORE}.db"))
}

fn set_aside(place: &Place) -> usize {
    let damaged = |name: &str| name.contains(".damaged-");
    fs::read_dir(place.index())
        .unwrap()
        .filter(|e| damaged(e.as_ref().unwrap().file_name().to_str().unwrap()))
        .count()
}

#[test]
fn a_deleted_index_gives_the_same_answers() {
    for place in stores() {
        let all = records(50);
        let store = place.open();
        put_all(&store, &all);
        let before = list(&store);
        drop(store);
        fs::remove_dir_all(place.index()).unwrap();
        let store = place.open();
        assert_eq!(list(&store), before, "{}", place.label);
        assert_reads_back(&store, &all);
        assert_eq!(store.refresh().unwrap().new_packs, 0);
    }
}

#[test]
fn a_kept_index_is_used_again() {
    for place in stores() {
        let all = records(20);
        put_all(&place.open(), &all);
        let store = place.open();
        let verified = store.locate(&all[0].id).unwrap().unwrap().verified;
        assert!(verified > 1_600_000_000, "{}: verification times survive", place.label);
        assert_eq!(store.refresh().unwrap().new_packs, 0);
    }
}

#[test]
fn a_damaged_index_is_set_aside_and_rebuilt() {
    let all = records(3000);
    let damages: [fn(&fs::File, u64); 4] = [
        |f, _| f.write_all_at(b"this is no database at all", 0).unwrap(),
        |f, len| f.write_all_at(&vec![0xa5; len as usize - 4096], 4096).unwrap(),
        |f, len| f.set_len(len / 2 / 4096 * 4096).unwrap(),
        |f, _| f.set_len(50).unwrap(),
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let (place, _) = memory();
        put_all(&place.open(), &all);
        let path = file(&place);
        let open = fs::File::options().write(true).open(&path).unwrap();
        damage(&open, fs::metadata(&path).unwrap().len());
        // Damage that opening does not meet is met later; the next open then mends it.
        for _ in 0..3 {
            match place.try_open().and_then(|store| store.has(&ids(&all))) {
                Ok(has) => assert_eq!(has, vec![true; all.len()], "damage {n}"),
                Err(e) => assert!(matches!(e, Error::Db(_)), "{e}"),
            }
        }
        assert_reads_back(&place.open(), &all);
        assert_eq!(set_aside(&place), 1, "damage {n}");
    }
}

#[test]
fn another_programs_database_is_set_aside() {
    let (place, _) = memory();
    fs::create_dir_all(place.index()).unwrap();
    let other = rusqlite::Connection::open(file(&place)).unwrap();
    other.execute("CREATE TABLE packs (x)", ()).unwrap();
    drop(other);
    let all = records(5);
    put_all(&place.open(), &all);
    assert_reads_back(&place.open(), &all);
    assert_eq!(set_aside(&place), 1);
}

#[test]
fn two_handles_share_one_index_file() {
    for place in stores() {
        let (a, b) = (place.open(), place.open());
        std::thread::scope(|s| {
            for (t, store) in [&a, &b].into_iter().enumerate() {
                s.spawn(move || {
                    for n in 0..30u64 {
                        put_all(store, &[chunk(n * 2 + t as u64, 300), chunk(5000 + n, 300)]);
                        if n % 5 == 0 {
                            assert_eq!(store.refresh().unwrap().vanished_packs, 0);
                        }
                    }
                });
            }
        });
        let all: Vec<_> = (0..60).chain(5000..5030).map(|n| chunk(n, 300)).collect();
        for store in [&a, &b] {
            store.refresh().unwrap();
            assert_eq!(store.has(&ids(&all)).unwrap(), [true; 90], "{}", place.label);
            assert_reads_back(store, &all);
            assert_eq!(list(store).len(), 90);
        }
    }
}

#[test]
fn one_handle_sees_at_once_what_another_adds_to_their_index() {
    let (place, _) = memory();
    let (a, b) = (place.open(), place.open());
    put_all(&a, &[chunk(1, 100)]);
    b.refresh().unwrap();
    put_all(&a, &[chunk(2, 100)]);
    assert_eq!(b.has(&[chunk(2, 100).id]).unwrap(), [true]);
    assert_reads_back(&b, &[chunk(2, 100)]);
}

#[test]
fn many_open_at_once() {
    let (place, _) = memory();
    let all = records(20);
    put_all(&place.open_elsewhere("first"), &all);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| assert_eq!(place.open().has(&ids(&all)).unwrap(), [true; 20]));
        }
    });
}
