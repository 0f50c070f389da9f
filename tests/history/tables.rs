//! The database itself: the local table, small facts, broken files.

use ddr::base::error::Error;
use ddr::base::path::RelPath;
use ddr::history::{Counts, History, LocalCursor};
use ddr::model::entry::{FileKind, Op};
use ddr::model::policy::bursts::Bursts;

use super::world::*;

#[test]
fn local_rows_come_back_in_path_order_across_pages() {
    let mut db = Db::new();
    let peer = Peer::new(1);
    // More than two pages in one directory, with neighbours that sort between it and its content.
    let mut rows: Vec<_> =
        (0..9000).map(|i| local(&path(format!("d/{i:05}")), peer.dot(i), &file(i))).collect();
    rows.extend(["d", "d.txt", "d0", "c"].map(|n| local(&path(n), peer.dot(1), &file(1))));
    db.history.put_local(&rows).unwrap();
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    for under in [RelPath::root(), path("d"), path("d/00007"), path("x")] {
        let want: Vec<_> = rows.iter().filter(|r| r.path.is_under(&under)).cloned().collect();
        let mut pushed = Vec::new();
        db.history
            .each_local(&under, &mut |row| {
                pushed.push(row);
                Ok(())
            })
            .unwrap();
        assert!(pushed == want);
        let mut cursor = db.history.local_cursor(&under);
        let mut pulled = Vec::new();
        while let Some(row) = cursor.next().unwrap() {
            pulled.push(row);
        }
        assert!(pulled == want);
    }
    // A cursor with a connection of its own reads while rows are written.
    let other = History::open_read_only(&db.dir.path().join("history.db")).unwrap();
    let mut cursor = LocalCursor::new(other, &path("d"));
    let mut n = 0;
    while let Some(row) = cursor.next().unwrap() {
        db.history.drop_local(&[row.path]).unwrap();
        n += 1;
        if n > 5000 {
            break;
        }
    }
    assert_eq!(db.history.local(&path("d/00007")).unwrap(), None);
    assert!(db.history.local(&path("d/08999")).unwrap().is_some());
}

#[test]
fn entries_and_local_rows_are_written_together_or_not_at_all() {
    let (mut db, mut peer, bucket) = (Db::new(), Peer::new(1), Mem::default());
    let entries = [put("a", 1, 1, &[])];
    peer.commit(&bucket, None, &entries);
    let row = local(&path("a"), peer.dot(1), &file(1));
    db.history.apply_own(&peer.origin, 1, &entries, &peer.tail, std::slice::from_ref(&row)).unwrap();
    let before = db.history.state_hash().unwrap();
    let wrong = ddr::history::Tail { number: 7, ..peer.tail };
    let result = db.history.apply_own(&peer.origin, 2, &entries, &wrong, &[]);
    assert!(matches!(result, Err(Error::Invalid(_))));
    assert_eq!(db.history.state_hash().unwrap(), before);
    // A deletion takes its local row along.
    let gone = [del("a", 2, &[peer.dot(1)])];
    peer.commit(&bucket, None, &gone);
    db.history.apply_own(&peer.origin, 2, &gone, &peer.tail, &[]).unwrap();
    assert_eq!(db.history.local(&path("a")).unwrap(), None);
}

#[test]
fn counts_say_what_is_there_now() {
    let (mut peer, bucket) = (Peer::new(1), Mem::default());
    let kind = |kind, target: Option<&[u8]>| {
        let target = target.map(<[u8]>::to_vec);
        Op::Put(ddr::model::entry::Version { kind, content: None, body: None, size: 0, target, ..file(0) })
    };
    let entries = [
        entry(&path("d"), 1, kind(FileKind::Dir, None), &[]),
        entry(&path("d/l"), 2, kind(FileKind::Symlink, Some(b"\xff")), &[]),
        put("d/f", 3, 99, &[]),
        put("d/g", 4, 9, &[]),
        del("d/g", 5, &[peer.dot(4)]),
    ];
    peer.commit(&bucket, None, &entries);
    let want = Counts { paths: 3, files: 1, dirs: 1, symlinks: 1, bytes: 100, entries: 5 };
    assert_eq!(Db::rebuilt(&bucket).history.counts().unwrap(), want);
}

#[test]
fn small_facts_are_remembered() {
    let mut db = Db::new();
    assert_eq!(db.history.meta("k").unwrap(), None);
    db.history.set_meta("k", "v").unwrap();
    db.history.set_meta("k", "w").unwrap();
    assert_eq!(db.history.meta("k").unwrap().as_deref(), Some("w"));
}

#[test]
fn a_broken_database_is_set_aside_and_rebuilt() {
    let bucket = Mem::default();
    Peer::new(1).commit(&bucket, None, &[put("a", 1, 1, &[])]);
    let db = Db::rebuilt(&bucket);
    let hash = db.history.state_hash().unwrap();
    let at = db.dir.path().join("history.db");
    drop(db.history);
    let whole = std::fs::read(&at).unwrap();
    let foreign = {
        let other = db.dir.path().join("other.db");
        let conn = rusqlite::Connection::open(&other).unwrap();
        conn.execute_batch("PRAGMA application_id = 5; CREATE TABLE t (x)").unwrap();
        drop(conn);
        std::fs::read(&other).unwrap()
    };
    let mut torn = whole.clone();
    torn[4096 * 3..].fill(0x5a);
    let broken = [b"not a database, but long enough to have a header: ".repeat(99), whole[..5000].to_vec()];
    for (n, bytes) in (1..).zip(broken.into_iter().chain([foreign, torn])) {
        std::fs::write(&at, &bytes).unwrap();
        let mut history = History::open(&at).unwrap();
        assert!(history.was_reset(), "case {n}");
        assert_eq!(std::fs::read(db.dir.path().join(format!("history.db.broken-{n}"))).unwrap(), bytes);
        history.catch_up(&bucket, FOLDER).unwrap();
        assert_eq!(history.state_hash().unwrap(), hash);
    }
    assert!(matches!(History::open_read_only(&db.dir.path().join("none.db")), Err(Error::Missing(_))));
}

#[test]
fn a_database_of_a_newer_ddr_is_left_alone() {
    let db = Db::new();
    let at = db.dir.path().join("history.db");
    drop(db.history);
    rusqlite::Connection::open(&at).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(History::open(&at), Err(Error::Unsupported(_))));
    assert!(matches!(History::open_read_only(&at), Err(Error::Unsupported(_))));
}

#[test]
fn a_use_that_is_told_late_does_not_undo_a_newer_one() {
    let mut db = Db::new();
    let at = |secs| ddr::base::units::Time { secs, nanos: 7 };
    let far = ddr::base::units::Time::now().secs + 1000;
    let paths = [path("a")];
    for (told, known) in [(5, 5), (3, 5), (6, 6), (far, far), (7, 7)] {
        db.history.put_used(&paths, at(told)).unwrap();
        let used = db.history.used(&paths[0]).unwrap().map(|used| used.at);
        assert_eq!(used, Some(at(known)), "a clock that was ahead is forgotten");
    }
}

#[test]
fn a_burst_takes_nothing_from_what_was_asked_for() {
    let mut db = Db::new();
    let at = |secs| ddr::base::units::Time { secs, nanos: 7 };
    let (opened, asked) = (path("opened"), path("asked"));
    db.history.put_used([&opened, &asked], at(10)).unwrap();
    db.history.put_asked([&asked], at(20)).unwrap();
    db.history.put_used([&opened, &asked], at(30)).unwrap();
    let mut bursts = Bursts::default();
    for (burst, expected) in [((1, 2), (Some(30), Some(30))), ((5, 40), (None, Some(20)))] {
        bursts.add(burst);
        let mut cursor = db.history.used_cursor();
        let mut telling = |path| {
            let used = db.history.used(path).unwrap();
            assert_eq!(cursor.of(path).unwrap(), used);
            used.unwrap().telling(&bursts).map(|at| at.secs)
        };
        let (asked, opened) = (telling(&asked), telling(&opened));
        assert_eq!((opened, asked), expected);
    }
}

#[test]
fn what_was_seen_used_is_found_in_path_order_across_pages() {
    let mut db = Db::new();
    let at = |secs| ddr::base::units::Time { secs, nanos: 7 };
    let paths: Vec<_> = (0..9000).map(|i| path(format!("d/{i:05}"))).collect();
    db.history.put_used(&paths, at(1)).unwrap();
    db.history.put_used(&paths[4000..4200], at(2)).unwrap();
    let mut cursor = db.history.used_cursor();
    assert_eq!(cursor.of(&path("c")).unwrap(), None);
    for (i, asked) in paths.iter().enumerate().filter(|(i, _)| i % 3 == 0) {
        let expected = if (4000..4200).contains(&i) { at(2) } else { at(1) };
        assert_eq!(cursor.of(asked).unwrap().map(|used| used.at), Some(expected), "{i}");
    }
    assert_eq!(cursor.of(&path("e")).unwrap(), None);
    db.history.put_local(&[local(&paths[5], Peer::new(1).dot(1), &file(1))]).unwrap();
    db.history.tidy_used().unwrap();
    let used = |n: usize| db.history.used(&paths[n]).unwrap().map(|used| used.at);
    assert_eq!((used(5), used(6)), (Some(at(1)), None));
}
